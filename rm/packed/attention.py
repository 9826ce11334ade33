"""Attention over a packed line (rm.packed.layout): each segment sees its shared beginning and itself, nothing else.

On a GPU in half precision, the variable-length flash kernel; elsewhere an exact dense computation, segment by segment
of like length. Both stand behind one name of Transformers' attention interface, so any decoder that uses the interface
runs packed, with its own weights and code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig

from rm.packed.last_layer import Ends, has_known_last_layer, last_layer_at_ends
from rm.packed.layout import Packed

PACKED_ATTENTION = "rewardladder_packed"
VARLEN_OPTIONS = inspect.signature(varlen_attn).parameters
CAUSAL: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in VARLEN_OPTIONS else {"is_causal": True}
HALF = (torch.bfloat16, torch.float16)
DENSE_AREA = 1 << 22
"""Most entries of one mask of the dense computation: bounds its memory at about 100 MB a layer."""


class AttentionPlan:
    """What all layers of one forward share: where keys lie, and how the dense computation is cut into batches.

    Made from a line that is still on the CPU, so that a GPU need not be waited for.
    """

    def __init__(self, packed: Packed, flash: bool, device: torch.device) -> None:
        self.flash = flash
        self.repeats = packed.repeats
        if flash:
            # Tried here and not within a layer: a checkpointed layer would count the trial's tensors as its own.
            self.kernel_shares_heads = kernel_shares_heads(device)
            self.key_index = packed.key_index.to(device, non_blocking=True)
            self.query_bounds = _bounds(packed.query_lengths).to(device, non_blocking=True)
            self.key_bounds = _bounds(packed.key_lengths).to(device, non_blocking=True)
            self.longest_query = int(packed.query_lengths.max())
            self.longest_key = int(packed.key_lengths.max())
        else:
            self.dense = [batch.to(device) for batch in _dense_batches(packed)]


class DenseBatch:
    """Segments of like length, padded on the left to Q queries and K keys.

    Attributes:
        queries, keys: shape (S, Q) and (S, K): which tokens; 0 where padded.
        mask: shape (S, 1, Q, K), True where a query sees a key; a padded query sees the last key, so nothing is NaN.
        real: shape (S, Q): the queries that are not padding.
    """

    def __init__(self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, real: torch.Tensor) -> None:
        self.queries, self.keys, self.mask, self.real = queries, keys, mask, real

    def to(self, device: torch.device) -> DenseBatch:
        """The same on another device."""
        return DenseBatch(*(part.to(device) for part in (self.queries, self.keys, self.mask, self.real)))


def packed_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    plan: AttentionPlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention interface: (1, heads, T, D) in, (1, T, heads, D) out.

    Raises:
        ValueError: no plan was given, or the layer wants dropout or a sliding window that the longest row exceeds.
    """
    if plan is None or query.shape[0] != 1:
        raise ValueError("packed attention needs one line of tokens and its plan; call rm.packed.attention.last_hidden")
    if dropout:
        raise ValueError("packed attention has no dropout")
    if plan.flash:
        return _flash(half(query[0]), half(key[0]), half(value[0]), scaling, plan), None
    return _dense(query, key, value, scaling, plan), None


def half(states: torch.Tensor) -> torch.Tensor:
    """In the type that autocast computes in, which the kernel needs: rotation leaves float32 where weights are."""
    return states if states.dtype in HALF else states.to(torch.get_autocast_dtype(states.device.type))


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, plan: AttentionPlan
) -> torch.Tensor:
    """(heads, T, D) -> (1, T, heads, D)."""
    query_THD, key_THD, value_THD = (states.transpose(0, 1) for states in (query, key, value))
    if plan.repeats:
        key_THD, value_THD = key_THD.contiguous()[plan.key_index], value_THD.contiguous()[plan.key_index]
    options: dict[str, Any] = {"scale": scaling} | CAUSAL
    if query_THD.shape[1] != key_THD.shape[1]:
        if "enable_gqa" in VARLEN_OPTIONS:
            options["enable_gqa"] = True
        elif not plan.kernel_shares_heads:
            groups = query_THD.shape[1] // key_THD.shape[1]
            key_THD, value_THD = key_THD.repeat_interleave(groups, 1), value_THD.repeat_interleave(groups, 1)
    attended: Any = varlen_attn(
        query_THD.contiguous(),
        key_THD.contiguous(),
        value_THD.contiguous(),
        plan.query_bounds,
        plan.key_bounds,
        plan.longest_query,
        plan.longest_key,
        **options,
    )
    return attended[None]


@cache
def kernel_shares_heads(device: torch.device) -> bool:
    """Whether the kernel takes fewer key heads than query heads although its signature does not say so.

    Tried once a process on a small case, forward and backward, against repeated heads.
    """
    results = []
    # Asked first wherever a model is first run: while scoring too, where gradients are off.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        generator = torch.Generator(device).manual_seed(0)
        drawn = [torch.randn(24, heads, 64, device=device, generator=generator).bfloat16() for heads in (4, 2, 2)]
        bounds = torch.tensor([0, 10, 24], dtype=torch.int32, device=device)
        for shared in (True, False):
            query, key, value = (states.clone().requires_grad_() for states in drawn)
            sides = (key, value) if shared else (key.repeat_interleave(2, 1), value.repeat_interleave(2, 1))
            try:
                output: Any = varlen_attn(query, *sides, bounds, bounds, 14, 14, **CAUSAL)
                found = (output, *torch.autograd.grad(output.float().pow(2).sum(), (query, key, value)))
            except (RuntimeError, ValueError):
                return False
            results.append([states.float() for states in found])
    return all(torch.allclose(a, b, rtol=0.03, atol=0.03) for a, b in zip(*results, strict=True))


