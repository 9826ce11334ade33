"""Strategies of answers: the classifier on made and on real answers, transitions, the paper's table, the tool."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.records import read_json, read_jsonl
from tasks.arithmetic import write_code, write_steps
from tasks.strategy.classifier import classify
from tasks.strategy.figure import stacked
from tasks.strategy.report import StrategyTable, read_counts, run
from tasks.strategy.transitions import (
    Answered,
    Change,
    Counts,
    contribution_intervals,
    frequencies,
    mean_contributions,
    partial_contributions,
    share,
    switched_to_code,
    transition_counts,
)

PAPER_COUNTS = Path(__file__).parent / "answers" / "paper_transitions.csv"

FENCED = "Let us see.\n```python\nprint(3 + 4)\n```\n"


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        (FENCED + "So \\boxed{7}.", "fenced_code"),
        (FENCED + "```output\n7\n```\nSo \\boxed{7}.", "code_with_output"),
        (FENCED + "```\n7\n```\nSo \\boxed{7}.", "code_with_output"),
        (FENCED + "Output: 7", "code_with_output"),
        ("```python\nx = [1, 2\nfor y in x:\n    pri", "fenced_code"),
        ("```\nfrom math import comb\nprint(comb(5, 2))\n```", "fenced_code"),
        ("```\nx^2 + 3x = 7\n```\nso it is 1", "language"),
        ("```math\n\\frac{1}{2}\n```", "language"),
        ("```cpp\nint main() { return 0; }\n```", "fenced_code"),
        ("```python\n```\nnothing there", "mention"),
        ("We compute:\n\ntotal = 0\nfor i in range(5):\n    total += i\nprint(total)\n\nSo it is 10.", "bare_code"),
        ("import sympy as sp\nx = sp.symbols('x')\nWe get 3.", "bare_code"),
        ("I would use Python here, but by hand: 3 + 4 = 7.", "mention"),
        ("Write a program? No. `print(7)` would give 7.", "mention"),
        ("For each x in S, if x = 3:\n  then y = 4.\nreturn home. print the page", "language"),
        ("\\begin{align*}\nx &= 3 \\\\\ny &= 4\n\\end{align*}\nf(x) = x + 1\ng(2)\n", "language"),
        ("x = 3\ny = 4\nz = x + y", "language"),
        ("", "language"),
        ("```", "language"),
        ("\x00def f(", "language"),
    ],
)
def test_strategies(text: str, strategy: str) -> None:
    assert classify(text).strategy == strategy


def test_the_arithmetic_world_writes_code_and_steps() -> None:
    terms, sums = (3, 5, 9), [8, 17]
    assert classify(write_code(terms, sums, traced=True)).strategy == "bare_code"
    assert classify(write_code(terms, sums, traced=False)).strategy == "bare_code"
    assert classify(write_steps(terms, sums)).strategy == "language"


def test_the_papers_own_criterion_stands_beside() -> None:
    assert [classify(t).says_python for t in ("Python?", "import math\nprint(1)", "pythonic")] == [True, False, True]


def test_hostile_texts_are_fast_and_raise_nothing() -> None:
    for text in (
        "```python\n" * 20_000,
        "(" * 100_000,
        "print(" * 30_000,
        "```\n" + "x = " * 50_000,
        "if a:\n " * 5000,
    ):
        classify(text)


@pytest.mark.parametrize(("name", "code"), [("interpreter-v0.1", True), ("v0.1", False)])
def test_real_answers_whose_strategy_is_known(shared_data: Path, name: str, code: bool) -> None:
    rows = list(read_jsonl(shared_data / "solutions" / f"math500_rho-math-1b-{name}.jsonl"))
    assert len(rows) == 500
    assert sum(classify(row["response"]).is_code is code for row in rows) >= 495


def test_answers_of_other_models_to_mathematics_are_language(shared_data: Path) -> None:
    for name in ("minerva_math_Qwen2.5-3B-Instruct", "sat_math_Qwen-2.5-3B-rlft", "amc23_Qwen2.5-3B-Instruct"):
        rows = list(read_jsonl(shared_data / "solutions" / f"{name}.jsonl"))
        assert {classify(row["response"]).strategy for row in rows} == {"language"}


def test_the_papers_counts_give_its_contributions() -> None:
    """PAPERS: Fig. 7 of arXiv 2506.10947, Qwen2.5-Math-7B; Table 2 has 11.6 / 8.6 / 58.3 / 21.4, mean gain 23.5."""
    arms = read_counts(PAPER_COUNTS)
    assert list(arms) == ["GT", "MV", "format", "incorrect", "random"]
    mean = mean_contributions(list(arms.values()))
    assert [round(100 * (mean[name] or 0), 1) for name in mean] == [11.6, 8.6, 58.3, 21.4]
    gains = [sum(cell.gain for cell in arm.values()) / 5 for arm in arms.values()]
    assert sum(gains) / 5 == pytest.approx(23.5, abs=0.05)
    assert {sum(cell.n for cell in arm.values()) for arm in arms.values()} == {500}


def change(before: str, right_before: bool | None, after: str, right_after: bool | None) -> Change:
    return Change(Answered(before, right_before), Answered(after, right_after))


CHANGES = [
    change("language", False, "fenced_code", True),
    change("mention", False, "bare_code", True),
    change("language", True, "code_with_output", False),
    change("fenced_code", True, "language", True),
    change("fenced_code", False, "fenced_code", True),
    change("language", False, "language", False),
    change("language", None, "language", True),
]


def test_transitions_by_hand() -> None:
    counts = transition_counts(CHANGES)
    assert counts == {
        "code->code": Counts(1, 0, 1),
        "code->language": Counts(1, 1, 1),
        "language->code": Counts(3, 1, 2),
        "language->language": Counts(1, 0, 0),
    }
    assert partial_contributions(counts) == {
        "code->code": 0.5,
        "code->language": 0.0,
        "language->code": 0.5,
        "language->language": 0.0,
    }
    nothing = {"code->code": Counts(2, 1, 1)}
    assert partial_contributions(nothing) == {"code->code": None}
    assert mean_contributions([counts, {name: Counts(0, 0, 0) for name in counts}])["code->code"] is None


def test_intervals_of_contributions() -> None:
    many = [change("language", False, "fenced_code", True)] * 60 + [
        change("fenced_code", False, "bare_code", True)
    ] * 40
    found = contribution_intervals(many, seed=0)
    low, high = found["language->code"] or (0.0, 0.0)
    # Of 100 questions 60 switched; 1.96 standard errors are 0.096.
    assert low == pytest.approx(0.504, abs=0.03)
    assert high == pytest.approx(0.696, abs=0.03)
    assert set(contribution_intervals(CHANGES, seed=0).values()) == {None}, "a gain that may be none is not shared out"
    assert set(contribution_intervals([], seed=0).values()) == {None}


def test_frequencies_and_wilson() -> None:
    found = frequencies([Answered("language", True), Answered("language", None), Answered("bare_code", False)])
    assert (found["language"][0].n, found["language"][0].value) == (3, pytest.approx(2 / 3))
    assert (found["language"][1].n, found["language"][1].value) == (1, 1.0)
    assert found["mention"][1].value is None
    # Wilson for 8 of 10 at 95%, from any textbook: 0.490 to 0.943.
    assert (share(8, 10).lo, share(8, 10).hi) == (pytest.approx(0.490, abs=5e-4), pytest.approx(0.943, abs=5e-4))


def test_code_that_a_prompt_induces_and_code_that_training_induces() -> None:
    by_prompt = {"a": CHANGES[0], "b": CHANGES[2], "c": CHANGES[5]}
    by_training = {"a": CHANGES[1], "b": CHANGES[5], "c": CHANGES[0]}
    found = switched_to_code(by_prompt, by_training)
    assert (found.both, found.only_first, found.only_second) == (1, 1, 1)
    assert (found.accuracy_first.value, found.accuracy_second.value) == (0.5, 1.0)


def test_the_figures_bars_fill_the_height() -> None:
    places = stacked({"fenced_code": 30, "language": 10})
    assert places["fenced_code"] == (pytest.approx(1 - 0.97 * 0.75), 1.0)
    assert places["language"][0] == pytest.approx(0.0)


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_tool_on_two_arms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answers(name: str, texts: list[str], golds: list[float | None]) -> str:
        rows = zip(texts, golds, strict=True)
        return write(
            tmp_path / name,
            [{"prompt_id": f"p{i}", "sample": 0, "completion": t, "gold": g} for i, (t, g) in enumerate(rows)],
        )

    before = answers("base.jsonl", ["7", "7", FENCED, "8"], [0.0, 1.0, 1.0, None])
    trained = answers("trained.jsonl", [FENCED, FENCED, FENCED, "8"], [1.0, 1.0, 1.0, 0.0])
    prompted = answers("prompted.jsonl", [FENCED, "7", FENCED, FENCED], [0.0, 1.0, 0.0, 0.0])
    run([before, trained, prompted], StrategyTable(output=str(tmp_path / "out")))
    report = read_json(tmp_path / "out.json")
    assert report["files"]["base"]["truth_unknown"] == 1
    assert report["arms"]["trained"]["transitions"]["language->code"]["n"] == 2
    assert report["arms"]["trained"]["transitions"]["language->code"]["contribution"] == 1.0
    assert report["switches"]["trained and prompted"]["both"] == 1
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert sum(int(row["n"]) for row in rows if row["arm"] == "trained") == 4
    assert (tmp_path / "out.png").stat().st_size > 10_000
    assert "<svg" in (tmp_path / "out.svg").read_text()
    assert "moved from language to code: 1 by both" in capsys.readouterr().out


def test_the_tool_on_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run([str(PAPER_COUNTS)], StrategyTable(output=str(tmp_path / "out")))
    mean = read_json(tmp_path / "out.json")["mean_contributions"]
    assert [round(value, 3) for value in mean.values()] == [0.116, 0.086, 0.583, 0.214]
    assert "0.583" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"prompt_id": "a"}], "line 1: no responses or response or completions or completion"),
        ([{"completion": "x"}], "line 1: no prompt_id or .* or prompt; name the field with key=FIELD"),
        ([{"id": 1, "completion": "x"}, {"id": 1, "completion": "y"}], "the key '1' stands twice; name another field"),
        ([{"id": 1, "completion": 3}], "must be a text, found int"),
        ([], "holds no answers"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, rows: list[dict[str, object]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        run([write(tmp_path / "x.jsonl", rows)], StrategyTable())


def test_files_without_a_shared_question_and_counts_that_contradict(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [{"id": 1, "completion": "x"}])
    other = write(tmp_path / "other.jsonl", [{"id": 2, "completion": "x"}])
    with pytest.raises(UserError, match="share no problem"):
        run([one, other], StrategyTable())
    (tmp_path / "x.csv").write_text("arm,transition,n,right_before,right_after\na,code->code,3,4,1\n")
    with pytest.raises(UserError, match="line 2: more right answers than questions"):
        run([str(tmp_path / "x.csv")], StrategyTable())
