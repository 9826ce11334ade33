"""pass@k and maj@k: against literals, enumeration of all subsets, and simulation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from configs.keyed import keyed_rng
from judge.evaluation.pass_at_k import majority_at_k, pass_at_k


@pytest.mark.parametrize(
    ("n", "right", "k", "value"),
    [
        *((10, 0, 5, 0.0), (10, 10, 1, 1.0), (10, 3, 1, 0.3), (4, 2, 2, 5 / 6), (5, 1, 5, 1.0)),
        (200, 30, 100, 1 - 7.169551254436534e-11),  # C(170, 100) / C(200, 100), by whole numbers
        (3, 1, 2, 2 / 3),
    ],
)
def test_pass_at_k_by_hand(n: int, right: int, k: int, value: float) -> None:
    assert pass_at_k(n, right, k) == pytest.approx(value, abs=1e-13)


@pytest.mark.parametrize(("n", "right", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, right, k)


def test_pass_at_k_is_the_mean_over_all_subsets() -> None:
    for n in range(1, 8):
        for right in range(n + 1):
            flags = [1] * right + [0] * (n - right)
            for k in range(1, n + 1):
                every = [max(chosen) for chosen in combinations(flags, k)]
                assert pass_at_k(n, right, k) == pytest.approx(np.mean(every), abs=1e-12)


def by_enumeration(votes: list[int], rightness: list[float], silent: int, k: int) -> float:
    samples = [answer for answer, number in enumerate(votes) for _ in range(number)] + [-1] * silent
    values = []
    for chosen in combinations(samples, k):
        counts = {answer: chosen.count(answer) for answer in set(chosen) - {-1}}
        most = max(counts.values(), default=0)
        winners = [answer for answer, count in counts.items() if count == most]
        values.append(np.mean([rightness[answer] for answer in winners]) if winners else 0.0)
    return float(np.mean(values))


def test_majority_at_k_by_hand() -> None:
    """Two samples say 7 (right), one 8, one 9, one nothing."""
    votes, rightness = [2, 1, 1], [1.0, 0.0, 0.0]
    assert majority_at_k(votes, rightness, 1, 5) == 1.0
    assert majority_at_k(votes, rightness, 1, 1) == pytest.approx(2 / 5)
    # Of the 10 pairs: (7, 7) is right; 7 with 8 or 9, four pairs, is right by half; 7 with silence, two, is right.
    assert majority_at_k(votes, rightness, 1, 2) == pytest.approx((1 + 4 / 2 + 2) / 10)
    assert majority_at_k([], [], 3, 2) == 0.0
    assert majority_at_k([2, 2], [1.0, 0.0], 0, 4) == pytest.approx(0.5), "a tie is drawn"


def test_majority_at_k_is_the_mean_over_all_subsets() -> None:
    rng = keyed_rng(0, "majority test")
    for _ in range(60):
        votes = [int(number) for number in rng.integers(1, 5, size=rng.integers(1, 5))]
        rightness = [float(worth) for worth in rng.choice([0.0, 1.0, 0.5], size=len(votes))]
        silent = int(rng.integers(0, 3))
        n = sum(votes) + silent
        for k in range(1, n + 1):
            expected = by_enumeration(votes, rightness, silent, k) if n <= 12 else None
            found = majority_at_k(votes, rightness, silent, k)
            assert expected is None or found == pytest.approx(expected, abs=1e-12)


def test_majority_of_many_samples_by_simulation() -> None:
    votes, rightness, silent, k = [20, 25, 9, 1, 1, 1, 1], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 6, 16
    samples = np.array([answer for answer, number in enumerate(votes) for _ in range(number)] + [-1] * silent)
    rng = keyed_rng(0, "majority simulation")
    values = []
    for _ in range(4000):
        chosen = rng.choice(samples, k, replace=False)
        counts = np.bincount(chosen[chosen >= 0], minlength=len(votes))
        winners = np.flatnonzero(counts == counts.max())
        values.append(np.mean([rightness[winner] for winner in winners]))
    found = majority_at_k(votes, rightness, silent, k)
    assert found == pytest.approx(np.mean(values), abs=4 * np.std(values) / 4000**0.5)


def test_majority_with_one_sample_is_the_mean_and_sums_to_one() -> None:
    votes, silent = [7, 3, 3, 1], 2
    for k in (1, 2, 5, 16):
        each = [majority_at_k(votes, [float(i == j) for i in range(4)], silent, k) for j in range(4)]
        nobody = 2 / 16 if k == 1 else 1 / 120 if k == 2 else 0.0
        assert sum(each) == pytest.approx(1 - nobody)
    assert majority_at_k([300, 200], [1.0, 0.0], 500, 1) == pytest.approx(0.3)
    assert 0.5 < majority_at_k([300, 200], [1.0, 0.0], 500, 501) < 1.0
    with pytest.raises(ValueError, match="at most 1000"):
        majority_at_k([1001], [1.0], 0, 1)
