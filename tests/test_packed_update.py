"""Packed updates: TRL's padded figures, losses and gradients, on ragged batches, however lines and chunks are cut."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from configs.errors import UserError
from policy.config import PolicyTable
from policy.updates.critic import Critic
from policy.updates.packed_pass import (
    CompletionRows,
    PackedPass,
    completion_hidden,
    completion_values,
    over_completions,
    token_logps,
)
from policy.updates.packed_update import PackedUpdate, why_model_cannot_pack
from policy.updates.token_head import chunk_statistics, token_statistics
from rm.packed.fused_lora import fused_layers
from tasks.tiny_base import build_tokenizer

SHAPE: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "eos_token_id": 1}
SHAPE |= {"pad_token_id": 0}
LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo")
PROMPTS = ["a b c d e f", "a b c x", "y"]


class PackedTrainer(PackedUpdate, GRPOTrainer):
    """TRL's trainer with packed updates, as the policy's trainers have them."""


class PackedLeaveOneOut(PackedUpdate, RLOOTrainer):
    """The same for RLOO."""


def small_model(seed: int = 0) -> Any:
    """A small policy with weights large enough for attention and temperature to matter."""
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True))


def replay(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Completions of 1 to 9 tokens that depend on the step alone; two of a group are the same, some end with <eos>."""
    draw = torch.Generator().manual_seed(trainer.state.global_step)
    completions: list[list[int]] = []
    end = trainer.processing_class.eos_token_id
    for i in range(len(prompts)):
        length = 1 if i % 4 == 0 else int(torch.randint(2, 10, (), generator=draw))
        ids = torch.randint(3, 300, (length,), generator=draw).tolist()
        completions.append(completions[-1] if i % 4 == 3 else [*ids[:-1], end] if i % 4 == 1 else ids)
    ids = trainer.processing_class(text=prompts)["input_ids"]
    return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}


