"""SIGKILL in every stage of a whole run, then the same command again: the same points as an undisturbed run."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALL_ADVICE

SWEEP = "curve.sweep=[{reward: [gold]}, {reward: [rpr], rung: [60]}]"
MOMENTS = (
    "tasks/started.json",
    "rm/scratch/checkpoint-10",
    "rm/rung-55",
    "calibration/started.json",
    "policy/untrained/started.json",
    "policy/rpr-rung60-grpo-s0/scratch/audit/step-000004.parquet",
    "judge/replies.sqlite",
    "curve/started.json",
)
"""What must be there when the run is killed; a stage that is over in a blink may be missed, and is then not killed."""


def run(runs: str) -> None:
    """The work of the process that is killed: the command, its output nowhere."""
    from curve.cli import main

    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        raise SystemExit(main(["run", "configs/demo.yaml", *SMALL_ADVICE, "name=killed", f"runs_dir={runs}", SWEEP]))


def started(runs: Path) -> multiprocessing.process.BaseProcess:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["curve.stage"])  # or each of the processes would import torch and trl anew
    process = processes.Process(target=run, args=(str(runs),))
    process.start()
    return process


def points(runs: Path) -> list[dict[str, str]]:
    with (runs / "killed" / "curve" / "points.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_in_every_stage_ends_with_the_same_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    runs = tmp_path / "killed"
    kills = 0
    for moment in MOMENTS:
        process, deadline = started(runs), time.monotonic() + 240
        while process.is_alive() and not (runs / "killed" / moment).exists():
            assert time.monotonic() < deadline, f"{moment} never came"
            time.sleep(0.002)
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 6
    undisturbed = tmp_path / "undisturbed"
    for folder in (runs, undisturbed):
        process = started(folder)
        process.join()
        assert process.exitcode == 0
    assert points(runs) == points(undisturbed)
    assert not list((runs / "killed").rglob("*.part")), "half-written files are left"
    assert not list((runs / "killed").rglob("scratch"))
