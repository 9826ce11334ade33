"""Rates and intervals of the judge, against literals, symmetries and a simulation with known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from configs.keyed import keyed_rng
from judge.statistics import cluster_bootstrap, clustered, compare, order_effects, widened_where_all_agree, wilson
from judge.statistics.bootstrap import expanded_tail, standard_error
from judge.verdicts import Outcome, Verdict, combine

SHARES = {"w": (1.0, 0.0, 0.0), "t": (0.0, 1.0, 0.0), "l": (0.0, 0.0, 1.0), "m": (None, None, None)}


def outcomes(letters: str, samples: int = 1) -> list[Outcome]:
    """One outcome a letter, `samples` of them a prompt."""
    return [
        Outcome(f"p{i // samples}#{i % samples}", f"p{i // samples}", i % samples, "agreed", *SHARES[letter])
        for i, letter in enumerate(letters)
    ]


def verdict(pair: str, order: str, shown: str | None, status: str = "ok") -> Verdict:
    winner = shown if shown in (None, "tie") else ("a" if (shown == "first") == (order == "AB") else "b")
    return Verdict(pair, pair, 0, order, shown, winner, status)  # type: ignore[arg-type]


def test_rates_of_a_hand_counted_sample() -> None:
    found = compare(outcomes("wwwtlm"), keyed_rng(0, "t"), 500)
    assert (found.win.value, found.tie.value, found.lose.value) == (0.6, 0.2, 0.2)
    assert found.quality.value == pytest.approx(0.7)
    assert found.net_win.value == pytest.approx(0.4)
    assert (found.n_prompts, found.n_pairs, found.n_missing) == (5, 5, 1)


def test_samples_of_a_prompt_are_one_cluster() -> None:
    sums, counts = clustered([1.0, None, 0.5, 0.0], ["b", "b", "a", "a"])
    assert sums.tolist() == [0.5, 1.0]
    assert counts.tolist() == [2.0, 1.0]
    found = compare(outcomes("wlwlwl", samples=2), keyed_rng(0, "t"), 500)
    assert found.n_prompts == 3
    assert found.n_pairs == 6
    # Every prompt has one win and one loss: resampling prompts moves nothing, resampling pairs would.
    assert (found.quality.value, found.quality.lo, found.quality.hi) == (0.5, 0.5, 0.5)


def test_identical_answers_give_exactly_one_half() -> None:
    found = compare(outcomes("t" * 200), keyed_rng(0, "t"), 500)
    assert (found.quality.value, found.quality.lo, found.quality.hi) == (0.5, 0.5, 0.5)
    assert (found.net_win.value, found.net_win.lo, found.net_win.hi) == (0.0, 0.0, 0.0)


def test_exchanging_the_contestants_mirrors_the_interval() -> None:
    letters = "wwltwtlwwtwlwwtl" * 5
    swapped = letters.translate(str.maketrans("wl", "lw"))
    one, other = (compare(outcomes(text), keyed_rng(3, "t"), 2000) for text in (letters, swapped))
    assert one.quality.lo is not None and other.quality.hi is not None
    assert one.quality.lo == pytest.approx(1 - other.quality.hi, abs=1e-12)
    assert one.net_win.hi == pytest.approx(-other.net_win.lo, abs=1e-12)  # type: ignore[operator]


def test_a_rate_of_one_is_doubted_as_wilson_doubts_it() -> None:
    found = compare(outcomes("w" * 20), keyed_rng(0, "t"), 200)
    low, high = proportion_confint(20, 20, method="wilson")
    assert found.quality.lo == pytest.approx(low)
    assert found.quality.hi == pytest.approx(high)
    assert found.net_win.lo == pytest.approx(2 * low - 1)
    assert found.lose.hi == pytest.approx(proportion_confint(0, 20, method="wilson")[1])
    mixed = compare(outcomes("wl" * 10), keyed_rng(0, "t"), 200).quality
    assert widened_where_all_agree(mixed, 20) == mixed


def test_values_that_all_agree_are_doubted_as_wilson_doubts_none_of_twenty() -> None:
    """At 0 and 1 this is Wilson's interval; between, and for differences, exceptions may lie anywhere in the range."""
    low, high = proportion_confint(0, 20, method="wilson")
    for value, least, bounds in (
        (0.0, 0.0, (0.0, high)),
        (1.0, 0.0, (1 - high, 1.0)),
        (0.5, 0.0, (0.5 - high / 2, 0.5 + high / 2)),
        (0.0, -1.0, (-high, high)),
        (-1.0, -1.0, (-1.0, -1.0 + 2 * high)),
    ):
        (found,) = cluster_bootstrap([[value] * 20], [f"p{i}" for i in range(20)], keyed_rng(0, "t"), 200)
        found = widened_where_all_agree(found, 20, least)
        assert (found.value, found.lo, found.hi) == (value, pytest.approx(bounds[0]), pytest.approx(bounds[1]))
    assert low == 0.0


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (50, 100), (10, 10)])
def test_wilson_agrees_with_statsmodels(k: int, n: int) -> None:
    assert wilson(k, n) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)


