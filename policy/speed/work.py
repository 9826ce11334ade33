"""The work: both trainers on the same random weights, prompts and completions, with their clocks."""

from __future__ import annotations

import gc
import importlib.util
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from configs.errors import UserError
from configs.keyed import keyed_seed
from configs.terminal import say
from policy.config import PolicyTable
from policy.ppo import LadderPPOTrainer
from policy.rollouts.vllm_port import take_own_port
from policy.speed.clock import Timed, Watch
from policy.speed.command import PolicySpeedTable
from policy.speed.material import random_prompts, replayed, reward_by_ids, start_model, words_tokenizer
from policy.updates.packed_update import PackedUpdate
from rm.benchmarks.random_material import SHAPES, cap_gpu_memory
from rm.benchmarks.speed import matrix_rate

WARM_UP_STEPS = 2
"""Steps that are not timed: kernels are compiled and memory is found in them."""
PARTS = ("rollout", "logps", "update", "other")


class Contender(NamedTuple):
    """One algorithm's trainer on the padded path and packed.

    Attributes:
        padded, packed: trainer classes; `packed` has `PackedUpdate` among its bases.
        prepare: called with each new trainer, for what its class needs besides GRPO's arguments.
        critic: whether a critic of the policy's shape has values and an update of its own.
    """

    padded: type[Any]
    packed: type[Any]
    prepare: Callable[[Any, PolicySpeedTable], None]
    critic: bool


class PackedGRPO(PackedUpdate, GRPOTrainer):
    """TRL's GRPO with packed updates and nothing else."""


def with_critic(trainer: Any, table: PolicySpeedTable) -> None:
    """What PPO's trainer needs; nothing is audited."""
    trainer.audit, trainer.rollout_seed = SimpleNamespace(write=lambda advantages: None), table.seed
    settings = {"learning_rate": table.learning_rate, "lora_r": table.lora_r, "max_steps": table.steps}
    trainer.add_critic(PolicyTable.model_validate({"reward": "length", "algorithm": "ppo", **settings}), table.seed)


CONTENDERS = {
    "grpo": Contender(GRPOTrainer, PackedGRPO, lambda trainer, table: None, critic=False),
    "ppo": Contender(LadderPPOTrainer, LadderPPOTrainer, with_critic, critic=True),
}


class Setting(NamedTuple):
    """How one side is run: packed where `batch_size` is None."""

    batch_size: int | None
    checkpointing: bool

    def __str__(self) -> str:
        words = "one packed micro-batch" if self.batch_size is None else f"{self.batch_size} completions"
        return words + (", checkpointing" if self.checkpointing else "")


def grpo_config(table: PolicySpeedTable, setting: Setting, steps: int, device: str, scratch: str) -> GRPOConfig:
    """TRL's settings for one side."""
    completions = table.prompts_per_step * table.num_generations
    batch_size = setting.batch_size or completions
    options: dict[str, Any] = {"use_cpu": device == "cpu", "bf16": device == "cuda"}
    if table.rollout == "vllm":
        options |= {"use_vllm": True, "vllm_mode": "colocate", "vllm_enable_sleep_mode": True}
        options |= {"vllm_gpu_memory_utilization": table.vllm_memory, "generation_kwargs": {"ignore_eos": True}}
        options |= {"vllm_max_model_length": table.prompt_tokens + table.completion_tokens}
    return GRPOConfig(
        output_dir=scratch,
        learning_rate=table.learning_rate,
        lr_scheduler_type="constant",
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=completions // batch_size,
        gradient_checkpointing=setting.checkpointing,
        num_generations=table.num_generations,
        num_iterations=table.num_iterations,
        max_completion_length=table.completion_tokens,
        beta=table.beta,
        max_steps=steps,
        seed=table.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )


def train(table: PolicySpeedTable, setting: Setting, steps: int, start: str | None) -> dict[str, Any] | None:
    """One side for some steps from the same weights; None where memory does not suffice.

    Args:
        start: the folder of the start weights, which vLLM reads too; made anew where it is None.
    """
    try:
        return _trained(table, setting, steps, start)
    except torch.OutOfMemoryError:
        return None


