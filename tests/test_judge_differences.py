"""Differences between cells, Holm, equivalence, and the planner, against hand counts and simulated power."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.records import read_json
from judge.plan import PlanTable, run
from judge.statistics.differences import all_differences, equivalence_of, holm, sign_flip_p
from judge.statistics.planning import (
    Components,
    components_of,
    prompts_needed,
    sd_of_outcomes,
    smallest_difference,
    smallest_effect,
)
from judge.verdicts import Outcome

SHARES = {"w": (1.0, 0.0, 0.0), "t": (0.0, 1.0, 0.0), "l": (0.0, 0.0, 1.0), "m": (None, None, None)}


def cell(letters: Sequence[str]) -> list[Outcome]:
    return [Outcome(f"p{i}#0", f"p{i}", 0, "agreed", *SHARES[letter]) for i, letter in enumerate(letters)]


def found_for(cells: dict[str, list[Outcome]], margin: float = 0.1) -> list[Any]:
    return all_differences(cells, lambda: keyed_rng(0, "t"), 999, margin)


def test_holm_by_hand() -> None:
    # 0.01 x 4, 0.02 x 3, max(0.06, 0.03 x 2), then 0.5
    assert holm([0.03, 0.01, None, 0.5, 0.02]) == pytest.approx([0.06, 0.04, None, 0.5, 0.06])
    assert holm([None]) == [None]


def test_sign_flips_of_few_prompts_are_those_of_the_whole_group() -> None:
    sums = np.array([1.0, 0.5, 0.5, 1.0, -0.5])
    exact = np.mean([abs(np.dot(signs, sums)) >= abs(sums.sum()) for signs in product((-1, 1), repeat=5)])
    assert sign_flip_p(sums[:, None], keyed_rng(0, "t"), 20_000)[0] == pytest.approx(exact, abs=0.01)
    many = keyed_rng(1, "values").normal(0.1, 1.0, 300)
    assert sign_flip_p(many[:, None], keyed_rng(0, "t"), 20_000)[0] == pytest.approx(
        ttest_1samp(many, 0).pvalue, abs=0.01
    )


def test_a_difference_is_paired_by_prompt() -> None:
    """Two cells that win and lose on the same prompts differ nowhere, however much prompts differ."""
    letters = "wl" * 40
    (same,) = found_for({"a": cell(letters), "b": cell(letters)})
    assert (same.difference.value, same.difference.lo, same.difference.hi) == (0.0, 0.0, 0.0)
    assert (same.p, same.p_holm, same.smallest) == (1.0, 1.0, 0.0)
    assert same.equivalence.equivalent
    (other,) = found_for({"a": cell("w" * 80), "b": cell("wt" * 40)})
    assert other.difference.value == pytest.approx(0.25)
    assert other.p < 0.01 and not other.equivalence.equivalent


def test_missing_outcomes_have_no_weight_and_are_counted() -> None:
    (found,) = found_for({"a": cell("wwtm"), "b": cell("ltm")})
    assert (found.n_pairs, found.n_prompts, found.n_missing) == (2, 2, 2)
    assert found.difference.value == pytest.approx((1 + 0.5) / 2)
    (nothing,) = found_for({"a": cell("mm"), "b": cell("wl")})
    assert (nothing.difference.value, nothing.p, nothing.p_holm, nothing.equivalence.equivalent) == (
        None,
        None,
        None,
        False,
    )
    assert found_for({"a": cell("w")}) == []


def test_all_couples_are_corrected_together() -> None:
    rng = keyed_rng(0, "cells")
    cells = {name: cell(list(rng.choice(list("wtl"), 60))) for name in "abcd"}
    found = found_for(cells)
    assert len(found) == 6
    assert [row.p_holm for row in found] == pytest.approx(holm([row.p for row in found]))


def test_equivalence_needs_the_whole_90_percent_interval_within_the_margin() -> None:
    draws = keyed_rng(0, "draws").normal(0.0, 0.02, 20_000)
    inside, outside = (equivalence_of(0.0, draws, 5000, margin) for margin in (0.05, 0.02))
    assert inside.equivalent and not outside.equivalent
    assert inside.hi == pytest.approx(norm.ppf(0.95) * 0.02, abs=0.001)
    assert inside.p == pytest.approx(norm.sf(2.5), abs=0.002)
    assert outside.p == pytest.approx(norm.sf(1.0), abs=0.01)
    with pytest.raises(ValueError, match="above 0"):
        equivalence_of(0.0, draws, 5000, 0.0)


def test_no_evidence_of_a_difference_is_no_equivalence() -> None:
    (found,) = found_for({"a": cell("wltwl"), "b": cell("lwtwl")}, margin=0.05)
    assert found.p > 0.3 and not found.equivalence.equivalent


def test_the_smallest_effect_of_a_known_case() -> None:
    # (1.95996 + 0.84162) x 0.05
    assert smallest_effect(0.05, 0.05, 0.8) == pytest.approx(0.14008, abs=1e-5)
    assert sd_of_outcomes(0.5, 0.0) == pytest.approx(0.5)
    assert sd_of_outcomes(0.25, 0.5) == pytest.approx(np.sqrt(0.125))
    parts = Components(0.0, 0.5, 0.0)
    needed = prompts_needed(0.1, parts, 1, 0.05, 0.8)
    assert needed == pytest.approx((2.8016 * 0.5 / 0.1) ** 2, abs=3)
    assert (
        smallest_difference(parts, needed or 0, 1, 0.05, 0.8)
        <= 0.1
        < smallest_difference(  # type: ignore[operator]
            parts, (needed or 0) - 1, 1, 0.05, 0.8
        )
    )


def test_what_the_plan_promises_is_found_in_four_of_five_simulations() -> None:
    parts, seeds, prompts = Components(0.03, 0.4, 0.2), 6, 150
    effect = smallest_difference(parts, prompts, seeds, 0.05, 0.8)
    assert effect is not None
    rng, found, rounds = keyed_rng(0, "power"), 0, 1500
    error = np.sqrt(parts.variance(prompts, seeds))
    for _ in range(rounds):
        of_seeds, of_prompts = rng.normal(0, parts.seed, seeds), rng.normal(0, parts.prompt, prompts)
        rest = rng.normal(0, parts.rest, (seeds, prompts))
        found += abs((effect + of_seeds[:, None] + of_prompts + rest).mean()) > norm.ppf(0.975) * error
    assert found / rounds == pytest.approx(0.8, abs=0.04)


def test_more_prompts_never_help_against_seeds() -> None:
    parts = Components(0.05, 0.5, 0.0)
    row = [smallest_difference(parts, n, 3, 0.05, 0.8) for n in (50, 200, 800, 3200, 100_000)]
    assert all(a >= b for a, b in pairwise(row))  # type: ignore[operator]
    assert row[-1] > 2.8 * 0.05 / np.sqrt(3)  # type: ignore[operator]
    assert smallest_difference(parts, 1000, 1, 0.05, 0.8) is None
    assert prompts_needed(0.05, parts, 3, 0.05, 0.8) is None


def test_variance_components_of_a_simulated_table() -> None:
    rng = keyed_rng(0, "components")
    table = rng.normal(0, 0.3, (40, 1)) + rng.normal(0, 0.5, (1, 900)) + rng.normal(0, 0.2, (40, 900))
    found = components_of(table)
    assert (found.prompt, found.rest) == (pytest.approx(0.5, abs=0.03), pytest.approx(0.2, abs=0.01))
    assert found.seed == pytest.approx(0.3, abs=0.1)
    assert components_of(np.array([[0.0, 1.0, 2.0]])) == Components(0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="two of them"):
        components_of(np.zeros((3, 1)))


def test_a_plan_from_assumptions(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run([], PlanTable(difference=0.1, between="baseline", win=0.5, tie=0.0, output=str(tmp_path / "plan.json")))
    plan = read_json(tmp_path / "plan.json")
    assert plan["sd"]["prompts"] == pytest.approx(0.5)
    assert plan["prompts_needed"]["1"] == pytest.approx(198, abs=2)
    assert "nothing is known of the spread between seeds" in capsys.readouterr().out
    run([], PlanTable(sd_seeds=0.02, comparisons=10))
    assert "not by prompts" in capsys.readouterr().out


def test_a_plan_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="holds no judged cell"):
        run(["no-such-run"], PlanTable())
    with pytest.raises(ValueError, match="shares of one whole"):
        PlanTable(win=0.8, tie=0.5)


def test_a_plan_without_seeds_is_one_row_that_says_so(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run([], PlanTable(output=str(tmp_path / "plan.json")))
    printed = capsys.readouterr().out
    assert printed.count("unknown") == 2 and "seeds unknown" in printed and "seeds 0.000" not in printed
    plan = read_json(tmp_path / "plan.json")
    assert plan["sd"]["seeds"] is None and list(plan["smallest_difference"]) == ["1"]
