"""GRPO and RLOO through TRL's trainers, with keyed rollouts and an audit of every completion.

TRL draws rollouts from the global generator; it is set from (seed, step) before each one, so a resumed run samples
what an undisturbed one would have. Only `_generate_and_score_completions(inputs)` is overridden, whose signature and
output keys have been stable since TRL 1.0; `tests/test_grpo.py` fails when they change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer, RLOOTrainer

from configs.keyed import keyed_seed
from policy.audit import Audit
from policy.rollouts.opened_turns import OpenedTurns
from policy.rollouts.shared_noise import shared_noise
from policy.updates.figures import UpdateFigures
from policy.updates.packed_update import PackedUpdate


def rollout_key(seed: int, step: int) -> int:
    """The seed of all noise in the rollout of an optimizer step."""
    return keyed_seed(seed, "rollout", step) % 2**63


@contextlib.contextmanager
def keyed_rollout(trainer: Any) -> Iterator[None]:
    """A block whose rollout belongs to the step, however often it is drawn and by however many processes."""
    key = rollout_key(trainer.rollout_seed, trainer.state.global_step)
    torch.manual_seed(key)
    with shared_noise(trainer.model, key, trainer.temperature):
        yield


class LadderGRPOTrainer(UpdateFigures, OpenedTurns, PackedUpdate, GRPOTrainer):
    """GRPOTrainer whose rollouts are keyed by step and whose advantages reach the audit."""

    audit: Audit
    rollout_seed: int

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with keyed_rollout(self):
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.audit.write(self._finish_rollout(output).tolist())
        return output

    def _finish_rollout(self, output: dict[str, Any]) -> Tensor:
        """(B,): the advantage of each completion, for the audit. A subclass may add to the output here."""
        advantages: Tensor = output["advantages"]
        return advantages


class LadderRLOOTrainer(UpdateFigures, OpenedTurns, PackedUpdate, RLOOTrainer):
    """RLOOTrainer (leave-one-out baseline, arXiv 2402.14740), keyed and audited in the same way."""

    audit: Audit
    rollout_seed: int

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with keyed_rollout(self):
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.audit.write(output["advantages"].tolist())
        return output
