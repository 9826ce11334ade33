"""The reliability diagram: the share of good answers against the score, with intervals, a panel for each map."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from calibration.reliability import Figures
from configs.records import write_bytes

DPI = 160
PANEL_INCHES = (3.1, 3.3)
MOST_IN_A_ROW = 4
COLOUR, DIAGONAL = "#1b6ca8", "#777777"
SVG_SETTINGS = {"svg.hashsalt": "rewardladder", "svg.fonttype": "none", "text.parse_math": False}
"""The same bytes each time, letters as letters, and a `$` in a name is a dollar, not the beginning of a formula."""


def draw(path: Path, figures: Mapping[str, Figures], title: str) -> None:
    """Write the figure as `path` with the endings .png and .svg.

    Args:
        path: without an ending.
        figures: by name of the map, in the order of the panels; at least one.
        title: of the figure.
    """
    in_a_row = min(MOST_IN_A_ROW, len(figures))
    rows = math.ceil(len(figures) / in_a_row)
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, **SVG_SETTINGS}):
        size = (PANEL_INCHES[0] * in_a_row, PANEL_INCHES[1] * rows + 0.4)
        figure, axes = plt.subplots(rows, in_a_row, figsize=size, squeeze=False, sharex=True, sharey=True)
        panels = [axis for row in axes for axis in row]
        for axis, (name, found) in zip(panels, figures.items(), strict=False):
            _panel(axis, name, found)
        for axis in panels[len(figures) :]:
            axis.set_visible(False)
        for axis in panels[max(0, len(figures) - in_a_row) : len(figures)]:
            axis.set_xlabel("score (mean of the bin)")
            axis.tick_params(labelbottom=True)
        for row in axes:
            row[0].set_ylabel("share of good answers")
        figure.suptitle(title, fontweight="bold")
        figure.tight_layout()
        for ending, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=ending[1:], dpi=DPI, metadata=metadata)
            write_bytes(path.with_suffix(ending), content.getvalue())
        plt.close(figure)


def _panel(axis: Axes, name: str, found: Figures) -> None:
    points = found["diagram"]
    axis.plot([0, 1], [0, 1], color=DIAGONAL, linestyle="--", linewidth=0.9, zorder=1)
    axis.errorbar(
        [point["score"] for point in points],
        [point["share"] for point in points],
        yerr=[
            [max(0.0, point["share"] - point["lo"]) for point in points],
            [max(0.0, point["hi"] - point["share"]) for point in points],
        ],
        color=COLOUR,
        marker="o",
        markersize=4,
        linewidth=1.4,
        elinewidth=0.9,
        capsize=2.5,
        zorder=3,
    )
    gap = found["ece"]
    axis.set_title(f"{name}: ECE {gap['estimate']:.3f} [{gap['lo']:.3f}, {gap['hi']:.3f}]", fontsize=9)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.grid(linewidth=0.4, alpha=0.5)
