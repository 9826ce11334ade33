"""Packed rows: the layout by hand, and the same hidden states and gradients as padded rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model, Qwen3Config, Qwen3Model

from configs.keyed import keyed_rng
from rm.packed import attention
from rm.packed.attention import can_pack, half, last_hidden, packed_body
from rm.packed.layout import batches_by_tokens, groups_of_shared_beginnings, pack, packed_length, shared_length
from rm.scorer import padded_last_hidden

Row = list[int]
SHAPE: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2}


def body(config: type, model: type, **more: Any) -> Any:
    """A small decoder with weights large enough for attention to matter."""
    torch.manual_seed(0)
    made = model(config(**SHAPE, **more, initializer_range=0.3)).eval()
    assert can_pack(made.config)
    return made


def random_groups(seed: int, number: int, answers: int) -> list[list[Row]]:
    """Groups of `answers` rows that share a beginning of 1 to 30 tokens."""
    rng = keyed_rng(seed, "groups")
    groups = []
    for _ in range(number):
        start = rng.integers(1, 97, rng.integers(1, 30)).tolist()
        groups.append([start + rng.integers(1, 97, rng.integers(1, 25)).tolist() for _ in range(answers)])
    return groups


def test_the_layout_of_a_pair_and_a_single_row_by_hand() -> None:
    packed = pack([[[5, 6, 7], [5, 6, 8, 9]], [[4, 3]]])
    assert packed.input_ids.tolist() == [5, 6, 7, 8, 9, 4, 3]
    assert packed.position_ids.tolist() == [0, 1, 2, 2, 3, 0, 1]
    assert packed.last.tolist() == [2, 4, 6]
    assert packed.query_lengths.tolist() == [3, 2, 2]
    assert packed.key_lengths.tolist() == [3, 4, 2]
    assert packed.key_index.tolist() == [0, 1, 2, 0, 1, 3, 4, 5, 6]
    assert packed.repeats
    assert not pack([[[5, 6]], [[7]]]).repeats


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([[1, 2, 3, 4], [1, 2, 5]], 2),
        ([[1, 2], [1, 2]], 1),  # equal rows: each keeps an end of its own
        ([[1, 2], [1, 2, 3, 4]], 1),  # a row that is the beginning of the other
        ([[1], [1]], 0),
        ([[1, 2]], 0),
        ([[1, 2, 3], [1, 2, 4], [1, 9, 9]], 1),
    ],
)
def test_rows_share_what_they_begin_with_and_each_keeps_an_end(rows: list[Row], shared: int) -> None:
    assert shared_length(rows) == shared
    assert packed_length(rows) == sum(map(len, rows)) - (len(rows) - 1) * shared
    assert len(pack([rows]).input_ids) == packed_length(rows)


@pytest.mark.parametrize("answers", [1, 2, 5])
@pytest.mark.parametrize(
    ("config", "model"), [(Qwen2Config, Qwen2Model), (LlamaConfig, LlamaModel), (Qwen3Config, Qwen3Model)]
)
def test_packed_hidden_states_and_gradients_equal_padded_ones(config: type, model: type, answers: int) -> None:
    made = body(config, model)
    groups = random_groups(1, 9, answers)
    rows = [row for group in groups for row in group]
    towards = torch.randn(len(rows), SHAPE["hidden_size"], generator=torch.Generator().manual_seed(1))
    found = []
    for hidden in (lambda: padded_last_hidden(made, rows), lambda: last_hidden(made, pack(groups))):
        made.zero_grad()
        states = hidden()
        (states * towards).sum().backward()
        found.append((states.detach(), [p.grad.clone() for p in made.parameters()]))
    (padded, padded_gradients), (packed, packed_gradients) = found
    assert torch.allclose(packed, padded, atol=2e-5, rtol=1e-5)
    for one, other in zip(packed_gradients, padded_gradients, strict=True):
        assert float((one - other).abs().max()) <= 1e-4 * float(other.abs().max()) + 1e-6
    assert made.config._attn_implementation == "sdpa", "the body is as it was"
    assert "forward" not in vars(made.layers[-1])


def test_a_row_sees_nothing_of_its_neighbours() -> None:
    made = body(Qwen2Config, Qwen2Model)
    groups = random_groups(2, 6, 2)
    with torch.no_grad():
        together = last_hidden(made, pack(groups))
        alone = torch.cat([last_hidden(made, pack([group])) for group in groups])
        backwards = last_hidden(made, pack(groups[::-1])).view(6, 2, -1).flip(0).flatten(0, 1)
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, backwards, atol=1e-5)


def test_checkpointed_layers_give_the_same_gradients() -> None:
    made = body(Qwen2Config, Qwen2Model)
    groups = random_groups(3, 5, 2)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            made.gradient_checkpointing_enable()
        made.train()
        made.zero_grad()
        with packed_body(made):
            last_hidden(made, pack(groups)).pow(3).sum().backward()
        gradients.append(made.layers[0].mlp.up_proj.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-6)


def test_a_sliding_window_or_attention_dropout_is_not_packed() -> None:
    assert not can_pack(Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8))
    assert not can_pack(Qwen2Config(**SHAPE, attention_dropout=0.1))
    assert can_pack(Qwen2Config(**SHAPE, use_sliding_window=False, sliding_window=8))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(10, 120))
def test_batches_hold_every_group_once_and_keep_the_budget(lengths: list[int], budget: int) -> None:
    batches = batches_by_tokens(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(batch and (sum(lengths[i] for i in batch) <= budget or len(batch) == 1) for batch in batches)


def test_batches_are_few_and_alike() -> None:
    assert [sorted(batch) for batch in batches_by_tokens([5, 5, 5, 5], 12)] == [[0, 2], [1, 3]]
    loads = [sum([9, 8, 7, 6, 5, 4][i] for i in batch) for batch in batches_by_tokens([9, 8, 7, 6, 5, 4], 20)]
    assert sorted(loads) == [19, 20]
    assert batches_by_tokens([], 10) == []


def test_rows_that_begin_alike_are_grouped_and_others_are_not() -> None:
    start, other = list(range(20)), list(range(50, 70))
    rows: Sequence[Row] = [[*start, 1], [*other, 2], [*start, 3, 4], [9, 9], [*start, 5]]
    groups = groups_of_shared_beginnings(rows, least_shared=16)
    assert sorted(map(sorted, groups)) == [[0, 2, 4], [1], [3]]
    sizes = [len(group) for group in groups_of_shared_beginnings([[*start, k] for k in range(150)], 16, most_rows=64)]
    assert sizes == [64, 64, 22]
    assert np.all([len(group) == 1 for group in groups_of_shared_beginnings([[1, 2], [1, 3]], 16)])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("shares", [True, False])
def test_the_kernel_is_tried_out_wherever_a_model_is_first_run(
    monkeypatch: pytest.MonkeyPatch, context: Callable[[], Any], shares: bool
) -> None:
    def kernel(query: Tensor, key: Tensor, value: Tensor, *bounds: Any, **_: Any) -> Tensor:
        if query.shape[1] != key.shape[1] and not shares:
            raise RuntimeError("heads differ")
        query, key, value = (states.transpose(0, 1)[None].float() for states in (query, key, value))
        attended = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return attended[0].transpose(0, 1).bfloat16()

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    with context():
        assert attention.kernel_shares_heads.__wrapped__(torch.device("cpu")) is shares


def test_the_kernel_is_given_halves_where_autocast_rotates_in_float32() -> None:
    states = torch.randn(2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert half(states).dtype == torch.bfloat16
        assert half(states.to(torch.float16)).dtype == torch.float16
