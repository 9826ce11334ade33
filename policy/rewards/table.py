"""The rewards a policy can climb, each made of named parts that are all kept.

A reward model reads the answer only, as in the paper: reasoning can pay only through better answers, or through the
compensation (`calibration`), whose score and bonus stand beside the reward in every row of the audit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.calibrator import Calibrator
from configs.errors import UserError
from configs.keyed import keyed_uniform
from policy.config import PolicyTable, RewardName
from policy.rewards.graph import OF_A_RUNG, PartTable, Reads, graph_reward
from policy.rewards.label_matching import Match
from policy.rewards.noise import Judged, add_noise
from policy.rewards.text import PYTHON, contains, repeats
from policy.rewards.verifiable_table import OF_A_LABEL, Condition, LabelKind
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
        matches: the answer beside each label that the reward reads.
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
    matches: Mapping[LabelKind, Match] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """A reward and what it was made of; None where a part does not exist for this reward or this completion.

    Attributes:
        parts: of a graph, every part by its name.
        true: of a reward of 0 or 1, what it is before noise and conditions.
        flipped: whether noise gave the opposite of `true`; None without noise.
        label: what the answer was compared with.
    """

    reward: float | None
    score: float | None = None
    rpr: float | None = None
    bonus: float | None = None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    true: float | None = None
    flipped: bool | None = None
    label: str | None = None


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

    @property
    def logits_read(self) -> list[tuple[str, Reads]]:
        """(rung, what it reads) of all logits that the reward needs, each once."""
        if self.table.reward != "graph" or self.table.graph is None:
            return [(rung, "answer") for rung in self.table.rungs]
        parts = [part for part in self.table.graph.parts.values() if part.kind in OF_A_RUNG]
        return list(dict.fromkeys((str(part.rung), part.reads) for part in parts))


class RewardRow(NamedTuple):
    """One reward: its function, and the calibration rule it stands for; None: the rule of the run, or no rule.

    Rewards with a rule apply the run's calibrators: units, threshold, alpha and what was measured of a rung are theirs.
    """

    function: Callable[[Rollout, RewardSettings], Parts]
    rule: str | None = None


def reward_of(rollout: Rollout, settings: RewardSettings) -> Parts:
    """The reward of the table's row, and 0 where one of the table's conditions is not kept."""
    parts = REWARDS[settings.table.reward].function(rollout, settings)
    broken = any(not CONDITIONS[name](rollout.completion) for name in settings.table.only_if)
    return replace(parts, reward=0.0) if broken and parts.reward is not None else parts


def gold_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """The truth, with the table's noise; without noise an upper bound for every reward model. None where unknown.

    On one prompt it is paper B's `one_shot`.

    Raises:
        UserError: noise on a gold that is neither 0 nor 1.
    """
    return _given(rollout, settings, rollout.grade.gold)


def label_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """1 where the answer is the label that the reward is named after; None where there is no label."""
    match = _match(rollout, OF_A_LABEL[settings.table.reward])
    return replace(_given(rollout, settings, match.value), label=match.label)


def _match(rollout: Rollout, kind: LabelKind) -> Match:
    if kind not in rollout.matches:
        raise UserError(f"the label {kind} is known only where this tool trains the policy; choose another reward")
    return rollout.matches[kind]


def random_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """1 with a fixed chance, keyed by seed, prompt, sample and step: the control without information."""
    return _given(rollout, settings, _drawn(rollout, settings, settings.table.random_rate, "random reward"))


def format_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """1 for a response in the form that the prompt asks for (mathematics: a box that is not empty)."""
    return _given(rollout, settings, float(rollout.response.in_form))


def python_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """1 where the completion holds "python" in letters of either case, well formed or not."""
    return _given(rollout, settings, float(contains(rollout.completion, PYTHON)))


def no_repetition_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """0 where some string of 10 to 256 characters stands ten or more times in a row."""
    return _given(rollout, settings, float(not repeats(rollout.completion)))


def rpr_partial_reward(rollout: Rollout, settings: RewardSettings) -> Parts:
    """1 for what counts as right, a share of its RPR for the rest, 0 for what is malformed and counts as wrong.

    Paper A's `add_format_reward_when_wrong` (naive.py): noise decides first what counts as right. In the first
    `rpr_warmup_steps` the answer is not looked at: RPR alone, and no noise.
    """
    assert settings.calibrator is not None, "load_calibrator gives one for every row with a rule"
    table, well_formed = settings.table, rollout.response.well_formed
    found = settings.calibrator.rpr(rollout.response) if well_formed else None
    if rollout.step < table.rpr_warmup_steps:
        return Parts(found or 0.0, rpr=found, true=rollout.grade.gold)
    given = _given(rollout, settings, rollout.grade.gold)
    if given.reward is None or given.reward == 1.0 or found is None:
        return replace(given, rpr=found)
    bonus = table.rpr_weight * found
    return replace(given, reward=given.reward + bonus, rpr=found, bonus=bonus)


def _given(rollout: Rollout, settings: RewardSettings, true: float | None) -> Parts:
    """A true reward with the table's noise."""
    noise = settings.table.noise
    if not noise.is_on:
        return Parts(true, true=true)
    judged = Judged(rollout.prompt.prompt_id, rollout.sample, rollout.step, true, rollout.response.in_form)
    try:
        (given,) = add_noise([judged], noise, settings.seed)
    except ValueError as error:
        raise UserError(f"policy.noise: {error}; it is for tasks that are right or wrong") from None
    return Parts(given.reward, true=true, flipped=given.flipped)


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
    if part.kind in OF_A_LABEL:
        return _match(rollout, OF_A_LABEL[part.kind]).value
    if part.kind == "contains":
        return float(contains(rollout.completion, str(part.text)))
    if part.kind == "repetition":
        return float(repeats(rollout.completion))
    plain: dict[str, float | None] = {
        "format": float(rollout.response.in_form),
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


CONDITIONS: dict[Condition, Callable[[str], bool]] = {
    "no_python": lambda completion: not contains(completion, PYTHON),
    "no_repetition": lambda completion: not repeats(completion),
}
"""Whether a completion keeps each condition of `policy.only_if`."""

REWARDS: dict[RewardName, RewardRow] = {
    "gold": RewardRow(gold_reward),
    "one_shot": RewardRow(gold_reward),
    "majority": RewardRow(label_reward),
    "majority_live": RewardRow(label_reward),
    "incorrect": RewardRow(label_reward),
    "random": RewardRow(random_reward),
    "format": RewardRow(format_reward),
    "python": RewardRow(python_reward),
    "no_repetition": RewardRow(no_repetition_reward),
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
    "rpr_partial": RewardRow(rpr_partial_reward, rule="rpr_only"),
    "graph": RewardRow(reward_of_graph),
}
