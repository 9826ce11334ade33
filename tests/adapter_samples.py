"""Completions of the small advice run for tests of adapters: well-formed, malformed and empty ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerState

import tasks.stage
from configs.keyed import keyed_seed
from configs.loader import Experiment
from policy.audit import Audit
from policy.config import PolicyTable
from policy.rewards.callable import RewardCallable
from policy.rewards.rungs import load_calibrator, open_calibrators
from policy.rewards.table import RewardSettings
from rm.scorer import RungScorer
from tasks.advice import ITEMS, format_response
from tasks.records import Prompt, read_prompts
from tasks.table import load_task

N = 200
BROKEN = (
    "",
    "   \n",
    "fleece , torch",
    "<think> first ,</think>",
    "<answer> fleece</answer>",
    "<think> a</think><answer> gold bars</answer>",
    "<think> a</think><answer></answer>",
    "<think> a</think><answer> fleece</answer> and more",
    "<think> a<think> b</think><answer> fleece</answer>",
    "</answer><answer>fleece<think></think>",
    "<think> \u00fc\u4f60 \U0001f600</think><answer>\u4f60</answer>",
    "first , finally , therefore " * 40,
)
THOUGHTS = (
    "",
    "well",
    "first , i need to warm : fleece . finally , therefore",
    "first , first , wait , hence",
    "maybe ok",
)


def completion(i: int) -> str:
    """The i-th completion, the same for the same i; about a third is malformed."""
    if i % 3 == 0:
        return BROKEN[i // 3 % len(BROKEN)]
    items = [ITEMS[keyed_seed(0, "item", i, k) % len(ITEMS)] for k in range(1 + i % 4)]
    return format_response(THOUGHTS[keyed_seed(0, "thought", i) % len(THOUGHTS)], items)


def material(experiment: Experiment) -> tuple[list[Prompt], list[str]]:
    """Prompts, some of them several times, and a completion for each."""
    prompts = read_prompts(tasks.stage.folder_of(experiment), "train")
    return [prompts[i % 50] for i in range(N)], [completion(i) for i in range(N)]


def rewards_of_trl(
    experiment: Experiment, changes: dict[str, Any], prompts: Sequence[Prompt], texts: Sequence[str], folder: Path
) -> tuple[list[float | None], list[dict[str, Any]]]:
    """What our trainer's callable gives, at step 0, and the rows of its audit."""
    changed = experiment.with_overrides({f"policy.{key}": value for key, value in changes.items()})
    table = changed.table("policy", PolicyTable)
    settings = RewardSettings(table, 0, 48, load_calibrator(changed, table), open_calibrators(changed, table))
    scorers = {name: RungScorer(changed.folder / "rm" / f"rung-{name}", 16384) for name in table.rungs}
    audit = Audit(folder)
    function = RewardCallable(load_task(changed), prompts, settings, scorers, audit)
    state = TrainerState()
    names = [prompt.prompt_id for prompt in prompts]
    ids = [[1] * 5 for _ in texts]
    found = function([""] * len(texts), list(texts), ids, names, state, lambda name, value: None)
    return found, audit.rows
