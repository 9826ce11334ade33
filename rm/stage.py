"""The stage `rm`: trains the reward models of a route and keeps their ladder in `runs/<name>/rm/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tasks.stage
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from configs.runfolder import MANIFEST, Stage, is_finished, run_stage
from configs.terminal import interval, say, show_table
from rm.config import RMTable
from rm.ladder_work import LADDER_FILE, make_ladder, refuse_4bit
from rm.processes import DDP, MainAndOthers, is_main, sharding
from rm.rung_digest import CARD_FILE
from tasks.table import load_task

ROOM = "rm"


def folder_of(experiment: Experiment) -> Path:
    """Where the ladder lies."""
    return experiment.folder / ROOM


def run(experiment: Experiment) -> dict[str, Any]:
    """Train the ladder, or find it finished; the task is built first where it is missing. Returns the manifest.

    Under `accelerate launch` every process calls this; the main one builds and writes, the others train beside it.
    """
    table = experiment.table(ROOM, RMTable)
    refuse_4bit(table)
    folder, task_folder = folder_of(experiment), tasks.stage.folder_of(experiment)
    if sharding() is not None and not is_finished(folder):
        raise UserError(f"rm: reward models are trained whole in every process; launch with {DDP} first")
    step = MainAndOthers()

    def lead() -> None:
        tasks.stage.run(experiment)
        stage = Stage(ROOM, folder, _settings(table), experiment.seed, {"tasks": task_folder})
        run_stage(
            stage, lambda inside: make_ladder(inside, task_folder, load_task(experiment), table, experiment, step)
        )

    def beside() -> None:
        make_ladder(folder, task_folder, load_task(experiment), table, experiment, step)

    if is_main():
        step.lead(lead)
    else:
        step.follow(beside)
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    return manifest


def _settings(table: RMTable) -> dict[str, Any]:
    """The settings that decide the ladder; how rows are cut into batches does not."""
    return table.model_dump(mode="json", exclude={"eval_batch_tokens", "save_steps", "packed", "batch_tokens"})


def show(experiment: Experiment) -> None:
    """Print the ladder."""
    if not is_main():
        return
    folder = folder_of(experiment)
    ladder = read_json(folder / LADDER_FILE)
    rows = [
        (
            rung["rung"],
            rung["step"] if rung["route_value"] is None else f"{rung['step']} of {rung['route_value']}",
            interval(rung["accuracy"], rung["accuracy_lo"], rung["accuracy_hi"]),
            rung["n_pairs"],
            *_on_policy(folder / rung["folder"]),
            rung["ece"],
            rung["nll"],
            rung["score_spread_per_prompt"],
        )
        for rung in ladder["rungs"]
    ]
    columns = ("rung", "step", "accuracy [95%]", "pairs", "on-policy [95%]", "pairs", "ECE", "NLL", "spread per prompt")
    show_table(f"rm: the ladder by {ladder['route']}  ({folder})", columns, rows)
    say("ECE, NLL and spread have their intervals in the table of `rewardladder calibrate`.")
    length = ladder["length_baseline"]
    say(
        f"Preferring the longer answer: {interval(length['estimate'], length['lo'], length['hi'])} on the same "
        f"{length['n']} pairs. Targets that no checkpoint came near on the selection pairs: "
        f"{', '.join(map(str, ladder['targets_missed'])) or 'none'}; the accuracy above is of pairs that had no say."
    )


def _on_policy(rung: Path) -> tuple[str, int | None]:
    """Accuracy on pairs of the untrained policy's answers with its interval, and their number."""
    found = read_json(rung / CARD_FILE).get("on_policy_accuracy") or {}
    return interval(found.get("estimate"), found.get("lo"), found.get("hi")), found.get("n")


def rung_folder(experiment: Experiment, rung: str) -> Path:
    """The folder of a rung of a finished ladder.

    Raises:
        UserError: the ladder has no such rung.
    """
    folder = folder_of(experiment)
    names = [entry["rung"] for entry in read_json(folder / LADDER_FILE)["rungs"]]
    if rung not in names:
        raise UserError(f"{folder}: there is no rung {rung!r}; the rungs are {', '.join(names)}")
    return folder / f"rung-{rung}"
