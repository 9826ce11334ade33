"""The recipes of mathematics: the papers' settings, the predicted memory, and a small step of every recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

import curve.doctor_memory
import policy.stage
from configs.errors import UserError
from configs.loader import Experiment, load_experiment
from configs.records import read_json
from curve.doctor import examine
from curve.doctor_memory import policy_look
from curve.sweep.cells import Cell, expand
from policy.audit import COMPLETIONS_FILE
from policy.config import PolicyTable
from policy.rewards.noise import NoiseTable, paper_a
from policy.stage import cell_folder
from tasks.mathematics.task import MathematicsTable
from tasks.tiny_base import build_model, build_tokenizer
from tests.conftest import ROOT
from tests.test_doctor_memory import known_shape

RECIPES = sorted((ROOT / "configs").glob("mathematics-*.yaml"))
LORA = [path for path in RECIPES if not path.stem.endswith("-full")]
FULL = [path for path in RECIPES if path.stem.endswith("-full")]
OF_A = [path for path in RECIPES if "paper-a" in path.stem]
OF_B = [path for path in RECIPES if "paper-b" in path.stem]


def read(path: Path) -> tuple[Experiment, PolicyTable]:
    experiment = load_experiment(path)
    return experiment, experiment.table("policy", PolicyTable)


def by_name(path: Path) -> dict[str, Cell]:
    """The cells of the first seed."""
    return {cell.name: cell for cell in expand(load_experiment(path)) if cell.seed == 0}


def test_there_is_a_recipe_of_each_kind() -> None:
    names = {"paper-a-qwen2.5-3b", "paper-a-qwen2.5-7b", "paper-b-qwen2.5-math-7b"}
    assert {path.stem.removeprefix("mathematics-") for path in LORA} == names
    assert {path.stem.removeprefix("mathematics-").removesuffix("-full") for path in FULL} == names


@pytest.mark.parametrize("path", OF_A, ids=lambda path: path.stem)
def test_paper_a_as_published(path: Path) -> None:
    """arXiv 2505.22653, section 2.1, and train_rl_math_7b_orz_flip.sh of its repository."""
    experiment, table = read(path)
    assert (table.prompts_per_step, table.num_generations, table.updates_per_rollout) == (128, 4, 1)
    assert (table.max_prompt_length, table.max_completion_length) == (768, 4096)
    assert (table.lr_scheduler_type, table.warmup_steps, table.beta, table.kl_coef) == ("constant", 0, 0, 0)
    assert not table.can_clip and table.temperature == 1
    if table.algorithm == "ppo":
        assert (table.lam, table.gamma, table.whiten_advantages, table.cliprange_value) == (1, 1, True, 0.5)
        assert table.critic_warmup_steps == 19
        assert table.value_learning_rate == pytest.approx(5 * table.learning_rate)
    tasks = experiment.table("tasks", MathematicsTable)
    assert (tasks.prompt, tasks.answer_in) == ("orz", "box")
    arms = by_name(path).values()
    flips = {cell.table.noise.flip_rate: cell.table.noise for cell in arms if cell.table.noise.malformed == "exempt"}
    assert flips == {rate: paper_a(rate) for rate in (0.1, 0.2, 0.3, 0.4, 0.5)}
    assert {cell.table.reward for cell in arms} >= {"untrained", "gold", "rpr_only", "format"}


@pytest.mark.parametrize("path", OF_B, ids=lambda path: path.stem)
def test_paper_b_as_published(path: Path) -> None:
    """arXiv 2506.10947, appendix A."""
    experiment, table = read(path)
    assert (table.prompts_per_step, table.num_generations, table.updates_per_rollout) == (64, 16, 8)
    assert table.prompts_per_step * table.num_generations // table.num_mini_batches == 128
    assert (table.max_prompt_length, table.max_completion_length, table.max_steps) == (1024, 3072, 300 * 8)
    assert (table.epsilon, table.beta, table.temperature, table.scale_rewards) == (0.2, 0, 1, "group")
    assert (table.lr_scheduler_type, table.warmup_steps) == ("constant", 0)
    tasks = experiment.table("tasks", MathematicsTable)
    assert (tasks.prompt, tasks.answer_in) == ("qwen-math", "box")
    cells = by_name(path)
    rewards = {cell.table.reward for cell in cells.values()}
    assert rewards >= {"gold", "majority", "one_shot", "format", "random", "incorrect", "python", "no_repetition"}
    assert cells["incorrect-grpo-s0"].table.labels.n_samples == 64
    assert cells["format_no_python-grpo-s0"].table.only_if == ["no_python"]
    assert cells["random-grpo-s0"].table.alarms.no_clipping.action == "warn"
    assert not cells["random_clip_off-grpo-s0"].table.can_clip
    large, small = (cells[f"random_{arm}-grpo-s0"].table for arm in ("large_batch", "small_rollout"))
    assert (large.prompts_per_step, large.updates_per_rollout, large.max_steps) == (64, 1, 300)
    assert (small.prompts_per_step, small.updates_per_rollout, small.max_steps) == (8, 1, 300)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_learning_rates_are_the_papers_and_with_lora_ten_times_as_high(path: Path) -> None:
    _, table = read(path)
    paper = 1e-6 if path in OF_A else 5e-7
    assert table.learning_rate == pytest.approx(10 * paper if table.lora_r else paper)
    assert bool(table.lora_r) == (path in LORA)
    text = " ".join(path.read_text().split())
    assert ("LoRA Without Regret" in text) == (path in LORA)
    assert ("Needs several GPUs" in text or "one GPU of 140 GB" in text) == (path in FULL)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_memory_is_predicted_and_lora_fits_80_gb(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve.doctor_memory, "shape_of", known_shape)
    experiment, _ = read(path)
    fits, said = policy_look(experiment, 80e9)
    assert fits == (path in LORA), said
    for cell in by_name(path).values():
        if cell.table.reward != "untrained" and path in LORA:
            fits, said = policy_look(cell.experiment, 80e9)
            assert fits, f"{cell.name}: {said}"
    if "3b-full" in path.stem:
        assert policy_look(experiment, 141e9)[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_doctor_names_the_data_that_are_missing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(curve.doctor_memory, "shape_of", known_shape)
    monkeypatch.setattr("curve.doctor._parameters", lambda name: (7_000_000_000, ""))
    checks = {check.what: check for check in examine(load_experiment(path))}
    tasks = load_experiment(path).table("tasks", MathematicsTable)
    assert not checks["data"].well
    assert checks["data"].found.endswith(f"not there: {', '.join([*tasks.eval_files, *tasks.train_files])}")
    assert checks["settings"].well and f"the sweep has {28 if path in OF_A else 49} cells" in checks["settings"].found
    assert checks["memory (policy)"].well and "GiB at its peak" in checks["memory (policy)"].found


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with one small layer, and files of a few problems under the names that the recipes give."""
    folder = tmp_path_factory.mktemp("recipes")
    rows = [{"problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(40)]
    tokenizer = build_tokenizer([row["problem"] + "\\boxed{}" for row in rows], 300)
    build_model(tokenizer, 1, 32, 2, seed=0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "data").mkdir()
    for name, start in (("math500", 0), ("aime24", 2), ("aime25", 4), ("amc23", 6)):
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[start : start + 2]))
    (folder / "data" / "deepscaler.json").write_text(json.dumps(rows[8:]))
    turns = [
        [
            {"from": "human", "value": row["problem"]},
            {"from": "assistant", "ground_truth": {"value": row["answer"]}},
        ]
        for row in rows[8:]
    ]
    (folder / "data" / "orz_math_57k_collected.json").write_text(json.dumps(turns))
    return folder


