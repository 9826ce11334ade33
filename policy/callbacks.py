"""What happens beside a cell's training: metrics, looks at the dev prompts, progress, and complete checkpoints."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from configs.terminal import progress_bar
from policy.answers import answer_prompts, summarise
from policy.audit import Metrics
from policy.config import PolicyTable
from policy.updates.divergence import Divergence
from rm.processes import is_main, wait_for_all
from rm.training import mark_complete
from tasks.records import Prompt, Task


class CellCallback(TrainerCallback):
    """Writes metrics, answers the dev prompts now and then, shows progress."""

    def __init__(
        self, table: PolicyTable, task: Task, dev: Sequence[Prompt], metrics: Metrics, max_new_tokens: int, seed: int
    ) -> None:
        self.table, self.task, self.dev, self.metrics = table, task, dev, metrics
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.divergence: Divergence | None = None
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the progress bar; look at the untouched policy once."""
        self.bar = progress_bar(self.table.max_steps, "training the policy")
        self.bar.update(state.global_step)
        if state.global_step == 0 and self.table.dev_every:
            self._look(kwargs["model"], 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        self.bar.update()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a step's metrics, then answer the dev prompts where due."""
        if not logs or "loss" not in logs:
            return
        self.metrics.add(state.global_step, logs)
        reward = logs.get("reward")  # none between rollouts, null where no completion could be graded
        if reward is not None:
            self.bar.set_postfix_str(f"reward {reward:.3f}")
        every = self.table.dev_every
        if every and (state.global_step % every == 0 or state.global_step == self.table.max_steps):
            self._look(kwargs["model"], state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.bar.close()

    def _look(self, model: PreTrainedModel, step: int) -> None:
        assert self.tokenizer is not None
        rows = answer_prompts(
            model,
            self.tokenizer,
            self.task,
            self.dev,
            self.table,
            self.max_new_tokens,
            self.seed,
            "dev answers",
            1,
            self.divergence.hear if self.divergence is not None else None,
        )
        found = summarise(rows) | {"gold_se": _error_of([row["gold"] for row in rows])}
        if self.divergence is not None:
            found |= self.divergence.figures(model, self.tokenizer)
        styles = {f"dev/style/{style}": share for style, share in found.pop("style_shares").items()}
        self.metrics.add(step, {f"dev/{name}": value for name, value in found.items()} | styles)


def _error_of(golds: Sequence[float | None]) -> float | None:
    """The standard error of a mean, one gold a prompt; None for one prompt, or where a gold is not known."""
    known = [gold for gold in golds if gold is not None]
    return statistics.stdev(known) / math.sqrt(len(known)) if 1 < len(known) == len(golds) else None


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the trainer writes the checkpoint of the step it is at."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


class CompleteCheckpoint(TrainerCallback):
    """Marks a checkpoint complete; it must be the last callback, after all that write into the checkpoint."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Only a checkpoint with the mark is gone on from; every process writes into it."""
        wait_for_all()
        if is_main():
            mark_complete(checkpoint_folder(args, state), {})
