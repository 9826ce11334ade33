"""Win rate with an interval by prompt as a module of `evaluate`; loads from its folder without a network.

win_rate = evaluate.load(metric_path("win_rate"))
win_rate.compute(outcomes=["win", "tie", "lose"], prompts=["a", "a", "b"])
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import datasets
import evaluate

from configs.keyed import keyed_rng
from judge.statistics import Estimate, compare
from judge.verdicts import Outcome

DESCRIPTION = """Share of wins of one contestant over another with ties half, with a 95% interval from a bootstrap of
whole prompts; comparisons without an outcome are counted and have no weight."""
INPUTS = """
Args:
    outcomes: `win`, `tie` or `lose` of each comparison, seen from the contestant; `missing` where there is no verdict.
    prompts: the prompt of each comparison; those of one prompt stand or fall together.
    resamples: bootstrap resamples.
    seed: of the resamples.

Returns:
    win_rate, in 0..1 with ties half, or null where nothing has an outcome; lo and hi, its interval, null for a single
    prompt; win, tie and lose, shares with their own intervals (value, lo, hi); n_pairs, n_prompts and n_missing.
"""
SHARES = {"win": (1.0, 0.0, 0.0), "tie": (0.0, 1.0, 0.0), "lose": (0.0, 0.0, 1.0)}
MISSING: Literal["missing"] = "missing"


class WinRate(evaluate.Metric):
    """See `DESCRIPTION` and `INPUTS`."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"outcomes": datasets.Value("string"), "prompts": datasets.Value("string")}),
        )

    def _compute(
        self, outcomes: list[str], prompts: list[str], resamples: int = 10_000, seed: int = 0
    ) -> dict[str, Any]:
        found = compare(
            [_outcome(i, outcome, prompt) for i, (outcome, prompt) in enumerate(zip(outcomes, prompts, strict=True))],
            keyed_rng(seed, "judge bootstrap"),
            resamples,
        )
        return {
            "win_rate": found.quality.value,
            "lo": found.quality.lo,
            "hi": found.quality.hi,
            "win": _shares(found.win),
            "tie": _shares(found.tie),
            "lose": _shares(found.lose),
            "n_pairs": found.n_pairs,
            "n_prompts": found.n_prompts,
            "n_missing": found.n_missing,
        }


def _outcome(position: int, outcome: str, prompt: str) -> Outcome:
    if outcome == MISSING:
        return Outcome(str(position), prompt, 0, MISSING, None, None, None)
    if outcome not in SHARES:
        raise ValueError(f"outcome {position} must be win, tie, lose or {MISSING}, found {outcome!r}")
    return Outcome(str(position), prompt, 0, "agreed", *SHARES[outcome])


def _shares(estimate: Estimate) -> dict[str, float | None]:
    return asdict(estimate)
