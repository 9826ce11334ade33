"""How much GPU memory a cell will take, part by part and phase by phase: what `rewardladder doctor` says before a run.

Weights, adapters and their optimizer stay; sampling, scoring and the update come one after another, so the peak is what
stays plus the largest of the phases. A colocated sampler that sleeps is gone during the update.
"""

from __future__ import annotations

from dataclasses import dataclass

from rm.memory import GIB, TRAINED_BYTES, BodyShape

LOGITS_TOKENS = 1024
"""Tokens of one chunk of logits (policy.updates.token_head)."""
SLEEPING_BYTES = 1.5 * GIB
"""What a colocated vLLM keeps while it sleeps: its context, CUDA graphs and workspaces."""
WHOLE_TRAINED_BYTES = {2: 2 + 2 + 4, 4: TRAINED_BYTES}
"""A parameter trained whole, by the bytes of a weight: weight, gradient and two moments, all of that type."""


@dataclass(frozen=True)
class Needs:
    """Bytes of a cell.

    Attributes:
        staying: by what it is, what is there all the time.
        phases: by name, what each phase takes on top.
    """

    staying: dict[str, float]
    phases: dict[str, float]

    @property
    def peak(self) -> float:
        """The most that is there at one time."""
        return sum(self.staying.values()) + max(self.phases.values())

    @property
    def largest_phase(self) -> str:
        """The phase of the peak."""
        return max(self.phases, key=lambda name: self.phases[name])


def policy_needs(
    shape: BodyShape,
    *,
    lora_r: int,
    has_critic: bool,
    line_tokens: int,
    checkpointed: bool,
    width: int = 2,
    four_bit: bool = False,
    rung: BodyShape | None = None,
    rung_is_shared: bool = False,
    rung_tokens: int = 16384,
    sampled_tokens: int = 0,
    answered_tokens: int = 0,
    sampler_bytes: float | None = None,
    sampler_sleeps: bool = True,
) -> Needs:
    """What a cell takes.

    Args:
        shape: of the policy.
        lora_r: rank of the adapters of policy and critic; 0 trains all weights, and the critic's copy in float32.
        line_tokens: tokens of a packed line of the update.
        checkpointed: `gradient_checkpointing`.
        width: bytes of a weight, 2 or 4.
        four_bit: the layers' frozen matrices in 4 bits.
        rung: of the reward model; None where the reward reads none.
        rung_is_shared: the reward model reads the policy's base.
        rung_tokens: tokens of a line that is scored.
        sampled_tokens: prompt and completion tokens that are in the cache at once, where `generate` samples.
        answered_tokens: likewise where dev and eval prompts are answered, which `generate` always does.
        sampler_bytes: the share of a colocated vLLM; None where `generate` or a server samples.
        sampler_sleeps: whether vLLM gives it back during the other phases.
    """
    adapter = shape.lora_parameters(lora_r)
    whole = shape.linear_parameters + shape.other_parameters + shape.head_parameters
    staying = {"policy's weights": shape.weight_bytes(with_head=True, four_bit=four_bit, width=width)}
    if lora_r:
        staying["policy's adapter and optimizer"] = TRAINED_BYTES * adapter
        if has_critic:
            staying["critic's adapter and optimizer"] = TRAINED_BYTES * adapter
    else:
        staying["policy's gradients and optimizer"] = (WHOLE_TRAINED_BYTES[width] - width) * whole
        if has_critic:
            staying["critic's weights, gradients and optimizer"] = TRAINED_BYTES * (whole - shape.head_parameters)
    if rung is not None:
        body = 0.0 if rung_is_shared else rung.weight_bytes(with_head=False)
        staying["reward model"] = body + 4.0 * rung.lora_parameters(lora_r)
    phases = {"update": shape.line_bytes(line_tokens, checkpointed, LOGITS_TOKENS)}
    if rung is not None:
        phases["scoring"] = rung.scoring_bytes(rung_tokens)
    if answered_tokens:
        phases["dev and eval answers"] = shape.cache_bytes(answered_tokens)
    if sampler_bytes is None:
        phases["sampling"] = shape.cache_bytes(sampled_tokens)
    elif sampler_sleeps:
        staying["sleeping sampler"] = SLEEPING_BYTES
        phases["sampling"] = sampler_bytes - SLEEPING_BYTES
    else:
        staying["sampler"] = sampler_bytes
    return Needs(staying, phases)
