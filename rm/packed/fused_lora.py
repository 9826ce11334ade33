"""LoRA layers with the same mathematics and fewer passes over memory.

PEFT adds the low-rank part in steps of their own, in float32 where the adapter is float32: on a 7B body the extra
passes cost more than half of the matrix products. Here the low-rank part is added inside the product (`addmm_`), its
gradients are computed from what is in memory anyway, and the gated MLP keeps its two inner activations and recomputes
the third.

    y = x W' + b + s (x A') B'          (Hu et al. 2021, arXiv 2106.09685, equation 3, s = alpha / r; ' transposes)

`fused_layers(model)` replaces the forwards of every layer that it knows to compute exactly this, for the length of a
block, and leaves the others as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLoraLinear
from torch import nn
from torch.nn.functional import linear

Tensors = tuple[torch.Tensor | None, ...]


class LoraLinearFunction(torch.autograd.Function):
    """One linear layer with its low-rank part; the weight and bias are frozen.

    Shapes: x (T, K), weight (N, K), bias (N,) or None, a (r, K), b (N, r); returns (T, N).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """The layer's output."""
        a_cast, b_cast = a.to(x.dtype), b.to(x.dtype) * scaling
        low = x @ a_cast.t()
        y = linear(x, weight, bias).addmm_(low, b_cast.t())
        ctx.save_for_backward(x, weight, a_cast, b_cast, low)
        ctx.scaling, ctx.types = scaling, (a.dtype, b.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Tensors:
        """Gradients of x, a and b."""
        (dy,) = grads
        x, weight, a, b, low = ctx.saved_tensors
        d_low = dy @ b
        dx = (dy @ weight).addmm_(d_low, a) if ctx.needs_input_grad[0] else None
        da = (d_low.t() @ x).to(ctx.types[0])
        db = (dy.t() @ low).to(ctx.types[1]) * ctx.scaling
        return dx, None, None, da, db, None


class LoraMlpFunction(torch.autograd.Function):
    """A gated MLP, down(silu(gate(x)) * up(x)), of three such layers without bias."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        scalings: tuple[float, float, float],
        *low_rank: torch.Tensor,
    ) -> torch.Tensor:
        """x (T, K) -> (T, K); `low_rank` is a, b of gate, up and down; `weights` are theirs."""
        cast = [matrix.to(x.dtype) for matrix in low_rank]
        a_inner = torch.cat([cast[0], cast[2]])
        rank = len(cast[0])
        b_gate, b_up, b_down = (cast[2 * i + 1] * scalings[i] for i in range(3))
        low_inner = x @ a_inner.t()
        gate = linear(x, weights[0]).addmm_(low_inner[:, :rank], b_gate.t())
        up = linear(x, weights[1]).addmm_(low_inner[:, rank:], b_up.t())
        inner = pointwise(silu_product, x.device.type)(gate, up)
        low_down = inner @ cast[4].t()
        y = linear(inner, weights[2]).addmm_(low_down, b_down.t())
        ctx.save_for_backward(x, gate, up, low_inner, low_down, a_inner, cast[4], b_gate, b_up, b_down)
        ctx.weights, ctx.scalings, ctx.types = weights, scalings, [matrix.dtype for matrix in low_rank]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Tensors:
        """Gradients of x and of the six low-rank matrices."""
        (dy,) = grads
        x, gate, up, low_inner, low_down, a_inner, a_down, b_gate, b_up, b_down = ctx.saved_tensors
        w_gate, w_up, w_down = ctx.weights
        rank = b_gate.shape[1]
        d_low_down = dy @ b_down
        d_inner = (dy @ w_down).addmm_(d_low_down, a_down)
        inner, d_gate, d_up = pointwise(silu_product_backward, x.device.type)(gate, up, d_inner)
        del d_inner
        da_down = d_low_down.t() @ inner
        db_down = dy.t() @ low_down
        d_low_inner = torch.cat([d_gate @ b_gate, d_up @ b_up], dim=1)
        da_inner = d_low_inner.t() @ x
        db_gate, db_up = d_gate.t() @ low_inner[:, :rank], d_up.t() @ low_inner[:, rank:]
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (d_gate @ w_gate).addmm_(d_up, w_up).addmm_(d_low_inner, a_inner)
        low = (da_inner[:rank], db_gate, da_inner[rank:], db_up, da_down, db_down)
        scaled = [
            grad.to(kind) * (ctx.scalings[i // 2] if i % 2 else 1.0)
            for i, (grad, kind) in enumerate(zip(low, ctx.types, strict=True))
        ]
        return dx, None, None, *scaled


class RmsNormFunction(torch.autograd.Function):
    """`rms_norm` with a frozen weight; a compiled kernel keeps nothing of its own, so layers can be checkpointed."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Shapes (…, H) and (H,)."""
        ctx.save_for_backward(hidden, weight)
        ctx.epsilon = epsilon
        return pointwise(rms_norm, hidden.device.type)(hidden, weight, epsilon)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Tensors:
        """Gradient of the hidden states."""
        hidden, weight = ctx.saved_tensors
        return pointwise(rms_norm_backward, hidden.device.type)(hidden, weight, ctx.epsilon, grads[0]), None, None


class RotaryFunction(torch.autograd.Function):
    """`rotary` of states; cos and sin have no gradient."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Shapes (B, heads, T, D) and (B, 1, T, D)."""
        ctx.save_for_backward(cos, sin)
        return pointwise(rotary, states.device.type)(states, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Tensors:
        """Gradient of the states."""
        cos, sin = ctx.saved_tensors
        return pointwise(rotary_backward, grads[0].device.type)(grads[0], cos, sin), None, None


def silu_product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, in float32 inside; shapes alike."""
    g = _widened(gate)
    return (g * torch.sigmoid(g) * _widened(up)).to(gate.dtype)


def silu_product_backward(
    gate: torch.Tensor, up: torch.Tensor, d_inner: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `silu_product` gave, and the gradients of gate and up."""
    g, u, d = _widened(gate), _widened(up), _widened(d_inner)
    s = torch.sigmoid(g)
    silu = g * s
    kind = gate.dtype
    return (silu * u).to(kind), (d * u * s * (1 + g * (1 - s))).to(kind), (d * silu).to(kind)


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Zhang and Sennrich 2019, with Transformers' rounding: the weight is applied after the cast back."""
    h = hidden.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * h.to(hidden.dtype)


def rms_norm_backward(
    hidden: torch.Tensor, weight: torch.Tensor, epsilon: float, d_normed: torch.Tensor
) -> torch.Tensor:
    """Gradient of `rms_norm` for the hidden states: r (g - h r^2 mean(g h)), with g = d w and r the inverse root."""
    h = hidden.to(torch.float32)
    g = (d_normed * weight).to(torch.float32)
    r = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + epsilon)
    return (r * (g - h * r * r * (g * h).mean(-1, keepdim=True))).to(hidden.dtype)


def rotary(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al., arXiv 2104.09864) in Transformers' halves: x cos + (-x2, x1) sin."""
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat((-second, first), -1) * sin


def rotary_backward(d_rotated: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The transpose of `rotary`: d cos + (y2, -y1) with y = d sin."""
    first, second = (d_rotated * sin).chunk(2, -1)
    return d_rotated * cos + torch.cat((second, -first), -1)


def rotate_both(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """In the place of Transformers' `apply_rotary_pos_emb`."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    applied: Any = RotaryFunction
    return applied.apply(query, cos, sin), applied.apply(key, cos, sin)


def _widened(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@cache
def pointwise(function: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    """One kernel of an elementwise function on a GPU; the function itself elsewhere."""
    return torch.compile(function) if device_type == "cuda" else function


@contextmanager
def fused_layers(model: nn.Module) -> Iterator[int]:
    """Replace what can be replaced for the length of a block; yields how many layers were.

    A block within a block replaces nothing more.
    """
    replaced: list[nn.Module] = []
    rotated: dict[Any, Callable[..., Any]] = {}
    for module in model.modules():
        forward = None if "forward" in vars(module) else _faster_forward(module)
        if forward is not None:
            module.forward = forward
            replaced.append(module)
        source = sys.modules.get(type(module).__module__)
        rotate = getattr(source, "apply_rotary_pos_emb", None)
        if hasattr(module, "q_proj") and rotate not in (None, rotate_both) and source not in rotated:
            rotated[source] = rotate
    for source, rotate in list(rotated.items()):
        if _is_rotary(rotate):
            source.apply_rotary_pos_emb = rotate_both
        else:
            del rotated[source]
    try:
        yield len(replaced)
    finally:
        for module in replaced:
            del module.forward
        for source, rotate in rotated.items():
            source.apply_rotary_pos_emb = rotate


def _faster_forward(module: nn.Module) -> Callable[..., torch.Tensor] | None:
    if isinstance(module, PeftLoraLinear):
        return partial(_lora_forward, module) if _is_plain_lora(module) else None
    layers: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if all(_is_plain_lora(layer) and layer.base_layer.bias is None for layer in layers):
        activation = getattr(module, "act_fn", None)
        ranks = {len(_low_rank(layer)[0]) for layer in layers[:2]}
        is_silu = isinstance(activation, nn.SiLU) or type(activation).__name__ == "SiLUActivation"
        return partial(_mlp_forward, module) if is_silu and len(ranks) == 1 else None
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return partial(_norm_forward, module) if _is_rms_norm(module) else None
    return None


def _is_plain_lora(layer: Any) -> bool:
    """Whether a layer computes exactly the formula of this module: one adapter, frozen, no dropout, no variant."""
    if not isinstance(layer, PeftLoraLinear) or layer.merged or layer.disable_adapters or layer.lora_variant:
        return False
    base = layer.base_layer
    if len(layer.active_adapters) != 1 or type(base) is not nn.Linear or base.weight.requires_grad:
        return False
    name = layer.active_adapters[0]
    return (
        name in layer.lora_A
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
    )


def _low_rank(layer: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    name = layer.active_adapters[0]
    return layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name])


def _lora_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    a, b, scaling = _low_rank(layer)
    base = layer.base_layer
    flat = x.reshape(-1, x.shape[-1]).to(base.weight.dtype)
    applied: Any = LoraLinearFunction
    return applied.apply(flat, base.weight, base.bias, a, b, scaling).view(*x.shape[:-1], -1)


def _mlp_forward(module: Any, x: torch.Tensor) -> torch.Tensor:
    layers = [module.gate_proj, module.up_proj, module.down_proj]
    weights = tuple(layer.base_layer.weight for layer in layers)
    parts = [_low_rank(layer) for layer in layers]
    flat = x.reshape(-1, x.shape[-1]).to(weights[0].dtype)
    low_rank = [matrix for a, b, _ in parts for matrix in (a, b)]
    applied: Any = LoraMlpFunction
    return applied.apply(flat, weights, tuple(part[2] for part in parts), *low_rank).view(x.shape)


def _norm_forward(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    applied: Any = RmsNormFunction
    return applied.apply(hidden, module.weight, module.variance_epsilon)


def _is_rms_norm(module: Any) -> bool:
    """Whether the module gives what `rms_norm` gives: variants add one to the weight or round elsewhere."""
    if module.weight.requires_grad:
        return False
    with torch.no_grad():
        probe = torch.linspace(-2.0, 3.0, module.weight.numel(), device=module.weight.device, dtype=module.weight.dtype)
        return torch.equal(module(probe[None]), rms_norm(probe[None], module.weight, module.variance_epsilon))


@cache
def _is_rotary(rotate: Callable[..., Any]) -> bool:
    """Whether a model's own function is `rotary` of both: variants interleave or rotate a part only."""
    states, angles = torch.linspace(-1, 2, 24).view(1, 1, 3, 8), torch.linspace(0, 3, 24).view(1, 3, 8)
    try:
        given = rotate(states, 2 * states, angles.cos(), angles.sin())
    except (TypeError, RuntimeError):
        return False
    wanted = [rotary(x, angles.cos()[:, None], angles.sin()[:, None]) for x in (states, 2 * states)]
    return all(torch.allclose(one, other, atol=1e-6) for one, other in zip(given, wanted, strict=True))
