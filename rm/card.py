"""What a rung's card says: accuracy overall and by group, calibration, scores at a threshold, and how scores spread.

Everything is counted pair by pair on the measurement half; ties are in none of it. Figures of single answers (TPR,
FPR) count each pair's chosen answer as good and its rejected one as bad, as the paper's pointwise labels do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rm.config import Loss
from rm.measures import (
    Floats,
    brier,
    expected_calibration_error,
    group_spread,
    grouped_differences,
    length_accuracy,
    negative_log_likelihood,
    pair_accuracy,
    paired_difference,
    score_spread,
    sigmoid,
    wilson,
)
from rm.units import ScoreUnits
from tasks.records import PreferencePair

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
SCORE_THRESHOLD = 0.5
POINTWISE_LOGIT_THRESHOLD = 0.5
"""The paper's reward model is regressed on 0 and 1, so its raw scalar is cut half-way."""
SMALL_GROUP = 30
"""A group with fewer pairs is shown as small: its interval is wider than what anyone would compare."""
UNKNOWN = "unknown"
LENGTH_EDGES = (-0.5, -0.1, 0.1, 0.5)
LENGTH_BINS = ("much shorter", "shorter", "about equal", "longer", "much longer")
"""The chosen answer against the rejected one: (chosen - rejected) / longer of both, in characters, cut at the edges."""


def pair_measures(
    pairs: Sequence[PreferencePair], logits: Floats, units: ScoreUnits, loss: Loss = "bradley_terry"
) -> dict[str, Any]:
    """What pairs say about a rung; probabilities are sigmoid(scale * difference).

    Args:
        pairs: decided pairs, at least one.
        logits: of (chosen, rejected), shape (N, 2).
        units: of the rung.
        loss: what it was trained with; only of pointwise MSE does a threshold on the raw logit mean anything.
    """
    differences = logits[:, 0] - logits[:, 1]
    scaled = units.scale * differences
    scores = units.scores(logits)
    return {
        "accuracy": pair_accuracy(differences),
        "accuracy_by": {name: by_group(pairs, differences, key) for name, key in GROUPS.items()},
        "ties": int((differences == 0).sum()),
        "length_baseline": length_accuracy([p.chosen for p in pairs], [p.rejected for p in pairs]),
        "nll_raw": negative_log_likelihood(differences),
        "nll": negative_log_likelihood(scaled),
        "brier": brier(scaled),
        "ece": expected_calibration_error(scaled),
        "mean_confidence": float(sigmoid(np.abs(scaled)).mean()),
        "at_score_threshold": at_threshold(scores, SCORE_THRESHOLD),
        "at_logit_threshold": at_threshold(logits, POINTWISE_LOGIT_THRESHOLD) if loss == "pointwise_mse" else None,
        "pair_score_quantiles": _quantiles(scores.ravel()),
        "pair_score_spread": float(np.std(scores)),
        "pair_logit_spread": float(np.std(logits)),
    }


def by_group(
    pairs: Sequence[PreferencePair], differences: Floats, key: Callable[[PreferencePair], str]
) -> list[dict[str, Any]]:
    """Accuracy of each group of pairs with its interval, groups by name; `small` marks those of fewer than 30."""
    members: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        members.setdefault(key(pair), []).append(i)
    return [
        {"group": name, **pair_accuracy(differences[rows]), "small": len(rows) < SMALL_GROUP}
        for name, rows in sorted(members.items())
    ]


def strength_group(pair: PreferencePair) -> str:
    """The strength as a name: `1`, `2`, `3`, what stands between, or `unknown`."""
    return UNKNOWN if pair.strength is None else f"{pair.strength:g}"


def length_group(pair: PreferencePair) -> str:
    """Which of `LENGTH_BINS` a pair is in, with its position in front so that names sort as lengths do."""
    longer = max(len(pair.chosen), len(pair.rejected), 1)
    place = int(np.searchsorted(LENGTH_EDGES, (len(pair.chosen) - len(pair.rejected)) / longer, side="right"))
    return f"{place} chosen is {LENGTH_BINS[place]}"


def at_threshold(values: Floats, threshold: float) -> dict[str, Any]:
    """How well one threshold tells chosen from rejected answers, each answer by itself.

    Args:
        values: of (chosen, rejected), shape (N, 2) with N at least 1.
        threshold: a value of at least this counts as good.

    Returns:
        `tpr` of chosen and `fpr` of rejected answers, `j` = tpr - fpr (Youden 1950), and `accuracy` over all 2N
        answers, each with its interval; the 2N answers come in pairs, so their interval is a little too narrow.
    """
    good = values >= threshold
    n = len(values)
    return {
        "threshold": threshold,
        "tpr": wilson(float(good[:, 0].sum()), n),
        "fpr": wilson(float(good[:, 1].sum()), n),
        "j": paired_difference(good[:, 0], good[:, 1]),
        "accuracy": wilson(float(good[:, 0].sum() + (~good[:, 1]).sum()), 2 * n),
    }


def reference_measures(
    prompt_ids: Sequence[str],
    logits: Sequence[float | None],
    golds: Sequence[float | None],
    units: ScoreUnits,
) -> dict[str, Any]:
    """What a rung does on the reference answers, by default those of the policy that is to be trained.

    Args:
        prompt_ids: the prompt of each answer.
        logits: None where an answer is malformed; at least one is not.
        golds: true utility of each answer, None where it is not known.
        units: of the rung.
    """
    kept = [(group, x, gold) for group, x, gold in zip(prompt_ids, logits, golds, strict=True) if x is not None]
    groups = [group for group, _, _ in kept]
    values = np.array([x for _, x, _ in kept], dtype=np.float64)
    scores = units.scores(values)
    spread, without_spread = group_spread(groups, scores)
    found: dict[str, Any] = {
        "n_reference_answers": len(logits),
        "n_malformed_reference_answers": len(logits) - len(kept),
        "logit_quantiles": _quantiles(values),
        "score_quantiles": _quantiles(scores),
        "score_spread": score_spread(units.scale * (values - units.centre)),
        "score_spread_per_prompt": spread,
        "share_of_prompts_without_spread": without_spread,
        "on_policy_accuracy": None,
    }
    if all(gold is not None for _, _, gold in kept):
        differences = grouped_differences(groups, values, np.array([gold for _, _, gold in kept], dtype=np.float64))
        if len(differences):
            found["on_policy_accuracy"] = pair_accuracy(differences)
    return found


def _quantiles(values: Floats) -> dict[str, float]:
    return {str(q): float(np.quantile(values, q)) for q in QUANTILES}


GROUPS: dict[str, Callable[[PreferencePair], str]] = {
    "strength": strength_group,
    "domain": lambda pair: pair.domain,
    "language": lambda pair: pair.language,
    "length_difference": length_group,
}
