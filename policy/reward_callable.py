"""TRL's reward function made of a row of `policy.rewards`: completions in, rewards out, every part kept and logged."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerState

from policy.alarms import repeated_share
from policy.audit import Audit
from policy.reward_graph import OF_A_RUNG, Reads
from policy.rewards import REWARDS, LogitSource, RewardSettings, Rollout, logits_of
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
    ) -> None:
        self.task, self.settings, self.scorers, self.audit = task, settings, scorers, audit
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
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        asked = [self.prompts[name] for name in prompt_id]
        responses = [self.task.read(text) for text in texts]
        grades = [self.task.grade(prompt, text) for prompt, text in zip(asked, texts, strict=True)]
        logits = {
            (rung, reads): logits_of(self.scorers[rung], self.task, asked, responses, texts, reads)
            for rung, reads in self._read()
        }
        limit = self.settings.max_new_tokens
        seen: dict[str, int] = {}
        rollouts = []
        for i, name in enumerate(prompt_id):
            sample = seen.get(name, 0)
            seen[name] = sample + 1
            rollouts.append(
                Rollout(
                    prompt=asked[i],
                    sample=sample,
                    step=trainer_state.global_step,
                    completion=texts[i],
                    n_tokens=len(completion_ids[i]),
                    truncated=len(completion_ids[i]) >= limit,
                    response=responses[i],
                    grade=grades[i],
                    logit=next((of[i] for of in logits.values()), None)
                    if self.settings.table.reward != "graph"
                    else None,
                    logits={key: of[i] for key, of in logits.items()},
                )
            )
        function = REWARDS[self.settings.table.reward].function
        parts = [function(rollout, self.settings) for rollout in rollouts]
        self.audit.add(rollouts, parts)
        self._log(rollouts, parts, log_metric)
        log_metric("repetition", statistics.fmean(repeated_share(ids) for ids in completion_ids))
        return [part.reward for part in parts]

    def _read(self) -> list[tuple[str, Reads]]:
        """(rung, what it reads) of all logits that the reward needs."""
        table = self.settings.table
        if table.reward != "graph" or table.graph is None:
            return [(rung, "answer") for rung in table.rungs]
        parts = [part for part in table.graph.parts.values() if part.kind in OF_A_RUNG]
        return list(dict.fromkeys((str(part.rung), part.reads) for part in parts))

    def _log(self, rollouts: list[Rollout], parts: list[Any], log_metric: Any) -> None:
        log_metric("well_formed", statistics.fmean(r.response.well_formed for r in rollouts))
        for style in sorted({r.grade.style for r in rollouts}):
            log_metric(f"style/{style}", statistics.fmean(r.grade.style == style for r in rollouts))
        figures = {
            "gold": [r.grade.gold for r in rollouts],
            "score": [part.score for part in parts],
            "rpr": [part.rpr for part in parts],
            "bonus": [part.bonus for part in parts],
            "flipped": [None if part.flipped is None else float(part.flipped) for part in parts],
        }
        figures |= {f"part/{name}": [part.parts.get(name) for part in parts] for name in parts[0].parts}
        for name, values in figures.items():
            known = [value for value in values if value is not None]
            if known:
                log_metric(name, statistics.fmean(known))
