"""The win rate at equal length, beside the raw one, in every judgement and in the comparison of all cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from judge.answers import Pair
from judge.statistics.style import LENGTH, Judged, style_controlled
from judge.verdicts import Outcome


def judged_of(pairs: Sequence[Pair], outcomes: Sequence[Outcome]) -> list[Judged]:
    """The pairs with their qualities; one in which an answer is malformed has none, for it has no length."""
    qualities = {outcome.pair_id: outcome.quality for outcome in outcomes}
    return [
        Judged(
            pair.prompt.prompt_id,
            pair.a.answer or "",
            pair.b.answer or "",
            None if pair.a.answer is None or pair.b.answer is None else qualities.get(pair.pair_id),
        )
        for pair in pairs
    ]


def resamples_of(resamples: int) -> int:
    """How often a fit is resampled where means are resampled so often.

    Fits cost more than means; a tenth of the resamples moves a bound by less than a table shows.
    """
    return max(100, resamples // 10)


def equal_length_record(
    pairs: Sequence[Pair], outcomes: Sequence[Outcome], rng: np.random.Generator, resamples: int
) -> dict[str, Any]:
    """What `summary.json` says of length: the rates of well-formed answers, raw and at equal length, and doubts.

    Returns:
        `raw` and `quality` with their bounds `_lo` and `_hi`, `longer_twice` (the win rate of an answer twice as long
        as another and as good), `share_longer`, `n_pairs`, `n_left_out` (malformed or without a verdict), `warnings`.
    """
    found = style_controlled(judged_of(pairs, outcomes), rng, resamples_of(resamples), (LENGTH,))
    record: dict[str, Any] = {}
    for name, estimate in (("raw", found.raw), ("quality", found.controlled), ("longer_twice", found.longer_twice)):
        record |= {name: estimate.value, f"{name}_lo": estimate.lo, f"{name}_hi": estimate.hi}
    return {
        **record,
        "share_longer": found.share_longer,
        "n_pairs": found.n_pairs,
        "n_left_out": found.n_missing,
        "warnings": found.warnings,
    }
