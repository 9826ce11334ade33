"""TRL's RewardTrainer with our losses and packed rows: each pair's prompt is computed once, nothing is padded.

A step's pairs are cut into as many packed rows as a token budget asks for, and their gradients are added up:

    loss = sum over the step's pairs of weight * pair_loss / sum of weights

so neither the budget nor the number of processes changes the loss. Over several processes the gradients are summed
here, once a step, because the forward goes to the body and the head without the wrapper that would do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.distributed import ReduceOp, all_reduce
from trl import RewardTrainer

from configs.errors import UserError
from rm.backbone import trunk_and_head
from rm.config import RMTable
from rm.losses import TrainingPair, pair_losses
from rm.packed.attention import can_pack, last_hidden, packed_body
from rm.packed.fused_lora import fused_layers
from rm.packed.layout import batches_by_tokens, pack, packed_length
from rm.scorer import padded_last_hidden


class PairTrainer(RewardTrainer):
    """Trains on `TrainingPair`s.

    Args:
        table: settings; `per_device_train_batch_size` times `gradient_accumulation_steps` pairs a step and device.
        pairs: the training pairs.
        kwargs: of RewardTrainer, without `train_dataset` and `data_collator`.
    """

    def __init__(self, *, table: RMTable, pairs: Sequence[TrainingPair], **kwargs: Any) -> None:
        super().__init__(train_dataset=_as_dataset(pairs), data_collator=_as_batch, **kwargs)
        self.table = table
        self.packed = rows_are_packed(table, self.model)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Transformers' trainer; on a GPU with fused layers where they compute the same."""
        with ExitStack() as stack:
            if self.packed and self.accelerator.device.type == "cuda":
                stack.enter_context(fused_layers(self.model))
            return super().train(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Gradients of one step's pairs; returns its loss."""
        model.train()
        pairs: list[TrainingPair] = inputs["pairs"]
        bare = self.accelerator.unwrap_model(model)
        n_processes = self.accelerator.num_processes
        total_weight = torch.tensor(sum(pair.weight for pair in pairs), device=self.accelerator.device)
        if n_processes > 1:
            all_reduce(total_weight, op=ReduceOp.SUM)
        loss = torch.zeros((), device=self.accelerator.device)
        lengths = [packed_length((pair.chosen, pair.rejected)) for pair in pairs]
        with packed_body(trunk_and_head(bare)[0]) if self.packed else nullcontext():
            for members in batches_by_tokens(lengths, self.table.batch_tokens):
                share: Any = self._share_of_loss(bare, [pairs[i] for i in members], total_weight)
                share.backward()  # not the accelerator's: it would divide by accumulation steps that are done here
                loss += share.detach()
        if n_processes > 1:
            for parameter in bare.parameters():
                if parameter.requires_grad:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    all_reduce(parameter.grad, op=ReduceOp.SUM)
        return loss * n_processes  # the trainer logs the mean over processes

    def _share_of_loss(self, model: nn.Module, pairs: list[TrainingPair], total_weight: torch.Tensor) -> torch.Tensor:
        with self.compute_loss_context_manager():
            chosen_B, rejected_B = pair_logits(model, pairs, self.packed)
        device = chosen_B.device
        weight_B = torch.tensor([pair.weight for pair in pairs], device=device)
        losses_B = pair_losses(
            chosen_B,
            rejected_B,
            torch.tensor([pair.label for pair in pairs], device=device),
            torch.tensor([pair.margin for pair in pairs], device=device),
            torch.tensor([pair.tie for pair in pairs], device=device),
            loss=self.table.loss,
            label_smoothing=self.table.label_smoothing,
            center_rewards_coefficient=self.table.center_rewards_coefficient,
        )
        return (weight_B * losses_B).sum() / total_weight


def pair_logits(model: nn.Module, pairs: Sequence[TrainingPair], packed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the chosen and the rejected answers, each of shape (B,), float32, with gradients."""
    trunk, head = trunk_and_head(model)
    if packed:
        hidden = last_hidden(trunk, pack([(pair.chosen, pair.rejected) for pair in pairs]))
    else:
        hidden = padded_last_hidden(trunk, [side for pair in pairs for side in (pair.chosen, pair.rejected)])
    logits = head(hidden).squeeze(-1)
    return logits[0::2], logits[1::2]


def rows_are_packed(table: RMTable, model: nn.Module) -> bool:
    """Whether training is packed, by `rm.packed` and by what the backbone allows.

    Raises:
        UserError: packing was asked for and the backbone computes something else packed.
    """
    allowed = can_pack(trunk_and_head(model)[0].config)
    if table.packed is True and not allowed:
        raise UserError("rm.packed: this backbone has a sliding window or attention dropout; set rm.packed: false")
    return allowed and table.packed is not False


def _as_dataset(pairs: Sequence[TrainingPair]) -> Dataset:
    # chosen_ids and rejected_ids are TRL's names for what is tokenised already.
    columns = {"chosen_ids": "chosen", "rejected_ids": "rejected", "label": "label", "margin": "margin"}
    columns |= {"weight": "weight", "tie": "tie"}
    return Dataset.from_dict({name: [getattr(pair, field) for pair in pairs] for name, field in columns.items()})


def _as_batch(rows: list[dict[str, Any]]) -> dict[str, list[TrainingPair]]:
    return {
        "pairs": [
            TrainingPair(row["chosen_ids"], row["rejected_ids"], row["label"], row["margin"], row["weight"], row["tie"])
            for row in rows
        ]
    }
