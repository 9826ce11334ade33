"""The task `preference`: the road of a row from a file to a pair, leaks, splits, ties, counts, and the base."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from configs.loader import Experiment
from tasks.base_folder import load_causal_model
from tasks.preference.cleaning import clean_and_split
from tasks.preference.files import SourceRows, read_records
from tasks.preference.sets import PreferenceTable, PreferenceTask
from tasks.records import PreferencePair, Prompt, read_pairs, read_prompts

SHARED = Path(os.environ.get("SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared data at {SHARED} (set SHARED_DATA)")
TINY = {"vocab_size": 600, "layers": 1, "hidden": 16, "heads": 2, "steps": 2, "batch_size": 2}
SYLLABLES = tuple(a + b for a in "bdfgklmnprst" for b in "aeiou")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARDLADDER_CACHE", str(tmp_path / "cache"))


def prose(number: int, what: str, words: int = 12) -> str:
    rng = np.random.default_rng([number, *what.encode()])
    return " ".join("".join(SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=3)) for _ in range(words))


def row(number: int, preference: float = -1, **changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "context": [{"role": "user", "content": prose(number, "question")}],
        "response1": prose(number, "first"),
        "response2": prose(number, "second"),
        "overall_preference": preference,
    }
    return whole | changes


def source(rows: list[dict[str, Any]], name: str = "a.jsonl") -> SourceRows:
    return read_records(name, enumerate(rows, start=1), None, 0.05)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    return path


def split_by_prompt(pairs: list[PreferencePair]) -> dict[str, str]:
    return {pair.messages[0]["content"]: pair.split for pair in pairs}


def test_build_writes_pairs_prompts_base_and_counts(tmp_path: Path) -> None:
    rows = [row(i, (-3, -1, 2, 1)[i % 4]) for i in range(60)]
    rows += [row(100, 0), row(101, -1, response1=" "), row(0, 3), row(102, -1, response2=7)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    task = PreferenceTask(PreferenceTable(files=[str(path)], held_out_share=0.4, taught=TINY))
    folder = tmp_path / "run" / "tasks"
    folder.mkdir(parents=True)
    summary = task.build(folder, 0)

    counts = json.loads((folder / "dropped.json").read_text())
    assert counts["by_reason"] == {"wrong_type": 1, "tie": 1, "empty_response": 1, "exact_duplicate": 1}
    assert (counts["kept"], counts["dropped"], counts["rows_read"], counts["malformed"]) == (60, 4, 64, 1)
    assert counts["duplicates_with_the_opposite_label"] == 1
    assert counts["by_file"][str(path)]["schema"] == "helpsteer3"
    assert [shown["line"] for shown in counts["first_of_each_reason"]] == [64, 61, 62, 63]
    assert summary["dropped"] == counts["by_reason"]

    pairs, prompts = read_pairs(folder), read_prompts(folder)
    assert len(pairs) == 60
    assert sum(summary["pairs"].values()) == 60
    assert [pair.strength for pair in pairs[:4]] == [3.0, 1.0, 2.0, 1.0]
    assert [pair.chosen for pair in pairs[:3]] == [prose(0, "first"), prose(1, "first"), prose(2, "second")]
    assert len({pair.pair_id for pair in pairs}) == 60
    splits = {"train": "train", "selection": "dev", "measurement": "eval"}
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    assert all(by_id[pair.prompt_id].split == splits[pair.split] for pair in pairs)
    assert all(prompt.meta["source"] == "a.jsonl" for prompt in prompts)
    model, tokenizer = load_causal_model(str(folder / "base"))
    assert model.config.model_type == "qwen2"
    assert "hello" in tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)


def test_the_same_seed_builds_the_same_bytes_and_another_other_splits(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row(i) for i in range(60)])
    table = PreferenceTable(files=[str(path)], held_out_share=0.4, taught=TINY)
    written = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        folder = tmp_path / name / "tasks"
        folder.mkdir(parents=True)
        PreferenceTask(table).build(folder, seed)
        written.append([(folder / file).read_bytes() for file in ("pairs.jsonl", "prompts.jsonl", "dropped.json")])
    assert written[0] == written[1] != written[2]


def test_more_files_move_no_row_to_another_split() -> None:
    few = source([row(i) for i in range(0, 200, 2)])
    more = source([row(i) for i in range(1, 200, 2)], "b.jsonl")
    alone = split_by_prompt(clean_and_split([few], 0.4, None, 0).pairs)
    together = split_by_prompt(clean_and_split([more, few], 0.4, None, 0).pairs)
    assert len(alone) == 100
    assert {chat: together[chat] for chat in alone} == alone


def test_split_shares_are_as_asked() -> None:
    pairs = clean_and_split([source([row(i) for i in range(1000)])], 0.4, None, 0).pairs
    shares = {
        split: sum(pair.split == split for pair in pairs) / 1000 for split in ("train", "selection", "measurement")
    }
    # Three standard deviations of a binomial share of 0.6 or 0.2 among 1000 are 0.046 and 0.038.
    assert shares["train"] == pytest.approx(0.6, abs=0.046)
    assert shares["selection"] == pytest.approx(0.2, abs=0.038)
    assert shares["measurement"] == pytest.approx(0.2, abs=0.038)


def test_a_conversation_at_two_depths_stays_in_one_split() -> None:
    rows = []
    for i in range(60):
        rows.append(row(i))
        deeper = [
            *row(i)["context"],
            {"role": "assistant", "content": prose(i, "first")},
            {"role": "user", "content": prose(i, "and then", 40)},
        ]
        rows.append(row(1000 + i, context=deeper))
    pairs = clean_and_split([source(rows)], 0.5, None, 0).pairs
    assert len(pairs) == 120
    assert all(pairs[2 * i].split == pairs[2 * i + 1].split for i in range(60))
    assert {pair.split for pair in pairs} == {"train", "selection", "measurement"}


def test_swapped_copies_are_removed_and_contradictions_counted() -> None:
    rows = [row(i) for i in range(40)]
    swapped = {"response1": prose(0, "second"), "response2": prose(0, "first")}
    rows += [row(0, 1, **swapped), row(0, -1, **swapped), row(0, -1)]
    cleaned = clean_and_split([source(rows)], 0.4, None, 0)
    assert [(drop.line, drop.reason) for drop in cleaned.dropped] == [(41, "exact_duplicate")] + [
        (line, "exact_duplicate") for line in (42, 43)
    ]
    assert ["sides swapped" in drop.detail for drop in cleaned.dropped] == [True, True, False]
    assert cleaned.facts["duplicates_with_the_opposite_label"] == 1


def test_a_train_chat_near_a_held_out_one_gives_way() -> None:
    rows = []
    for i in range(100):
        question = prose(i, "question", 40)
        rows.append(row(i, context=[{"role": "user", "content": question}]))
        other_answers = {"response1": prose(i, "third"), "response2": prose(i, "fourth")}
        rows.append(row(i, context=[{"role": "user", "content": f"{question} zu"}], **other_answers))
    cleaned = clean_and_split([source(rows)], 0.5, None, 0)
    split_of_number = [set[str]() for _ in range(100)]
    number = {prose(i, answer): i for i in range(100) for answer in ("first", "third")}
    for pair in cleaned.pairs:
        split_of_number[number[pair.chosen]].add(pair.split)
    assert all(len(splits) == 1 for splits in split_of_number)
    leaks = [drop for drop in cleaned.dropped if drop.reason == "near_held_out_prompt"]
    # Two questions fall into different splits with chance 1 - (0.5^2 + 0.25^2 + 0.25^2) = 0.625.
    assert len(leaks) == pytest.approx(62.5, abs=15)
    assert len(leaks) + len(cleaned.pairs) == 200


def test_ties_are_kept_with_strength_0_and_the_first_answer_as_chosen() -> None:
    rows = [row(i, (0, -2, 3)[i % 3], individual_preference=[-1, 0, 2]) for i in range(30)]
    rows.append(row(99, 0, response2=prose(99, "first")))
    cleaned = clean_and_split([source(rows)], 0.4, None, 0, ties="keep")
    assert [(drop.line, drop.reason) for drop in cleaned.dropped] == [(31, "same_response")]
    assert cleaned.facts["ties_kept"] == 10
    tie, first, second = cleaned.pairs[:3]
    assert (tie.chosen, tie.strength, tie.individual) == (prose(0, "first"), 0.0, [1.0, 0.0, -2.0])
    assert (first.chosen, first.strength, first.individual) == (prose(1, "first"), 2.0, [1.0, 0.0, -2.0])
    assert (second.chosen, second.strength, second.individual) == (prose(2, "second"), 3.0, [-1.0, 0.0, 2.0])
    assert [pair.source for pair in cleaned.pairs[:3]] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    dropped = clean_and_split([source(rows)], 0.4, None, 0)
    assert sum(drop.reason == "tie" for drop in dropped.dropped) == 11
    assert len(dropped.pairs) == 20


def test_margins_reach_the_pairs() -> None:
    rows = [{"prompt": prose(i, "q"), "chosen": "yes it is", "rejected": "no", "margin": i / 2} for i in range(4)]
    pairs = clean_and_split([source(rows)], 0.4, None, 0).pairs
    assert [(pair.margin, pair.strength) for pair in pairs] == [(0.0, None), (0.5, None), (1.0, None), (1.5, None)]


def test_max_pairs_keeps_whole_conversations() -> None:
    rows = []
    for i in range(30):
        question = row(i)["context"]
        rows += [row(100 + 3 * i + k, context=question) for k in range(3)]
    cleaned = clean_and_split([source(rows)], 0.4, 31, 0)
    chats = [pair.prompt_id for pair in cleaned.pairs]
    assert len(chats) == 30
    assert {chats.count(chat) for chat in chats} == {3}
    assert sum(drop.reason == "over_max_pairs" for drop in cleaned.dropped) == 60


def test_nothing_left_says_why(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row(i, 0) for i in range(30)])
    task = PreferenceTask(PreferenceTable(files=[str(path)]))
    with pytest.raises(UserError, match=r"0 train pairs are left of 30 rows \(dropped: 30 tie\).*name more files"):
        task.build(tmp_path, 0)
    assert json.loads((tmp_path / "dropped.json").read_text())["by_reason"] == {"tie": 30}


def test_a_gz_cut_in_the_middle_stops_the_build(tmp_path: Path) -> None:
    content = gzip.compress("".join(json.dumps(row(i)) + "\n" for i in range(300)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not a whole gzip file"):
        PreferenceTask(PreferenceTable(files=[str(tmp_path / "a.jsonl.gz")])).build(tmp_path, 0)


def test_new_answers_have_no_gold() -> None:
    task = PreferenceTask(PreferenceTable(files=["x.jsonl"]))
    grade = task.grade(Prompt("p", "eval", []), "<think>a</think><answer>b</answer>")
    assert (grade.gold, grade.status) == (None, "no_gold")
    assert task.read("<think>a</think><answer>b</answer>").answer == "b"
    assert task.read("b").well_formed is False
    assert task.present("b") == "b"


def test_input_files_are_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row(0)])
    assert list(PreferenceTask(PreferenceTable(files=[f"{tmp_path}/*.jsonl"])).input_files().values()) == [path]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({}, "name either files or a dataset"),
        ({"files": ["a"], "dataset": "b"}, "name either files or a dataset"),
        ({"files": ["a"], "dataset_config": "b"}, "dataset_config belongs to a dataset"),
        ({"files": ["a"], "tise": "drop"}, "did you mean tasks.ties"),
        ({"files": ["a"], "ties": "drp"}, "tasks.ties: 'drp' is not allowed"),
        ({"files": ["a"], "taught": {"hidden": 30, "heads": 4}}, "hidden must be a multiple of 2 x heads"),
        ({"files": ["a"], "taught": {"hiden": 32}}, "did you mean tasks.taught.hidden"),
        ({"files": ["a"], "held_out_share": 1.0}, "tasks.held_out_share"),
    ],
)
def test_a_wrong_table_is_one_sentence(table: dict[str, Any], sentence: str) -> None:
    experiment = Experiment("x.yaml", "x", 0, Path("runs"), {"tasks": {"task": "preference", **table}})
    with pytest.raises(UserError, match=sentence):
        experiment.table("tasks", PreferenceTable)


@needs_shared
def test_the_shared_sets_together() -> None:
    from tasks.preference.files import read_file
    from tasks.preference.sources import resolve_files

    sources = [read_file(path, None, 0.05) for path in resolve_files([f"{SHARED}/preference/*.jsonl"])]
    cleaned = clean_and_split(sources, 0.4, None, 0)
    assert [item.schema for item in sources] == ["hh-rlhf", "helpsteer3", "helpsteer3"]
    assert cleaned.facts["rows_read"] == 958 + 598 + 576
    assert len(cleaned.pairs) + len(cleaned.dropped) == cleaned.facts["rows_read"]
    assert sum(drop.reason == "tie" and "tulu" in drop.file for drop in cleaned.dropped) == 180
    firsts: dict[str, set[str]] = {}
    for pair in cleaned.pairs:
        first = next(message["content"] for message in pair.messages if message["role"] == "user")
        firsts.setdefault(first, set()).add(pair.split)
    assert all(len(splits) == 1 for splits in firsts.values())
