"""Training of one reward model (rm.pair_trainer), with averaged weights and a ladder of kept checkpoints.

While it trains, the selection pairs are scored with our own scorer, densely at first; the weights nearest to each
target are kept. A killed run goes on from its last complete checkpoint and ends with the same rungs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import RewardConfig

from configs.errors import UserError
from configs.keyed import keyed_seed
from configs.records import read_json, write_json
from configs.terminal import progress_bar
from rm.config import RMTable
from rm.ladder import Evaluation, evaluation_due, nearest_steps
from rm.losses import TrainingPair, loss_at_chance
from rm.measures import pair_accuracy
from rm.pair_trainer import PairTrainer
from rm.processes import is_main, wait_for_all
from rm.scorer import score_ids

COMPLETE = "complete.json"
AVERAGED = "averaged.safetensors"
CHANCE_LOSS_SHARE = 0.999
"""The run stops at its end when the mean loss of its last steps is above this share of the loss at chance."""


class AveragedWeights:
    """Exponential moving average of the trainable weights, with the warm-up min(decay, (s + 1) / (s + 6))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: p.detach().clone() for name, p in trainable(model)}

    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the weights after step `step` (from 0)."""
        decay = min(self.decay, (step + 1) / (step + 6)) if self.decay else 0.0
        with torch.no_grad():
            for name, parameter in trainable(model):
                self.average[name].lerp_(parameter.detach(), 1.0 - decay)


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that training changes, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


class LadderCallback(TrainerCallback):
    """Averages weights after each step, scores the selection pairs when due, keeps the nearest weights a target."""

    def __init__(
        self, table: RMTable, model: nn.Module, selection: Sequence[tuple[list[int], list[int]]], scratch: Path
    ) -> None:
        self.table = table
        self.averaged = AveragedWeights(model, table.ema_decay)
        self.selection = selection
        self.kept = scratch / "kept"
        self.kept.mkdir(parents=True, exist_ok=True)
        self.evaluations: list[Evaluation] = []
        self.losses: list[float] = []
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the progress bar where training begins or goes on."""
        self.bar = progress_bar(self.table.max_steps, "training the reward model")
        self.bar.update(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Average; evaluate when due."""
        step = state.global_step
        self.averaged.update(model, step - 1)
        self.bar.update()
        table = self.table
        if evaluation_due(
            step, table.dense_evaluation_steps, table.dense_evaluation_every, table.evaluation_every, table.max_steps
        ):
            self._evaluate(model, step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the losses; stop at the first that is not a number."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if loss != loss:
            raise UserError(
                f"rm: the loss is NaN at step {state.global_step}; lower rm.learning_rate or set rm.bf16: false"
            )
        self.losses.append(loss)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Complete the checkpoint with what this callback knows; the marker comes last."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        wait_for_all()
        if not is_main():
            return
        save_file(self.averaged.average, folder / AVERAGED)
        mark_complete(folder, {"evaluations": self.evaluations, "losses": self.losses})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the progress bar."""
        self.bar.close()

    def resume(self, checkpoint: Path) -> None:
        """Take up what `on_save` wrote."""
        record = read_json(checkpoint / COMPLETE)
        self.evaluations, self.losses = record["evaluations"], record["losses"]
        for name, tensor in load_file(checkpoint / AVERAGED).items():
            self.averaged.average[name].copy_(tensor)

    def weights_of(self, step: int) -> dict[str, torch.Tensor]:
        """The kept weights of an evaluation that is nearest to some target."""
        return dict(load_file(self.kept / f"step-{step}.safetensors"))

    def _evaluate(self, model: nn.Module, step: int) -> None:
        with weights_in_place(model, self.averaged.average):
            model.eval()
            rows = [row for pair in self.selection for row in pair]
            logits = score_ids(model, rows, self.table.eval_batch_tokens)
            model.train()
        accuracy = pair_accuracy(logits[0::2] - logits[1::2])
        self.evaluations.append({"step": step, "accuracy": accuracy["estimate"], "n": accuracy["n"]})
        nearest = {evaluation["step"] for evaluation in nearest_steps(self.evaluations, self.table.ladder).values()}
        if step in nearest and is_main():
            save_file(self.averaged.average, self.kept / f"step-{step}.safetensors")
        for path in self.kept.glob("step-*.safetensors"):
            if is_main() and int(path.stem.removeprefix("step-")) not in nearest:
                path.unlink()
        self.bar.set_postfix_str(f"selection accuracy {accuracy['estimate']:.3f}")


class weights_in_place:
    """Put other trainable weights into a model for the length of a block."""

    def __init__(self, model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
        self.model, self.weights = model, weights

    def __enter__(self) -> None:
        with torch.no_grad():
            self.before = {name: p.detach().clone() for name, p in trainable(self.model)}
            for name, parameter in trainable(self.model):
                parameter.copy_(self.weights[name])

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for name, parameter in trainable(self.model):
                parameter.copy_(self.before[name])


def train_ladder(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train_pairs: Sequence[TrainingPair],
    selection_pairs: Sequence[tuple[list[int], list[int]]],
    table: RMTable,
    seed: int,
    scratch: Path,
) -> LadderCallback:
    """Train in place and return the callback, which holds evaluations, losses and the kept weights.

    Args:
        model: from `build_reward_model`.
        tokenizer: its tokenizer.
        train_pairs: what is trained on.
        selection_pairs: token ids of (chosen, rejected), from `encode_answer`.
        table: settings.
        seed: of the order of the pairs.
        scratch: a folder for checkpoints; what an interrupted run left there is taken up.

    Raises:
        UserError: the loss became NaN or never left chance.
    """
    torch.manual_seed(keyed_seed(seed, "reward model training") % 2**31)
    arguments = RewardConfig(
        output_dir=str(scratch),
        learning_rate=table.learning_rate,
        lr_scheduler_type=table.lr_scheduler_type,
        warmup_steps=table.warmup_steps,
        weight_decay=table.weight_decay,
        max_grad_norm=table.max_grad_norm,
        per_device_train_batch_size=table.per_device_train_batch_size * table.gradient_accumulation_steps,
        gradient_checkpointing=table.gradient_checkpointing,
        max_steps=table.max_steps,
        max_length=None,
        remove_unused_columns=False,
        bf16=table.bf16,
        seed=keyed_seed(seed, "reward model order") % 2**31,
        save_strategy="steps",
        save_steps=table.save_steps,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
    )
    callback = LadderCallback(table, model, selection_pairs, scratch)
    trainer = PairTrainer(
        table=table,
        pairs=train_pairs,
        model=model,
        args=arguments,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    _keep_console_quiet(trainer)
    checkpoint = last_complete_checkpoint(scratch)
    if checkpoint is not None:
        callback.resume(checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    chance = loss_at_chance(train_pairs, loss=table.loss, label_smoothing=table.label_smoothing)
    _refuse_chance(callback, table, chance)
    return callback


def mark_complete(checkpoint: Path, record: dict[str, Any]) -> None:
    """Mark a checkpoint as written to its end, with a record for whoever goes on from it."""
    write_json(checkpoint / COMPLETE, record)


def last_complete_checkpoint(scratch: Path) -> Path | None:
    """The latest checkpoint that was written to its end; half-written ones are removed."""
    found = sorted(scratch.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    for path in found:
        if not (path / COMPLETE).exists() and is_main():
            shutil.rmtree(path)
    complete = [path for path in found if (path / COMPLETE).exists()]
    return complete[-1] if complete else None


def _refuse_chance(callback: LadderCallback, table: RMTable, chance: float) -> None:
    last = callback.losses[-max(10, len(callback.losses) // 5) :]
    best = max((evaluation["accuracy"] for evaluation in callback.evaluations), default=0.0)
    mean = sum(last) / max(1, len(last))
    if mean > CHANCE_LOSS_SHARE * chance and best < 0.52:
        raise UserError(
            f"rm: nothing was learned in {table.max_steps} steps (last losses {mean:.4f}, chance {chance:.4f}; best "
            f"selection accuracy {best:.3f}); raise rm.learning_rate or rm.max_steps, or look at the pairs"
        )


def _keep_console_quiet(trainer: PairTrainer) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
