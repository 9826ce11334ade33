"""The tasks there are, and how an experiment names one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from configs.errors import UserError
from configs.loader import Experiment, Table
from tasks.advice_world import AdviceTable, AdviceTask
from tasks.arithmetic_world import ArithmeticTable, ArithmeticTask
from tasks.mathematics.task import MathematicsTable, MathematicsTask
from tasks.preference.sets import PreferenceTable, PreferenceTask
from tasks.records import Task


class TaskRow(NamedTuple):
    """One kind of task: the model of its `tasks` table, and what makes the task from a validated table."""

    table: type[Table]
    make: Callable[[Any], Any]


def task_table(experiment: Experiment) -> Table:
    """The validated `tasks` table of an experiment.

    Raises:
        UserError: `tasks.task` is missing or unknown, or a key of its table is wrong.
    """
    name = experiment.tables["tasks"].get("task")
    if not isinstance(name, str) or name not in TASKS:
        found = "is missing" if name is None else f"is {name!r}"
        raise UserError(f"{experiment.source}: tasks.task {found}; choose {', '.join(TASKS)}")
    return experiment.table("tasks", TASKS[name].table)


def load_task(experiment: Experiment) -> Task:
    """The task of an experiment; its graders work without anything on disk."""
    table = task_table(experiment)
    return TASKS[experiment.tables["tasks"]["task"]].make(table)


TASKS = {
    "advice": TaskRow(AdviceTable, AdviceTask),
    "arithmetic": TaskRow(ArithmeticTable, ArithmeticTask),
    "mathematics": TaskRow(MathematicsTable, MathematicsTask),
    "preference": TaskRow(PreferenceTable, PreferenceTask),
}
