"""Published benchmarks: rows are read with the right side up, scores are those of the papers, nothing is lost."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from configs.errors import UserError
from configs.keyed import keyed_rng
from rm.benchmarks.accuracy import BenchmarkTable, report, run
from rm.benchmarks.readers import Item, Kind, detect_kind, read_benchmark
from rm.benchmarks.scores import (
    Margins,
    Units,
    best_of_n_credit,
    mean_of,
    measured,
    pair_credit,
    pair_units,
    style_accuracies,
    style_matrix,
    style_units,
    ties_columns,
    ties_units,
)
from rm.measures import Floats, wilson
from rm.scorer import RungScorer
from tasks.tiny_base import build_model, build_tokenizer

REWARDBENCH2 = {
    "id": "17",
    "prompt": "Name a prime.",
    "chosen": ["7"],
    "rejected": ["8", "9", "ten"],
    "num_correct": 1,
    "num_incorrect": 3,
    "total_completions": 4,
    "models": ["a", "b", "c", "d"],
    "subset": "Math",
    "additional_metadata": None,
}
RM_BENCH = {
    "id": "3",
    "prompt": "Is ice cold?",
    "chosen": ["Yes", "Yes, it is.", "**Yes**, it is."],
    "rejected": ["No", "No, it is not.", "**No**, it is not."],
    "domain": "chat",
}
JUDGEBENCH = {
    "pair_id": "e3",
    "source": "mmlu-pro-law",
    "question": "Q?",
    "response_A": "AAAAA",
    "response_B": "BBBBB",
    "label": "B>A",
}
LLMBAR = {"input": "Say hi.", "output_1": "bye", "output_2": "hi", "label": 2}
PAIR = {"prompt": "Say hi.", "chosen": "hi", "rejected": "bye"}


def numbers(*values: float) -> Floats:
    return np.array(values, dtype=np.float64)


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: Path, *rows: Any, share: float = 1.0, kind: Kind | None = None) -> Any:
    return read_benchmark([written(path / "rows.jsonl", *rows)], kind, share)


def test_an_answer_that_shares_the_highest_logit_gets_its_share() -> None:
    assert best_of_n_credit(numbers(3, 2, 1, 0)) == 1.0
    assert best_of_n_credit(numbers(3, 3, 1, 3)) == pytest.approx(1 / 3)
    assert best_of_n_credit(numbers(2, 3, 2, 2)) == 0.0
    assert best_of_n_credit(numbers(1, 1, 1, 1)) == 0.25  # a constant reward model is worth a guess


def test_swapping_a_pair_swaps_its_credit() -> None:
    assert (pair_credit(2, 1), pair_credit(1, 2), pair_credit(1, 1)) == (1.0, 0.0, 0.5)


def test_rm_bench_is_easy_below_the_diagonal_and_hard_above_it() -> None:
    matrix = style_matrix(numbers(3, 1, 5), numbers(2, 0, 4))
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 1, 1]]
    assert style_accuracies(matrix) == pytest.approx({"easy": 2 / 3, "normal": 1, "hard": 1 / 3, "average": 2 / 3})
    # A model that likes style alone has everything easy right and everything hard wrong; equal logits are wrong.
    of_style = style_matrix(numbers(0, 1, 2), numbers(0, 1, 2))
    assert style_accuracies(of_style) == pytest.approx({"easy": 1, "normal": 0, "hard": 0, "average": 1 / 3})
    assert style_units([numbers(0, 1, 2, 0, 1, 2)], ["p"]).equal == 3


def test_the_score_of_ties_is_the_published_sum_of_five_terms() -> None:
    items = [numbers(2, 1), numbers(5, 4, 2), numbers(0, 1), numbers(3, 1, 0)]
    units = ties_units(items, [1, 2, 1, 2], ["ref:0", "tied:0", "ref:1", "tied:1"])
    # Prompt 0: margins 1 (ref) and 2 (tied), 1 among the correct. Prompt 1: -1 and 1, 2 among the correct.
    assert units.columns["ref_accuracy"].tolist() == [1, 0]
    assert units.columns["tied_accuracy"].tolist() == [1, 1]
    assert units.columns["correctness_preferred"].tolist() == [1, 0]
    assert units.columns["correctness_preferred_hard"].tolist() == [0, 0]
    assert units.columns["margin_score"] == pytest.approx([0.0, -0.9051482536448664])  # tanh(0), tanh(-1.5)
    found, _ = measured(units, keyed_rng(0, "t"), 200)
    score = found["score"]
    assert score["estimate"] == pytest.approx(0.5454742587317756)
    assert (score["n"], score["n_prompts"]) == (4, 2)


def test_a_prompt_of_ties_without_its_other_item_enters_only_its_own_accuracy() -> None:
    columns = ties_columns([Margins(1.0, None), None], [None, Margins(0.0, 1.0)])
    assert columns["ref_accuracy"][0] == 1 and columns["tied_accuracy"][1] == 0
    assert all(np.isnan(columns[name]).all() for name in ("correctness_preferred", "margin_score"))
    equal_correct = ties_columns([Margins(1.0, None), Margins(0.0, None)], [Margins(2.0, 0.0), Margins(1.0, 0.0)])
    assert equal_correct["margin_score"].tolist() == [1.0, 0.0]


def test_an_affine_map_of_the_logits_changes_no_score() -> None:
    items = [numbers(*keyed_rng(0, "affine", i).integers(-3, 4, 6)) for i in range(30)]
    prompts = [f"p{i}" for i in range(30)]
    for build in (style_units, lambda rows, names: pair_units([row[:2] for row in rows], names)):
        before, after = build(items, prompts), build([2 * item + 3 for item in items], prompts)
        assert all(np.array_equal(before.columns[name], after.columns[name]) for name in before.columns)


def test_single_comparisons_have_wilsons_interval_and_repeated_prompts_a_wider_one() -> None:
    credit = np.tile([1.0, 1.0, 1.0, 0.0], 25)
    single = Units({"accuracy": credit}, [str(i) for i in range(100)], "accuracy", 0, 100)
    found = measured(single, keyed_rng(0, "t"), 500)[0]["accuracy"]
    share = wilson(75, 100)
    assert (found["interval"], found["lo"], found["hi"]) == ("Wilson", share["lo"], share["hi"])
    in_fours = Units({"accuracy": np.sort(credit)}, [str(i // 10) for i in range(100)], "accuracy", 0, 100)
    wide = measured(in_fours, keyed_rng(0, "t"), 500)[0]["accuracy"]
    assert wide["interval"] == "bootstrap by prompt" and wide["n_prompts"] == 10
    assert wide["lo"] < share["lo"] and wide["hi"] > share["hi"]  # type: ignore[operator]
    right = Units({"accuracy": np.ones(4)}, ["a", "a", "b", "b"], "accuracy", 0, 4)
    assert measured(right, keyed_rng(0, "t"), 500)[0]["accuracy"]["lo"] == pytest.approx(wilson(2, 2)["lo"])


def test_a_bootstrap_of_whole_prompts_has_the_spread_of_their_means() -> None:
    values = np.array([0.0, 1 / 3, 2 / 3, 1.0])
    units = Units({"accuracy": np.repeat(values, 2)}, list("aabbccdd"), "accuracy", 0, 8)
    drawn = measured(units, keyed_rng(0, "t"), 20_000)[1]
    assert drawn.std() == pytest.approx(values.std() / 2, rel=0.02)


def test_the_mean_of_subsets_weighs_subsets_and_not_items() -> None:
    def of(value: float, n: int) -> Any:
        return (
            {"estimate": value, "lo": None, "hi": None, "n": n, "n_prompts": n, "interval": None},
            np.array([value - 0.1, value + 0.1]),
        )

    subsets = {"chat": of(0.9, 10), "safety-refuse": of(0.2, 90), "safety-response": of(0.6, 5)}
    groups = {"chat": "chat", "safety-refuse": "safety", "safety-response": "safety"}
    mean = mean_of(subsets, groups)
    assert mean["estimate"] == pytest.approx((0.9 + (0.2 + 0.6) / 2) / 2)
    assert mean["n"] == 105
    assert mean_of(subsets, {name: name for name in subsets})["estimate"] == pytest.approx(1.7 / 3)


def test_each_kind_is_known_by_its_columns_and_read_with_the_right_side_up(tmp_path: Path) -> None:
    rows: dict[Kind, dict[str, Any]] = {
        "rewardbench2": REWARDBENCH2,
        "rm-bench": RM_BENCH,
        "judgebench": JUDGEBENCH,
        "llmbar": LLMBAR,
        "pairs": PAIR,
    }
    items: dict[str, Item] = {}
    for kind, row in rows.items():
        assert detect_kind(row) == kind
        items[kind] = read(tmp_path, row).items[0]
    assert items["rewardbench2"].answers == ("7", "8", "9", "ten")
    assert (items["rewardbench2"].subset, items["rewardbench2"].n_correct) == ("Math", 1)
    assert items["rm-bench"].answers == (*RM_BENCH["chosen"], *RM_BENCH["rejected"])
    assert (items["rm-bench"].subset, items["rm-bench"].n_correct) == ("chat", 3)
    assert (items["judgebench"].answers, items["judgebench"].subset) == (("BBBBB", "AAAAA"), "mmlu-pro")
    assert items["llmbar"].answers == ("hi", "bye")
    assert items["pairs"].answers == ("hi", "bye")
    assert items["pairs"].messages == [{"role": "user", "content": "Say hi."}]
    renamed = {{"chosen": "correct", "rejected": "incorrect"}.get(key, key): v for key, v in REWARDBENCH2.items()}
    assert read(tmp_path, renamed).items[0] == items["rewardbench2"]


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("rewardbench2", {"chosen": "7"}, "wrong_type"),
        ("rewardbench2", {"chosen": ["7", None]}, "wrong_type"),
        ("rewardbench2", {"rejected": []}, "no_answers"),
        ("rewardbench2", {"num_correct": 2}, "wrong_count"),
        ("rewardbench2", {"chosen": ["7", "5"], "num_correct": 2}, "wrong_count"),
        ("rewardbench2", {"subset": None}, "wrong_type"),
        ("rewardbench2", {"subset": "Ties"}, "wrong_id"),
        ("rewardbench2", {"prompt": "\ud800"}, "not_unicode"),
        ("rm-bench", {"chosen": ["a", "b"]}, "wrong_count"),
        ("judgebench", {"label": "A=B"}, "tie"),
        ("judgebench", {"label": "A"}, "wrong_label"),
        ("judgebench", {"response_A": 1}, "wrong_type"),
        ("llmbar", {"label": 0}, "preference_out_of_range"),
        ("llmbar", {"label": True}, "wrong_type"),
        ("pairs", {"chosen": 3}, "wrong_type"),
        ("pairs", {"chosen": " "}, "empty_response"),
    ],
)
def test_a_row_that_cannot_be_scored_is_counted_with_its_reason(
    tmp_path: Path, kind: Kind, change: dict[str, Any], reason: str
) -> None:
    good = {"rewardbench2": REWARDBENCH2, "rm-bench": RM_BENCH, "judgebench": JUDGEBENCH, "llmbar": LLMBAR}.get(
        kind, PAIR
    )
    found = read(tmp_path, good, {**good, **change}, {}, [1], kind=kind)
    assert [row.line for row in found.dropped] == [2, 3, 4]
    assert [found.dropped[0].reason, found.dropped[2].reason] == [reason, "not_an_object"]
    assert (found.n_rows, len(found.items)) == (4, 1)


def test_files_of_every_format_give_the_same_items_and_copies_count_once(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [REWARDBENCH2, {**REWARDBENCH2, "id": "18", "prompt": "Name another."}]
    plain = read(tmp_path, *rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "gz.jsonl.gz").write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.json", "gz.jsonl.gz", "rows.parquet"):
        assert read_benchmark([str(tmp_path / name)], None, 0).items == plain.items
    folder = read_benchmark([str(tmp_path)], None, 0)
    assert (folder.n_rows, len(folder.items)) == (8, 2)
    assert Counter(row.reason for row in folder.dropped) == {"exact_duplicate": 6}


def test_broken_files_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 999)[:-9])
    (tmp_path / "table.json").write_text('{"a": 1}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "not.parquet").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, sentence in {
        "cut.jsonl.gz": "not a whole gzip file",
        "table.json": "a list of rows is needed",
        "deep.json": "not readable as JSON",
        "not.parquet": "not a whole parquet file",
        "empty": "holds no",
        "absent.jsonl": "there is no file",
        "rows.txt": "is not a",
    }.items():
        (tmp_path / "rows.txt").write_text("x")
        with pytest.raises(UserError, match=sentence) as error:
            read_benchmark([str(tmp_path / name)], None, 1)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"of no known benchmark \(found a, b\)"):
        read(tmp_path, {"b": 1, "a": 2})
    with pytest.raises(UserError, match="of different kinds"):
        read_benchmark([written(tmp_path / "a.jsonl", PAIR), written(tmp_path / "b.jsonl", LLMBAR)], None, 1)
    with pytest.raises(UserError, match=r"2 of 3 rows are malformed.*line 2: preference_out_of_range"):
        read(tmp_path, LLMBAR, {**LLMBAR, "label": 3}, {**LLMBAR, "label": 4}, share=0.05)


def test_llmbar_from_its_own_folders_and_from_one_file_has_its_labels(tmp_path: Path, shared_data: Path) -> None:
    found = read_benchmark([str(shared_data / "judge" / "llmbar_gpt4.jsonl")], None, 0)
    assert found.kind == "llmbar"
    assert Counter(item.subset for item in found.items) == {
        "LLMBar/Natural": 100,
        "LLMBar/Adversarial/Neighbor": 134,
        "LLMBar/Adversarial/GPTOut": 47,
    }
    raw = [json.loads(line) for line in (shared_data / "judge" / "llmbar_gpt4.jsonl").read_text().splitlines()]
    for row, item in zip(raw, found.items, strict=True):
        assert item.answers == (row[f"output_{row['label']}"], row[f"output_{3 - row['label']}"])
    place = tmp_path / "Dataset" / "LLMBar" / "Adversarial" / "Neighbor"
    place.mkdir(parents=True)
    (place / "dataset.json").write_text(json.dumps([LLMBAR]))
    assert read_benchmark([str(tmp_path)], None, 0).items[0].subset == "Adversarial/Neighbor"

    lengths = [numbers(*map(len, item.answers)) for item in found.items]
    numbers_found = report("llmbar", found.items, lengths, BenchmarkTable(resamples=200))
    natural = [row for row in raw if row["subset"] == "LLMBar/Natural"]
    longer = sum(len(row[f"output_{row['label']}"]) > len(row[f"output_{3 - row['label']}"]) for row in natural)
    equal = sum(len(row["output_1"]) == len(row["output_2"]) for row in natural)
    subset = numbers_found["subsets"]["LLMBar/Natural"]
    assert subset["score"]["estimate"] == pytest.approx((longer + equal / 2) / 100)
    assert subset["score"] == subset["length_only"]


@pytest.fixture(scope="module")
def rung(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of random weights as a folder."""
    folder = tmp_path_factory.mktemp("rung")
    tokenizer = build_tokenizer([json.dumps(REWARDBENCH2)] * 5, 400)
    base = tmp_path_factory.mktemp("base")
    build_model(tokenizer, 1, 16, 2, 0).save_pretrained(base)
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_rung_is_scored_whole_and_what_does_not_fit_is_counted(
    rung: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ties = [
        {**REWARDBENCH2, "subset": "Ties", "id": "ref:1", "prompt": "A colour?"},
        {**REWARDBENCH2, "subset": "Ties", "id": "tied:1", "prompt": "Any colour?", "chosen": ["red", "blue"]},
    ]
    ties[1]["num_correct"] = 2
    maths = [{**REWARDBENCH2, "id": str(i), "prompt": f"Name prime {i}."} for i in range(4)]
    long = {**REWARDBENCH2, "id": "long", "rejected": ["8 " * 2000, "9", "ten"]}
    data = written(tmp_path / "rb2.jsonl", *maths, *ties, long, {**REWARDBENCH2, "chosen": 1})
    table = BenchmarkTable(
        output=str(tmp_path / "out.json"), items=str(tmp_path / "items.jsonl"), resamples=200, max_malformed_share=0.5
    )
    run([str(rung), data], table)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["dropped"] == {"too_long": 1, "wrong_type": 1}
    assert (result["n_rows"], result["n_items"]) == (8, 6)
    assert [line.partition("rb2.jsonl, ")[2] for line in result["dropped_rows"][:1]] == [
        "line 8: wrong_type, chosen must be a list of texts, found int"
    ]
    assert result["subsets"]["Math"]["score"]["n"] == result["all"]["score"]["n"] == 4
    assert set(result["subsets"]["Ties"]["measures"]) >= {"score", "ref_accuracy", "margin_score"}
    assert result["subsets"]["Math"]["length_only"]["estimate"] == 0.0  # "ten" is longest
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    scorer = RungScorer(rung, 64)
    alone = scorer.logits([[{"role": "user", "content": "Name prime 2."}]] * 4, ["7", "8", "9", "ten"])
    assert rows[2]["logits"] == pytest.approx(alone.tolist(), abs=1e-5)
    mean = result["mean_of_subsets"]["score"]["estimate"]
    assert mean == pytest.approx(np.mean([result["subsets"][name]["score"]["estimate"] for name in ("Math", "Ties")]))
    printed = capsys.readouterr().out
    assert "all items but Ties" in printed and "6 items of 8 rows are scored" in printed
    with pytest.raises(UserError, match="all 7 items are too long"):
        run([str(rung), data], table.model_copy(update={"max_length": 2}))


def test_wrong_paths_are_refused_before_a_model_is_loaded(rung: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "pairs.jsonl", PAIR)
    with pytest.raises(UserError, match="name a rung's folder and then the data"):
        run([str(rung)], BenchmarkTable())
    with pytest.raises(UserError, match="is no folder of a rung"):
        run([data, data], BenchmarkTable())
    with pytest.raises(UserError, match="there is no folder"):
        run([str(rung), data], BenchmarkTable(output=str(tmp_path / "absent" / "out.json")))
    with pytest.raises(UserError, match="holds no tokenizer"):
        run([str(tmp_path), data], BenchmarkTable())


def test_logits_that_are_not_finite_are_refused() -> None:
    item = Item("1", "s", "p", [{"role": "user", "content": "?"}], ("a", "b"), 1)
    with pytest.raises(UserError, match="1 of 1 items have logits that are not finite"):
        report("pairs", [item], [numbers(np.nan, 1)], BenchmarkTable())
