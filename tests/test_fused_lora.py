"""Fused LoRA layers: PEFT's outputs and gradients, in float64 to the last digits; what they do not know stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForSequenceClassification
from transformers.models.qwen2 import modeling_qwen2

from rm.packed.fused_lora import (
    fused_layers,
    rms_norm,
    rms_norm_backward,
    rotary,
    rotary_backward,
    rotate_both,
    silu_product,
    silu_product_backward,
)

SHAPE: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_labels": 1, "pad_token_id": 0}


def adapted(**lora: Any) -> Any:
    """A small model with a LoRA adapter whose second matrices are not zero, in float64."""
    torch.manual_seed(0)
    plain = Qwen2ForSequenceClassification(Qwen2Config(**SHAPE, initializer_range=0.2))
    options = {"r": 3, "lora_alpha": 6, "target_modules": "all-linear", "modules_to_save": ["score"]} | lora
    model = get_peft_model(plain, LoraConfig(task_type="SEQ_CLS", **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.double()


def outputs_and_gradients(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of fixed rows, and the gradients of their sum of cubes."""
    ids = torch.randint(1, 61, (5, 17), generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    logits = model(input_ids=ids).logits
    logits.pow(3).sum().backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Equal up to what norms round to float32 inside, as Transformers' do."""
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).abs().max()) <= 1e-5 * float(gradient.abs().max()) + 1e-12, name


def test_fused_layers_give_pefts_outputs_and_gradients() -> None:
    model = adapted()
    plain, plain_gradients = outputs_and_gradients(model)
    with fused_layers(model) as replaced:
        # Per layer: seven linear layers, the MLP as a whole, two norms; and the last norm.
        assert replaced == 2 * (7 + 1 + 2) + 1
        fused, fused_gradients = outputs_and_gradients(model)
    assert torch.allclose(fused, plain, atol=1e-12)
    assert fused_gradients.keys() == plain_gradients.keys()
    assert_close(fused_gradients, plain_gradients)
    assert not any("forward" in vars(module) for module in model.modules()), "everything is as it was"


def test_fused_layers_pass_gradcheck() -> None:
    model = adapted()
    layer = model.get_base_model().model.layers[0]
    x = torch.randn(4, 32, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(3))
    with fused_layers(model):
        assert torch.autograd.gradcheck(layer.mlp, (x,), eps=1e-6, atol=1e-5)
        assert torch.autograd.gradcheck(layer.self_attn.q_proj, (x,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "lora", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}], ids=["dropout", "dora", "bias"]
)
def test_variants_of_lora_keep_pefts_own_forward(lora: dict[str, Any]) -> None:
    model = adapted(**lora).eval()
    plain, _ = outputs_and_gradients(model)
    with fused_layers(model) as replaced:
        assert replaced == 2 * 2 + 1  # the norms alone
        fused, _ = outputs_and_gradients(model)
    assert torch.allclose(fused, plain, atol=1e-12)


def test_a_block_within_a_block_replaces_nothing_more_and_leaves_the_outer_one_whole() -> None:
    model = adapted()
    with fused_layers(model) as outer:
        with fused_layers(model) as inner:
            assert (outer > 0, inner) == (True, 0)
        assert sum("forward" in vars(module) for module in model.modules()) == outer
        assert modeling_qwen2.apply_rotary_pos_emb is rotate_both
    assert modeling_qwen2.apply_rotary_pos_emb is not rotate_both


def test_checkpointed_layers_give_the_same_gradients() -> None:
    model = adapted()
    _, plain = outputs_and_gradients(model)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model.train()
    with fused_layers(model):
        _, checkpointed = outputs_and_gradients(model)
    assert_close(checkpointed, plain)


def test_the_gradients_of_norm_and_rotary_positions_are_autograds() -> None:
    hidden, weight, towards = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(5))
    hidden = hidden.requires_grad_()
    rms_norm(hidden, weight[0], 1e-6).backward(towards)
    assert torch.allclose(rms_norm_backward(hidden.detach(), weight[0], 1e-6, towards), hidden.grad, atol=1e-6)
    states = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(6)).requires_grad_()
    angles = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(7))
    rotary(states, angles.cos(), angles.sin()).backward(towards.expand(1, 2, 4, 8))
    found = rotary_backward(towards.expand(1, 2, 4, 8), angles.cos(), angles.sin())
    assert torch.allclose(found, states.grad, atol=1e-6)


def test_a_disabled_adapter_is_left_alone() -> None:
    model = adapted()
    with model.disable_adapter(), fused_layers(model) as replaced:
        assert replaced == 2 * 2 + 1


def test_an_error_inside_the_block_leaves_nothing_replaced() -> None:
    model = adapted()
    with pytest.raises(RuntimeError, match="stop"), fused_layers(model):
        raise RuntimeError("stop")
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_pointwise_functions_by_autograd_and_by_hand() -> None:
    gate, up, towards = torch.randn(3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    gate, up = gate.requires_grad_(), up.requires_grad_()
    product = silu_product(gate, up)
    product.backward(towards)
    again, d_gate, d_up = silu_product_backward(gate.detach(), up.detach(), towards)
    assert torch.equal(again, product)
    assert torch.allclose(d_gate, gate.grad) and torch.allclose(d_up, up.grad)
    # silu(1) = 1 / (1 + e^-1) = 0.7310585786; the root mean square of (3, 4) is sqrt(12.5) = 3.5355339
    assert float(silu_product(torch.tensor(1.0), torch.tensor(2.0))) == pytest.approx(1.4621171573)
    normed = rms_norm(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), 0.0)
    assert normed.tolist() == pytest.approx([0.8485281, 2.2627417])
