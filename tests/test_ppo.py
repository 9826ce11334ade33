"""PPO: equal to a second implementation, whole or in pieces; what TRL must keep; a critic that nobody else meets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOTrainer

from configs.errors import UserError
from policy.config import PolicyTable
from policy.ppo import CriticCheckpoint, LadderPPOTrainer
from policy.rewards.table import RewardSettings
from policy.training import trainer_config
from policy.updates.advantages import generalized_advantages, moments, token_rewards, value_loss, whitened
from policy.updates.critic import Critic
from tests import ppo_oracle
from tests.tiny_rungs import make_base, sentence

LIMIT = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("ppo"))


def letters(completions: list[Any], **_: Any) -> list[float | None]:
    return [None if "q" in c[0]["content"] else len(c[0]["content"]) / 50 for c in completions]


def trainer_of(
    base: Path, tmp_path: Path, reward: Callable[..., list[float | None]] = letters, **settings: Any
) -> LadderPPOTrainer:
    chosen: dict[str, Any] = {"prompts_per_step": 4, "num_generations": 2, "max_steps": 2, "lora_r": 0}
    chosen |= {"learning_rate": 1e-3, **settings}
    table = PolicyTable(reward="length", algorithm="ppo", **chosen)
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [{"prompt": [{"role": "user", "content": sentence(i, 6)}], "prompt_id": str(i)} for i in range(16)]
    lora = LoraConfig(task_type="CAUSAL_LM", r=table.lora_r, lora_alpha=8, target_modules="all-linear")
    torch.manual_seed(0)
    trainer = LadderPPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype="float32"),
        reward_funcs=reward,
        args=trainer_config(table, RewardSettings(table, 0, LIMIT, None), tmp_path / "scratch"),  # type: ignore[arg-type]
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora if table.lora_r else None,
    )
    seen: list[list[float]] = []
    trainer.audit, trainer.rollout_seed = SimpleNamespace(write=seen.append, seen=seen), 0  # type: ignore[assignment]
    trainer.add_critic(table, 0)
    return trainer


def batch_of(trainer: LadderPPOTrainer, seed: int) -> tuple[dict[str, Any], list[ppo_oracle.Completion]]:
    """A rollout of random tokens as TRL hands it over, ragged, with a cut, an empty, a masked and an unscored one."""
    rng = np.random.default_rng(seed)
    end, pad = trainer.eos_token_ids[0], trainer._tokenizer.pad_token_id
    lengths = [1, 7, 3, 7, 0, 5, 2, 6]
    prompts = [rng.integers(10, 200, rng.integers(2, 6)).tolist() for _ in lengths]
    tokens = [rng.integers(10, 200, n).tolist() for n in lengths]
    for i, row in enumerate(tokens):
        if row and i != 3:
            row[-1] = end
    width, left = max(lengths), max(map(len, prompts))
    rewards = [None if i == 5 else float(value) for i, value in enumerate(rng.normal(size=8))]
    draws = [torch.tensor(rng.normal(-3, 0.5, n), dtype=torch.float32) for n in lengths]
    kls = [torch.tensor(rng.normal(0, 0.5, n), dtype=torch.float32) for n in lengths]

    def padded(rows: list[Any], filler: float, n: int, at_left: bool = False) -> Tensor:
        out = [[filler] * (n - len(r)) * at_left + list(r) + [filler] * (n - len(r)) * (not at_left) for r in rows]
        return torch.tensor(out)

    mask = padded([[1] * n for n in lengths], 0, width)
    old = padded(draws, 0.0, width)
    output = {
        "prompt_ids": padded(prompts, pad, left, at_left=True),
        "prompt_mask": padded([[1] * len(p) for p in prompts], 0, left, at_left=True),
        "completion_ids": padded(tokens, pad, width),
        "completion_mask": mask,
        "advantages": torch.zeros(8),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": old,
        "ref_per_token_logps": old - padded(kls, 0.0, width),
    }
    trainer._rewards = torch.tensor([float("nan") if r is None else r for r in rewards])
    trainer.current_gradient_accumulation_steps = 1
    completions = [
        ppo_oracle.Completion(prompts[i], tokens[i], rewards[i], draws[i], torch.zeros(lengths[i]), kls[i], i == 3)
        for i in range(8)
    ]
    return output, completions


def alone(body: Any, one: ppo_oracle.Completion) -> Tensor:
    """Hidden states before each token of a completion, computed without company."""
    hidden = body(input_ids=torch.tensor([one.prompt + one.tokens])).last_hidden_state[0]
    return hidden[len(one.prompt) - 1 : len(one.prompt) + len(one.tokens) - 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gamma": 0.9, "lam": 0.8, "whiten_advantages": False, "cliprange_value": None},
        {"kl_coef": 0.3, "missing_eos_penalty": 0.7, "lam": 0.95, "epsilon": 0.1, "cliprange_value": 0.05},
    ],
)
def test_every_figure_is_the_oracles(base: Path, tmp_path: Path, settings: dict[str, Any], seed: int) -> None:
    trainer = trainer_of(base, tmp_path, **settings)
    table, critic = trainer.table, trainer.critic
    output, completions = batch_of(trainer, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        critic.head.weight.copy_(0.1 * torch.randn(critic.head.weight.shape, generator=generator))
        for one in completions:
            one.old_values = (alone(critic.body, one) @ critic.head.weight[0] + critic.head.bias).detach()
    trainer._finish_rollout(output)
    batch = ppo_oracle.prepare(
        completions, table.gamma, table.lam, table.whiten_advantages, table.kl_coef, table.missing_eos_penalty
    )
    for i, one in enumerate(completions):
        n = len(one.tokens)
        for name, found in (("advantages", batch.advantages[i]), ("returns", batch.returns[i])):
            wanted = torch.zeros(n, dtype=torch.float64) if found is None else found
            assert torch.allclose(output[name][i, :n].double(), wanted, atol=1e-6), (name, i)
            assert (output[name][i, n:] == 0).all()
    loss = trainer._compute_loss(trainer.model, output).detach()
    with torch.no_grad():
        logits = [alone(trainer.model.base_model, one) @ trainer.model.lm_head.weight.T for one in completions]
        logps = [
            rows.log_softmax(-1)[range(len(one.tokens)), one.tokens]
            for rows, one in zip(logits, completions, strict=True)
        ]
    high = table.epsilon if table.epsilon_high is None else table.epsilon_high
    assert float(loss) == pytest.approx(
        float(ppo_oracle.policy_loss(completions, batch, logps, table.epsilon, high)), abs=1e-6
    )
    with torch.no_grad():
        critic.head.weight.add_(0.03 * torch.randn(critic.head.weight.shape, generator=generator))
        values = [alone(critic.body, one) @ critic.head.weight[0] + critic.head.bias for one in completions]
        found, _ = value_loss(
            trainer._values(output), output["values"], output["returns"], output["value_mask"],
            output["num_value_items"], table.cliprange_value,
        )  # fmt: skip
    wanted = ppo_oracle.value_loss(completions, batch, values, table.cliprange_value)
    assert float(found) == pytest.approx(float(wanted), abs=1e-6)


def test_advantages_by_hand() -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    rewards = token_rewards(torch.tensor([1.0, 2.0, 9.0]), mask)
    assert rewards.tolist() == [[0, 0, 1], [2, 0, 0], [0, 0, 0]]
    values = torch.tensor([[0.5, 0.25, 0.75], [1.0, 8.0, 8.0], [8.0, 8.0, 8.0]])
    advantages, returns = generalized_advantages(rewards, values, mask, 1.0, 1.0)
    assert advantages.tolist() == [[0.5, 0.75, 0.25], [1.0, 0, 0], [0, 0, 0]]
    assert returns.tolist() == [[1, 1, 1], [2, 0, 0], [0, 0, 0]]  # with gamma = lam = 1 the return is the reward
    advantages, _ = generalized_advantages(rewards, values, mask, 0.5, 0.0)
    assert advantages[0].tolist() == [0.5 * 0.25 - 0.5, 0.5 * 0.75 - 0.25, 0.25]
    even = whitened(torch.full((1, 3), 4.0), mask[:1], moments(torch.full((1, 3), 4.0), mask[:1]))
    assert even.tolist() == [[0, 0, 0]]


def test_the_value_is_clipped_where_that_is_worse() -> None:
    ones = torch.ones(1, 2)
    loss, clipped = value_loss(
        torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]), ones, ones.sum(), 0.2
    )
    assert float(loss) == pytest.approx(0.5 * (0.8**2 + 2.8**2) / 2)
    assert int(clipped) == 2


class Gradients(TrainerCallback):
    """Keeps the gradients of policy and critic as they are before the update."""

    def __init__(self, trainer: LadderPPOTrainer) -> None:
        self.policy: list[Tensor] = []
        self.critic: list[Tensor] = []
        step = trainer.critic.step

        def kept(rate_factor: float = 1.0) -> float:
            self.critic += [p.grad.clone() for _, p in trainer.critic.named_parameters() if p.grad is not None]
            return step(rate_factor)

        trainer.critic.step = kept  # type: ignore[method-assign]
        trainer._clip_grad_norm = lambda model: self.policy.extend(  # type: ignore[method-assign]
            p.grad.clone() for p in model.parameters() if p.grad is not None
        )


@pytest.mark.parametrize("lora_r", [0, 4])
def test_a_step_in_eight_pieces_and_checkpointed_is_the_step_in_one(base: Path, tmp_path: Path, lora_r: int) -> None:
    kept = []
    for pieces, checkpointing in ((1, False), (8, False), (2, True)):
        settings = {"gradient_accumulation_steps": pieces, "gradient_checkpointing": checkpointing}
        trainer = trainer_of(base, tmp_path, lora_r=lora_r, max_steps=1, **settings)
        with torch.no_grad():
            trainer.critic.head.weight.normal_(generator=torch.Generator().manual_seed(1))
        kept.append(Gradients(trainer))
        trainer.train()
    whole, eighths, checkpointed = kept
    for one, other in (
        (whole.policy, eighths.policy),
        (whole.critic, eighths.critic),
        (whole.policy, checkpointed.policy),
        (whole.critic, checkpointed.critic),
    ):
        assert len(one) == len(other) > 3
        assert max(float(a.abs().max()) for a in one) > 1e-3
        for a, b in zip(one, other, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_trl_still_has_what_ppo_stands_on() -> None:
    signatures = {
        "_generate_and_score_completions": ["self", "inputs"],
        "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
        "_prepare_inputs": ["self", "generation_batch"],
        "training_step": ["self", "model", "inputs", "num_items_in_batch"],
        "_compute_loss": ["self", "model", "inputs"],
    }
    for name, parameters in signatures.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == parameters, name
    rollout = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "num_items_in_batch"):
        assert f'"{key}": {key}' in rollout, f"the output key {key} has changed"
    assert 'output["old_per_token_logps"]' in rollout and 'output["ref_per_token_logps"]' in rollout
    assert "advantages.dim() == 1" in inspect.getsource(GRPOTrainer._compute_loss), "advantages (B, T) are no more read"
    step = inspect.getsource(GRPOTrainer.training_step)
    assert "self._step += 1" in step and "num_items_in_batch" in step
    logps = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies)
    assert list(logps.parameters)[:6] == [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
    ]
    assert "self.eos_token_ids = " in inspect.getsource(GRPOTrainer.__init__)


def test_the_base_stays_and_nobody_meets_the_critic(base: Path, tmp_path: Path) -> None:
    trainer = trainer_of(base, tmp_path, lora_r=4, max_steps=3, kl_coef=0.1, num_iterations=2, max_grad_norm=1e-6)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora_" not in n}
    learned = {n: p.detach().clone() for n, p in trainer.critic.named_parameters()}
    trainer.train()
    after = {n: p for n, p in trainer.model.named_parameters() if "lora_" not in n}
    plain = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    sent = {n.removeprefix("base_model.model.").replace(".base_layer", "") for n in after}
    assert sent == {n for n, _ in plain.named_parameters()}, "vLLM's synchronisation would meet a stranger"
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert trainer.model.active_adapter == "default"
    assert trainer.critic.updates == 3
    assert all(not torch.equal(learned[n], p) for n, p in trainer.critic.named_parameters() if "lora_A" not in n)
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for _, p in trainer.critic.named_parameters()}
    trainer.critic.remove()
    trainer.model.save_pretrained(tmp_path / "policy")
    assert not [path for path in (tmp_path / "policy").rglob("*") if "critic" in path.name]


def test_the_critic_of_a_whole_policy_is_a_copy(base: Path, tmp_path: Path) -> None:
    trainer = trainer_of(base, tmp_path)
    own = {id(p) for p in trainer.model.parameters()}
    assert not own & {id(p) for _, p in trainer.critic.named_parameters()}
    assert {n for n, _ in trainer.model.named_parameters()} == {
        n for n, _ in AutoModelForCausalLM.from_pretrained(base).named_parameters()
    }


class Weights(TrainerCallback):
    """The sum of the policy's weights after every step."""

    def __init__(self) -> None:
        self.sums: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sums.append(float(sum(p.detach().double().abs().sum() for p in kwargs["model"].parameters())))


