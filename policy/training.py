"""Trains one policy: the trainer of its algorithm, TRL's configuration, callbacks, and going on after a kill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import GRPOConfig, RLOOConfig

from configs.errors import UserError
from configs.keyed import keyed_seed
from configs.terminal import say
from policy.alarms.callback import ALARMS_FILE, AlarmCallback
from policy.audit import COMPLETIONS_FILE, METRICS_FILE, Audit, Metrics
from policy.callbacks import CellCallback, CompleteCheckpoint
from policy.checkpoints import KeepBest, Looks, copies_needed, restore_best
from policy.config import PolicyTable
from policy.grpo import LadderGRPOTrainer, LadderRLOOTrainer
from policy.ppo import CriticCheckpoint, LadderPPOTrainer
from policy.rewards.callable import RewardCallable
from policy.rewards.label_matching import LabelMatcher
from policy.rewards.table import LogitSource, RewardSettings
from policy.rollouts.train_prompts import repeated_to_fill
from policy.rollouts.vllm_port import take_own_port
from policy.rollouts.vllm_weights import send_without_merging
from policy.updates.divergence import Divergence
from rm.processes import is_main, n_processes, sharding, wait_for_all
from rm.training import last_complete_checkpoint
from tasks.records import Prompt, Task

UNREACHED_RATIO = 1e30
"""The upper end of the range where nothing is to be clipped; a finite float32."""


class TrainedPolicy(NamedTuple):
    """What training made.

    Attributes:
        model: the trained model, wrapped by PEFT where LoRA was asked for.
        weights: all of its weights, in the main process, where they are cut up between processes; else None.
    """

    model: PreTrainedModel
    weights: dict[str, torch.Tensor] | None


def train_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    prompts: dict[str, list[Prompt]],
    settings: RewardSettings,
    scorers: Mapping[str, LogitSource],
    folder: Path,
    scratch: Path,
    run_seed: int,
    matcher: LabelMatcher | None = None,
) -> TrainedPolicy:
    """Train one policy in place; an interrupted run goes on from its last complete checkpoint.

    Args:
        model, tokenizer: the policy to start from.
        task: reads and grades completions.
        prompts: the splits `train` and `dev`.
        settings: what the reward needs; `settings.seed` keys rollouts and order.
        scorers: the rungs that the reward reads, by name.
        folder: where `metrics.jsonl` and `completions.parquet` go.
        scratch: where checkpoints go.
        run_seed: keys the dev answers, which all cells share.
        matcher: where the reward reads a label.

    Returns:
        The trained policy; of several processes, in each of them.

    Raises:
        UserError: an alarm stops the cell.
        RollBack: an alarm sends the cell back; train again from the untrained model, and it goes on from there.
    """
    table = settings.table
    audit = Audit(scratch / "audit")
    metrics = Metrics(folder / METRICS_FILE)
    callback = CellCallback(table, task, prompts["dev"], metrics, settings.max_new_tokens, run_seed)
    callback.tokenizer, callback.divergence = tokenizer, Divergence(model, table)
    alarms = AlarmCallback(table.alarms, metrics, folder / ALARMS_FILE, scratch)
    callbacks: list[TrainerCallback] = [callback, alarms]
    if table.keep != "last":
        callbacks.append(KeepBest(table.keep, Looks.of(table), metrics, scratch))
    rows = [
        {"prompt": prompt.asked, "prompt_id": prompt.prompt_id} for prompt in repeated_to_fill(prompts["train"], table)
    ]
    if len(rows) < table.prompts_per_step:
        raise UserError(
            f"policy.prompts_per_step: {table.prompts_per_step} prompts a step, but there are only {len(rows)} "
            "training prompts"
        )
    torch.manual_seed(keyed_seed(settings.seed, "policy training") % 2**63)
    lora = LoraConfig(task_type="CAUSAL_LM", r=table.lora_r, lora_alpha=table.lora_alpha, target_modules="all-linear")
    if table.sampler.engine == "vllm" and table.sampler.vllm_mode == "colocate":
        take_own_port()
    trainer = TRAINERS[table.algorithm](
        model=model,
        reward_funcs=RewardCallable(task, prompts["train"], settings, scorers, audit, matcher),
        args=trainer_config(table, settings, scratch),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora if table.lora_r else None,
        callbacks=callbacks,
    )
    trainer.audit, trainer.rollout_seed = audit, settings.seed
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_complete_checkpoint(scratch)
    if isinstance(trainer, LadderPPOTrainer):
        trainer.add_critic(table, keyed_seed(settings.seed, "critic"))
        trainer.add_callback(CriticCheckpoint(trainer.critic))
        if checkpoint is not None:
            trainer.critic.load(checkpoint)
    why_not = trainer.pack_updates(table.packed, table.batch_tokens)
    if why_not is not None and table.packed == "auto" and torch.cuda.is_available():
        say(f"policy: updates are padded, which is slower ({why_not})")
    if table.sampler.engine == "vllm" and table.lora_r:
        send_without_merging(trainer.vllm_generation, trainer.model, trainer.model.active_adapter)
    trainer.add_callback(CompleteCheckpoint())
    _take_up(metrics, checkpoint)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        if n_processes() > 1:  # the others may not have met it, and would wait for this one
            raise UserError(
                f"policy: at step {trainer.state.global_step} the policy's probabilities are no numbers any more; "
                "lower policy.learning_rate"
            ) from None
        alarms.generation_failed(trainer.state.global_step)
    wait_for_all()
    restore_best(trainer.model, metrics.rows, table.keep, Looks.of(table), scratch)
    if isinstance(trainer, LadderPPOTrainer):
        trainer.critic.remove()
    if is_main():
        audit.merge(folder / COMPLETIONS_FILE, table.max_steps)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharding() else None
    return TrainedPolicy(trainer.model, weights)


def _take_up(metrics: Metrics, checkpoint: Path | None) -> None:
    """Go on with the metrics of an interrupted run up to its checkpoint; the main process cuts the file first."""
    step = 0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))
    if is_main():
        metrics.take_up(step)
        if checkpoint is None:
            metrics.path.unlink(missing_ok=True)
            metrics.rows.clear()
    wait_for_all()
    if not is_main():
        metrics.take_up(step)


TRAINERS: dict[str, Any] = {
    "grpo": LadderGRPOTrainer,
    "dr_grpo": LadderGRPOTrainer,
    "rloo": LadderRLOOTrainer,
    "ppo": LadderPPOTrainer,
}
"""The trainer of each algorithm."""


def trainer_config(table: PolicyTable, settings: RewardSettings, scratch: Path) -> GRPOConfig | RLOOConfig:
    """TRL's configuration of an algorithm."""
    completions = table.prompts_per_step * table.num_generations
    pieces = table.gradient_accumulation_steps * table.num_mini_batches
    own, shared = _own_settings(table), _shared_settings(table, settings, scratch)
    shared |= {
        "per_device_train_batch_size": completions // pieces // n_processes(),
        "steps_per_generation": pieces,
    }
    if table.num_generations > 1:
        return own.pop("config")(num_generations=table.num_generations, **shared, **own)
    some = next(n for n in range(2, completions + 1) if completions % n == 0)
    config = own.pop("config")(num_generations=some, **shared, **own)
    config.num_generations = 1  # refused when TRL's configuration is made, though its trainer has no need of more
    return config