def rewards(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Something that differs between completions."""
    return [(sum(ids) % 17) / 17 for ids in completion_ids]


def trained(
    folder: Path, kind: type, packed: Callable[[Any], object] | None = None, lora: int = 0, **settings: Any
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], Any]:
    """Logs of each step and the trained weights."""
    options: dict[str, Any] = {"per_device_train_batch_size": 12, "num_generations": 4, "max_steps": 2, "bf16": False}
    options |= {"max_completion_length": 9, "learning_rate": 3e-2, "lr_scheduler_type": "constant", "optim": "sgd"}
    options |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    options |= {"gradient_checkpointing": False, "dataloader_pin_memory": False, "max_grad_norm": 1e9} | settings
    model = small_model()
    if options.get("beta"):
        model.save_pretrained(folder / "start")
        model = Qwen2ForCausalLM.from_pretrained(folder / "start")
    torch.manual_seed(1)
    replayed = issubclass(kind, GRPOTrainer)
    trainer = kind(
        model=model,
        reward_funcs=rewards,
        args=(GRPOConfig if replayed else RLOOConfig)(output_dir=str(folder), **options),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=build_tokenizer(["a b c d e f x y"], 290),
        **({"rollout_func": replay} if replayed else {}),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=lora, target_modules="all-linear") if lora else None,
    )
    if lora:
        torch.manual_seed(2)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
    if packed:
        packed(trainer)
    trainer.train()
    logs = [row for row in trainer.state.log_history if "loss" in row]
    return logs, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}, trainer


def assert_same_training(
    folder: Path,
    batch_tokens: int = 40,
    lora: int = 0,
    kinds: tuple[type, type] = (GRPOTrainer, PackedTrainer),
    **settings: Any,
) -> None:
    """Packed and stock training give the same logs, step by step, and the same weights."""

    def pack(trainer: Any) -> None:
        assert trainer.pack_updates(True, batch_tokens) is None

    logs, weights, _ = trained(folder / "stock", kinds[0], lora=lora, **settings)
    ours, packed_weights, _ = trained(folder / "packed", kinds[1], pack, lora=lora, **settings)
    assert len(ours) == len(logs) == settings.get("max_steps", 2)
    assert {"loss", "grad_norm", "entropy", "clip_ratio/region_mean"} <= set(logs[0])
    for mine, theirs in zip(ours, logs, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"step_time"}:
            assert mine[name] == pytest.approx(theirs[name], abs=1e-5, rel=1e-4, nan_ok=True), name
    assert any(row["grad_norm"] > 1e-3 for row in logs)
    for name, weight in weights.items():
        assert torch.allclose(packed_weights[name], weight, atol=1e-5), name


@pytest.mark.parametrize("loss_type", LOSSES)
def test_each_loss_trains_as_trls(loss_type: str, tmp_path: Path) -> None:
    assert_same_training(tmp_path, loss_type=loss_type, temperature=0.7)


def test_several_updates_a_rollout_with_a_reference_and_high_clipping(tmp_path: Path) -> None:
    assert_same_training(
        tmp_path, num_iterations=2, max_steps=3, beta=0.1, epsilon=0.02, epsilon_high=0.05, learning_rate=0.3
    )


def test_lora_with_its_reference_masked_truncation_and_accumulation(tmp_path: Path) -> None:
    assert_same_training(
        tmp_path,
        lora=3,
        beta=0.1,
        num_iterations=2,
        mask_truncated_completions=True,
        per_device_train_batch_size=6,
        gradient_accumulation_steps=2,
        loss_type="dr_grpo",
    )


@pytest.mark.parametrize("batch_tokens", [30, 10_000])
def test_checkpointed_layers_in_many_lines_or_one(batch_tokens: int, tmp_path: Path) -> None:
    assert_same_training(tmp_path, batch_tokens, lora=3, gradient_checkpointing=True, max_steps=1)


def test_leave_one_out_trains_as_trls(tmp_path: Path) -> None:
    assert_same_training(
        tmp_path, kinds=(RLOOTrainer, PackedLeaveOneOut), beta=0.1, num_iterations=2, max_steps=3, lora=3
    )


@pytest.mark.parametrize("checkpointed", [False, True])
def test_fused_layers_as_on_a_gpu_train_the_adapter_and_leave_the_reference_alone(
    checkpointed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PackedPass._open

    def fused(self: PackedPass) -> Any:
        stack = plain(self)
        assert stack.enter_context(fused_layers(self.trunk)) > 0
        return stack

    monkeypatch.setattr(PackedPass, "_open", fused)
    assert_same_training(tmp_path, 30, lora=3, beta=0.1, num_iterations=2, gradient_checkpointing=checkpointed)


def test_a_bfloat16_body_under_autocast_is_as_near_as_rounding_lets_it() -> None:
    model = small_model().bfloat16()
    rows = CompletionRows.of(*ragged(RAGGED))
    exact, _ = padded_logps(small_model(), ragged(RAGGED))
    around = partial(torch.autocast, "cpu", torch.bfloat16)
    for batch_tokens in (8, 1000):
        logps, entropies = token_logps(
            model.model, model.lm_head, rows, temperature=1.0, batch_tokens=batch_tokens, around=around
        )
        assert logps.dtype == entropies.dtype == torch.float32
        assert float((logps - exact).abs().max()) < 0.2
        (logps.sum() + entropies.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_entropy_terms_that_trl_adds_see_packed_entropies(tmp_path: Path) -> None:
    assert_same_training(tmp_path, top_entropy_quantile=0.5, entropy_coef=0.1)


def test_the_first_update_takes_the_old_policys_pass_and_later_ones_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two updates of two micro-batches a rollout: the first window's forward pass is known, the second's is not."""
    made: list[bool] = []
    plain = PackedPass.outputs
    monkeypatch.setattr(PackedPass, "outputs", lambda self: (made.append(True), plain(self))[1])
    settings = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2, "num_iterations": 2}
    trained(tmp_path, PackedTrainer, lambda t: t.pack_updates(True, 40), **settings)
    assert len(made) == 1 + 2, "one pass for the old policy, none in the first window, one a micro-batch in the second"
    made.clear()
    trained(tmp_path, PackedTrainer, lambda t: t.pack_updates(True, 40), lora=2, beta=0.1, max_steps=1)
    assert len(made) == 1 + 1, "a reference's pass is not taken for the policy's"


