"""One base in memory for a rung and a policy that both are adapters on it.

A 7 B body in bfloat16 takes 13 GiB, and a reward model trained on the policy's own base holds the same 13 GiB a second
time. Where both only add LoRA to it, the rung can read the policy's frozen weights: each parameter of the rung that
equals the policy's of the same name is replaced by it. Heads, adapters and whatever differs stay the rung's own.
"""

from __future__ import annotations

import torch
from torch import nn

from configs.errors import UserError

PREFIXES = ("base_model.model.", "base_model.")


def share_base(rung: nn.Module, policy: nn.Module) -> int:
    """Let the rung read the policy's weights where they are equal; returns the bytes that are saved.

    The rung must not be trained any more, and nobody may change the policy's base afterwards: training all of its
    weights, or merging an adapter into them, would move the rung along.

    Raises:
        UserError: no weight of the rung is the policy's.
    """
    theirs = {_plain(name): parameter for name, parameter in policy.named_parameters()}
    saved = 0
    for module_name, module in rung.named_modules():
        for name, own in list(module.named_parameters(recurse=False)):
            other = theirs.get(_plain(f"{module_name}.{name}"))
            if other is None or other.shape != own.shape or other.dtype != own.dtype or own.requires_grad:
                continue
            if other.data_ptr() != own.data_ptr() and torch.equal(own.to(other.device), other):
                setattr(module, name, other)
                saved += own.numel() * own.element_size()
    if not saved:
        raise UserError(
            "policy.share_base: no weight of the rung equals the policy's; the rung must be an adapter on the policy's "
            "own base, in the same type (rm.bf16 and policy.bf16)"
        )
    return saved


def _plain(name: str) -> str:
    """A parameter's name without what PEFT puts around it."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace(".base_layer.", ".")
