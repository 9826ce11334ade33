"""What an alarm does: it is recorded and said, ends the cell, or sends it back with a lower learning rate.

`alarms.jsonl` in the cell's folder has a row for each time an alarm rose, and for each roll-back. A resumed run reads
the history from `metrics.jsonl` and comes to the same rows. A roll-back is a kill and a resume in one: checkpoints of
the ill steps are removed, the row is written, training ends with `RollBack`, and whoever trains begins again; the
learning rate follows from the number of rows, so a kill in between changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from configs.errors import UserError
from configs.records import read_jsonl, write_jsonl
from configs.terminal import say
from policy.alarms.detectors import DETECTORS, Alarm, History, detect
from policy.alarms.table import AlarmName, AlarmTable
from policy.audit import Metrics
from policy.checkpoints import drop_after, last_good
from rm.processes import is_main, wait_for_all

ALARMS_FILE = "alarms.jsonl"
FACTOR_KEY = "learning_rate_factor"
"""Stands in the optimizer's parameter groups, which every checkpoint holds: the factor its learning rates have."""


class RollBack(Exception):
    """Training is to begin again at the last checkpoint that is left."""


class AlarmLog:
    """`alarms.jsonl`: what rose in this run; roll-backs stay, other rows belong to the steps that were made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def take_up(self, step: int) -> None:
        """Keep the rows of an interrupted run up to `step`, and every roll-back."""
        found = read_jsonl(self.path) if self.path.exists() else ()
        self.rows = [row for row in found if row["step"] <= step or row["action"] == "roll_back"]
        self._write()

    def add(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self.rows.append(row)
        self._write()

    def roll_backs(self) -> int:
        """How often the run was sent back."""
        return sum(row["action"] == "roll_back" for row in self.rows)

    def _write(self) -> None:
        if is_main():
            write_jsonl(self.path, self.rows)


class AlarmCallback(TrainerCallback):
    """Looks for alarms after each step; stands after the callback that writes the metrics."""

    def __init__(self, table: AlarmTable, metrics: Metrics, path: Path, scratch: Path) -> None:
        self.table, self.metrics, self.scratch = table, metrics, scratch
        self.rules = table.rules()
        self.log = AlarmLog(path)
        self.history = History()
        self.held: set[AlarmName] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the history of an interrupted run; lower the learning rate where it was sent back."""
        step = state.global_step
        self.log.take_up(step)
        self.history = History([row for row in self.metrics.rows if row["step"] <= step])
        self.held = {alarm.alarm for alarm in detect(self.history, self.rules)} if self.history.steps else set()
        wanted = self.table.learning_rate_factor ** self.log.roll_backs()
        scale_learning_rate(kwargs["optimizer"], kwargs["lr_scheduler"], wanted)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the step that was just made.

        Raises:
            UserError: an alarm stops the cell.
            RollBack: an alarm sends it back.
        """
        if not logs or "loss" not in logs:
            return
        self.history.add(self.metrics.rows[-1])
        now = detect(self.history, self.rules)
        for alarm in now:
            if alarm.alarm not in self.held and alarm.action != "roll_back":
                say(alarm.line())
                self.log.add(alarm.row())
        self.held = {alarm.alarm for alarm in now}
        for alarm in now:
            if alarm.action in ("stop", "roll_back"):
                self._act(alarm)

    def generation_failed(self, step: int) -> NoReturn:
        """Act where sampling found probabilities that are no numbers: nothing can go on from there.

        Raises:
            UserError, RollBack: as the alarm `not_a_number` says; where it is off or only warns, UserError.
        """
        rule = self.table.not_a_number
        alarm = Alarm(
            step=step,
            alarm="not_a_number",
            action="roll_back" if rule.action == "roll_back" else "stop",
            found=1,
            threshold=rule.threshold,
            window=rule.window,
            what="the policy's probabilities are no numbers any more",
            allowed="none",
            advice=DETECTORS["not_a_number"].advice,
        )
        if alarm.action == "stop" and "not_a_number" not in self.held:
            self.log.add(alarm.row())
        self._act(alarm)

    def _act(self, alarm: Alarm) -> NoReturn:
        where = f"policy.alarms.{alarm.alarm}"
        if alarm.action == "stop":
            raise UserError(f"{alarm.line()}. The cell stops here; {where}=warn goes on from its last checkpoint")
        done = self.log.roll_backs()
        if done >= self.table.max_roll_backs:
            raise UserError(
                f"{alarm.line()}. Rolled back {done} times already, policy.alarms.max_roll_backs allows no more"
            )
        # A step's completions come from the weights of the step before: the window began one step earlier.
        to_step = last_good(self.scratch, alarm.step - alarm.window - 1)
        if is_main():
            drop_after(self.scratch, to_step)
        wait_for_all()
        factor = self.table.learning_rate_factor ** (done + 1)
        self.log.add(alarm.row() | {"to_step": to_step, FACTOR_KEY: factor})
        say(f"{alarm.line()}. Back to step {to_step}, with {factor:g} of the learning rate")
        raise RollBack


def scale_learning_rate(optimizer: Any, scheduler: Any, wanted: float) -> None:
    """Multiply every learning rate, and those the scheduler starts from, until they are `wanted` times the table's.

    What was multiplied before stands in the parameter groups, so that a checkpoint made after a roll-back is not
    lowered again.
    """
    scheduler = getattr(scheduler, "scheduler", scheduler)
    for i, group in enumerate(optimizer.param_groups):
        ratio = wanted / group.get(FACTOR_KEY, 1.0)
        group[FACTOR_KEY] = wanted
        for rates, place in ((group, "lr"), (group, "initial_lr"), (scheduler.base_lrs, i), (scheduler._last_lr, i)):
            rates[place] *= ratio


def read_alarms(folder: Path) -> list[dict[str, Any]]:
    """The alarms of a cell; empty where nothing was looked for."""
    path = folder / ALARMS_FILE
    return list(read_jsonl(path)) if path.exists() else []


def summarise_alarms(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For the manifest: of each alarm how often it rose, at which step first, and how often it sent the run back."""
    counts = Counter(row["alarm"] for row in rows)
    return {
        name: {
            "times": times,
            "first_step": min(row["step"] for row in rows if row["alarm"] == name),
            "roll_backs": sum(row["action"] == "roll_back" for row in rows if row["alarm"] == name),
        }
        for name, times in sorted(counts.items())
    }
