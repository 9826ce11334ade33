"""Our own scorer: answers in, float32 logits out, the same alone as in any batch up to rounding.

An answer is written after its chat with the tokenizer's chat template, once, and the logit is read at the last token.
Rows are packed without padding and what they share at their beginning is computed once (rm.packed.layout); a backbone
that cannot be packed gets rows padded on the right, which a causal body never sees. Nothing is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import UserError
from configs.records import read_json
from rm.backbone import load_reward_model, load_rung_tokenizer, trunk_and_head
from rm.packed.attention import can_pack, last_hidden
from rm.packed.fused_lora import fused_layers
from rm.packed.layout import batches_by_tokens, groups_of_shared_beginnings, pack, packed_length
from rm.rung_digest import CARD_FILE
from tasks.records import Message

PRIVATE_CHARACTERS = [chr(code) for code in range(0xE000, 0xE100)]
"""Of Unicode's private use area: no template trims them and hardly a text contains them."""
LEAST_SHARED = 16
"""Rows that share fewer first tokens are not worth a group of their own."""


def encode_answer(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> list[int]:
    """Token ids of a chat with its answer, exactly as the model is trained and scored.

    A text that contains one of the tokenizer's markers (`<|im_end|>`) does not end its turn by it: there the marker is
    spelled out in ordinary tokens, so that an answer cannot forge a turn.

    Raises:
        UserError: the tokenizer has no chat template, or the template doubles the first token.
        ValueError: a text has a marker that this tokenizer cannot spell out.
    """
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer {tokenizer.name_or_path!r} has no chat template; use a chat model's tokenizer")
    chat = [*messages, {"role": "assistant", "content": answer}]
    markers = sorted({token.content for token in tokenizer.added_tokens_decoder.values() if token.special})
    found = [marker for marker in markers if any(marker in message["content"] for message in chat)]
    if found:
        ids = _encode_with_markers(tokenizer, chat, found)
    else:
        ids = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
        raise UserError(f"the tokenizer {tokenizer.name_or_path!r} writes its first token twice")
    return ids


def _encode_with_markers(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], found: list[str]) -> list[int]:
    """Each marker in a text stands as one private character while the template works, and is then spelled out."""
    written = "".join(message["content"] for message in chat)
    free = [character for character in PRIVATE_CHARACTERS if character not in written][: len(found)]
    held = [dict(message) for message in chat]
    for marker, character in zip(sorted(found, key=len, reverse=True), free, strict=True):
        for message in held:
            message["content"] = message["content"].replace(marker, character)
    text = tokenizer.apply_chat_template(held, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    for marker, character in zip(sorted(found, key=len, reverse=True), free, strict=True):
        own = tokenizer(f"x{character}", add_special_tokens=False)["input_ids"]
        own = own[len(tokenizer("x", add_special_tokens=False)["input_ids"]) :]
        spelled = tokenizer(marker, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids, replaced = _replace_run(ids, own, spelled)
        if replaced != text.count(character):
            raise ValueError(f"the tokenizer cannot spell out {marker!r} in a text")
    return ids


def _replace_run(ids: list[int], run: list[int], by: list[int]) -> tuple[list[int], int]:
    """Put `by` in the place of every occurrence of `run`; returns how many there were."""
    made: list[int] = []
    replaced, i = 0, 0
    while i < len(ids):
        if run and ids[i : i + len(run)] == run:
            made += by
            replaced += 1
            i += len(run)
        else:
            made.append(ids[i])
            i += 1
    return made, replaced


@torch.inference_mode()
def score_ids(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    batch_tokens: int,
    advance: Callable[[int], object] = lambda done: None,
) -> NDArray[np.float64]:
    """Logits of tokenised rows, shape (N,), in the order of `rows`.

    Rows that begin alike (the answers to one chat) are computed together, their common beginning once.

    Args:
        model: a reward model (plain or with an adapter), in evaluation mode.
        rows: token ids of each row, none empty.
        batch_tokens: how many tokens go through at once; at least one group of rows does. It does not change the
            logits beyond rounding.
        advance: told how many more rows are done.
    """
    trunk, head = trunk_and_head(model)
    found: list[torch.Tensor] = []
    order: list[int] = []
    on_gpu = next(trunk.parameters()).is_cuda
    with ExitStack() as stack:
        if on_gpu:
            stack.enter_context(fused_layers(model))
        for batch in _batches(trunk, rows, batch_tokens):
            hidden = (
                last_hidden(trunk, pack([[rows[i] for i in group] for group in batch]))
                if can_pack(trunk.config)
                else padded_last_hidden(trunk, [rows[i] for group in batch for i in group])
            )
            members = [i for group in batch for i in group]
            found.append(head(hidden).squeeze(-1).double())
            order += members
            advance(len(members))
    logits = np.empty(len(rows), dtype=np.float64)
    if order:  # fetched once, so that a GPU works while the next batch is laid out
        logits[order] = torch.cat(found).cpu().numpy()
    return logits


def _batches(trunk: nn.Module, rows: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[list[int]]]:
    """Groups of rows that go through together."""
    if can_pack(trunk.config):
        groups = groups_of_shared_beginnings(rows, LEAST_SHARED)
        lengths = [packed_length([rows[i] for i in group]) for group in groups]
        for batch in batches_by_tokens(lengths, batch_tokens):
            yield [groups[b] for b in batch]
        return
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * len(rows[order[stop]]) <= batch_tokens:
            stop += 1
        yield [[i] for i in order[start:stop]]
        start = stop


def padded_last_hidden(trunk: nn.Module, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The body's hidden states at the ends of rows padded on the right, shape (N, hidden)."""
    device = next(trunk.parameters()).device
    lengths = torch.tensor([len(row) for row in rows])
    ids_BT = torch.zeros((len(rows), int(lengths.max())), dtype=torch.long)
    for line, row in enumerate(rows):
        ids_BT[line, : len(row)] = torch.tensor(row)
    mask_BT = torch.arange(ids_BT.shape[1])[None, :] < lengths[:, None]
    output = trunk(input_ids=ids_BT.to(device), attention_mask=mask_BT.long().to(device), use_cache=False)
    return output.last_hidden_state[torch.arange(len(rows), device=device), (lengths - 1).to(device)]


class RungScorer:
    """A rung, loaded: `logits(chats, answers)`."""

    def __init__(self, folder: Path, batch_tokens: int, device: str = "cpu", dtype: torch.dtype | None = None):
        """`dtype` is that of the body; the one that the rung's card was measured in where it is not given."""
        self.folder = folder
        dtype = measured_dtype(folder) if dtype is None else dtype
        self.batch_tokens = batch_tokens
        self.tokenizer = load_rung_tokenizer(folder)
        self.model = load_reward_model(folder, dtype, device)

    def logits(self, chats: Sequence[Sequence[Message]], answers: Sequence[str]) -> NDArray[np.float64]:
        """Raw logits of answers to chats, shape (N,)."""
        rows = [encode_answer(self.tokenizer, chat, answer) for chat, answer in zip(chats, answers, strict=True)]
        return score_ids(self.model, rows, self.batch_tokens)


def measured_dtype(folder: Path) -> torch.dtype:
    """The type of the body in which a rung's card was measured; float32 where the card does not say."""
    card = folder / CARD_FILE
    named = read_json(card).get("body_dtype", "float32") if card.exists() else "float32"
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(named, torch.float32)