def ragged(rows: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, ...]:
    """TRL's four tensors of prompts and completions."""
    widest, longest = max(len(p) for p, _ in rows), max(max(len(c) for _, c in rows), 1)
    tensors = [torch.zeros(len(rows), width, dtype=torch.long) for width in (widest, widest, longest, longest)]
    for i, (prompt, answer) in enumerate(rows):
        for tensor, values in zip(tensors[:2], (prompt, [1] * len(prompt)), strict=True):
            tensor[i, widest - len(prompt) :] = torch.tensor(values)
        for tensor, values in zip(tensors[2:], (answer, [1] * len(answer)), strict=True):
            tensor[i, : len(answer)] = torch.tensor(values, dtype=torch.long)
    return tuple(tensors)


RAGGED = [
    ([5, 6, 7], [8, 9, 10]),
    ([5, 6, 7], [8, 9, 11, 12]),  # shares two completion tokens
    ([4], [3]),
    ([5, 6, 7], []),
    ([5, 6, 7], [9]),
    ([5, 6], [7, 8, 9, 10]),  # a prompt that begins another
    ([4], [3]),
    ([5, 6, 7], [8, 9, 11, 12]),  # the same once more
]


def padded_logps(model: Any, tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies (B, T), written without tricks."""
    ids, mask = torch.cat([tensors[0], tensors[2]], 1), torch.cat([tensors[1], tensors[3]], 1)
    width = tensors[2].shape[1]
    log_p = model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1].log_softmax(-1)
    chosen = log_p.gather(-1, tensors[2][..., None])[..., 0]
    return chosen * tensors[3], -(log_p.exp() * log_p).sum(-1) * tensors[3]


@pytest.mark.parametrize("batch_tokens", [4, 8, 1000])
@pytest.mark.parametrize("family", [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM)])
def test_figures_and_gradients_are_the_padded_ones(batch_tokens: int, family: tuple[Any, Any]) -> None:
    torch.manual_seed(0)
    model = family[1](family[0](**SHAPE))
    tensors = ragged(RAGGED)
    towards = torch.randn(2, *tensors[2].shape, generator=torch.Generator().manual_seed(3))
    found = []
    for packed in (False, True):
        model.zero_grad()
        figures = (
            token_logps(
                model.model,
                model.lm_head,
                CompletionRows.of(*tensors),
                temperature=1.0,
                batch_tokens=batch_tokens,
                chunk_tokens=3,
            )
            if packed
            else padded_logps(model, tensors)
        )
        sum((figure * direction).sum() for figure, direction in zip(figures, towards, strict=True)).backward()
        found.append((figures, {name: p.grad.clone() for name, p in model.named_parameters()}))
    for mine, theirs in zip(found[1][0], found[0][0], strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    for name, gradient in found[0][1].items():
        assert torch.allclose(found[1][1][name], gradient, atol=1e-5, rtol=1e-4), name


def test_a_critics_values_and_their_gradients_are_the_padded_ones() -> None:
    model, head = small_model(), nn.Linear(32, 1)
    tensors = ragged(RAGGED)
    rows = CompletionRows.of(*tensors)
    ids, mask = torch.cat([tensors[0], tensors[2]], 1), torch.cat([tensors[1], tensors[3]], 1)
    states = model.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, -tensors[2].shape[1] - 1 : -1]
    expected = head(states).squeeze(-1) * tensors[3]
    expected.pow(2).sum().backward()
    wanted = {name: p.grad.clone() for part in (model.model, head) for name, p in part.named_parameters()}
    known = None
    for _ in range(2):
        model.zero_grad()
        head.zero_grad()
        values = completion_values(model.model, lambda h: head(h).squeeze(-1), rows, batch_tokens=8, known=known)
        assert torch.allclose(values, expected, atol=1e-5)
        values.pow(2).sum().backward()
        for part in (model.model, head):
            for name, parameter in part.named_parameters():
                assert torch.allclose(parameter.grad, wanted[name], atol=1e-5), name
        known = values.detach()
    hidden = rows.padded(completion_hidden(model.model, rows, batch_tokens=8))
    assert hidden.shape == (8, 4, 32)
    assert torch.allclose(hidden, states * tensors[3][..., None], atol=1e-5)


def test_a_lora_critic_on_the_policys_base_has_its_own_values_and_gradients(tmp_path: Path) -> None:
    _, _, trainer = trained(tmp_path, PackedTrainer, lambda t: t.pack_updates(True, 8), lora=2, max_steps=1)
    critic = Critic(trainer.model, PolicyTable(reward="length", algorithm="ppo", lora_r=2), 0)
    torch.manual_seed(5)
    for name, parameter in critic.named_parameters():
        if "lora_A" not in name:
            nn.init.normal_(parameter, std=0.2)
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    inputs = dict(zip(names, ragged(RAGGED), strict=True))
    mask = inputs["completion_mask"]
    with critic.active():
        expected = critic.values(*inputs.values()) * mask
        expected.pow(2).sum().backward()
        wanted = {name: p.grad.clone() for name, p in critic.named_parameters()}
        critic.optimizer.zero_grad()
        trainer.model.zero_grad()
        with torch.no_grad():
            inputs["values"] = trainer.packed_values(critic, inputs)
        values = trainer.packed_values(critic, inputs)
        assert torch.allclose(values, expected, atol=1e-5)
        values.pow(2).sum().backward()
    for name, parameter in critic.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name], atol=1e-5), name
    assert all(p.grad is None for name, p in trainer.model.named_parameters() if ".default." in name)


def test_a_prompt_is_computed_once_and_the_last_token_never() -> None:
    rows = CompletionRows.of(*ragged([([5, 6, 7, 8], [9, 3, 2]), ([4, 4], [1]), ([5, 6, 7, 8], [7, 7])]))
    (line,) = rows.lines(1000)
    assert sorted(line.packed.input_ids.tolist()) == [3, 4, 4, 5, 6, 7, 7, 8, 9]
    assert rows.targets_N.tolist() == [9, 3, 2, 1, 7, 7]
    assert rows.padded(torch.ones(6)).tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert all(len(line.packed.input_ids) <= 6 for line in rows.lines(6)), "a group is cut where it is over the budget"
    assert sorted(torch.cat([line.members_n for line in rows.lines(6)]).tolist()) == list(range(6))


def test_a_batch_without_any_completion_token_has_zeros_and_a_gradient_of_zero() -> None:
    model, head = small_model(), nn.Linear(32, 1)
    rows = CompletionRows.of(*ragged([([5, 6], []), ([7], [])]))
    values = completion_values(model.model, lambda h: head(h).squeeze(-1), rows, batch_tokens=8)
    assert values.tolist() == [[0.0], [0.0]]
    values.sum().backward()
    with torch.no_grad():
        assert not completion_values(model.model, lambda h: head(h)[:, 0], rows, batch_tokens=8).requires_grad


def test_padding_on_the_wrong_side_is_refused() -> None:
    ids, ones = torch.tensor([[3, 4, 5]]), torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="prompts must be padded on the left"):
        CompletionRows.of(ids, torch.tensor([[1, 1, 0]]), ids, ones)
    with pytest.raises(ValueError, match="completions must be padded on the right"):
        CompletionRows.of(ids, ones, ids, torch.tensor([[0, 1, 1]]))


def test_a_backward_pass_under_another_adapter_is_refused(tmp_path: Path) -> None:
    _, _, trainer = trained(tmp_path, PackedTrainer, lora=2, max_steps=1)
    model = trainer.model
    model.add_adapter("critic", LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    rows = CompletionRows.of(*ragged(RAGGED))
    (hidden,) = over_completions(model.get_base_model().model, rows, lambda h, _: (h,), batch_tokens=8)
    model.set_adapter("critic")
    with pytest.raises(RuntimeError, match="made the forward pass"):
        hidden.sum().backward()


def test_the_chunked_head_passes_gradcheck_whatever_the_chunk() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, dtype=torch.float64, generator=draw, requires_grad=True)
    weight, bias = (torch.randn(*s, dtype=torch.float64, generator=draw, requires_grad=True) for s in ((11, 5), (11,)))
    targets = torch.randint(0, 11, (7,), generator=draw)
    results = []
    for chunk in (1, 3, 7, 100):
        head: Any = nn.Linear(5, 11, dtype=torch.float64)

        def statistics(
            h: torch.Tensor, w: torch.Tensor, b: torch.Tensor, head: Any = head, chunk: int = chunk
        ) -> tuple[torch.Tensor, torch.Tensor]:
            holder: Any = type("Head", (), {"weight": w, "bias": b})
            return token_statistics(h, holder, targets, 0.7, chunk)

        assert torch.autograd.gradcheck(statistics, (hidden, weight, bias))
        results.append(torch.stack(statistics(hidden, weight, bias)))
    assert all(torch.allclose(result, results[0], atol=1e-12) for result in results)


def test_log_probabilities_and_entropies_by_hand() -> None:
    """Logits (0, ln 3) at temperature 1: p = (1/4, 3/4); entropy = ln 4 - 0.75 ln 3 = 0.5623351."""
    logits = torch.tensor([[0.0, 1.0986122887]], dtype=torch.float64)
    logp, entropy, log_sum = chunk_statistics(logits, torch.tensor([1]), 1.0)
    assert (float(logp), float(entropy), float(log_sum)) == pytest.approx((-0.2876821, 0.5623351, 1.3862944))
    # At temperature 1/2 the odds are 9 to 1.
    assert float(chunk_statistics(logits, torch.tensor([1]), 0.5)[0].exp()) == pytest.approx(0.9)


def test_policies_that_would_compute_something_else_are_left_to_trl(tmp_path: Path) -> None:
    assert why_model_cannot_pack(small_model()) is None
    sliding = Qwen2ForCausalLM(Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=0))
    assert "sliding window" in str(why_model_cannot_pack(sliding))
    scaled = small_model()
    scaled.config.logit_scale = 0.5
    assert "logit_scale" in str(why_model_cannot_pack(scaled))
    _, _, trainer = trained(tmp_path, PackedTrainer, max_steps=1)
    assert trainer.pack_updates(False, 8) == "policy.packed is false" and not trainer.packed
    trainer.model.config.logit_scale = 0.5
    assert trainer.pack_updates("auto", 8) is not None and not trainer.packed
    with pytest.raises(UserError, match="changes its logits"):
        trainer.pack_updates(True, 8)


def test_trl_still_reads_its_figures_from_the_method_that_is_overridden() -> None:
    """Where this fails, look at what `packed_update` passes on and returns before changing the lists here."""
    method = GRPOTrainer._get_per_token_logps_and_entropies
    names = list(inspect.signature(method).parameters)
    assert names[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]
    assert names[5:8] == ["batch_size", "compute_entropy", "compute_aux_loss"]
    assert names[8:] == [
        "pixel_values",
        "image_grid_thw",
        "num_images",
        "pixel_attention_mask",
        "spatial_shapes",
        "num_tiles",
        "image_sizes",
        "token_type_ids",
        "mm_token_type_ids",
        "image_position_ids",
    ]
    assert "return logps, entropies, aux_loss" in inspect.getsource(method)
    leave_one_out = inspect.signature(RLOOTrainer._get_per_token_logps_and_entropies)
    assert list(leave_one_out.parameters) == names
    assert list(inspect.signature(GRPOTrainer._compute_loss).parameters) == ["self", "model", "inputs"]
    loss = inspect.getsource(GRPOTrainer._compute_loss)
    assert "per_token_logps, entropies, aux_loss = self._get_per_token_logps_and_entropies(" in loss
    generate = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert (
        "old_per_token_logps, _, _ = self._get_per_token_logps_and_entropies(\n                    self.model,"
        in generate
    )
