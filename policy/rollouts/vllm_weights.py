"""What the sampler is sent: the policy's weights with its adapter added, computed beside the base and never in it.

TRL merges the adapter into the frozen base, sends the sum and subtracts again. In bfloat16 that is not undone exactly:
the base drifts by a relative 1e-3 at the first synchronisation and 4e-3 after three hundred, and with it the reference,
a critic and a reward model that share it. Here each sum is a tensor of its own, made in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from configs.errors import UserError

WALK = "_iter_named_params"
"""The method of TRL's VLLMGeneration that walks what is sent; tests/test_vllm_weights.py fails when it is gone."""


def sampled_parameters(model: PeftModel, adapter: str) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, weight) of the base model with one adapter added, under the names of the base model.

    Raises:
        UserError: the adapter holds something that is no low-rank sum of a linear layer.
    """
    base = model.get_base_model()
    adapted = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    for name, parameter in base.named_parameters():
        if model.prefix in name:
            continue
        if "modules_to_save" in name or "original_module" in name:
            raise UserError(f"policy: {name} is trained whole beside LoRA, which cannot be sent to vLLM")
        layer_name, _, last = name.removesuffix(".weight").rpartition(".")
        layer = adapted.get(layer_name) if last == "base_layer" and name.endswith(".weight") else None
        weight = _whole(parameter)
        if layer is not None and adapter in layer.scaling:
            weight = _sum(layer, weight, adapter)
        yield name.replace(".base_layer.", "."), weight


def send_without_merging(generation: Any, model: PeftModel, adapter: str) -> None:
    """Let TRL's `VLLMGeneration` send `sampled_parameters` in the place of merging.

    Raises:
        UserError: this TRL walks its parameters otherwise.
    """
    if not callable(getattr(generation, WALK, None)):
        raise UserError(f"policy: this version of TRL has no VLLMGeneration.{WALK}; install trl 1.16")
    setattr(generation, WALK, lambda: sampled_parameters(model, adapter))


def _sum(layer: Any, weight: torch.Tensor, adapter: str) -> torch.Tensor:
    delta = layer.get_delta_weight(adapter)
    return (weight.float() + delta.float()).to(weight.dtype)


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    """The weight itself, or what four bits stand for."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.data
    whole: torch.Tensor = import_module("bitsandbytes.functional").dequantize_4bit(parameter.data, state)
    return whole
