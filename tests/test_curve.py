"""The sweep on a small world: cells, side by side, judged, gathered, drawn, and all of it again without a change."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from curve.cli import main
from curve.points import COLUMNS, over_seeds
from curve.report.page import findings_of
from curve.sweep.cells import expand
from tests.conftest import ROOT, SMALL_ADVICE, small_experiment

SWEEP = "curve.sweep=[{reward: [gold, rpr_only]}, {reward: [raw, rpr], rung: [55, 60]}]"


def bytes_of(folder: Path) -> dict[str, bytes]:
    skipped = (".lock", "replies.sqlite", "replies.sqlite-wal", "replies.sqlite-shm")
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in skipped and p.suffix != ".log"
    }


def arguments(runs: Path, *more: str) -> list[str]:
    return [str(ROOT / "configs" / "demo.yaml"), *SMALL_ADVICE, f"runs_dir={runs}", "name=small", SWEEP, *more]


@pytest.fixture(scope="module")
def run_folder(small: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A whole run through the command line, on a copy of the small task and ladder."""
    runs = tmp_path_factory.mktemp("curve") / "runs"
    shutil.copytree(small.folder, runs / "small", ignore=shutil.ignore_patterns("policy", "judge", "curve"))
    before = Path.cwd()
    os.chdir(ROOT)
    assert main(["run", *arguments(runs)]) == 0
    yield runs / "small"
    os.chdir(before)


