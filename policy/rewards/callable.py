"""TRL's reward function made of a row of `REWARDS`: completions in, rewards out, every part kept and logged."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerState

from policy.alarms.detectors import repeated_share
from policy.audit import Audit
from policy.rewards.label_matching import LabelMatcher
from policy.rewards.table import LogitSource, RewardSettings, Rollout, logits_of, reward_of
from rm.processes import gathered, n_processes, process_index
from tasks.openings import opening_of
from tasks.records import Prompt, Task


class RewardCallable:
    """TRL's reward function: completions in, rewards out; the parts go to the audit and the log."""

    __name__ = "reward"

    def __init__(
        self,
        task: Task,
        prompts: Sequence[Prompt],
        settings: RewardSettings,
        scorers: Mapping[str, LogitSource],
        audit: Audit,
        matcher: LabelMatcher | None = None,
    ) -> None:
        """Args: as their types say; `matcher` where the reward reads a label."""
        self.task, self.settings, self.scorers, self.audit = task, settings, scorers, audit
        self.matcher = matcher
        self.prompts = {prompt.prompt_id: prompt for prompt in prompts}

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        prompt_id: list[str],
        trainer_state: TrainerState,
        log_metric: Any,
        **_: Any,
    ) -> list[float | None]:
        """Rewards of a batch in its order; None excludes a completion from learning."""
        asked = [self.prompts[name] for name in prompt_id]
        texts = [
            opening_of(prompt.asked) + (c if isinstance(c, str) else c[0]["content"])
            for prompt, c in zip(asked, completions, strict=True)
        ]
        responses = [self.task.read(text) for text in texts]
        grades = [self.task.grade(prompt, text) for prompt, text in zip(asked, texts, strict=True)]
        logits = {
            (rung, reads): logits_of(self.scorers[rung], self.task, asked, responses, texts, reads)
            for rung, reads in self.settings.logits_read
        }
        limit = self.settings.max_new_tokens
        own = slice(process_index() * len(prompt_id), (process_index() + 1) * len(prompt_id))
        samples = _numbered(gathered(prompt_id))[own]
        answers = [response.answer for response in responses]
        matches = {
            kind: self.matcher.matches(kind, prompt_id, samples, answers)
            for kind in sorted(self.settings.table.label_kinds)
            if self.matcher is not None
        }
        rollouts = [
            Rollout(
                prompt=asked[i],
                sample=samples[i],
                step=trainer_state.global_step,
                completion=texts[i],
                n_tokens=len(completion_ids[i]),
                truncated=len(completion_ids[i]) >= limit,
                response=responses[i],
                grade=grades[i],
                logit=next((of[i] for of in logits.values()), None) if self.settings.table.reward != "graph" else None,
                logits={key: of[i] for key, of in logits.items()},
                matches={kind: of[i] for kind, of in matches.items()},
            )
            for i in range(len(prompt_id))
        ]
        parts = [reward_of(rollout, self.settings) for rollout in rollouts]
        self.audit.add(rollouts, parts)
        self._log(rollouts, parts, log_metric)
        _log_mean("repetition", [repeated_share(ids) for ids in completion_ids], log_metric)
        return [part.reward for part in parts]

    def _log(self, rollouts: list[Rollout], parts: list[Any], log_metric: Any) -> None:
        _log_mean("well_formed", [float(r.response.well_formed) for r in rollouts], log_metric)
        styles = [r.grade.style for r in rollouts]
        for style in sorted(set(gathered(styles))):
            _log_mean(f"style/{style}", [float(own == style) for own in styles], log_metric)
        statuses = [r.grade.status for r in rollouts]
        for status in sorted(set(gathered(statuses)) - {"ok"}):
            _log_mean(f"grade/{status}", [float(own == status) for own in statuses], log_metric)
        figures = {
            "gold": [r.grade.gold for r in rollouts],
            "score": [part.score for part in parts],
            "rpr": [part.rpr for part in parts],
            "bonus": [part.bonus for part in parts],
            "true_reward": [part.true for part in parts],
            "without_reward": [float(part.reward is None) for part in parts] if self.matcher else [],
            "flipped": [None if part.flipped is None else float(part.flipped) for part in parts],
        }
        figures |= {f"part/{name}": [part.parts.get(name) for part in parts] for name in parts[0].parts}
        for name, values in figures.items():
            known = [value for value in values if value is not None]
            if known:
                _log_mean(name, known, log_metric)


def _log_mean(name: str, values: Sequence[float], log_metric: Any) -> None:
    """Log a mean over all processes: TRL takes the mean of all that is logged, whichever process logs it."""
    for value in [statistics.fmean(values)] if n_processes() == 1 else values:
        log_metric(name, value)


def _numbered(prompt_ids: Sequence[str]) -> list[int]:
    """How many completions of the same prompt stand before each one."""
    seen: dict[str, int] = {}
    numbers = []
    for name in prompt_ids:
        numbers.append(seen.get(name, 0))
        seen[name] = numbers[-1] + 1
    return numbers
