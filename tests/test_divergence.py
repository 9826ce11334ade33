"""The divergence from the base at every look: zero where nothing moved, exact on a known shift, and no trace left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import policy.stage
import tasks.stage
from configs.keyed import keyed_seed
from configs.loader import Experiment
from policy.audit import read_metrics
from policy.config import PolicyTable
from policy.stage import cell_folder
from policy.updates.divergence import Divergence
from tasks.base_folder import base_path, load_causal_model
from tasks.records import Prompt, read_prompts
from tasks.sampling import Sampled, sample
from tests.conftest import small_experiment

Base = tuple[Any, Any, list[Prompt], list[Sampled]]


@pytest.fixture
def base(small: Experiment) -> Base:
    tasks.stage.run(small)
    folder = tasks.stage.folder_of(small)
    model, tokenizer = load_causal_model(str(base_path(folder)))
    prompts = read_prompts(folder, "dev")[:24]
    chats = [prompt.asked for prompt in prompts]
    seeds = [keyed_seed(0, "test", k) for k in range(len(chats))]
    return model, tokenizer, prompts, sample(model, tokenizer, chats, seeds, 48)


def table(**settings: Any) -> PolicyTable:
    return PolicyTable(reward="gold", **settings)


def with_adapter(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))


def moved(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return model


def by_hand(policy: Any, first: Any, tokenizer: Any, prompt: Prompt, tokens: tuple[int, ...]) -> float:
    """One completion alone, from whole logits."""
    text = tokenizer.apply_chat_template(prompt.asked, tokenize=False, add_generation_prompt=True)
    asked = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*asked, *tokens]])
    with torch.no_grad():
        logs = [model(input_ids=ids).logits[0].double().log_softmax(-1) for model in (policy, first)]
    places = range(len(asked), len(asked) + len(tokens))
    return sum(float(logs[0][p - 1, ids[0, p]] - logs[1][p - 1, ids[0, p]]) for p in places)


def test_an_unmoved_policy_is_not_away_from_its_base(base: Base) -> None:
    model, tokenizer, prompts, sampled = base
    chats = [prompt.asked for prompt in prompts]
    divergence = Divergence(model, table(lora_r=4))
    assert divergence.of_completions(with_adapter(model), tokenizer, chats, sampled) == pytest.approx([0.0] * 24)


def test_each_completion_has_the_sum_of_its_tokens_log_ratios(base: Base, small: Experiment) -> None:
    model, tokenizer, prompts, sampled = base
    first, _ = load_causal_model(str(base_path(tasks.stage.folder_of(small))))
    divergence = Divergence(model, table(lora_r=4))
    policy_now = moved(with_adapter(model))
    found = divergence.of_completions(policy_now, tokenizer, [p.asked for p in prompts], sampled)
    wanted = [
        by_hand(policy_now, first, tokenizer, prompt, one.tokens) for prompt, one in zip(prompts, sampled, strict=True)
    ]
    assert found == pytest.approx(wanted, abs=1e-3)
    assert max(abs(value) for value in found) > 0.01, "the adapter moves the policy"


def test_a_policy_trained_whole_is_compared_with_a_copy(base: Base) -> None:
    model, tokenizer, prompts, sampled = base
    divergence = Divergence(model, table(lora_r=0))
    chats = [prompt.asked for prompt in prompts]
    assert divergence.of_completions(model, tokenizer, chats, sampled) == pytest.approx([0.0] * 24)
    with torch.no_grad():
        model.model.norm.weight.mul_(0.9)
    divergence.hear(chats, sampled)
    found = divergence.figures(model, tokenizer)
    assert found["kl"] != 0.0 and found["kl_se"] > 0


def test_looking_leaves_no_trace(base: Base) -> None:
    model, tokenizer, prompts, sampled = base
    divergence = Divergence(model, table(lora_r=4))
    policy_now = moved(with_adapter(model)).train()
    policy_now.add_adapter("critic", LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    policy_now.set_adapter("default")
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in policy_now.named_parameters()}
    state = torch.get_rng_state()
    divergence.of_completions(policy_now, tokenizer, [p.asked for p in prompts], sampled)
    assert torch.equal(torch.get_rng_state(), state)
    assert policy_now.training and policy_now.active_adapter == "default"
    for name, parameter in policy_now.named_parameters():
        assert parameter.requires_grad == before[name][0] and torch.equal(parameter, before[name][1])


@pytest.mark.parametrize("settings", [{"eval_top_p": 0.7}, {"eval_top_k": 50}, {"eval_temperature": 0.0}])
def test_cut_samples_estimate_nothing_and_say_why(base: Base, settings: dict[str, Any]) -> None:
    model, tokenizer, *_ = base
    found = Divergence(model, table(**settings)).figures(model, tokenizer)
    assert found["kl"] is None and found["kl_se"] is None and "no sample of the policy" in found["kl_missing"]


def test_large_weights_are_not_copied(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    model, *_ = base
    monkeypatch.setattr("policy.updates.divergence.COPY_BYTES", 1000)
    assert "a copy of them would take" in str(Divergence(model, table(lora_r=0)).missing)
    assert Divergence(model, table(lora_r=4)).missing is None


def test_a_cell_moves_away_from_its_base_look_by_look(tmp_path: Path) -> None:
    words = ("name=kl", "policy.reward=gold", "policy.dev_every=2", "policy.max_steps=4", "policy.learning_rate=1e-3")
    cell = small_experiment(tmp_path / "runs", *words)
    policy.stage.run(cell)
    looks = [row for row in read_metrics(cell_folder(cell)) if "dev/kl" in row]
    assert [row["step"] for row in looks] == [0, 2, 4]
    assert looks[0]["dev/kl"] == pytest.approx(0.0, abs=1e-5) and looks[0]["dev/kl_se"] == pytest.approx(0.0, abs=1e-5)
    assert looks[-1]["dev/kl"] > 3 * looks[-1]["dev/kl_se"] > 0 and looks[-1]["dev/gold_se"] > 0
