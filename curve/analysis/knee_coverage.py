"""How often the knee's interval holds the true knee, on made-up curves whose truth is known.

    python -m curve.analysis.knee_coverage simulations=2000 scatter=0.05

Each simulation makes reward models of known accuracy, moves their measured accuracies and qualities by errors, and
fits them. From a curve with a knee, 95% of the intervals should hold it; from a straight line, the fit should say
"not identified" in at least 90%.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from configs.command import guarded
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Table, read_words
from configs.terminal import interval, show_table
from curve.analysis.fits import Units, find_knee
from judge.statistics import wilson

Truth = Literal["knee", "line"]
PLATEAU = 0.9


class CoverageTable(Table):
    """Settings of the simulations.

    Attributes:
        simulations: of each truth.
        resamples: of each bootstrap.
        rungs, rm_seeds: reward models of each simulation are their product.
        knee: true knee; `slope`: rise of quality per unit of accuracy, below the knee or of the whole line.
        x_error: standard error of an accuracy (0.012: 1,200 pairs); `y_error`: of a quality (0.02: 400 prompts).
        scatter: standard deviation between reward models of one accuracy, which the errors know nothing of.
        seed: of it all.
    """

    simulations: int = Field(default=500, ge=1)
    resamples: int = Field(default=299, ge=99)
    rungs: int = Field(default=8, ge=5, le=100)
    rm_seeds: int = Field(default=1, ge=1, le=100)
    knee: float = Field(default=0.76, gt=0.55, lt=0.9)
    slope: float = Field(default=3.0, ge=0.0)
    x_error: float = Field(default=0.012, ge=0.0)
    y_error: float = Field(default=0.02, ge=0.0)
    scatter: float = Field(default=0.0, ge=0.0)
    seed: int = 0


@dataclass(frozen=True)
class Coverage:
    """Of `n` simulations: how many intervals held the knee, how many knees were identified, and the mean width."""

    n: int
    held: int
    identified: int
    width: float


def simulate(truth: Truth, table: CoverageTable, number: int) -> Units:
    """The reward models of one simulation: accuracies from 0.55 to 0.90, each moved a little off its target."""
    rng = keyed_rng(table.seed, "knee coverage", truth, number)
    targets = np.repeat(np.linspace(0.55, 0.90, table.rungs), table.rm_seeds)
    x = targets + rng.uniform(-0.015, 0.015, len(targets))
    quality = PLATEAU + table.slope * (np.minimum(x - table.knee, 0.0) if truth == "knee" else x - 0.90)
    y = quality + np.hypot(table.y_error, table.scatter) * rng.standard_normal(len(x))
    measured = x + table.x_error * rng.standard_normal(len(x))
    return Units(measured, np.full(len(x), table.x_error), y, np.full(len(x), table.y_error))


def coverage(truth: Truth, table: CoverageTable) -> Coverage:
    """Fit all simulations of one truth."""
    held, identified, widths = 0, 0, []
    for number in range(table.simulations):
        found = find_knee(
            simulate(truth, table, number), keyed_rng(table.seed, "knee fit", truth, number), table.resamples
        )
        held += found.lo <= table.knee <= found.hi
        identified += found.identified
        widths.append(found.hi - found.lo)
    return Coverage(table.simulations, held, identified, float(np.mean(widths)))


def main() -> None:
    """The command."""
    paths, table = read_words(sys.argv[1:], CoverageTable, "knee_coverage")
    if paths:
        raise UserError(f"knee_coverage reads no file, found {paths[0]}; give key=value settings only")
    rows = []
    for truth in ("knee", "line"):
        found = coverage(truth, table)
        held, identified = (
            interval(count / found.n, *wilson(count, found.n)) for count in (found.held, found.identified)
        )
        rows.append((truth, found.n, held if truth == "knee" else None, identified, found.width))
    show_table(
        f"the knee's 95% interval, {table.rungs} rungs, {table.rm_seeds} RM seeds",
        ("truth", "simulations", "interval holds the knee", "identified", "mean width"),
        rows,
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
