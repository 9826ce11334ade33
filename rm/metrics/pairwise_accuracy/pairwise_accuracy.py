"""Accuracy on preference pairs as a module of `evaluate`; loads from its folder without a network.

accuracy = evaluate.load(metric_path("pairwise_accuracy"))
accuracy.compute(chosen=[1.2, 0.3], rejected=[0.1, 0.9])
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from rm.measures import pair_accuracy

DESCRIPTION = """Share of preference pairs in which the preferred answer has the higher logit; equal logits count half.
The interval is Wilson's, at 95%, over pairs."""
INPUTS = """
Args:
    chosen: logits (or rewards) of the preferred answers.
    rejected: logits of the others, in the same order.

Returns:
    pairwise_accuracy, in 0..1; lo and hi, its interval; n, the number of pairs; ties, how many have equal logits.
"""


class PairwiseAccuracy(evaluate.Metric):
    """See `DESCRIPTION` and `INPUTS`."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"chosen": datasets.Value("float64"), "rejected": datasets.Value("float64")}),
        )

    def _compute(self, chosen: list[float], rejected: list[float]) -> dict[str, float | int]:
        differences = np.asarray(chosen, dtype=np.float64) - np.asarray(rejected, dtype=np.float64)
        share = pair_accuracy(differences)
        return {
            "pairwise_accuracy": share["estimate"],
            "lo": share["lo"],
            "hi": share["hi"],
            "n": share["n"],
            "ties": int((differences == 0).sum()),
        }
