"""Gold against steps and against the divergence from the base, one panel a treatment; the judge against the latter.

The divergence is drawn as sqrt(KL), in which best-of-n rises almost straight and over-optimisation bends down
(arXiv 2210.10760). Treatments without a reward model share one panel.
"""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib import colormaps
from matplotlib.axes import Axes

from curve.figures.names import apart_by
from curve.figures.quality import BOUNDS, LINES, OTHER_STYLE, STYLES, SVG_SETTINGS, save
from curve.points import Point

STEPS_FIGURE, KL_FIGURE = "gold-against-steps", "gold-against-kl"
ENDS_FIGURE = "quality-against-kl"
ENDS_INCHES = (5.6, 3.9)
PANEL_INCHES = (3.4, 3.3)
MOST_PANELS = 16
MOST_COLOURS = 10
"""Lines of one panel that colours alone tell apart; more have dashes too, and a legend beside the panel."""
ALONE = "without a reward model"
TITLE_CHARACTERS = 44
ACCURACIES = (0.5, 0.95)
"""Ends of the scale of colours."""

Line = Mapping[str, Any]


def draw_looks(folder: Path, lines: Sequence[Line], title: str) -> list[str]:
    """Draw both figures as far as gold, and KL, are known; returns the names of those written.

    Args:
        folder: for PNG and SVG.
        lines: of `curve.analysis.looks.mean_looks`.
        title: of the figures.
    """
    drawn = []
    for name, column, label in (
        (STEPS_FIGURE, "step", "optimizer steps"),
        (KL_FIGURE, "kl", "√KL to the untrained policy (KL in nats)"),
    ):
        known = [
            line
            for line in lines
            if sum(look["gold"] is not None and look[column] is not None for look in _of(line)) > 1
        ]
        if known:
            _draw(folder / name, known, column, label, title)
            drawn.append(name)
    return drawn


def draw_ends(folder: Path, points: Sequence[Point], title: str) -> list[str]:
    """Draw what the judge says of each policy against its divergence at the end, where two or more have one.

    Args:
        folder: for PNG and SVG.
        points: with `kl_end` (`curve.analysis.looks.with_looks`).
        title: of the figure.
    """
    known = [point for point in points if point.get("kl_end") is not None]
    if len(known) < 2:
        return []
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, **SVG_SETTINGS}):
        figure, axis = plt.subplots(figsize=ENDS_INCHES)
        for name in dict.fromkeys(point.get("treatment") or point["reward"] for point in known):
            own = [point for point in known if (point.get("treatment") or point["reward"]) == name]
            colour, marker, label = STYLES.get(name, (BOUNDS[name][0] if name in BOUNDS else None, "x", name))
            axis.scatter(
                [math.sqrt(max(0.0, point["kl_end"])) for point in own],
                [point["quality"] for point in own],
                color=colour,
                marker=marker,
                s=22,
                alpha=0.8,
                label=label,
            )
        axis.axhline(0.5, linestyle="-.", linewidth=1.0, color="#222222", alpha=0.6)
        axis.set_xlabel("√KL to the untrained policy at the end (KL in nats)")
        axis.set_ylabel("win rate against the untrained policy")
        axis.set_ylim(-0.02, 1.02)
        axis.grid(linewidth=0.4, alpha=0.5)
        axis.legend(fontsize=7, frameon=False)
        figure.suptitle(title, fontweight="bold")
        figure.tight_layout()
        save(figure, folder / ENDS_FIGURE)
    return [ENDS_FIGURE]


def _of(line: Line) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = line["looks"]
    return found


def _draw(path: Path, lines: Sequence[Line], column: str, label: str, title: str) -> None:
    panels: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        panels[(line["treatment"] or line["reward"]) if line["rung"] else _alone(line, lines)].append(line)
    names = list(panels)[:MOST_PANELS]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    kinds = list(dict.fromkeys((line["route"], line["algorithm"], line["base"]) for line in lines if line["rung"]))
    with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, **SVG_SETTINGS}):
        size = (max(2, columns) * PANEL_INCHES[0], rows * PANEL_INCHES[1] + 0.5)
        figure, axes = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
        for place, axis in enumerate(axes.flat):
            if place >= len(names):
                axis.set_visible(False)
                continue
            own = panels[names[place]]
            crowded = len(own) > MOST_COLOURS
            for order, line in enumerate(own):
                kind = (line["route"], line["algorithm"], line["base"])
                dashes = LINES[kinds.index(kind) % len(LINES)] if kind in kinds else "-"
                if not line["rung"] and crowded:
                    dashes = LINES[order // MOST_COLOURS % len(LINES)]
                _draw_line(axis, line, column, dashes, f"C{order % MOST_COLOURS}" if crowded else None)
            panel = STYLES.get(names[place], (*OTHER_STYLE[:2], names[place]))[2]
            axis.set_title(textwrap.fill(panel, TITLE_CHARACTERS), fontsize=8)
            axis.set_xlabel(label)
            axis.set_ylabel("mean gold of the dev prompts")
            axis.set_ylim(-0.02, 1.02)
            axis.grid(linewidth=0.4, alpha=0.5)
            beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if crowded else {"ncols": 2}
            axis.legend(fontsize=6, frameon=False, handlelength=3.6, **beside)
        figure.suptitle(title, fontweight="bold")
        figure.tight_layout()
        save(figure, path)


def _alone(line: Line, lines: Sequence[Line]) -> str:
    """The panel of a reward without a rung: one for each base and setup."""
    free = [other for other in lines if not other["rung"]]
    return ": ".join([ALONE, *apart_by(line, free, ("base", "setup"))])


def _draw_line(axis: Axes, line: Line, column: str, dashes: str, in_a_crowd: str | None) -> None:
    looks = [look for look in _of(line) if look["gold"] is not None and look[column] is not None]
    x = [math.sqrt(max(0.0, look["kl"])) if column == "kl" else look["step"] for look in looks]
    y = [look["gold"] for look in looks]
    name = line["treatment"] or line["reward"]
    if line["rung"]:
        share = (line["rm_accuracy"] - ACCURACIES[0]) / (ACCURACIES[1] - ACCURACIES[0])
        colour: Any = colormaps["viridis"](min(1.0, max(0.0, share)))
        name = f"{100 * line['rm_accuracy']:.0f}%"
    else:
        colour = in_a_crowd or (BOUNDS[name][0] if name in BOUNDS else None)
    drawn = axis.plot(x, y, color=colour, linestyle=dashes, marker="o", markersize=2.5, linewidth=1.3, label=name)[0]
    errors = [look["gold_error"] for look in looks]
    if None not in errors:
        low, high = ([v + sign * e for v, e in zip(y, errors, strict=True)] for sign in (-1, 1))
        if column == "step":
            axis.fill_between(x, low, high, color=drawn.get_color(), alpha=0.12, linewidth=0)