def test_wilson_of_a_known_case() -> None:
    # p = 0.5, n = 4, z = 1.96: centre 0.5, half width 1.96 * sqrt(1/16 + 1.96^2/64) / (1 + 1.96^2/4) = 0.35
    low, high = wilson(2, 4)
    assert (low, high) == (pytest.approx(0.15, abs=2e-3), pytest.approx(0.85, abs=2e-3))
    assert wilson(0, 0) == (0.0, 1.0)


def test_nothing_is_estimated_from_nothing() -> None:
    assert compare([], keyed_rng(0, "t"), 100).quality.value is None
    found = compare(outcomes("mm"), keyed_rng(0, "t"), 100)
    assert (found.quality.value, found.n_prompts, found.n_missing) == (None, 0, 2)
    (alone,) = cluster_bootstrap([[0.3, None]], ["a", "b"], keyed_rng(0, "t"), 100)
    assert (alone.value, alone.lo, alone.hi) == (0.3, None, None)


def test_the_interval_matches_the_normal_one_of_a_mean() -> None:
    values = keyed_rng(1, "values").random(400).tolist()
    (found,) = cluster_bootstrap([values], [str(i) for i in range(400)], keyed_rng(1, "t"), 4000)
    half = 1.96 * float(np.std(values)) / 20
    assert found.lo == pytest.approx(float(np.mean(values)) - half, abs=0.003)
    assert found.hi == pytest.approx(float(np.mean(values)) + half, abs=0.003)


def test_chunks_do_not_change_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    values, names = [0.0, 1.0, 1.0, 0.5], list("abcd")
    whole = cluster_bootstrap([values], names, keyed_rng(0, "t"), 300)
    monkeypatch.setattr("judge.statistics.bootstrap.CHUNK_CELLS", 12)
    assert cluster_bootstrap([values], names, keyed_rng(0, "t"), 300) == whole


ROUNDS, PROMPTS, SAMPLES = 1500, 60, 2
BETTER, LEAN_SD, ANSWER_SD, FIRST_BONUS, NOISE_SD, TIE_ZONE = 0.4, 0.8, 0.5, 0.5, 0.6, 0.35


