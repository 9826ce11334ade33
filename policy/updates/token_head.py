"""Log-probabilities and entropies of chosen tokens, from hidden states, never holding more than a chunk of logits.

With z = (h W' + b) / temperature over a vocabulary of V, p = softmax(z) and H = -sum p log p:

    d log p[t] / dz = onehot(t) - p          d H / dz = -p (log p + H)

A chunk's logits are computed in the forward pass, forgotten, and computed again in the backward pass, in float32 also
where hidden states are bfloat16. TRL's own chunked head rounds logits to bfloat16 and takes no float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from policy.memory import LOGITS_TOKENS
from rm.packed.fused_lora import pointwise

CHUNK_TOKENS = LOGITS_TOKENS
"""Tokens of one chunk: 600 MB of logits at Qwen2.5's vocabulary."""
Tensors = tuple[torch.Tensor | None, ...]


def token_statistics(
    hidden_NH: torch.Tensor,
    head: nn.Linear,
    targets_N: torch.Tensor,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the targets and entropies in nats, each of shape (N,), with gradients.

    Args:
        hidden_NH: states that predict the targets.
        head: the language-model head; its weight and bias have gradients where they require them.
        targets_N: token ids.
        temperature: above 0; logits are divided by it, as TRL does, for log-probabilities and entropies alike.
        chunk_tokens: how many tokens have logits in memory at once; it changes no result.
    """
    # Looked at here, because a function's forward cannot be seen through by autocast.
    device = hidden_NH.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NH.dtype
    applied: Any = TokenStatistics
    found: tuple[torch.Tensor, torch.Tensor] = applied.apply(
        hidden_NH, head.weight, head.bias, targets_N, temperature, chunk_tokens, kind
    )
    return found


class TokenStatistics(torch.autograd.Function):
    """See `token_statistics`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_tokens: int,
        kind: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Shapes (N, H), (V, H), (V,), (N,); products are taken in `kind`."""
        ctx.set_materialize_grads(False)
        wide = torch.promote_types(kind, torch.float32)
        logps, entropies, log_sums = hidden.new_empty((3, len(hidden)), dtype=wide)
        cast = weight.to(kind)
        reduce = pointwise(chunk_statistics, hidden.device.type)
        for start in range(0, len(hidden), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = _logits(hidden[part].to(kind), cast, bias)
            logps[part], entropies[part], log_sums[part] = reduce(logits, targets[part], temperature)
        ctx.save_for_backward(hidden, weight, bias, targets, entropies, log_sums)
        ctx.temperature, ctx.chunk_tokens, ctx.kind = temperature, chunk_tokens, kind
        return logps, entropies

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Tensors:
        """Gradients of the hidden states and, where asked for, of the head."""
        hidden, weight, bias, targets, entropies, log_sums = ctx.saved_tensors
        d_logps, d_entropies = (torch.zeros_like(log_sums) if grad is None else grad.to(log_sums) for grad in grads)
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(hidden) if for_hidden else None
        d_weight = torch.zeros_like(weight, dtype=log_sums.dtype) if for_weight else None
        d_bias = torch.zeros_like(bias, dtype=log_sums.dtype) if for_bias else None
        cast = weight.to(ctx.kind)
        derive = pointwise(chunk_gradient, hidden.device.type)
        for start in range(0, len(hidden), ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            inputs = hidden[part].to(ctx.kind)
            columns = (log_sums[part], entropies[part], d_logps[part], d_entropies[part])
            d_logits = derive(_logits(inputs, cast, bias), targets[part], *columns, ctx.temperature, ctx.kind)
            if d_hidden is not None:
                d_hidden[part] = d_logits @ cast
            if d_weight is not None:
                d_weight += _wide_product(d_logits.t(), inputs)
            if d_bias is not None:
                d_bias += d_logits.sum(0, dtype=d_bias.dtype)
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            *(None,) * 4,
        )


def chunk_statistics(
    logits_NV: torch.Tensor, targets_N: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities, entropies and the logarithms of the sums of exponentials, each (N,)."""
    z = logits_NV / temperature
    log_sum = torch.logsumexp(z, -1)
    entropy = log_sum - (torch.exp(z - log_sum[:, None]) * z).sum(-1)
    return z.gather(-1, targets_N[:, None])[:, 0] - log_sum, entropy, log_sum


def chunk_gradient(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    log_sum_N: torch.Tensor,
    entropy_N: torch.Tensor,
    d_logp_N: torch.Tensor,
    d_entropy_N: torch.Tensor,
    temperature: float,
    kind: torch.dtype,
) -> torch.Tensor:
    """Gradient of the logits before the temperature, (N, V), rounded to `kind`; see the module."""
    log_p = logits_NV / temperature - log_sum_N[:, None]
    chosen = torch.arange(logits_NV.shape[1], device=logits_NV.device) == targets_N[:, None]
    p = torch.exp(log_p)
    d_z = d_logp_N[:, None] * (chosen.to(p.dtype) - p) - d_entropy_N[:, None] * p * (log_p + entropy_N[:, None])
    return (d_z / temperature).to(kind)


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    logits = _wide_product(hidden, weight.t())
    return logits if bias is None else logits + bias.to(logits.dtype)


def _wide_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """A product that is not rounded to half precision afterwards."""
    with torch.autocast(left.device.type, enabled=False):
        if left.dtype not in (torch.bfloat16, torch.float16):
            return left @ right
        if left.is_cuda:
            return torch.mm(left, right, out_dtype=torch.float32)
        return left.float() @ right.float()
