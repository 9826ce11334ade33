"""The win rate at equal length, and strengths of many policies, against simulations of known truth and other fits."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Experiment
from configs.records import read_json
from judge.stage import judge_cell
from judge.statistics.ranking import Game, davidson, rank
from judge.statistics.style import FEATURES, RIDGE, Judged, features_of, fractional_logit, style_controlled
from tests.test_judge_stage import experiment  # noqa: F401 - a fixture

N_PROMPTS = 600


def lengths(seed: int, longer: float) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two policies in characters, of which the first is `longer` times as long in the middle."""
    rng = keyed_rng(seed, "lengths")
    a = np.exp(rng.normal(np.log(200 * longer), 0.5, N_PROMPTS))
    return a.astype(int), np.exp(rng.normal(np.log(200), 0.5, N_PROMPTS)).astype(int)


def judged(seed: int, longer: float, better: float, bias: float) -> list[Judged]:
    """Both orders of each pair by a judge that likes length (`bias` for twice as long) and the place shown first."""
    a, b = lengths(seed, longer)
    rng = keyed_rng(seed, "judge")
    pull = better + 3 * bias * (a - b) / (a + b)
    wins = [rng.random(N_PROMPTS) < 1 / (1 + np.exp(-pull - place)) for place in (0.4, -0.4)]
    quality = np.where(wins[0] == wins[1], wins[0] * 1.0, 0.5)
    return [Judged(f"p{i}", "x" * a[i], "x" * b[i], float(quality[i])) for i in range(N_PROMPTS)]


def test_equal_policies_are_even_at_equal_length_under_a_judge_that_likes_length() -> None:
    held, rates = 0, []
    for seed in range(30):
        found = style_controlled(judged(seed, longer=1.6, better=0.0, bias=1.0), keyed_rng(seed, "t"), 200)
        assert found.raw.lo is not None and found.raw.lo > 0.55, "the raw rate calls the longer policy better"
        assert (
            found.controlled.value is not None and found.controlled.lo is not None and found.controlled.hi is not None
        )
        rates.append(found.controlled.value)
        held += found.controlled.lo <= 0.5 <= found.controlled.hi
        assert found.longer_twice.lo is not None and found.longer_twice.lo > 0.6
    assert np.mean(rates) == pytest.approx(0.5, abs=0.01)
    assert held >= 26


def test_what_is_better_stays_better_at_equal_length() -> None:
    found = style_controlled(judged(1, longer=1.0, better=1.0, bias=0.0), keyed_rng(0, "t"), 300)
    assert found.controlled.lo is not None and found.controlled.lo > 0.6
    assert abs(found.shift.value or 0) < 0.02
    assert found.warnings == []


def test_identical_answers_are_exactly_even() -> None:
    found = style_controlled([Judged(f"p{i}", "same", "same", 0.5) for i in range(50)], keyed_rng(0, "t"), 100)
    assert (found.raw.value, found.controlled.value, found.shift.value) == (0.5, 0.5, 0.0)
    assert (found.controlled.lo, found.controlled.hi) == (0.5, 0.5)
    assert found.left_out == list(FEATURES)


