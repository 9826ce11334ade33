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
from dataclasses import dataclass, replace
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
"""Cell -> prompt -> quality (or gold, where gold is compared), 0..1."""
BY_PROMPT = ("quality", "gold_mean")
"""Columns that are means over the eval prompts."""
Seeds = tuple[int | None, int | None]
"""Seed of the reward model and of the policy; None where there is none."""
NO_WIDTH = 1e-9
"""Standard errors below this are of equal seeds: rounding, and no measure of how sure a value is."""


@dataclass(frozen=True)
class Contrast:
    """A number over what was repeated: a difference of two groups of cells, or the value of one.

    Attributes:
        value: the mean over units.
        se, df: its standard error and the degrees of freedom; None where nothing says how sure it is.
        over: the unit that was repeated; `n_units` of them.
        n_rm_seeds, n_policy_seeds, n_cells, n_prompts: what stands behind it; a difference counts couples of cells;
            0 prompts where the points do not say how many.
        paired: whether outcomes were there, so that prompts are paired; if not, those of two groups count as
            independent.
        on_dev: whether the prompts are the dev prompts.
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
    on_dev: bool = False

    def bounds(self, level: float = LEVEL) -> tuple[float, float] | tuple[None, None]:
        """Student's interval; none where the seeds are `identical`."""
        if self.se is None or self.df is None or self.identical:
            return None, None
        half = _half(self.se, self.df, level)
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
        """Two-sided p-value of 0; None without an interval."""
        if self.se is None or self.df is None or self.identical:
            return None
        if self.se == 0:
            return float(self.value == 0)
        return float(2 * stdtr(self.df, -abs(self.value) / self.se))

    @property
    def repeated(self) -> bool:
        """Whether any seed was repeated."""
        return self.n_units > 1 and self.over != "prompts"

    @property
    def identical(self) -> bool:
        """Whether all seeds gave the same and no error of prompts is known: an interval without width says nothing."""
        return self.repeated and self.se is not None and self.se < NO_WIDTH

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
        return (
            {"value": self.value, "lo": self.lo, "hi": self.hi, "p": self.p}
            | {
                name: getattr(self, name)
                for name in ("over", "n_units", "n_rm_seeds", "n_policy_seeds", "n_cells", "paired")
            }
            | {"n_prompts": self.n_prompts or None}
        )


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
        outcomes: of that column by prompt; paired where both cells of every couple have them; may be empty.
        column: of the points; outcomes are used for those of `BY_PROMPT` only.
    """
    couples = [(a, b) for a, b in couples_of(first, second) if a[column] is not None and b[column] is not None]
    if not couples:
        return None
    seeds: list[Seeds] = [(a["rm_seed"] if a["rm_seed"] is not None else b["rm_seed"], a["seed"]) for a, b in couples]
    values = np.array([a[column] - b[column] for a, b in couples])
    tables = [_paired(a, b, outcomes) for a, b in couples] if column in BY_PROMPT else [None]
    errors = np.array([math.hypot(error_of(a, column), error_of(b, column)) for a, b in couples])
    found = _contrast(seeds, values, errors, tables, min(_n_prompts(a, column) for a, _ in couples))
    return replace(found, on_dev=_on_dev(column))


def level_of(points: Sequence[Point], outcomes: Outcomes, column: str = "quality") -> Contrast | None:
    """The mean of one group of cells; None without one."""
    known = [point for point in points if point[column] is not None]
    if not known:
        return None
    tables = [_single(point, outcomes) for point in known] if column in BY_PROMPT else [None]
    found = _contrast(
        [(point["rm_seed"], point["seed"]) for point in known],
        np.array([point[column] for point in known]),
        np.array([error_of(point, column) for point in known]),
        tables,
        min(_n_prompts(point, column) for point in known),
    )
    return replace(found, on_dev=_on_dev(column))


def gain(points: Sequence[Point], reference: Point, outcomes: Outcomes, column: str) -> Contrast | None:
    """The mean of a group of cells less one cell without a seed (the untrained policy); None without one."""
    known = [point for point in points if point[column] is not None]
    if not known or reference[column] is None:
        return None
    return _contrast(
        [(point["rm_seed"], point["seed"]) for point in known],
        np.array([point[column] - reference[column] for point in known]),
        np.array([math.hypot(error_of(point, column), error_of(reference, column)) for point in known]),
        [_paired(point, reference, outcomes) for point in known],
        min(_n_prompts(point, column) for point in known),
    )


def combined(
    points: Sequence[Point], weights: Sequence[float], outcomes: Outcomes, column: str, name: str
) -> tuple[Point, dict[str, float] | None]:
    """A weighted sum of cells of one seed as a cell of its own, and its values by prompt where all have them."""
    value = sum(w * point[column] for w, point in zip(weights, points, strict=True))
    half = Z * math.sqrt(sum((w * error_of(point, column)) ** 2 for w, point in zip(weights, points, strict=True)))
    facts = {"cell": name, column: value, f"{column}_lo": value - half, f"{column}_hi": value + half}
    tables = [outcomes[point["cell"]] for point in points if point["cell"] in outcomes]
    if len(tables) < len(points):
        return {**points[0], **facts}, None
    shared = set(tables[0]).intersection(*tables[1:])
    by_prompt = {p: sum(w * table[p] for w, table in zip(weights, tables, strict=True)) for p in shared}
    return {**points[0], **facts}, by_prompt


def apart(first: Contrast, second: Contrast) -> Contrast:
    """One number less another that shares nothing with it (Welch's interval, degrees of Satterthwaite 1946)."""
    se = df = None
    if first.se is not None and second.se is not None and first.df and second.df:
        squares = (first.se**2, second.se**2)
        se = math.sqrt(sum(squares))
        weight = sum(square**2 / free for square, free in zip(squares, (first.df, second.df), strict=True))
        df = sum(squares) ** 2 / weight if weight > 0 else min(first.df, second.df)
    fewer = min(first, second, key=lambda one: (one.repeated, one.n_units))
    return replace(fewer, value=first.value - second.value, se=se, df=df, paired=False)


def _n_prompts(point: Point, column: str) -> int:
    """Prompts behind a column; 0 where the points do not say."""
    return int(point.get("dev_n_prompts") or 0 if _on_dev(column) else point["n_prompts"])


def _on_dev(column: str) -> bool:
    """Whether a column is of the dev prompts, which looks during training are at."""
    return column.startswith("dev_")


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


def _half(se: float, df: float, level: float = LEVEL) -> float:
    """Half the width of Student's interval."""
    return float(stdtrit(df, 0.5 + level / 2)) * se


def _contrast(
    seeds: Sequence[Seeds],
    values: Floats,
    errors: Floats,
    tables: Sequence[dict[str, float] | None],
    n_prompts: int,
) -> Contrast:
    """The mean over units, each the mean of its cells, with Student's t on Satterthwaite's degrees (1946).

    The interval is never narrower than that of the units alone.
    """
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
        if n > 1 and _half(se, df) < _half(math.sqrt(shares[-1][0]), n - 1):
            # Few seeds and many prompts: the prompts' degrees must not make the seeds' spread look better known.
            se, df = math.sqrt(shares[-1][0]), float(n - 1)
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
