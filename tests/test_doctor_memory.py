"""Every recipe is predicted to fit the GPU it is named after, and a run that does not fit is told what to change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import curve.doctor_memory
from configs.loader import Experiment, load_experiment
from curve.doctor_memory import policy_look, reward_model_look, reward_model_phases
from curve.sweep.cells import expand
from policy.config import PolicyTable
from rm.benchmarks.random_material import SHAPES
from rm.config import RMTable
from rm.memory import GIB, BodyShape
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "configs").glob("helpsteer3-*.yaml"))


def known_shape(name: str) -> BodyShape:
    """Of Qwen2.5 without a hub; the 3B's head is its embedding."""
    size = "3b" if "3B" in name else "7b"
    record: dict[str, Any] = {**SHAPES[size], "model_type": "qwen2", "tie_word_embeddings": size == "3b"}
    return BodyShape.of(record, name)


@pytest.fixture(autouse=True)
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve.doctor_memory, "shape_of", known_shape)


def gigabytes(path: Path) -> float:
    found = re.search(r"(\d+)gb", path.name)
    assert found is not None
    return int(found[1]) * 1e9


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_whole_and_fits_its_gpu(path: Path) -> None:
    experiment = load_experiment(path, [])
    assert experiment.name == path.stem
    experiment.table("rm", RMTable)
    assert {cell.table.algorithm for cell in expand(experiment) if cell.name != "untrained"} == {"ppo"}
    for look in (reward_model_look, policy_look):
        fits, said = look(experiment, gigabytes(path))
        assert fits, said


@pytest.mark.parametrize(
    ("recipe", "phase", "gib"), [("3b-24gb", "checking a rung", 12.67), ("3b-48gb", "training", 35.40)]
)
def test_a_recipes_reward_model_is_predicted_within_5_percent(recipe: str, phase: str, gib: float) -> None:
    """Beside peaks of the whole stage on an H200 under caps of 22.5 and 44 GiB (torch 2.11, random weights)."""
    table = load_experiment(ROOT / "configs" / f"helpsteer3-qwen2.5-{recipe}.yaml", []).table("rm", RMTable)
    phases = reward_model_phases(table, known_shape("3B"))
    assert max(phases, key=lambda name: phases[name]) == phase
    assert phases[phase] / GIB == pytest.approx(gib, rel=0.05)


def changed(**overrides: Any) -> Experiment:
    experiment = load_experiment(ROOT / "configs" / "helpsteer3-qwen2.5-7b-80gb.yaml", [])
    return experiment.with_overrides({key.replace("__", "."): value for key, value in overrides.items()})


@pytest.mark.parametrize(
    ("overrides", "gib", "advice"),
    [
        ({"policy__bf16": False}, 64, "try policy.bf16: true"),
        ({"policy__lora_r": 0, "policy__share_base": False}, 80, "try policy.lora_r: 16"),
        ({}, 48, "try policy.gradient_checkpointing: true"),
        ({"policy__batch_tokens": 32768}, 100, "try policy.gradient_checkpointing: true"),
        ({"policy__share_base": False, "policy__gradient_checkpointing": True}, 62, "try a lower policy.sampler"),
    ],
)
def test_what_does_not_fit_is_told_what_to_change(overrides: dict[str, Any], gib: int, advice: str) -> None:
    fits, said = policy_look(changed(**overrides), gib * 2**30)
    assert not fits and advice in said, said


def test_without_a_gpu_the_prediction_is_said_and_nothing_fails() -> None:
    fits, said = policy_look(changed(), None)
    assert fits and "vLLM's share is not counted, because no GPU is here" in said
    assert reward_model_look(changed(), None)[0]


def test_a_demo_is_tiny() -> None:
    demo = load_experiment(ROOT / "configs" / "demo.yaml", [])
    assert policy_look(demo, 1e9) == (True, "the policy is tiny; less than 1 GiB")
    assert PolicyTable(reward="untrained").sampler.engine == "generate"
