"""Strengths of many policies from their comparisons: Bradley-Terry with ties after Davidson (1970).

    P(i beats j) = e^{s_i} / Z,  P(tie) = e^{t + (s_i + s_j)/2} / Z,  P(j beats i) = e^{s_j} / Z,

with Z their sum. Without ties this is Bradley and Terry's model (1952). All policies stand on one scale, also those
that were never compared directly, as long as a chain of comparisons joins them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from configs.errors import UserError
from judge.statistics.bootstrap import Estimate, Floats, estimate_of, places_of, resampled_sums

PRIOR = 0.5
"""Virtual comparisons of each compared couple, shared by win, tie and loss; they keep an unbeaten policy finite."""
MOST_STEPS = 100
LARGEST_STEP = 2.0
CONVERGED = 1e-9
RIDGE = 1e-9


class Game(NamedTuple):
    """One comparison: the prompt, both policies, and the first's shares of win, tie and loss, which sum to 1."""

    prompt_id: str
    first: str
    second: str
    win: float
    tie: float
    lose: float


@dataclass(frozen=True)
class Standing:
    """One policy.

    Attributes:
        name: of the policy; `n_games`: its comparisons.
        strength: log-odds over the anchor, ties aside; `quality`: its win rate against the anchor by the model, ties
            half.
        rank: from 1; `rank_lo`, `rank_hi`: the interval of ranks over resamples of whole prompts.
        best: share of resamples in which it is the strongest.
    """

    name: str
    n_games: int
    strength: Estimate
    quality: Estimate
    rank: int
    rank_lo: int
    rank_hi: int
    best: float


@dataclass(frozen=True)
class Ranking:
    """All policies, the strongest first.

    Attributes:
        standings: one a policy; `anchor`: the one with strength 0.
        tie: chance of a tie between equals; 0 where no tie was seen.
        worst_fit: the couple whose win rate with ties half the model misses most: names, seen, predicted.
        n_games, n_prompts: what it rests on.
    """

    standings: list[Standing]
    anchor: str
    tie: Estimate
    worst_fit: tuple[str, str, float, float]
    n_games: int
    n_prompts: int


def rank(games: Sequence[Game], anchor: str, rng: np.random.Generator, resamples: int, prior: float = PRIOR) -> Ranking:
    """Fit strengths, with intervals from resamples of whole prompts.

    Args:
        games: the comparisons.
        anchor: the policy whose strength is 0.
        rng: a keyed generator.
        resamples: number of resamples.
        prior: virtual comparisons of each couple, at least 0.

    Raises:
        UserError: nothing to compare, an unknown anchor, or policies that no chain of comparisons joins.
    """
    names = sorted({name for game in games for name in (game.first, game.second)})
    if anchor not in names:
        raise UserError(f"ranking: {anchor!r} was not compared with anything; there are {', '.join(names) or 'none'}")
    place = {name: i for i, name in enumerate(names)}
    couples = sorted({_couple(game) for game in games})
    lonely = _apart(names, couples)
    if lonely:
        raise UserError(
            f"ranking: no chain of comparisons joins {names[0]} with {', '.join(lonely)}; judge a pair of both groups"
        )
    sums_CK, n_prompts = _statistics(games, names, couples)
    n_players = len(names)
    sides_MP = np.zeros((len(couples), n_players))
    for m, (one, other) in enumerate(couples):
        sides_MP[m, place[one]], sides_MP[m, place[other]] = 1.0, -1.0
    whole = sums_CK.sum(axis=0)[None]
    ties = bool(whole[0, n_players] > 0)
    found = davidson(whole, sides_MP, prior, ties)[0]
    drawn_RK = davidson(resampled_sums(sums_CK, resamples, rng), sides_MP, prior, ties)
    base = found[:-1] - found[place[anchor]]
    drawn_base = drawn_RK[:, :-1] - drawn_RK[:, [place[anchor]]]
    order = np.argsort(-base, kind="stable")
    ranks_RP = (drawn_base[:, None, :] > drawn_base[:, :, None] + CONVERGED).sum(axis=2) + 1
    qualities, drawn_qualities = _quality(base, found[-1:]), _quality(drawn_base, drawn_RK[:, -1:])
    played = np.abs(sides_MP).T @ whole[0, n_players + 1 :]
    standings = []
    for position, i in enumerate(order, start=1):
        low, high = np.quantile(ranks_RP[:, i], (0.025, 0.975), method="inverted_cdf")
        standings.append(
            Standing(
                name=names[i],
                n_games=round(played[i]),
                strength=estimate_of(float(base[i]), drawn_base[:, i], n_prompts),
                quality=estimate_of(float(qualities[i]), drawn_qualities[:, i], n_prompts),
                rank=position,
                rank_lo=min(position, int(low)),
                rank_hi=max(position, int(high)),
                best=float((ranks_RP[:, i] == 1).mean()),
            )
        )
    tie = estimate_of(float(_tie(found[-1])), _tie(drawn_RK[:, -1]), n_prompts) if ties else Estimate(0.0, None, None)
    return Ranking(
        standings,
        anchor,
        tie,
        _worst_fit(games, couples, found, sides_MP),
        round(whole[0, n_players + 1 :].sum()),
        n_prompts,
    )


