"""The `rm` table: how the reward model is trained and which rungs are kept.

Fields that exist in Transformers, TRL or PEFT keep their names.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from configs.loader import Table


class RMTable(Table):
    """Settings of reward-model training.

    Attributes:
        model_name_or_path: backbone; the task's own base where it is not given.
        extra_layers: fresh transformer layers put on top of the backbone (for the tiny worlds, whose bases are too
            shallow to compare an answer with its prompt).
        lora_r: rank of LoRA on all linear layers; 0 trains all weights.
        seed: seed of the reward model; the run's seed where it is not given.
        per_device_train_batch_size: pairs a step and device.
        max_steps: optimizer steps.
        max_length: pairs with a longer side, in tokens, are dropped and counted; nothing is cut.
        max_dropped_share: the stage stops when more than this share of the training pairs is dropped for length.
        center_rewards_coefficient: weight of (chosen + rejected)^2, which keeps logits near zero.
        ema_decay: decay of the averaged weights that are evaluated and kept; 0 keeps the raw weights.
        bf16: train the body in bfloat16; the head is always float32.
        ladder: wanted accuracies in percent, one rung each.
        ladder_tolerance: a rung further than this from its target, in points, is reported as missed.
        dense_evaluation_steps: up to this step the selection pairs are scored every `dense_evaluation_every` steps,
            later every `evaluation_every`.
        n_selection_pairs: selection pairs scored at each evaluation; all of them where it is not given.
        n_reference_samples: answers of the untrained policy a dev prompt, on which score units are measured.
        eval_batch_tokens: token budget of one scoring batch, padding included; it does not change the scores.
        save_steps: a checkpoint to go on from, every so many steps.
        cpu_threads: threads on a CPU.
    """

    model_name_or_path: str | None = None
    extra_layers: int = Field(0, ge=0, le=4)
    lora_r: int = Field(16, ge=0)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    seed: int | None = Field(None, ge=0)
    learning_rate: float = Field(1e-4, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: int = Field(10, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    per_device_train_batch_size: int = Field(8, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    gradient_checkpointing: bool = False
    max_steps: int = Field(500, ge=1)
    max_length: int = Field(1024, ge=8)
    max_dropped_share: float = Field(0.05, ge=0, le=1)
    center_rewards_coefficient: float = Field(0.01, ge=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    bf16: bool = False
    ladder: list[int] = Field([55, 65, 75, 80, 85, 90], min_length=1)
    ladder_tolerance: float = Field(3.0, gt=0)
    dense_evaluation_steps: int = Field(40, ge=0)
    dense_evaluation_every: int = Field(3, ge=1)
    evaluation_every: int = Field(20, ge=1)
    n_selection_pairs: int | None = Field(None, ge=10)
    n_reference_samples: int = Field(4, ge=1)
    eval_batch_tokens: int = Field(16384, ge=64)
    save_steps: int = Field(100, ge=1)
    cpu_threads: int = Field(1, ge=1, le=1024)

    @field_validator("ladder")
    @classmethod
    def _rungs_rise(cls, ladder: list[int]) -> list[int]:
        if any(not 50 < target < 100 for target in ladder):
            raise ValueError(f"targets are accuracies in percent between 51 and 99, found {ladder}")
        if sorted(set(ladder)) != ladder:
            raise ValueError(f"targets must rise, each once, found {ladder}")
        return ladder

    @model_validator(mode="after")
    def _combinations(self) -> RMTable:
        if self.extra_layers and self.lora_r:
            raise ValueError("extra_layers needs lora_r: 0, because LoRA would leave a fresh layer at random weights")
        return self