SMALL: dict[str, Any] = {
    "tasks.n_dev_prompts": 2,
    "policy.sampler": {"engine": "generate"},
    "policy.max_prompt_length": None,
    "policy.max_completion_length": 6,
    "policy.prompts_per_step": 8,
    "policy.num_generations": 2,
    "policy.gradient_accumulation_steps": 1,
    "policy.save_steps": 50,
}


def in_small(experiment: Experiment, folder: Path) -> Experiment:
    """The same experiment on the stand-ins; one step in which the policy learns."""
    table = experiment.table("policy", PolicyTable)
    rests = {"policy.critic_warmup_steps": 1} if table.algorithm == "ppo" else {}
    steps = 2 if rests else 1
    own = {"policy.model_name_or_path": str(folder / "model"), "policy.max_steps": steps, "policy.dev_every": steps}
    labels = {"policy.labels": {"n_samples": 2}} if table.label_kinds else {}
    found = experiment.with_overrides(SMALL | own | rests | labels)
    return Experiment(found.source, found.name, found.seed, folder / "runs", found.tables)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains_a_step_in_small(path: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stand_ins)
    cell = in_small(by_name(path)[f"gold-{read(path)[1].algorithm}-s0"].experiment, stand_ins)
    policy.stage.run(cell)
    folder = cell_folder(cell)
    table = cell.table("policy", PolicyTable)
    assert len(pq.read_table(folder / COMPLETIONS_FILE)) == table.max_steps * 16
    manifest = read_json(folder / "manifest.json")
    assert manifest["summary"]["reward"] == "gold"


