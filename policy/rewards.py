"""The rewards a policy can climb, each made of named parts that are all kept.

A reward model reads the answer only, as in the paper: reasoning can pay only through better answers, or through the
compensation (`calibration`), whose score and bonus stand beside the reward in every row of the audit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.calibrator import Calibrator
from configs.errors import UserError
from configs.keyed import keyed_uniform
from policy.config import PolicyTable, RewardName
from policy.noise import Judged, add_noise
from policy.reward_graph import OF_A_RUNG, PartTable, Reads, graph_reward
from tasks.records import Grade, Message, Prompt, Response, Task


class LogitSource(Protocol):
    """A rung, loaded here (`rm.scorer.RungScorer`) or served elsewhere (`rm.serving.client.ServedRung`)."""

    def logits(self, chats: Sequence[Sequence[Message]], answers: Sequence[str]) -> NDArray[np.float64]:
        """Raw logits, shape (N,)."""


@dataclass(frozen=True)
class Rollout:
    """One completion as a reward function sees it.

    Attributes:
        prompt: the prompt; `sample` counts its completions from 0; `step` is the optimizer step.
        completion: the text; `n_tokens` its length in tokens; `truncated` whether the limit cut it.
        response, grade: what the task reads in it and knows of it.
        logit: the rung's raw output for the answer; None without a rung or without an answer.
        logits: of a graph, by (rung, what it read); None where there is nothing to read.
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
    logits: Mapping[tuple[str, Reads], float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """A reward and what it was made of; None where a part does not exist for this reward or this completion.

    Attributes:
        parts: of a graph, every part by its name.
        flipped: whether noise gave the opposite of the true reward; None without noise.
    """

    reward: float | None
    score: float | None = None
    rpr: float | None = None
    bonus: float | None = None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    flipped: bool | None = None


@dataclass(frozen=True)
class RewardSettings:
    """What reward functions need besides the rollout.

    Attributes:
        calibrator: of the cell's rung, or of a rule that reads none.
        calibrators: of a graph, by the name of the rung, or of the part for RPR.
    """

    table: PolicyTable
    seed: int
    max_new_tokens: int
    calibrator: Calibrator | None
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)


class RewardRow(NamedTuple):
    """One reward: its function, and the calibration rule it stands for; None: the rule of the run, or no rule.

    Rewards with a rule apply the run's calibrators: units, threshold, alpha and what was measured of a rung are theirs.
    """

    function: Callable[[Rollout, RewardSettings], Parts]
    rule: str | None = None


def gold_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """The truth, with the table's noise; without noise an upper bound for every reward model. None where unknown.

    Raises:
        UserError: noise on a gold that is neither 0 nor 1.
    """
    gold, noise = rollout.grade.gold, settings.table.noise
    if not noise.is_on:
        return Parts(gold)
    judged = Judged(rollout.prompt.prompt_id, rollout.sample, rollout.step, gold, rollout.response.well_formed)
    try:
        (given,) = add_noise([judged], noise, settings.seed)
    except ValueError as error:
        raise UserError(f"policy.noise: {error}; it is for tasks that are right or wrong") from None
    return Parts(given.reward, flipped=given.flipped)


def random_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """1 with a fixed chance, keyed by seed, prompt, sample and step: the control without information."""
    return Parts(_drawn(rollout, settings, settings.table.random_rate, "random reward"))


def format_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """1 for a well-formed response."""
    return Parts(float(rollout.response.well_formed))


def length_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """Length as a share of the limit, for a well-formed response: the control for "longer is better"."""
    return Parts(rollout.n_tokens / settings.max_new_tokens if rollout.response.well_formed else 0.0)


def calibrated_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """The rung's score after the calibration rule."""
    assert settings.calibrator is not None, "load_calibrator gives one for every row with this function"
    found = settings.calibrator.reward(rollout.logit, rollout.response, _domain(rollout))
    return Parts(found.reward, found.score, found.rpr, found.bonus)


def reward_of_graph(rollout: Rollout, settings: RewardSettings) -> Parts:
    """The reward of `policy.graph`."""
    graph = settings.table.graph
    assert graph is not None, "the table demands a graph for this reward"
    values = {name: _value_of_part(name, part, rollout, settings) for name, part in graph.parts.items()}
    return Parts(graph_reward(graph, values, rollout.response.well_formed).reward, parts=values)


def _value_of_part(name: str, part: PartTable, rollout: Rollout, settings: RewardSettings) -> float | None:
    if part.kind in OF_A_RUNG:
        rung = str(part.rung)
        logit, calibrator = rollout.logits[rung, part.reads], settings.calibrators[rung]
        if logit is None or part.kind == "logit":
            return logit
        if part.kind == "score":
            return calibrator.score(logit, _domain(rollout))
        return calibrator.reward(logit, rollout.response, _domain(rollout)).reward
    if part.kind == "rpr":
        return settings.calibrators[name].rpr(rollout.response) if rollout.response.well_formed else None
    if part.kind == "random":
        return _drawn(rollout, settings, part.rate, f"part {name}")
    plain: dict[str, float | None] = {
        "format": float(rollout.response.well_formed),
        "length": rollout.n_tokens / settings.max_new_tokens,
        "gold": rollout.grade.gold,
    }
    return plain[part.kind]


def _drawn(rollout: Rollout, settings: RewardSettings, rate: float, purpose: str) -> float:
    draw = keyed_uniform(settings.seed, purpose, rollout.prompt.prompt_id, rollout.sample, rollout.step)
    return float(draw < rate)


def _domain(rollout: Rollout) -> str | None:
    domain = rollout.prompt.meta.get("domain")
    return None if domain is None else str(domain)


def logits_of(
    scorer: LogitSource,
    task: Task,
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    completions: Sequence[str],
    reads: Reads = "answer",
) -> list[float | None]:
    """The rung's raw logits of what it reads; None where there is nothing (a malformed response has no answer)."""
    shown = [_shown(task, response, text, reads) for response, text in zip(responses, completions, strict=True)]
    rows = [i for i, text in enumerate(shown) if text is not None]
    logits: list[float | None] = [None] * len(responses)
    if rows:
        chats, texts = [prompts[i].messages for i in rows], [shown[i] or "" for i in rows]
        for i, logit in zip(rows, scorer.logits(chats, texts), strict=True):
            logits[i] = float(logit)
    return logits


def _shown(task: Task, response: Response, completion: str, reads: Reads) -> str | None:
    if reads == "whole":
        return completion
    if reads == "think":
        return response.think if response.well_formed else None
    return None if response.answer is None else task.present(response.answer)


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
    "graph": RewardRow(reward_of_graph),
}
