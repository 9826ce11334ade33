"""From preference pairs to what is trained on: ties, fewer pairs, label noise, and the use of strength.

    all training pairs -> ties (drop, soft, margin) -> a keyed subset -> keyed label noise -> label, margin, weight

Everything here is of training pairs; a held-out pair keeps its label and its sides whatever the settings. Each draw
is keyed by the pair's name, so a smaller subset lies within a larger one, and a pair that is flipped at one rate is
flipped at every higher one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from configs.errors import UserError
from configs.keyed import keyed_uniform
from rm.config import RMTable
from rm.losses import TrainingPair
from tasks.records import PreferencePair

Ids = tuple[list[int], list[int]]
"""Token ids of the chat with the chosen answer, and with the rejected one."""


@dataclass(frozen=True)
class Target:
    """What one pair teaches; see `TrainingPair`."""

    label: float = 1.0
    margin: float = 0.0
    weight: float = 1.0
    tie: bool = False


def is_tie(pair: PreferencePair) -> bool:
    """Whether annotators had no preference; such a pair has a strength of 0, and its sides are in no order."""
    return pair.strength == 0


def target_of(pair: PreferencePair, table: RMTable) -> Target:
    """What a pair teaches under `rm.ties` and `rm.strength`.

    A pair whose strength (or annotators) the data do not give counts as a plain preference: no margin, weight 1, label
    1. `training_pairs` counts those.
    """
    if is_tie(pair):
        return Target(label=0.5, margin=table.tie_margin if table.ties == "margin" else 0.0, tie=True)
    if table.strength == "soft" and table.soft_label == "annotators":
        return Target(label=share_in_favour(pair.individual) if pair.individual else 1.0)
    if table.strength == "ignore" or pair.strength is None:
        return Target()
    if table.strength == "margin":
        return Target(margin=table.margin_per_strength * pair.strength)
    if table.strength == "weight":
        return Target(weight=pair.strength**table.weight_power)
    return Target(label=1.0 / (1.0 + math.exp(-table.soft_logit_per_strength * pair.strength)))


def share_in_favour(individual: Sequence[float]) -> float:
    """Share of annotators who prefer the chosen answer (a positive number); no preference counts half.

    Raises:
        ValueError: there are no annotators.
    """
    if not individual:
        raise ValueError("a share of annotators needs at least one")
    return sum(1.0 if value > 0 else 0.5 if value == 0 else 0.0 for value in individual) / len(individual)


def subset(pairs: Sequence[PreferencePair], n: int, seed: int) -> set[int]:
    """Positions of `n` pairs drawn by name; those of a smaller `n` are among those of a larger one.

    Raises:
        UserError: there are fewer than `n` pairs.
    """
    if n > len(pairs):
        raise UserError(f"rm.train_pairs: {n} pairs are asked for and {len(pairs)} training pairs are there")
    order = sorted(range(len(pairs)), key=lambda i: keyed_uniform(seed, "fewer pairs", pairs[i].pair_id))
    return set(order[:n])


def is_flipped(pair: PreferencePair, rate: float, seed: int) -> bool:
    """Whether label noise swaps the sides of this pair; a tie has no side to swap."""
    return not is_tie(pair) and keyed_uniform(seed, "label noise", pair.pair_id) < rate


def training_pairs(
    pairs: Sequence[PreferencePair], encoded: Sequence[Ids], table: RMTable, seed: int
) -> tuple[list[TrainingPair], dict[str, Any]]:
    """The pairs of one training, and what was done to them.

    Args:
        pairs: training pairs; `encoded`: their token ids, in the same order.
        table: settings of this training.
        seed: of the reward model; it keys the subset and the noise.

    Returns:
        The pairs in the order given, and the record: numbers of pairs, ties dropped and trained, pairs left out,
        flipped pairs, pairs without a strength or annotators where those are used.

    Raises:
        UserError: too few pairs are left, or a setting finds nothing in the data to work on.
    """
    ties = sum(map(is_tie, pairs))
    kept = [(p, ids) for p, ids in zip(pairs, encoded, strict=True) if table.ties != "drop" or not is_tie(p)]
    if table.ties != "drop" and not ties:
        raise UserError(f"rm.ties: {table.ties}, but no training pair is a tie; set tasks.ties: keep, or rm.ties: drop")
    n_before = len(kept)
    if table.train_pairs is not None:
        chosen = subset([pair for pair, _ in kept], table.train_pairs, seed)
        kept = [item for i, item in enumerate(kept) if i in chosen]
    if len(kept) < 2:
        raise UserError(f"rm: {len(kept)} training pairs are left (ties dropped: {ties}); at least 2 are needed")
    unknown = _without_strength([pair for pair, _ in kept], table)
    made, flipped = [], 0
    for pair, (first, second) in kept:
        if is_flipped(pair, table.label_noise, seed):
            first, second, flipped = second, first, flipped + 1
        target = target_of(pair, table)
        made.append(TrainingPair(first, second, target.label, target.margin, target.weight, target.tie))
    trained_ties = sum(pair.tie for pair in made)
    return made, {
        "n_train_pairs": len(made),
        "ties_dropped": ties if table.ties == "drop" else 0,
        "ties_trained": trained_ties,
        "left_out_of_subset": n_before - len(made),
        "label_noise": table.label_noise,
        "flipped": flipped,
        "without_strength": unknown,
    }


def _without_strength(pairs: Sequence[PreferencePair], table: RMTable) -> int | None:
    """How many pairs lack what `rm.strength` uses; None where it uses nothing."""
    if table.strength == "ignore":
        return None
    decided = [pair for pair in pairs if not is_tie(pair)]
    annotators = table.strength == "soft" and table.soft_label == "annotators"
    lacking = sum(not pair.individual if annotators else pair.strength is None for pair in decided)
    if lacking == len(decided):
        what = "annotators of its own" if annotators else "a strength"
        raise UserError(f"rm.strength: {table.strength}, but no training pair has {what}; set rm.strength: ignore")
    return lacking
