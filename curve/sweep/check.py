"""Looks at every room's table before the first stage starts, so that a mistake costs a second and not an hour."""

from __future__ import annotations

from calibration.config import CalibrationTable
from calibration.phrase_set import load_phrase_set
from configs.errors import UserError
from configs.loader import Experiment
from curve.sweep.cells import Cell, expand
from curve.sweep.variants import variants_of
from judge.config import JudgeTable
from policy.config import PolicyTable
from rm.config import RMTable


def check_sweep(experiment: Experiment) -> list[Cell]:
    """Validate the tables of an experiment and of its variants; returns the cells of the sweep.

    Raises:
        UserError: a table is wrong, or a cell needs what the others do not give.
    """
    experiment.table("judge", JudgeTable)
    experiment.table("policy", PolicyTable)
    cells = expand(experiment)
    for label, run in variants_of(experiment).items():
        _check_run(run, [cell for cell in cells if cell.variant == label])
    return cells


def _check_run(run: Experiment, cells: list[Cell]) -> None:
    judge = run.table("judge", JudgeTable)
    names = [cell.name for cell in cells]
    if judge.baseline not in names:
        raise UserError(
            f"{run.source}: judge.baseline {judge.baseline!r} is no cell of the sweep; there are {', '.join(names)}"
        )
    if judge.kind == "openai":
        judge.api_key()
    rungs = [str(target) for target in run.table("rm", RMTable).ladder]
    for cell in cells:
        missing = next((rung for rung in cell.table.rungs if rung not in rungs), None)
        if missing is not None:
            raise UserError(
                f"{run.source}: curve.sweep has rung {missing}, and rm.ladder has {', '.join(rungs)}; add it there or "
                "choose one of these"
            )
    own = run.table("calibration", CalibrationTable)
    for phrases in (own.phrases, own.control_phrases):
        load_phrase_set(phrases)
    check_ladder(run)


def check_ladder(run: Experiment) -> None:
    """Validate all that a calibrated ladder is made from.

    The task comes last, because it alone needs torch: other mistakes are refused within a second.
    """
    run.table("rm", RMTable)
    run.table("calibration", CalibrationTable).phrase_set()
    from tasks.table import task_table

    task_table(run)