def simulated_outcomes(rng: np.random.Generator) -> list[Outcome]:
    """Two answers a prompt that share its lean; each order is judged with noise, a bonus for the first, and ties."""
    lean = np.repeat(rng.normal(BETTER, LEAN_SD, PROMPTS), SAMPLES)
    gap = lean + rng.normal(0, ANSWER_SD, PROMPTS * SAMPLES)
    found = []
    for i, (ab, ba) in enumerate(gap[:, None] + [FIRST_BONUS, -FIRST_BONUS] + rng.normal(0, NOISE_SD, (len(gap), 2))):
        winners = ["tie" if abs(x) < TIE_ZONE else "a" if x > 0 else "b" for x in (ab, ba)]
        shown = [winner if winner == "tie" else "first" if winner == "a" else "second" for winner in winners]
        shown[1] = {"first": "second", "second": "first", "tie": "tie"}[shown[1]]
        name = f"p{i // SAMPLES}"
        both = [
            Verdict(f"{name}#{i % SAMPLES}", name, i % SAMPLES, order, verdict, winner, "ok")  # type: ignore[arg-type]
            for order, verdict, winner in zip(("AB", "BA"), shown, winners, strict=True)
        ]
        found.append(combine(*both))
    return found


def true_quality() -> float:
    """The same law by numerical integration: a win must hold in both orders, all else but a loss in both is a tie."""

    def chance(x: np.ndarray, order: float, side: float) -> np.ndarray:
        return norm.cdf((side * (x + order * FIRST_BONUS) - TIE_ZONE) / NOISE_SD)

    x = np.linspace(-8, 8, 20_001)
    density = norm.pdf(x, BETTER, np.hypot(LEAN_SD, ANSWER_SD))
    win, lose = (chance(x, 1, side) * chance(x, -1, side) for side in (1, -1))
    return float(((1 + win - lose) / 2 * density).sum() * (x[1] - x[0]))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """95% intervals under clustered samples, ties and a bonus for the first place: 93 to 97% of them hold the truth."""
    truth, held, values = true_quality(), 0, []
    for i in range(ROUNDS):
        found = compare(simulated_outcomes(keyed_rng(i, "coverage")), keyed_rng(i, "resample"), 400).quality
        assert found.value is not None and found.lo is not None and found.hi is not None
        held += found.lo <= truth <= found.hi
        values.append(found.value)
    assert np.mean(values) == pytest.approx(truth, abs=0.004)
    assert 0.93 <= held / ROUNDS <= 0.97


def test_tails_are_moved_out_for_few_clusters_only() -> None:
    # n = 10: t = 2.2622 with 9 degrees, times sqrt(10/9) = 2.3846; Phi(-2.3846) = 0.00855
    assert expanded_tail(10) == pytest.approx(0.00855, abs=1e-5)
    assert expanded_tail(100_000) == pytest.approx(0.025, abs=1e-5)


def test_the_standard_error_of_single_units_is_the_usual_one() -> None:
    values = keyed_rng(2, "values").random(50)
    usual = float(values.std(ddof=1) / np.sqrt(50))
    assert standard_error(values, np.ones(50)) == pytest.approx(usual, rel=1e-12)
    # Two identical samples a prompt say as much as one.
    assert standard_error(2 * values, np.full(50, 2.0)) == pytest.approx(usual, rel=1e-12)
    assert standard_error(values[:1], np.ones(1)) is None


def test_position_bias_and_consistency_of_hand_counted_verdicts() -> None:
    verdicts = [
        verdict("p", "AB", "first"),
        verdict("p", "BA", "first"),  # conflict: first both times
        verdict("q", "AB", "first"),
        verdict("q", "BA", "second"),  # consistent: a
        verdict("r", "AB", "tie"),
        verdict("r", "BA", "tie"),  # consistent: tie
        verdict("s", "AB", "second"),
        verdict("s", "BA", None, "unreadable"),  # half
        verdict("u", "AB", "second", "forfeit"),
        verdict("u", "BA", "first", "forfeit"),  # nobody looked
    ]
    found = order_effects(verdicts, keyed_rng(0, "t"), 200)
    assert found.n_decisive == 5
    assert found.first_share == pytest.approx(3 / 5)
    assert found.n_both == 3
    assert found.consistency == pytest.approx(2 / 3)
    assert (found.n_conflicts, found.n_both_first, found.n_both_second) == (1, 1, 0)
    assert order_effects([], keyed_rng(0, "t"), 200).consistency is None
