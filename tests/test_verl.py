"""The adapters in the real verl 0.9 and OpenRLHF 0.11, which live in an environment of their own (`make test-verl`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tasks.stage
from configs.loader import Experiment
from curve.cli import main
from policy.adapters import openrlhf_reward, verl_reward
from tasks.records import read_prompts
from tests.adapter_samples import material, rewards_of_trl
from tests.clients import ROOT, calibrated_server

PYTHON = Path(os.environ.get("VERL_PYTHON", ROOT / ".venv-verl" / "bin" / "python"))
ABSENT = f"verl's environment is absent ({PYTHON}); `make test-verl` makes it, or name its Python in VERL_PYTHON"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON.exists(), reason=ABSENT)]
CUSTOM = "reward.custom_reward_function"


def launched(script: str, **environment: str) -> list[str]:
    """The words that a launch file would start Python with."""
    env = {"PATH": os.environ["PATH"], "PYTHON": "echo", "PWD": str(ROOT), **environment}
    ran = subprocess.run(["bash", str(ROOT / "configs" / script)], cwd=ROOT, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()[2:]


@pytest.fixture(scope="module")
def results(small: Experiment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the real callers gave for 200 completions, malformed and empty ones among them."""
    folder = tmp_path_factory.mktemp("verl")
    assert main(["export-prompts", str(small.folder), f"output={folder}"]) == 0
    prompts, texts = material(small)
    expected, _ = rewards_of_trl(small, {"reward": "rpr", "rung": "60"}, prompts, texts, folder)
    order = [prompt.prompt_id for prompt in read_prompts(tasks.stage.folder_of(small), "train")]

    def of_verl(settings: dict[str, Any]) -> dict[str, Any]:
        given = [f"+{CUSTOM}.reward_kwargs.{key}={value}" for key, value in settings.items()]
        path = [f"{CUSTOM}.path={verl_reward.__file__}", f"{CUSTOM}.name=compute_score"]
        return {"overrides": [*path, *given, "actor_rollout_ref.rollout.name=vllm"]}

    launch = launched("verl/helpsteer3-qwen2.5-7b-ppo.sh", REWARD_FILE=verl_reward.__file__)
    with calibrated_server(small.folder / "rm" / "rung-60") as (address, _):
        tokenizer = str(tasks.stage.folder_of(small) / "base")
        (folder / "reward.yaml").write_text(json.dumps({"server": address, "tokenizer": tokenizer}))
        calls = {
            "launch": {"compose": launch},
            "options": {"options": launched("openrlhf/helpsteer3-qwen2.5-7b-ppo.sh")},
            "server": of_verl({"server": address}),
            "file": of_verl({"settings": folder / "reward.yaml"}),
            "here": of_verl({"run": small.folder.absolute(), "rung": 60}),
            "dead": of_verl({"server": "http://127.0.0.1:9", "patience_s": 0.2}),
            "http": {"remote_url": f"{address}/get_reward"},
            "py": {
                "remote_url": openrlhf_reward.__file__,
                "environment": {"REWARDLADDER_REWARD": str(folder / "reward.yaml")},
            },
        }
        job = {
            "calls": calls,
            "rows": [order.index(prompt.prompt_id) for prompt in prompts],
            "completions": texts,
            "parquet": str(folder / "train.parquet"),
            "tokenizer": tokenizer,
            "output": str(folder / "results.json"),
        }
        (folder / "job.json").write_text(json.dumps(job))
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [str(PYTHON), str(ROOT / "tests" / "verl_caller.py"), str(folder / "job.json")]
        ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return {**json.loads((folder / "results.json").read_text()), "expected": expected, "texts": texts}


@pytest.mark.parametrize("call", ["server", "file", "here"])
def test_verl_gives_the_rewards_of_our_own_callable(results: dict[str, Any], call: str) -> None:
    found = results[call]
    assert "error" not in found, found
    assert found["decoded"] == results["texts"]
    assert np.abs(np.array(found["rewards"]) - np.array(results["expected"])).max() < 1e-6
    assert len({tuple(parts) for parts in found["parts"]}) == 1
    assert all(np.isfinite(value) for parts in found["parts"] for value in parts.values())
    assert [parts["score"] for parts in found["parts"]] == found["rewards"]


@pytest.mark.parametrize("call", ["http", "py"])
def test_openrlhf_gives_the_rewards_of_our_own_callable(results: dict[str, Any], call: str) -> None:
    found = results[call]
    assert "error" not in found, found
    assert None not in found["rewards"], "OpenRLHF swallows what a reward raises"
    assert np.abs(np.array(found["rewards"]) - np.array(results["expected"])).max() < 1e-6
    assert all(0 <= score <= 1 for score in found["scores"])
    assert {"well_formed", "rpr", "bonus", "rung_score"} <= set(found["parts"][0])


def test_a_dead_server_stops_verl_with_a_line_that_says_what_to_do(results: dict[str, Any]) -> None:
    error = results["dead"]["error"]
    assert error.startswith("UserError: http://127.0.0.1:9: no answer within")
    assert "is `rewardladder serve` running there?" in error


def test_the_launch_files_have_settings_that_the_real_trainers_know(results: dict[str, Any]) -> None:
    assert results["launch"]["critic"] == 5e-6
    assert results["launch"]["settings"].endswith("configs/verl/reward.yaml")
    assert results["options"] == {"unknown": []}
    assert results["versions"]["verl"].startswith("0.9.") and results["versions"]["openrlhf"].startswith("0.11.")
