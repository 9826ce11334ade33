"""Groups of cells set against each other: what was repeated, and how sure a difference is.

A cell stands for one policy seed on one reward model, and every cell answers the same prompts. Three things vary: the
seed of the reward model (which moves the middle rungs most), the policy's seed, and the prompts. A difference between
two groups is taken inside each couple of seeds, so what both share cancels. Its interval is over the highest of the
three that was repeated, with the spread between prompts added to it; one seed says nothing of other seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from curve.points import Point
from judge.statistics import LEVEL, Floats
from judge.statistics.planning import components_of

MARGIN = 0.05
"""Difference of win rates that does not matter, stated beforehand: the default of the judge's comparisons."""
Z = 1.959963984540054
Over = Literal["RM seeds", "policy seeds", "prompts"]
Outcomes = Mapping[str, Mapping[str, float]]
"""Cell -> prompt -> quality, 0..1."""
Seeds = tuple[int | None, int | None]
"""Seed of the reward model and of the policy; None where there is none."""


@dataclass(frozen=True)
class Contrast:
    """A number over what was repeated: a difference of two groups of cells, or the value of one.

    Attributes:
        value: the mean over units.
        se, df: its standard error and the degrees of freedom; None where nothing says how sure it is.
        over: the unit that was repeated; `n_units` of them.
        n_rm_seeds, n_policy_seeds, n_cells, n_prompts: what stands behind it; a difference counts couples of cells.
        paired: whether outcomes were there, so that prompts are paired; if not, those of two groups count as
            independent.
    """

    value: float
    se: float | None
    df: float | None
    over: Over
    n_units: int
    n_rm_seeds: int
    n_policy_seeds: int
    n_cells: int
    n_prompts: int
    paired: bool

    def bounds(self, level: float = LEVEL) -> tuple[float, float] | tuple[None, None]:
        """Student's interval."""
        if self.se is None or self.df is None:
            return None, None
        half = float(stdtrit(self.df, 0.5 + level / 2)) * self.se
        return self.value - half, self.value + half

    @property
    def lo(self) -> float | None:
        """Lower end of the 95% interval."""
        return self.bounds()[0]

    @property
    def hi(self) -> float | None:
        """Upper end of the 95% interval."""
        return self.bounds()[1]

    @property
    def p(self) -> float | None:
        """Two-sided p-value of 0; None without a standard error."""
        if self.se is None or self.df is None:
            return None
        if self.se == 0:
            return float(self.value == 0)
        return float(2 * stdtr(self.df, -abs(self.value) / self.se))

    @property
    def repeated(self) -> bool:
        """Whether any seed was repeated."""
        return self.n_units > 1 and self.over != "prompts"

    def above(self, level: float = 0.0) -> bool:
        """Whether the whole interval lies above a number."""
        return self.lo is not None and self.lo > level

    def below(self, level: float = 0.0) -> bool:
        """Whether the whole interval lies below a number."""
        return self.hi is not None and self.hi < level

    def within(self, margin: float) -> bool:
        """Whether both one-sided tests say that it lies within the margin."""
        lo, hi = self.bounds(2 * LEVEL - 1)
        return lo is not None and hi is not None and -margin < lo and hi < margin

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"value": self.value, "lo": self.lo, "hi": self.hi, "p": self.p} | {
            name: getattr(self, name)
            for name in ("over", "n_units", "n_rm_seeds", "n_policy_seeds", "n_cells", "n_prompts", "paired")
        }


def by_seeds(points: Sequence[Point]) -> dict[Seeds, Point]:
    """Cells of one reward and rung by (rm_seed, seed)."""
    return {(point["rm_seed"], point["seed"]): point for point in points}


def couples_of(first: Sequence[Point], second: Sequence[Point]) -> list[tuple[Point, Point]]:
    """Cells of the same seeds; a reward without a reward model goes with every RM seed of the other."""
    mine, theirs = by_seeds(first), by_seeds(second)
    found = []
    for (rm_seed, seed), point in mine.items():
        keys = [(rm_seed, seed), (None, seed)] if rm_seed is not None else [k for k in theirs if k[1] == seed]
        found += [(point, theirs[key]) for key in dict.fromkeys(keys) if key in theirs][
            : None if rm_seed is None else 1
        ]
    return found


def difference(
    first: Sequence[Point], second: Sequence[Point], outcomes: Outcomes, column: str = "quality"
) -> Contrast | None:
    """`first` less `second` over their couples of seeds; None without a couple.

    Args:
        first, second: cells of one reward (and rung) each.
        outcomes: paired prompts where both cells of every couple have them; may be empty.
        column: of the points; outcomes are used for `quality` only.
    """
    couples = [(a, b) for a, b in couples_of(first, second) if a[column] is not None and b[column] is not None]
    if not couples:
        return None
    seeds: list[Seeds] = [(a["rm_seed"] if a["rm_seed"] is not None else b["rm_seed"], a["seed"]) for a, b in couples]
    values = np.array([a[column] - b[column] for a, b in couples])
    tables = [_paired(a, b, outcomes) for a, b in couples] if column == "quality" else [None]
    errors = np.array([math.hypot(error_of(a, column), error_of(b, column)) for a, b in couples])
    return _contrast(seeds, values, errors, tables, min(_n_prompts(a, column) for a, _ in couples))


