"""Expected calibration error on preference pairs as a module of `evaluate`; loads from its folder without a network.

ece = evaluate.load(metric_path("expected_calibration_error"))
ece.compute(chosen=[1.2, 0.3], rejected=[0.1, 0.9], scale=1.0)
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from rm.measures import ECE_BINS, expected_calibration_error

DESCRIPTION = """Expected calibration error (ECE) of a reward model on preference pairs: over bins of equal mass, the
mean distance between the confidence sigmoid(|scale * (chosen - rejected)|) and the share of pairs in which the
preferred answer has the higher logit; equal logits count half."""
INPUTS = """
Args:
    chosen: logits (or rewards) of the preferred answers.
    rejected: logits of the others, in the same order.
    scale: factor on the difference, for example the `scale` in a rung's units.json; 1 takes the logits as they are.
    bins: number of bins; at most one a pair.

Returns:
    expected_calibration_error, in 0..1; n, the number of pairs; ties, how many have equal logits.
"""


class ExpectedCalibrationError(evaluate.Metric):
    """See `DESCRIPTION` and `INPUTS`."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"chosen": datasets.Value("float64"), "rejected": datasets.Value("float64")}),
        )

    def _compute(
        self, chosen: list[float], rejected: list[float], scale: float = 1.0, bins: int = ECE_BINS
    ) -> dict[str, float | int]:
        differences = scale * (np.asarray(chosen, dtype=np.float64) - np.asarray(rejected, dtype=np.float64))
        if not np.isfinite(differences).all():
            raise ValueError("a logit is not a finite number")
        if bins < 1:
            raise ValueError(f"bins must be at least 1, found {bins}")
        return {
            "expected_calibration_error": expected_calibration_error(differences, bins),
            "n": len(differences),
            "ties": int((differences == 0).sum()),
        }
