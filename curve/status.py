"""`rewardladder status`: what of an experiment is finished, what is not, and how long it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from configs.runfolder import MANIFEST, STARTED
from configs.terminal import say, show_table
from curve.cells import expand


def stages_of(experiment: Experiment) -> list[tuple[str, str]]:
    """Every stage of the whole experiment, in the order in which they are made: (name, folder inside the run)."""
    cells = expand(experiment) if experiment.tables["curve"] else []
    stages = [("tasks", "tasks")]
    if experiment.tables["rm"] or any(cell.table.rung for cell in cells):
        stages.append(("rm", "rm"))
    if any(cell.table.rung for cell in cells):
        stages.append(("calibrate", "calibration"))
    stages += [("policy", f"policy/{cell.name}") for cell in cells]
    stages += [("judge", f"judge/{cell.name}") for cell in cells]
    return [*stages, ("curve", "curve")] if cells else stages


def show_status(experiment: Experiment) -> None:
    """Print one row a stage."""
    rows: list[tuple[Any, ...]] = []
    done = 0
    for name, inside in stages_of(experiment):
        folder = experiment.folder / inside
        if (folder / MANIFEST).exists():
            manifest = _read_manifest(folder)
            if manifest is None:
                rows.append((name, inside, "damaged", None, None))
                continue
            rows.append((name, inside, "finished", manifest.get("seconds"), manifest.get("finished")))
            done += 1
        else:
            rows.append((name, inside, "begun" if (folder / STARTED).exists() else "missing", None, None))
    show_table(
        f"status of {experiment.name}  ({experiment.folder})", ("stage", "folder", "state", "seconds", "at"), rows
    )
    say(f"{done} of {len(rows)} stages are finished.")
    damaged = [row[1] for row in rows if row[2] == "damaged"]
    if damaged:
        say(
            f"damaged: the {MANIFEST} of {', '.join(damaged)} is none of this tool's; delete the folder to make it anew"
        )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage; None where it was cut or edited into something else."""
    try:
        manifest = read_json(folder / MANIFEST)
    except UserError:
        return None
    return manifest if isinstance(manifest, dict) else None
