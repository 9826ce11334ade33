"""Strategies of a run's cells: before and after on the same prompts, by text and by style, and the tables as files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.records import read_json, write_jsonl
from configs.runfolder import Stage, run_stage
from tasks.arithmetic import running_sums, style_of, write_code, write_direct, write_steps
from tasks.strategy.reading import StrategyTable, names_of, read_all, read_counts
from tasks.strategy.report import run
from tasks.strategy.transitions import in_order

TERMS = (3, 5, 9)
SUMS = running_sums(TERMS)
WORDS = {"code": write_code(TERMS, SUMS, True), "steps": write_steps(TERMS, SUMS), "direct": write_direct(17)}
BEFORE = [("direct", 0.0), ("direct", 1.0), ("steps", 1.0), ("code", 0.0)]
BY_RL = [("code", 1.0), ("code", 1.0), ("steps", 1.0), ("code", 1.0)]
BY_PROMPT = [("code", 1.0), ("direct", 1.0), ("code", 0.0), ("code", 0.0)]


def made(run_folder: Path, name: str, answers: list[tuple[str, float]], greedy: bool = True) -> Path:
    def work(inside: Path) -> dict[str, Any]:
        rows = [
            {"prompt_id": f"p{i}", "sample": 0, "completion": WORDS[style], "style": style, "gold": gold}
            for i, (style, gold) in enumerate(answers)
        ]
        assert all(style_of(row["completion"]) == row["style"] for row in rows)
        later = [{**row, "sample": 1, "completion": WORDS["direct"], "style": "direct"} for row in rows]
        write_jsonl(inside / "answers.jsonl", [row for pair in zip(rows, later, strict=True) for row in pair])
        if greedy:
            write_jsonl(
                inside / "greedy.jsonl", [{**row, "completion": WORDS["code"], "style": "code"} for row in rows]
            )
        return {}

    folder = run_folder / "policy" / name
    run_stage(Stage("policy", folder, {"x": name}, 0), work)
    return folder


@pytest.fixture
def cells(tmp_path: Path) -> list[Path]:
    return [
        made(tmp_path / "x", "untrained", BEFORE, greedy=False),
        made(tmp_path / "x" / "prompts" / "plain-opened-python", "untrained", BY_PROMPT),
        made(tmp_path / "x", "gold-flip0.4-grpo-s0", BY_RL),
    ]


@pytest.mark.parametrize("by", ["style", "text"])
def test_cells_before_and_after(cells: list[Path], tmp_path: Path, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The first sample of each prompt, because the untrained cell has no greedy answers."""
    run([str(cell) for cell in cells], StrategyTable(by=by, output=str(tmp_path / "flows"), resamples=200))
    report = read_json(tmp_path / "flows.json")
    names = ["x/untrained", "plain-opened-python/untrained", "x/gold-flip0.4-grpo-s0"]
    assert list(report["files"]) == names
    assert report["files"][names[0]]["n"] == 4
    moved = report["arms"][names[2]]["transitions"]
    assert {name: cell["n"] for name, cell in moved.items()} == {
        "code->code": 1,
        "code->language": 0,
        "language->code": 2,
        "language->language": 1,
    }
    assert moved["language->code"]["contribution"] == 0.5
    (overlap,) = report["switches"].values()
    assert (overlap["both"], overlap["only_first"], overlap["only_second"]) == (1, 1, 1)
    assert "moved from language to code: 1 by both" in capsys.readouterr().out
    assert (tmp_path / "flows.png").stat().st_size > 10_000
    counts = read_counts(tmp_path / "flows-transitions.csv")
    assert counts[names[2]]["language->code"].gain == 1
    rows = list(csv.DictReader((tmp_path / "flows-transitions.csv").open()))
    assert [row["contribution"] for row in rows if row["arm"] == names[2]] == ["0.5", "0.0", "0.5", "0.0"]
    flows = list(csv.DictReader((tmp_path / "flows.csv").open()))
    befores = {row["before"] for row in flows}
    assert befores == ({"code", "direct", "steps"} if by == "style" else {"bare_code", "language"})


def test_which_answers_of_a_cell(cells: list[Path]) -> None:
    one = read_all(cells[1:], StrategyTable(by="style"))
    assert {answer.strategy for answers in one.values() for answer in answers.answered.values()} == {"code"}, (
        "greedy ones"
    )
    first = read_all(cells[2:], StrategyTable(answers="first", by="style"))
    assert [answer.strategy for answer in first["gold-flip0.4-grpo-s0"].answered.values()] == [
        style for style, _ in BY_RL
    ]
    assert len(read_all(cells[2:], StrategyTable(answers="all"))["gold-flip0.4-grpo-s0"].answered) == 8
    with pytest.raises(UserError, match=r"there is no greedy.jsonl; make the cell with policy.eval_greedy=true"):
        read_all(cells, StrategyTable(answers="greedy"))
    with pytest.raises(UserError, match="not finished"):
        read_all([cells[0].parent], StrategyTable())


def test_a_file_without_styles_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [{"id": 1, "completion": "7"}])
    with pytest.raises(UserError, match="by=style, and the row of '1' has no style"):
        run([str(tmp_path / "x.jsonl")], StrategyTable(by="style"))


def test_names_and_their_order(tmp_path: Path) -> None:
    assert in_order(["steps", "language", "code", "fenced_code"]) == ["code", "fenced_code", "language", "steps"]
    assert names_of([Path("a/answers.jsonl"), Path("b/answers.jsonl")]) == ["a", "b"]
    assert names_of([Path("answers.jsonl")]) == ["answers"]
    with pytest.raises(UserError, match="named twice"):
        names_of([tmp_path, tmp_path])
