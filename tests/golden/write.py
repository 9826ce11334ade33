"""Write the golden trajectories anew: `make golden`. A change of these numbers needs its reason in the commit.

ladder.txt   the loss of every step of the small reward-model run, and its rungs
policy.txt   reward, gold and loss of every step of one small policy
bases/       the taught base that both start from: teaching takes hundreds of steps, in which the rounding of another
             kind of processor grows into another base
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import policy.stage
import rm.stage
from configs.loader import Experiment
from configs.records import read_json, read_jsonl
from policy.stage import cell_folder
from tasks.base_folder import CACHE_VARIABLE
from tests.conftest import small_experiment

FOLDER = Path(__file__).parent
BASES = FOLDER / "bases"
DIGITS = 5


def ladder_lines(experiment: Experiment) -> list[str]:
    """Losses and rungs of a finished small ladder."""
    ladder = read_json(experiment.folder / "rm" / "ladder.json")
    lines = [f"loss {step} {loss:.{DIGITS}f}" for step, loss in enumerate(ladder["losses"], start=1)]
    return lines + [f"rung {r['rung']} step {r['step']} accuracy {r['accuracy']:.{DIGITS}f}" for r in ladder["rungs"]]


def policy_lines(cell: Path) -> list[str]:
    """Reward, gold and loss of every step of a finished small cell."""
    rows = [row for row in read_jsonl(cell / "metrics.jsonl") if "loss" in row]
    named = ("reward", "gold", "loss")
    return [f"step {row['step']} " + " ".join(f"{name} {row[name]:.{DIGITS}f}" for name in named) for row in rows]


def make_small(runs: Path) -> tuple[Experiment, Path]:
    """The small experiment's ladder and its cell `rpr` on rung 60."""
    experiment = small_experiment(runs, "name=small", "policy.reward=rpr", "policy.rung=60")
    rm.stage.run(experiment)
    policy.stage.run(experiment)
    return experiment, cell_folder(experiment)


def main() -> int:
    """Write all three."""
    shutil.rmtree(BASES, ignore_errors=True)
    os.environ[CACHE_VARIABLE] = str(BASES)
    with tempfile.TemporaryDirectory() as folder:
        experiment, cell = make_small(Path(folder) / "runs")
        (FOLDER / "ladder.txt").write_text("\n".join(ladder_lines(experiment)) + "\n")
        (FOLDER / "policy.txt").write_text("\n".join(policy_lines(cell)) + "\n")
    for lock in BASES.glob("*/.lock"):
        lock.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
