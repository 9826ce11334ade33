"""Everything that labelled pairs say of one judge: agreement with people, its ceiling, position, length, statuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from configs.keyed import keyed_rng
from judge.agreement.labelled_pairs import LabelledPair
from judge.statistics import Estimate, OrderEffects, cluster_bootstrap, order_effects
from judge.statistics.agreement import Agreement, agreement, ceiling, label_of, length_dependence
from judge.statistics.ranking import Game, joined, rank
from judge.verdicts import ORDERS, Outcome, Verdict, Winner, combine

DIGITS = 12
"""Results are rounded to so many decimals, so that another BLAS writes the same bytes."""
UNGRADED = "ungraded"
MODELS_TO_RANK = 3
RESAMPLES_OF_RANKS = 1_000


class Judgement(NamedTuple):
    """One label of the judge beside that of people."""

    pair: LabelledPair
    judge: Winner | None
    people: Winner | None


def measure(
    pairs: Sequence[LabelledPair],
    verdicts: Mapping[str, Sequence[Verdict]],
    seed: int,
    resamples: int,
    ordered: bool = True,
) -> dict[str, Any]:
    """The figures of one judge.

    Args:
        pairs: labelled pairs.
        verdicts: the judge's verdicts of each pair, by pair; pairs it was never shown may be absent.
        seed, resamples: of the bootstrap by prompt; all figures share their resamples.
        ordered: whether each order was read by itself; people rate a pair in one, which says nothing of the place.

    Returns:
        A JSON record. `agreement` counts every verdict in every order, `outcome` one label a pair read in both orders
        (a win must hold in both, else it is a tie). `of_all` also counts missing verdicts, as wrong.
    """
    shown = [pair for pair in pairs if verdicts.get(pair.pair_id)]
    every = [
        Judgement(pair, verdict.winner, label_of(pair.preference))
        for pair in shown
        for verdict in verdicts[pair.pair_id]
    ]
    by_order = {
        order: [
            Judgement(pair, verdict.winner, label_of(pair.preference))
            for pair in shown
            for verdict in verdicts[pair.pair_id]
            if verdict.order == order
        ]
        for order in ORDERS
    }
    outcomes = [_outcome(verdicts[pair.pair_id]) for pair in shown]
    combined = [
        Judgement(pair, _winner(outcome), label_of(pair.preference))
        for pair, outcome in zip(shown, outcomes, strict=True)
        if outcome is not None
    ]
    flat = [verdict for pair in shown for verdict in verdicts[pair.pair_id]]
    rng = _rng_of(seed)

    def of(judgements: Sequence[Judgement]) -> dict[str, Any]:
        return _flat(_agreement(judgements, seed, resamples))

    return {
        "n_pairs": len(shown),
        "n_verdicts": len(flat),
        "n_missing": sum(verdict.winner is None for verdict in flat),
        "verdicts": dict(sorted(Counter(verdict.status for verdict in flat).items())),
        "outcomes": dict(sorted(Counter(outcome.status for outcome in outcomes if outcome).items())),
        "agreement": {**of(every), "of_all": _of_all(every, seed, resamples)},
        "agreement_in_order": {order: of(members) for order, members in by_order.items() if members},
        "outcome": of(combined) if combined else None,
        "domains": {name: of(members) for name, members in _grouped(every, lambda row: row.pair.domain)},
        "strengths": {name: of(members) for name, members in _grouped(every, _strength)},
        "annotators": {name: of(members) for name, members in _grouped(every, _unity) if name},
        "ceiling": _ceiling(shown, verdicts, seed, resamples),
        "position": _position(order_effects(flat if ordered else [], rng(), resamples)),
        "length": _length(every, seed, resamples),
        "ranking": ranking_record([(pair, _winner_of_pair(verdicts[pair.pair_id])) for pair in shown], seed, resamples),
    }


def people_record(pairs: Sequence[LabelledPair], seed: int, resamples: int) -> dict[str, Any]:
    """What people said, without any judge."""
    labels = Counter(label_of(pair.preference) for pair in pairs)
    decisive = [pair for pair in pairs if pair.preference and pair.responses]
    longer = Counter(_sign(len(pair.responses[1]) - len(pair.responses[0])) for pair in decisive if pair.responses)
    agreed = sum(
        _sign(len(pair.responses[1]) - len(pair.responses[0])) == _sign(pair.preference or 0)
        for pair in decisive
        if pair.responses
    )
    n_unequal = len(decisive) - longer[0]
    return {
        "n_pairs": len(pairs),
        "n_prompts": len({pair.prompt_id for pair in pairs}),
        "first": labels["a"],
        "tie": labels["tie"],
        "second": labels["b"],
        "unlabelled": labels[None],
        "annotators_a_pair": dict(sorted(Counter(len(pair.individual) for pair in pairs).items())),
        "longer_preferred": agreed / n_unequal if n_unequal else None,
        "n_unequal_lengths": n_unequal,
        "ranking": ranking_record([(pair, label_of(pair.preference)) for pair in pairs], seed, resamples),
    }


def ranking_record(
    labels: Sequence[tuple[LabelledPair, Winner | None]], seed: int, resamples: int
) -> list[dict[str, Any]] | None:
    """Standings of the models that the data name, by one label a pair; None for fewer than three that chains join."""
    shares: dict[Winner, tuple[float, float, float]] = {"a": (1, 0, 0), "tie": (0, 1, 0), "b": (0, 0, 1)}
    games = [
        Game(pair.prompt_id, *pair.names, *shares[label])
        for pair, label in labels
        if pair.named and label is not None and pair.names[0] != pair.names[1]
    ]
    names = sorted({name for game in games for name in (game.first, game.second)})
    if len(names) < MODELS_TO_RANK or not joined(games):
        return None
    found = rank(games, names[0], _rng_of(seed)(), min(resamples, RESAMPLES_OF_RANKS))
    return [
        {
            "name": row.name,
            "rank": row.rank,
            "rank_lo": row.rank_lo,
            "rank_hi": row.rank_hi,
            "strength": estimate_record(row.strength, row.n_games),
        }
        for row in found.standings
    ]


def _agreement(judgements: Sequence[Judgement], seed: int, resamples: int) -> Agreement:
    return agreement(
        [row.judge for row in judgements],
        [row.people for row in judgements],
        [row.pair.prompt_id for row in judgements],
        _rng_of(seed)(),
        resamples,
    )


def _of_all(judgements: Sequence[Judgement], seed: int, resamples: int) -> dict[str, Any]:
    right = [None if row.people is None else float(row.judge == row.people) for row in judgements]
    (found,) = cluster_bootstrap([right], [row.pair.prompt_id for row in judgements], _rng_of(seed)(), resamples)
    return estimate_record(found, sum(value is not None for value in right))


def _ceiling(
    pairs: Sequence[LabelledPair], verdicts: Mapping[str, Sequence[Verdict]], seed: int, resamples: int
) -> dict[str, Any] | None:
    found = ceiling(
        [[verdict.winner for verdict in verdicts[pair.pair_id]] for pair in pairs],
        [pair.individual for pair in pairs],
        [pair.prompt_id for pair in pairs],
        _rng_of(seed)(),
        resamples,
    )
    if found is None:
        return None
    counts = dict.fromkeys(("people", "people_kappa", "same_grade", "unanimous"), found.n_rows)
    return {
        name: estimate_record(getattr(found, name), counts.get(name, found.n))
        for name in ("people", "people_kappa", "same_grade", "unanimous", "judge", "shortfall")
    }


def _length(judgements: Sequence[Judgement], seed: int, resamples: int) -> dict[str, Any] | None:
    held = [(row, row.pair.responses) for row in judgements if row.pair.responses is not None]
    if not held:
        return None
    found = length_dependence(
        [row.judge for row, _ in held],
        [row.people for row, _ in held],
        [(len(responses[0]), len(responses[1])) for _, responses in held],
        [row.pair.prompt_id for row, _ in held],
        _rng_of(seed)(),
        resamples,
    )
    return {
        "judge_longer": estimate_record(found.judge_longer, found.n),
        "people_longer": estimate_record(found.people_longer, found.n),
        "excess": estimate_record(found.excess, found.n),
        "right_if_longer": estimate_record(found.right_if_longer, found.n_longer),
        "right_if_shorter": estimate_record(found.right_if_shorter, found.n_shorter),
    }


def _position(found: OrderEffects) -> dict[str, Any]:
    """Without pairs read in both orders, who wins first says nothing of the place: the better one may stand there."""
    unknown = {} if found.n_both else dict.fromkeys(("first_share", "first_lo", "first_hi"))
    return _rounded({**asdict(found), **unknown})


def _winner_of_pair(verdicts: Sequence[Verdict]) -> Winner | None:
    """Both orders together where there are two, else the one there is."""
    outcome = _outcome(verdicts)
    return _winner(outcome) if outcome is not None else verdicts[0].winner


def _outcome(verdicts: Sequence[Verdict]) -> Outcome | None:
    by_order = {verdict.order: verdict for verdict in verdicts}
    return combine(by_order["AB"], by_order["BA"]) if len(by_order) == len(ORDERS) else None


def _winner(outcome: Outcome) -> Winner | None:
    if outcome.win is None:
        return None
    return "a" if outcome.win == 1 else "b" if outcome.lose == 1 else "tie"


def _strength(row: Judgement) -> str:
    if row.people == "tie":
        return "people tie"
    return UNGRADED if row.pair.strength is None else f"{row.pair.strength:g}"


def _unity(row: Judgement) -> str:
    labels = {label_of(score) for score in row.pair.individual}
    return "" if len(row.pair.individual) < 2 else "unanimous" if len(labels) == 1 else "divided"


def _grouped(judgements: Iterable[Judgement], key: Callable[[Judgement], str]) -> list[tuple[str, list[Judgement]]]:
    groups: dict[str, list[Judgement]] = {}
    for row in judgements:
        if row.people is not None:
            groups.setdefault(key(row), []).append(row)
    return sorted(groups.items())


def _flat(found: Agreement) -> dict[str, Any]:
    return {
        "agreement": estimate_record(found.agreement, found.n),
        "kappa": estimate_record(found.kappa, found.n),
        "accuracy": estimate_record(found.accuracy, found.n_decisive),
        "n_prompts": found.n_prompts,
    }


def estimate_record(estimate: Estimate, n: int) -> dict[str, float | int | None]:
    """An estimate as it stands in JSON."""
    return {**_rounded({"estimate": estimate.value, "lo": estimate.lo, "hi": estimate.hi}), "n": n}


def _rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in record.items()}


def _rng_of(seed: int) -> Callable[[], Any]:
    return lambda: keyed_rng(seed, "judge validation")


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
