"""A sweep of variants on a small world: runs of their own, one pool, one table of points, and a variant that fails."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from curve.cli import main
from curve.points import COLUMNS, over_seeds
from curve.sweep.workers import Job
from tests.conftest import ROOT, SMALL_ADVICE
from tests.test_curve import bytes_of, point

SWEEP = "curve.sweep=[{reward: [gold], max_steps: 1, arm: 'gold{max_steps}'}, {reward: raw, rung: 60, max_steps: 1}]"
TWO = "one: null, two: {rm.seed: 7}"
CELLS = ["one/untrained", "one/gold1-grpo-s0", "one/raw-rung60-grpo-s0", "two/untrained", "two/raw-rung60-grpo-s0"]


def arguments(runs: Path, variants: str = TWO) -> list[str]:
    given = [
        "name=small",
        f"runs_dir={runs}",
        "policy.dev_every=0",
        "policy.learning_rate=0.003",
        "policy.warmup_steps=0",
        SWEEP,
        f"curve.variants={{{variants}}}",
    ]
    return ["curve", str(ROOT / "configs" / "demo.yaml"), *SMALL_ADVICE, *given]


@pytest.fixture(scope="module")
def run_folder(small: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The whole sweep through the command line; what the variants share with the small experiment is copied."""
    runs = tmp_path_factory.mktemp("variants") / "runs"
    for label, rooms in (("one", ("tasks", "rm", "calibration")), ("two", ("tasks",))):
        for room in rooms:
            shutil.copytree(small.folder / room, runs / "small" / "variants" / label / room)
    before = Path.cwd()
    os.chdir(ROOT)
    assert main(arguments(runs)) == 0
    yield runs / "small"
    os.chdir(before)


def rows_of(run_folder: Path, name: str = "points.csv") -> list[dict[str, str]]:
    with (run_folder / "curve" / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_points_of_all_variants_are_one_table(run_folder: Path) -> None:
    rows = {row["cell"]: row for row in rows_of(run_folder)}
    assert list(rows) == CELLS
    assert tuple(rows[CELLS[0]]) == COLUMNS
    assert [row["variant"] for row in rows.values()] == ["one"] * 3 + ["two"] * 2
    assert {row["base"] for row in rows.values()} == {"tied"} and {row["setup"] for row in rows.values()} == {""}
    first, second = rows["one/raw-rung60-grpo-s0"], rows["two/raw-rung60-grpo-s0"]
    assert (first["rm_seed"], second["rm_seed"], first["rm_accuracy"] != second["rm_accuracy"]) == ("0", "7", True)
    gold = rows["one/gold1-grpo-s0"]
    assert (gold["arm"], gold["treatment"], gold["reward"]) == ("gold1", "gold1", "gold")
    assert (gold["flip_rate"], gold["false_negative_rate"], gold["n_updates"]) == ("", "0.0", "1")
    assert (gold["code_share"], float(gold["reasoned_share_untrained"])) == (
        "",
        float(first["reasoned_share_untrained"]),
    )


def test_quality_is_against_the_untrained_policy_of_the_variant(run_folder: Path) -> None:
    for label in ("one", "two"):
        manifest = read_json(run_folder / "variants" / label / "judge" / "raw-rung60-grpo-s0" / "manifest.json")
        assert set(manifest["made_from"]["inputs"]) == {"tasks", "cell", "baseline"}
    assert (run_folder / "judge" / "replies.sqlite").exists(), "what was asked is shared, and so is a cap on money"
    assert not list((run_folder / "variants").glob("*/judge/replies.sqlite"))


def test_the_curve_counts_reward_models_as_units_and_the_untrained_policy_once(run_folder: Path) -> None:
    rows = {row["treatment"]: row for row in rows_of(run_folder, "curve.csv")}
    assert (rows["raw"]["n_rm_seeds"], rows["raw"]["n_seeds"], rows["raw"]["interval_over"]) == ("2", "1", "rm_seeds")
    assert (rows["untrained"]["n_seeds"], rows["untrained"]["interval_over"]) == ("1", "prompts")


def test_a_second_run_changes_no_byte(run_folder: Path) -> None:
    before = bytes_of(run_folder)
    assert main(arguments(run_folder.parent)) == 0
    assert bytes_of(run_folder) == before


def test_a_variant_that_cannot_be_prepared_is_reported_and_the_others_are_drawn(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(run_folder, runs / "small")
    broken = runs / "small" / "variants" / "bad" / "tasks"
    broken.mkdir(parents=True)
    (broken / "started.json").write_text('{"settings": {"n_eval_prompts": 1}}')
    more = f"{TWO}, bad: {{rm.seed: 8}}"
    assert main(arguments(runs, more)) == 2
    captured = capsys.readouterr()
    assert "2 of 7 cells failed (bad/raw-rung60-grpo-s0, bad/untrained)" in captured.err
    assert "was begun with other settings" in captured.err and captured.err.count("error:") == 1
    assert [row["cell"] for row in rows_of(runs / "small")] == CELLS
    assert read_json(runs / "small" / "curve" / "manifest.json")["summary"]["missing"] == [
        "bad/raw-rung60-grpo-s0",
        "bad/untrained",
    ]


def test_cells_of_other_treatments_bases_or_setups_are_other_points() -> None:
    same = [point("gold", None, 0.5, 0.4, 0.6, seed=seed) for seed in (0, 1)]
    others = [
        point("gold", None, 0.5, 0.4, 0.6, **{column: "other"})
        for column in ("treatment", "base", "setup", "algorithm")
    ]
    rows = over_seeds([*same, *others])
    assert [row["n_seeds"] for row in rows] == [2, 1, 1, 1, 1]


def test_the_same_policy_under_two_variants_counts_once_and_another_one_does_not() -> None:
    twice = [point("untrained", None, 0.5, 0.5, 0.5, variant=label, seed=None) for label in "ab"]
    assert [row["n_seeds"] for row in over_seeds(twice)] == [1]
    rungs = [point("raw", "65", 0.5, 0.4, 0.6, rm_seed=seed) for seed in (0, 1)]
    (row,) = over_seeds(rungs)
    assert (row["n_rm_seeds"], row["interval_over"]) == (2, "rm_seeds")


def test_jobs_go_to_the_executor_that_the_table_names(small: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    import curve.stage

    asked: list[tuple[str, object]] = []
    monkeypatch.setattr(curve.stage, "run_on_ray", lambda jobs, table: asked.append(("ray", table.num_gpus)) or {})
    monkeypatch.setattr(curve.stage, "run_side_by_side", lambda jobs, n, what: asked.append(("local", n)) or {})
    job = Job("a", ["true"], Path("a.log"), 1)
    for overrides in ({}, {"curve.executor": "ray"}, {"curve.executor": "ray", "curve.ray.num_gpus": 0.5}):
        curve.stage.run_jobs(small.with_overrides(overrides), [job], "cells")
    assert asked == [("local", 2), ("ray", 0), ("ray", 0.5)]
    assert curve.stage.run_jobs(small, [], "cells") == {}
    with pytest.raises(UserError, match="ray is read only with executor: ray"):
        curve.stage.run_jobs(small.with_overrides({"curve.ray.num_gpus": 1}), [job], "cells")
