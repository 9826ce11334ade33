"""The one core: completions in, rewards with their parts out, as our own trainer's callable gives them.

It is built from what a run left (`policy.adapters.opening`) and knows no trainer; the shells are `verl_reward`,
`openrlhf_reward` and the server's /get_reward (`policy.adapters.served`).

A reward belongs to one completion of one prompt. Draws (noise, random rewards) are keyed by prompt, sample and step.
Trainers that hand over neither sample nor step are given a draw that belongs to prompt and text: it is the same on
every machine and in every order, and does not change from step to step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.errors import UserError
from configs.keyed import keyed_seed
from configs.records import sha256_of_record
from policy.adapters.reading import Reader
from policy.rewards.graph import Reads
from policy.rewards.table import LogitSource, Parts, RewardSettings, Rollout, logits_of, reward_of
from tasks.preference.fields import RowProblem, messages_of
from tasks.records import Grade, Message, Prompt, Response

NO_GOLD = Grade(gold=None, status="no_gold", style="free")
NO_LIMIT = 1 << 30
"""In the place of a limit in tokens, which trainers outside do not tell."""


@dataclass(frozen=True)
class Sample:
    """One completion to be rewarded.

    Attributes:
        prompt: the chat up to the answer, or one text of the user.
        completion: the response's text, without special tokens.
        ground_truth: what a mathematics task compares with, where `meta` has no `meta` of the task.
        meta: what `rewardladder export-prompts` wrote of the prompt, as far as it is known: prompt_id; messages, the
            chat as reward models read it, which is then taken in the place of `prompt`; meta, what the task's grader
            needs, as JSON text. Besides: sample and step of the rollout.
    """

    prompt: Sequence[Message] | str
    completion: str
    ground_truth: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rewarded:
    """A reward and its parts.

    Attributes:
        reward: None where there is none, for example where the gold of an answer is not known.
        parts: by name, the same names for every completion of one core; None where a part does not exist.
    """

    reward: float | None
    parts: dict[str, float | None]

    def numbers(self, missing_reward: float) -> dict[str, float]:
        """Plain numbers for trainers that take nothing else: reward under `score`, and `missing`, 1 or 0.

        A part that does not exist is 0: of a completion with `well_formed` 0 the rung's parts, with `no_gold` 1 gold
        and what depends on it. A mean over the completions that have it is the mean divided by their share.
        """
        reward = missing_reward if self.reward is None else self.reward
        numbers = {name: 0.0 if part is None else float(part) for name, part in self.parts.items()}
        return {"score": float(reward), "missing": float(self.reward is None), **numbers}


@dataclass(frozen=True)
class CompletionReward:
    """The reward of single completions.

    Attributes:
        settings: the reward and its calibrators.
        reader: takes completions apart, as the task does.
        sources: what gives the logits of each rung; empty where they come from elsewhere (`rewards_of_logits`).
        graded: whether the reader knows gold, which is then one of the parts.
    """

    settings: RewardSettings
    reader: Reader
    sources: Mapping[str, LogitSource] = field(default_factory=dict)
    graded: bool = False

    def rewards(self, samples: Sequence[Sample]) -> list[Rewarded]:
        """Rewards of many completions, in their order.

        Raises:
            UserError: a sample cannot be read, or the rung's server cannot be reached, refuses or is another rung.
        """
        prompts = [prompt_of(sample) for sample in samples]
        texts = [sample.completion for sample in samples]
        responses = [self.reader.read(text) for text in texts]
        task: Any = self.reader
        logits = {
            (rung, reads): logits_of(self.sources[rung], task, prompts, responses, texts, reads)
            for rung, reads in self.settings.logits_read
        }
        return [
            self._rewarded(sample, prompts[i], responses[i], {key: of[i] for key, of in logits.items()})
            for i, sample in enumerate(samples)
        ]

    def shown(self, sample: Sample) -> tuple[list[Message], str | None]:
        """The chat and the answer that the rung reads of a completion; None where it has none.

        Raises:
            UserError: the sample cannot be read.
        """
        answer = self.reader.read(sample.completion).answer
        return prompt_of(sample).messages, None if answer is None else self.reader.present(answer)

    def rewards_of_logits(self, samples: Sequence[Sample], logits: Sequence[float | None]) -> list[Rewarded]:
        """Rewards from logits of what `shown` shows; None where nothing was shown."""
        return [
            self._rewarded(
                sample,
                prompt_of(sample),
                self.reader.read(sample.completion),
                dict.fromkeys(self.settings.logits_read, logit),
            )
            for sample, logit in zip(samples, logits, strict=True)
        ]

    def _rewarded(
        self,
        sample: Sample,
        prompt: Prompt,
        response: Response,
        logits: Mapping[tuple[str, Reads], float | None],
    ) -> Rewarded:
        rollout = Rollout(
            prompt=prompt,
            sample=_number(sample, "sample", keyed_seed(0, "completion", sample.completion)),
            step=_number(sample, "step", 0),
            completion=sample.completion,
            n_tokens=0,
            truncated=False,
            response=response,
            grade=self._grade(prompt, sample.completion),
            logit=None if self.settings.table.reward == "graph" else next(iter(logits.values()), None),
            logits=logits,
        )
        found = reward_of(rollout, self.settings)
        if found.reward is not None and not math.isfinite(found.reward):
            raise UserError(
                f"prompt {prompt.prompt_id}: the reward of a completion is {found.reward}, which is no number"
            )
        return Rewarded(found.reward, self._parts(found, rollout))

    def _grade(self, prompt: Prompt, text: str) -> Grade:
        if not self.graded:
            return NO_GOLD
        try:
            return self.reader.grade(prompt, text)
        except KeyError as error:
            if not self._reads_gold:
                return NO_GOLD
            raise UserError(
                f"prompt {prompt.prompt_id}: its truth ({error.args[0]}) did not come along, and the reward needs it; "
                "make the trainer's data by `rewardladder export-prompts`"
            ) from None

    @property
    def _reads_gold(self) -> bool:
        graph = self.settings.table.graph
        of_graph = graph is not None and any(part.kind == "gold" for part in graph.parts.values())
        return of_graph or self.settings.table.reward == "gold"

    def _parts(self, found: Parts, rollout: Rollout) -> dict[str, float | None]:
        parts: dict[str, float | None] = {"well_formed": float(rollout.response.well_formed)}
        if self.settings.calibrator is not None:
            if self.settings.table.rungs:
                parts |= {"rung_logit": rollout.logit, "rung_score": found.score}
            parts |= {"rpr": found.rpr, "bonus": found.bonus}
        parts |= {f"part_{name}": value for name, value in found.parts.items()}
        if self.graded:
            parts |= {"gold": rollout.grade.gold, "no_gold": float(rollout.grade.gold is None)}
        if self.settings.table.noise.is_on:
            parts["flipped"] = None if found.flipped is None else float(found.flipped)
        return parts


def prompt_of(sample: Sample) -> Prompt:
    """The prompt of a sample, as the task knows it.

    Raises:
        UserError: its messages or its meta cannot be read.
    """
    meta = sample.meta
    given = meta.get("messages")
    given = sample.prompt if given is None else _plain(given, "messages")
    try:
        messages = (
            [{"role": "user", "content": given}] if isinstance(given, str) else messages_of(_listed(given), "prompt")
        )
    except RowProblem as problem:
        raise UserError(f"a prompt cannot be read: {problem}; is it from `rewardladder export-prompts`?") from None
    of_task = _plain(meta.get("meta"), "meta") or {}
    if not isinstance(of_task, Mapping):
        raise UserError(f"a prompt's meta is an object, found {type(of_task).__name__}")
    if not of_task and sample.ground_truth not in (None, ""):
        of_task = {"answer": str(sample.ground_truth)}
    name = meta.get("prompt_id")
    prompt_id = name if isinstance(name, str) else f"sha256:{sha256_of_record(messages)[:16]}"
    return Prompt(prompt_id, "train", messages, dict(of_task))


def _listed(value: Any) -> Any:
    """Lists in the place of the arrays that parquet readers give."""
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        return value
    return [dict(turn) if isinstance(turn, Mapping) else turn for turn in value]


def _plain(value: Any, name: str) -> Any:
    """A value that may be written as JSON text."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise UserError(
            f"a prompt's {name} is not readable as JSON; make it by `rewardladder export-prompts`"
        ) from None


def _number(sample: Sample, name: str, otherwise: int) -> int:
    found = sample.meta.get(name)
    return otherwise if found is None else int(found)
