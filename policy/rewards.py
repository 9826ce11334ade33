"""The rewards a policy can climb, each made of named parts that are all kept.

A reward model reads the answer only, as in the paper: reasoning can pay only through better answers, or through the
compensation (`calibration`), whose score and bonus stand beside the reward in every row of the audit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from calibration.calibrator import Calibrator
from configs.keyed import keyed_uniform
from policy.config import PolicyTable, RewardName
from rm.scorer import RungScorer
from tasks.records import Grade, Prompt, Response, Task


@dataclass(frozen=True)
class Rollout:
    """One completion as a reward function sees it.

    Attributes:
        prompt: the prompt; `sample` counts its completions from 0; `step` is the optimizer step.
        completion: the text; `n_tokens` its length in tokens; `truncated` whether the limit cut it.
        response, grade: what the task reads in it and knows of it.
        logit: the rung's raw output for the answer; None without a rung or without an answer.
    """

    prompt: Prompt
    sample: int
    step: int
    completion: str
    n_tokens: int
    truncated: bool
    response: Response
    grade: Grade
    logit: float | None


@dataclass(frozen=True)
class Parts:
    """A reward and what it was made of; None where a part does not exist for this reward or this completion."""

    reward: float | None
    score: float | None = None
    rpr: float | None = None
    bonus: float | None = None


@dataclass(frozen=True)
class RewardSettings:
    """What reward functions need besides the rollout."""

    table: PolicyTable
    seed: int
    max_new_tokens: int
    calibrator: Calibrator | None


class RewardRow(NamedTuple):
    """One reward: its function, and the calibration rule it stands for; None: the rule of the run, or no rule.

    Rewards with a rule apply the run's calibrators: units, threshold, alpha and what was measured of a rung are theirs.
    """

    function: Callable[[Rollout, RewardSettings], Parts]
    rule: str | None = None


def gold_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """The truth; an upper bound for every reward model. None where gold is not known."""
    return Parts(rollout.grade.gold)


def random_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """1 with a fixed chance, keyed by seed, prompt, sample and step: the control without information."""
    draw = keyed_uniform(settings.seed, "random reward", rollout.prompt.prompt_id, rollout.sample, rollout.step)
    return Parts(float(draw < settings.table.random_rate))


def format_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """1 for a well-formed response."""
    return Parts(float(rollout.response.well_formed))


def length_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """Length as a share of the limit, for a well-formed response: the control for "longer is better"."""
    return Parts(rollout.n_tokens / settings.max_new_tokens if rollout.response.well_formed else 0.0)


def calibrated_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """The rung's score after the calibration rule."""
    assert settings.calibrator is not None, "load_calibrator gives one for every row with this function"
    domain = rollout.prompt.meta.get("domain")
    found = settings.calibrator.reward(rollout.logit, rollout.response, None if domain is None else str(domain))
    return Parts(found.reward, found.score, found.rpr, found.bonus)


def logits_of(
    scorer: RungScorer, task: Task, prompts: Sequence[Prompt], responses: Sequence[Response]
) -> list[float | None]:
    """The rung's raw logits of the answers; None for a malformed response, which has no answer to score."""
    rows = [i for i, response in enumerate(responses) if response.answer is not None]
    logits: list[float | None] = [None] * len(responses)
    if rows:
        shown = [task.present(responses[i].answer or "") for i in rows]
        for i, logit in zip(rows, scorer.logits([prompts[i].messages for i in rows], shown), strict=True):
            logits[i] = float(logit)
    return logits


REWARDS: dict[RewardName, RewardRow] = {
    "gold": RewardRow(gold_reward),
    "random": RewardRow(random_reward),
    "format": RewardRow(format_reward),
    "length": RewardRow(length_reward),
    "raw": RewardRow(calibrated_reward, rule="none"),
    "rpr": RewardRow(calibrated_reward),
    "rpr_ordered": RewardRow(calibrated_reward, rule="rpr_ordered"),
    "constant": RewardRow(calibrated_reward, rule="constant"),
    "length_bonus": RewardRow(calibrated_reward, rule="length"),
    "random_phrases": RewardRow(calibrated_reward, rule="random_phrases"),
    "variance_matched": RewardRow(calibrated_reward, rule="variance_matched"),
    "noise_corrected": RewardRow(calibrated_reward, rule="noise_corrected"),
    "rpr_only": RewardRow(calibrated_reward, rule="rpr_only"),
}
