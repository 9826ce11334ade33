"""Choosing threshold and alpha: planted truths, figures by hand, and refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from calibration.choice import Choice, LabelledAnswer, choose
from calibration.ranking import RankedAnswers
from configs.errors import UserError
from configs.keyed import keyed_rng

THRESHOLDS, ALPHAS = (0.5, 0.75, 0.9), (0.05, 0.2, 0.4)


def answer(prompt: str, score: float, rpr: float, good: bool, gold: float | None = None) -> LabelledAnswer:
    return LabelledAnswer(prompt, score, rpr, 10, good, gold)


def planted(n_prompts: int = 150, pushed: float = 0.2, graded: bool = True, seed: int = 0) -> list[LabelledAnswer]:
    """Four answers a prompt; a good one reasons with chance `pushed` (RPR 1), and then scores 0.35 lower."""
    rng = keyed_rng(seed, "planted", n_prompts)
    found = []
    for prompt in range(n_prompts):
        for _ in range(4):
            gold = rng.random()
            reasons = gold >= 0.5 and rng.random() < pushed
            score = float(np.clip(0.3 + 0.4 * gold + 0.1 * rng.normal() - 0.35 * reasons, 0.01, 0.99))
            found.append(LabelledAnswer(f"p{prompt}", score, float(reasons), 10, gold >= 0.5, gold if graded else None))
    return found


def shuffled_rpr(answers: list[LabelledAnswer], seed: int) -> list[LabelledAnswer]:
    rprs = keyed_rng(seed, "independent").permutation([one.rpr for one in answers])
    return [replace(one, rpr=float(rpr)) for one, rpr in zip(answers, rprs, strict=True)]


def chosen_row(choice: Choice) -> dict[str, Any]:
    return next(row for row in choice.table if (row["threshold"], row["alpha"]) == (choice.threshold, choice.alpha))


@pytest.mark.parametrize("graded", [True, False])
@pytest.mark.parametrize("rule", ["rpr", "rpr_ordered"])
def test_where_good_answers_are_pushed_down_for_reasoning_a_bonus_is_found(graded: bool, rule: Any) -> None:
    choice = choose(planted(graded=graded), rule, THRESHOLDS, ALPHAS, folds=5, seed=0)
    assert choice.gains
    assert choice.figure == ("order_agreement" if graded else "auc")
    assert choice.gain["lo"] is not None and choice.gain["lo"] > 0.02
    assert chosen_row(choice)["change"]["estimate"] > 0.02
    assert choice.alpha is not None and choice.alpha >= 0.2
    assert f"threshold {choice.threshold:g} and alpha {choice.alpha:g}" in choice.sentence


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("graded", [True, False])
def test_where_reasoning_says_nothing_nothing_is_gained(seed: int, graded: bool) -> None:
    answers = shuffled_rpr(planted(graded=graded, seed=seed), seed)
    choice = choose(answers, "rpr", THRESHOLDS, ALPHAS, folds=5, seed=seed)
    assert not choice.gains
    assert choice.sentence.startswith("None of 9 candidates beats no compensation beyond noise")
    # the least of it: the smallest bonus for the fewest answers
    assert (choice.threshold, choice.alpha) == (0.5, 0.05)


def test_a_bonus_for_all_alike_gains_nothing() -> None:
    assert not choose(planted(), "constant", THRESHOLDS, ALPHAS, folds=5, seed=0).gains


def test_rescue_counts_are_those_planted() -> None:
    """Good: 100 over 0.5, and 20 that reason at 0.4; bad: 60 at 0.3, of which 6 reason. Threshold 0.5, alpha 0.2."""
    answers = [answer(f"p{i % 40}", 0.7, 0.0, True) for i in range(100)]
    answers += [answer(f"p{i}", 0.4, 1.0, True) for i in range(20)]
    answers += [answer(f"p{i % 40}", 0.3, float(i < 6), False) for i in range(60)]
    row = chosen_row(choose(answers, "rpr", [0.5], [0.2], folds=4, seed=0))
    assert (row["false_negatives_rescued"]["estimate"], row["false_negatives_rescued"]["n"]) == (1.0, 20)
    # all of 20 prompts: Wilson's 20 / (20 + z^2), a prompt as one case
    assert row["false_negatives_rescued"]["lo"] == pytest.approx(20 / (20 + 1.959964**2), abs=1e-6)
    # 0.3 + 0.2 reaches the threshold exactly
    assert (row["true_negatives_lifted_alike"]["estimate"], row["true_negatives_lifted_alike"]["n"]) == (0.1, 60)
    assert row["true_negatives_lifted"]["estimate"] == 0.1
    # TPR 100/120 to 1, FPR 0 to 6/60
    assert row["j_change"]["estimate"] == pytest.approx(20 / 120 - 6 / 60)
    assert row["mean_change"] == pytest.approx(26 * 0.2 / 180)
    # AUC before: 0.7 and 0.4 over all at 0.3; after: 20 at 0.6 over all, and all bad below
    assert row["held_out"]["estimate"] == 1.0


def test_order_agreement_of_candidates_by_hand() -> None:
    # two prompts; gold 1 at 0.4 with RPR 1, gold 0.5 at 0.45, gold 0 at 0.48: all three pairs wrong before
    answers = [
        answer(prompt, score, rpr, gold >= 0.5, gold)
        for prompt in "ab"
        for score, rpr, gold in ((0.4, 1.0, 1.0), (0.45, 0.0, 0.5), (0.48, 0.0, 0.0))
    ]
    choice = choose(answers, "rpr", [0.5], [0.05, 0.06, 0.1], folds=2, seed=0)
    assert choice.plain["estimate"] == 0.0
    # +0.05: a tie with the middle one; +0.06: over it; +0.1: over both
    assert [row["held_out"]["estimate"] for row in choice.table] == pytest.approx([0.5 / 3, 1 / 3, 2 / 3])
    assert [row["held_out"]["n"] for row in choice.table] == [6, 6, 6]
    # both folds choose 0.1 and every prompt gains 2/3, but two prompts tell nothing
    assert choice.gain["estimate"] == pytest.approx(2 / 3)
    assert (choice.alpha, choice.gains, choice.table[2]["chosen_in_folds"]) == (0.05, False, 2)
    assert choice.sentence.startswith("Fewer than 20 prompts cannot tell a gain from noise")
    many = [replace(one, prompt_id=f"{one.prompt_id}{i}") for i in range(10) for one in answers]
    found = choose(many, "rpr", [0.5], [0.05, 0.06, 0.1], folds=2, seed=0)
    assert (found.alpha, found.gains) == (0.1, True)


def test_of_equal_candidates_the_smallest_change_is_taken() -> None:
    answers = planted()
    # from a score of 0.3 each of these bonuses ends at 1, the cap
    capped = [replace(one, score=0.3 if one.rpr else one.score) for one in answers]
    choice = choose(capped, "rpr", [0.75], [0.95, 0.9, 0.85, 0.8], folds=5, seed=0)
    figures = {row["held_out"]["estimate"] for row in choice.table}
    assert len(figures) == 1
    assert choice.gains
    assert choice.alpha == 0.8


def test_the_table_is_the_same_whatever_the_order_of_rows_and_candidates() -> None:
    answers = planted(n_prompts=40)
    first = choose(answers, "rpr", [0.5, 0.75], [0.1, 0.3], folds=4, seed=3)
    again = choose(answers, "rpr", [0.75, 0.5], [0.3, 0.1, 0.3], folds=4, seed=3)
    assert first == again
    turned = choose(answers[::-1], "rpr", [0.5, 0.75], [0.1, 0.3], folds=4, seed=3)
    assert (turned.threshold, turned.alpha, turned.sentence) == (first.threshold, first.alpha, first.sentence)
    for one, other in zip(first.table, turned.table, strict=True):
        assert one["held_out"] == pytest.approx(other["held_out"])
    pairs = [(row["threshold"], row["alpha"]) for row in first.table]
    assert pairs == list(product([0.5, 0.75], [0.1, 0.3]))


def test_a_candidate_that_spoils_the_threshold_is_not_chosen() -> None:
    """Either bonus mends the order of the two bad answers; the larger one carries bad ones over the threshold."""
    answers = []
    for i in range(60):
        answers += [answer(f"p{i}", 0.9, 0.0, True, 1.0), answer(f"p{i}", 0.41, 1.0, False, 0.4)]
        answers += [answer(f"p{i}", 0.42 if i % 5 else 0.3, 0.0, False, 0.1)]
    choice = choose(answers, "rpr", [0.5], [0.05, 0.2], folds=5, seed=0)
    assert [row["status"] for row in choice.table] == ["ok", "lowers_j"]
    assert choice.table[1]["held_out"] == choice.table[0]["held_out"]
    assert (choice.alpha, choice.gains) == (0.05, True)
    worse = choose(answers, "rpr", [0.5], [0.2], folds=5, seed=0)
    assert not worse.gains
    assert worse.gain["estimate"] == 0.0


def test_pairs_that_the_rule_does_not_allow_stand_in_the_table() -> None:
    choice = choose(planted(n_prompts=30), "rpr_ordered", [0.2, 0.6], [0.4], folds=3, seed=0)
    assert choice.table[0] == {"threshold": 0.2, "alpha": 0.4, "status": "not_allowed"}
    assert choice.threshold == 0.6
    with pytest.raises(UserError, match="needs an alpha of at most the threshold"):
        choose(planted(n_prompts=30), "rpr_ordered", [0.2], [0.4], folds=3, seed=0)


def test_the_rule_length_pays_by_the_share_of_the_full_length() -> None:
    answers = [LabelledAnswer(f"p{i}", 0.3, 0.0, 5 + 5 * (i % 2), i % 2 == 1, None) for i in range(40)]
    choice = choose(answers, "length", [0.5], [0.2], folds=4, seed=0, full_length=10)
    assert choice.plain["estimate"] == 0.5
    assert choice.table[0]["held_out"]["estimate"] == 1.0  # 0.5 for the long and good, 0.4 for the others
    assert choice.table[0]["mean_change"] == pytest.approx(0.15)
    with pytest.raises(UserError, match="needs the length that is worth the whole bonus"):
        choose(answers, "length", [0.5], [0.2], folds=4, seed=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rule": "rpr_only"}, "the rule rpr_only has no alpha to choose"),
        ({"thresholds": []}, "thresholds must be numbers above 0, at least one"),
        ({"alphas": [0.1, math.nan]}, "alphas must be numbers above 0"),
        ({"folds": 1}, "folds must be 2 to 30"),
        ({"folds": 31}, "folds must be 2 to 30, the number of prompts, found 31"),
        ({"answers": [answer(f"p{i}", 0.5, 0.0, True) for i in range(9)]}, "9 of 9 labelled answers are good"),
        ({"answers": []}, "0 of 0 labelled answers are good"),
        ({"answers": [answer("a", math.nan, 0, True), answer("b", 0.1, 0, False)]}, "must be finite numbers"),
        (
            {"answers": [answer("a", 0.2, 0, True, 1.0), answer("b", 0.1, 0, False)]},
            "1 of 2 labelled answers have gold",
        ),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(change: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {"answers": planted(30), "rule": "rpr", "thresholds": [0.5], "alphas": [0.1], "folds": 5}
    with pytest.raises(UserError, match=sentence):
        choose(**(given | change), seed=0)


def test_auc_and_its_interval_by_a_second_implementation() -> None:
    rng = keyed_rng(0, "auc")
    names = [f"p{i // 3}" for i in range(300)]
    good = rng.random(300) < 0.4
    values = np.round(rng.normal(size=300) + good + np.repeat(rng.normal(size=100), 3), 1)  # prompts differ; ties
    data = RankedAnswers(names, good, good.astype(float))
    found = data.measure(values, data.everything)
    assert found is not None and data.figure == "auc"
    u = mannwhitneyu(values[good], values[~good]).statistic
    assert found.value == pytest.approx(u / (good.sum() * (~good).sum()))
    assert found.influence.sum() == pytest.approx(0.0, abs=1e-12)
    # the bootstrap of whole prompts has the same standard error
    draws = []
    for _ in range(400):
        rows = (rng.integers(0, 100, 100)[:, None] * 3 + np.arange(3)).ravel()
        chosen = good[rows]
        u = mannwhitneyu(values[rows][chosen], values[rows][~chosen]).statistic
        draws.append(u / (chosen.sum() * (~chosen).sum()))
    interval = found.estimate()
    assert interval["lo"] is not None and interval["hi"] is not None
    assert (interval["hi"] - interval["lo"]) / (2 * 1.984) == pytest.approx(np.std(draws), rel=0.12)


def test_intervals_of_shares_by_hand() -> None:
    # prompts a (1, 1) and b (0, 1): mean 3/4, influences (2/4 - 2/4 * 3/4 ...) = +1/8 and -1/8
    data = RankedAnswers(list("aabb"), np.array([True, False, True, False]), np.array([1.0, 0, 1, 0]))
    part = data.mean(np.array([1.0, 1, 0, 1]), data.prompt)
    assert (part.value, part.influence.tolist(), part.n, part.prompts) == (0.75, [0.125, -0.125], 4, 2)
    # variance 2 / 1 * (2 / 64) = 1/16, and t with one degree of freedom is 12.706
    found = part.estimate()
    assert (found["lo"], found["hi"]) == pytest.approx((0.75 - 12.7062 / 4, 0.75 + 12.7062 / 4), abs=1e-4)
    assert (part.share()["lo"], part.share()["hi"]) == (0.0, 1.0)
    alone = data.mean(np.array([1.0, 0.0]), data.prompt[:2])
    assert (alone.estimate()["lo"], alone.estimate()["hi"]) == (None, None)
