"""SIGKILL in every stage of a whole run, then the same command again: the same points as an undisturbed run."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
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


def command(runs: Path) -> list[str]:
    program = "import sys; from curve.cli import main; sys.exit(main())"
    arguments = ["run", "configs/demo.yaml", *SMALL_ADVICE, "name=killed", f"runs_dir={runs}", SWEEP]
    return [sys.executable, "-c", program, *arguments]


def points(runs: Path) -> list[dict[str, str]]:
    with (runs / "killed" / "curve" / "points.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_in_every_stage_ends_with_the_same_points(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = tmp_path / "killed"
    kills = 0
    for moment in MOMENTS:
        process = subprocess.Popen(
            command(runs), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240
        while process.poll() is None and not (runs / "killed" / moment).exists():
            assert time.monotonic() < deadline, f"{moment} never came"
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 6
    subprocess.run(command(runs), cwd=ROOT, env=environment, check=True, capture_output=True)
    undisturbed = tmp_path / "undisturbed"
    subprocess.run(command(undisturbed), cwd=ROOT, env=environment, check=True, capture_output=True)
    assert points(runs) == points(undisturbed)
    assert not list((runs / "killed").rglob("*.part")), "half-written files are left"
    assert not list((runs / "killed").rglob("scratch"))
