"""How far a policy is from the one it began as: KL(policy || base) per completion, from sampled tokens.

    k1 = sum over a completion's tokens of  log policy(token) - log base(token)        tokens sampled from the policy

Its mean over completions is without bias, its standard error is over prompts, and a single value may be negative
(Schulman 2020, "Approximating KL divergence"). Both distributions are at the temperature of the dev answers, from which
the tokens came; where top-p or top-k cut them the tokens are no sample of the policy, and nothing is estimated.

The base is the policy with its adapter off, or a copy where all weights are trained and small. Nothing is drawn, and no
state of the training is touched.
"""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from policy.config import PolicyTable
from policy.updates.packed_update import CHANGES_LOGITS, trunk_and_lm_head
from policy.updates.token_head import token_statistics
from rm.processes import gathered, sharding
from tasks.openings import asked_text
from tasks.records import Message
from tasks.sampling import Sampled

COPY_BYTES = 2**30
"""Weights that are trained whole are copied for comparison up to this size."""
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Most tokens of one forward pass, padding included; on a CPU more than fit its cache take twice as long."""


class Divergence:
    """Compares a policy with the one it began as, at the looks of a cell.

    Args:
        model: the untrained policy, before a trainer wraps it.
        table: the cell's settings.

    Attributes:
        missing: why nothing is estimated; None where it is.
    """

    def __init__(self, model: Any, table: PolicyTable) -> None:
        self.temperature = table.eval_temperature
        self.missing = _why_not(model, table)
        self.base: Any = None
        if self.missing is None and not table.lora_r:
            self.base = copy.deepcopy(model).requires_grad_(False).eval()
        self._chats: list[list[Message]] = []
        self._sampled: list[Sampled] = []

    def hear(self, chats: Sequence[list[Message]], sampled: Sequence[Sampled]) -> None:
        """Keep the completions of a look, those of this process."""
        self._chats, self._sampled = list(chats), list(sampled)

    def figures(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """What the completions heard last say: `kl`, `kl_se` in nats per completion; None with `kl_missing`."""
        if self.missing is not None:
            return {"kl": None, "kl_se": None, "kl_missing": self.missing}
        values = gathered(self.of_completions(model, tokenizer, self._chats, self._sampled))
        mean = statistics.fmean(values)
        return {"kl": mean, "kl_se": statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None}

    @torch.no_grad()
    def of_completions(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        chats: Sequence[list[Message]],
        sampled: Sequence[Sampled],
    ) -> list[float]:
        """k1 of each completion, in nats.

        Args:
            model: the policy as it is now.
            tokenizer: its tokenizer.
            chats: what was asked, of length N.
            sampled: N completions that the policy sampled.
        """
        prompts = tokenizer([asked_text(tokenizer, chat) for chat in chats], add_special_tokens=False)["input_ids"]
        found = [0.0] * len(sampled)
        lengths = [len(prompt) + len(one.tokens) for prompt, one in zip(prompts, sampled, strict=True)]
        for batch in _batches(lengths, BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cuda"])):
            rows = [(prompts[i], list(sampled[i].tokens)) for i in batch]
            own = self._sums(model, rows)
            if self.base is not None:
                first = self._sums(self.base, rows)
            else:
                with adapter_off(model):
                    first = self._sums(model, rows)
            for i, value in zip(batch, (own - first).tolist(), strict=True):
                found[i] = value
        return found

    def _sums(self, model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
        """(B,): the log-probability of each completion after its prompt, in float64. Rows are padded on the right."""
        trunk, head = trunk_and_lm_head(model)
        width = max(len(prompt) + len(tokens) for prompt, tokens in rows)
        device = head.weight.device
        ids_BT = torch.tensor([[*p, *t, *[0] * (width - len(p) - len(t))] for p, t in rows], device=device)
        mask_BT = torch.tensor(
            [[1] * (len(p) + len(t)) + [0] * (width - len(p) - len(t)) for p, t in rows], device=device
        )
        with _evaluating(model):
            hidden_BTH = trunk(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
        owner_N = torch.tensor([b for b, (_, t) in enumerate(rows) for _ in t], device=device, dtype=torch.long)
        place_N = torch.tensor([len(p) + k for p, t in rows for k in range(len(t))], device=device, dtype=torch.long)
        logps_N, _ = token_statistics(
            hidden_BTH[owner_N, place_N - 1], head, ids_BT[owner_N, place_N], self.temperature
        )
        return torch.zeros(len(rows), dtype=torch.float64, device=device).index_add_(0, owner_N, logps_N.double())


def _why_not(model: Any, table: PolicyTable) -> str | None:
    if not table.dev_every:
        return "the dev prompts are never looked at"
    if table.eval_temperature == 0 or table.eval_top_p < 1 or table.eval_top_k:
        return "dev answers are greedy, or cut by top-p or top-k, so they are no sample of the policy"
    cut = sharding()
    if cut is not None:
        return f"{cut} cuts the weights up"
    changed = [name for name in CHANGES_LOGITS if getattr(model.config, name, None) not in (None, 1, 1.0)]
    if changed or type(model.get_output_embeddings()) is not nn.Linear or not hasattr(model, "model"):
        return "the model changes its logits after the head"
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if not table.lora_r and size > COPY_BYTES:
        return f"all weights are trained, and a copy of them would take {size / 2**30:.1f} GiB"
    return None


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of rows of like lengths, at most so many tokens a batch with their padding, at least one row."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[i] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@contextlib.contextmanager
def adapter_off(model: PeftModel) -> Iterator[None]:
    """The base without its adapter for one block; what is trained stays marked as it was."""
    marked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        with model.disable_adapter():
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(marked[name])


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