def davidson(sums_RK: Floats, sides_MP: Floats, prior: float, ties: bool) -> Floats:
    """Strengths and the tie parameter that are most likely, for R sets of statistics at once, by Newton's method.

    Args:
        sums_RK: for P policies and M couples: wins with ties half of each policy (P), ties (1), games of each couple
            (M); shape (R, P + 1 + M).
        sides_MP: 1 for the first and -1 for the second policy of each couple.
        prior: virtual games of each couple.
        ties: whether ties are modelled; without them the parameter is minus infinity.

    Returns:
        Strengths with mean 0 and the tie parameter, shape (R, P + 1).
    """
    n_couples, n_players = sides_MP.shape
    score = sums_RK[:, :n_players] + prior / 2 * np.abs(sides_MP).sum(axis=0)
    tied = sums_RK[:, n_players] + (prior / 3 * n_couples if ties else 0.0)
    games = sums_RK[:, n_players + 1 :] + prior
    outer_MPP = (sides_MP[:, :, None] * sides_MP[:, None, :]).reshape(n_couples, -1)
    halves_MP = np.abs(sides_MP) / 2
    found = np.zeros((len(sums_RK), n_players + 1))
    if not ties:
        found[:, -1] = -np.inf
    for _ in range(MOST_STEPS):
        win, tie, lose = chances(found[:, :-1] @ sides_MP.T, found[:, -1:])
        lean = (win - lose) / 2
        gradient = np.empty_like(found)
        gradient[:, :-1] = score - games @ halves_MP - (games * lean) @ sides_MP
        gradient[:, -1] = tied - (games * tie).sum(axis=1) if ties else 0.0
        hessian = np.zeros((len(found), n_players + 1, n_players + 1))
        spread = (win + lose) / 4 - lean**2
        # The mean of the strengths is free; the constant block holds it at 0.
        hessian[:, :-1, :-1] = ((games * spread) @ outer_MPP).reshape(-1, n_players, n_players) + 1 / n_players
        cross = -(games * tie * lean) @ sides_MP
        hessian[:, :-1, -1] = hessian[:, -1, :-1] = cross if ties else 0.0
        hessian[:, -1, -1] = (games * tie * (1 - tie)).sum(axis=1) if ties else 1.0
        hessian += RIDGE * np.eye(n_players + 1)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        largest = np.abs(step).max(axis=1, keepdims=True)
        step *= np.minimum(1.0, LARGEST_STEP / np.maximum(largest, CONVERGED))
        found[:, :-1] += step[:, :-1]
        if ties:
            found[:, -1] += step[:, -1]
        if largest.max() < CONVERGED:
            break
    return found


def chances(lead: Floats, tie: Floats) -> tuple[Floats, Floats, Floats]:
    """Chances of win, tie and loss for a lead s_i - s_j and a tie parameter (minus infinity: no ties)."""
    exponents = np.stack(np.broadcast_arrays(lead / 2, tie, -lead / 2))
    powers = np.exp(exponents - exponents.max(axis=0))
    win, even, lose = powers / powers.sum(axis=0)
    return win, even, lose


def _statistics(games: Sequence[Game], names: Sequence[str], couples: Sequence[tuple[str, str]]) -> tuple[Floats, int]:
    """What the likelihood needs of each prompt, shape (C, P + 1 + M)."""
    places, n_prompts = places_of([game.prompt_id for game in games])
    place = {name: i for i, name in enumerate(names)}
    of_couple = {couple: len(names) + 1 + m for m, couple in enumerate(couples)}
    sums = np.zeros((n_prompts, len(names) + 1 + len(couples)))
    for row, game in zip(places, games, strict=True):
        sums[row, place[game.first]] += game.win + game.tie / 2
        sums[row, place[game.second]] += game.lose + game.tie / 2
        sums[row, len(names)] += game.tie
        sums[row, of_couple[_couple(game)]] += game.win + game.tie + game.lose
    return sums, n_prompts


def _couple(game: Game) -> tuple[str, str]:
    return (game.first, game.second) if game.first <= game.second else (game.second, game.first)


def joined(games: Sequence[Game]) -> bool:
    """Whether a chain of comparisons joins all policies."""
    names = sorted({name for game in games for name in (game.first, game.second)})
    return bool(names) and not _apart(names, {_couple(game) for game in games})


def _apart(names: Sequence[str], couples: Iterable[tuple[str, str]]) -> list[str]:
    """The policies that no chain of comparisons joins with the first."""
    place = {name: i for i, name in enumerate(names)}
    ends: NDArray[np.int64] = np.array([[place[one], place[other]] for one, other in couples])
    _, part = connected_components(coo_array((np.ones(len(ends)), ends.T), shape=(len(names), len(names))))
    return [name for name, its in zip(names, part, strict=True) if its != part[0]]


def _quality(strength: Floats, tie: Floats) -> Floats:
    win, even, _ = chances(strength, tie)
    return win + even / 2


def _tie(parameter: Floats) -> Floats:
    return chances(np.zeros_like(parameter), parameter)[1]


def _worst_fit(
    games: Sequence[Game], couples: Sequence[tuple[str, str]], found: Floats, sides: Floats
) -> tuple[str, str, float, float]:
    seen: dict[tuple[str, str], list[float]] = {couple: [] for couple in couples}
    for game in games:
        quality = game.win + game.tie / 2
        seen[_couple(game)].append(quality if game.first <= game.second else 1 - quality)
    win, even, _ = chances(sides @ found[:-1], found[-1:])
    rows = [
        (*couple, sum(seen[couple]) / len(seen[couple]), float(win[m] + even[m] / 2))
        for m, couple in enumerate(couples)
    ]
    return max(rows, key=lambda row: abs(row[2] - row[3]))