def _trained(table: PolicySpeedTable, setting: Setting, steps: int, start: str | None) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cap_gpu_memory(table.memory_gib)
    contender = CONTENDERS[table.algorithm]
    base = contender.packed if setting.batch_size is None else contender.padded
    watch = Watch()
    with tempfile.TemporaryDirectory() as scratch:
        if start is None:
            model = start_model(table.shape, table.seed, device)
        else:
            model = Qwen2ForCausalLM.from_pretrained(start, dtype="auto").to(device)
        torch.manual_seed(keyed_seed(table.seed, "policy speed adapter") % 2**63)
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=table.lora_r, lora_alpha=2 * table.lora_r, target_modules="all-linear"
        )
        trainer: Any = type("TimedTrainer", (Timed, base), {})(
            model=model,
            reward_funcs=reward_by_ids,
            args=grpo_config(table, setting, steps, device, scratch),
            train_dataset=Dataset.from_dict({"prompt": random_prompts(table)}),
            processing_class=words_tokenizer(SHAPES[table.shape]["vocab_size"]),
            rollout_func=replayed(table) if table.rollout == "replay" else None,
            peft_config=lora,
            callbacks=[watch],
        )
        watch.trainer = trainer
        contender.prepare(trainer, table)
        if setting.batch_size is None:
            trainer.pack_updates(True, table.batch_tokens)
        trainer.remove_callback(PrinterCallback)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    return _figures(table, setting, watch)


def _figures(table: PolicySpeedTable, setting: Setting, watch: Watch) -> dict[str, Any]:
    """Means over the timed steps."""
    skipped = min(WARM_UP_STEPS, len(watch.ends) - 1)
    timed = len(watch.ends) - skipped
    first, last = watch.parts[skipped - 1], watch.parts[-1]
    seconds = {name: (last[name] - first.get(name, 0.0)) / timed for name in last}
    step = (watch.ends[-1] - watch.ends[skipped - 1]) / timed
    rollout, logps = seconds["rollout"], seconds.get("logps", 0.0)
    update = seconds["training_step"] - seconds["prepare"]
    return {
        "setting": str(setting),
        "batch_size": setting.batch_size,
        "gradient_checkpointing": setting.checkpointing,
        "step_seconds": step,
        "rollout_seconds": rollout,
        "logps_seconds": logps,
        "update_seconds": update,
        "other_seconds": step - rollout - logps - update,
        "gibibytes": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
        "completion_tokens": watch.trainer.completion_tokens * table.num_iterations / len(watch.ends),
        "losses": [row["loss"] for row in watch.logs],
        "gradient_norms": [row["grad_norm"] for row in watch.logs],
        "entropies": [row["entropy"] for row in watch.logs],
        "gradient": watch.gradient.numpy(),
        "logps": {key: values.numpy() for key, values in watch.trainer.first_logps.items()},
    }


