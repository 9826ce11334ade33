"""Problems are paired by their text and not by their number, and both tools take verdicts by one rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.records import read_json, write_jsonl
from judge.evaluation.command import EvaluateTable
from judge.evaluation.command import run as run_evaluate
from tasks.arithmetic_world import ArithmeticTable, ArithmeticTask
from tasks.pairing import Identity, digest_of, identity_of, pair
from tasks.records import Prompt
from tasks.strategy.reading import StrategyTable
from tasks.strategy.report import run as run_strategy

NAMES = ("one", "other")
PROBLEMS = [f"What is {n} + 1?" for n in range(12)]


def answers(path: Path, places: list[int], **more: Any) -> str:
    """A file in which every problem with an odd number is answered right, `idx` counting its rows."""
    rows = [
        {"idx": i, "question": PROBLEMS[n], "gt": n + 1, "response": f"\\boxed{{{n + 1 if n % 2 else 99}}}", **more}
        for i, n in enumerate(places)
    ]
    write_jsonl(path, rows)
    return str(path)


def both(paths: list[str], output: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The difference by `evaluate`, and the second file as an arm by `strategy`."""
    run_evaluate(paths, EvaluateTable(greedy=True, resamples=200, seconds=30, output=str(output / "e")))
    run_strategy(paths, StrategyTable(resamples=200, seconds=30, output=str(output / "s")))
    (difference,) = read_json(output / "e.json")["differences"]
    (arm,) = read_json(output / "s.json")["arms"].values()
    return difference, arm