def level_of(points: Sequence[Point], outcomes: Outcomes, column: str = "quality") -> Contrast | None:
    """The mean of one group of cells; None without one."""
    known = [point for point in points if point[column] is not None]
    if not known:
        return None
    tables = [_single(point, outcomes) for point in known] if column == "quality" else [None]
    return _contrast(
        [(point["rm_seed"], point["seed"]) for point in known],
        np.array([point[column] for point in known]),
        np.array([error_of(point, column) for point in known]),
        tables,
        min(_n_prompts(point, column) for point in known),
    )


def _n_prompts(point: Point, column: str) -> int:
    """Prompts behind a column: looks during training are at the dev prompts."""
    evaluated = column.startswith(("quality", "gold", "net_win"))
    return int(point["n_prompts"] if evaluated else point.get("dev_n_prompts") or 0)


def error_of(point: Point, column: str) -> float:
    """Standard error over prompts, from the 95% interval; 0 where the point has none."""
    low, high = point.get(f"{column}_lo"), point.get(f"{column}_hi")
    return 0.0 if low is None or high is None else float(high - low) / (2 * Z)


def _single(point: Point, outcomes: Outcomes) -> dict[str, float] | None:
    return dict(outcomes[point["cell"]]) if point["cell"] in outcomes else None


def _paired(first: Point, second: Point, outcomes: Outcomes) -> dict[str, float] | None:
    mine, theirs = outcomes.get(first["cell"]), outcomes.get(second["cell"])
    if mine is None or theirs is None:
        return None
    return {prompt: mine[prompt] - theirs[prompt] for prompt in mine.keys() & theirs.keys()}


def _contrast(
    seeds: Sequence[Seeds],
    values: Floats,
    errors: Floats,
    tables: Sequence[dict[str, float] | None],
    n_prompts: int,
) -> Contrast:
    """The mean over units, each the mean of its cells, with Student's t on Satterthwaite's degrees (1946)."""
    n_rm, n_policy = (len({seed[k] for seed in seeds if seed[k] is not None}) for k in (0, 1))
    over: Over = "RM seeds" if n_rm > 1 else "policy seeds" if n_policy > 1 else "prompts"
    members: dict[int | None, list[int]] = defaultdict(list)
    for place, seed in enumerate(seeds):
        members[seed[0] if over == "RM seeds" else seed[1]].append(place)
    prompts = set[str]()
    known = [table for table in tables if table is not None]
    if len(known) == len(seeds):
        prompts = set(known[0]).intersection(*known[1:])
    paired = len(prompts) > 1
    if paired:
        ordered = sorted(prompts)
        of_cells = np.array([[table[prompt] for prompt in ordered] for table in known])
        units = np.stack([of_cells[places].mean(axis=0) for places in members.values()])
        between, across = units.mean(axis=1), components_of(units).prompt ** 2 / len(ordered)
    else:
        between = np.array([values[places].mean() for places in members.values()])
        across = float((errors**2).mean())
    n, value = len(between), float(between.mean())
    shares = [(across, (len(prompts) or n_prompts) - 1)]
    if n > 1:
        shares.append((float(between.var(ddof=1)) / n, n - 1))
    variance = sum(share for share, _ in shares)
    se = df = None
    if n > 1 or across > 0 or paired:
        se = math.sqrt(variance)
        weight = sum(share**2 / max(1, degrees) for share, degrees in shares)
        df = variance**2 / weight if weight > 0 else float(max(1, n - 1))
    return Contrast(
        value=value,
        se=se,
        df=df,
        over=over,
        n_units=n if over != "prompts" else len(prompts) or n_prompts,
        n_rm_seeds=n_rm,
        n_policy_seeds=n_policy,
        n_cells=len(seeds),
        n_prompts=len(prompts) or n_prompts,
        paired=paired,
    )


@dataclass(frozen=True)
class Spreads:
    """Standard deviations of quality at one rung: between RM seeds, between policy seeds on one reward model, and the
    standard error over prompts of one cell; None where nothing was repeated. `n_rungs` were pooled."""

    rm_seed: float | None
    policy_seed: float | None
    prompts: float
    n_rungs: int
    n_rm_seeds: int
    n_policy_seeds: int


def spreads_of(points: Sequence[Point]) -> Spreads | None:
    """Variance components of the cells of one reward, pooled over rungs (nested, by moments; Searle 1992, chapter 3).

    Mean squares between RM seeds hold the policy's part once more, divided by the seeds behind each mean; it is taken
    off, and what is left below 0 is 0. The policy seed's part holds the prompts' part that seeds do not share.
    """
    rungs: dict[str, dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        rungs[point["rung"]][point["rm_seed"]].append(point["quality"])
    if not rungs:
        return None
    groups = [values for by_rm in rungs.values() for values in by_rm.values()]
    free = sum(len(values) - 1 for values in groups)
    within = sum(float(np.var(values)) * len(values) for values in groups) / free if free else None
    squares, degrees = 0.0, 0
    for by_rm in rungs.values():
        means = [float(np.mean(values)) for values in by_rm.values()]
        squares += float(np.var(means)) * len(means)
        degrees += len(means) - 1
    between = None
    if degrees:
        behind = len(groups) / sum(1 / len(values) for values in groups)
        between = math.sqrt(max(0.0, squares / degrees - (within or 0.0) / behind))
    return Spreads(
        rm_seed=between,
        policy_seed=None if within is None else math.sqrt(within),
        prompts=math.sqrt(float(np.mean([error_of(point, "quality") ** 2 for point in points]))),
        n_rungs=len(rungs),
        n_rm_seeds=len({point["rm_seed"] for point in points}),
        n_policy_seeds=len({point["seed"] for point in points}),
    )
