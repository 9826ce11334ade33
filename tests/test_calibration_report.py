"""What the report says of a rule: planted truths, numbers by hand, and scipy beside our own."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, mannwhitneyu, spearmanr

from calibration.compensation import RuleInputs, reward_of
from calibration.effect import MeasuredAnswers, effect
from calibration.measures import Estimate
from calibration.resamples import Resamples
from calibration.within_prompt import GROUP_NOTE, advantages, order_changes, rank_correlations
from configs.keyed import keyed_rng


def measured(
    before: Any, after: Any, gold: Any, prompts: list[str], lengths: Any = None, threshold: float = 0.5
) -> MeasuredAnswers:
    x, y = np.array(before, dtype=np.float64), np.array(after, dtype=np.float64)
    return MeasuredAnswers(
        prompts=prompts,
        groups=prompts,
        before=x,
        after=y,
        bonus=y - x,
        well=np.ones(len(x), dtype=bool),
        gold=np.array(gold, dtype=np.float64),
        lengths=np.arange(len(x), dtype=np.float64) if lengths is None else np.array(lengths, dtype=np.float64),
        length_unit="tokens",
        threshold=threshold,
        gold_good=0.5,
    )


def report_on(answers: MeasuredAnswers) -> dict[str, Any]:
    found = effect(answers, Resamples(answers.prompts, keyed_rng(0, "report")))
    json.dumps(found, allow_nan=False)
    return found


def value(found: Estimate | dict[str, Any]) -> tuple[Any, Any]:
    return found["estimate"], found["n"]


def test_rescue_counts_are_those_planted() -> None:
    """Of 500 good answers 20% reason and were pushed from 0.7 to 0.42; of 300 bad ones at 0.3, 30 reason a little."""
    rng = keyed_rng(0, "planted report")
    good = np.arange(800) < 500
    pushed = np.arange(800) < 100
    rpr = np.where(pushed, 1.0, np.where(np.arange(800) >= 770, 0.5, 0.0))
    before = np.where(pushed, 0.42, np.where(good, 0.7, 0.3))
    after = np.array(
        [
            reward_of("rpr", RuleInputs(score, share, threshold=0.5, alpha=0.1))
            for score, share in zip(before.tolist(), rpr.tolist(), strict=True)
        ]
    )
    order = rng.permutation(800)
    prompts = [f"p{i % 100}" for i in range(800)]
    found = report_on(measured(before[order], after[order], good[order].astype(float), prompts))
    gold = found["against_gold"]
    # 0.42 + 0.1 passes 0.5; 0.3 + 0.05 does not
    assert gold["false_negatives"]["n"] == 100
    assert value(gold["false_negatives"]["lifted"]) == (1.0, 100)
    assert value(gold["false_negatives"]["over_threshold"]) == (1.0, 100)
    assert value(gold["false_negatives"]["bonus_mean"]) == (pytest.approx(0.1), 100)
    assert gold["true_negatives"]["n"] == 300
    assert value(gold["true_negatives"]["lifted"]) == (0.1, 300)
    assert value(gold["true_negatives"]["over_threshold"]) == (0.0, 300)
    assert value(gold["rescued_beyond_lifted_alike"]["lifted"]) == (0.9, 400)
    assert value(gold["rescued_beyond_lifted_alike"]["over_threshold"]) == (1.0, 400)
    assert value(gold["tpr"]) == (0.8, 500)
    assert value(gold["after"]["tpr"]) == (1.0, 500)
    assert value(gold["after"]["j"]) == (1.0, 800)
    assert value(gold["change"]["j"]) == (pytest.approx(0.2), 800)
    assert value(gold["rank"]["auc"]["before"]) == (1.0, 800)  # the pushed ones are still above the bad
    assert gold["rank"]["kendall"] is None
    assert value(found["compensated"]) == (pytest.approx(130 / 800), 800)


def test_rates_at_the_threshold_by_hand() -> None:
    # good: 0.9, 0.5 (at it counts), 0.1 -> 0.5; bad: 0.8, 0.4 -> 0.6, 0.2, 0.2, 0.2
    before = [0.9, 0.5, 0.1, 0.8, 0.4, 0.2, 0.2, 0.2]
    after = [0.9, 0.5, 0.5, 0.8, 0.6, 0.2, 0.2, 0.2]
    gold = report_on(measured(before, after, [1, 1, 1, 0, 0, 0, 0, 0], list("abcabcab")))["against_gold"]
    assert value(gold["tpr"]) == (pytest.approx(2 / 3), 3)
    assert value(gold["fpr"]) == (pytest.approx(1 / 5), 5)
    assert value(gold["precision"]) == (pytest.approx(2 / 3), 3)
    assert value(gold["j"]) == (pytest.approx(2 / 3 - 1 / 5), 8)
    after_it = gold["after"]
    assert [value(after_it[name])[0] for name in ("tpr", "fpr", "precision", "j")] == pytest.approx([1, 0.4, 0.6, 0.6])
    changes = [value(gold["change"][name])[0] for name in ("tpr", "fpr", "j")]
    assert changes == pytest.approx([1 / 3, 1 / 5, 1 / 3 - 1 / 5])
    assert gold["j"]["lo"] <= gold["j"]["estimate"] <= gold["j"]["hi"]


def test_an_affine_map_changes_nothing_that_a_policy_sees() -> None:
    before = keyed_rng(0, "affine").random(60)
    prompts = [f"p{i // 4}" for i in range(60)]
    gold = keyed_rng(1, "affine").random(60)
    found = report_on(measured(before, 0.3 * before + 0.2, gold, prompts))
    spread = found["spread_per_prompt"]
    assert value(spread["changed_after_scaling"]) == (0.0, 15)
    assert value(spread["advantage_change"]) == (pytest.approx(0.0, abs=1e-12), 60)
    assert value(spread["advantage_correlation"]) == (pytest.approx(1.0), 15)
    assert value(spread["advantage_sign_turned"]) == (0.0, 60)
    assert spread["after"]["estimate"] == pytest.approx(0.3 * spread["before"]["estimate"])
    assert spread["note"] == GROUP_NOTE
    assert [value(found["order_changes"][name])[0] for name in ("reversed", "made_equal", "separated")] == [0, 0, 0]
    for name in ("kendall", "spearman", "auc"):
        change = found["against_gold"]["rank"][name]["change"]
        assert (change["estimate"], change["lo"], change["hi"]) == (0.0, 0.0, 0.0)


def test_advantages_are_those_of_grpo() -> None:
    # 1, 2, 6: mean 3, standard deviation (ddof 1) sqrt(7); a group without spread, and one alone
    found = advantages(np.array([1.0, 5.0, 2.0, 5.0, 6.0, 9.0]), ["a", "b", "a", "b", "a", "c"])
    root = math.sqrt(7)
    assert found.tolist() == pytest.approx([-2 / root, 0, -1 / root, 0, 3 / root, 0])


def test_what_a_policy_sees_by_hand() -> None:
    # a: 0 and 1 stay apart; b: 0.2 and 0.4 are turned round; c: equal ones are told apart; d: equal before and after
    before = [0.0, 1.0, 0.2, 0.4, 0.3, 0.3, 0.5, 0.5]
    after = [0.0, 1.0, 0.6, 0.4, 0.3, 0.5, 0.5, 0.5]
    spread = report_on(measured(before, after, np.full(8, np.nan), list("aabbccdd")))["spread_per_prompt"]
    assert value(spread["none_before"]) == (0.5, 4)
    assert value(spread["none_after"]) == (0.25, 4)
    # two answers have the advantages -+ 1 / sqrt 2
    root = 1 / math.sqrt(2)
    assert value(spread["advantage_change"]) == (pytest.approx((2 * 2 * root + 2 * root) / 8), 8)
    assert value(spread["advantage_sign_turned"]) == (0.25, 8)
    # a: 1, b: -1, c: 0 (there was no order), d left out
    assert value(spread["advantage_correlation"]) == (pytest.approx(0.0), 3)
    assert value(spread["changed_after_scaling"]) == (0.5, 4)


def test_changed_order_by_hand() -> None:
    found = order_changes(np.array([1.0, 2, 2, 9]), np.array([3.0, 2, 1, 9]), list("aaab"))
    # of a: (1, 2) reversed, (1, 3) reversed, (2, 3) separated; b is alone
    assert found.reversed.tolist() == [True, True, False]
    assert found.separated.tolist() == [False, False, True]
    assert found.made_equal.tolist() == [False, False, False]
    back = order_changes(np.array([3.0, 2, 1]), np.array([2.0, 2, 1]), list("aaa"))
    assert back.made_equal.tolist() == [True, False, False]
    assert order_changes(np.array([1.0]), np.array([1.0]), ["a"]).groups == []


def test_rank_correlations_are_scipys() -> None:
    rng = keyed_rng(0, "ranks")
    groups = [f"p{i % 12}" for i in range(96)]
    truth, values = rng.integers(0, 5, 96).astype(float), rng.integers(0, 6, 96).astype(float)
    found = rank_correlations(values, truth, groups)
    assert len(found.groups) == 12
    for name, kendall, spearman in zip(found.groups, found.kendall, found.spearman, strict=True):
        rows = [i for i, group in enumerate(groups) if group == name]
        assert kendall == pytest.approx(kendalltau(values[rows], truth[rows]).statistic)
        assert spearman == pytest.approx(spearmanr(values[rows], truth[rows]).statistic)
    flat = rank_correlations(np.zeros(4), np.array([1.0, 2.0, 3.0, 3.0]), list("aabb"))
    assert (flat.kendall.tolist(), flat.groups) == ([0.0], ["a"])


def test_auc_before_and_after_are_scipys() -> None:
    rng = keyed_rng(0, "auc report")
    gold = rng.random(120).round(1)
    before, after = rng.random(120).round(1), (gold + rng.normal(size=120)).round(1)
    rank = report_on(measured(before, after, gold, [f"p{i // 3}" for i in range(120)]))["against_gold"]["rank"]
    good = gold >= 0.5
    for name, values in (("before", before), ("after", after)):
        expected = mannwhitneyu(values[good], values[~good]).statistic / (good.sum() * (~good).sum())
        assert rank["auc"][name]["estimate"] == pytest.approx(expected)
    change = rank["auc"]["change"]
    assert change["estimate"] == pytest.approx(rank["auc"]["after"]["estimate"] - rank["auc"]["before"]["estimate"])
    assert rank["gold"] == "graded"


def test_thirds_by_length_by_hand() -> None:
    # equal lengths stand together; prompt a holds short and long, b the middle
    lengths = [1, 1, 2, 3, 4, 4]
    before, after = [0.1, 0.2, 0.1, 0.3, 0.4, 0.9], [0.3, 0.2, 0.3, 0.3, 0.5, 0.9]
    gold = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    short, middle, long = report_on(measured(before, after, gold, list("aabbaa"), lengths))["by_length"]
    assert [(third["shortest"], third["longest"], third["n"]) for third in (short, middle, long)] == [
        (1, 1, 2),
        (2, 3, 2),
        (4, 4, 2),
    ]
    assert [third["lifted"]["estimate"] for third in (short, middle, long)] == [0.5, 0.5, 0.5]
    assert [third["bonus_mean"]["estimate"] for third in (short, middle, long)] == pytest.approx([0.1, 0.1, 0.05])
    # short and good (0.1): below both bad ones of a, then over one of them; b: 0.1 under 0.3, then equal
    assert value(short["order_agreement"]["before"]) == (0.0, 2)
    assert value(short["order_agreement"]["after"]) == (0.5, 2)
    assert value(middle["order_agreement"]["after"]) == (0.5, 1)
    # long and good (0.4): over 0.2, under 0.9
    assert value(long["order_agreement"]["change"]) == (0.0, 2)
    assert short["unit"] == "tokens"


def test_malformed_answers_are_counted_and_stay_in_their_groups() -> None:
    answers = measured([0.0, 0.6, 0.2], [0.0, 0.6, 0.3], [0.0, 1.0, 0.4], list("aaa"))
    answers.well[0] = False
    found = report_on(answers)
    assert value(found["malformed"]) == (pytest.approx(1 / 3), 3)
    assert value(found["below_threshold"]) == (0.5, 2)
    assert found["against_gold"]["true_negatives"]["n"] == 1
    assert found["order_changes"]["n_pairs"] == 3
    assert sum(third["n"] for third in found["by_length"]) == 2


def test_without_gold_nothing_is_said_of_it() -> None:
    found = report_on(measured([0.1, 0.2], [0.2, 0.2], [np.nan, np.nan], ["a", "a"]))
    assert found["against_gold"] is None
    assert value(found["by_length"][0]["good"]) == (None, 0)
    assert value(found["order_changes"]["made_equal"]) == (1.0, 1)
    only_good = report_on(measured([0.1, 0.2], [0.2, 0.2], [1.0, 1.0], ["a", "b"]))["against_gold"]
    assert value(only_good["fpr"]) == (None, 0)
    assert value(only_good["j"]) == (None, 0)
    assert value(only_good["rank"]["auc"]["change"]) == (None, 0)


def test_differences_are_paired_and_prompts_are_the_units() -> None:
    values = np.repeat(keyed_rng(0, "paired").normal(size=30), 10)
    owners = [f"p{i // 10}" for i in range(300)]
    resamples = Resamples(owners, keyed_rng(0, "draws"))
    moved = resamples.difference(values + 1, owners, values, owners)
    assert [moved["lo"], moved["hi"], moved["n"]] == pytest.approx([1.0, 1.0, 300])
    mean = resamples.mean(values, owners)
    assert mean["lo"] is not None and mean["hi"] is not None
    # 30 independent values: t with 29 degrees of freedom, 2.045, times s / sqrt 30
    expected = 2.045 * values[::10].std(ddof=1) / math.sqrt(30)
    assert (mean["hi"] - mean["lo"]) / 2 == pytest.approx(expected, rel=0.1)


def test_all_none_and_one_prompt_are_no_certainty() -> None:
    owners = [f"p{i // 5}" for i in range(50)]
    resamples = Resamples(owners, keyed_rng(0, "draws"))
    none = resamples.share(np.zeros(50, dtype=bool), owners)
    # Wilson for 0 of 10 prompts: z^2 / (10 + z^2)
    assert [none["estimate"], none["lo"], none["n"]] == pytest.approx([0.0, 0.0, 50])
    assert none["hi"] == pytest.approx(3.841459 / 13.841459, abs=1e-6)
    alone = resamples.mean(np.array([1.0, 0.0]), owners[:2])
    assert (alone["estimate"], alone["lo"], alone["hi"]) == (0.5, None, None)
    assert resamples.mean(np.zeros(0), [])["estimate"] is None


def test_the_interval_of_j_covers_the_truth() -> None:
    """40 prompts that differ in how their answers score; TPR - FPR is 0.6827 by construction, in 150 samples."""
    covered = 0
    for sample in range(150):
        rng = keyed_rng(sample, "coverage")
        prompt = np.repeat(np.arange(40), 6)
        good = rng.random(240) < 0.5
        over = np.repeat(rng.normal(size=40), 6) * 0.6 + rng.normal(size=240) * 0.8 + np.where(good, 1.0, -1.0) > 0
        owners = [f"p{i}" for i in prompt]
        resamples = Resamples(owners, keyed_rng(sample, "coverage draws"))
        names = np.array(owners)
        found = resamples.difference(
            over[good].astype(float), names[good].tolist(), over[~good].astype(float), names[~good].tolist()
        )
        assert found["lo"] is not None and found["hi"] is not None
        covered += found["lo"] <= 0.682689 <= found["hi"]
    assert 0.90 <= covered / 150 <= 0.995
