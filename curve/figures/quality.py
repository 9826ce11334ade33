"""The figure: quality of a policy against the accuracy of the reward model it climbed, both with intervals."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from configs.records import write_bytes
from curve.figures.bars import OPEN, UNKNOWN, bar_lengths, open_markers
from curve.figures.names import name_of
from curve.points import Point

DPI = 160
SIZE_INCHES = (10.5, 4.6)
LEVEL_INCHES = 0.32
"""Height that each row takes where there are no accuracies."""
LEGEND_CHARACTERS = 100
"""Characters of the legend's size that fit under one panel."""
STYLES: dict[str, tuple[str, str, str]] = {
    "raw": ("#1b6ca8", "o", "reward model as it is"),
    "rpr": ("#d1495b", "s", "with RPR compensation"),
    "constant": ("#8d6a9f", "^", "with a constant bonus"),
    "random_phrases": ("#8c8c5a", "v", "with random phrases"),
    "rpr_ordered": ("#e08e45", "D", "with ordered RPR"),
    "length_bonus": ("#b8860b", "P", "with a bonus by length"),
    "variance_matched": ("#4f9da6", "X", "stretched to another spread"),
    "noise_corrected": ("#5c4d7d", "*", "cut and corrected for noise"),
}
"""Colour, marker and label of each reward that has rungs."""
OTHER_STYLE = ("#555555", "x", "")
"""Of a reward that is not in the table."""
BOUNDS: dict[str, tuple[str, str, str]] = {
    "gold": ("#2e8b57", "-", "gold reward (bound)"),
    "rpr_only": ("#d1495b", ":", "RPR only, no reward model"),
    "random": ("#777777", "--", "random reward"),
    "untrained": ("#222222", "-.", "untrained policy"),
    "format": ("#b8860b", "--", "format reward"),
    "length": ("#b8860b", ":", "length reward"),
}
"""Colour, line and label of each reward without a rung, drawn as a level."""
LINES = ("-", "--", ":", "-.")
"""Line of the first, second, … curve of a reward: routes and algorithms are curves of their own."""
SVG_SETTINGS = {"svg.hashsalt": "rewardladder", "svg.fonttype": "none", "text.parse_math": False}
"""The same bytes each time, letters as letters, and a `$` in a name is a dollar, not the beginning of a formula."""


