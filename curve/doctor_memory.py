"""What `rewardladder doctor` says of GPU memory: peaks of the reward model and of a cell, and what to change.

Predicted from the models' shapes (rm.memory, policy.memory), without loading a weight. A run fits where the prediction,
with a margin for what the allocator keeps and the driver takes, is below the memory of the GPU.
"""

from __future__ import annotations

from typing import Any

from configs.loader import Experiment
from policy.config import PolicyTable
from policy.memory import Needs, policy_needs
from rm.config import RMTable
from rm.memory import GIB, TRAINED_BYTES, BodyShape, lora_training_bytes

MARGIN = 1.06
CONTEXT_BYTES = 0.6 * GIB
LONGEST_PROMPT = 2048
"""Tokens of a prompt where `policy.max_prompt_length` does not say."""


def shape_of(name: str) -> BodyShape:
    """The shape of a model from its configuration alone.

    Raises:
        UserError: the configuration cannot be read, or is no decoder's.
    """
    from tasks.base_folder import load_config

    return BodyShape.of(load_config(name).to_dict(), name)


def reward_model_phases(table: RMTable, shape: BodyShape) -> dict[str, float]:
    """Bytes of the two phases: training, and checking a rung, which is loaded anew beside the trained model."""
    loaded = shape.weight_bytes(with_head=False) + shape.scoring_bytes(table.eval_batch_tokens)
    if table.lora_r:
        trained = TRAINED_BYTES * shape.lora_parameters(table.lora_r)
        return {
            "training": lora_training_bytes(
                shape, table.lora_r, table.batch_tokens, table.gradient_checkpointing, table.load_in_4bit
            ),
            "checking a rung": shape.weight_bytes(with_head=False, four_bit=table.load_in_4bit) + trained + loaded,
        }
    whole = TRAINED_BYTES * (shape.linear_parameters + shape.other_parameters)
    training = whole + shape.line_bytes(table.batch_tokens, table.gradient_checkpointing)
    return {"training": training, "checking a rung": whole + loaded}


def reward_model_look(experiment: Experiment, gpu_bytes: float | None) -> tuple[bool, str]:
    """Peak of training the reward model."""
    table = experiment.table("rm", RMTable)
    name = table.model_name_or_path or _base(experiment)
    if name is None:
        return True, "the reward model is tiny; less than 1 GiB"
    phases = reward_model_phases(table, shape_of(name))
    phase, peak = max(phases.items(), key=lambda item: item[1])
    advice = _first_of(
        (not table.bf16, "rm.bf16: true"),
        (not table.lora_r, "rm.lora_r: 16"),
        (not table.gradient_checkpointing, "rm.gradient_checkpointing: true"),
        (phase == "checking a rung", "a smaller model: a rung is checked beside the trained one, both in bfloat16"),
        (table.batch_tokens > table.max_length * 2, f"a lower rm.batch_tokens than {table.batch_tokens}"),
        (not table.load_in_4bit, "rm.load_in_4bit: true"),
    )
    return _verdict(f"reward model: {peak / GIB:.1f} GiB at its peak, in {phase}", peak, gpu_bytes, advice)


def policy_look(experiment: Experiment, gpu_bytes: float | None) -> tuple[bool, str]:
    """Peak of a cell."""
    table = experiment.table("policy", PolicyTable)
    name = table.model_name_or_path or _base(experiment)
    if name is None:
        return True, "the policy is tiny; less than 1 GiB"
    needs = needs_of_cell(experiment, table, shape_of(name), gpu_bytes)
    parts = ", ".join(f"{what} {size / GIB:.1f}" for what, size in (needs.staying | needs.phases).items())
    colocated = table.sampler.engine == "vllm" and table.sampler.vllm_mode == "colocate"
    advice = _first_of(
        (not table.bf16, "policy.bf16: true"),
        (not table.lora_r, "policy.lora_r: 16"),
        (needs.largest_phase == "dev and eval answers", "a lower policy.generation_batch_size"),
        (needs.largest_phase == "sampling" and colocated, "a lower policy.sampler.vllm_gpu_memory_utilization"),
        (not table.gradient_checkpointing, "policy.gradient_checkpointing: true"),
        (table.batch_tokens > 4096, f"a lower policy.batch_tokens than {table.batch_tokens}"),
        (bool(table.lora_r) and not table.share_base, "policy.share_base: true where rung and policy have one base"),
        (not table.load_in_4bit, "policy.load_in_4bit: true"),
    )
    unknown = "; a colocated vLLM's share is not counted, because no GPU is here" if colocated and not gpu_bytes else ""
    said = f"policy: {needs.peak / GIB:.1f} GiB at its peak, in {needs.largest_phase} ({parts}){unknown}"
    return _verdict(said, needs.peak, gpu_bytes, advice)


def needs_of_cell(experiment: Experiment, table: PolicyTable, shape: BodyShape, gpu_bytes: float | None) -> Needs:
    """What a cell of an experiment takes; a colocated sampler's share only where the GPU's size is known."""
    completion = table.max_completion_length or 0
    row = (table.max_prompt_length or LONGEST_PROMPT) + completion
    completions = table.prompts_per_step * table.num_generations
    rung_table = experiment.table("rm", RMTable)
    rung_name = rung_table.model_name_or_path or _base(experiment)
    reads_rung = bool(table.rungs) and table.rung_server is None and rung_name is not None
    colocated = table.sampler.engine == "vllm" and table.sampler.vllm_mode == "colocate"
    share: dict[str, Any] = {}
    if colocated and gpu_bytes:
        share = {
            "sampler_bytes": table.sampler.vllm_gpu_memory_utilization * gpu_bytes,
            "sampler_sleeps": table.sampler.vllm_enable_sleep_mode,
        }
    elif table.sampler.engine == "generate":
        share = {"sampled_tokens": completions * row}
    asked = experiment.tables["tasks"].get("n_eval_prompts") or table.generation_batch_size
    answers = min(table.generation_batch_size, asked * table.n_eval_samples)
    micro_batch = completions // (table.gradient_accumulation_steps * table.num_mini_batches)
    return policy_needs(
        shape,
        lora_r=table.lora_r,
        has_critic=table.algorithm == "ppo",
        line_tokens=micro_batch * row if table.packed is False else max(table.batch_tokens, row),
        checkpointed=table.gradient_checkpointing,
        width=2 if table.bf16 and table.lora_r else 4,
        four_bit=table.load_in_4bit,
        rung=shape_of(rung_name) if reads_rung and rung_name is not None else None,
        rung_is_shared=table.share_base,
        answered_tokens=answers * row,
        **share,
    )


def _base(experiment: Experiment) -> str | None:
    """The named base of the task; None for a taught one."""
    name = experiment.tables["tasks"].get("base")
    return None if name in (None, "taught") else str(name)


def _verdict(said: str, peak: float, gpu_bytes: float | None, advice: str) -> tuple[bool, str]:
    if gpu_bytes is None or peak * MARGIN + CONTEXT_BYTES <= gpu_bytes:
        return True, said
    return False, f"{said}; the GPU has {gpu_bytes / GIB:.0f} GiB: try {advice}"


def _first_of(*choices: tuple[bool, str]) -> str:
    return next((what for holds, what in choices if holds), "a smaller model")


def gpu_bytes_here() -> float | None:
    """The memory of this machine's GPU; None without one."""
    import torch

    return float(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else None
