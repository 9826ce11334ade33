"""The `rm` table: how the reward model is trained and which rungs are kept.

Fields that exist in Transformers, TRL or PEFT keep their names.
"""

from __future__ import annotations

from typing import Any, Literal, TypeGuard

from pydantic import Field, field_validator, model_validator

from configs.loader import Table

Loss = Literal["bradley_terry", "pointwise_mse"]
Route = Literal["early_stop", "fewer_pairs", "label_noise", "smaller_base", "rescaled"]

FIELD_OF_ROUTE: dict[str, str] = {"fewer_pairs": "train_pairs", "label_noise": "label_noise"}
"""The field that a route's values stand for; `smaller_base` changes the backbone instead."""
ONE_TRAINING = ("early_stop", "rescaled")
"""Routes whose rungs are checkpoints of one training."""


class RMTable(Table):
    """Settings of reward-model training.

    Attributes:
        model_name_or_path: backbone; the task's own base where it is not given.
        load_in_4bit: QLoRA (arXiv 2305.14314): the frozen body in 4 bits; needs a GPU and the extra `bitsandbytes`.
        extra_layers: fresh transformer layers put on top of the backbone (for the tiny worlds, whose bases are too
            shallow to compare an answer with its prompt).
        lora_r: rank of LoRA on all linear layers; 0 trains all weights.
        seed: seed of the reward model; the run's seed where it is not given.
        per_device_train_batch_size: pairs a step and device, times `gradient_accumulation_steps`.
        packed: train on rows in which pairs stand one after another without padding, the prompt stored once; `auto`
            where the backbone allows it. It does not change the loss.
        batch_tokens: token budget of one packed row in training; as many rows as a step's pairs need are accumulated.
            It does not change the loss.
        max_steps: optimizer steps.
        max_length: training pairs with a longer side, in tokens, are dropped and counted; nothing is cut.
        held_out_max_length: the same for selection and measurement pairs; the backbone's context where it is not
            given, so that the measured accuracy does not depend on `max_length`.
        max_dropped_share: the stage stops when more than this share of the training pairs, or of the held-out pairs, is
            dropped for length.
        loss: `bradley_terry`, or `pointwise_mse`, the scalar against the label 0 or 1 (arXiv 2505.22653, 3.1).
        center_rewards_coefficient: weight of (chosen + rejected)^2, which keeps logits near zero.
        label_smoothing: eps; a label l becomes l (1 - eps) + (1 - l) eps.
        ties: training pairs without a preference: `drop`, `soft` (label 1/2) or `margin` (a zone of indifference of
            half-width `tie_margin`, in logits). Held-out ties are never counted. Ties reach this room only with
            `tasks.ties: keep`.
        strength: how the strength 1..3 of a preference is used: `ignore`; `margin` (`margin_per_strength` logits a
            step); `weight` (strength ** `weight_power`); `soft` (a soft label, see `soft_label`).
        soft_label: from the strength, sigma(`soft_logit_per_strength` * strength), or the share of the individual
            `annotators` who prefer the chosen answer (no preference counts half).
        label_noise: this share of the training pairs, drawn by pair_id, has its sides swapped; held-out pairs never.
        train_pairs: train on so many pairs, drawn by pair_id; smaller numbers are subsets of larger ones.
        route: how the rungs come to differ in accuracy. `early_stop`: checkpoints of one training. `fewer_pairs`,
            `label_noise`, `smaller_base`: one training a value of `route_values`, which stands for `train_pairs`,
            `label_noise`, or the backbone (a model's name or path, or a number of layers kept of the backbone).
            `rescaled`: checkpoints of one training whose score units are stretched until their scores spread on the
            reference answers as those of the rung `rescale_to` do; only units.json differs from `early_stop`.
        route_checkpoints: `last` takes each training's end as its one candidate for a rung, so that early stopping is
            not mixed in; `all` takes every evaluation.
        ema_decay: decay of the averaged weights that are evaluated and kept; 0 keeps the raw weights.
        bf16: compute the body in bfloat16; weights that are trained, and the head, are always float32.
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
    load_in_4bit: bool = False
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
    packed: Literal["auto", True, False] = "auto"
    batch_tokens: int = Field(16384, ge=64)
    max_steps: int = Field(500, ge=1)
    max_length: int = Field(1024, ge=8)
    held_out_max_length: int | None = Field(None, ge=8)
    max_dropped_share: float = Field(0.05, ge=0, le=1)
    loss: Loss = "bradley_terry"
    center_rewards_coefficient: float = Field(0.01, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    ties: Literal["drop", "soft", "margin"] = "drop"
    tie_margin: float = Field(1.0, gt=0)
    strength: Literal["ignore", "margin", "weight", "soft"] = "ignore"
    margin_per_strength: float = Field(0.3, gt=0)
    weight_power: float = Field(1.0, gt=0)
    soft_label: Literal["strength", "annotators"] = "strength"
    soft_logit_per_strength: float = Field(1.0, gt=0)
    label_noise: float = Field(0.0, ge=0, le=0.5)
    train_pairs: int | None = Field(None, ge=2)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    bf16: bool = False
    route: Route = "early_stop"
    route_values: list[int | float | str] = Field(default_factory=list)
    route_checkpoints: Literal["last", "all"] = "last"
    rescale_to: int | None = None
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
        for wrong, reason in self._contradictions():
            if wrong:
                raise ValueError(reason)
        return self

    def _contradictions(self) -> list[tuple[bool, str]]:
        pointwise, given = self.loss == "pointwise_mse", self.model_fields_set
        return [
            (
                bool(self.extra_layers and self.lora_r),
                "extra_layers needs lora_r: 0, because LoRA would leave a fresh layer at random weights",
            ),
            (
                self.load_in_4bit and not self.lora_r,
                "load_in_4bit needs lora_r above 0: 4-bit weights cannot be trained",
            ),
            (
                pointwise and self.center_rewards_coefficient > 0,
                "loss: pointwise_mse fixes the level of the logits by its labels; set center_rewards_coefficient: 0",
            ),
            (
                pointwise and self.label_smoothing > 0,
                "label_smoothing belongs to loss: bradley_terry; of pointwise_mse it would only shrink the logits",
            ),
            (
                pointwise and self.ties == "margin",
                "ties: margin is a zone of indifference of logit differences, which pointwise_mse does not look at; "
                "use ties: soft or drop",
            ),
            (
                pointwise and self.strength == "margin",
                "strength: margin is one between logits, which pointwise_mse does not compare; use weight or soft",
            ),
            (
                "tie_margin" in given and self.ties != "margin",
                f"tie_margin is only used with ties: margin, found ties: {self.ties}",
            ),
            (
                "margin_per_strength" in given and self.strength != "margin",
                f"margin_per_strength is only used with strength: margin, found strength: {self.strength}",
            ),
            (
                "weight_power" in given and self.strength != "weight",
                f"weight_power is only used with strength: weight, found strength: {self.strength}",
            ),
            (
                bool({"soft_label", "soft_logit_per_strength"} & given) and self.strength != "soft",
                f"soft_label and soft_logit_per_strength are only used with strength: soft, found {self.strength}",
            ),
            *self._route_contradictions(),
        ]

    def _route_contradictions(self) -> list[tuple[bool, str]]:
        several, values = self.route not in ONE_TRAINING, self.route_values
        field = FIELD_OF_ROUTE.get(self.route)
        return [
            (several and not values, f"route: {self.route} needs route_values, one training each"),
            (not several and bool(values), f"route: {self.route} is one training and takes no route_values"),
            (len(set(map(str, values))) < len(values), f"route_values must differ, found {values}"),
            (
                self.route == "fewer_pairs" and not all(_whole(v) and v >= 2 for v in values),
                f"route_values of fewer_pairs are whole numbers of pairs, at least 2, found {values}",
            ),
            (
                self.route == "label_noise" and not all(_number(v) and 0 <= v < 0.5 for v in values),
                f"route_values of label_noise are shares from 0 to below 0.5, where nothing is left to learn, "
                f"found {values}",
            ),
            (
                self.route == "smaller_base" and not all(isinstance(v, str) or (_whole(v) and v >= 1) for v in values),
                f"route_values of smaller_base are models, or numbers of layers kept, found {values}",
            ),
            (
                field is not None and field in self.model_fields_set,
                f"route: {self.route} sets {field} for each training itself; leave {field} out",
            ),
            (
                (self.rescale_to is not None) != (self.route == "rescaled"),
                "rescale_to and route: rescaled need each other: scores are stretched to the spread of that rung",
            ),
            (
                self.rescale_to is not None and self.rescale_to not in self.ladder,
                f"rescale_to must be one of the ladder's rungs {self.ladder}, found {self.rescale_to}",
            ),
        ]


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> TypeGuard[int | float]:
    return _whole(value) or isinstance(value, float)