def one_side(table: PolicySpeedTable, setting: Setting, steps: int, start: str | None) -> dict[str, Any] | None:
    """`train`; under vLLM in a process of its own, because an engine does not give its memory back."""
    if table.rollout == "vllm":
        take_own_port()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(train, table, setting, steps, start).result()
    found = train(table, setting, steps, start)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def fastest_padded(table: PolicySpeedTable, start: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The padded path at each setting in short, then the fastest that fits in full; and the trials, fastest first.

    Raises:
        UserError: it fits at no setting.
    """
    trials = []
    for checkpointing in table.trl_checkpointing:
        for batch_size in table.trl_batch_sizes:
            setting = Setting(batch_size, checkpointing)
            found = one_side(table, setting, table.trl_trial_steps, start)
            say(
                f"padded, {setting}: " + ("out of memory" if found is None else f"{found['step_seconds']:.2f} s a step")
            )
            if found is not None:
                trials.append(found)
    for trial in sorted(trials, key=lambda found: found["step_seconds"]):
        best = one_side(table, Setting(trial["batch_size"], trial["gradient_checkpointing"]), table.steps, start)
        if best is not None:
            return best, trials
    raise UserError("policy-speed: the padded path fits at no setting of trl_batch_sizes and trl_checkpointing")


def apart(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float] | None:
    """How far two runs' first steps differ; None where they saw other completions."""
    if one["logps"].keys() != other["logps"].keys():
        return None
    keys = sorted(one["logps"])
    differences = np.abs(np.concatenate([one["logps"][key] - other["logps"][key] for key in keys]))
    length = float(np.linalg.norm(other["gradient"]))
    return {
        "gradient": float(np.linalg.norm(one["gradient"] - other["gradient"])) / length,
        "logps_mean": float(differences.mean()),
        "logps_most": float(differences.max()),
    }


def compare(table: PolicySpeedTable) -> dict[str, Any]:
    """The whole comparison; see `policy.speed.command`.

    Raises:
        UserError: vLLM is asked for and not installed, or a side does not fit.
    """
    if table.rollout == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError("policy-speed: rollout=vllm needs vllm, which is not installed; use rollout=replay")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        start = None
        if table.rollout == "vllm":
            start = str(Path(folder) / "start")
            start_model(table.shape, table.seed, "cpu").to(torch.bfloat16).save_pretrained(start)
            words_tokenizer(SHAPES[table.shape]["vocab_size"]).save_pretrained(start)
        ours = one_side(table, Setting(None, table.gradient_checkpointing), table.steps, start)
        if ours is None:
            raise UserError("policy-speed: the packed update is out of memory; lower batch_tokens")
        say(f"packed: {ours['step_seconds']:.2f} s a step")
        padded, trials = fastest_padded(table, start)
    rate = matrix_rate(device)
    for side in (ours, padded):
        _add_rates(table, side, rate)
    differing = [trial for trial in trials if trial["batch_size"] != padded["batch_size"]]
    losses, norms = (np.array([side[name] for side in (ours, padded)]) for name in ("losses", "gradient_norms"))
    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        **{name: getattr(table, name) for name in ("algorithm", "shape", "rollout", "batch_tokens", "spread")},
        "completions": table.prompts_per_step * table.num_generations,
        "mean_tokens": ours["completion_tokens"] / (table.prompts_per_step * table.num_generations),
        "prompt_tokens": table.prompt_tokens,
        "matrix_flops": rate,
        "ratio": padded["step_seconds"] / ours["step_seconds"],
        "work_ratio": _work(padded) / _work(ours),
        "largest_loss_difference": float(np.abs(losses[0] - losses[1]).max()),
        "largest_relative_norm_difference": float((np.abs(norms[0] - norms[1]) / norms[1]).max()),
        "ours_and_padded": apart(ours, padded),
        "padded_and_itself": apart(differing[0], padded) if differing else None,
    }
    plain = [{key: side[key] for key in side if key not in ("gradient", "logps")} for side in (ours, padded, *trials)]
    return found | {"ours": plain[0], "padded": plain[1], "padded_trials": plain[2:]}


def _work(side: dict[str, Any]) -> float:
    seconds: float = side["logps_seconds"] + side["update_seconds"]
    return seconds


def _add_rates(table: PolicySpeedTable, side: dict[str, Any], rate: float) -> None:
    """Distinct tokens a second, and the share of the matrix rate that is needed work.

    Needed is a forward pass and the gradient of the inputs, 4 flops a weight and token (frozen weights have no gradient
    of their own), of the body for prompts once and completions, of the head for completions; 2 more for each pass that
    the algorithm makes without gradients; 6 of the body for a critic. Recomputing and padding count as nothing.
    """
    shape = SHAPES[table.shape]
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    body = shape["num_hidden_layers"] * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner)
    completions = side["completion_tokens"] / table.num_iterations
    distinct = table.prompts_per_step * table.prompt_tokens + completions
    once = body * distinct + hidden * shape["vocab_size"] * completions
    passes = 4 + 2 * ((table.rollout == "vllm" or table.num_iterations > 1) + (table.beta > 0)) / table.num_iterations
    needed = passes * once + 6 * body * distinct * CONTENDERS[table.algorithm].critic
    side["tokens_per_second"] = distinct / side["step_seconds"]
    side["share_of_matrix_rate"] = needed / _work(side) / rate
