"""Points read again: the same analysis from the file alone, several runs as one sweep, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from configs.errors import UserError
from curve.analysis.claims_mathematics import SWITCHES
from curve.analysis.looks import LOOK_COLUMNS
from curve.analysis.points_again import AnalyseTable, join, read_points, read_with_run, run, worlds_of
from curve.analysis.whole import analyse
from curve.points import COLUMNS, write_table
from tests.conftest import ROOT
from tests.test_claims import RAW, cell, sweep
from tests.test_claims_mathematics import arms, two_bases

HEADER = "cell,rung,route,reward,algorithm,seed,rm_seed,rm_accuracy,quality,n_prompts\n"


def written(path: Path, points: list[dict[str, Any]]) -> Path:
    write_table(path, COLUMNS, points)
    return path


def test_points_written_and_read_are_the_same_points(tmp_path: Path) -> None:
    points = sweep(RAW, rm_seeds=2)
    assert read_points(written(tmp_path / "points.csv", points)) == points


def test_an_analysis_from_the_file_is_that_of_the_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = sweep(RAW | {("rpr_only", None): 0.6})
    run([str(written(tmp_path / "points.csv", points))], AnalyseTable(output=str(tmp_path / "out")))
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert found == json.loads(json.dumps(analyse(points, {}, 0)))
    assert "Claim 3 (early_stop, grpo)" in capsys.readouterr().out
    files = {"points.csv", "curve.csv", "analysis.json", "claims.csv", "curve.png", "curve.svg"}
    files |= {"predictors.png", "predictors.svg", "predictors.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files


def test_the_committed_points_of_the_readme_are_drawn(tmp_path: Path) -> None:
    run([str(ROOT / "docs" / "demo-points.csv")], AnalyseTable(output=str(tmp_path), title=r"for $\frac{$ a point"))
    assert r"$\frac{$" in (tmp_path / "curve.svg").read_text()
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_several_rm_seeds_are_one_sweep(tmp_path: Path) -> None:
    points = sweep(RAW)
    shared = [p for p in points if p["rung"] is None]
    files = [
        written(tmp_path / name / "curve" / "points.csv", shared + [p for p in points if p["rm_seed"] == rm_seed])
        for rm_seed, name in enumerate("abc")
    ]
    run([str(path) for path in files], AnalyseTable(output=str(tmp_path / "out")))
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert [(fit["n_rm_seeds"], fit["n_reward_models"]) for fit in found["fits"]] == [(3, 24)]
    cells = [row["cell"] for row in read_points(tmp_path / "out" / "points.csv")]
    assert len(cells) == len(set(cells)) == len(points) and cells[0] == "a/untrained-None-0-0"


def test_outcomes_in_the_run_pair_the_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [cell("raw", "65", 0.25), cell("raw", "75", 0.5), cell("raw", "85", 0.75)]
    path = written(tmp_path / "run" / "curve" / "points.csv", points)
    outcomes = {points[0]["cell"]: {"p": 0.0, "q": 0.5}, points[1]["cell"]: {"p": 0.25, "q": 0.75}}
    outcomes[points[2]["cell"]] = {"p": 0.0, "q": 0.0}
    asked: list[Path] = []

    def found(judged: Path, cells: list[str]) -> dict[str, dict[str, float]]:
        asked.append(judged)
        return outcomes

    monkeypatch.setattr("curve.analysis.points_again.outcomes_by_prompt", found)
    run([str(path)], AnalyseTable(output=str(tmp_path / "out")))
    assert asked == [tmp_path / "run" / "judge"]
    rows = json.loads((tmp_path / "out" / "analysis.json").read_text())["neighbours"]
    assert [(row["upper"], row["paired"]) for row in rows] == [("75", True), ("85", False)], "another mean is not used"


def test_looks_and_strategies_beside_the_points_are_read(tmp_path: Path) -> None:
    points = [cell("raw", "65", 0.25), cell("raw", "75", 0.5), cell("gold", None, 0.9)]
    path = written(tmp_path / "some-points.csv", points)
    golds = {0: 0.3, 20: 0.5, 40: 0.4}
    blank = dict.fromkeys(LOOK_COLUMNS)
    looks = [
        blank | {"cell": point["cell"], "step": step, "gold": gold, "kl": step / 10}
        for point in points
        for step, gold in golds.items()
    ]
    write_table(tmp_path / "some-looks.csv", LOOK_COLUMNS, looks)
    (tmp_path / "strategies.json").write_text(json.dumps(arms((0.7, 0.6, 0.8), (0.7, 0.6, 0.8))))
    table = AnalyseTable(output=str(tmp_path / "out"), strategies=str(tmp_path / "strategies.json"))
    run([str(path)], table)
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert [(row["peak_step"], row["end_kl"]) for row in found["looks"]] == [(20, 4.0)] * 3
    assert next(c for c in found["claims"] if c["number"] == 11)["verdict"] == "supported"
    assert {p.name for p in (tmp_path / "out").glob("gold-*.png")} == {"gold-against-steps.png", "gold-against-kl.png"}
    for wrong in ({}, {"a": 3}, {"a": {"transitions": dict.fromkeys(SWITCHES)}}):
        (tmp_path / "strategies.json").write_text(json.dumps({"arms": wrong} if wrong else {}))
        with pytest.raises(UserError, match="has no arms"):
            run([str(path)], table)


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("answers.jsonl", ""),
        ("answers.jsonl", "{}\n"),
        ("answers.jsonl", '{"gold": "x", "prompt_id": 3}\n'),
        ("metrics.jsonl", "{}\n"),
        ("metrics.jsonl", '{"dev/gold_mean": 1}\n'),
    ],
)
def test_files_of_others_beside_the_points_are_not_used(tmp_path: Path, place: str, content: str) -> None:
    points = sweep(RAW)
    folder = tmp_path / "policy" / points[-1]["cell"]
    folder.mkdir(parents=True)
    (folder / place).write_text(content)
    path = written(tmp_path / "curve" / "points.csv", points)
    _, beside = read_with_run(path)
    assert not beside.golds and not beside.looks
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "prompts.jsonl").write_text('{"prompt_id": "a"}\n')
    with pytest.raises(UserError, match="rows that are no prompts"):
        read_with_run(path)


def test_flips_of_two_bases_are_one_analysis(tmp_path: Path) -> None:
    points = two_bases(0.79, 0.25)
    path = written(tmp_path / "points.csv", points)
    assert read_points(path) == points
    run([str(path)], AnalyseTable(output=str(tmp_path / "out")))
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    verdicts = {(claim["number"], claim["curve"]): claim["verdict"] for claim in found["claims"]}
    assert verdicts[8, ""] == "supported" and verdicts[1, "weak"] == "contradicted"
    assert all(claim["rule"] for claim in found["claims"])
    assert (tmp_path / "out" / "accuracy-against-flips.png").exists()
    rows = (tmp_path / "out" / "accuracy-against-flips.csv").read_text().splitlines()
    assert rows[0].startswith("start,kind,flip_rate,informativeness,value,lo,hi") and len(rows) == 5


def test_points_that_a_spreadsheet_saved_are_read(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (HEADER + "a,,,gold,grpo,0,,,0.5,400\n").replace("\n", "\r\n").encode())
    assert [point["cell"] for point in read_points(path)] == ["a"]


def test_runs_of_different_worlds_are_refused() -> None:
    one, other = [cell("gold", None, 0.9)], [cell("gold", None, 0.8)]
    with pytest.raises(UserError, match=r"is not the one of a\.csv \(quality 0\.8 and 0\.9"):
        join([one, other], ["a.csv", "b.csv"])


def test_files_of_known_different_worlds_are_refused_and_unknown_ones_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums = written(
        tmp_path / "a" / "curve" / "points.csv", [cell("gold", None, 0.9, base="strong", world="arithmetic")]
    )
    advice = written(tmp_path / "b" / "curve" / "points.csv", [cell("gold", None, 0.8, world="advice")])
    older = written(tmp_path / "c" / "curve" / "points.csv", [cell("gold", None, 0.8, reasoned_share=0.5)])
    unknown = written(tmp_path / "d" / "curve" / "points.csv", [cell("gold", None, 0.8)])
    assert read_points(sums)[0]["world"] == "arithmetic" and worlds_of(read_points(unknown)) == set()
    for other in (advice, older):
        with pytest.raises(UserError, match=r"is of the world advice, .* of arithmetic; runs of one world") as caught:
            run([str(sums), str(other)], AnalyseTable(output=str(tmp_path / "out")))
        assert "\n" not in str(caught.value)
    run([str(advice), str(unknown)], AnalyseTable(output=str(tmp_path / "out")))
    assert f"Warning: {unknown} does not say of which world it is" in capsys.readouterr().out
    run([str(unknown)], AnalyseTable(output=str(tmp_path / "alone")))
    assert "Warning" not in capsys.readouterr().out


def test_a_file_that_a_table_program_has_saved_is_the_same_points(tmp_path: Path) -> None:
    points = sweep(RAW, rm_seeds=2)
    path = written(tmp_path / "points.csv", points)
    pandas.read_csv(path).astype({"seed": float, "n_prompts": float}).to_csv(path, index=False)
    assert ",0.0," in path.read_text() and read_points(path) == points


def test_looks_of_another_run_are_left_aside_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "some-points.csv", sweep(RAW))
    looks = tmp_path / "some-looks.csv"
    write_table(looks, LOOK_COLUMNS, [dict.fromkeys(LOOK_COLUMNS) | {"cell": "elsewhere", "step": 0, "gold": 0.5}])
    assert not read_with_run(path)[1].looks
    assert "some-looks.csv: no look is of a cell of some-points.csv" in capsys.readouterr().out
    looks.write_text("cell,step\nelsewhere,0\n")
    with pytest.raises(UserError, match=r"some-looks\.csv: looks without gold"):
        read_with_run(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "lacks cell, rung"),
        (HEADER, "has no rows"),
        (HEADER + "a,,,gold,grpo,0,,,many,400\n", "points.csv:2: quality should be a number, found 'many'"),
        (HEADER + "a,65,early_stop,raw,grpo,0,0,,0.5,400\n", "a has no quality, or a rung without an accuracy"),
        (HEADER + "a,,,gold,grpo,0.5,,,0.5,400\n", "points.csv:2: seed should be a whole number, found '0.5'"),
        ("\ud800", "cannot be read as points"),
        (HEADER + ",,,gold,grpo,0,,,0.5,400\n", "points.csv:2: cell is empty"),
        (HEADER + "a,,,gold,grpo,0,,,nan,400\n", "points.csv:2: quality should be a number, found 'nan'"),
        (HEADER + "a,,,gold,grpo,0,,,5,400\n", "points.csv:2: quality should be between 0 and 1, found 5.0"),
        (HEADER + "a,,,gold,grpo,0,,,0.5,-3\n", "points.csv:2: n_prompts should be 1 or more, found -3"),
        (HEADER + "a,,,gold,grpo,0,,,0.5,\n", "points.csv:2: n_prompts should be 1 or more, found None"),
    ],
)
def test_what_is_no_points_is_refused_in_one_line(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=sentence) as caught:
        read_points(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="No such file"):
        read_points(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match=r"name one points\.csv or more"):
        run([], AnalyseTable())
