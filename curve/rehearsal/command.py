"""Rehearse a recipe: a few steps of every stage on random weights of its model's shape, with clock and memory meter.

    rewardladder rehearse configs/helpsteer3-qwen2.5-7b-80gb.yaml                shape and tokenizer from the hub
    rewardladder rehearse configs/helpsteer3-qwen2.5-7b-24gb.yaml shape=7b memory_gib=24
                                                                  nothing from anywhere, on at most 24 GiB of this GPU

Says for each stage the peak of the GPU's memory beside what `doctor` predicts, the seconds of a step by part, and the
hours of the whole recipe. No weights and no data are downloaded: pairs are random words of the lengths that the recipe
allows, half of the prompts as long as they may be. Random weights hardly ever end an answer, so answers run to the
limit, and seconds are what the longest answers take.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from configs.errors import UserError
from configs.loader import Experiment, Table, is_a_file, load_experiment, read_words
from configs.records import make_folder, place_to_write, read_json, write_json
from configs.terminal import say, show_table
from curve.rehearsal.forecast import forecast
from judge.config import JudgeTable
from policy.config import PolicyTable
from rm.config import RMTable
from tasks.table import task_table

STAGES = ("material", "rm", "policy")


class RehearseTable(Table):
    """Settings of a rehearsal.

    Attributes:
        shape: `3b` or `7b`, Qwen2.5's, made without the hub; that of the recipe's own model where it is not given,
            whose configuration and tokenizer (no weights) then come from the hub or its cache. `tiny` stands in for
            it, to see the stages run on a CPU.
        memory_gib: cap on the GPU's memory, in GiB; a colocated vLLM's share is of the cap. All where it is not given.
        rm_steps, policy_steps: optimizer steps; the first of them is not timed where there are several.
        n_pairs: random pairs; a fifth is held out.
        prompts_per_step: of the policy; the recipe's where it is not given. Seconds are scaled to the recipe's.
        answers: eval prompts that are answered, at once.
        answer_tokens: limit of these answers; the recipe's where it is not given.
        output: a JSON file for the figures.
        keep: a folder for the rehearsal's runs; a temporary one where it is not given.
    """

    shape: Literal["tiny", "3b", "7b"] | None = None
    memory_gib: float | None = Field(None, gt=0)
    rm_steps: int = Field(4, ge=2)
    policy_steps: int = Field(3, ge=2)
    n_pairs: int = Field(240, ge=60)
    prompts_per_step: int | None = Field(None, ge=1)
    answers: int = Field(2, ge=1)
    answer_tokens: int | None = Field(None, ge=1)
    output: Path | None = None
    keep: Path | None = None


def run(words: Sequence[str]) -> None:
    """Rehearse, print, and write the figures where asked to; `words` may change the recipe: `policy.batch_tokens=4096`.

    Raises:
        UserError: no recipe or several, a setting is not allowed, or a stage failed; what it said stands above.
    """
    changes = [word for word in words if "=" in word and "." in word.partition("=")[0] and not is_a_file(word)]
    own = [word for word in words if word not in changes]
    paths, table = read_words(own, RehearseTable, "rehearse")
    if len(paths) != 1:
        raise UserError(
            f"rehearse: found {len(paths)} recipes; name one, for example configs/helpsteer3-qwen2.5-3b-24gb.yaml"
        )
    recipe = load_experiment(Path(paths[0]), changes)
    task = recipe.tables["tasks"].get("task")
    if task != "preference":
        raise UserError(
            f"rehearse: {recipe.source}: the task is {task}, and recipes on preference pairs are rehearsed; the "
            "offline worlds run in minutes as they are"
        )
    for room, model in (("rm", RMTable), ("policy", PolicyTable), ("judge", JudgeTable)):
        recipe.table(room, model)
    task_table(recipe)
    if table.output:
        place_to_write(table.output, "rehearse: output")
    with tempfile.TemporaryDirectory() as scratch:
        folder = table.keep or Path(scratch)
        make_folder(folder, "rehearse: keep")
        measured = {stage: _measured(stage, recipe, table, folder) for stage in STAGES}
        found = forecast(recipe, table, measured)
    show(found)
    if table.output:
        write_json(table.output, found)


def _measured(stage: str, recipe: Experiment, table: RehearseTable, folder: Path) -> dict[str, Any]:
    """What a process of its own found of a stage: memory that one stage leaves behind is not another's."""
    order, answer = folder / f"{stage}.order.json", folder / f"{stage}.json"
    tables = {name: recipe.tables[name] for name in ("tasks", "rm", "calibration", "policy", "judge")}
    settings = table.model_dump(mode="json", exclude={"output", "keep"})
    asked: dict[str, Any] = {"stage": stage, "folder": str(folder.resolve()), "answer": str(answer.resolve())}
    asked |= {"tables": tables, "settings": settings}
    if answer.exists() and order.exists() and read_json(order) == asked:
        say(f"rehearse: {stage} was measured before")
        return read_json(answer)
    answer.unlink(missing_ok=True)
    write_json(order, asked)
    say(f"rehearse: {stage}")
    settings_of_torch = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"} if stage == "rm" else {}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "curve.rehearsal.measured", str(order)], env={**settings_of_torch, **os.environ}
    )
    if done.returncode or not answer.exists():
        raise UserError(
            f"rehearse: {recipe.source}: the stage {stage} failed (exit status {done.returncode}); see above"
        )
    return read_json(answer)


def show(found: dict[str, Any]) -> None:
    """Print the figures."""
    rows = [
        (
            stage,
            found[stage]["predicted_gib"],
            found[stage]["peak_gib"],
            found[stage]["device_gib"],
            found[stage]["step_seconds"],
            found[stage]["n_timed"],
            found[stage]["hours"],
        )
        for stage in ("rm", "policy")
    ]
    show_table(
        f"rehearse: {found['recipe']} on {found['device']}"
        + (f", capped at {found['memory_gib']:g} GiB" if found["memory_gib"] else ""),
        ("stage", "GiB predicted", "GiB allocated", "GiB taken from the GPU", "s a step", "steps timed", "hours"),
        rows,
    )
    parts = found["policy"]["seconds_by_part"]
    show_table(
        "a step of the policy, seconds by part",
        tuple(parts),
        [tuple(parts.values())],
    )
    for line in found["sentences"]:
        say(line)
