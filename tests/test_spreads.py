"""Where spread comes from: components by hand, intervals that hold the truth, and what is not identified."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from configs.keyed import keyed_rng
from curve.analysis.spreads import spreads_of
from tests.test_claims import cell

Points = list[dict[str, Any]]


def drawn(rng: np.random.Generator, of_rm: float, of_policy: float, n_rungs: int = 4) -> Points:
    points = []
    for rung in map(str, range(n_rungs)):
        for rm_seed in range(3):
            level = 0.5 + of_rm * rng.standard_normal()
            for seed in range(3):
                quality = level + of_policy * rng.standard_normal()
                points.append({"rung": rung, "rm_seed": rm_seed, "seed": seed, "quality": quality})
    return points


def test_components_are_those_of_the_nested_means() -> None:
    values = {0: (0.5, 0.6), 1: (0.7, 0.8)}
    found = spreads_of([cell("raw", "75", q, seed, rm) for rm, both in values.items() for seed, q in enumerate(both)])
    assert found is not None and (found.rm_df, found.policy_df) == (1, 2)
    assert found.policy_seed == pytest.approx(math.sqrt(0.005))
    assert found.rm_seed == pytest.approx(math.sqrt(0.02 - 0.005 / 2))
    # chi-square of 2 degrees at 97.5% and 2.5%: 7.377759 and 0.050636
    assert found.policy_seed_lo == pytest.approx(math.sqrt(0.01 / 7.377759), rel=1e-4)
    assert found.policy_seed_hi == pytest.approx(math.sqrt(0.01 / 0.050636), rel=1e-4)
    # F of (1, 2) degrees at 97.5%: 38.5063
    assert found.ratio_lo == pytest.approx(max(0.0, 4 / 38.5063 - 0.5), abs=1e-4)
    assert found.rm_seed_lo == 0.0 and "not told apart" in found.sentence


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = keyed_rng(0, "spreads")
    held = np.zeros(3)
    n = 300
    for _ in range(n):
        found = spreads_of(drawn(rng, 0.05, 0.03))
        assert found is not None
        pairs = ((found.rm_seed_lo, found.rm_seed_hi, 0.05), (found.policy_seed_lo, found.policy_seed_hi, 0.03))
        pairs += ((found.ratio_lo, found.ratio_hi, (0.05 / 0.03) ** 2),)  # type: ignore[assignment]
        held += [lo is not None and hi is not None and lo <= truth <= hi for lo, hi, truth in pairs]
    assert (held / n > 0.91).all() and (held / n < 0.985).all(), held / n


def test_the_larger_source_is_named_where_it_is_told_apart() -> None:
    found = spreads_of(drawn(keyed_rng(0, "rm"), 0.10, 0.01))
    assert found is not None and found.sentence.endswith("the RM seed moves quality more.")
    other = spreads_of(drawn(keyed_rng(0, "policy"), 0.0, 0.05, n_rungs=30))
    assert other is not None and other.sentence.endswith("the policy seed moves quality more.")


def test_what_was_not_repeated_is_not_identified() -> None:
    one = spreads_of([cell("raw", "75", 0.5)])
    assert one is not None and one.rm_seed is None and one.sentence.startswith("Not identified")
    policies = spreads_of([cell("raw", "75", 0.5 + 0.1 * seed, seed) for seed in range(3)])
    assert policies is not None and policies.rm_seed is None and policies.policy_seed == pytest.approx(0.1)
    assert "RM seeds are not identified" in policies.sentence
    assert spreads_of([cell("gold", None, 0.9)]) is None
    same = spreads_of([cell("raw", "75", 0.5, seed, rm) for seed in (0, 1) for rm in (0, 1)])
    assert same is not None and same.ratio_lo is None and "is not identified" in same.sentence
