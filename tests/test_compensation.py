"""Compensation rules by hand, properties of the ordered rule, the table's errors, and the calibrator's round trip."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.calibrator import CALIBRATOR_FILE, Calibrator
from calibration.compensation import RULES, is_affine, ordered, reward_of
from calibration.config import CalibrationTable
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
]


@pytest.mark.parametrize(("rule", "score", "rpr", "threshold", "alpha", "expected"), RULE_TABLE)
def test_rules_by_hand(
    rule: Any, score: float | None, rpr: float, threshold: float, alpha: float, expected: float
) -> None:
    assert reward_of(rule, score, rpr, True, threshold, alpha) == pytest.approx(expected, abs=1e-12)
    assert reward_of(rule, None, rpr, False, threshold, alpha, malformed_reward=-0.25) == -0.25


def test_rules_that_read_a_score_need_one() -> None:
    assert [name for name, rule in RULES.items() if rule.reads_score] == ["rpr", "rpr_ordered", "constant", "none"]
    with pytest.raises(ValueError, match="the rule rpr needs the score"):
        reward_of("rpr", None, 0.5, True, 0.5, 0.1)


def test_only_the_plain_score_is_affine() -> None:
    assert [name for name in RULES if is_affine(name)] == ["none"]


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
    assert reward <= max(1e-6, reward_of("rpr", score, rpr, True, tau, alpha) + 1e-12)


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
    assert reward_of("rpr", just_below, 1.0, True, 0.5, 0.5) == pytest.approx(1.0)


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
            "calibration.rule: 'rprr' is not allowed; choose rpr, rpr_ordered, constant, rpr_only or none",
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
        ({"normaliser": 0}, "calibration.normaliser: should be greater than 0, found 0"),
    ],
)
def test_meaningless_settings_are_refused_with_the_reason(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        _table(**keys)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rule", list(RULES))
def test_calibrator_round_trip(tmp_path: Path, rule: Any) -> None:
    table = CalibrationTable(rule=rule, phrases="paper-math", ngram=7, normaliser=11)
    calibrator = Calibrator.build("65", UNITS, table)
    calibrator.save(tmp_path)
    loaded = Calibrator.load(tmp_path)
    assert loaded == calibrator
    response = Response("Wait. Therefore", "yes", True)
    assert loaded.reward(-1.5, response) == calibrator.reward(-1.5, response)


def test_calibrator_of_another_rung_is_refused() -> None:
    calibrator = Calibrator.build("65", UNITS, CalibrationTable(phrases="advice"))
    calibrator.refuse_other_units(UNITS, "rm/rung-65")
    other = ScoreUnits(centre=2.0, scale=0.6, reference="by hand", n_reference=4)
    with pytest.raises(UserError, match="rm/rung-80: this rung has other score units than the calibrator of rung 65"):
        calibrator.refuse_other_units(other, "rm/rung-80")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 9}, "format 9 is unknown; this version reads 1"),
        ({"rung": 65}, "rung must be a text, found 65"),
        ({"units": {"centre": 0.0}}, "not a calibrator"),
        (
            {"units": {"centre": 0.0, "scale": -1.0, "reference": "", "n_reference": 1}},
            "score units need a finite centre",
        ),
        ({"units": {"centre": None, "scale": 1.0, "reference": "", "n_reference": 1}}, "not a calibrator"),
        ({"settings": {"rule": "other"}}, "not a calibrator (rule: "),
        ({"settings": None}, "not a calibrator"),
        ({"phrase_set": {}}, "not a phrase set"),
        ({"phrase_set_sha256": "0"}, "its phrases were altered since it was written"),
        ({"extra": 1}, "not a calibrator; its keys are format, rung"),
    ],
)
def test_garbage_is_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    Calibrator.build("65", UNITS, CalibrationTable(phrases="advice")).save(tmp_path)
    path = tmp_path / CALIBRATOR_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        Calibrator.load(tmp_path)
    assert str(error.value).startswith(str(path))
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not readable as JSON"):
        Calibrator.load(tmp_path)