def test_exchanging_the_policies_mirrors_the_rates() -> None:
    pairs = judged(3, longer=1.4, better=0.3, bias=0.8)
    swapped = [Judged(pair.prompt_id, pair.b, pair.a, 1 - (pair.quality or 0)) for pair in pairs]
    one, other = (style_controlled(rows, keyed_rng(0, "t"), 200) for rows in (pairs, swapped))
    for name in ("raw", "controlled", "longer_twice"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if name == "longer_twice":  # which is of answers and not of policies
            assert mine.value == pytest.approx(theirs.value, abs=1e-9)
        else:
            assert mine.value == pytest.approx(1 - theirs.value, abs=1e-9)
            assert mine.lo == pytest.approx(1 - theirs.hi, abs=1e-9)


def test_the_fit_is_that_of_two_libraries() -> None:
    rng = keyed_rng(0, "fit")
    x = np.column_stack([np.ones(300), rng.normal(size=(300, 2))])
    y = rng.choice([0.0, 0.5, 1.0], 300)
    weights = rng.integers(0, 4, 300).astype(float)
    (found,) = fractional_logit(x, y, weights[None])
    # Each share is a weighted success and a weighted failure.
    both = LogisticRegression(C=1 / RIDGE, fit_intercept=True, tol=1e-10, max_iter=1000)
    both.fit(
        np.concatenate([x[:, 1:]] * 2),
        np.repeat([1, 0], 300),
        sample_weight=np.concatenate([weights * y, weights * (1 - y)]),
    )
    assert found == pytest.approx(np.concatenate([both.intercept_, both.coef_[0]]), abs=1e-5)
    plain = sm.GLM(y, x, family=sm.families.Binomial(), freq_weights=weights).fit()
    assert found == pytest.approx(plain.params, abs=2e-3), "the ridge is weak"


def test_features_are_of_opposite_sign_when_the_answers_change_places() -> None:
    a, b = "# Title\n- one\n- two\n**bold**\n```\ncode\n```\n", "plain words"
    assert features_of(a, b) == [-value for value in features_of(b, a)]
    assert features_of("x" * 20, "x" * 10)[0] == pytest.approx(1 / 3)
    # 1 heading against none: 1/2; two items: 2/3; one bold: 1/2; two fences: 2/3
    assert features_of(a, b)[1:] == pytest.approx([1 / 2, 2 / 3, 1 / 2, 2 / 3])


def test_what_makes_the_rate_doubtful_is_said() -> None:
    always = [Judged(f"p{i}", "x" * (30 + i % 7), "x" * 10, float(i % 3 > 0)) for i in range(90)]
    found = style_controlled(always, keyed_rng(0, "t"), 100, ("length",))
    assert (found.share_longer, found.share_shorter) == (1.0, 0.0)
    assert any("extrapolated" in doubt for doubt in found.warnings)
    few = style_controlled(judged(0, 1.0, 0.0, 0.0)[:12], keyed_rng(0, "t"), 100)
    assert any("pairs are few" in doubt for doubt in few.warnings)
    perfect = [Judged(f"p{i}", "x" * (20 + 5 * (i % 2)), "x" * (25 - 5 * (i % 2)), float(i % 2)) for i in range(60)]
    separated = style_controlled(perfect, keyed_rng(0, "t"), 100, ("length",))
    assert separated.controlled.value == pytest.approx(0.5, abs=1e-6), "separation leaves the rate finite"


def test_missing_qualities_have_no_weight_and_are_counted() -> None:
    pairs = judged(0, 1.0, 0.0, 0.0)[:100]
    found = style_controlled([*pairs, Judged("q", "a", "b", None)], keyed_rng(0, "t"), 100)
    assert (found.n_pairs, found.n_missing) == (100, 1)
    assert style_controlled([Judged("q", "a", "b", None)], keyed_rng(0, "t"), 100).controlled.value is None


def games_of(first: str, second: str, win: int, tie: int, lose: int) -> list[Game]:
    shares = [(1.0, 0.0, 0.0)] * win + [(0.0, 1.0, 0.0)] * tie + [(0.0, 0.0, 1.0)] * lose
    return [Game(f"{first}{second}{i}", first, second, *share) for i, share in enumerate(shares)]


def test_two_policies_have_the_strength_of_the_formula() -> None:
    # Davidson: strength log(win / lose) = log(4), tie parameter log(tie / sqrt(win lose)) = log(10 / 20)
    ranking = rank(games_of("a", "b", 40, 10, 10), "b", keyed_rng(0, "t"), 200, prior=0.0)
    top, bottom = ranking.standings
    assert (top.name, bottom.name, bottom.strength.value) == ("a", "b", 0.0)
    assert top.strength.value == pytest.approx(np.log(4), abs=1e-6)
    assert top.quality.value == pytest.approx(45 / 60, abs=1e-6)
    assert ranking.tie.value == pytest.approx(0.5 / 2.5, abs=1e-6)  # e^t / (1 + e^t + 1)
    assert (top.rank_lo, top.rank_hi, ranking.n_games) == (1, 1, 60)


def test_without_ties_it_is_bradley_terry_as_a_logistic_regression_fits_it() -> None:
    rng, names = keyed_rng(0, "bt"), ["a", "b", "c", "d"]
    games, rows, wins = [], [], []
    for i in range(400):
        one, other = rng.choice(4, 2, replace=False)
        won = float(rng.random() < 1 / (1 + np.exp(other * 0.5 - one * 0.5)))
        games.append(Game(f"p{i % 80}", names[one], names[other], won, 0.0, 1 - won))
        rows.append(np.eye(4)[one] - np.eye(4)[other])
        wins.append(won)
    ranking = rank(games, "a", keyed_rng(0, "t"), 200, prior=0.0)
    fitted = sm.GLM(np.array(wins), np.array(rows)[:, 1:], family=sm.families.Binomial()).fit().params
    found = {standing.name: standing.strength.value for standing in ranking.standings}
    assert [found["b"], found["c"], found["d"]] == pytest.approx(fitted, abs=1e-6)
    assert (ranking.tie.value, ranking.n_prompts) == (0.0, 80)
    assert [standing.name for standing in ranking.standings] == ["d", "c", "b", "a"]


def test_the_fit_is_the_most_likely_one() -> None:
    sides = np.array([[1.0, -1, 0], [1, 0, -1], [0, 1, -1]])
    sums = np.array([[30.0, 26, 19, 22, 20, 30, 25]])
    found = davidson(sums, sides, 0.0, True)[0]

    def likelihood(parameters: np.ndarray) -> float:
        lead = sides @ parameters[:3]
        z = np.exp(lead / 2) + np.exp(parameters[3]) + np.exp(-lead / 2)
        halves = np.abs(sides).T @ sums[0, 4:] / 2
        return float(((sums[0, :3] - halves) * parameters[:3]).sum() + sums[0, 3] * parameters[3]) - float(
            (sums[0, 4:] * np.log(z)).sum()
        )

    for nudge in np.eye(4) * 1e-3:
        assert likelihood(found) > max(likelihood(found + nudge), likelihood(found - nudge))


def test_an_unbeaten_policy_stays_finite_and_first() -> None:
    ranking = rank([*games_of("a", "b", 30, 0, 0), *games_of("c", "b", 15, 5, 10)], "b", keyed_rng(0, "t"), 200)
    assert ranking.standings[0].name == "a"
    assert 2 < (ranking.standings[0].strength.value or 0) < 12
    assert ranking.standings[0].best == 1.0


def test_policies_that_no_chain_joins_are_refused() -> None:
    with pytest.raises(UserError, match="no chain of comparisons joins a with c, d"):
        rank([*games_of("a", "b", 3, 0, 2), *games_of("c", "d", 3, 0, 2)], "a", keyed_rng(0, "t"), 100)
    with pytest.raises(UserError, match="'x' was not compared with anything; there are a, b"):
        rank(games_of("a", "b", 3, 0, 2), "x", keyed_rng(0, "t"), 100)


def test_a_judgement_says_the_rate_at_equal_length(experiment: Experiment) -> None:  # noqa: F811
    for cell in ("better", "untrained"):
        judge_cell(experiment, cell)
    summary = read_json(experiment.folder / "judge" / "better" / "summary.json")
    found = summary["equal_length"]
    assert 0 < found["quality_lo"] <= found["quality"] <= found["quality_hi"] < 1
    assert found["n_pairs"] + found["n_left_out"] == summary["n_pairs"] + summary["n_missing"]
    same = read_json(experiment.folder / "judge" / "untrained" / "summary.json")["equal_length"]
    assert (same["raw"], same["quality"], same["share_longer"]) == (0.5, pytest.approx(0.5), 0.0)
