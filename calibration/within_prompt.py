"""What rewards do inside a group of answers to one prompt: rank correlation, changed order, group-scaled advantages.

A policy under group scaling sees nothing else. All functions are pure; values are of shape (N,), and `groups` names
the group of each answer, length N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.measures import members_of, pairs_among
from rm.measures import Floats

EVEN = 1e-12
"""Rewards of a group that spread less than this teach nothing."""
GROUP_NOTE = (
    "Under group scaling a policy sees each reward less its group's mean, over the group's standard deviation: adding "
    "a number to all rewards of a prompt, or stretching them (any affine map), changes nothing."
)


class Correlations(NamedTuple):
    """Rank correlations of each group in which the truth differs, shape (groups,), and the groups' names."""

    kendall: Floats
    spearman: Floats
    groups: list[str]


class OrderChanges(NamedTuple):
    """Of each two answers of a group, shape (M,), what became of their order; `groups` are their groups' names."""

    reversed: NDArray[np.bool_]
    made_equal: NDArray[np.bool_]
    separated: NDArray[np.bool_]
    groups: list[str]


def rank_correlations(values: Floats, truth: Floats, groups: Sequence[str]) -> Correlations:
    """Kendall's tau-b and Spearman's rho (mid-ranks) of values and truth inside each group, in -1..1.

    Groups in which the truth is all equal are left out. Where the values are all equal they order nothing, and the
    correlation is 0. With S the signs of all differences, tau-b is sum(S_x S_y) / sqrt(sum(S_x^2) sum(S_y^2)), and
    row sums of S are mid-ranks up to scale (Kendall 1945).
    """
    kendall: list[float] = []
    spearman: list[float] = []
    names: list[str] = []
    for name, members in members_of(groups).items():
        rows = np.array(members)
        of_truth = np.sign(np.subtract.outer(truth[rows], truth[rows]))
        if not of_truth.any():
            continue
        of_values = np.sign(np.subtract.outer(values[rows], values[rows]))
        kendall.append(_cosine(of_values, of_truth))
        spearman.append(_cosine(of_values.sum(axis=1), of_truth.sum(axis=1)))
        names.append(name)
    return Correlations(np.array(kendall), np.array(spearman), names)


def _cosine(first: Floats, second: Floats) -> float:
    lengths = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / lengths) if lengths > 0 else 0.0


def order_changes(before: Floats, after: Floats, groups: Sequence[str]) -> OrderChanges:
    """Whether each two answers of a group were reversed, made equal, or told apart where they were equal."""
    was: list[Floats] = []
    now: list[Floats] = []
    names: list[str] = []
    for name, members in members_of(groups).items():
        rows = np.array(members)
        first, second = pairs_among(len(rows))
        was.append(np.sign(before[rows[first]] - before[rows[second]]))
        now.append(np.sign(after[rows[first]] - after[rows[second]]))
        names.extend([name] * len(first))
    x, y = (np.concatenate([*signs, np.zeros(0)]) for signs in (was, now))
    return OrderChanges(x * y < 0, (x != 0) & (y == 0), (x == 0) & (y != 0), names)


def advantages(rewards: Floats, groups: Sequence[str]) -> Floats:
    """(reward - group's mean) / group's standard deviation (ddof 1), as TRL's GRPO with scale_rewards: group.

    TRL adds 1e-4 to the standard deviation; that is left out, so that an affine map changes nothing at all. A group
    without spread, and an answer that is alone, has 0.
    """
    found = np.zeros(len(rewards))
    for members in members_of(groups).values():
        rows = np.array(members)
        if len(rows) > 1 and not is_even(rewards[rows]):
            found[rows] = (rewards[rows] - rewards[rows].mean()) / rewards[rows].std(ddof=1)
    return found


def is_even(rewards: Floats) -> bool:
    """Whether a group's rewards have no spread."""
    return bool(np.ptp(rewards) < EVEN)
