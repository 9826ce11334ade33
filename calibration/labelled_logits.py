"""Logits with labels: single answers that are good or bad, or pairs of which one was preferred; splits by prompt.

A pair with the difference d = logit_chosen - logit_rejected stands twice, as (d, good) and (-d, bad), each with half
its weight. Likelihood and accuracy are then those of the pair, a bin of scores below 0.5 mirrors one above, and a fit
without intercept is antisymmetric: swapping the two answers gives the complement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from configs.keyed import keyed_seed

Floats = NDArray[np.float64]
LARGEST_LOGIT = 1e9
LARGEST_WEIGHT = 1e9
LEAST_WEIGHT = 1e-9
LEAST_RANGE = 1e-9
"""Logits that differ by less, or by less than this share of the largest, are taken as equal."""


@dataclass(frozen=True)
class LabelledLogits:
    """What maps are fitted and measured on.

    Attributes:
        logits: what a label is given for: an answer's logit, or the difference of a pair's, shape (N,).
        labels: in 0..1; 1 is good, a number between is the share of raters who said so, shape (N,).
        weights: above 0; they sum to the number of answers (or pairs), shape (N,).
        own: the logit of the answer itself, which is `logits` for single answers, shape (N,).
        prompts: of each, length N; what is split and resampled.
        domains: of each, length N; None where it has none.
        pairs: whether these are mirrored pairs, the second half of the cases mirroring the first.
    """

    logits: Floats
    labels: Floats
    weights: Floats
    own: Floats
    prompts: tuple[str, ...]
    domains: tuple[str | None, ...]
    pairs: bool

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def n(self) -> int:
        """How many answers, or pairs."""
        return len(self) // 2 if self.pairs else len(self)

    def take(self, mask: NDArray[np.bool_]) -> LabelledLogits:
        """The cases of a mask, shape (N,); weights are scaled to sum to their number again."""
        rows = np.flatnonzero(mask)
        n = len(rows) / (2 if self.pairs else 1)
        weights = self.weights[rows]
        return LabelledLogits(
            self.logits[rows],
            self.labels[rows],
            weights * (n / weights.sum()) if len(rows) else weights,
            self.own[rows],
            tuple(self.prompts[i] for i in rows),
            tuple(self.domains[i] for i in rows),
            self.pairs,
        )

    def in_order(self) -> LabelledLogits:
        """The same cases in an order of their own, so that no sum depends on the order of the rows."""
        # beside each case of single answers stands itself, beside each pair its mirror
        other = self.own[self.n :] if self.pairs else self.own
        keys = zip(
            self.prompts, self.domains, self.own.tolist(), other.tolist(), self.labels.tolist(), self.weights.tolist(),
            strict=False,
        )  # fmt: skip
        ranked = [(prompt, domain or "", *numbers) for prompt, domain, *numbers in keys]
        order = sorted(range(self.n), key=ranked.__getitem__)
        rows = np.array(order + [self.n + i for i in order] if self.pairs else order, dtype=np.intp)
        return LabelledLogits(
            self.logits[rows],
            self.labels[rows],
            self.weights[rows],
            self.own[rows],
            tuple(self.prompts[i] for i in rows.tolist()),
            tuple(self.domains[i] for i in rows.tolist()),
            self.pairs,
        )

    def in_domain(self, name: str) -> LabelledLogits:
        """The cases of one domain."""
        return self.take(np.array([domain == name for domain in self.domains]))


def single_answers(
    logits: Floats,
    labels: Floats,
    prompts: Sequence[str] | None = None,
    domains: Sequence[str | None] | None = None,
    weights: Floats | None = None,
) -> LabelledLogits:
    """Single answers, shape (N,) each; without prompts every answer is its own.

    Raises:
        UserError: there is none, a logit is not finite, a label is outside 0..1, a weight not above 0, all labels are
            equal, or all logits.
    """
    x, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check(x, y, w)
    if np.all(y == y[0]):
        raise UserError(f"fit: all {len(y)} labels are {y[0]:g}; a map needs good and bad answers")
    if are_equal(x):
        raise UserError(f"fit: all {len(x)} logits are {x[0]:g}, to nine digits; there is nothing to map")
    names = tuple(map(str, range(len(x)))) if prompts is None else tuple(prompts)
    return LabelledLogits(
        x, y, w * (len(w) / math.fsum(w)), x, names, tuple(domains) if domains else (None,) * len(x), pairs=False
    )


def answer_pairs(
    chosen: Floats,
    rejected: Floats,
    prompts: Sequence[str] | None = None,
    domains: Sequence[str | None] | None = None,
    weights: Floats | None = None,
) -> LabelledLogits:
    """Pairs by the logits of the preferred and the other answer, shape (N,) each; ties are to be left out before.

    Raises:
        UserError: there is none, a logit is not finite, a weight not above 0, or all differences are 0.
    """
    first, second = np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64)
    w = np.ones(len(first)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check(np.concatenate([first, second]), np.ones(1), w)
    d = first - second
    if np.abs(d).max() < LEAST_RANGE * max(1.0, float(np.abs(first).max())):
        raise UserError(f"fit: both answers of all {len(d)} pairs have the same logit; there is nothing to map")
    names = tuple(map(str, range(len(d)))) if prompts is None else tuple(prompts)
    of_domain = tuple(domains) if domains else (None,) * len(d)
    half = w * (len(w) / math.fsum(w)) / 2
    return LabelledLogits(
        np.concatenate([d, -d]),
        np.repeat([1.0, 0.0], len(d)),
        np.concatenate([half, half]),
        np.concatenate([first, second]),
        names * 2,
        of_domain * 2,
        pairs=True,
    )


def held_out(prompts: Sequence[str], share: float, seed: int) -> NDArray[np.bool_]:
    """Which cases are measured and not fitted, shape (N,): whole prompts, a share of them in 0..1, drawn by key."""
    ranked = _shuffled(prompts, seed)
    chosen = set(ranked[: min(len(ranked) - 1, max(1, round(share * len(ranked))))])
    return np.array([prompt in chosen for prompt in prompts])


def folds_of(prompts: Sequence[str], folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of each case, 0..folds-1, shape (N,): whole prompts, as many in each as can be, drawn by key."""
    fold = {prompt: rank % folds for rank, prompt in enumerate(_shuffled(prompts, seed))}
    return np.array([fold[prompt] for prompt in prompts], dtype=np.intp)


