"""The final value against the flip rate of the reward, a line a base and kind of flips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from curve.figures.bars import bar_lengths, open_markers
from curve.figures.quality import SVG_SETTINGS, save

FLIPS_FIGURE = "accuracy-against-flips"
SIZE_INCHES = (5.6, 3.8)


def draw_flips(folder: Path, rows: Sequence[dict[str, Any]], title: str) -> list[str]:
    """Draw the final value against the flip rate, a line a base and kind; returns the names of what was written."""
    lines: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["final"] is not None:
            lines[row["start"], row["kind"]].append(row)
    if not lines:
        return []
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, **SVG_SETTINGS}):
        figure, axis = plt.subplots(figsize=SIZE_INCHES)
        for (start, kind), own in lines.items():
            y = [row["final"]["value"] for row in own]
            ends = [(row["final"]["lo"], row["final"]["hi"]) for row in own]
            name = ", ".join(word for word in (start, kind) if word) or "gold, flipped"
            x = [row["flip_rate"] for row in own]
            drawn = axis.errorbar(x, y, yerr=bar_lengths(y, ends), marker="o", capsize=2.5, label=name)
            open_markers(axis, x, y, ends, drawn[0].get_color(), "o", size=drawn[0].get_markersize())
            first = own[0]
            if first["gain"] is not None:
                level = first["final"]["value"] - first["gain"]["value"]
                axis.axhline(level, linestyle="-.", linewidth=1.0, color=drawn[0].get_color(), alpha=0.6)
        axis.set_xlabel("flip rate of the reward")
        axis.set_ylabel(f"final value, {rows[0]['unit']}")
        axis.set_ylim(-0.02, 1.02)
        axis.grid(axis="y", linewidth=0.4, alpha=0.5)
        axis.legend(fontsize=8, frameon=False)
        figure.suptitle(f"{title}\n(dash-dotted: no training)", fontsize=9)
        figure.tight_layout()
        save(figure, folder / FLIPS_FIGURE)
    return [FLIPS_FIGURE]
