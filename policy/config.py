"""The `policy` table: which reward a policy climbs, and how.

Fields that exist in Transformers, TRL or PEFT keep their names.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.loader import Table

RewardName = Literal[
    "untrained", "gold", "random", "format", "length", "raw", "rpr", "constant", "random_phrases", "rpr_only"
]
NEEDS_RUNG: frozenset[str] = frozenset({"raw", "rpr", "constant", "random_phrases"})


class PolicyTable(Table):
    """Settings of one cell.

    Attributes:
        reward: a row of `policy.rewards.REWARDS`; `untrained` answers with the base as it is.
        rung: the rung that scores, where the reward needs one.
        algorithm: `grpo`.
        seed: seed of the policy; the run's seed where it is not given.
        model_name_or_path: the policy to start from; the task's own base where it is not given.
        control_phrases: phrase set of the control `random_phrases`.
        random_rate: chance of reward 1 under `random`.
        prompts_per_step: prompts of one rollout; times `num_generations` completions.
        num_generations: completions a prompt (G).
        num_iterations: updates a rollout (mu); with 1 nothing is ever clipped.
        gradient_accumulation_steps: pieces a rollout's update is cut into, to fit in memory.
        max_steps: optimizer steps.
        max_completion_length: in tokens; the task's own limit where it is not given.
        lora_r: rank of LoRA on all linear layers; 0 trains all weights.
        dev_every: the dev prompts are answered every so many steps; 0 never.
        save_steps: a checkpoint to go on from, every so many steps.
        n_eval_samples: answers an eval prompt, for the judge.
        eval_temperature, eval_top_p, eval_top_k: how those answers are sampled.
        generation_batch_size: completions sampled at once for dev and eval; it does not change them.
        cpu_threads: threads on a CPU.
    """

    reward: RewardName = "untrained"
    rung: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,40}$")
    algorithm: Literal["grpo"] = "grpo"
    seed: int | None = Field(None, ge=0)
    model_name_or_path: str | None = None
    control_phrases: str = "advice-random"
    random_rate: float = Field(0.5, ge=0, le=1)

    learning_rate: float = Field(1e-6, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "constant_with_warmup"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    prompts_per_step: int = Field(16, ge=1)
    num_generations: int = Field(8, ge=2)
    num_iterations: int = Field(1, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    gradient_checkpointing: bool = False
    bf16: bool = False
    max_steps: int = Field(60, ge=1)
    max_completion_length: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=1e-3, le=100)
    beta: float = Field(0.0, ge=0)
    epsilon: float = Field(0.2, gt=0)
    epsilon_high: float | None = Field(None, gt=0)
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    lora_r: int = Field(16, ge=0)
    lora_alpha: int = Field(32, ge=1)

    dev_every: int = Field(20, ge=0)
    save_steps: int = Field(50, ge=1)
    n_eval_samples: int = Field(1, ge=1)
    eval_temperature: float = Field(1.0, ge=0)
    eval_top_p: float = Field(1.0, gt=0, le=1)
    eval_top_k: int = Field(0, ge=0)
    generation_batch_size: int = Field(128, ge=1)
    cpu_threads: int = Field(1, ge=1, le=1024)

    @model_validator(mode="before")
    @classmethod
    def _rung_as_text(cls, data: object) -> object:
        """YAML reads `rung: 65` as a number."""
        if isinstance(data, dict) and isinstance(data.get("rung"), int):
            return {**data, "rung": str(data["rung"])}
        return data

    @model_validator(mode="after")
    def _combinations(self) -> PolicyTable:
        if self.reward in NEEDS_RUNG and self.rung is None:
            raise ValueError(f"reward {self.reward} needs a rung, for example policy.rung=65")
        if self.reward not in NEEDS_RUNG and self.rung is not None:
            raise ValueError(f"reward {self.reward} reads no reward model; remove rung {self.rung}")
        if (self.prompts_per_step * self.num_generations) % self.gradient_accumulation_steps:
            raise ValueError(
                f"prompts_per_step * num_generations ({self.prompts_per_step * self.num_generations}) must be a "
                f"multiple of gradient_accumulation_steps ({self.gradient_accumulation_steps})"
            )
        return self


DOES_NOT_DECIDE = frozenset({"save_steps", "generation_batch_size"})
"""Fields that may change without changing what a cell holds."""


def cell_name(table: PolicyTable, run_seed: int) -> str:
    """The name of a cell's folder, from what tells cells of one experiment apart."""
    if table.reward == "untrained":
        return "untrained"
    rung = f"-rung{table.rung}" if table.rung is not None else ""
    return f"{table.reward}{rung}-{table.algorithm}-s{run_seed if table.seed is None else table.seed}"
