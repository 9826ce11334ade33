"""A judge beside people: kappa and ceilings by hand, and `judge validate` on real judges against direct counts."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.records import read_json, read_jsonl, write_jsonl
from judge.agreement.labelled_pairs import read_labelled_pairs, verdicts_of
from judge.agreement.stored_texts import read_stored, said, stored_in
from judge.agreement.validate import ValidateTable, drawn, run
from judge.statistics.agreement import agreement, ceiling, cohens_kappa, label_of, length_dependence
from judge.verdicts import Verdict, combine

LLMBAR = "judge/llmbar_gpt4.jsonl"
MTBENCH = "judge/mtbench_gpt4omini_pairwise.jsonl"
PANDALM = "preference/pandalm_testset_hs3schema.jsonl"
TULU = "preference/tulu_human_eval_hs3schema.jsonl"


def validated(path: Path, tmp_path: Path, **settings: Any) -> dict[str, Any]:
    output = tmp_path / "figures.json"
    run([str(path)], ValidateTable(output=str(output), resamples=200, **settings))
    return read_json(output)


def test_kappa_of_a_hand_counted_table() -> None:
    # 20 + 15 of 50 agree: p_o = 0.7; margins 25/25 and 30/20: p_e = 0.5; kappa = 0.4
    table = np.array([[20.0, 0, 5], [0, 0, 0], [10, 0, 15]])
    assert cohens_kappa(table) == pytest.approx(0.4)
    assert np.isnan(cohens_kappa(np.diag([7.0, 0, 0])))


def test_agreement_accuracy_and_kappa_of_labels() -> None:
    judge = ["a", "b", "tie", "a", None, "b"]
    people = ["a", "a", "a", "tie", "b", "b"]
    found = agreement(judge, people, list("pqrstu"), keyed_rng(0, "t"), 300)  # type: ignore[arg-type]
    assert (found.n, found.n_decisive, found.n_prompts) == (5, 4, 5)
    assert found.agreement.value == pytest.approx(2 / 5)
    assert found.accuracy.value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    pairs = [(one, other) for one, other in zip(judge, people, strict=True) if one is not None]
    assert found.kappa.value == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))
    assert agreement([None], ["a"], ["p"], keyed_rng(0, "t"), 300).agreement.value is None


def test_the_human_ceiling_by_hand() -> None:
    individual = [(-1.0, -2.0), (1.0, -1.0, 1.0), (0.0,)]
    found = ceiling([["a", "b"], ["b", "b"], ["tie"]], individual, list("pqr"), keyed_rng(0, "t"), 200)
    assert found is not None
    assert found.n_rows == 2
    assert found.people.value == pytest.approx((1 + 1 / 3) / 2)
    assert found.same_grade.value == pytest.approx((0 + 1 / 3) / 2)
    assert found.unanimous.value == pytest.approx(1 / 2)
    assert found.judge.value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.shortfall.value == pytest.approx(found.people.value - found.judge.value)  # type: ignore[operator]
    assert ceiling([["a"]], [(1.0,)], ["p"], keyed_rng(0, "t"), 200) is None


def test_length_dependence_by_hand() -> None:
    judge, people = ["a", "a", "b", "tie"], ["a", "b", "b", "a"]
    lengths = [(9, 1), (9, 1), (9, 1), (9, 1)]
    found = length_dependence(judge, people, lengths, list("pqrs"), keyed_rng(0, "t"), 200)  # type: ignore[arg-type]
    assert found.n == 3
    assert found.judge_longer.value == pytest.approx(2 / 3)
    assert found.people_longer.value == pytest.approx(1 / 3)
    assert found.excess.value == pytest.approx(1 / 3)
    assert (found.right_if_longer.value, found.n_longer) == (0.75, 2)
    assert (found.right_if_shorter.value, found.n_shorter) == (0.5, 2)


@pytest.mark.parametrize(
    ("text", "grammar", "expected"),
    [
        ("[[A]] was my first thought, but [[B]]", "brackets", "second"),
        ("Final verdict: [[C]]", "brackets", "tie"),
        ("A is better", "brackets", None),
        ("Output (a) lies; therefore, Output (b) is better.", "outputs", "second"),
        ("Output (a)", "outputs", "first"),
        ("Output (a) and Output (b) differ in length.", "outputs", None),
        ("9 8.5\nBoth are good.", "scores", "first"),
        ("7, 7", "scores", "tie"),
        ("Tie", "label", "tie"),
        ("garbage", "label", None),
        ('{"reason": "x", "verdict": "second"}', "pairwise", "second"),
        ("#1 is better", "paper", "first"),
    ],
)
def test_stored_texts_are_read_by_their_grammar(text: str, grammar: Any, expected: str | None) -> None:
    assert read_stored(text, grammar) == expected


def test_a_stored_text_without_verdict_is_never_a_tie() -> None:
    assert said("", "brackets").status == "error"
    assert said(None, "brackets").status == "error"
    assert said("I'm sorry, I cannot", "brackets").status == "refused"
    assert said("hm", "brackets")[1:] == (None, "unreadable")
    assert said(2, "label").verdict == "second"


def test_every_llmbar_text_gives_the_stored_winner(shared_data: Path) -> None:
    n = 0
    for row in read_jsonl(shared_data / LLMBAR):
        sayings = stored_in(row)
        for name, entry in row["gpt4"].items():
            for order, swap in (("AB", "swap = False"), ("BA", "swap = True")):
                verdict = sayings[f"gpt4.{name}"][order].verdict  # type: ignore[index]
                first, second = ("1", "2") if order == "AB" else ("2", "1")
                assert {"first": first, "second": second}[verdict] == entry[swap]["winner"]  # type: ignore[index]
                n += 1
    assert n == 281 * 4 * 2


def test_every_mtbench_text_gives_the_stored_winner_but_where_it_is_an_error(shared_data: Path) -> None:
    names = {"first": "A", "second": "B", "tie": "tie", None: "error"}
    outcomes: Counter[str] = Counter()
    rows = list(read_jsonl(shared_data / MTBENCH))
    for row, pair in zip(rows, read_labelled_pairs([str(shared_data / MTBENCH)]).pairs, strict=True):
        verdicts = verdicts_of(pair, "gpt-4o-mini")
        assert [names[verdict.verdict] for verdict in verdicts] == [row["winner_ab"], row["winner_ba"]]
        assert [verdict.status == "ok" for verdict in verdicts] == [
            row[key] != "error" for key in ("winner_ab", "winner_ba")
        ]
        outcome = combine(*verdicts)
        winner = {1.0: row["model_a"], 0.0: row["model_b"], 0.5: "tie", None: "error"}[outcome.quality]
        assert row["winner"] == ("inconsistent" if outcome.status in ("conflict", "differs") else winner)
        outcomes[outcome.status] += 1
    assert outcomes == Counter(agreed=395, conflict=195, differs=7, half_missing=1, missing=2)


def test_validation_on_llmbar_equals_a_direct_count(shared_data: Path, tmp_path: Path) -> None:
    rows = list(read_jsonl(shared_data / LLMBAR))
    figures = validated(shared_data / LLMBAR, tmp_path)
    assert set(figures["judges"]) == {f"gpt4.{name}" for name in rows[0]["gpt4"]}
    for name in rows[0]["gpt4"]:
        judge = figures["judges"][f"gpt4.{name}"]
        winners = [[row["gpt4"][name][f"swap = {swap}"]["winner"] for swap in (False, True)] for row in rows]
        right = [winner == str(row["label"]) for row, both in zip(rows, winners, strict=True) for winner in both]
        assert judge["agreement"]["accuracy"]["estimate"] == pytest.approx(np.mean(right))
        assert judge["agreement"]["agreement"]["n"] == 562
        # Shown first: output 1 as it stands, output 2 when swapped.
        first = [winner == str(place) for both in winners for place, winner in enumerate(both, start=1)]
        assert judge["position"]["first_share"] == pytest.approx(np.mean(first))
        assert judge["position"]["consistency"] == pytest.approx(np.mean([one == two for one, two in winners]))
        natural = [
            winner == str(row["label"])
            for row, both in zip(rows, winners, strict=True)
            for winner in both
            if row["subset"] == "LLMBar/Natural"
        ]
        assert judge["domains"]["LLMBar/Natural"]["accuracy"]["estimate"] == pytest.approx(np.mean(natural))
    # The published figures of the CoT judge on Natural: accuracy 94.5%, positional agreement 91.0%.
    assert figures["judges"]["gpt4.CoT"]["domains"]["LLMBar/Natural"]["accuracy"]["estimate"] == pytest.approx(0.945)


def test_validation_on_mtbench_counts_position_and_consistency(shared_data: Path, tmp_path: Path) -> None:
    rows = list(read_jsonl(shared_data / MTBENCH))
    judge = validated(shared_data / MTBENCH, tmp_path)["judges"]["gpt-4o-mini"]
    shown = [row[key] for row in rows for key in ("winner_ab", "winner_ba")]
    assert judge["position"]["first_share"] == pytest.approx(shown.count("A") / (shown.count("A") + shown.count("B")))
    whole = [row for row in rows if "error" not in (row["winner_ab"], row["winner_ba"])]
    consistent = sum(row["winner"] != "inconsistent" for row in whole)
    assert judge["position"]["n_both"] == len(whole) == 597
    assert judge["position"]["consistency"] == pytest.approx(consistent / len(whole))
    assert (judge["position"]["n_both_first"], judge["position"]["n_both_second"]) == (161, 34)
    assert judge["verdicts"] == {"error": 5, "ok": 1195}
    assert judge["agreement"]["agreement"]["estimate"] is None, "nobody asked people about these"


def test_validation_on_pandalm_equals_a_direct_count(shared_data: Path, tmp_path: Path) -> None:
    rows = list(read_jsonl(shared_data / PANDALM))
    figures = validated(shared_data / PANDALM, tmp_path)
    words = {"1": "a", "2": "b", "Tie": "tie"}
    people = [label_of(row["overall_preference"]) for row in rows]
    judged = [words.get(str(row["judge_gpt35"]["result"])) for row in rows]
    readable = [(one, other) for one, other in zip(judged, people, strict=True) if one]
    judge = figures["judges"]["judge_gpt35"]
    assert judge["agreement"]["agreement"]["n"] == len(readable) == 583
    assert judge["agreement"]["agreement"]["estimate"] == pytest.approx(np.mean([x == y for x, y in readable]))
    assert judge["agreement"]["of_all"]["estimate"] == pytest.approx(sum(x == y for x, y in readable) / 598)
    assert judge["agreement"]["kappa"]["estimate"] == pytest.approx(
        cohen_kappa_score(*zip(*readable, strict=True)), abs=1e-9
    )
    assert (judge["verdicts"], judge["n_missing"]) == ({"ok": 583, "unreadable": 15}, 15)
    assert judge["position"]["first_share"] is None, "one order says nothing of the place"
    unanimous = np.mean([len({vote["score"] for vote in row["individual_preference"]}) == 1 for row in rows])
    assert judge["ceiling"]["unanimous"]["estimate"] == pytest.approx(unanimous)
    assert judge["ceiling"]["people"]["estimate"] > judge["ceiling"]["judge"]["hi"]


def test_strength_and_ceiling_on_graded_labels(shared_data: Path, tmp_path: Path) -> None:
    """A judge that repeats the majority is always right, and agrees with single people more than people do."""
    rows = []
    for row in read_jsonl(shared_data / TULU):
        label = {"a": "1", "b": "2", "tie": "tie"}[label_of(row["overall_preference"])]  # type: ignore[index]
        rows.append({**row, "said": {"ab": label, "ba": {"1": "2", "2": "1", "tie": "tie"}[label]}})
    write_jsonl(tmp_path / "rows.jsonl", rows)
    figures = validated(tmp_path / "rows.jsonl", tmp_path, text_ab="said.ab", text_ba="said.ba", grammar="label")
    judge = figures["judges"]["stored"]
    assert judge["agreement"]["agreement"]["estimate"] == 1.0
    assert judge["agreement"]["kappa"]["estimate"] == 1.0
    assert set(judge["strengths"]) == {"1", "2", "people tie"}
    twice = [row["individual_preference"] for row in rows if len(row["individual_preference"]) == 2]
    assert judge["ceiling"]["people"]["n"] == sum(len(row["individual_preference"]) > 1 for row in rows) > len(twice)
    assert judge["ceiling"]["shortfall"]["estimate"] < 0


def test_models_are_ranked_by_people_and_by_the_judge(shared_data: Path, tmp_path: Path) -> None:
    """A judge that likes length puts another model first than people do."""
    rows = []
    for row in read_jsonl(shared_data / TULU):
        longer = len(row["response1"]) > len(row["response2"])
        rows.append({**row, "ab": "1" if longer else "2", "ba": "2" if longer else "1"})
    write_jsonl(tmp_path / "rows.jsonl", rows)
    figures = validated(tmp_path / "rows.jsonl", tmp_path, text_ab="ab", text_ba="ba", grammar="label")
    people, judge = figures["people"]["ranking"], figures["judges"]["stored"]["ranking"]
    assert [row["name"] for row in people] == ["chatgpt", "tulu_65B", "tulu_7B", "tulu_human_only_65B"]
    assert judge[0]["name"] == "tulu_7B"
    wins = [row["overall_preference"] for row in rows if {row["model1"], row["model2"]} == {"chatgpt", "tulu_65B"}]
    lead = people[0]["strength"]["estimate"] - people[1]["strength"]["estimate"]
    assert (lead > 0) == (sum(score < 0 for score in wins) > sum(score > 0 for score in wins))
    assert figures["judges"]["stored"]["length"]["judge_longer"]["estimate"] == 1.0


def test_the_page_of_a_validation_holds_the_judges_words(shared_data: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run([str(shared_data / LLMBAR)], ValidateTable(judges=["gpt4.CoT"], report=str(page), resamples=100))
    text = page.read_text(encoding="utf-8")
    assert "Therefore, Output (a) is better." in text
    assert re.search(r"Order-inconsistent</h2>\s*<p[^>]*>[^<]* 28 in all, 10 shown", text)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"judges": ["gpt5"]}, "no texts of gpt5; the files have judge_x"),
        ({"text_ba": "b"}, "give text_ab as well"),
        ({"judge": {"kind": "gold"}, "store": "s"}, "gold knows no labelled pairs"),
        ({"judge": {"kind": "openai"}}, "name a folder for the judge's replies"),
        ({"output": "nowhere/x.json"}, "there is no folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    row = {"prompt": "p", "chosen": "x", "rejected": "y", "judge_x": {"result": 1}}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    with pytest.raises(UserError, match=re.escape(words)):
        run([str(tmp_path / "rows.jsonl")], ValidateTable.model_validate(settings))


def test_rows_without_texts_of_a_judge_ask_for_one(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "p", "chosen": "x", "rejected": "y"}])
    with pytest.raises(UserError, match="hold no judge's texts; name a judge to ask"):
        run([str(tmp_path / "rows.jsonl")], ValidateTable())


def test_a_broken_row_is_counted_and_many_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"prompt": "p", "chosen": "x", "rejected": "y", "judge_x": {"result": 2}}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*[json.dumps({**good, "prompt": f"p{i}"}) for i in range(30)], "{"]), encoding="utf-8")
    figures = validated(path, tmp_path)
    assert figures["dropped"] == {"unreadable_json": 1}
    assert figures["judges"]["judge_x"]["agreement"]["accuracy"]["estimate"] == 0.0
    assert "not used: 1 unreadable_json of 31 rows" in capsys.readouterr().out
    path.write_text("\n".join([json.dumps(good), *["{"] * 5]), encoding="utf-8")
    with pytest.raises(UserError, match="5 of 6 rows are malformed"):
        validated(path, tmp_path)


def test_a_limit_draws_pairs_and_a_larger_one_keeps_them(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "x", "rejected": "y", "judge_x": {"result": 1}} for i in range(50)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    pairs = read_labelled_pairs([str(tmp_path / "rows.jsonl")]).pairs
    few, more = ([pair.pair_id for pair in drawn(pairs, ValidateTable(limit=n))] for n in (10, 20))
    assert (len(few), len(more)) == (10, 20)
    assert set(few) < set(more) and few != [pair.pair_id for pair in pairs[:10]]
    assert len(drawn(pairs, ValidateTable(limit=99))) == 50


def test_a_verdict_of_the_second_order_is_mapped_back(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "r.jsonl", [{"prompt": "p", "chosen": "x", "rejected": "y", "t": "[[A]]", "u": "[[A]]"}])
    (pair,) = read_labelled_pairs([str(tmp_path / "r.jsonl")], "t", "u", "brackets").pairs
    found: list[Verdict] = verdicts_of(pair, "stored")
    assert [(verdict.order, verdict.winner) for verdict in found] == [("AB", "a"), ("BA", "b")]
