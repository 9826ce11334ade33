"""Whether cells differ, by how much at most, and whether they are as good as each other; all of it paired by prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from judge.statistics.bootstrap import (
    CHUNK_CELLS,
    LEVEL,
    NOTHING,
    Estimate,
    Floats,
    estimate_of,
    resampled_sums,
    standard_error,
)
from judge.statistics.planning import POWER, smallest_effect
from judge.verdicts import Outcome

ROUNDING = 1e-12


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests that a difference lies within a margin (Schuirmann 1987).

    Attributes:
        margin: the largest difference that does not matter, stated beforehand.
        p: the larger of the two bootstrap p-values; `equivalent` where it is below 1 - level.
        lo, hi: the interval of mass 2 level - 1 (90% for 95%), which lies within the margin where they are equivalent.
    """

    margin: float
    p: float | None
    lo: float | None
    hi: float | None
    equivalent: bool


@dataclass(frozen=True)
class Difference:
    """The quality of one cell less that of another, over the pairs that both have an outcome for.

    Attributes:
        first, second: the cells.
        difference: of the win rates with ties half, -1..1.
        p: two-sided, by flipping the sign of whole prompts; `p_holm`: the same, corrected for all differences that
            were looked at together.
        smallest: the smallest true difference that so many prompts show with a power of 0.8.
        equivalence: the test of being as good as each other.
        n_prompts, n_pairs: prompts and pairs of answers that both cells have; `n_missing`: pairs that one lacks.
    """

    first: str
    second: str
    difference: Estimate
    p: float | None
    p_holm: float | None
    smallest: float | None
    equivalence: Equivalence
    n_prompts: int
    n_pairs: int
    n_missing: int


def holm(p_values: Sequence[float | None], level: float = LEVEL) -> list[float | None]:
    """P-values corrected for all of them together (Holm 1979); those that are missing stay so and do not count."""
    from statsmodels.stats.multitest import multipletests  # two seconds, which a judge that compares nothing saves

    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, alpha=1 - level, method="holm")[1] if known else [])
    return [None if p is None else float(next(corrected)) for p in p_values]


def sign_flip_p(sums_CM: Floats, rng: np.random.Generator, flips: int) -> Floats:
    """Two-sided p-values of zero means, where the two cells of a prompt are exchangeable (Fisher 1935).

    Args:
        sums_CM: the sum of the differences of each prompt, for each of M couples of cells.
        rng: a keyed generator.
        flips: random sign patterns, the same for all couples.

    Returns:
        Shape (M,), each at least 1 / (flips + 1).
    """
    observed_M = np.abs(sums_CM.sum(axis=0)) - ROUNDING
    extreme_M = np.zeros(sums_CM.shape[1])
    step = max(1, CHUNK_CELLS // max(1, len(sums_CM)))
    for start in range(0, flips, step):
        signs = rng.integers(0, 2, size=(min(step, flips - start), len(sums_CM)), dtype=np.int8) * 2.0 - 1.0
        extreme_M += (np.abs(signs @ sums_CM) >= observed_M).sum(axis=0)
    return np.asarray((extreme_M + 1) / (flips + 1), dtype=np.float64)


def equivalence_of(value: float, draws: Floats, n_clusters: int, margin: float, level: float = LEVEL) -> Equivalence:
    """Two one-sided bootstrap tests.

    Args:
        value: the difference.
        draws: resampled differences, shape (R,).
        n_clusters: prompts behind them.
        margin: above 0.
        level: 1 less the level of each test.

    Raises:
        ValueError: the margin is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"a margin is above 0, found {margin}")
    found = estimate_of(value, draws, n_clusters, 2 * level - 1)
    if found.lo is None or found.hi is None:
        return Equivalence(margin, None, None, None, False)
    outside = max(int((draws <= -margin).sum()), int((draws >= margin).sum()))
    p = (outside + 1) / (len(draws) + 1)
    within = -margin < found.lo and found.hi < margin
    return Equivalence(margin, p, found.lo, found.hi, within and p < 1 - level)


def all_differences(
    cells: Mapping[str, Sequence[Outcome]],
    rng_of: Callable[[], np.random.Generator],
    resamples: int,
    margin: float,
    level: float = LEVEL,
) -> list[Difference]:
    """Every couple of cells, from the same resamples, with p-values corrected by Holm for all of them.

    Args:
        cells: outcomes by cell, all against one baseline; the baseline against itself is a cell of ties.
        rng_of: a new generator with the same key at each call.
        resamples: resamples and sign flips.
        margin: of equivalence.
        level: mass of the intervals.
    """
    couples = list(combinations(cells, 2))
    if not couples:
        return []
    prompts = sorted({outcome.prompt_id for outcomes in cells.values() for outcome in outcomes})
    parts = [_of_prompts(cells[one], cells[other], prompts) for one, other in couples]
    sums_CM, counts_CM = (np.stack([part[k] for part in parts], axis=1) for k in (0, 1))
    drawn = resampled_sums(np.concatenate([sums_CM, counts_CM], axis=1), resamples, rng_of())
    with np.errstate(invalid="ignore"):
        draws_RM = drawn[:, : len(couples)] / drawn[:, len(couples) :]
    p_M = sign_flip_p(sums_CM, rng_of(), resamples)
    found = []
    for m, (one, other) in enumerate(couples):
        sums, counts = sums_CM[:, m], counts_CM[:, m]
        n_prompts, n_pairs = int((counts > 0).sum()), int(counts.sum())
        value = float(sums.sum() / n_pairs) if n_pairs else math.nan
        error = standard_error(sums, counts)
        known = draws_RM[~np.isnan(draws_RM[:, m]), m]
        found.append(
            Difference(
                first=one,
                second=other,
                difference=estimate_of(value, known, n_prompts, level) if n_pairs else NOTHING,
                p=float(p_M[m]) if n_prompts > 1 else None,
                p_holm=None,
                smallest=None if error is None else smallest_effect(error, 1 - level, POWER),
                equivalence=equivalence_of(value, known, n_prompts, margin, level),
                n_prompts=n_prompts,
                n_pairs=n_pairs,
                n_missing=parts[m][2] - n_pairs,
            )
        )
    corrected = holm([difference.p for difference in found], level)
    return [replace(difference, p_holm=p) for difference, p in zip(found, corrected, strict=True)]


def _of_prompts(
    mine: Sequence[Outcome], theirs: Sequence[Outcome], prompts: Sequence[str]
) -> tuple[Floats, Floats, int]:
    """Sum and number of the known differences of each prompt, and the number of pairs that either cell has."""
    of_mine, of_other = ({outcome.pair_id: outcome for outcome in outcomes} for outcomes in (mine, theirs))
    place = {prompt: i for i, prompt in enumerate(prompts)}
    sums, counts = np.zeros(len(prompts)), np.zeros(len(prompts))
    for pair_id in of_mine.keys() & of_other.keys():
        quality, other = of_mine[pair_id].quality, of_other[pair_id].quality
        if quality is not None and other is not None:
            sums[place[of_mine[pair_id].prompt_id]] += quality - other
            counts[place[of_mine[pair_id].prompt_id]] += 1
    return sums, counts, len(of_mine.keys() | of_other.keys())