def test_the_policy_rests_while_the_critic_warms_up(base: Path, tmp_path: Path) -> None:
    trainer = trainer_of(base, tmp_path, max_steps=4, critic_warmup_steps=2)
    start = float(sum(p.detach().double().abs().sum() for p in trainer.model.parameters()))
    seen = Weights()
    trainer.add_callback(seen)
    trainer.train()
    assert seen.sums[0] == seen.sums[1] == start
    assert seen.sums[2] != start and seen.sums[3] != seen.sums[2]
    assert trainer.critic.updates == 4


def test_one_completion_a_prompt_is_enough(base: Path, tmp_path: Path) -> None:
    trainer = trainer_of(base, tmp_path, prompts_per_step=5, num_generations=1, num_mini_batches=5, max_steps=5)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "critic/loss" in row]
    assert len(rows) == 5 and len(trainer.audit.seen) == 1 and len(trainer.audit.seen[0]) == 5  # type: ignore[attr-defined]
    assert "frac_reward_zero_std" not in rows[0] and rows[-1]["critic/loss"] < 1


def test_completions_that_are_cut_or_unscored_teach_nothing(base: Path, tmp_path: Path) -> None:
    def nothing(completions: list[Any], **_: Any) -> list[float | None]:
        return [None] * len(completions)

    for reward, settings in ((letters, {"mask_truncated_completions": True}), (nothing, {})):
        trainer = trainer_of(base, tmp_path, reward, max_steps=1, **settings)
        trainer.eos_token_ids = []  # no completion ends
        trainer._tokenizer.pad_token_id = 0
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.train()
        assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
        assert trainer.audit.seen == [[0.0] * 8]  # type: ignore[attr-defined]


