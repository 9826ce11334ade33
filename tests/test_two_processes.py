"""A cell that two processes make together is the cell of one process, up to rounding; what cannot be shared is refused.

The bound: prompts, completions, answers and rewards are equal, because noise belongs to a completion's place in the
rollout; figures and weights differ by the rounding of other batch shapes, through six optimizer steps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

import policy.processes
import policy.stage
import rm.stage
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_jsonl
from policy.config import PolicyTable
from policy.processes import refuse_processes
from policy.rollouts.shared_noise import OwnRows
from policy.stage import cell_folder
from rm.processes import sharding
from tests.conftest import ROOT, SMALL_ADVICE

CONFIGS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/ddp.yaml"]
FIGURES = 1e-3
"""Largest difference of a figure; the critic's figures under LoRA are the furthest apart."""
REWARDS = 1e-5
"""Largest difference of a reward: a rung scores other batches."""


def made_by_two(small: Experiment, runs: Path, settings: tuple[str, ...]) -> str:
    """The cell made by `accelerate launch` on a copy of the small task and ladder; returns what was said."""
    shutil.copytree(small.folder, runs / "small", ignore=shutil.ignore_patterns("policy", "judge", "curve"))
    command = [*LAUNCH, "-m", "policy", "configs/demo.yaml", *SMALL_ADVICE, "name=small", f"runs_dir={runs}", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


CELLS = {
    "grpo": ("policy.reward=rpr", "policy.rung=60", "policy.keep=best_dev_gold"),
    "ppo": (
        *("policy.reward=gold", "policy.algorithm=ppo", "policy.num_iterations=2", "policy.seed=3"),
        *("policy.kl_coef=0.05", "policy.critic_warmup_steps=2"),
    ),
    "padded-ppo-lora": (
        *("policy.reward=gold", "policy.algorithm=ppo", "policy.lora_r=4", "policy.seed=4", "policy.packed=false"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_two_processes_make_the_cell_of_one(small: Experiment, tmp_path: Path, cell: str) -> None:
    settings = (*CELLS[cell], f"policy.arm=processes-{cell}")
    one = small.with_overrides({key: _value(text) for key, _, text in (word.partition("=") for word in settings)})
    policy.stage.run(one)
    said = made_by_two(small, tmp_path / "runs", settings)
    assert said.count("answers to the eval prompts") == 1, "one of the processes speaks"
    whole = cell_folder(one)
    shared = tmp_path / "runs" / "small" / "policy" / whole.name
    assert sorted(path.name for path in shared.iterdir()) == sorted(path.name for path in whole.iterdir())
    expected, found = (pq.read_table(folder / "completions.parquet").to_pandas() for folder in (whole, shared))
    for column in ("step", "prompt_id", "sample", "completion", "gold"):
        assert found[column].equals(expected[column]), column
    assert found["reward"].to_numpy() == pytest.approx(expected["reward"].to_numpy(), abs=REWARDS)
    assert found["advantage"].to_numpy() == pytest.approx(expected["advantage"].to_numpy(), abs=FIGURES)
    assert (shared / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()
    metrics = [list(read_jsonl(folder / "metrics.jsonl")) for folder in (whole, shared)]
    for one_step, of_two in zip(*metrics, strict=True):
        assert of_two == pytest.approx(one_step, rel=FIGURES, abs=FIGURES)
    name = (
        "adapter_model.safetensors"
        if (whole / "policy" / "adapter_model.safetensors").exists()
        else "model.safetensors"
    )
    weights = [load_file(folder / "policy" / name) for folder in (whole, shared)]
    assert weights[0].keys() == weights[1].keys()
    assert max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0]) < FIGURES


def _value(text: str) -> object:
    return int(text) if text.isdigit() else False if text == "false" else float(text) if text[0].isdigit() else text


def test_each_process_draws_its_rows_of_one_rollout() -> None:
    logits = [torch.randn(6, 50, generator=torch.Generator().manual_seed(step)) for step in range(8)]
    torch.manual_seed(17)
    expected = [torch.multinomial((one / 0.7).softmax(-1), 1).squeeze(1) for one in logits]
    parts = [OwnRows(17, 0.7, processes=3, index=index) for index in range(3)]
    for one, drawn in zip(logits, expected, strict=True):
        found = [part(torch.empty(2, 0), one[2 * i : 2 * i + 2]) for i, part in enumerate(parts)]
        assert torch.cat(found).argmax(-1).equal(drawn)
        assert (torch.cat(found).softmax(-1).max(-1).values == 1).all(), "nothing else can be drawn any more"


@pytest.mark.parametrize(
    ("settings", "processes", "sharded", "sentence"),
    [
        ({"prompts_per_step": 5}, 2, None, "5 prompts cannot be shared by 2 processes; make it a multiple of 2"),
        (
            {"prompts_per_step": 4, "num_generations": 3, "gradient_accumulation_steps": 4},
            2,
            None,
            "the 6 completions of each of 2 processes cannot be cut into 4 pieces",
        ),
        ({"algorithm": "ppo"}, 2, "FSDP", r"ppo shares .* and FSDP cuts the weights up; launch with .*ddp\.yaml"),
        ({"keep": "best_reward"}, 2, "DeepSpeed", "keep best_reward .* DeepSpeed cuts"),
        ({"share_base": True, "reward": "raw", "rung": "60"}, 2, "FSDP", "share_base lets the rung"),
    ],
)
def test_what_processes_cannot_share_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], processes: int, sharded: str | None, sentence: str
) -> None:
    monkeypatch.setattr(policy.processes, "n_processes", lambda: processes)
    monkeypatch.setattr(policy.processes, "sharding", lambda: sharded)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    table = PolicyTable.model_validate({"reward": "gold"} | settings)
    with pytest.raises(UserError, match=sentence):
        refuse_processes(table)
    monkeypatch.setattr(policy.processes, "n_processes", lambda: 1)
    refuse_processes(table)


def test_cut_up_weights_need_gpus_and_a_policy(monkeypatch: pytest.MonkeyPatch, small: Experiment) -> None:
    monkeypatch.setattr(policy.processes, "n_processes", lambda: 2)
    monkeypatch.setattr(policy.processes, "sharding", lambda: "FSDP")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"FSDP cuts weights up on GPUs, and none is here; launch with .*ddp\.yaml"):
        refuse_processes(PolicyTable(reward="gold"))
    monkeypatch.setattr(rm.stage, "sharding", lambda: "FSDP")
    with pytest.raises(UserError, match=r"reward models are trained whole in every process; launch with .*ddp\.yaml"):
        rm.stage.run(replace(small, name="other"))


def test_the_launcher_says_what_cuts_weights_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding() is None, "one process has it all"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert sharding() == "FSDP"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_launcher_settings_are_read_by_accelerate(path: Path) -> None:
    found = load_config_from_file(str(path))
    assert (found.num_processes, found.num_machines, found.mixed_precision) == (2, 1, "no")
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(path.stem, "DEEPSPEED")
    assert found.distributed_type.value == kind


def test_there_is_a_launcher_file_for_each_way() -> None:
    assert [path.stem for path in CONFIGS] == ["ddp", "deepspeed-zero2", "deepspeed-zero3", "fsdp2"]