def _dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, plan: AttentionPlan
) -> torch.Tensor:
    """(1, heads, T, D) -> (1, T, heads, D), computed exactly with masks."""
    heads, length, depth = query.shape[1:]
    output = query.new_empty((length, heads, depth))
    pieces, places = [], []
    for batch in plan.dense:
        size, width = batch.queries.shape
        attended = scaled_dot_product_attention(
            _gathered(query, batch.queries),
            _gathered(key, batch.keys),
            _gathered(value, batch.keys),
            attn_mask=batch.mask,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        real = batch.real.flatten()
        pieces.append(attended.transpose(1, 2).reshape(size * width, heads, depth)[real])
        places.append(batch.queries.flatten()[real])
    return output.index_copy(0, torch.cat(places), torch.cat(pieces))[None]


def _gathered(states: torch.Tensor, index_SL: torch.Tensor) -> torch.Tensor:
    """(1, heads, T, D) and (S, L) -> (S, heads, L, D)."""
    return states[0].index_select(1, index_SL.flatten()).view(-1, *index_SL.shape, states.shape[-1]).transpose(0, 1)


def _bounds(lengths: torch.Tensor) -> torch.Tensor:
    return nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def _dense_batches(packed: Packed) -> Iterator[DenseBatch]:
    """Segments of like length together, at most `DENSE_AREA` mask entries a batch."""
    query_lengths, key_lengths = packed.query_lengths.tolist(), packed.key_lengths.tolist()
    query_starts = [0, *packed.query_lengths.cumsum(0).tolist()]
    key_starts = [0, *packed.key_lengths.cumsum(0).tolist()]
    order = sorted(range(len(query_lengths)), key=lambda s: (query_lengths[s], key_lengths[s]))
    start = 0
    while start < len(order):
        stop, widest = start + 1, key_lengths[order[start]]
        while stop < len(order):
            segment = order[stop]
            wider, longest = max(widest, key_lengths[segment]), query_lengths[segment]
            like = longest <= 1.25 * query_lengths[order[start]] + 8
            if not like or (stop + 1 - start) * longest * wider > DENSE_AREA:
                break
            widest, stop = wider, stop + 1
        members = order[start:stop]
        longest = max(query_lengths[s] for s in members)
        queries = torch.zeros((len(members), longest), dtype=torch.long)
        keys = torch.zeros((len(members), widest), dtype=torch.long)
        lines = torch.tensor([[query_lengths[s], key_lengths[s]] for s in members])
        for line, s in enumerate(members):
            queries[line, longest - query_lengths[s] :] = torch.arange(query_starts[s], query_starts[s + 1])
            keys[line, widest - key_lengths[s] :] = packed.key_index[key_starts[s] : key_starts[s + 1]]
        # Counted from the right, where queries and keys both end.
        query_back, key_back = torch.arange(longest).flip(0), torch.arange(widest).flip(0)
        seen = (key_back[None, :] >= query_back[:, None])[None] & (key_back[None, :] < lines[:, 1, None])[:, None]
        real = query_back[None, :] < lines[:, :1]
        mask = torch.where(real[:, :, None], seen, key_back == 0)
        yield DenseBatch(queries, keys, mask[:, None], real)
        start = stop


def can_pack(config: PreTrainedConfig) -> bool:
    """Whether a decoder of this configuration computes the same packed: no sliding window, no attention dropout."""
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return not window and not getattr(config, "attention_dropout", 0.0)


def last_hidden(trunk: Any, packed: Packed) -> torch.Tensor:
    """The body's hidden states where rows end, shape (R, hidden), in the order in which the rows were packed.

    Where layers are checkpointed, `packed_body` has to be open until the backward pass is over.
    """
    device = next(trunk.parameters()).device
    last = packed.last.to(device, non_blocking=True)
    if not has_known_last_layer(trunk):
        return token_hidden(trunk, packed)[last]
    one_query_a_row = replace(packed, query_lengths=torch.ones_like(packed.query_lengths))
    return token_hidden(trunk, packed, ends=Ends(last, AttentionPlan(one_query_a_row, _has_flash(trunk), device)))


def token_hidden(trunk: Any, packed: Packed, **more: Any) -> torch.Tensor:
    """The body's hidden states at all tokens of the line, shape (T, hidden).

    Where layers are checkpointed, `packed_body` has to be open until the backward pass is over.

    Args:
        more: what the layers are given besides the attention plan.
    """
    device = next(trunk.parameters()).device
    plan = AttentionPlan(packed, _has_flash(trunk), device)
    ids, positions = (part.to(device, non_blocking=True)[None] for part in (packed.input_ids, packed.position_ids))
    with packed_body(trunk):
        output = trunk(input_ids=ids, position_ids=positions, use_cache=False, plan=plan, **more)
    hidden_TH: torch.Tensor = output.last_hidden_state[0]
    return hidden_TH


def _has_flash(trunk: Any) -> bool:
    parameter = next(trunk.parameters())
    return parameter.is_cuda and (parameter.dtype in HALF or torch.is_autocast_enabled(parameter.device.type))


@contextmanager
def packed_body(trunk: Any) -> Iterator[None]:
    """Use packed attention and the last layer at rows' ends for the length of a block."""
    config = trunk.config
    before = config._attn_implementation
    config._attn_implementation = PACKED_ATTENTION
    try:
        with last_layer_at_ends(trunk):
            yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