ARMS = [(OF_A[-1].stem.removesuffix("-full"), name) for name in ("gold_flip0.4_group_exempt-ppo-s0", "rpr_only-ppo-s0")]
ARMS += [
    ("mathematics-paper-b-qwen2.5-math-7b", f"{arm}-grpo-s0")
    for arm in ("majority", "one_shot", "format_no_python", "python", "random0.3", "random_clip_off")
]


@pytest.mark.parametrize(("recipe", "arm"), ARMS)
def test_arms_train_a_step_in_small(recipe: str, arm: str, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stand_ins)
    cell = in_small(by_name(ROOT / "configs" / f"{recipe}.yaml")[arm].experiment, stand_ins)
    policy.stage.run(cell)
    rewards = pq.read_table(cell_folder(cell) / COMPLETIONS_FILE)["reward"].to_pylist()
    assert set(rewards) <= {0.0, 1.0, None} or arm.startswith("rpr_only")  # null: no answer gave a label


def test_a_policy_trained_whole_keeps_float32_so_that_small_steps_are_not_lost(
    stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of 5e-7 is below half the distance of bfloat16 numbers of the size of a weight."""
    monkeypatch.chdir(stand_ins)
    path = ROOT / "configs" / "mathematics-paper-b-qwen2.5-math-7b-full.yaml"
    experiment = in_small(by_name(path)["random-grpo-s0"].experiment, stand_ins)
    cell = experiment.with_overrides({"policy.num_generations": 8, "policy.seed": 5})
    assert cell.table("policy", PolicyTable).bf16
    policy.stage.run(cell)
    before, after = (load_file(folder / "model.safetensors") for folder in (stand_ins / "model", _weights(cell)))
    name = "model.layers.0.mlp.down_proj.weight"
    moved = (after[name].float() - before[name].float()).abs()
    assert 1e-8 < moved.max() < 1e-5 and (moved > 0).float().mean() > 0.5


def _weights(cell: Experiment) -> Path:
    return next(cell_folder(cell).rglob("model.safetensors")).parent


def test_a_missing_noise_rate_is_no_noise() -> None:
    assert not NoiseTable(unit="group", malformed="exempt").is_on
    with pytest.raises(UserError, match=r"did you mean policy\.noise\.flip_rate"):
        load_experiment(LORA[0], ["policy.noise.flip_rat=0.1"]).table("policy", PolicyTable)