def are_equal(logits: Floats) -> bool:
    """Whether logits, shape (N,), are the same to nine digits, or there are none."""
    return len(logits) == 0 or float(np.ptp(logits)) < LEAST_RANGE * max(1.0, float(np.abs(logits).max()))


def _shuffled(prompts: Sequence[str], seed: int) -> list[str]:
    return sorted(set(prompts), key=lambda prompt: (keyed_seed(seed, "calibration split", prompt), prompt))


def _check(logits: Floats, labels: Floats, weights: Floats) -> None:
    if len(logits) == 0:
        raise UserError("fit: there is no answer with a logit and a label")
    broken = int((~np.isfinite(logits)).sum())
    if broken:
        raise UserError(
            f"fit: {broken} of {len(logits)} logits are not finite numbers; a reward model that gives them cannot be "
            "calibrated"
        )
    if not np.all((labels >= 0) & (labels <= 1)):
        raise UserError("fit: labels must lie in 0..1")
    if np.abs(logits).max() > LARGEST_LOGIT:
        raise UserError(
            f"fit: a logit is {logits[np.abs(logits).argmax()]:g}, beyond {LARGEST_LOGIT:g}; these are no logits"
        )
    if not np.all((weights >= LEAST_WEIGHT) & (weights <= LARGEST_WEIGHT)):
        raise UserError(
            f"fit: weights must be {LEAST_WEIGHT:g} to {LARGEST_WEIGHT:g}; leave out what is to count nothing"
        )
