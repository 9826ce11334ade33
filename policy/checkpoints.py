"""Which state of a policy becomes the cell, by a rule declared before; and what a roll-back goes back to.

`last` takes the end of training. `best_reward` and `best_dev_gold` take the best of the states that were looked at on
the dev prompts (every `save_steps` steps where there are no such looks), by the mean training reward of the ten steps
before, or by mean gold on the dev prompts; of equally good ones the earlier. Eval prompts never enter.

Only trainable weights are kept, of no more states than there are checkpoints and one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from configs.errors import UserError
from policy.audit import Metrics
from policy.config import Keep, PolicyTable
from policy.updates.critic import CRITIC_ADAPTER
from rm.processes import is_main
from rm.training import last_complete_checkpoint

REWARD_WINDOW = 10
KEPT_FOLDER = "kept"


class Looks(NamedTuple):
    """When a state may be kept: every so many steps, and after the last step."""

    every: int
    max_steps: int

    @classmethod
    def of(cls, table: PolicyTable) -> Looks:
        """Those of a cell: its looks at the dev prompts, or its checkpoints where there are none."""
        return cls(table.dev_every or table.save_steps, table.max_steps)

    def due(self, step: int) -> bool:
        """Whether the state after `step` may be kept; the untrained policy is no candidate."""
        return step > 0 and (step % self.every == 0 or step == self.max_steps)


class Best(NamedTuple):
    """The chosen state: after which step, and its value under the rule; None where the rule looks at nothing."""

    step: int
    value: float | None


def best_state(rows: Sequence[Mapping[str, Any]], keep: Keep, looks: Looks) -> Best:
    """The state that a rule chooses, from the rows of `metrics.jsonl` so far.

    Raises:
        UserError: the rule's figure is not known at any state that may be kept.
    """
    if keep == "last":
        return Best(int(rows[-1]["step"]), None)
    found = [
        Best(int(row["step"]), _value(rows[: i + 1], keep)) for i, row in enumerate(rows) if looks.due(row["step"])
    ]
    known = [best for best in found if best.value is not None]
    if not known:
        where = (
            "gold on the dev prompts (policy.dev_every, and a task with gold)" if keep != "best_reward" else "a reward"
        )
        raise UserError(f"policy.keep: {keep} needs {where}, and no kept state has one; choose last")
    return max(known, key=lambda best: (best.value, -best.step))


def _value(rows: Sequence[Mapping[str, Any]], keep: Keep) -> float | None:
    if keep == "best_dev_gold":
        return rows[-1].get("dev/gold_mean")
    rewards = [row["reward"] for row in rows if row.get("reward") is not None][-REWARD_WINDOW:]
    return sum(rewards) / len(rewards) if rewards else None


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's trainable weights as one safetensors file, by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: weight.detach().contiguous().cpu() for name, weight in _trainable(model).items()}, part)
    part.replace(path)


@torch.no_grad()
def load_weights(model: nn.Module, path: Path) -> None:
    """Put weights that `save_weights` wrote back into the model they came from."""
    weights, own = load_file(path), _trainable(model)
    if weights.keys() != own.keys():
        raise ValueError(f"{path} holds weights of another model")
    for name, weight in own.items():
        weight.copy_(weights[name])


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    plain = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    mine = {name: weight for name, weight in plain.named_parameters() if f".{CRITIC_ADAPTER}." not in name}
    return {name: weight for name, weight in mine.items() if weight.requires_grad}


def kept_path(scratch: Path, step: int) -> Path:
    """Where the state after `step` is kept."""
    return scratch / KEPT_FOLDER / f"step-{step:06d}.safetensors"


def _step_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def restore_best(model: nn.Module, rows: Sequence[Mapping[str, Any]], keep: Keep, looks: Looks, scratch: Path) -> Best:
    """Put the state that the rule chooses into the trained model, and say which it is."""
    best = best_state(rows, keep, looks)
    if best.step != rows[-1]["step"]:
        load_weights(model, kept_path(scratch, best.step))
    return best


def last_good(scratch: Path, latest: int) -> int:
    """The step of the last complete checkpoint at or before `latest`; 0 where there is none: the beginning."""
    last_complete_checkpoint(scratch)  # removes half-written ones
    steps = [_step_of(path) for path in scratch.glob("checkpoint-*")]
    return max((step for step in steps if step <= latest), default=0)


def drop_after(scratch: Path, step: int) -> None:
    """Remove checkpoints and kept states later than `step`, the latest first."""
    for path in sorted(scratch.glob("checkpoint-*"), key=_step_of, reverse=True):
        if _step_of(path) > step:
            shutil.rmtree(path)
    for path in scratch.glob(f"{KEPT_FOLDER}/step-*.safetensors"):
        if _step_of(path) > step:
            path.unlink()


def copies_needed(window: int, save_steps: int) -> int:
    """How many checkpoints must stay so that one of them is older than what a window that ends now has seen."""
    return 2 + (window + 1) // save_steps


class KeepBest(TrainerCallback):
    """Keeps the best state so far; stands after the callback that writes the metrics."""

    def __init__(self, keep: Keep, looks: Looks, metrics: Metrics, scratch: Path) -> None:
        self.keep, self.looks, self.metrics, self.scratch = keep, looks, metrics, scratch

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget states of an interrupted run that will be made again."""
        if is_main():
            drop_after(self.scratch, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the state where it is the best one; that after the last step is at hand anyway."""
        step = state.global_step
        if not logs or "loss" not in logs or not self.looks.due(step) or not is_main():
            return
        if _value(self.metrics.rows, self.keep) is None:
            return
        if best_state(self.metrics.rows, self.keep, self.looks).step == step != self.looks.max_steps:
            save_weights(kwargs["model"], kept_path(self.scratch, step))
            prune(self.scratch)


def prune(scratch: Path) -> None:
    """Of the kept states, each better than those before, leave the last and the last until each checkpoint.

    A run that goes on from a checkpoint, or is sent back to it, needs the best state until there.
    """
    kept = [_step_of(path) for path in scratch.glob(f"{KEPT_FOLDER}/step-*.safetensors")]
    checkpoints = [_step_of(path) for path in scratch.glob("checkpoint-*")]
    wanted = {max((step for step in kept if step <= end), default=0) for end in (*checkpoints, max(kept, default=0))}
    for step in set(kept) - wanted:
        kept_path(scratch, step).unlink()
