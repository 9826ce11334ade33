"""What the cells of a run need first: its task and, where a cell reads a rung, its ladder and calibration.

`python -m curve.sweep.preparation x.yaml` makes it in a process of its own, so that the variants of a sweep are
prepared side by side. It imports the rooms only then: a list of commands needs no torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from configs.command import room_command
from configs.loader import Experiment
from configs.records import sha256_of_record, write_bytes
from configs.runfolder import is_finished
from curve.sweep.cells import expand

EXPERIMENTS_FOLDER = "experiments"


def rooms_before(run: Experiment) -> list[str]:
    """The rooms that its cells need, in their order."""
    return ["tasks", "rm", "calibration"] if any(cell.table.rungs for cell in expand(run)) else ["tasks"]


def is_ready(run: Experiment) -> bool:
    """Whether all of it is finished."""
    return all(is_finished(run.folder / room) for room in rooms_before(run))


def make_ready(run: Experiment) -> None:
    """Make what is missing, and check what is finished."""
    rooms = rooms_before(run)
    import tasks.stage

    tasks.stage.run(run)
    if "rm" in rooms:
        import calibration.stage
        import rm.stage

        rm.stage.run(run)
        calibration.stage.run(run)


def describe(experiment: Experiment) -> str:
    """The experiment as one YAML text, overrides included."""
    top = {"name": experiment.name, "seed": experiment.seed, "runs_dir": str(experiment.runs_dir)}
    return str(yaml.safe_dump({**top, **experiment.tables}, sort_keys=False))


def described(run: Experiment) -> Path:
    """The file that describes a run, for the processes that make its parts.

    Named by its content: another run with other settings in this folder must not change what our cells read.
    """
    text = describe(run)
    source = run.folder / EXPERIMENTS_FOLDER / f"{sha256_of_record(text)[:16]}.yaml"
    if not source.exists():
        write_bytes(source, text.encode())
    return source


if __name__ == "__main__":
    sys.exit(room_command("python -m curve.sweep.preparation", "Prepare the cells of a run.", make_ready, sys.argv[1:]))