def rows_of(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / "curve" / "points.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_points_have_a_row_a_cell(run_folder: Path) -> None:
    rows = rows_of(run_folder)
    assert tuple(rows[0]) == COLUMNS
    assert [row["cell"] for row in rows] == [
        "untrained",
        "gold-grpo-s0",
        "rpr_only-grpo-s0",
        "raw-rung55-grpo-s0",
        "raw-rung60-grpo-s0",
        "rpr-rung55-grpo-s0",
        "rpr-rung60-grpo-s0",
    ]
    untrained = rows[0]
    assert (untrained["quality"], untrained["net_win"], untrained["rung"]) == ("0.5", "0.0", "")
    ladder = {rung["rung"]: rung for rung in read_json(run_folder / "rm" / "ladder.json")["rungs"]}
    for row in rows:
        assert int(row["n_prompts"]) == 60
        assert float(row["quality_lo"]) <= float(row["quality"]) <= float(row["quality_hi"])
        if row["rung"]:
            assert float(row["rm_accuracy"]) == ladder[row["rung"]]["accuracy"]
            assert row["route"] == "early_stop"


def test_figure_and_report_stand_alone(run_folder: Path) -> None:
    folder = run_folder / "curve"
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "curve.svg").read_text()
    page = (folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    for wanted in ("data:image/png;base64,", "raw-rung60-grpo-s0", "The ladder", "made from", "torch"):
        assert wanted in page


def test_a_second_run_changes_no_byte(run_folder: Path) -> None:
    before = bytes_of(run_folder)
    assert main(["run", *arguments(run_folder.parent)]) == 0
    assert bytes_of(run_folder) == before


def test_status_counts_what_is_finished(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", *arguments(run_folder.parent)]) == 0
    out = capsys.readouterr().out
    assert "18 of 18 stages are finished" in out
    assert main(["status", *arguments(run_folder.parent, "name=other")]) == 0
    assert "0 of 18 stages are finished" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[1, 2]", '{"made_from": ', '"text"', "[" * 100_000])
def test_status_shows_a_damaged_manifest_as_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    folder = small_experiment(tmp_path).folder / "tasks"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(content)
    assert main(["status", str(ROOT / "configs" / "demo.yaml"), f"runs_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "damaged" in out and "the manifest.json of tasks is none of this tool's; delete the folder" in out


def test_doctor_is_well_on_an_offline_world(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *arguments(run_folder.parent)]) == 0
    assert "the sweep has 7 cells" in capsys.readouterr().out


def test_doctor_says_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    wrong = ["judge.kind=openai", "rm.model_name_or_path=/nowhere/at-all"]
    assert main(["doctor", str(ROOT / "configs" / "demo.yaml"), *wrong]) == 2
    captured = capsys.readouterr()
    assert "OPENAI_API_KEY is not set" in captured.out
    assert "checks failed: models, memory (rm), judge" in captured.err


def test_an_altered_input_is_refused_by_name(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_folder / "rm" / "rung-60" / "units.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"scale", b"scalE"))
    try:
        assert main(["curve", *arguments(run_folder.parent)]) == 2
        assert "units.json: altered since it was finished" in capsys.readouterr().err
    finally:
        path.write_bytes(before)


def test_a_failed_cell_is_reported_and_the_curve_drawn_from_the_others(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(run_folder, runs / "small")
    broken = runs / "small" / "policy" / "gold-grpo-s0"
    shutil.rmtree(broken)
    broken.mkdir()
    (broken / "started.json").write_text('{"settings": {"learning_rate": 1}}')
    assert main(["curve", *arguments(runs)]) == 2
    captured = capsys.readouterr()
    assert "1 of 7 cells failed (gold-grpo-s0)" in captured.err
    assert len(rows_of(runs / "small")) == 6
    assert "gold-grpo-s0" in (runs / "small" / "curve" / "report.html").read_text()
    shutil.rmtree(broken)
    assert main(["curve", *arguments(runs)]) == 0
    assert rows_of(runs / "small") == rows_of(run_folder)


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ("[{rewards: [gold]}]", "'rewards' is not a field of the policy table"),
        ("[{reward: gold, seed: 3}]", "use curve.seeds"),
        ("[{reward: []}]", "swept over an empty list"),
        ("[{reward: raw}]", "needs a rung"),
        ("[{reward: gold, learning_rate: [1e-4, 2e-4]}]", "two different cells named gold-grpo-s0"),
        ("[]", "at least 1"),
    ],
)
def test_sweeps_that_mean_nothing_are_refused(small: Experiment, sweep: str, sentence: str) -> None:
    import yaml

    with pytest.raises(UserError, match=sentence):
        expand(small.with_overrides({"curve.sweep": yaml.safe_load(sweep)}))


def test_a_sweep_is_the_product_of_its_lists(small: Experiment) -> None:
    sweep = [{"reward": ["raw", "rpr"], "rung": [55, 60]}, {"reward": "gold"}, {"reward": "gold"}]
    cells = expand(small.with_overrides({"curve.sweep": sweep, "curve.seeds": [0, 1]}))
    assert len(cells) == 1 + 2 * 2 * 2 + 2
    assert cells[0].name == "untrained"
    assert len({cell.name for cell in cells}) == len(cells)


def point(reward: str, rung: str | None, quality: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    base = dict.fromkeys(COLUMNS) | {
        "cell": f"{reward}-rung{rung}-grpo-s0" if rung else reward,
        "reward": reward,
        "rung": rung,
        "seed": 0,
        "quality": quality,
        "quality_lo": low,
        "quality_hi": high,
        "gold_mean": quality,
        "length_mean": 10.0,
        "n_prompts": 100,
    }
    rung_facts = {"rm_accuracy": 0.65, "rm_accuracy_lo": 0.6, "rm_accuracy_hi": 0.7} if rung else {}
    return base | rung_facts | more


def test_means_over_seeds_carry_their_own_interval() -> None:
    one = over_seeds([point("raw", "65", 0.4, 0.3, 0.5)])[0]
    assert (one["quality"], one["quality_lo"], one["interval_over"]) == (0.4, 0.3, "prompts")
    three = over_seeds([point("raw", "65", q, 0, 1) for q in (0.4, 0.5, 0.6)])[0]
    assert three["quality"] == pytest.approx(0.5)
    assert three["quality_hi"] - 0.5 == pytest.approx(4.302652729911275 * 0.1 / 3**0.5)
    assert (three["n_seeds"], three["interval_over"]) == (3, "seeds")


def test_findings_say_no_more_than_the_intervals() -> None:
    weak, strong = point("raw", "65", 0.45, 0.40, 0.52), point("rpr", "65", 0.6, 0.55, 0.65)
    best, beside = findings_of([weak, strong])
    assert "better than no training" in best and "n" in best
    assert "do not overlap" in beside
    assert "not shown to be better" in findings_of([weak])[0]
    assert "intervals overlap" in findings_of([point("raw", "65", 0.5, 0.4, 0.6), strong])[1]


def test_a_sweep_without_reward_models_is_drawn_as_levels(tmp_path: Path) -> None:
    from curve.figures.quality import draw

    points = [point("untrained", None, 0.5, 0.5, 0.5), point("gold", None, 0.9, 0.85, 0.95)]
    draw(tmp_path / "figure", points, over_seeds(points), "levels")
    drawn = (tmp_path / "figure.svg").read_text()
    assert "gold reward (bound)" in drawn and "accuracy of the reward model" not in drawn
    draw(tmp_path / "again", points, over_seeds(points), "levels")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "figure.svg").read_bytes()
