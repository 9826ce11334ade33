"""Clipping in real updates: fractions, probabilities and counts by hand, no clipping at all, and the study's recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer, RLOOTrainer

import policy.stage
from configs.errors import UserError
from configs.loader import Experiment, load_experiment, read_words
from configs.records import read_jsonl
from curve.sweep.cells import expand
from policy.audit import METRICS_FILE
from policy.config import PolicyTable
from policy.rewards.table import RewardSettings
from policy.stage import cell_folder
from policy.training import UNREACHED_RATIO, trainer_config
from policy.updates.figures import UpdateFigures, completions_after, probability_sums
from policy.updates.packed_update import PackedUpdate
from tests.conftest import ROOT
from tests.test_packed_update import small_model, trained

LOW, HIGH = 0.1, 0.3
FRACTIONS = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")


class Watched:
    """Keeps what each update's figures should be, from a copy of the policy that sampled, by plain passes."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        me: Any = self
        me.sampler = plain_copy(me.model)
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        me: Any = self
        span = (1 - me.epsilon_low, 1 + me.epsilon_high)
        expected = by_hand(me.sampler, plain_copy(model), inputs, me.temperature, span)
        loss = super()._compute_loss(model, inputs)  # type: ignore[misc]
        me.expected = [*getattr(me, "expected", []), expected | {"found": float(loss.detach())}]
        return loss


class WatchedGRPO(Watched, UpdateFigures, PackedUpdate, GRPOTrainer):
    """GRPO as policies are trained with it."""


class WatchedRLOO(Watched, UpdateFigures, PackedUpdate, RLOOTrainer):
    """RLOO likewise."""


def plain_copy(model: Any) -> Any:
    """The same weights in a model that TRL has not patched."""
    copied = small_model()
    copied.load_state_dict(model.state_dict())
    return copied.eval()


@torch.no_grad()
def by_hand(sampler: Any, model: Any, inputs: dict[str, Any], heat: float, span: tuple[float, float]) -> dict[str, Any]:
    """Fractions and probabilities token by token, row by row, without padding."""
    low = high = n = sampled = surrogate = 0.0
    for row in range(len(inputs["completion_ids"])):
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()]
        completion = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()]
        ids = torch.cat([prompt, completion])[None]
        before, now = (
            (one(ids).logits[0, len(prompt) - 1 : -1].double() / heat).softmax(-1)[range(len(completion)), completion]
            for one in (sampler, model)
        )
        advantage = float(inputs["advantages"][row])
        for ratio, chance in zip((now / before).tolist(), before.tolist(), strict=True):
            low += ratio < span[0] and advantage < 0
            high += ratio > span[1] and advantage > 0
            sampled, n, surrogate = sampled + chance, n + 1, surrogate - ratio * advantage
    shares = dict(zip(FRACTIONS, (low / n, high / n, (low + high) / n), strict=True))
    return {**shares, "sampled": sampled, "n": n, "unclipped": surrogate / n}


def rollout_probability(updates: list[dict[str, Any]]) -> float:
    """Over all tokens of a rollout of two pieces."""
    return float((updates[0]["sampled"] + updates[1]["sampled"]) / (updates[0]["n"] + updates[1]["n"]))


SEVERAL: dict[str, Any] = {
    "max_steps": 4,
    "per_device_train_batch_size": 6,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "learning_rate": 0.3,
    "temperature": 0.8,
}
"""Four updates of one rollout of 12 completions: two pieces, each used twice."""


@pytest.mark.parametrize("packed", [True, False])
def test_fractions_and_probabilities_of_every_update_are_those_counted_by_hand(packed: bool, tmp_path: Path) -> None:
    logs, _, trainer = trained(
        tmp_path,
        WatchedGRPO,
        lambda one: one.pack_updates(packed, 40),
        epsilon=LOW,
        epsilon_high=HIGH,
        **SEVERAL,
    )
    assert trainer.packed is packed
    for row, expected in zip(logs, trainer.expected, strict=True):
        for name in FRACTIONS:
            assert row[name] == pytest.approx(expected[name], abs=1e-5), name
        assert row["token_probability"] == pytest.approx(rollout_probability(trainer.expected), abs=1e-5)
    assert [row[FRACTIONS[2]] > 0 for row in logs] == [False, True, True, True]  # at first every ratio is 1
    assert all(any(row[name] > 0 for row in logs) for name in FRACTIONS)
    assert [(row["n_updates"], row["n_completions"]) for row in logs] == [(1, 12), (2, 12), (3, 12), (4, 12)]


@pytest.mark.parametrize("packed", [True, False])
def test_epsilon_null_is_the_objective_without_its_clip(packed: bool, tmp_path: Path) -> None:
    logs, _, trainer = trained(
        tmp_path,
        WatchedGRPO,
        lambda one: one.pack_updates(packed, 40),
        epsilon=1.0,
        epsilon_high=UNREACHED_RATIO,
        loss_type="bnpo",  # a mean over the piece's tokens
        **SEVERAL,
    )
    assert all(row[name] == 0 for row in logs for name in FRACTIONS)
    for expected in trainer.expected:
        assert expected["found"] == pytest.approx(expected["unclipped"], abs=1e-5, rel=1e-5)
    assert abs(trainer.expected[3]["unclipped"]) > 0.01


