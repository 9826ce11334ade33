"""Estimates that share one set of resampled prompts, so that every difference between them is paired.

Whole prompts are drawn with replacement, because the answers to one prompt are not independent. Intervals are
percentiles, expanded where prompts are few (`reliability.tail_of`, Hesterberg 2015). Where the bootstrap cannot show
any spread (all cases counted, or none), a share has Wilson's interval with a prompt as one case. One prompt alone has
no interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.measures import NOTHING, Estimate, resampled_clusters
from calibration.reliability import auc_of_ranks, tail_of
from rm.measures import Floats, wilson

Mask = NDArray[np.bool_]


class Resamples:
    """How often each prompt was drawn in each resample.

    Attributes:
        numbers: the position of each prompt's name.
        draws: shape (resamples, prompts).
    """

    def __init__(self, prompts: Sequence[str], rng: np.random.Generator) -> None:
        """Draw from the different names among prompts, whatever the order of the rows; at least one is needed."""
        names = sorted(set(prompts))
        self.numbers = {name: i for i, name in enumerate(names)}
        self.draws = resampled_clusters(names, rng)[1].astype(np.float64)

    def mean(self, values: Floats, owners: Sequence[str]) -> Estimate:
        """The mean of values, shape (N,), of which each belongs to a prompt."""
        if len(values) == 0:
            return NOTHING
        sums, sizes = self._sums(values, owners)
        return self._estimate(float(np.mean(values)), _ratio(self.draws @ sums, self.draws @ sizes), len(values), sizes)

    def share(self, hits: Mask, owners: Sequence[str]) -> Estimate:
        """The share of cases that are hits, shape (N,)."""
        found = self.mean(np.asarray(hits, dtype=np.float64), owners)
        value, prompts = found["estimate"], len(set(owners))
        if value is None or 0 < value < 1:
            return found
        bounds = wilson(value * prompts, prompts)
        return {"estimate": value, "lo": bounds["lo"], "hi": bounds["hi"], "n": found["n"]}

    def difference(
        self, first: Floats, owners: Sequence[str], second: Floats, second_owners: Sequence[str]
    ) -> Estimate:
        """mean(first) - mean(second), each over its own cases, drawn together; nothing where either has no case.

        n counts the cases of both, or of one where they are the same cases.
        """
        if len(first) == 0 or len(second) == 0:
            return NOTHING
        (sums, sizes), (others, other_sizes) = self._sums(first, owners), self._sums(second, second_owners)
        drawn = _ratio(self.draws @ sums, self.draws @ sizes) - _ratio(self.draws @ others, self.draws @ other_sizes)
        n = len(first) if owners is second_owners else len(first) + len(second)
        return self._estimate(float(np.mean(first) - np.mean(second)), drawn, n, sizes + other_sizes)

    def auc_change(self, before: Floats, after: Floats, good: Mask, owners: Sequence[str]) -> dict[str, Estimate]:
        """The chance that a good answer stands above a bad one (equal: half), over all prompts: before, after, change.

        Nothing where all are good, or none.
        """
        if good.all() or not good.any():
            return {"before": NOTHING, "after": NOTHING, "change": NOTHING}
        index, labels = self._index(owners), good.astype(np.float64)
        sizes = np.bincount(index, minlength=self.draws.shape[1]).astype(np.float64)
        drawn: dict[str, Floats] = {}
        value: dict[str, float] = {}
        for name, values in (("before", before), ("after", after)):
            ranks = np.unique(values, return_inverse=True)[1]
            drawn[name] = np.array([_number(auc_of_ranks(ranks, labels, times[index])) for times in self.draws])
            value[name] = _number(auc_of_ranks(ranks, labels, np.ones(len(good))))
        drawn["change"] = drawn["after"] - drawn["before"]
        value["change"] = value["after"] - value["before"]
        return {name: self._estimate(value[name], drawn[name], len(good), sizes) for name in value}

    def _index(self, owners: Sequence[str]) -> NDArray[np.intp]:
        return np.array([self.numbers[name] for name in owners], dtype=np.intp)

    def _sums(self, values: Floats, owners: Sequence[str]) -> tuple[Floats, Floats]:
        """Sum of values and number of cases of each prompt."""
        index, prompts = self._index(owners), self.draws.shape[1]
        sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64), minlength=prompts).astype(np.float64)
        return sums, np.bincount(index, minlength=prompts).astype(np.float64)

    def _estimate(self, value: float, drawn: Floats, n: int, sizes: Floats) -> Estimate:
        """The value with the percentiles of the resamples that have cases."""
        drawn = drawn[np.isfinite(drawn)]
        prompts = int((sizes > 0).sum())
        if prompts < 2 or len(drawn) == 0:
            return {"estimate": value, "lo": None, "hi": None, "n": n}
        tail = tail_of(prompts)
        lo, hi = np.quantile(drawn, [tail, 1 - tail])
        return {"estimate": value, "lo": float(lo), "hi": float(hi), "n": n}


def _ratio(sums: Floats, sizes: Floats) -> Floats:
    """Means; NaN where a resample has no case."""
    return np.divide(sums, sizes, out=np.full(len(sums), np.nan), where=sizes > 0)


def _number(value: float | None) -> float:
    return np.nan if value is None else value
