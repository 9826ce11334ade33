"""Frequency and accuracy by strategy, transitions from before to after, and what each transition contributes.

Paper B (arXiv 2506.10947, section 4.2): the questions are split by whether they were answered with code before and
after training (code->code, code->language, language->code, language->language). With k_d the number of right answers
among those of subset d, the partial contribution is the subset's share of the net gain,

    C_d = (k_d after - k_d before) / sum over e of (k_e after - k_e before),

so that the four add up to 1. The paper's table is the mean of C_d over rewards.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from configs.keyed import keyed_rng
from tasks.strategy.classifier import CODE, STRATEGIES

TRANSITIONS = ("code->code", "code->language", "language->code", "language->language")
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Answered:
    """One answer: its strategy and whether it is right; `right` is None where that is not known."""

    strategy: str
    right: bool | None

    @property
    def side(self) -> str:
        """`code` or `language`."""
        return "code" if self.strategy in CODE or self.strategy == "code" else "language"


@dataclass(frozen=True)
class Change:
    """The answers to one question before and after."""

    before: Answered
    after: Answered

    @property
    def transition(self) -> str:
        """One of `TRANSITIONS`."""
        return f"{self.before.side}->{self.after.side}"


@dataclass(frozen=True)
class Counts:
    """One transition: how many questions, and how many of them were answered right before and after."""

    n: int
    right_before: int
    right_after: int

    @property
    def gain(self) -> int:
        """Net newly right answers."""
        return self.right_after - self.right_before


@dataclass(frozen=True)
class Share:
    """A share with its n and Wilson's 95% interval; `value` is None where n is 0."""

    n: int
    value: float | None
    lo: float | None
    hi: float | None


def share(successes: int, n: int) -> Share:
    """Wilson's score interval of `successes` of `n`, at 95%."""
    if not n:
        return Share(0, None, None, None)
    p, z2 = successes / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Share(n, p, max(0.0, centre - half), min(1.0, centre + half))


def frequencies(answers: Sequence[Answered]) -> dict[str, tuple[Share, Share]]:
    """By strategy, and by `code` and `language`: its share of the answers, and its accuracy where that is known.

    All of `STRATEGIES` where the answers have these, else the styles that occur.
    """
    found: dict[str, tuple[Share, Share]] = {}
    occurring = {answer.strategy for answer in answers}
    listed = STRATEGIES if occurring <= set(STRATEGIES) else in_order(occurring - {"code"})
    for name in (*listed, "code", "language_or_mention"):
        if name == "code":
            chosen = [answer for answer in answers if answer.side == "code"]
        elif name == "language_or_mention":
            chosen = [answer for answer in answers if answer.side == "language"]
        else:
            chosen = [answer for answer in answers if answer.strategy == name]
        known = [answer.right for answer in chosen if answer.right is not None]
        found[name] = share(len(chosen), len(answers)), share(sum(known), len(known))
    return found


def transition_counts(changes: Sequence[Change]) -> dict[str, Counts]:
    """The four subsets; a change whose truth is not known on both sides counts in none."""
    found = {}
    for name in TRANSITIONS:
        chosen = [change for change in changes if change.transition == name and _known(change)]
        found[name] = Counts(len(chosen), sum(_right(c.before) for c in chosen), sum(_right(c.after) for c in chosen))
    return found


def flows(changes: Sequence[Change]) -> dict[tuple[str, str], Counts]:
    """The same for every pair of strategies that occurs, those that write code first."""
    names = {(change.before.strategy, change.after.strategy) for change in changes}
    found = {}
    for pair in sorted(names, key=lambda pair: (_place(pair[0]), _place(pair[1]), pair)):
        chosen = [c for c in changes if (c.before.strategy, c.after.strategy) == pair]
        found[pair] = Counts(len(chosen), sum(_right(c.before) for c in chosen), sum(_right(c.after) for c in chosen))
    return found


def partial_contributions(counts: Mapping[str, Counts]) -> dict[str, float | None]:
    """C_d of each subset (module docstring), in 0..1 and beyond where a subset loses; None where nothing was gained."""
    total = sum(cell.gain for cell in counts.values())
    return {name: cell.gain / total if total else None for name, cell in counts.items()}


def mean_contributions(arms: Sequence[Mapping[str, Counts]]) -> dict[str, float | None]:
    """The mean of C_d over arms, as in the paper; None where an arm gained nothing."""
    listed = [partial_contributions(arm) for arm in arms]
    found: dict[str, float | None] = {}
    for name in TRANSITIONS:
        values = [one[name] for one in listed]
        known = [value for value in values if value is not None]
        found[name] = sum(known) / len(known) if known and len(known) == len(values) else None
    return found


def contribution_intervals(
    changes: Sequence[Change], seed: int, resamples: int = 2000
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of C_d at 95% from resampled questions.

    None, for all four, where the interval of the net gain itself holds 0: a share of a gain that may be none says
    nothing.
    """
    cells = Counter((c.transition, _right(c.after) - _right(c.before)) for c in changes if _known(c))
    keys, n = sorted(cells), sum(cells.values())
    if not n:
        return dict.fromkeys(TRANSITIONS)
    drawn = keyed_rng(seed, "contributions").multinomial(n, [cells[key] / n for key in keys], size=resamples)
    gains = {
        name: sum((drawn[:, i] * step for i, (at, step) in enumerate(keys) if at == name), np.zeros(resamples))
        for name in TRANSITIONS
    }
    total = sum(gains.values(), np.zeros(resamples))
    low, high = np.quantile(total, [0.025, 0.975])
    if low <= 0 <= high:
        return dict.fromkeys(TRANSITIONS)
    safe = total != 0
    return {
        name: (float(np.quantile(gain[safe] / total[safe], 0.025)), float(np.quantile(gain[safe] / total[safe], 0.975)))
        for name, gain in gains.items()
    }


@dataclass(frozen=True)
class Overlap:
    """Questions that two arms moved from language to code: both did, only the first, only the second.

    `accuracy_…` is that of the arm's answers to the questions that it moved.
    """

    both: int
    only_first: int
    only_second: int
    accuracy_first: Share
    accuracy_second: Share


def switched_to_code(first: Mapping[str, Change], second: Mapping[str, Change]) -> Overlap:
    """How much the code that one arm induces is that of another, for example a prompt's and a training's.

    Args:
        first, second: changes by question, from the same answers before.
    """
    one, other = (
        {key for key, change in arm.items() if change.transition == "language->code"} for arm in (first, second)
    )
    return Overlap(
        both=len(one & other),
        only_first=len(one - other),
        only_second=len(other - one),
        accuracy_first=_accuracy([first[key].after for key in one]),
        accuracy_second=_accuracy([second[key].after for key in other]),
    )


def _accuracy(answers: Sequence[Answered]) -> Share:
    known = [answer.right for answer in answers if answer.right is not None]
    return share(sum(known), len(known))


def _known(change: Change) -> bool:
    return change.before.right is not None and change.after.right is not None


def _right(answer: Answered) -> int:
    return int(bool(answer.right))


def in_order(strategies: Iterable[str]) -> list[str]:
    """Strategies or styles, each once: those of `STRATEGIES` as there, before them `code`, after them other styles."""
    return sorted(set(strategies), key=lambda strategy: (_place(strategy), strategy))


def _place(strategy: str) -> int:
    if strategy in STRATEGIES:
        return STRATEGIES.index(strategy)
    return -1 if strategy == "code" else len(STRATEGIES)
