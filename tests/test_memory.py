"""Predicted memory against what an H200 was seen to take, and the parameters of known models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from configs.errors import UserError
from policy.memory import policy_needs
from rm.benchmarks.random_material import SHAPES
from rm.memory import GIB, BodyShape, lora_training_bytes

QWEN = {name: BodyShape.of(shape, name) for name, shape in SHAPES.items()}
LOGITS_TOKENS = 1024
MEASURED = [
    ("3b", False, 3581, 16.80),
    ("3b", False, 4604, 19.22),
    ("3b", False, 13812, 40.98),
    ("3b", True, 4604, 8.97),
    ("3b", True, 13812, 10.78),
    ("3b", True, 32228, 16.04),
    ("7b", False, 4604, 31.06),
    ("7b", False, 13812, 60.77),
    ("7b", True, 4604, 17.25),
    ("7b", True, 13812, 20.96),
    ("7b", True, 32228, 29.10),
]
"""(shape, gradient checkpointing, tokens of a line, GiB that torch had allocated at most): LoRA r=16 in float32 on a
bfloat16 body with a language-model head of its own, AdamW, log-probabilities of completions of 1,024 tokens, four to a
prompt of 512; torch 2.11, 2026-11-21."""


@pytest.mark.parametrize(("shape", "checkpointed", "tokens", "gib"), MEASURED)
def test_a_policys_peak_is_predicted_within_5_percent(shape: str, checkpointed: bool, tokens: int, gib: float) -> None:
    predicted = lora_training_bytes(QWEN[shape], 16, tokens, checkpointed, logits_tokens=LOGITS_TOKENS) / GIB
    assert predicted == pytest.approx(gib, rel=0.05)


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted_as_the_model_has_them(tied: bool) -> None:
    config = Qwen2Config(**SHAPES["tiny"], tie_word_embeddings=tied)
    model = Qwen2ForCausalLM(config)
    shape = BodyShape.of(config.to_dict(), "tiny")
    whole = sum(p.numel() for p in model.parameters())
    assert shape.linear_parameters + shape.other_parameters + shape.head_parameters == whole
    assert shape.weight_bytes(with_head=True) == 2 * whole


def test_qwens_known_sizes() -> None:
    seven = QWEN["7b"]
    assert (seven.linear_parameters + seven.other_parameters + seven.head_parameters) / 1e9 == pytest.approx(
        7.616, abs=0.01
    )
    assert seven.weight_bytes(with_head=False, four_bit=True) / GIB == pytest.approx(4.2, abs=0.3)
    assert seven.cache_bytes(1) == 2 * 2 * 28 * 512


def test_lora_is_counted_as_peft_makes_it() -> None:
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"):
        model = get_peft_model(
            Qwen2ForCausalLM(Qwen2Config(**SHAPES["3b"])), LoraConfig(r=16, target_modules="all-linear")
        )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert QWEN["3b"].lora_parameters(16) == trained


def test_a_config_without_a_shape_is_one_line() -> None:
    with pytest.raises(UserError, match=r"x/config\.json: no shape of a decoder"):
        BodyShape.of({"hidden_size": 3}, "x/config.json")


def test_a_cells_peak_is_what_stays_and_its_largest_phase_by_hand() -> None:
    shape = BodyShape(layers=1, hidden=1, intermediate=0, vocab=0, query=0, key_value=0, biased=False)
    assert shape.linear_parameters == 0
    needs = policy_needs(shape, lora_r=0, has_critic=True, line_tokens=10, checkpointed=False)
    assert needs.staying == {
        "policy's weights": 2 * 3,  # two norms of the layer and the last one
        "policy's gradients and optimizer": 6 * 3,
        "critic's weights, gradients and optimizer": 16 * 3,
    }
    assert needs.phases == {"update": 120, "sampling": 0}
    assert (needs.peak, needs.largest_phase) == (6 + 18 + 48 + 120, "update")


def test_a_sampler_that_sleeps_and_a_shared_base_save_memory() -> None:
    seven = QWEN["7b"]
    cell: dict[str, Any] = {"lora_r": 16, "has_critic": True, "line_tokens": 16384, "checkpointed": True, "rung": seven}
    alone = policy_needs(seven, **cell, sampler_bytes=40 * GIB, sampler_sleeps=False)
    asleep = policy_needs(seven, **cell, sampler_bytes=40 * GIB)
    shared = policy_needs(seven, **cell, sampler_bytes=40 * GIB, rung_is_shared=True)
    assert alone.peak - asleep.peak == pytest.approx(alone.phases["update"])
    assert asleep.largest_phase == "sampling"
    assert asleep.peak - shared.peak == pytest.approx(seven.weight_bytes(with_head=False))