def draw(
    path: Path, points: Sequence[Point], curve: Sequence[Point], title: str, fits: Sequence[dict[str, Any]] = ()
) -> None:
    """Write the figure as `path` with the endings .png and .svg.

    Args:
        path: without an ending.
        points: one a cell; drawn as small markers where several seeds stand behind a mean.
        curve: one a reward and rung (`points.over_seeds`).
        title: of the figure.
        fits: of the curves (`curve.analysis.fits`); where a knee is identified, its interval is shaded.
    """
    has_rungs = any(row["rung"] for row in curve)
    panels = [("quality", "win rate against the untrained policy (ties half)")]
    if all(row["gold_mean"] is not None for row in curve):
        panels.append(("gold_mean", "mean gold utility"))
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, **SVG_SETTINGS}):
        height = SIZE_INCHES[1] if has_rungs else max(SIZE_INCHES[1], LEVEL_INCHES * len(curve))
        figure, axes = plt.subplots(1, len(panels), figsize=(SIZE_INCHES[0] * len(panels) / 2, height))
        for axis, (column, label) in zip([axes] if len(panels) == 1 else axes, panels, strict=True):
            if has_rungs:
                _panel(axis, points, curve, column, label)
            else:
                _levels(axis, curve, column, label)
            for fit in fits if column == "quality" else ():
                if fit["identified"]:
                    colour = STYLES.get(fit["reward"], OTHER_STYLE)[0]
                    axis.axvspan(100 * fit["lo"], 100 * fit["hi"], color=colour, alpha=0.08, linewidth=0, zorder=0)
                    axis.axvline(100 * fit["knee"], color=colour, alpha=0.4, linewidth=0.9, linestyle=":", zorder=0)
        figure.suptitle(title, fontweight="bold")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        for handle, shown in zip(*figure.axes[-1].get_legend_handles_labels(), strict=True):
            if shown == OPEN and OPEN not in labels:
                handles, labels = [*handles, handle], [*labels, shown]
        widest = max(map(len, labels), default=0)
        columns = max(1, min(4, int(LEGEND_CHARACTERS * len(panels) / (widest + 8))))
        if labels:
            figure.legend(handles, labels, loc="lower center", ncols=columns, frameon=False, fontsize=8)
        figure.tight_layout(rect=(0, 0.04 + 0.045 * -(-len(labels) // columns) if labels else 0, 1, 1))
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as `path` with the endings .png and .svg, the same bytes each time, and close it."""
    for ending, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        content = io.BytesIO()
        figure.savefig(content, format=ending[1:], dpi=DPI, metadata=metadata)
        write_bytes(path.with_name(path.name + ending), content.getvalue())
    plt.close(figure)


def _panel(axis: Axes, points: Sequence[Point], curve: Sequence[Point], column: str, label: str) -> None:
    for reward, (colour, line, name) in BOUNDS.items():
        for row in (row for row in curve if row["reward"] == reward):
            low, high = _interval(row, column)
            shown = name_of(row, curve, name) + (UNKNOWN if low is None else "")
            axis.axhline(row[column], color=colour, linestyle=line, linewidth=1.1, label=shown, zorder=1)
            if low is not None:
                axis.axhspan(low, high, color=colour, alpha=0.07, linewidth=0, zorder=0)
    kinds = list(dict.fromkeys((row["route"], row["algorithm"]) for row in curve if row["rung"]))
    rewards = dict.fromkeys([*STYLES, *(row["reward"] for row in curve if row["rung"])])
    for reward, (place, kind) in itertools.product(rewards, enumerate(kinds)):
        colour, marker, name = STYLES.get(reward, (*OTHER_STYLE[:2], reward))
        rows = [r for r in curve if r["reward"] == reward and (r["route"], r["algorithm"]) == kind]
        rows.sort(key=lambda r: r["rm_accuracy"])
        if not rows:
            continue
        x = [100 * row["rm_accuracy"] for row in rows]
        y = [row[column] for row in rows]
        bounds = [_interval(row, column) for row in rows]
        axis.errorbar(
            x,
            y,
            xerr=bar_lengths(x, [(100 * row["rm_accuracy_lo"], 100 * row["rm_accuracy_hi"]) for row in rows]),
            yerr=bar_lengths(y, bounds),
            color=colour,
            marker=marker,
            markersize=5,
            linestyle=LINES[place % len(LINES)],
            linewidth=1.6,
            elinewidth=0.9,
            capsize=2.5,
            label=name if len(kinds) == 1 else f"{name} ({', '.join(map(str, kind))})",
            zorder=3,
        )
        open_markers(axis, x, y, bounds, colour, marker, size=5)
        own = [p for p in points if p["reward"] == reward and (p["route"], p["algorithm"]) == kind]
        if len(own) > len(rows):
            axis.scatter(
                [100 * p["rm_accuracy"] for p in own], [p[column] for p in own], s=9, color=colour, alpha=0.45, zorder=2
            )
    axis.set_xlabel("accuracy of the reward model on held-out pairs, %")
    axis.set_ylabel(label)
    axis.set_ylim(-0.02, 1.02)
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)


def _levels(axis: Axes, curve: Sequence[Point], column: str, label: str) -> None:
    """Without a reward model there is no accuracy to draw against: one dot a reward, with its interval."""
    for height, row in enumerate(reversed(curve)):
        colour, _, name = BOUNDS.get(row["reward"], ("#1b6ca8", "-", row["reward"]))
        name = name_of(row, curve, name)
        low, high = _interval(row, column)
        if low is not None:
            axis.plot([low, high], [height, height], color=colour, linewidth=1.4)
        inside = colour if low is not None else "white"
        axis.plot(row[column], height, marker="o", color=colour, markerfacecolor=inside)
        name += UNKNOWN if low is None else ""
        axis.text(row[column], height + 0.14, name, color=colour, fontsize=8, ha="center", va="bottom")
    axis.set_yticks([])
    axis.set_ylim(-0.5, len(curve) - 0.2)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel(label)
    axis.grid(axis="x", linewidth=0.4, alpha=0.5)


def _interval(row: Point, column: str) -> tuple[Any, Any]:
    """The interval of a mean; none where one of its bounds is missing."""
    bounds = row.get(f"{column}_lo"), row.get(f"{column}_hi")
    return (None, None) if None in bounds else bounds
