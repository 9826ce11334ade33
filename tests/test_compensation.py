"""Compensation rules by hand, properties of the ordered rule, the table's errors, and the calibrator's round trip."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.calibrator import Calibrator
from calibration.compensation import RULES, RuleInputs, is_affine, malformed_reward_of, reward_of
from calibration.config import CalibrationTable
from calibration.measured import Measured
from configs.errors import UserError
from configs.loader import Experiment
from rm.units import ScoreUnits
from tasks.records import Response

UNITS = ScoreUnits(centre=2.0, scale=0.5, reference="by hand", n_reference=4)
FAITHFUL = CalibrationTable(rule="rpr", phrases="paper-helpsteer", scored_text="both", units="raw")
TWENTY_PHRASES = (
    "i need to, we need to, wait, alternatively, let me check, let me see, let's focus on, we know that, let me try, "
    "let's try, let us try, let us first, let's first, let me first, try again, still not, not working, not correct, "
    "does not work, doesn't work"
)

PUBLISHED = [
    # what, think, answer (None: malformed), raw logit, RPR, reward by the published code
    ("below: +0.1 RPR", "Wait.", "yes", 0.3, 0.05, 0.305),
    ("no phrase, no bonus", "Hm.", "yes", 0.3, 0.0, 0.3),
    ("full RPR", TWENTY_PHRASES, "yes", 0.3, 1.0, 0.4),
    ("just below passes one just above", TWENTY_PHRASES, "yes", 0.49, 1.0, 0.59),
    ("one just above", "Hm.", "yes", 0.51, 0.0, 0.51),
    ("at the threshold nothing is added", TWENTY_PHRASES, "yes", 0.5, 1.0, 0.5),
    ("above it neither", TWENTY_PHRASES, "yes", 0.8, 1.0, 0.8),
    ("above 1 is not capped", TWENTY_PHRASES, "yes", 1.3, 1.0, 1.3),
    ("negative logit", "Wait.", "yes", -1.2, 0.05, -1.195),
    ("very negative logit", TWENTY_PHRASES, "yes", -7.0, 1.0, -6.9),
    ("malformed is 0", "Wait.", None, None, None, 0.0),
    ("malformed beats a negative logit", TWENTY_PHRASES, None, None, None, 0.0),
    ("answer is searched too", "Hm.", "Therefore yes", 0.2, 0.05, 0.205),
    ("both are joined with nothing between", "so", " that", 0.2, 0.05, 0.205),
    ("accident at the joint", "wa", "it", 0.2, 0.05, 0.205),
    ("typo", "That makes sense.", "yes", 0.2, 0.0, 0.2),
    ("accident", "Such enthusiasm.", "yes", 0.2, 0.05, 0.205),
]


@pytest.mark.parametrize("case", PUBLISHED, ids=[case[0] for case in PUBLISHED])
def test_what_the_published_code_gives(case: tuple[str, str, str | None, float | None, float | None, float]) -> None:
    _, think, answer, logit, expected_rpr, expected = case
    calibrator = Calibrator.build("65", UNITS, FAITHFUL)
    found = calibrator.reward(logit, Response(think, answer, answer is not None))
    assert found.reward == pytest.approx(expected, abs=1e-12)
    assert found.rpr == (None if expected_rpr is None else pytest.approx(expected_rpr))
    assert found.score == logit
    assert found.compensated == (answer is not None and found.bonus > 0)


def test_corrected_phrases_do_not_grow_together_at_the_joint() -> None:
    calibrator = Calibrator.build("65", UNITS, CalibrationTable(phrases="corrected-helpsteer", scored_text="both"))
    assert calibrator.rpr(Response("wa", "it", True)) == 0.0
    assert calibrator.rpr(Response("wait", "therefore", True)) == pytest.approx(0.1)


RULE_TABLE = [
    # rule, score, RPR, tau, alpha, reward
    ("rpr", 0.4, 1.0, 0.5, 0.1, 0.5),
    ("rpr", 0.4, 0.5, 0.5, 0.2, 0.5),
    ("rpr", 0.4, 1.0, 0.75, 1.0, 1.0),
    ("rpr", 0.7, 1.0, 0.75, 0.5, 1.0),
    ("rpr", 0.75, 1.0, 0.75, 0.5, 0.75),
    ("rpr_ordered", 0.0, 1.0, 0.5, 0.1, 0.1),
    ("rpr_ordered", 0.25, 1.0, 0.5, 0.1, 0.3),
    ("rpr_ordered", 0.3, 0.5, 0.75, 0.5, 0.45),
    ("rpr_ordered", 0.0, 1.0, 0.75, 0.75, 0.75),
    ("rpr_ordered", 0.5, 1.0, 0.5, 0.1, 0.5),
    ("rpr_ordered", 0.9, 1.0, 0.5, 0.1, 0.9),
    ("rpr_ordered", 0.0, 0.0, 0.5, 0.1, 1e-6),
    ("constant", 0.4, 0.0, 0.5, 0.3, 0.7),
    ("constant", 0.6, 0.0, 0.5, 0.3, 0.6),
    ("rpr_only", 0.9, 0.25, 0.5, 0.1, 0.25),
    ("rpr_only", None, 0.25, 0.5, 0.1, 0.25),
    ("none", 0.3, 1.0, 0.5, 0.1, 0.3),
    ("random_phrases", 0.4, 0.5, 0.5, 0.2, 0.5),
    ("length", 0.4, 1.0, 0.5, 0.2, 0.45),
    ("length", 0.5, 1.0, 0.5, 0.2, 0.5),
    ("variance_matched", 0.7, 1.0, 0.5, 0.1, 1.3),
    ("variance_matched", 0.1, 1.0, 0.5, 0.1, -0.5),
    ("noise_corrected", 0.5, 1.0, 0.5, 0.1, 1.5),
    ("noise_corrected", 0.49, 1.0, 0.5, 0.1, -0.5),
]
"""With length 1/4, centre 0.4, stretch 3, rho0 1/4 and rho1 1/4: 0.4 + 3 * 0.3, (1 - 1/4) / (1/2), -(1/4) / (1/2)."""


@pytest.mark.parametrize(("rule", "score", "rpr", "threshold", "alpha", "expected"), RULE_TABLE)
def test_rules_by_hand(rule: Any, score: float, rpr: float, threshold: float, alpha: float, expected: float) -> None:
    given = RuleInputs(score, rpr, 0.25, threshold, alpha, centre=0.4, stretch=3.0, rho0=0.25, rho1=0.25)
    assert reward_of(rule, given) == pytest.approx(expected, abs=1e-12)
    # a malformed response keeps its place under an affine map: 0.4 + 3 * (-0.25 - 0.4), (-0.25 - 0.25) / 0.5
    moved = {"variance_matched": -1.55, "noise_corrected": -1.0}
    assert malformed_reward_of(rule, -0.25, given) == pytest.approx(moved.get(rule, -0.25))


def test_only_one_rule_reads_no_score_and_two_are_affine() -> None:
    assert [name for name, rule in RULES.items() if not rule.reads_score] == ["rpr_only"]
    assert [name for name in RULES if is_affine(name)] == ["variance_matched", "none"]


@given(st.floats(0.0, 0.49), st.floats(0.0, 0.49), st.floats(0.0, 1.0))
def test_the_noise_correction_is_unbiased(rho0: float, rho1: float, share: float) -> None:
    low, high = (reward_of("noise_corrected", RuleInputs(s, rho0=rho0, rho1=rho1)) for s in (0.2, 0.8))
    # a good answer is seen as 1 with chance 1 - rho1, a bad one with chance rho0
    assert (1 - rho1) * high + rho1 * low == pytest.approx(1.0)
    assert rho0 * high + (1 - rho0) * low == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.9, 0.2), (-0.1, 0.2)])
def test_rates_that_say_nothing_cannot_be_corrected(rates: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must sum to less than 1"):
        reward_of("noise_corrected", RuleInputs(0.5, rho0=rates[0], rho1=rates[1]))


def ordered(score: float, rpr: float, threshold: float, alpha: float) -> float:
    return reward_of("rpr_ordered", RuleInputs(score, rpr, threshold=threshold, alpha=alpha))


def paper(score: float, rpr: float, threshold: float, alpha: float) -> float:
    return reward_of("rpr", RuleInputs(score, rpr, threshold=threshold, alpha=alpha))


unit = st.floats(0.0, 1.0)
taus = st.floats(0.01, 1.0)


@given(unit, unit, unit, unit, taus, unit)
def test_ordered_rule_keeps_order_across_the_threshold(
    low: float, high: float, rpr_low: float, rpr_high: float, tau: float, share: float
) -> None:
    alpha = share * tau
    low, high = low * tau, tau + high * (1 - tau)
    assert ordered(low, rpr_low, tau, alpha) <= max(high, tau)
    assert ordered(low, rpr_low, tau, alpha) <= ordered(high, rpr_high, tau, alpha) + 1e-12


@given(unit, unit, unit, taus, unit)
def test_ordered_rule_rises_with_the_score_and_with_rpr(
    a: float, b: float, rpr: float, tau: float, share: float
) -> None:
    alpha = share * tau
    low, high = sorted((a, b))
    assert ordered(low, rpr, tau, alpha) <= ordered(high, rpr, tau, alpha) + 1e-12
    assert ordered(rpr, low, tau, alpha) <= ordered(rpr, high, tau, alpha) + 1e-12


@given(unit, unit, taus, unit)
def test_ordered_rule_never_takes_away_and_never_gives_more_than_the_paper(
    score: float, rpr: float, tau: float, share: float
) -> None:
    alpha = share * tau
    reward = ordered(score, rpr, tau, alpha)
    assert score - 1e-12 <= reward
    assert reward <= max(1e-6, paper(score, rpr, tau, alpha) + 1e-12)


@given(st.floats(-1e6, 1e6), st.floats(-1.0, 0.0))
def test_ordered_rule_puts_every_malformed_response_below_every_other(logit: float, malformed: float) -> None:
    table = CalibrationTable(rule="rpr_ordered", phrases="advice", malformed_reward=malformed)
    calibrator = Calibrator.build("65", UNITS, table)
    broken = calibrator.reward(None, Response("first ,", None, False)).reward
    assert broken == malformed
    assert broken < calibrator.reward(logit, Response("", "torch", True)).reward <= 1.0


def test_ordered_rule_is_continuous_at_the_threshold_where_the_papers_jumps() -> None:
    just_below = math.nextafter(0.5, 0)
    assert ordered(just_below, 1.0, 0.5, 0.5) == pytest.approx(0.5)
    assert paper(just_below, 1.0, 0.5, 0.5) == pytest.approx(1.0)


def test_scores_are_in_the_rungs_units() -> None:
    calibrator = Calibrator.build("65", UNITS, CalibrationTable(phrases="advice", threshold=0.75, alpha=0.5))
    found = calibrator.reward(2.0, Response("first , i need to", "torch", True))
    # sigmoid(0.5 * (2 - 2)) = 0.5; two of four phrases: 0.5 + 0.5 * 0.5
    assert (found.score, found.rpr, found.reward, found.bonus) == pytest.approx((0.5, 0.5, 0.75, 0.25))
    assert (found.compensated, found.status) == (True, "ok")
    found = calibrator.reward(2.0 + 2 * math.log(4), Response("first , i need to", "torch", True))
    # sigmoid(log 4) = 0.8 is above the threshold
    assert (found.score, found.reward, found.bonus, found.compensated) == pytest.approx((0.8, 0.8, 0.0, False))


@pytest.mark.parametrize(("where", "expected"), [("think", 0.25), ("answer", 0.5), ("both", 0.75)])
def test_scored_text(where: Any, expected: float) -> None:
    calibrator = Calibrator.build("65", UNITS, CalibrationTable(phrases="advice", scored_text=where))
    assert calibrator.rpr(Response("first , we", "next , so that", True)) == pytest.approx(expected)


def test_rpr_only_needs_no_logit_and_others_say_so() -> None:
    response = Response("first , i need to", "torch", True)
    alone = Calibrator.build("65", UNITS, CalibrationTable(rule="rpr_only", phrases="advice"))
    found = alone.reward(None, response)
    assert (found.reward, found.score, found.bonus, found.compensated) == (0.5, None, 0.0, False)
    assert not alone.reads_score
    with pytest.raises(UserError, match="rung 65: a well-formed answer has no logit, and rule none needs one"):
        alone.with_settings(rule="none").reward(None, response)
    for logit in (math.nan, math.inf):
        with pytest.raises(UserError, match=r"rung 65: the reward model gave (nan|inf) for a well-formed answer"):
            alone.reward(logit, response)


def test_rewards_of_many_are_those_of_each() -> None:
    calibrator = Calibrator.build("65", UNITS, CalibrationTable(phrases="advice"))
    responses = [Response("first ,", "torch", True), Response("x", None, False)]
    assert calibrator.rewards([1.0, None], responses) == [
        calibrator.reward(logit, response) for logit, response in zip([1.0, None], responses, strict=True)
    ]
    with pytest.raises(ValueError, match="zip"):
        calibrator.rewards([1.0], responses)


def test_controls_of_the_same_rung() -> None:
    calibrator = Calibrator.build("65", UNITS, CalibrationTable(phrases="advice", threshold=0.75, alpha=0.5, ngram=3))
    assert calibrator.with_settings(rule="constant").settings.alpha == 0.5
    assert calibrator.with_settings(rule="none").settings.alpha is None
    assert calibrator.with_settings(rule="none").is_affine
    placebo = calibrator.with_settings(phrases="advice-placebo")
    assert (placebo.phrase_set.name, placebo.phrase_set.ngram, placebo.units) == ("advice-placebo", 3, UNITS)
    with pytest.raises(UserError, match="alpha means nothing with rule none"):
        calibrator.with_settings(rule="none", alpha=0.5)


def _table(**keys: Any) -> CalibrationTable:
    return Experiment("x.yaml", "x", 0, Path("runs"), {"calibration": keys}).table("calibration", CalibrationTable)


def test_defaults_are_the_papers() -> None:
    table = _table()
    assert (table.rule, table.threshold, table.alpha, table.malformed_reward) == ("rpr", 0.5, 0.1, 0.0)
    assert _table(rule="none").alpha is None
    assert _table(phrases="advice", ngram=5, normaliser=8).phrase_set().ngram == 5
    assert _table(phrases="advice", ngram=5, normaliser=8).phrase_set().normaliser == 8
    # a stored table reads back as itself, whatever the rule
    for rule in RULES:
        assert CalibrationTable.model_validate(_table(rule=rule).model_dump()) == _table(rule=rule)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"rule": "rprr"},
            "calibration.rule: 'rprr' is not allowed; choose rpr, rpr_ordered, constant, length, random_phrases, "
            "rpr_only, variance_matched, noise_corrected or none; did you mean rpr?",
        ),
        ({"treshold": 0.5}, "calibration.treshold is not a key; did you mean calibration.threshold?"),
        ({"threshold": 1.5}, "calibration.threshold: should be less than or equal to 1, found 1.5"),
        ({"threshold": 0}, "calibration.threshold: should be greater than 0, found 0"),
        ({"threshold": math.nan}, "calibration.threshold: "),
        ({"alpha": -0.1}, "calibration.alpha: should be greater than 0, found -0.1"),
        ({"alpha": 2}, "calibration.alpha: should be less than or equal to 1, found 2"),
        (
            {"rule": "none", "alpha": 0.1},
            "calibration: alpha means nothing with rule none (the score as it is); remove it or choose another rule",
        ),
        ({"rule": "rpr_only", "alpha": 0.1}, "calibration: alpha means nothing with rule rpr_only"),
        (
            {"rule": "rpr_ordered", "units": "raw"},
            "calibration: rule rpr_ordered needs scores in 0..1, which raw logits are not",
        ),
        (
            {"rule": "rpr_ordered", "alpha": 0.6},
            "calibration: rule rpr_ordered with alpha 0.6 above threshold 0.5 would lift a score of 0 over",
        ),
        (
            {"rule": "rpr_ordered", "malformed_reward": 0.1},
            "calibration: rule rpr_ordered keeps malformed responses below all others",
        ),
        ({"rule": "rpr_only", "units": "raw"}, "calibration: units: raw means nothing with rule rpr_only"),
        (
            {"scored_text": "thoughts"},
            "calibration.scored_text: 'thoughts' is not allowed; choose think, answer or both",
        ),
        ({"ngram": 0}, "calibration.ngram: should be greater than or equal to 1, found 0"),
        ({"normaliser": 0}, "calibration: normaliser must be above 0, or n for the number of phrases; found 0"),
        ({"threshold": "autp"}, "threshold must be a number above 0 and at most 1, or auto; found 'autp'"),
        ({"alpha": "auto", "rule": "none"}, "calibration: alpha: auto means nothing with rule none"),
        ({"threshold": "auto", "rule": "rpr_only"}, "calibration: threshold: auto means nothing with rule rpr_only"),
        ({"threshold": "auto", "units": "raw"}, "calibration: threshold: auto looks among scores in 0..1"),
        ({"units": "plat"}, "calibration.units: 'plat' is not allowed; choose rung, raw, temperature, platt, beta"),
        ({"units": "file"}, "calibration: units: file needs the path of a map that `rewardladder fit` wrote"),
        ({"units": "platt", "map": "map.json"}, "calibration: map means nothing with units: platt"),
        ({"units": "platt", "rule": "rpr_only"}, "calibration: units: platt means nothing with rule rpr_only"),
        ({"map": "map.json", "rule": "rpr_only"}, "calibration: units: file means nothing with rule rpr_only"),
        ({"units": "raw", "rule": "noise_corrected"}, "calibration: rule noise_corrected needs scores in 0..1"),
        ({"malformed_reward": 0.1, "rule": "noise_corrected"}, "takes a malformed response as a 0"),
        ({"counting": "presence", "cap": 3}, "calibration: cap means nothing with counting: presence"),
        ({"spread": 0.2, "spread_of": 85}, "calibration: spread is a number and spread_of the rung"),
        ({"rho0": 0.2}, "calibration: rho0 and rho1 go together"),
        ({"rho0": 0.5, "rho1": 0.5}, "calibration: rho0 0.5 and rho1 0.5 sum to 1 or more"),
        ({"full_length": 0}, "calibration.full_length: should be greater than or equal to 1, found 0"),
    ],
)
def test_meaningless_settings_are_refused_with_the_reason(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        _table(**keys)
    assert "\n" not in str(error.value)


def test_phrases_are_counted_as_the_table_says() -> None:
    found = _table(phrases="paper-math", normaliser="n").phrase_set()
    assert found.normaliser == len(found.phrases) == 40
    assert _table(phrases="paper-math", normaliser=20.0).phrase_set().normaliser == 20
    found = _table(phrases="advice", counting="frequency", cap=3).phrase_set()
    assert (found.counting, found.cap) == ("frequency", 3)
    assert _table(phrases="advice", cap=2).phrase_set().cap == 2
    assert _table(phrases="advice", counting="presence").phrase_set() == _table(phrases="advice").phrase_set()
    with pytest.raises(UserError, match="frequency needs a cap, and the phrase set advice has none"):
        _table(phrases="advice", counting="frequency").phrase_set()
    said_twice = Response("first , first , so that", "torch", True)
    by_count = {key: CalibrationTable(phrases="advice", ngram=20, **keys) for key, keys in COUNTINGS.items()}
    found_rpr = {key: Calibrator.build("65", UNITS, table).rpr(said_twice) for key, table in by_count.items()}
    assert found_rpr == {"presence": 2 / 4, "frequency": 3 / 4, "n": 2 / 8}


COUNTINGS: dict[str, dict[str, Any]] = {
    "presence": {},
    "frequency": {"counting": "frequency", "cap": 2},
    "n": {"normaliser": "n"},
}


def test_auto_stands_beside_the_number_that_was_chosen() -> None:
    table = _table(threshold="auto", alpha="auto")
    assert table.auto == ("threshold", "alpha")
    chosen = table.chosen(0.62, 0.3)
    assert (chosen.threshold, chosen.alpha, chosen.auto) == (0.62, 0.3, ("threshold", "alpha"))
    assert CalibrationTable.model_validate(chosen.model_dump(mode="json")) == chosen
    assert _table(threshold=0.6, alpha="auto").auto == ("alpha",)


KNOWN = Measured(centre=0.4, spread=0.1, target_spread=0.3, full_length=20, cut=0.5, rho0=0.25, rho1=0.25)


@pytest.mark.parametrize(
    ("rule", "expected", "malformed"),
    [
        # score 0.5, a think text of ten characters without phrases
        ("length", 0.5 + 0.4 * 10 / 20, 0.0),
        ("variance_matched", 0.4 + 3 * 0.1, 0.4 - 3 * 0.4),
        ("noise_corrected", 1.5, -0.5),
        ("random_phrases", 0.5 + 0.4 / 4, 0.0),
        ("constant", 0.9, 0.0),
    ],
)
def test_alternatives_on_one_rung(rule: str, expected: float, malformed: float) -> None:
    table = CalibrationTable(phrases="advice", threshold=0.75, alpha=0.4)
    calibrator = Calibrator.build("65", UNITS, table, measured=KNOWN).with_settings(rule=rule)
    assert calibrator.reward(2.0, Response("go camping", "torch", True)).reward == pytest.approx(expected)
    assert calibrator.reward(None, Response("", None, False)).reward == pytest.approx(malformed)
    assert calibrator.settings.alpha == (0.4 if RULES[calibrator.settings.rule].adds else None)


def test_what_is_given_comes_before_what_was_measured() -> None:
    calibrator = Calibrator.build("65", UNITS, CalibrationTable(phrases="advice", alpha=0.4), measured=KNOWN)
    response = Response("go camping", "torch", True)
    longer = calibrator.with_settings(rule="length", full_length=40, threshold=0.6)
    assert longer.reward(2.0, response).reward == pytest.approx(0.5 + 0.4 * 10 / 40)
    wider = calibrator.with_settings(rule="variance_matched", spread=0.2)
    assert wider.reward(2.0, response).reward == pytest.approx(0.4 + 2 * 0.1)
    known = calibrator.with_settings(rule="noise_corrected", rho0=0.0, rho1=0.5, cut=0.5)
    assert known.reward(2.0, response).reward == pytest.approx(2.0)
    with pytest.raises(UserError, match="rung 65: rule noise_corrected needs to know how often a score is wrong"):
        calibrator.with_settings(rule="noise_corrected", cut=0.6)  # no rates were measured there


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("length", "needs to know how long a text is, .* give calibration.full_length"),
        ("variance_matched", "needs to know how far scores spread"),
        ("noise_corrected", "needs to know how often a score is wrong, .* give calibration.rho0 and calibration.rho1"),
    ],
)
def test_a_rule_without_its_constants_is_refused(rule: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=f"rung 65: rule {rule} {sentence}"):
        Calibrator.build("65", UNITS, CalibrationTable(rule=rule, phrases="advice"))


def test_a_score_that_says_nothing_cannot_be_corrected() -> None:
    measured = Measured(cut=0.75, rho0=0.0, rho1=1.0)
    with pytest.raises(UserError, match=r"rung 65: rates .* found 0\.0 and 1\.0 where its score is cut at 0\.75"):
        Calibrator.build("65", UNITS, CalibrationTable(rule="noise_corrected"), measured=measured)


def test_a_stretched_score_is_the_same_after_group_scaling() -> None:
    calibrator = Calibrator.build("65", UNITS, CalibrationTable(rule="none", phrases="advice"), measured=KNOWN)
    responses = [Response("", "torch", True)] * 4 + [Response("", None, False)]
    logits = [-1.0, 0.5, 2.0, 3.5, None]
    scaled = []
    for rule in ("none", "variance_matched"):
        rewards = [found.reward for found in calibrator.with_settings(rule=rule).rewards(logits, responses)]
        mean, std = sum(rewards) / 5, (sum(r * r for r in rewards) / 5 - (sum(rewards) / 5) ** 2) ** 0.5
        scaled.append([(reward - mean) / std for reward in rewards])
    assert scaled[0] == pytest.approx(scaled[1])


def test_a_control_without_a_reward_model_leaves_units_behind() -> None:
    table = CalibrationTable(phrases="advice", units="platt", threshold="auto")  # type: ignore[arg-type]
    alone = Calibrator.without_rung(table, "rpr_only")
    assert (alone.settings.units, alone.settings.auto, alone.settings.alpha) == ("rung", (), None)
    assert alone.reward(None, Response("first ,", "torch", True)).reward == 0.25
