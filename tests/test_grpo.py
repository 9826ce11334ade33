"""Policy training on a small world: TRL's contract, the audit, keyed rollouts, and a kill that changes nothing."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from trl import GRPOTrainer, RLOOConfig, RLOOTrainer

import policy.stage
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json, read_jsonl
from policy.audit import COMPLETIONS_FILE, METRICS_FILE, SCHEMA
from policy.config import PolicyTable
from policy.rewards.table import RewardSettings
from policy.stage import cell_folder
from policy.training import trainer_config
from tests.conftest import ROOT, SMALL_ADVICE, small_experiment


def made(small: Experiment, **settings: Any) -> Path:
    cell = small.with_overrides({f"policy.{key}": value for key, value in settings.items()})
    policy.stage.run(cell)
    return cell_folder(cell)


@pytest.fixture(scope="module")
def rpr_cell(small: Experiment) -> Path:
    return made(small, reward="rpr", rung="60")


def test_trl_still_has_the_methods_that_are_overridden() -> None:
    for trainer in (GRPOTrainer, RLOOTrainer):
        generate = inspect.signature(trainer._generate_and_score_completions)
        assert list(generate.parameters) == ["self", "inputs"]
        source = inspect.getsource(trainer._generate_and_score_completions)
        assert '"advantages": advantages' in source, "the output key that the audit reads has changed"
    rewards = inspect.signature(GRPOTrainer._calculate_rewards)
    assert list(rewards.parameters) == ["self", "inputs", "prompts", "completions", "completion_ids_list"]


def test_every_completion_is_kept_with_every_part_of_its_reward(rpr_cell: Path) -> None:
    table = pq.read_table(rpr_cell / COMPLETIONS_FILE)
    assert table.schema.equals(SCHEMA)
    frame = table.to_pandas()
    assert len(frame) == 6 * 4 * 4
    assert sorted(frame["step"].unique()) == list(range(6))
    assert frame.groupby(["step", "prompt_id"])["sample"].apply(sorted).map(lambda s: s == [0, 1, 2, 3]).all()
    good = frame[frame["answer"].notna()]
    below = good["score"] < 0.75
    assert np.allclose(good["reward"], good["score"] + good["bonus"])
    assert np.allclose(good["bonus"][below], np.minimum(1 - good["score"], 0.5 * good["rpr"])[below])
    assert (good["bonus"][~below] == 0).all()
    malformed = frame[frame["answer"].isna()]
    assert (malformed["reward"] == 0).all() and malformed["logit"].isna().all()


def test_advantages_are_the_rewards_within_their_group(rpr_cell: Path) -> None:
    frame = pq.read_table(rpr_cell / COMPLETIONS_FILE).to_pandas()
    for _, group in frame.groupby(["step", "prompt_id"]):
        spread = group["reward"].std(ddof=1)
        expected = (group["reward"] - group["reward"].mean()) / (spread + 1e-4)
        assert np.allclose(group["advantage"], expected, atol=2e-3)


def test_metrics_hold_a_row_a_step_and_the_looks_at_the_dev_prompts(rpr_cell: Path) -> None:
    rows = list(read_jsonl(rpr_cell / METRICS_FILE))
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["step"] for row in rows if "dev/gold_mean" in row] == [0, 3, 6]
    for row in rows[1:]:
        assert {"reward", "reward_std", "frac_reward_zero_std", "gold", "score", "rpr", "well_formed"} <= set(row)
        assert not any("time" in name or "runtime" in name for name in row)


def test_answers_are_graded_and_the_same_noise_serves_every_cell(small: Experiment, rpr_cell: Path) -> None:
    untrained = list(read_jsonl(made(small, reward="untrained") / "answers.jsonl"))
    trained = list(read_jsonl(rpr_cell / "answers.jsonl"))
    assert [row["prompt_id"] for row in untrained] == [row["prompt_id"] for row in trained]
    assert len(untrained) == 60
    equal = np.mean([a["completion"] == b["completion"] for a, b in zip(untrained, trained, strict=True)])
    assert 0.05 < equal < 1.0  # six small steps: other answers, though not other luck
    assert all(row["gold"] is not None and row["style"] in ("reasoned", "hasty") for row in trained)


def test_lora_trains_and_saves_an_adapter(tmp_path: Path) -> None:
    experiment = small_experiment(
        tmp_path / "runs", "name=lora", "policy.reward=random", "policy.lora_r=4", "policy.learning_rate=1e-2"
    )
    policy.stage.run(experiment)
    folder = cell_folder(experiment) / "policy"
    assert (folder / "adapter_model.safetensors").exists()
    assert read_json(folder / "adapter_config.json")["r"] == 4


def test_too_few_prompts_are_refused(small: Experiment) -> None:
    cell = small.with_overrides({"policy.reward": "format", "policy.prompts_per_step": 400})
    with pytest.raises(UserError, match="400 prompts a step, but there are only 300 training prompts"):
        policy.stage.run(cell)


@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_gold_is_learned_even_in_few_steps(small: Experiment, algorithm: str) -> None:
    folder = made(small, reward="gold", max_steps=30, prompts_per_step=12, algorithm=algorithm, seed=8)
    looks = [row["dev/gold_mean"] for row in read_jsonl(folder / METRICS_FILE) if "dev/gold_mean" in row]
    assert looks[-1] > looks[0] + 0.1


def test_rloo_leaves_one_out_and_dr_grpo_scales_nothing(small: Experiment) -> None:
    rloo = pq.read_table(made(small, reward="format", algorithm="rloo") / COMPLETIONS_FILE).to_pandas()
    dr_grpo = pq.read_table(made(small, reward="format", algorithm="dr_grpo") / COMPLETIONS_FILE).to_pandas()
    first = rloo["step"] == 0
    assert rloo[first]["completion"].equals(dr_grpo[first]["completion"]), "all algorithms share the rollouts' noise"
    assert (rloo["advantage"] != 0).any()
    for _, group in rloo.groupby(["step", "prompt_id"]):
        others = (group["reward"].sum() - group["reward"]) / (len(group) - 1)
        assert np.allclose(group["advantage"], group["reward"] - others, atol=1e-6)
    for _, group in dr_grpo.groupby(["step", "prompt_id"]):
        assert np.allclose(group["advantage"], group["reward"] - group["reward"].mean(), atol=1e-6)


def test_the_table_becomes_trls_configuration(tmp_path: Path) -> None:
    def config(**settings: Any) -> Any:
        table = PolicyTable(reward="gold", prompts_per_step=6, num_generations=4, **settings)
        return trainer_config(table, RewardSettings(table, 0, 48, None), tmp_path)

    found = config(algorithm="dr_grpo")
    assert (found.loss_type, found.scale_rewards) == ("dr_grpo", "none")
    found = config(algorithm="rloo", normalize_advantages=True)
    assert isinstance(found, RLOOConfig) and found.normalize_advantages
    found = config(algorithm="ppo", num_iterations=2, num_mini_batches=3, gradient_accumulation_steps=2, save_steps=50)
    assert (found.per_device_train_batch_size, found.steps_per_generation, found.generation_batch_size) == (4, 6, 24)
    assert found.save_steps == 54, "a checkpoint in the middle of a rollout would make the run draw it anew"
    assert config(algorithm="ppo", kl_coef=0.1).beta == 0.1


KILLS = {
    "rloo": (("policy.reward=format", "policy.algorithm=rloo"), ("checkpoint-3/complete.json",)),
    "ppo": (
        ("policy.reward=gold", "policy.algorithm=ppo", "policy.num_iterations=2"),
        ("audit/step-000002.parquet", "checkpoint-4/complete.json"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", KILLS)
def test_a_killed_cell_goes_on_and_ends_the_same(small: Experiment, tmp_path: Path, how: str) -> None:
    settings, kills = KILLS[how]
    whole = made(small, **dict(word.removeprefix("policy.").split("=") for word in settings))
    runs = tmp_path / "runs"
    shutil.copytree(small.folder, runs / "small", ignore=shutil.ignore_patterns("policy", "judge", "curve"))
    command = [sys.executable, "-m", "policy", "configs/demo.yaml", *SMALL_ADVICE, "name=small", f"runs_dir={runs}"]
    command += settings
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    cell = runs / "small" / "policy" / whole.name
    for wanted in kills:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while not (cell / "scratch" / wanted).exists() and time.monotonic() < deadline:
            assert process.poll() is None, "the cell ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (cell / "manifest.json").exists()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    for name in (METRICS_FILE, "answers.jsonl"):
        assert (cell / name).read_bytes() == (whole / name).read_bytes()
    assert pq.read_table(cell / COMPLETIONS_FILE).equals(pq.read_table(whole / COMPLETIONS_FILE))


def test_probabilities_that_overflow_are_one_line(small: Experiment) -> None:
    cell = small.with_overrides({"policy.reward": "length", "policy.learning_rate": 1e30})
    with pytest.raises(UserError, match=r"the loss is NaN|no numbers any more|lower policy\.learning_rate"):
        policy.stage.run(cell)
