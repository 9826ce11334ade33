"""What every optimizer step says of the policy besides TRL's figures: how sure it is of the tokens, and how far it is.

    token_probability   mean over the tokens of the step's rollout of their probability under the policy that sampled
                        them, at the sampling temperature; paper B's "mean token probability" (arXiv 2506.10947, figure
                        12). All updates of a rollout say the same, so arms with one update and with several compare.
    n_updates           optimizer steps of the policy so far, this one included; steps in which only a critic learns
                        are none.
    n_completions       completions drawn so far.

The counts tell arms apart that make different numbers of updates of the same completions, or the reverse.
`clip_ratio/low_mean`, `clip_ratio/high_mean` and `clip_ratio/region_mean` (shares of tokens that teach nothing because
their ratio left the range) and `entropy` are TRL's, over the tokens of the update itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

OLD_KEYS = ("old_per_token_logps", "old_logps")
"""Where TRL's GRPO and RLOO keep what the sampling policy thought of its tokens."""


class UpdateFigures:
    """To stand before PackedUpdate and TRL's trainer among a trainer's bases.

    Attributes:
        resting_steps: first steps in which the policy rests.
    """

    resting_steps: int = 0
    _calls: list[torch.Tensor] | None = None
    _of_rollout: float | None = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)  # type: ignore[misc]
        if self._calls is not None:
            self._calls.append(found[0].detach())
        return found

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self._calls = []
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        # Where TRL keeps the sampling policy's log-probabilities, it computes them first, and the reference's after.
        kept = self._calls[:1] if any(key in output for key in OLD_KEYS) else []
        self._of_rollout = self._mean_probability(kept, output["completion_mask"])
        self._calls = None
        return output

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        me: Any = self
        self._calls = []
        loss: torch.Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
        found = self._of_rollout
        if found is None:  # the only update of its rollout: the policy is still the one that sampled
            found = self._mean_probability(self._calls[:1], inputs["completion_mask"])
        if me.model.training and found is not None:
            me._metrics["train"]["token_probability"].append(found)
        self._calls = None
        return loss

    def _mean_probability(self, logps: list[torch.Tensor], mask: torch.Tensor) -> float | None:
        """Over the tokens of all processes; None without log-probabilities or tokens."""
        if not logps:
            return None
        me: Any = self
        total, count = me.accelerator.reduce(probability_sums(logps[0], mask), reduction="sum").tolist()
        return total / count if count else None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the counts to a training step's figures."""
        me: Any = self
        if "loss" in logs:
            options = me.args
            updates = options.steps_per_generation * options.num_iterations // options.gradient_accumulation_steps
            step = me.state.global_step
            logs["n_updates"] = max(0, step - self.resting_steps)
            logs["n_completions"] = completions_after(step, updates, options.generation_batch_size)
        super().log(logs, *args, **kwargs)  # type: ignore[misc]


def completions_after(step: int, updates_per_rollout: int, completions_per_rollout: int) -> int:
    """Completions drawn by the end of optimizer step `step` (1 is the first): a rollout's all before its first."""
    return -(-step // updates_per_rollout) * completions_per_rollout


def probability_sums(logps_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """(2,): the sum of the probabilities of the tokens that the mask keeps, and their number, in float64."""
    kept = logps_BT[mask_BT.bool()].double().exp()
    return torch.stack([kept.sum(), torch.tensor(float(kept.numel()), dtype=kept.dtype, device=kept.device)])
