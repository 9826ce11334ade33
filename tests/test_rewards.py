"""Rewards by hand: each row of the table on rollouts whose parts are known."""

from __future__ import annotations

import pytest

from calibration.calibrator import Calibrator
from calibration.config import CalibrationTable
from configs.errors import UserError
from configs.loader import Experiment
from policy.config import NEEDS_RUNG, PolicyTable, cell_name
from policy.rewards.rungs import load_calibrator
from policy.rewards.table import REWARDS, Parts, RewardSettings, Rollout
from rm.units import ScoreUnits
from tasks.records import Grade, Prompt, Response

PROMPT = Prompt("p", "train", [{"role": "user", "content": "advice for camping : warm :"}])
UNITS = ScoreUnits(centre=1.0, scale=2.0, reference="by hand", n_reference=1)
TWO_RUNGS = {
    "name": "two",
    "parts": {"low": {"kind": "score", "rung": 55}, "high": {"kind": "score", "rung": 60}},
    "terms": [{"part": "low"}, {"part": "high"}],
}
TABLE = CalibrationTable(phrases="advice", threshold=0.75, alpha=0.4)


def rollout(logit: float | None = 1.0, think: str = "", gold: float | None = 0.5, well: bool = True) -> Rollout:
    response = Response(think=think, answer="fleece" if well else None, well_formed=well)
    return Rollout(PROMPT, 0, 7, "", 12, False, response, Grade(gold, "ok", "hasty"), logit if well else None)


def parts(reward: str, of: Rollout, calibrator: Calibrator | None = None, seed: int = 3) -> Parts:
    table = PolicyTable(reward=reward, rung="65" if reward in NEEDS_RUNG else None)
    return REWARDS[reward].function(of, RewardSettings(table, seed, 48, calibrator))


def calibrated(**changes: object) -> Calibrator:
    return Calibrator.build("65", UNITS, TABLE).with_settings(**changes)


def test_rewards_without_a_model() -> None:
    assert parts("gold", rollout(gold=0.25)) == Parts(0.25, true=0.25)
    assert parts("gold", rollout(gold=None)) == Parts(None)
    assert parts("format", rollout()) == Parts(1.0, true=1.0)
    assert parts("format", rollout(well=False)) == Parts(0.0, true=0.0)
    assert parts("length", rollout()) == Parts(12 / 48)
    assert parts("length", rollout(well=False)) == Parts(0.0)


def test_the_raw_reward_is_the_score_in_units() -> None:
    found = parts("raw", rollout(logit=1.0), calibrated(rule="none"))
    assert (found.reward, found.score, found.bonus) == (0.5, 0.5, 0.0)
    assert parts("raw", rollout(logit=2.0), calibrated(rule="none")).reward == pytest.approx(0.8807970779778823)
    assert parts("raw", rollout(well=False), calibrated(rule="none")).reward == 0.0


def test_rpr_lifts_a_low_score_that_reasons() -> None:
    reasoned = rollout(logit=1.0, think="first , i need to warm : fleece . therefore")
    found = parts("rpr", reasoned, calibrated())
    assert (found.score, found.rpr) == (0.5, 0.75)
    assert found.reward == pytest.approx(0.5 + 0.4 * 0.75)
    assert parts("rpr", rollout(logit=2.0, think=reasoned.response.think), calibrated()).bonus == 0.0
    assert parts("constant", rollout(logit=1.0), calibrated(rule="constant")).reward == pytest.approx(0.9)
    assert parts("rpr_only", reasoned, calibrated(rule="rpr_only")).reward == 0.75


def test_the_random_reward_belongs_to_a_sample_and_has_its_rate() -> None:
    again = [parts("random", rollout()).reward for _ in range(3)]
    assert len(set(again)) == 1
    draws = [
        REWARDS["random"]
        .function(
            Rollout(PROMPT, i, 7, "", 1, False, Response("", "x", True), Grade(None, "ok", ""), None),
            RewardSettings(PolicyTable(reward="random", random_rate=0.3), 1, 48, None),
        )
        .reward
        for i in range(4000)
    ]
    assert set(draws) == {0.0, 1.0}
    assert sum(d for d in draws if d is not None) / 4000 == pytest.approx(0.3, abs=0.03)


def test_cells_are_named_by_what_tells_them_apart() -> None:
    assert cell_name(PolicyTable(reward="untrained"), 0) == "untrained"
    assert cell_name(PolicyTable(reward="gold"), 4) == "gold-grpo-s4"
    assert cell_name(PolicyTable(reward="rpr", rung=65, seed=2), 0) == "rpr-rung65-grpo-s2"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"reward": "raw"}, "needs a rung, for example policy.rung=65"),
        ({"reward": "gold", "rung": 65}, "reads no reward model; remove rung 65"),
        ({"reward": "gold", "gradient_accumulation_steps": 7}, "must be a multiple of gradient_accumulation_steps"),
        ({"reward": "graph"}, "reward graph needs the table graph"),
        ({"reward": "graph", "graph": TWO_RUNGS, "rung_server": "http://localhost:1"}, "rung_server serves one rung"),
        ({"reward": "raw", "rung": 65, "share_base": True, "rung_server": "http://localhost:1"}, "remove one"),
        ({"reward": "raw", "rung": 65, "share_base": True, "lora_r": 0}, "needs a base that stays fixed"),
        ({"reward": "gold", "sampler": {"vllm_mode": "server"}}, "vllm_mode belong to engine: vllm"),
        ({"reward": "gold", "sampler": {"engine": "vllm", "vllm_mode": "server"}}, "needs vllm_server_base_url"),
        ({"reward": "golden"}, "'golden' is not allowed.*did you mean gold"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(
    small: Experiment, settings: dict[str, object], sentence: str
) -> None:
    changed = small.with_overrides({f"policy.{key}": value for key, value in settings.items()})
    with pytest.raises(UserError, match=sentence):
        changed.table("policy", PolicyTable)


def test_each_reward_gets_the_calibrator_it_stands_for(small: Experiment) -> None:
    rules = {}
    for reward in set(REWARDS) - {"graph"}:  # has a calibrator for each of its rungs
        table = PolicyTable(reward=reward, rung="60" if reward in NEEDS_RUNG else None)
        calibrator = load_calibrator(small, table)
        rules[reward] = calibrator and (calibrator.settings.rule, calibrator.phrase_set.name)
    assert rules == {
        **dict.fromkeys(("gold", "one_shot", "majority", "majority_live", "incorrect"), None),
        **dict.fromkeys(("random", "format", "python", "no_repetition", "length"), None),
        "raw": ("none", "advice"),
        "rpr": ("rpr", "advice"),
        "rpr_ordered": ("rpr_ordered", "advice"),
        "constant": ("constant", "advice"),
        "length_bonus": ("length", "advice"),
        "random_phrases": ("random_phrases", "advice-random"),
        "variance_matched": ("variance_matched", "advice"),
        "noise_corrected": ("noise_corrected", "advice"),
        "rpr_only": ("rpr_only", "advice"),
        "rpr_partial": ("rpr_only", "advice"),
    }