def test_a_file_in_another_order_does_not_differ_from_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `idx` every pair would be of two problems, and 5 of 10 would change from right to wrong or back."""
    paths = [answers(tmp_path / "a.jsonl", list(range(10))), answers(tmp_path / "b.jsonl", [11, *range(9, 0, -1)])]
    difference, arm = both(paths, tmp_path)
    greedy = difference["greedy"]
    assert greedy["value"] == 0.0 and greedy["hi"] == pytest.approx(1.96**2 / (9 + 1.96**2), abs=1e-4) == -greedy["lo"]
    assert (difference["n_problems"], difference["only_in_one"], difference["paired_by"]) == (9, 2, "text")
    assert (arm["questions"], arm["only_before"], arm["only_after"], arm["paired_by"]) == (9, 1, 1, "text")
    kept = arm["transitions"]["language->language"]
    assert (kept["n"], kept["right_before"], kept["right_after"]) == (9, 5, 5)
    said = "a and b: 9 in both, paired by text; without a partner are 1 of a and 1 of b"
    assert " ".join(capsys.readouterr().out.split()).count(said) == 2


def test_files_of_two_benchmarks_are_not_compared(shared_data: Path) -> None:
    paths = [str(shared_data / "solutions" / f"{name}_Qwen2.5-3B-Instruct.jsonl") for name in ("amc23", "sat_math")]
    for tool in (
        lambda: run_evaluate(paths, EvaluateTable(greedy=True, right="score")),
        lambda: run_strategy(paths, StrategyTable(right="score")),
    ):
        with pytest.raises(UserError, match=r"share no problem, by their texts; name answers") as caught:
            tool()
        assert "\n" not in str(caught.value)


def drawn(**settings: Any) -> dict[str, Identity]:
    prompts, _ = ArithmeticTask(ArithmeticTable(task="arithmetic", **settings))._draw_prompts(0)
    return {one.prompt_id: identity_of(one) for one in prompts if one.split == "eval"}


def test_a_runs_problems_are_the_same_under_other_prompts_and_not_by_number() -> None:
    plain = drawn(n_eval_prompts=30)
    assert plain == drawn(n_eval_prompts=30, prompt="spurious", opening="python:")
    more = drawn(n_eval_prompts=31)
    assert plain.keys() < more.keys() and plain["arithmetic-eval-00000"] != more["arithmetic-eval-00000"]
    shared = {one.digest for one in plain.values()} & {one.digest for one in more.values()}
    added = {**more, "added": plain["arithmetic-eval-00000"]}
    found = pair(plain, added, NAMES, "evaluate")
    assert len(found.names) == len(shared) + 1 < 10
    assert all(plain[one] == added[other] for one, other in found.names.items())


def test_a_problems_text_is_its_own_whatever_stands_around_it() -> None:
    meta = {"problem": "Find $x$.", "answer": "7"}
    asked = [{"role": "user", "content": "Lorem ipsum. Find $x$."}]
    in_a_run = identity_of(Prompt("p", "eval", [], meta, asked))
    assert in_a_run == Identity(digest_of(" find  $x$.\n"), "7")
    assert digest_of("Find $x$. Please reason step by step, and put your final answer within \\boxed{}.") == (
        in_a_run.digest
    )
    assert digest_of("Find $y$.") != in_a_run.digest
    assert identity_of(Prompt("p", "eval", [], {})) == Identity()


def test_a_text_that_stands_twice_pairs_as_often_as_both_have_it() -> None:
    found = pair(
        {"a": Identity("x"), "b": Identity("x"), "c": Identity("y")},
        {"1": Identity("y"), "2": Identity("x")},
        NAMES,
        "t",
    )
    assert (found.names, found.only_first, found.only_second) == ({"a": "2", "c": "1"}, 1, 0)


def test_without_texts_ids_pair_unless_the_reference_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, golds in (("a", ["1", "1/2", "3", "4"]), ("b", ["1", "0.5", "5", "6"])):
        write_jsonl(
            tmp_path / f"{name}.jsonl", [{"id": i, "gt": g, "response": "\\boxed{3}"} for i, g in enumerate(golds)]
        )
    difference, arm = both([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], tmp_path)
    assert (difference["n_problems"], difference["only_in_one"], difference["other_reference"]) == (2, 4, 2)
    assert (arm["questions"], arm["other_reference"], arm["paired_by"]) == (2, 2, "id")
    assert "a and b: 2 ids have different reference answers" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"share no problem, by their ids, because .* \(1 ids are the same, with other"):
        pair({"p": Identity(None, "1")}, {"p": Identity("x", "2")}, NAMES, "evaluate")


def test_one_name_of_two_problems_is_refused(tmp_path: Path) -> None:
    rows = [{"idx": 0, "question": text, "gt": 7, "response": "7"} for text in ("What is 3 + 4?", "What is 2 + 5?")]
    write_jsonl(tmp_path / "x.jsonl", rows)
    for tool in (
        lambda: run_evaluate([str(tmp_path / "x.jsonl")], EvaluateTable()),
        lambda: run_strategy([str(tmp_path / "x.jsonl")], StrategyTable()),
    ):
        with pytest.raises(UserError, match=r"line 2: the problem '0' has another text; name the field"):
            tool()


@pytest.mark.parametrize(("right", "share", "verdicts"), [(None, 0.5, "checked"), ("score", 1.0, "stored in score")])
def test_both_tools_take_verdicts_by_one_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], right: str | None, share: float, verdicts: str
) -> None:
    path = answers(tmp_path / "x.jsonl", list(range(8)), score=[True])
    run_evaluate([path], EvaluateTable(right=right, seconds=30, output=str(tmp_path / "e")))
    run_strategy([path], StrategyTable(right=right, seconds=30, output=str(tmp_path / "s")))
    (row,) = read_json(tmp_path / "e.json")["contestants"]
    found = read_json(tmp_path / "s.json")["files"]["x"]
    assert row["sets"]["all"]["avg"]["value"] == found["strategies"]["language"]["accuracy"]["value"] == share
    assert row["verdicts"] == found["verdicts"] == verdicts
    said = capsys.readouterr().out
    assert f"8 answers, verdicts: {verdicts}" in said and said.count(verdicts) == 2


def test_a_cells_file_has_the_runs_grades_and_is_not_checked_against_its_own_answers(tmp_path: Path) -> None:
    base = {"sample": 0, "completion": "7", "answer": "7", "status": "ok", "style": "direct", "grade": "ok"}
    rows: list[dict[str, Any]] = [{**base, "prompt_id": f"p{i}", "gold": float(i == 0)} for i in range(4)]
    rows[2] |= {"gold": None, "grade": "timeout"}
    rows[3] |= {"answer": None, "status": "malformed", "gold": 0.0}
    write_jsonl(tmp_path / "answers.jsonl", rows)
    run_evaluate([str(tmp_path / "answers.jsonl")], EvaluateTable(output=str(tmp_path / "e")))
    run_strategy([str(tmp_path / "answers.jsonl")], StrategyTable(output=str(tmp_path / "s")))
    (row,) = read_json(tmp_path / "e.json")["contestants"]
    assert row["sets"]["all"]["marks"] == {"right": 1, "wrong": 1, "malformed": 1, "unparsable": 0, "timeout": 1}
    found = read_json(tmp_path / "s.json")["files"]["answers"]
    assert (found["strategies"]["language"]["accuracy"]["value"], found["truth_unknown"]) == (0.25, 0)
    assert row["verdicts"] == found["verdicts"] == "of the run"


def test_accuracies_before_and_after_have_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """8 of 10, Wilson at 95%: 0.490 to 0.943, from any textbook."""
    for name, n_right in (("a", 8), ("b", 10)):
        rows = [{"id": i, "completion": "7", "gold": float(i < n_right)} for i in range(10)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    run_strategy([str(tmp_path / f"{name}.jsonl") for name in "ab"], StrategyTable(resamples=100))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "language->language" in line]
    assert "10" in line and "0.800 [0.490, 0.943]" in line and "1.000 [0.722, 1.000]" in line
