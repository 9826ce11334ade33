"""The figure of the clipping toy: the exact step of one rollout, and what many rollouts add up to."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from configs.records import write_bytes
from policy.clipping.expectation import ClippingToyTable, Floats, Simulated, expected_rollout

DPI = 160
PANEL_INCHES = (4.2, 3.6)
COLOURS = {"clipped": "#1b6ca8", "not clipped": "#8c6d31"}
CHANCES = np.linspace(0.04, 0.96, 24)
"""Of the first of two actions, in the first panel."""
ERRORS = 2
"""Standard errors of the bands."""


def draw(png: Path, svg: Path, table: ClippingToyTable, simulated: Mapping[str, Simulated]) -> None:
    """Write the figure.

    Args:
        png, svg: where to.
        table: settings of the toy.
        simulated: by arm; the first panel alone where there is none.
    """
    panels = 3 if simulated else 1
    with plt.rc_context({"font.size": 9, "svg.hashsalt": "rewardladder", "svg.fonttype": "none"}):
        size = (PANEL_INCHES[0] * panels, PANEL_INCHES[1])
        figure, axes = plt.subplots(1, panels, figsize=size, squeeze=False, layout="constrained")
        _exact(axes[0][0], table)
        for place, (name, what) in enumerate(
            (("lift", "logit of the first likeliest action, moved"), ("sureness", "probability of a drawn action")),
            start=1,
        ):
            if simulated:
                _bands(axes[0][place], simulated, name, what)
        for path, metadata in ((png, {"Software": None}), (svg, {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=path.suffix[1:], dpi=DPI, metadata=metadata)
            write_bytes(path, content.getvalue())
        plt.close(figure)


def exact_steps(table: ClippingToyTable, epsilon: float | None) -> Floats:
    """Expected step of the first of two actions' logit in one rollout, for each of `CHANCES`."""
    two = [table.model_copy(update={"probabilities": [float(p), float(1 - p)]}) for p in CHANCES]
    return np.array([table.learning_rate * expected_rollout(one, epsilon).step[0] for one in two])


def _exact(axis: Axes, table: ClippingToyTable) -> None:
    for name, epsilon in (("clipped", table.epsilon), ("not clipped", None)):
        axis.plot(CHANCES, exact_steps(table, epsilon), color=COLOURS[name], label=name, marker=".", markersize=4)
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set_xlabel("probability of the first of two actions")
    axis.set_ylabel("expected step of its logit, one rollout")
    axis.set_title("exact")
    axis.legend(frameon=False)


def _bands(axis: Axes, simulated: Mapping[str, Simulated], name: str, what: str) -> None:
    for arm, found in simulated.items():
        mean, error = getattr(found, name), ERRORS * getattr(found, f"{name}_error")
        steps = np.arange(len(mean))
        axis.plot(steps, mean, color=COLOURS[arm], label=arm)
        axis.fill_between(steps, mean - error, mean + error, color=COLOURS[arm], alpha=0.2, linewidth=0)
    axis.set_xlabel("rollouts")
    axis.set_ylabel(what)
    axis.set_title(f"simulated, {ERRORS} standard errors")
    axis.legend(frameon=False)
