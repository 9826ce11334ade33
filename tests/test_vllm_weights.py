"""What is sent to the sampler equals the merged policy, and the frozen base never moves."""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.generation.vllm_generation import VLLMGeneration

from configs.errors import UserError
from policy.rollouts.vllm_port import take_own_port
from policy.rollouts.vllm_weights import WALK, sampled_parameters, send_without_merging
from tasks.tiny_base import build_model, build_tokenizer


def policy(dtype: torch.dtype) -> Any:
    model = build_model(build_tokenizer(["a few words to learn"] * 4, 300), layers=2, hidden=32, heads=2, seed=0)
    made = get_peft_model(model.to(dtype), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    made.add_adapter("critic", LoraConfig(r=4, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    made.set_adapter("default")
    return made


def test_what_is_sent_is_the_merged_policy_without_the_critic() -> None:
    model = policy(torch.float32)
    sent = {name: weight.clone() for name, weight in sampled_parameters(model, "default")}
    merged = model.merge_and_unload().state_dict()
    tied = {"lm_head.weight"}
    assert sent.keys() | tied == merged.keys() | tied
    for name, weight in sent.items():
        assert torch.allclose(weight, merged[name], atol=1e-6), name
    assert not any("lora_" in name or "base_layer" in name for name in sent)


def test_the_base_does_not_drift_where_merging_and_unmerging_does() -> None:
    model = policy(torch.bfloat16)
    before = {name: weight.clone() for name, weight in model.named_parameters() if "lora_" not in name}
    for _ in range(20):
        assert sum(1 for _ in sampled_parameters(model, "default"))
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters() if name in before)
    model.merge_adapter()
    model.unmerge_adapter()
    assert any(not torch.equal(weight, before[name]) for name, weight in model.named_parameters() if name in before)


def test_trl_walks_what_it_sends_where_we_replace_it() -> None:
    source = inspect.getsource(VLLMGeneration.sync_weights)
    assert source.count(f"self.{WALK}()") >= 3, "TRL sends its weights another way; read policy/vllm_weights.py"
    model = policy(torch.float32)
    generation: Any = VLLMGeneration.__new__(VLLMGeneration)
    send_without_merging(generation, model, "default")
    assert dict(getattr(generation, WALK)()).keys() == dict(sampled_parameters(model, "default")).keys()
    with pytest.raises(UserError, match="install trl"):
        send_without_merging(object(), model, "default")


def test_a_module_that_is_trained_whole_is_refused() -> None:
    model = build_model(build_tokenizer(["a few words to learn"] * 4, 300), layers=1, hidden=32, heads=2, seed=0)
    made = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    with pytest.raises(UserError, match="cannot be sent to vLLM"):
        list(sampled_parameters(made, "default"))


def test_cells_that_start_together_take_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = set()
    for _ in range(5):
        monkeypatch.delenv("MASTER_PORT", raising=False)
        take_own_port()
        taken.add(os.environ["MASTER_PORT"])
    assert len(taken) > 1 and all(1024 < int(port) < 65536 for port in taken)
    monkeypatch.setenv("MASTER_PORT", "29555")
    take_own_port()
    assert os.environ["MASTER_PORT"] == "29555", "what a launcher has named stays"
