"""Quality against the accuracy of the reward model, one panel a domain of the prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from curve.figures.bars import bar_lengths, open_markers
from curve.figures.quality import LINES, OTHER_STYLE, STYLES, SVG_SETTINGS, save

DOMAINS_FIGURE = "quality-by-domain"
PANEL_INCHES = (3.2, 3.2)
MOST_COLUMNS = 4


def draw_domains(folder: Path, rows: Sequence[dict[str, Any]], title: str) -> list[str]:
    """Draw the figure where accuracies by domain are known; returns the names of what was written.

    Args:
        folder: for PNG and SVG.
        rows: of `curve.analysis.domains.by_domain`.
        title: of the figure.
    """
    panels: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["rm_accuracy"] is not None:
            panels[row["domain"]].append(row)
    if not panels:
        return []
    columns = min(MOST_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, **SVG_SETTINGS}):
        size = (max(2, columns) * PANEL_INCHES[0], lines * PANEL_INCHES[1] + 0.5)
        figure, axes = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (domain, own) in zip(axes.flat, panels.items(), strict=False):
            for curve, reward in dict.fromkeys((row["curve"], row["reward"]) for row in own):
                colour, marker, name = STYLES.get(reward, (*OTHER_STYLE[:2], reward))
                line = [row for row in own if (row["curve"], row["reward"]) == (curve, reward)]
                line.sort(key=lambda row: row["rm_accuracy"])
                y = [row["value"] for row in line]
                ends = [(row["lo"], row["hi"]) for row in line]
                x = [100 * row["rm_accuracy"] for row in line]
                axis.errorbar(
                    x,
                    y,
                    yerr=bar_lengths(y, ends),
                    color=colour,
                    marker=marker,
                    linestyle=LINES[curves.index(curve) % len(LINES)],
                    markersize=4,
                    capsize=2.0,
                    label=name if len(curves) == 1 else f"{name} ({curve})",
                )
                open_markers(axis, x, y, ends, colour, marker, size=4)
            axis.set_title(f"{domain} ({own[0]['n_prompts']} prompts)", fontsize=8)
            axis.set_xlabel("accuracy on pairs of the domain, %")
            axis.set_ylabel("win rate against the untrained policy")
            axis.set_ylim(-0.02, 1.02)
            axis.grid(axis="y", linewidth=0.4, alpha=0.5)
        axes.flat[0].legend(fontsize=6, frameon=False)
        figure.suptitle(title, fontweight="bold")
        figure.tight_layout()
        save(figure, folder / DOMAINS_FIGURE)
    return [DOMAINS_FIGURE]