def test_rloo_has_the_same_figures(tmp_path: Path) -> None:
    settings = SEVERAL | {"max_completion_length": 6, "beta": 0.0}
    logs, _, trainer = trained(tmp_path, WatchedRLOO, lambda one: one.pack_updates(True, 40), **settings)
    for row in logs:
        assert row["token_probability"] == pytest.approx(rollout_probability(trainer.expected), abs=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_one_update_a_rollout_has_the_probabilities_of_its_own_tokens(beta: float, tmp_path: Path) -> None:
    logs, _, trainer = trained(tmp_path, WatchedGRPO, lambda one: one.pack_updates(True, 40), beta=beta, max_steps=3)
    for row, expected in zip(logs, trainer.expected, strict=True):
        assert row["token_probability"] == pytest.approx(expected["sampled"] / expected["n"], abs=1e-5)


def test_epsilon_null_reaches_trl_and_has_no_upper_end(small: Experiment, tmp_path: Path) -> None:
    def config(*words: str) -> Any:
        table = read_words(["reward=random", *words], PolicyTable, "policy")[1]
        return trainer_config(table, RewardSettings(table, {}, None, 0, 8), tmp_path)  # type: ignore[arg-type]

    free = config("epsilon=null")
    assert (free.epsilon, free.epsilon_high) == (1.0, UNREACHED_RATIO)
    assert torch.tensor(UNREACHED_RATIO).isfinite()
    assert (config().epsilon, config().epsilon_high) == (0.2, None)
    assert (config("epsilon=0.1", "epsilon_high=0.3").epsilon_high) == 0.3
    with pytest.raises(UserError, match="epsilon null clips nothing, and epsilon_high would"):
        config("epsilon=null", "epsilon_high=0.3")


def test_counts_and_probabilities_by_hand() -> None:
    assert [completions_after(step, 4, 256) for step in (1, 4, 5, 8, 9)] == [256, 256, 512, 512, 768]
    logps = torch.tensor([[0.5, 0.25], [0.125, 1.0]]).log()
    assert probability_sums(logps, torch.tensor([[1, 1], [1, 0]])).tolist() == pytest.approx([0.875, 3.0])
    assert probability_sums(torch.full((1, 2), float("nan")), torch.zeros(1, 2)).tolist() == [0.0, 0.0]


def made(small: Experiment, **settings: Any) -> list[dict[str, Any]]:
    cell = small.with_overrides({f"policy.{key}": value for key, value in {"dev_every": 0, **settings}.items()})
    policy.stage.run(cell)
    return list(read_jsonl(cell_folder(cell) / METRICS_FILE))


def test_a_cell_says_how_many_updates_and_completions_it_has_seen(small: Experiment) -> None:
    rows = made(small, reward="random", seed=41, num_mini_batches=2, num_iterations=2)
    assert [row["n_updates"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["n_completions"] for row in rows] == [16, 16, 16, 16, 32, 32]
    assert all(0 < row["token_probability"] < 1 and row["entropy"] > 0 for row in rows)
    critic_first = made(small, reward="random", seed=42, algorithm="ppo", critic_warmup_steps=2)
    assert [row["n_updates"] for row in critic_first] == [0, 0, 1, 2, 3, 4]
    assert ["token_probability" in row for row in critic_first] == [False] * 2 + [True] * 4


def test_a_study_whose_clip_never_acts_ends(small: Experiment) -> None:
    idle = {"no_clipping": {"action": "stop", "window": 3}}
    with pytest.raises(UserError, match=r"clipping held back 0 of the tokens over 3 steps.*num_mini_batches"):
        made(small, reward="random", seed=43, num_mini_batches=2, learning_rate=1e-9, alarms=idle)
    acting = {"no_clipping": {"action": "stop", "window": 5}}
    rows = made(small, reward="random", seed=44, num_mini_batches=4, learning_rate=1e-2, alarms=acting)
    assert max(row["clip_ratio/region_mean"] for row in rows) > 0


def test_the_arms_of_the_recipe_differ_in_what_they_are_about() -> None:
    experiment = load_experiment(ROOT / "configs" / "clipping.yaml")
    cells = [cell for cell in expand(experiment) if cell.table.reward != "untrained"]
    arms = {str(cell.table.arm): cell.table for cell in cells if cell.seed == 0}
    assert list(arms) == ["clip_on", "clip_off", "clip_large_batch", "clip_small_rollout"]
    assert {cell.seed for cell in cells} == {0, 1, 2} and len(cells) == 12
    assert [table.can_clip for table in arms.values()] == [True, False, False, False]
    assert [table.alarms.no_clipping.action != "off" for table in arms.values()] == [True, False, False, False]
    assert len({table.max_steps for table in arms.values()}) == 1  # equal numbers of updates
    rollouts = {name: table.prompts_per_step * table.num_generations for name, table in arms.items()}
    assert rollouts["clip_on"] == rollouts["clip_off"] == rollouts["clip_large_batch"]
    batches = {name: rollouts[name] // table.num_mini_batches for name, table in arms.items()}
    assert batches["clip_on"] == batches["clip_off"] == batches["clip_small_rollout"] < batches["clip_large_batch"]
    own = {"arm", "epsilon", "num_mini_batches", "prompts_per_step", "alarms"}
    shared = [table.model_dump(exclude=own) for table in arms.values()]
    assert all(one == shared[0] for one in shared)
    assert shared[0]["reward"] == "random" and shared[0]["random_rate"] == 0.5
