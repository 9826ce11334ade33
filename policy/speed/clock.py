"""Clocks of the policy's speed comparison: seconds of each part of a step, and what the first step computed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback


class Timed:
    """To stand before a trainer: seconds of each part, and the first step's log-probabilities."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.first_logps: dict[bytes, torch.Tensor] = {}
        self.completion_tokens = 0
        super().__init__(*args, **kwargs)

    def _within(self, part: str, work: Callable[[], Any]) -> Any:
        _synchronize()
        start = time.perf_counter()
        try:
            return work()
        finally:
            _synchronize()
            self.seconds[part] += time.perf_counter() - start

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's."""
        return self._within("training_step", lambda: super(Timed, self).training_step(*args, **kwargs))  # type: ignore[misc]

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        return self._within("prepare", lambda: super(Timed, self)._prepare_inputs(*args, **kwargs))  # type: ignore[misc]

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        return self._within("rollout", lambda: super(Timed, self)._generate(*args, **kwargs))  # type: ignore[misc]

    def _rollout_values(self, *args: Any, **kwargs: Any) -> Any:
        return self._within("logps", lambda: super(Timed, self)._rollout_values(*args, **kwargs))  # type: ignore[misc]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self.completion_tokens += int(output["completion_mask"].sum())
        return output

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **kwargs: Any
    ) -> Any:
        figures: Any = super()._get_per_token_logps_and_entropies  # type: ignore[misc]
        if not torch.is_grad_enabled():
            return self._within("logps", lambda: figures(model, input_ids, attention_mask, logits_to_keep, **kwargs))
        found = figures(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        if self.state.global_step == 0:  # type: ignore[attr-defined]
            kept_BT = attention_mask[:, -logits_to_keep:].cpu().bool()
            rows = zip(input_ids.cpu(), kept_BT, found[0].detach().cpu(), strict=True)
            self.first_logps |= {ids.numpy().tobytes(): logps.float()[kept] for ids, kept, logps in rows}
        return found


class Watch(TrainerCallback):
    """When steps ended, what each part took until then, the logs, and the first step's gradient."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.ends: list[float] = []
        self.parts: list[dict[str, float]] = []
        self.logs: list[dict[str, float]] = []
        self.gradient = torch.zeros(0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the gradient of the first step."""
        if state.global_step == 0:
            grads = [
                p.grad.flatten().float().cpu()
                for _, p in sorted(kwargs["model"].named_parameters())
                if p.requires_grad and p.grad is not None
            ]
            self.gradient = torch.cat(grads)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """After the optimizer's step."""
        _synchronize()
        self.ends.append(time.perf_counter())
        self.parts.append(dict(self.trainer.seconds))

    def on_log(self, *args: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Once a step."""
        if logs and "loss" in logs:
            self.logs.append({name: float(logs[name]) for name in ("loss", "grad_norm", "entropy")})


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
