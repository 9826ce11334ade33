"""GRPO through TRL's GRPOTrainer, with one reward callable, keyed rollouts and an audit of every completion.

TRL draws rollouts from the global generator; it is set from (seed, step) before each one, so a resumed run samples
what an undisturbed one would have. Only `_generate_and_score_completions(inputs)` is overridden, whose signature and
output keys have been stable since TRL 1.0; `tests/test_grpo.py` fails when they change.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig, GRPOTrainer

from configs.errors import UserError
from configs.keyed import keyed_seed
from configs.terminal import progress_bar
from policy.answers import answer_prompts, summarise
from policy.audit import COMPLETIONS_FILE, METRICS_FILE, Audit, Metrics
from policy.config import PolicyTable
from policy.rewards import REWARDS, RewardSettings, Rollout, logits_of
from rm.scorer import RungScorer
from rm.training import last_complete_checkpoint, mark_complete
from tasks.records import Prompt, Task


class RewardCallable:
    """TRL's reward function: completions in, rewards out; the parts go to the audit and the log."""

    __name__ = "reward"

    def __init__(
        self,
        task: Task,
        prompts: Sequence[Prompt],
        settings: RewardSettings,
        scorer: RungScorer | None,
        audit: Audit,
    ) -> None:
        self.task, self.settings, self.scorer, self.audit = task, settings, scorer, audit
        self.prompts = {prompt.prompt_id: prompt for prompt in prompts}

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        prompt_id: list[str],
        trainer_state: TrainerState,
        log_metric: Any,
        **_: Any,
    ) -> list[float | None]:
        """Rewards of a batch in its order; None excludes a completion from learning."""
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        asked = [self.prompts[name] for name in prompt_id]
        responses = [self.task.read(text) for text in texts]
        grades = [self.task.grade(prompt, text) for prompt, text in zip(asked, texts, strict=True)]
        logits: list[float | None] = [None] * len(texts)
        if self.scorer is not None:
            logits = logits_of(self.scorer, self.task, asked, responses)
        limit = self.settings.max_new_tokens
        seen: dict[str, int] = {}
        rollouts = []
        for i, name in enumerate(prompt_id):
            sample = seen.get(name, 0)
            seen[name] = sample + 1
            rollouts.append(
                Rollout(
                    prompt=asked[i],
                    sample=sample,
                    step=trainer_state.global_step,
                    completion=texts[i],
                    n_tokens=len(completion_ids[i]),
                    truncated=len(completion_ids[i]) >= limit,
                    response=responses[i],
                    grade=grades[i],
                    logit=logits[i],
                )
            )
        function = REWARDS[self.settings.table.reward].function
        parts = [function(rollout, self.settings) for rollout in rollouts]
        self.audit.add(rollouts, parts)
        self._log(rollouts, parts, log_metric)
        return [part.reward for part in parts]

    def _log(self, rollouts: list[Rollout], parts: list[Any], log_metric: Any) -> None:
        log_metric("well_formed", statistics.fmean(r.response.well_formed for r in rollouts))
        for style in sorted({r.grade.style for r in rollouts}):
            log_metric(f"style/{style}", statistics.fmean(r.grade.style == style for r in rollouts))
        figures = {
            "gold": [r.grade.gold for r in rollouts],
            "score": [part.score for part in parts],
            "rpr": [part.rpr for part in parts],
            "bonus": [part.bonus for part in parts],
        }
        for name, values in figures.items():
            known = [value for value in values if value is not None]
            if known:
                log_metric(name, statistics.fmean(known))


class LadderGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose rollouts are keyed by step and whose advantages reach the audit."""

    audit: Audit
    rollout_seed: int

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        torch.manual_seed(keyed_seed(self.rollout_seed, "rollout", self.state.global_step) % 2**63)
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.audit.write(output["advantages"].tolist())
        return output


class CellCallback(TrainerCallback):
    """Writes metrics, answers the dev prompts now and then, completes checkpoints, shows progress."""

    def __init__(
        self, table: PolicyTable, task: Task, dev: Sequence[Prompt], metrics: Metrics, max_new_tokens: int, seed: int
    ) -> None:
        self.table, self.task, self.dev, self.metrics = table, task, dev, metrics
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the progress bar; look at the untouched policy once."""
        self.bar = progress_bar(self.table.max_steps, "training the policy")
        self.bar.update(state.global_step)
        if state.global_step == 0 and self.table.dev_every:
            self._look(kwargs["model"], 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        self.bar.update()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a step's metrics, then answer the dev prompts where due."""
        if not logs or "loss" not in logs:
            return
        if logs["loss"] != logs["loss"]:
            raise UserError(f"policy: the loss is NaN at step {state.global_step}; lower policy.learning_rate")
        self.metrics.add(state.global_step, logs)
        self.bar.set_postfix_str(f"reward {logs.get('reward', float('nan')):.3f}")
        every = self.table.dev_every
        if every and (state.global_step % every == 0 or state.global_step == self.table.max_steps):
            self._look(kwargs["model"], state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark the checkpoint complete."""
        mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", {})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.bar.close()

    def _look(self, model: PreTrainedModel, step: int) -> None:
        assert self.tokenizer is not None
        rows = answer_prompts(
            model, self.tokenizer, self.task, self.dev, self.table, self.max_new_tokens, self.seed, "dev answers", 1
        )
        found = summarise(rows)
        styles = {f"dev/style/{style}": share for style, share in found.pop("style_shares").items()}
        self.metrics.add(step, {f"dev/{name}": value for name, value in found.items()} | styles)


def train_grpo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    prompts: dict[str, list[Prompt]],
    settings: RewardSettings,
    scorer: RungScorer | None,
    folder: Path,
    scratch: Path,
    run_seed: int,
) -> PreTrainedModel:
    """Train one policy in place; an interrupted run goes on from its last complete checkpoint.

    Args:
        model, tokenizer: the policy to start from.
        task: reads and grades completions.
        prompts: the splits `train` and `dev`.
        settings: what the reward needs; `settings.seed` keys rollouts and order.
        scorer: the rung, where the reward needs one.
        folder: where `metrics.jsonl` and `completions.parquet` go.
        scratch: where checkpoints go.
        run_seed: keys the dev answers, which all cells share.

    Returns:
        The trained model, wrapped by PEFT where LoRA was asked for.
    """
    table = settings.table
    audit = Audit(scratch / "audit")
    metrics = Metrics(folder / METRICS_FILE)
    callback = CellCallback(table, task, prompts["dev"], metrics, settings.max_new_tokens, run_seed)
    callback.tokenizer = tokenizer
    rows = [{"prompt": prompt.messages, "prompt_id": prompt.prompt_id} for prompt in prompts["train"]]
    if len(rows) < table.prompts_per_step:
        raise UserError(
            f"policy.prompts_per_step: {table.prompts_per_step} prompts a step, but there are only {len(rows)} "
            "training prompts"
        )
    torch.manual_seed(keyed_seed(settings.seed, "policy training") % 2**63)
    lora = LoraConfig(task_type="CAUSAL_LM", r=table.lora_r, lora_alpha=table.lora_alpha, target_modules="all-linear")
    trainer = LadderGRPOTrainer(
        model=model,
        reward_funcs=RewardCallable(task, prompts["train"], settings, scorer, audit),
        args=_grpo_config(table, settings, scratch),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora if table.lora_r else None,
        callbacks=[callback],
    )
    trainer.audit, trainer.rollout_seed = audit, settings.seed
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_complete_checkpoint(scratch)
    metrics.take_up(0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-")))
    if checkpoint is None:
        metrics.path.unlink(missing_ok=True)
        metrics.rows.clear()
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        raise UserError(
            f"policy: the policy's probabilities are no numbers any more at step {trainer.state.global_step}; lower "
            "policy.learning_rate"
        ) from None
    audit.merge(folder / COMPLETIONS_FILE, table.max_steps)
    return trainer.model


def _grpo_config(table: PolicyTable, settings: RewardSettings, scratch: Path) -> GRPOConfig:
    completions = table.prompts_per_step * table.num_generations
    return GRPOConfig(
        output_dir=str(scratch),
        learning_rate=table.learning_rate,
        lr_scheduler_type=table.lr_scheduler_type,
        warmup_steps=table.warmup_steps,
        weight_decay=table.weight_decay,
        max_grad_norm=table.max_grad_norm,
        per_device_train_batch_size=completions // table.gradient_accumulation_steps,
        gradient_accumulation_steps=table.gradient_accumulation_steps,
        gradient_checkpointing=table.gradient_checkpointing,
        num_generations=table.num_generations,
        num_iterations=table.num_iterations,
        max_steps=table.max_steps,
        max_completion_length=settings.max_new_tokens,
        temperature=table.temperature,
        top_p=1.0,
        top_k=0,
        beta=table.beta,
        epsilon=table.epsilon,
        epsilon_high=table.epsilon_high,
        loss_type=table.loss_type,
        scale_rewards=table.scale_rewards,
        bf16=table.bf16,
        seed=keyed_seed(settings.seed, "policy order") % 2**31,
        save_strategy="steps",
        save_steps=table.save_steps,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
    )
