"""Error bars of points, some of which have no interval: those get no bar, and an open marker that the legend explains.

A bar of no length would say that such a point is exact, and leaving it out would hide a result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

OPEN = "open marker: its interval is not known"
"""In the legend."""
UNKNOWN = " (interval not known)"
"""Behind the name of a level."""

Bounds = tuple[float | None, float | None]


def bar_lengths(values: Sequence[float], bounds: Sequence[Bounds]) -> list[list[float]]:
    """Lengths of the bars below and above, as Matplotlib takes them; NaN, which draws none, where a bound is missing.

    Args:
        values: of n points.
        bounds: lower and upper bound of each.

    Returns:
        Two lists of n lengths, each at least 0.
    """
    known = [(value, low, high) for value, (low, high) in zip(values, bounds, strict=True)]
    pairs = [
        (math.nan, math.nan) if low is None or high is None else (max(0.0, value - low), max(0.0, high - value))
        for value, low, high in known
    ]
    return [[below for below, _ in pairs], [above for _, above in pairs]]


def open_markers(
    axis: Axes, x: Sequence[float], y: Sequence[float], bounds: Sequence[Bounds], colour: str, marker: str, size: float
) -> None:
    """Paint the inside of the markers of points without an interval white, over what `errorbar` has drawn."""
    places = [place for place, pair in enumerate(bounds) if None in pair]
    if not places:
        return
    axis.plot(
        [x[place] for place in places],
        [y[place] for place in places],
        linestyle="none",
        marker=marker,
        markersize=size,
        markerfacecolor="white",
        markeredgecolor=colour,
        zorder=4,
    )
    if OPEN not in axis.get_legend_handles_labels()[1]:
        axis.plot([], [], linestyle="none", marker="o", mfc="white", mec="#555555", markersize=size, label=OPEN)
