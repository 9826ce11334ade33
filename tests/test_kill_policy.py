"""A cell that is killed at five random steps and moments ends as the undisturbed one, to the byte."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.keyed import keyed_rng
from configs.loader import Experiment
from policy.audit import COMPLETIONS_FILE, METRICS_FILE
from policy.stage import cell_folder
from tests.conftest import small_experiment

KILLS, STEPS = 5, 12
STALLED_AFTER_S = 180.0
SETTINGS = {
    "grpo": ("policy.reward=rpr", "policy.rung=60"),
    "ppo": (
        *(
            "policy.reward=rpr",
            "policy.rung=60",
            "policy.algorithm=ppo",
            "policy.lora_r=4",
            "policy.learning_rate=1e-2",
        ),
        *("policy.num_mini_batches=2", "policy.critic_warmup_steps=2"),
    ),
}


def train(runs_dir: str, overrides: tuple[str, ...]) -> None:
    """The work of the process that is killed; prints nothing."""
    import policy.stage

    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        policy.stage.run(small_experiment(Path(runs_dir), *overrides))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", SETTINGS)
def test_five_kills_at_random_steps_change_no_byte(small: Experiment, tmp_path: Path, algorithm: str) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["policy.stage"])  # or each of the processes would import torch and trl anew
    overrides = ("name=small", f"policy.max_steps={STEPS}", "policy.save_steps=2", *SETTINGS[algorithm])
    roots = {name: tmp_path / name for name in ("whole", "killed")}
    for root in roots.values():
        shutil.copytree(small.folder, root / "small", ignore=shutil.ignore_patterns("policy", "judge", "curve"))
    cells = {name: cell_folder(small_experiment(root, *overrides)) for name, root in roots.items()}

    def start(name: str) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=train, args=(str(roots[name]), overrides))
        process.start()
        return process

    rng = keyed_rng(0, "kills", algorithm)
    for step in sorted(rng.integers(STEPS, size=KILLS).tolist()):
        process, deadline = start("killed"), time.monotonic() + STALLED_AFTER_S
        reached = list(range(step, STEPS))
        audit = cells["killed"] / "scratch" / "audit"
        while not any((audit / f"step-{at:06d}.parquet").exists() for at in reached):
            assert process.is_alive() and time.monotonic() < deadline, f"step {step} was not reached"
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, 0.3)))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
        assert not (cells["killed"] / "manifest.json").exists()
    for name in roots:
        process = start(name)
        process.join()
        assert process.exitcode == 0
    for name in (METRICS_FILE, "answers.jsonl"):
        assert (cells["killed"] / name).read_bytes() == (cells["whole"] / name).read_bytes()
    killed, whole = (pq.read_table(cells[name] / COMPLETIONS_FILE) for name in ("killed", "whole"))
    assert killed.num_rows == STEPS // (2 if algorithm == "ppo" else 1) * 16 and killed.equals(whole)
