"""How far a judge agrees with people, and people with each other: shares, Cohen's kappa, lengths.

Labels are `a` (the first answer of the data is better), `tie` and `b`; a label that is None is missing and has no
weight. A table of counts T_33 has the judge's labels as rows and people's as columns, both in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from judge.statistics.bootstrap import (
    LEVEL,
    NOTHING,
    Estimate,
    Floats,
    cluster_bootstrap,
    estimate_of,
    places_of,
    resampled_sums,
    widened_at_the_edge,
)
from judge.verdicts import Winner

LABELS: tuple[Winner, ...] = ("a", "tie", "b")
_PLACE: dict[Winner, int] = {label: i for i, label in enumerate(LABELS)}
_MINE, _TIES, _THEIRS = range(3)


@dataclass(frozen=True)
class Agreement:
    """A judge beside people.

    Attributes:
        agreement: share of judgements with the same label of three; `n`: how many judgements.
        kappa: Cohen's kappa of the three labels (Cohen 1960); 0 is chance.
        accuracy: share that names the answer people prefer, among the judgements where they prefer one; a judge's tie
            counts half. `n_decisive`: how many.
        n_prompts: prompts among the judgements.
    """

    agreement: Estimate
    n: int
    kappa: Estimate
    accuracy: Estimate
    n_decisive: int
    n_prompts: int


@dataclass(frozen=True)
class Ceiling:
    """How far people agree on pairs that at least two of them labelled, and the judge with the same people.

    Attributes:
        people: share of pairs of annotators with the same label, the mean over rows; `n_rows`: rows.
        people_kappa: chance-corrected, with the pooled labels as chance (Scott 1955), for annotators are exchangeable.
        same_grade: the same, where the grade itself (-3..3) must be equal.
        unanimous: share of rows in which all annotators have the same label.
        judge: share of annotators of a row that the judge agrees with, the mean over judgements; `n`: judgements.
        shortfall: people less judge, on the same rows.
    """

    people: Estimate
    n_rows: int
    people_kappa: Estimate
    same_grade: Estimate
    unanimous: Estimate
    judge: Estimate
    n: int
    shortfall: Estimate


@dataclass(frozen=True)
class LengthDependence:
    """What length does to a judge and to people.

    Attributes:
        judge_longer, people_longer: share of decisive labels that name the longer answer, over the same judgements;
            `n`: judgements in which both are decisive and lengths differ. `excess`: judge less people.
        right_if_longer, right_if_shorter: accuracy where people prefer the longer (shorter) answer, a tie counts half;
            `n_longer`, `n_shorter`: how many.
    """

    judge_longer: Estimate
    people_longer: Estimate
    excess: Estimate
    n: int
    right_if_longer: Estimate
    n_longer: int
    right_if_shorter: Estimate
    n_shorter: int


def label_of(preference: float | None) -> Winner | None:
    """The label of a preference in -3..3, of which a negative one prefers the first answer."""
    if preference is None:
        return None
    return "tie" if preference == 0 else "a" if preference < 0 else "b"


def tables_by_cluster(
    judge: Sequence[Winner | None],
    people: Sequence[Winner | None],
    clusters: Sequence[str],
    weights: Sequence[float] | None = None,
) -> Floats:
    """Counts of each pair of labels in each cluster, shape (C, 3, 3); judgements without one of them are left out."""
    places, n_clusters = places_of(clusters)
    tables = np.zeros((n_clusters, 3, 3))
    shares = [1.0] * len(places) if weights is None else weights
    for place, mine, theirs, share in zip(places, judge, people, shares, strict=True):
        if mine is not None and theirs is not None:
            tables[place, _PLACE[mine], _PLACE[theirs]] += share
    return tables


def cohens_kappa(tables: Floats) -> Floats:
    """(p_o - p_e) / (1 - p_e) of tables of counts, shape (…, 3, 3) -> (…); NaN where p_e is 1 or nothing is counted."""
    total = tables.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(tables, axis1=-2, axis2=-1) / total
        chance = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / total**2
        return np.asarray(np.where(chance < 1, (observed - chance) / (1 - chance), np.nan), dtype=np.float64)


def agreement(
    judge: Sequence[Winner | None],
    people: Sequence[Winner | None],
    clusters: Sequence[str],
    rng: np.random.Generator,
    resamples: int,
    level: float = LEVEL,
) -> Agreement:
    """Agreement, kappa and accuracy, all from the same resamples of whole clusters (prompts)."""
    tables_C33 = tables_by_cluster(judge, people, clusters)
    tables_C33 = tables_C33[tables_C33.any(axis=(1, 2))]
    total = tables_C33.sum(axis=0)
    if not total.sum():
        return Agreement(NOTHING, 0, NOTHING, NOTHING, 0, 0)
    n_clusters = len(tables_C33)
    drawn = resampled_sums(tables_C33.reshape(-1, 9), resamples, rng).reshape(-1, 3, 3)
    decisive = tables_C33[:, :, [_MINE, _THEIRS]]
    n_decisive_clusters = int(decisive.any(axis=(1, 2)).sum())
    of = {
        name: estimate_of(float(function(total)), function(drawn), clusters_of_it, level)
        for name, function, clusters_of_it in (
            ("agreement", _agreed, n_clusters),
            ("kappa", cohens_kappa, n_clusters),
            ("accuracy", _accuracy, n_decisive_clusters),
        )
    }
    return Agreement(
        agreement=widened_at_the_edge(of["agreement"], n_clusters),
        n=round(total.sum()),
        kappa=of["kappa"],
        accuracy=widened_at_the_edge(of["accuracy"], n_decisive_clusters),
        n_decisive=round(decisive.sum()),
        n_prompts=n_clusters,
    )


def ceiling(
    judge: Sequence[Sequence[Winner | None]],
    individual: Sequence[Sequence[float]],
    clusters: Sequence[str],
    rng: np.random.Generator,
    resamples: int,
    level: float = LEVEL,
) -> Ceiling | None:
    """The human ceiling on the rows with at least two annotators; None where there is no such row.

    Args:
        judge: the judge's labels of each row (one an order); missing ones are None.
        individual: the preferences of the row's annotators, -3..3.
        clusters: the prompt of each row.
        rng: a keyed generator.
        resamples: number of resamples.
        level: mass of the intervals.
    """
    rows = [i for i, grades in enumerate(individual) if len(grades) > 1]
    if not rows:
        return None
    prompts = [clusters[i] for i in rows]
    people, grades, unanimous, with_judge, shortfall = [], [], [], [], []
    pairs: list[tuple[Winner | None, Winner | None, str, float]] = []
    n = 0
    for i, prompt in zip(rows, prompts, strict=True):
        labels = [label_of(grade) for grade in individual[i]]
        couples = list(combinations(range(len(labels)), 2))
        people.append(sum(labels[j] == labels[k] for j, k in couples) / len(couples))
        grades.append(sum(individual[i][j] == individual[i][k] for j, k in couples) / len(couples))
        unanimous.append(float(len(set(labels)) == 1))
        # Nobody is the first annotator: each pair enters both ways round.
        pairs += [(labels[j], labels[k], prompt, 0.5 / len(couples)) for j, k in couples]
        pairs += [(labels[k], labels[j], prompt, 0.5 / len(couples)) for j, k in couples]
        known = [label for label in judge[i] if label is not None]
        n += len(known)
        agreed = [sum(label == other for other in labels) / len(labels) for label in known]
        with_judge.append(sum(agreed) / len(agreed) if agreed else None)
        shortfall.append(None if with_judge[-1] is None else people[-1] - with_judge[-1])
    found = cluster_bootstrap([people, grades, unanimous, with_judge, shortfall], prompts, rng, resamples, level)
    mine, theirs, of_prompt, weights = (list(column) for column in zip(*pairs, strict=True))
    tables = tables_by_cluster(mine, theirs, of_prompt, weights)
    drawn = resampled_sums(tables.reshape(-1, 9), resamples, rng).reshape(-1, 3, 3)
    kappa = estimate_of(float(cohens_kappa(tables.sum(axis=0))), cohens_kappa(drawn), len(tables), level)
    return Ceiling(found[0], len(rows), kappa, found[1], found[2], found[3], n, found[4])


def length_dependence(
    judge: Sequence[Winner | None],
    people: Sequence[Winner | None],
    lengths: Sequence[tuple[int, int]],
    clusters: Sequence[str],
    rng: np.random.Generator,
    resamples: int,
) -> LengthDependence:
    """Whether the judge prefers the longer answer more often than people do.

    Args:
        judge, people: labels of each judgement.
        lengths: of the first and the second answer, in characters.
        clusters: the prompt of each judgement.
        rng: a keyed generator.
        resamples: number of resamples.
    """
    judge_longer: list[float | None] = []
    people_longer: list[float | None] = []
    right: dict[bool, list[float | None]] = {True: [], False: []}
    for mine, theirs, (first, second) in zip(judge, people, lengths, strict=True):
        longer = None if first == second else "a" if first > second else "b"
        usable = mine is not None and theirs in ("a", "b") and longer is not None
        decisive = usable and mine != "tie"
        judge_longer.append(float(mine == longer) if decisive else None)
        people_longer.append(float(theirs == longer) if decisive else None)
        for side, column in right.items():
            held = usable and (theirs == longer) == side
            column.append((0.5 if mine == "tie" else float(mine == theirs)) if held else None)
    excess = [None if x is None or y is None else x - y for x, y in zip(judge_longer, people_longer, strict=True)]
    columns = [judge_longer, people_longer, excess, right[True], right[False]]
    found = cluster_bootstrap(columns, clusters, rng, resamples)
    counts = [sum(value is not None for value in column) for column in columns]
    prompts = [
        len({cluster for value, cluster in zip(column, clusters, strict=True) if value is not None})
        for column in columns
    ]
    rates = [widened_at_the_edge(found[i], prompts[i]) for i in (0, 1, 3, 4)]
    return LengthDependence(rates[0], rates[1], found[2], counts[0], rates[2], counts[3], rates[3], counts[4])


def _agreed(tables: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.trace(tables, axis1=-2, axis2=-1) / tables.sum(axis=(-2, -1)), dtype=np.float64)


def _accuracy(tables: Floats) -> Floats:
    decisive = tables[..., [_MINE, _THEIRS]]
    right = tables[..., _MINE, _MINE] + tables[..., _THEIRS, _THEIRS] + 0.5 * decisive[..., _TIES, :].sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(right / decisive.sum(axis=(-2, -1)), dtype=np.float64)
