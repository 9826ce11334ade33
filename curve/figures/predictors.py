"""Quality against every measure of the reward model that may foretell it, one panel a measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from configs.terminal import interval
from curve.figures.quality import SVG_SETTINGS, save

PREDICTORS_FIGURE = "predictors"
PANEL_INCHES = (3.0, 3.1)
MARKERS = ("o", "s", "^", "D", "v", "P")


def draw_predictors(folder: Path, found: Mapping[str, Any], title: str) -> list[str]:
    """Draw the figure where something was measured; returns the names of what was written.

    Args:
        folder: for PNG and SVG.
        found: of `curve.analysis.predictors.predictors`.
        title: of the figure.
    """
    rows, units = found["rows"], found["units"]
    if not rows:
        return []
    routes = list(dict.fromkeys(unit["route"] for unit in units))
    with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, **SVG_SETTINGS}):
        size = (max(2, len(rows)) * PANEL_INCHES[0], PANEL_INCHES[1] + 0.4)
        figure, axes = plt.subplots(1, len(rows), figsize=size, sharey=True, squeeze=False)
        for axis, row in zip(axes.flat, rows, strict=True):
            for marker, route in zip(MARKERS, routes, strict=False):
                own = [unit for unit in units if unit["route"] == route]
                seeds = [unit["rm_seed"] for unit in own]
                axis.scatter(
                    [unit[row["column"]] for unit in own],
                    [unit["quality"] for unit in own],
                    c=[f"C{_seeds_of(units).index(seed) % 10}" for seed in seeds],
                    marker=marker,
                    s=22,
                    alpha=0.8,
                    label=str(route),
                )
            rank, linear = (
                interval(row["rho"], row["lo"], row["hi"], 2),
                interval(row["r"], row["r_lo"], row["r_hi"], 2),
            )
            axis.set_title(f"rank {rank}\nlinear {linear}", fontsize=7.5)
            axis.set_xlabel(row["predictor"])
            axis.grid(linewidth=0.4, alpha=0.5)
        axes.flat[0].set_ylabel("win rate against the untrained policy")
        axes.flat[0].set_ylim(-0.02, 1.02)
        if len(routes) > 1:
            axes.flat[0].legend(fontsize=7, frameon=False)
        figure.suptitle(f"{title} ({found['n_reward_models']} reward models, a colour an RM seed)", fontweight="bold")
        figure.tight_layout()
        save(figure, folder / PREDICTORS_FIGURE)
    return [PREDICTORS_FIGURE]


def _seeds_of(units: list[Mapping[str, Any]]) -> list[Any]:
    """Seeds of the reward models, each once, in the order of the units."""
    return list(dict.fromkeys(unit["rm_seed"] for unit in units))