def _own_settings(table: PolicyTable) -> dict[str, Any]:
    if table.algorithm == "rloo":
        return {"config": RLOOConfig, "normalize_advantages": table.normalize_advantages}
    losses = {
        "grpo": (table.loss_type, table.scale_rewards),
        "dr_grpo": ("dr_grpo", "none"),
        "ppo": (table.loss_type, "none"),
    }
    loss_type, scale_rewards = losses[table.algorithm]
    return {"config": GRPOConfig, "loss_type": loss_type, "scale_rewards": scale_rewards}


def _clipping(table: PolicyTable) -> dict[str, float | None]:
    """TRL's range of the ratio. It has no switch: a ratio is never below 0, nor above the float that stands here."""
    if table.epsilon is None:
        return {"epsilon": 1.0, "epsilon_high": UNREACHED_RATIO}
    return {"epsilon": table.epsilon, "epsilon_high": table.epsilon_high}


def _shared_settings(table: PolicyTable, settings: RewardSettings, scratch: Path) -> dict[str, Any]:
    updates = table.updates_per_rollout
    return {
        "output_dir": str(scratch),
        "learning_rate": table.learning_rate,
        "lr_scheduler_type": table.lr_scheduler_type,
        "warmup_steps": table.warmup_steps,
        "weight_decay": table.weight_decay,
        "max_grad_norm": table.max_grad_norm,
        "gradient_accumulation_steps": table.gradient_accumulation_steps,
        "gradient_checkpointing": table.gradient_checkpointing,
        "num_iterations": table.num_iterations,
        "max_steps": table.max_steps,
        "max_completion_length": settings.max_new_tokens,
        "mask_truncated_completions": table.mask_truncated_completions,
        "temperature": table.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "beta": table.beta or table.kl_coef,
        **_clipping(table),
        "bf16": table.bf16,
        **table.sampler.trl_settings(),
        "seed": keyed_seed(settings.seed, "policy order") % 2**31,
        "save_strategy": "steps",
        "save_steps": -(-table.save_steps // updates) * updates,  # TRL keeps no rollout in a checkpoint
        "save_total_limit": copies_needed(table.alarms.longest_way_back(), table.save_steps),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is no number must be seen
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": not torch.cuda.is_available(),
    }
