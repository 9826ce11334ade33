"""The stage `tasks`: builds the task of an experiment in `runs/<name>/tasks/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.loader import Experiment
from configs.runfolder import Stage, run_stage
from configs.terminal import show_table
from tasks.records import read_pairs, read_prompts
from tasks.table import load_task, task_table
from tasks.torch_setup import prepare_torch

ROOM = "tasks"
CPU_THREADS = 1
"""Tiny bases are taught on one thread, so that every machine teaches the same one."""


def folder_of(experiment: Experiment) -> Path:
    """Where the task lies."""
    return experiment.folder / ROOM


def run(experiment: Experiment) -> dict[str, Any]:
    """Build the task, or find it finished; returns the manifest."""
    table, task = task_table(experiment), load_task(experiment)
    folder = folder_of(experiment)
    stage = Stage(ROOM, folder, table.model_dump(mode="json"), experiment.seed, task.input_files())

    def work(inside: Path) -> dict[str, Any]:
        prepare_torch(CPU_THREADS)
        return task.build(inside, experiment.seed)

    return run_stage(stage, work)


def show(experiment: Experiment) -> None:
    """Print what the task holds."""
    folder = folder_of(experiment)
    prompts, pairs = read_prompts(folder), read_pairs(folder)
    rows = [(f"{split} prompts", sum(p.split == split for p in prompts)) for split in ("train", "dev", "eval")]
    rows += [
        (f"{split} pairs", sum(p.split == split for p in pairs)) for split in ("train", "selection", "measurement")
    ]
    show_table(f"tasks: {load_task(experiment).name}  ({folder})", ("what", "n"), rows)
