"""Updates of GRPO, RLOO and PPO on packed completions, with TRL's own losses.

TRL reads log-probabilities and entropies from one method, `_get_per_token_logps_and_entropies`, for the policy, for the
old policy and for the reference alike. That method alone computes something else here: the same figures, packed
(`packed_pass`). Losses, clipping, masks, metrics and what subclasses add stay TRL's. Its signature has changed
before, so `tests/test_packed_update.py` holds it to the one that is known.

Let one micro-batch hold the whole rollout (`gradient_accumulation_steps` 1): TRL shuffles a rollout before cutting it,
which tears prompts' completions apart. Memory is bounded by `batch_tokens` instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import nn
from torch.distributed import ReduceOp, all_reduce

from configs.errors import UserError
from policy.updates.packed_pass import CompletionRows, active_adapters, completion_values, token_logps
from rm.packed.attention import can_pack
from rm.processes import n_processes, sharding

PackedSetting = Literal["auto"] | bool
FIRST_PASS = ("packed_logps", "packed_entropies")
"""What a rollout carries besides TRL's keys: the policy's figures, (B, T), from when it was made."""
CHANGES_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)
"""What some models do to logits after the head; 1 and None change nothing."""


class PackedUpdate:
    """To stand before TRL's GRPOTrainer or RLOOTrainer among a trainer's bases; does nothing before `pack_updates`.

    Attributes:
        packed: whether updates are packed.
        batch_tokens: most tokens of a packed line.
    """

    packed: bool = False
    batch_tokens: int = 16384
    _policy_adapters: tuple[str, ...] | None = None
    _first_pass: tuple[torch.Tensor, torch.Tensor] | None = None
    _first_pass_step = -1
    _known: tuple[torch.Tensor, torch.Tensor] | None = None
    _values_updates = -1

    def pack_updates(self, packed: PackedSetting, batch_tokens: int) -> str | None:
        """Choose how updates are computed.

        Args:
            packed: `auto` packs where that computes the same.
            batch_tokens: most tokens of a line, above 0; it decides memory and speed and changes no result.

        Returns:
            Why updates are not packed; None where they are.

        Raises:
            UserError: packing was asked for and this policy would compute something else.
        """
        me: Any = self
        why = "policy.packed is false" if packed is False else why_not_packed(me)
        if packed is True and why is not None:
            raise UserError(f"policy.packed: {why}; set policy.packed: auto or false")
        self.packed, self.batch_tokens = why is None, batch_tokens
        return why

    def packed_context(self) -> AbstractContextManager[Any]:
        """What packed passes run in: the accelerator's autocast."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()  # type: ignore[attr-defined]
        return context

    def packed_values(self, critic: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """A critic's values before each completion token, (B, T), zero where padded, with gradients.

        Args:
            critic: a `policy.updates.critic.Critic`, active until the backward pass is over.
            inputs: TRL's ids and masks; with gradients, `values` of the rollout stand for the forward pass until the
                critic has moved.
        """
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        unmoved = torch.is_grad_enabled() and self._values_updates == critic.updates
        if not torch.is_grad_enabled():
            self._values_updates = critic.updates
        return completion_values(
            critic.body,
            critic.value_of,
            CompletionRows.of(*(inputs[name] for name in names)),
            batch_tokens=self.batch_tokens,
            around=self.packed_context,
            known=inputs.get("values") if unmoved else None,
        )

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        me: Any = self
        self._first_pass = None
        self._policy_adapters = active_adapters(me.model) if self.packed else None
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self._policy_adapters = None
        if self._first_pass is not None:
            # Until the weights move, the old policy is the policy: its figures are the update's forward pass.
            output |= dict(zip(FIRST_PASS, self._first_pass, strict=True))
            self._first_pass, self._first_pass_step = None, me.state.global_step
        return output

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A piece of an update, as Transformers' trainer; gradients are averaged over processes after the last piece.

        Packed passes go to the body and the head without the wrapper that would do it.
        """
        me: Any = self
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.packed and me.accelerator.num_processes > 1 and me.accelerator.sync_gradients:
            average_gradients(weight for weight in me.model.parameters() if weight.requires_grad)
        return loss

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        unmoved = self._first_pass_step == self.state.global_step  # type: ignore[attr-defined]
        if unmoved and FIRST_PASS[0] in inputs:
            self._known = (inputs[FIRST_PASS[0]], inputs[FIRST_PASS[1]])
        try:
            loss: torch.Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
        finally:
            self._known = None
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        me: Any = self
        asked = dict(zip(PLAIN, args, strict=False)) | kwargs
        inputs_of_other_kinds = [name for name, value in asked.items() if name not in PLAIN and value is not None]
        if not self.packed or len(args) > len(PLAIN) or inputs_of_other_kinds or asked.get("compute_aux_loss"):
            theirs: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
            theirs = super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
            return theirs
        trunk, head = trunk_and_lm_head(me.accelerator.unwrap_model(model))
        cut = input_ids.shape[1] - logits_to_keep
        rows = CompletionRows.of(
            input_ids[:, :cut], attention_mask[:, :cut], input_ids[:, cut:], attention_mask[:, cut:]
        )
        logps, entropies = token_logps(
            trunk,
            head,
            rows,
            temperature=me.temperature,
            batch_tokens=self.batch_tokens,
            around=self.packed_context,
            known=self._known,
        )
        # A reference is another model, or this one with other adapters or none.
        if self._first_pass is None and model is me.model and active_adapters(model) == self._policy_adapters:
            self._first_pass = (logps, entropies)
        return logps, entropies if asked.get("compute_entropy") else None, None


PLAIN = ("batch_size", "compute_entropy", "compute_aux_loss")
"""Arguments of `_get_per_token_logps_and_entropies`, in order, that do not bring other inputs than text."""


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes, each of which holds the same parameters whole."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        all_reduce(parameter.grad, op=ReduceOp.SUM)
        parameter.grad /= n_processes()


def trunk_and_lm_head(model: Any) -> tuple[Any, nn.Linear]:
    """The body, which returns `last_hidden_state`, and the language-model head; through PEFT's wrapper."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    head: nn.Linear = inner.get_output_embeddings()
    return inner.model, head


def why_not_packed(trainer: Any) -> str | None:
    """Why this trainer's model would compute something else packed; None where it computes the same."""
    sharded = sharding()
    if sharded is not None:
        return f"{sharded} cuts the weights up, and puts them together in its own passes only"
    if getattr(trainer.args, "cast_lm_head_to_fp32", False) or getattr(trainer, "aux_loss_enabled", False):
        return "a head cast to float32 and router losses are left to TRL"
    return why_model_cannot_pack(trainer.accelerator.unwrap_model(trainer.model))


def why_model_cannot_pack(model: Any) -> str | None:
    """Why a causal language model computes something else packed; None where it computes the same."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    trunk: Any = getattr(inner, "model", None)
    head = inner.get_output_embeddings()
    if not isinstance(getattr(trunk, "layers", None), nn.ModuleList) or type(head) is not nn.Linear:
        return f"{type(inner).__name__} is not a decoder of layers under one linear head"
    config = trunk.config
    if not can_pack(config) or any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "this policy has a sliding window, attention dropout or layers without attention"
    changed = [name for name in CHANGES_LOGITS if getattr(config, name, None) not in (None, 1, 1.0)]
    if changed:
        return f"this policy changes its logits after the head ({', '.join(changed)})"
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return "this policy has dropout"
    return None
