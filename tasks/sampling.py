"""Sampling answers from a causal model so that an answer belongs to its prompt, not to its batch.

Sampling is a maximum over keyed Gumbel noise: row `b` takes argmax(logits / temperature + gumbel(seed_b, position)),
which is an exact draw from the softmax (Gumbel-max) whose noise depends on the row's own seed alone. Another batch
size, another order or a resumed run gives the same answers, up to rounding in the logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from configs.terminal import progress_bar
from tasks.openings import asked_text, opening_of
from tasks.records import Message


@dataclass(frozen=True)
class Sampled:
    """One completion: its text without special tokens, its length in tokens, whether the limit cut it, and its tokens.

    `tokens` are those sampled, the end token included where there is one.
    """

    text: str
    n_tokens: int
    truncated: bool
    tokens: tuple[int, ...] = field(default=(), compare=False)


class KeyedGumbel(LogitsProcessor):
    """Add each row's own Gumbel noise, so that a greedy choice is a draw at `temperature`."""

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float, top_k: int) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scaled_BV = scores.float() / self.temperature
        if self.top_k:
            kth = scaled_BV.topk(min(self.top_k, scaled_BV.shape[-1])).values[:, -1:]
            scaled_BV = scaled_BV.masked_fill(scaled_BV < kth, -torch.inf)
        if self.top_p < 1.0:
            ordered, order = scaled_BV.sort(descending=True)
            mass_before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            outside = torch.zeros_like(scaled_BV, dtype=torch.bool).scatter(1, order, mass_before >= self.top_p)
            scaled_BV = scaled_BV.masked_fill(outside, -torch.inf)
        noise_BV = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=g) for g in self.generators])
        return scaled_BV - noise_BV.log().to(scaled_BV.device)


@contextlib.contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and no generation settings of the model's own, which would bend the draws, for one block."""
    was_training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
        model.train(was_training)


@contextlib.contextmanager
def whole_root(model: PreTrainedModel) -> Iterator[None]:
    """Put together what FSDP2 holds for the outermost module, whose forward a LoRA model's `generate` goes past."""
    cut_up = isinstance(model, FSDPModule)
    if cut_up:
        model.unshard()
    try:
        yield
    finally:
        if cut_up:
            model.reshard()


@torch.no_grad()  # tensors of inference mode would stay in the buffers of weights that FSDP cuts up
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[list[Message]],
    seeds: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    batch_size: int = 128,
    what: str = "sampling answers",
) -> list[Sampled]:
    """Sample one completion a chat; with temperature 0 the most likely token is taken each time.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with a chat template.
        chats: the prompts; length N. One that ends in an assistant's turn is gone on with, and that turn begins the
            completion's text (`tasks.openings`).
        seeds: one seed a prompt, from `keyed_seed`.
        max_new_tokens: the limit of a completion, in tokens.
        temperature, top_p, top_k: as in Transformers; `top_p=1` and `top_k=0` switch the cuts off.
        batch_size: how many at once; it does not change the answers.
        what: the label of the progress bar.

    Returns:
        N completions in the order of `chats`.
    """
    if not chats:
        return []
    texts = [asked_text(tokenizer, chat) for chat in chats]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    sampled: list[Sampled | None] = [None] * len(rows)
    pad, eos = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)
    with _plain_generation(model), whole_root(model), progress_bar(len(rows), what) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            width = max(len(rows[i]) for i in chosen)
            ids = torch.tensor([[pad] * (width - len(rows[i])) + rows[i] for i in chosen], device=model.device)
            mask = torch.tensor(
                [[0] * (width - len(rows[i])) + [1] * len(rows[i]) for i in chosen], device=model.device
            )
            settings: dict[str, Any] = {}
            if temperature > 0:
                noise = KeyedGumbel([seeds[i] for i in chosen], temperature, top_p, top_k)
                settings["logits_processor"] = LogitsProcessorList([noise])
            generated = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                eos_token_id=eos,
                **settings,
            )[:, width:].tolist()
            for i, tokens in zip(chosen, generated, strict=True):
                finished = eos in tokens
                kept = tokens[: tokens.index(eos)] if finished else tokens
                text = opening_of(chats[i]) + tokenizer.decode(kept, skip_special_tokens=True)
                whole = tuple([*kept, eos] if finished else kept)
                sampled[i] = Sampled(text.strip(), len(kept), not finished, whole)
            bar.update(len(chosen))
    return [item for item in sampled if item is not None]
