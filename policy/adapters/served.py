"""The core behind the server's /get_reward and /calibration (`rm.serving.rewarding.Rewarding`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibration.calibrator import Calibrator
from configs.runfolder import MANIFEST
from policy.adapters.core import NO_LIMIT, CompletionReward, Sample, prompt_of
from policy.adapters.label import meta_of_label
from policy.adapters.opening import reader_of, task_record
from policy.adapters.settings import Format
from policy.config import PolicyTable
from policy.rewards.table import RewardSettings
from rm.answer_form import AnswerForm
from rm.serving.rewarding import Asked
from tasks.records import Message


class ServedReward:
    """Rewards of a served rung by its calibrator; never missing, because a calibration rule always gives one."""

    def __init__(self, rung: Path, calibrator: Calibrator, response_format: Format | None) -> None:
        """Read what the run says of its task.

        Args:
            rung: the rung's folder, mostly `runs/<name>/rm/<rung>`.
            calibrator: of this rung.
            response_format: how completions are read; by the run's task where there is one and nothing else is said.

        Raises:
            UserError: the format is left to a task, and there is no run.
        """
        run = rung.expanduser().absolute().parent.parent
        task = task_record(run) if (run / "tasks" / MANIFEST).exists() else None
        chosen: Format = response_format or ("any" if task is None else "task")
        table = PolicyTable.model_validate({"reward": "rpr", "rung": calibrator.rung})
        reader = reader_of(chosen, task, AnswerForm.of_rung(rung.expanduser()))
        self.reward = CompletionReward(RewardSettings(table, 0, NO_LIMIT, calibrator), reader)
        self.description: Mapping[str, Any] = {
            "calibrator": calibrator.record(),
            "response_format": chosen,
            "task": task if chosen == "task" else None,
        }

    def chat_of(self, label: Any) -> list[Message] | None:
        """The chat that a label carries, or None."""
        meta = meta_of_label(label)
        return prompt_of(Sample("", "", meta=meta)).messages if "messages" in meta else None

    def shown(self, asked: Asked) -> tuple[list[Message], str | None]:
        """The chat and the answer that the rung reads."""
        return self.reward.shown(_sample(asked))

    def rewards(self, asked: Sequence[Asked], logits: Sequence[float | None]) -> list[dict[str, float]]:
        """Rewards and parts."""
        found = self.reward.rewards_of_logits([_sample(one) for one in asked], logits)
        return [one.numbers(0.0) for one in found]


def _sample(asked: Asked) -> Sample:
    return Sample(asked.chat, asked.text, meta=meta_of_label(asked.label))
