"""Our own scorer: answers in, float32 logits out, the same alone as in any batch up to rounding.

An answer is written after its chat with the tokenizer's chat template, once, and the logit is read at the last token.
Rows are padded on the right and grouped by length, so a causal body never sees the padding. Nothing is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import UserError
from rm.backbone import load_reward_model, trunk_and_head
from tasks.records import Message


def encode_answer(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> list[int]:
    """Token ids of a chat with its answer, exactly as the model is trained and scored.

    Raises:
        UserError: the tokenizer has no chat template, or the template doubles the first token.
    """
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer {tokenizer.name_or_path!r} has no chat template; use a chat model's tokenizer")
    chat = [*messages, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
        raise UserError(f"the tokenizer {tokenizer.name_or_path!r} writes its first token twice")
    return ids


@torch.inference_mode()
def score_ids(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    batch_tokens: int,
    advance: Callable[[int], object] = lambda done: None,
) -> NDArray[np.float64]:
    """Logits of tokenised rows, shape (N,), in the order of `rows`.

    Args:
        model: a reward model (plain or with an adapter), in evaluation mode.
        rows: token ids of each row, none empty.
        batch_tokens: how many tokens, padding included, go through at once; at least one row does.
        advance: told how many more rows are done.
    """
    trunk, head = trunk_and_head(model)
    device = next(trunk.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    logits = np.empty(len(rows), dtype=np.float64)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * len(rows[order[stop]]) <= batch_tokens:
            stop += 1
        batch = order[start:stop]
        lengths = torch.tensor([len(rows[i]) for i in batch])
        ids_BT = torch.zeros((len(batch), int(lengths.max())), dtype=torch.long)
        for line, i in enumerate(batch):
            ids_BT[line, : len(rows[i])] = torch.tensor(rows[i])
        mask_BT = torch.arange(ids_BT.shape[1])[None, :] < lengths[:, None]
        output = trunk(input_ids=ids_BT.to(device), attention_mask=mask_BT.long().to(device), use_cache=False)
        last_BH = output.last_hidden_state[torch.arange(len(batch), device=device), (lengths - 1).to(device)]
        logits[batch] = head(last_BH).squeeze(-1).double().cpu().numpy()
        advance(len(batch))
        start = stop
    return logits


class RungScorer:
    """A rung, loaded: `logits(chats, answers)`."""

    def __init__(self, folder: Path, batch_tokens: int, device: str = "cpu", dtype: torch.dtype = torch.float32):
        self.folder = folder
        self.batch_tokens = batch_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = load_reward_model(folder, dtype, device)

    def logits(self, chats: Sequence[Sequence[Message]], answers: Sequence[str]) -> NDArray[np.float64]:
        """Raw logits of answers to chats, shape (N,)."""
        rows = [encode_answer(self.tokenizer, chat, answer) for chat, answer in zip(chats, answers, strict=True)]
        return score_ids(self.model, rows, self.batch_tokens)
