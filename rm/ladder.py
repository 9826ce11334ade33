"""Which checkpoints become rungs: the nearest to each target among all evaluations, by accuracy on the selection half.

Selection and measurement never share a prompt: the accuracy that names a rung was picked because it was near the
target, so it is biased towards it, and the rung's own accuracy is measured again on pairs that had no say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict


class Evaluation(TypedDict):
    """One look at the selection pairs: after which step, with which accuracy (0..1), on how many pairs."""

    step: int
    accuracy: float
    n: int


def evaluation_due(step: int, dense_until: int, dense_every: int, every: int, last: int) -> bool:
    """Whether step `step` (from 1) is evaluated: densely at first, where accuracy moves fast, and at the end."""
    return step == last or step % (dense_every if step <= dense_until else every) == 0


def nearest_steps(evaluations: Iterable[Evaluation], targets: Iterable[int]) -> dict[int, Evaluation]:
    """For each target (in percent) the evaluation nearest to it; of equally near ones the first."""
    seen = list(evaluations)
    return {
        target: min(seen, key=lambda evaluation: (abs(100 * evaluation["accuracy"] - target), evaluation["step"]))
        for target in targets
        if seen
    }


def reached(evaluation: Evaluation, target: int, tolerance: float) -> bool:
    """Whether a rung is within `tolerance` points of its target, on the pairs it was chosen on."""
    return abs(100 * evaluation["accuracy"] - target) <= tolerance
