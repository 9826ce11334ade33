"""How fast a policy's update is here, beside the same algorithm on TRL's padded path, in one run on the same rollouts.

    rewardladder policy-speed                                      in small, on a CPU: seconds
    rewardladder policy-speed shape=3b prompt_tokens=512 completion_tokens=1024 prompts_per_step=16
                                                                   Qwen2.5-3B's shape with random weights, on one GPU

`rollout=replay` plays completions of random tokens to both, so that the update alone is measured and every step can be
compared; `rollout=vllm` lets a colocated vLLM sample them, which is the step that a user waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from configs.errors import UserError
from configs.loader import Table
from configs.records import place_to_write, write_json
from configs.terminal import say, show_table


class PolicySpeedTable(Table):
    """Settings of the comparison.

    Attributes:
        algorithm: `grpo` beside TRL's trainer; `ppo` beside the same trainer on the padded path.
        shape: Qwen2.5's shape with random weights.
        rollout: `replay` (completions of random tokens) or `vllm` (colocated, asleep during the update).
        prompts_per_step, num_generations: prompts of a step, and completions of each.
        prompt_tokens, completion_tokens: their lengths.
        spread: of the logarithm of replayed lengths, up to `completion_tokens`; 0 makes all of them that long, which
            is the padded path's best case.
        num_iterations: updates a rollout.
        beta: above 0 a reference is computed as well.
        steps: optimizer steps; the first two are not timed.
        batch_tokens, gradient_checkpointing: of the packed update.
        trl_batch_sizes, trl_checkpointing: settings that the padded path is tried at, `trl_trial_steps` steps each;
            the fastest that fits is compared.
        vllm_memory: vLLM's share of the GPU, 0..1.
        memory_gib: cap on the GPU's memory, for both; all of it where it is not given.
        output: a JSON file for the figures.
    """

    algorithm: Literal["grpo", "ppo"] = "grpo"
    shape: Literal["tiny", "3b", "7b"] = "tiny"
    rollout: Literal["replay", "vllm"] = "replay"
    prompts_per_step: int = Field(4, ge=1)
    num_generations: int = Field(4, ge=2)
    prompt_tokens: int = Field(48, ge=1)
    completion_tokens: int = Field(64, ge=1)
    spread: float = Field(0.0, ge=0, le=3)
    num_iterations: int = Field(1, ge=1)
    beta: float = Field(0.0, ge=0)
    steps: int = Field(5, ge=3)
    lora_r: int = Field(16, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    batch_tokens: int = Field(16384, ge=64)
    gradient_checkpointing: bool = False
    trl_batch_sizes: list[int] = Field([8, 16], min_length=1)
    trl_checkpointing: list[bool] = Field([True, False], min_length=1)
    trl_trial_steps: int = Field(2, ge=2)
    vllm_memory: float = Field(0.25, gt=0, lt=1)
    memory_gib: float | None = Field(None, gt=0)
    seed: int = Field(0, ge=0)
    output: Path | None = None

    @model_validator(mode="after")
    def _whole_rollouts(self) -> PolicySpeedTable:
        completions = self.prompts_per_step * self.num_generations
        if any(size < 1 or completions % size for size in self.trl_batch_sizes):
            raise ValueError(f"trl_batch_sizes must divide prompts_per_step * num_generations ({completions})")
        return self


def show(found: dict[str, Any]) -> None:
    """Print the comparison."""
    rows = [
        (
            name,
            trained["setting"],
            trained["step_seconds"],
            *(trained[f"{part}_seconds"] for part in ("rollout", "logps", "update", "other")),
            round(trained["tokens_per_second"]),
            f"{100 * trained['share_of_matrix_rate']:.0f}%",
            trained["gibibytes"],
        )
        for name, trained in (("packed (ours)", found["ours"]), ("padded, its best", found["padded"]))
    ]
    show_table(
        f"{found['algorithm']}, {found['shape']}, {found['completions']} completions of {found['mean_tokens']:.0f} "
        f"tokens, {found['rollout']}, {found['device']} ({found['matrix_flops'] / 1e12:.1f} TFLOP/s measured), "
        "seconds a step",
        ("update", "setting", "step", "rollout", "passes", "update", "other", "tokens/s", "of matrix rate", "GiB"),
        rows,
    )
    say(
        f"{found['ratio']:.2f} times the padded path's steps a second; without rollouts {found['work_ratio']:.2f} "
        f"times. Losses of the same steps differ by at most {found['largest_loss_difference']:.1e}, gradient norms by "
        f"{100 * found['largest_relative_norm_difference']:.2f}%."
    )
    for name, what in (("ours_and_padded", "packed and padded"), ("padded_and_itself", "padded, at two settings")):
        apart = found[name]
        if apart is None:
            say(f"first step, {what}: not compared (other rollouts, or one setting only)")
        else:
            say(
                f"first step, {what}: gradients differ by {100 * apart['gradient']:.3f}% of their length, "
                f"log-probabilities by {apart['logps_mean']:.1e} in the mean and {apart['logps_most']:.1e} at most."
            )


def run(paths: Sequence[str], table: PolicySpeedTable) -> None:
    """Compare, print, and write the figures where asked to.

    Raises:
        UserError: a path was given, vLLM is asked for and not installed, or the padded path fits at no setting.
    """
    if paths:
        raise UserError(f"policy-speed: {paths[0]!r} is no setting; write key=value, for example shape=3b")
    if table.output:
        place_to_write(table.output, "policy-speed: output")
    from policy.speed.work import compare

    found = compare(table)
    show(found)
    if table.output:
        write_json(table.output, found)