def test_the_critic_goes_on_where_it_was(base: Path, tmp_path: Path) -> None:
    trainer = trainer_of(base, tmp_path, lora_r=4, max_steps=3)
    trainer.add_callback(CriticCheckpoint(trainer.critic))
    trainer.train()
    again = Critic(trainer.model, trainer.table, 5) if trainer.critic.remove() is None else None
    assert again is not None
    again.load(tmp_path / "scratch" / "checkpoint-3")
    assert again.updates == 3
    states = zip(again.optimizer.state.values(), trainer.critic.optimizer.state.values(), strict=True)
    assert all(torch.equal(a[kind], b[kind]) for a, b in states for kind in ("exp_avg", "exp_avg_sq", "step"))
    assert torch.equal(again.head.weight, trainer.critic.head.weight)
    with pytest.raises(UserError, match="holds no critic"):
        again.load(tmp_path)
    again.head = torch.nn.Linear(7, 1)
    with pytest.raises(UserError, match="critic of another policy"):
        again.load(tmp_path / "scratch" / "checkpoint-3")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"algorithm": "grpo", "lam": 0.9}, "lam is not read by grpo: only ppo has a critic; remove lam"),
        ({"algorithm": "ppo", "scale_rewards": "none"}, "scale_rewards is not read by ppo"),
        ({"algorithm": "dr_grpo", "loss_type": "dapo"}, "loss_type is not read by dr_grpo"),
        ({"algorithm": "grpo", "num_generations": 1}, "grpo compares the completions of a prompt"),
        ({"algorithm": "ppo", "num_generations": 1, "prompts_per_step": 1}, "is a single completion"),
        ({"algorithm": "ppo", "kl_coef": 0.1, "beta": 0.1}, "set one of them to 0"),
        ({"algorithm": "ppo", "critic_warmup_steps": 60, "reward": "gold"}, "leaves the policy no step"),
        ({"algorithm": "ppo", "num_mini_batches": 3}, "multiple of gradient_accumulation_steps"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PolicyTable(**settings)
