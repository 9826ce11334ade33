"""The flow figure: from the strategies before, on the left, to those after, on the right; a panel for each arm.

A band's width is its number of questions, its colour the change in accuracy of the questions in it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from configs.records import write_bytes
from tasks.strategy.classifier import STRATEGIES
from tasks.strategy.transitions import Counts, in_order

DPI = 160
PANEL_INCHES = (4.6, 3.9)
MOST_IN_A_ROW = 3
GAP = 0.03
"""Of the height, between two strategies."""
BAR = 0.035
COLOURS = ("#1b6ca8", "#4f9bd0", "#9cc7e6", "#c9b27c", "#8c6d31")
"""Of `STRATEGIES`: blue writes code, brown does not."""
STYLE_COLOURS = ("#c9b27c", "#a5884f", "#8c6d31", "#5e4a21")
"""Of a task's own styles but `code`, which is the first blue."""
MAP = "RdYlGn"
CURVE_POINTS = 60
SVG_SETTINGS = {"svg.hashsalt": "rewardladder", "svg.fonttype": "none", "text.parse_math": False}
"""The same bytes each time, letters as letters, and a `$` in a name is a dollar, not the beginning of a formula."""


def draw(path: Path, arms: Mapping[str, Mapping[tuple[str, str], Counts]], title: str) -> None:
    """Write the figure as `path` with .png and .svg appended.

    Args:
        path: without an ending.
        arms: by name, the counts of each pair of strategies (before, after); at least one arm with a question.
        title: of the figure.
    """
    in_a_row = min(MOST_IN_A_ROW, len(arms))
    rows = math.ceil(len(arms) / in_a_row)
    with plt.rc_context({"font.size": 9, **SVG_SETTINGS}):
        size = (PANEL_INCHES[0] * in_a_row, PANEL_INCHES[1] * rows + 0.7)
        figure, axes = plt.subplots(rows, in_a_row, figsize=size, squeeze=False, layout="constrained")
        panels = [axis for row in axes for axis in row]
        for axis, (name, cells) in zip(panels, arms.items(), strict=False):
            _panel(axis, name, cells)
        for axis in panels:
            axis.set_axis_off()
        figure.suptitle(title, fontweight="bold")
        scale = plt.cm.ScalarMappable(norm=plt.Normalize(-1, 1), cmap=MAP)
        figure.colorbar(scale, ax=axes, shrink=0.6, label="change in accuracy of the band's questions")
        for ending, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=ending[1:], dpi=DPI, metadata=metadata)
            write_bytes(path.with_name(path.name + ending), content.getvalue())
        plt.close(figure)


def stacked(sizes: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """Where each strategy begins and ends on an axis of height 1, from the top; empty ones are left out."""
    names = [name for name in in_order(sizes) if sizes[name]]
    total = sum(sizes[name] for name in names)
    height = 1 - GAP * (len(names) - 1)
    places: dict[str, tuple[float, float]] = {}
    at = 1.0
    for name in names:
        below = at - height * sizes[name] / total
        places[name] = (below, at)
        at = below - GAP
    return places


def _panel(axis: Axes, name: str, cells: Mapping[tuple[str, str], Counts]) -> None:
    strategies = in_order(name for pair in cells for name in pair)
    styles = [name for name in strategies if name not in (*STRATEGIES, "code")]
    colours: dict[str, str] = {"code": COLOURS[0]} | {name: COLOURS[i] for i, name in enumerate(STRATEGIES)}
    colours |= {style: STYLE_COLOURS[place % len(STYLE_COLOURS)] for place, style in enumerate(styles)}
    sides = [
        stacked({s: sum(c.n for pair, c in cells.items() if pair[side] == s) for s in strategies}) for side in (0, 1)
    ]
    total = sum(cell.n for cell in cells.values())
    free = [{strategy: top for strategy, (_, top) in side.items()} for side in sides]
    heights = [1 - GAP * (len(side) - 1) for side in sides]
    for (before, after), cell in cells.items():
        tops = free[0][before], free[1][after]
        ends = tops[0] - heights[0] * cell.n / total, tops[1] - heights[1] * cell.n / total
        free[0][before], free[1][after] = ends
        _band(axis, tops, ends, cell)
    for place, (side, x) in enumerate(zip(sides, (0.0, 1.0 - BAR), strict=True)):
        for strategy, (low, high) in side.items():
            n = sum(cell.n for pair, cell in cells.items() if pair[place] == strategy)
            axis.fill_between([x, x + BAR], low, high, color=colours[strategy], zorder=3)
            axis.text(
                x - 0.015 if place == 0 else x + BAR + 0.015,
                (low + high) / 2,
                f"{strategy.replace('_', ' ')}\n{n}",
                ha="right" if place == 0 else "left",
                va="center",
                fontsize=7.5,
            )
    axis.set_xlim(-0.35, 1.35)
    axis.set_ylim(-0.03, 1.03)
    axis.set_title(f"{name} (n = {total})", fontsize=9)


def _band(axis: Axes, tops: tuple[float, float], ends: tuple[float, float], cell: Counts) -> None:
    """One band between the two bars, a smooth step; thin bands stay visible by their edge."""
    x = np.linspace(0, 1, CURVE_POINTS)
    step = 3 * x**2 - 2 * x**3
    colour = plt.get_cmap(MAP)(0.5 + cell.gain / (2 * cell.n)) if cell.n else "#999999"
    axis.fill_between(
        BAR + x * (1 - 2 * BAR),
        ends[0] + (ends[1] - ends[0]) * step,
        tops[0] + (tops[1] - tops[0]) * step,
        color=colour,
        alpha=0.75,
        linewidth=0.4,
        zorder=2,
    )
