"""How rewards rank labelled answers, with intervals that are linearised over prompts instead of resampled.

Prompts are the independent units. A figure comes with the influence of each prompt on it, whose squares sum to its
variance: for a ratio of sums by Taylor's series, for the AUC by its placement values (Obuchowski 1997, Biometrics
53:567). Differences of figures are differences of influences, hence paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student

from calibration.measures import Estimate, agreement_of, ordered_pairs
from rm.measures import LEVEL, Floats, wilson

Mask = NDArray[np.bool_]


class Part(NamedTuple):
    """A figure on part of the data.

    Attributes:
        value: the figure.
        influence: of each prompt on it, shape (prompts of all data,); they sum to 0.
        n: comparisons (answers, pairs, or good times bad answers).
        prompts: prompts that have any.
    """

    value: float
    influence: Floats
    n: int
    prompts: int

    def less(self, other: Part) -> Part:
        """The difference of two figures of the same comparisons."""
        return Part(self.value - other.value, self.influence - other.influence, self.n, self.prompts)

    def estimate(self, means: int = 1) -> Estimate:
        """With the t interval over prompts, less one for each mean taken; without bounds where none are left."""
        left = self.prompts - means
        if left < 1:
            return {"estimate": self.value, "lo": None, "hi": None, "n": self.n}
        deviation = math.sqrt(self.prompts / left * float((self.influence**2).sum()))
        half = float(student.ppf((1 + LEVEL) / 2, left)) * deviation
        return {"estimate": self.value, "lo": self.value - half, "hi": self.value + half, "n": self.n}

    def share(self) -> Estimate:
        """The same of a share, within 0..1; where all or none count, Wilson's interval with a prompt as one case."""
        found = self.estimate()
        if not 0 < self.value < 1:
            return {**wilson(self.value * self.prompts, self.prompts), "n": self.n}
        if found["lo"] is None or found["hi"] is None:
            return found
        return {**found, "lo": max(0.0, found["lo"]), "hi": min(1.0, found["hi"])}


class RankedAnswers:
    """Labelled answers, and how rewards of shape (N,) rank any part of them."""

    def __init__(self, names: Sequence[str], good: Mask, gold: Floats) -> None:
        """Of each answer its prompt, whether it is good, and its gold (0 and 1 where only that is known)."""
        number = {name: i for i, name in enumerate(dict.fromkeys(names))}
        self.names = names
        self.prompt = np.array([number[name] for name in names], dtype=np.intp)
        self.good = good
        self.gold = gold
        self.everything = np.ones(len(names), dtype=bool)

    @cached_property
    def figure(self) -> Literal["order_agreement", "auc"]:
        """Agreement of pairs of one prompt where gold is graded, else AUC over all answers."""
        return "order_agreement" if len(np.unique(self.gold)) > 2 and len(self._pairs[0]) else "auc"

    @cached_property
    def _pairs(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return ordered_pairs(self.gold, self.names)

    def measure(self, rewards: Floats, part: Mask) -> Part | None:
        """The figure over the answers of a part, shape (N,), of whole prompts; None where nothing compares."""
        return self._order(rewards, part) if self.figure == "order_agreement" else self._auc(rewards, part)

    def _order(self, rewards: Floats, part: Mask) -> Part | None:
        better, worse = (side[part[self._pairs[0]]] for side in self._pairs)
        if len(better) == 0:
            return None
        return self.mean(agreement_of(rewards, better, worse), self.prompt[better])

    def mean(self, values: Floats, prompt: NDArray[np.intp]) -> Part:
        """A mean of values, each of a prompt, as a ratio of sums over prompts."""
        value = float(values.mean())
        return Part(
            value, self._over_prompts(values - value, prompt) / len(values), len(values), len(set(prompt.tolist()))
        )

    def _auc(self, rewards: Floats, part: Mask) -> Part | None:
        rows = np.flatnonzero(part)
        good = self.good[rows]
        n_good, n_bad = int(good.sum()), int((~good).sum())
        if n_good == 0 or n_bad == 0:
            return None
        values = rewards[rows]
        ranks, own = rankdata(values), np.empty(len(rows))
        own[good], own[~good] = rankdata(values[good]), rankdata(values[~good])
        over = (ranks - own) / np.where(good, n_bad, n_good)  # share of the other kind below; ties half
        placement = np.where(good, over, 1 - over)
        value = float(placement[good].mean())
        terms = (placement - value) / np.where(good, n_good, n_bad)
        prompt = self.prompt[rows]
        return Part(value, self._over_prompts(terms, prompt), n_good * n_bad, len(set(prompt.tolist())))

    def _over_prompts(self, terms: Floats, prompt: NDArray[np.intp]) -> Floats:
        return np.asarray(np.bincount(prompt, weights=terms, minlength=int(self.prompt.max()) + 1), dtype=np.float64)
