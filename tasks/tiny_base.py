"""Tiny base models made and taught on the spot: a Qwen2-shaped transformer of 0.1 to 0.9 M parameters.

The tokenizer is a byte-level BPE with Qwen2's own pre-tokenizer, because `AutoTokenizer` rebuilds every tokenizer
that lies beside a `qwen2` model as a `Qwen2Tokenizer`: any other kind would be read back wrongly and in silence.

Teaching has phases. A phase may last until a loss is reached, because the step at which copying emerges differs by
hundreds of steps between seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from configs.errors import UserError
from configs.keyed import keyed_rng, keyed_seed
from configs.terminal import progress_bar
from tasks.records import Message
from tasks.responses import TAGS

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|> {{ message['content'] }}<|end|>"
    "{% else %}<|user|> {{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SEQUENCE_LOSS_SCALE = 16.0
"""The loss is the sum over a sequence's tokens, divided by this. A sum, not a token mean, makes the share of a style
that the model samples equal to its share in the demonstrations, however long the style's answers are."""
GATE_EMA = 0.97


@dataclass(frozen=True)
class Demonstration:
    """One taught example: the chat, the full response, and the name of its style."""

    messages: list[Message]
    response: str
    style: str


@dataclass(frozen=True)
class Phase:
    """One stretch of teaching.

    Attributes:
        draw: makes one demonstration from a generator.
        steps: number of steps, or the most steps where there is a gate.
        learning_rate: constant, or falling linearly to a twentieth with `anneal`.
        gate: (style, NLL): the phase ends when the running mean NLL per sequence of that style is below the number.
        anneal: whether the learning rate falls.
    """

    draw: Callable[[np.random.Generator], Demonstration]
    steps: int
    learning_rate: float
    gate: tuple[str, float] | None = None
    anneal: bool = False


GATE_WARM_UP = 20
CLIP_NORM = 1.0
WARM_UP_STEPS = 10
WORTH_TWO_CALLS = 20
"""Difference of length, in characters, between neighbours in length from which a batch is cut in two."""


def build_tokenizer(texts: Sequence[str], vocab_size: int) -> Qwen2Tokenizer:
    """Train a byte-level BPE with the chat markers and the four response tags as tokens of their own.

    White space before a tag belongs to the tag, so `" <think>"` and `"<think>"` are the same token.
    """
    untrained = Qwen2Tokenizer(unk_token=PAD, pad_token=PAD, eos_token=END)
    tokenizer = untrained.train_new_from_iterator(
        texts, vocab_size, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.add_tokens([AddedToken(marker, special=True) for marker in (USER, ASSISTANT)])
    tokenizer.add_tokens([AddedToken(tag, lstrip=True, normalized=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: Qwen2Tokenizer, layers: int, hidden: int, heads: int, seed: int) -> Qwen2ForCausalLM:
    """A fresh Qwen2 with tied embeddings, MLPs three times as wide as the residual stream, and keyed weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(seed, "base weights"))
        return Qwen2ForCausalLM(config)


def teach(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, phases: Sequence[Phase], batch_size: int, seed: int
) -> list[dict[str, float]]:
    """Teach demonstrations with AdamW, in place.

    Returns:
        One record a phase: steps taken and the last running NLL per sequence of each style.

    Raises:
        UserError: a gate was not reached within the phase's steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    rng = keyed_rng(seed, "demonstrations")
    record = []
    model.train()
    bar = progress_bar(sum(phase.steps for phase in phases), "teaching the base")
    for number, phase in enumerate(phases):
        running: dict[str, float] = {}
        taken = 0
        while taken < phase.steps:
            rate = phase.learning_rate * min(1.0, (taken + 1) / WARM_UP_STEPS if number == 0 else 1.0)
            if phase.anneal:
                rate *= 1.0 - 0.95 * taken / phase.steps
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = [phase.draw(rng) for _ in range(batch_size)]
            nll = _bucketed_nll(model, tokenizer, batch)
            torch.autograd.backward(nll.mean() / SEQUENCE_LOSS_SCALE)
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            for demonstration, value in zip(batch, nll.tolist(), strict=True):
                before = running.get(demonstration.style, value)
                running[demonstration.style] = GATE_EMA * before + (1 - GATE_EMA) * value
            taken += 1
            bar.update()
            if phase.gate and taken > GATE_WARM_UP and running.get(phase.gate[0], np.inf) < phase.gate[1]:
                bar.total -= phase.steps - taken
                break
        else:
            if phase.gate:
                raise UserError(
                    f"tasks: the base model did not learn the style {phase.gate[0]!r} in {phase.steps} steps (NLL per "
                    f"answer {running.get(phase.gate[0], np.inf):.1f}, needed {phase.gate[1]}); try another seed"
                )
        record.append({"steps": taken, **{f"nll_{style}": round(value, 3) for style, value in running.items()}})
    bar.close()
    model.eval()
    return record


def _bucketed_nll(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, batch: list[Demonstration]) -> torch.Tensor:
    """`_sequence_nll` in two calls, short responses and long ones, which spares most of the padding; shape (B,)."""
    order = sorted(range(len(batch)), key=lambda i: len(batch[i].response))
    lengths = [len(batch[i].response) for i in order]
    gap, cut = max(((lengths[i + 1] - lengths[i], i + 1) for i in range(len(order) - 1)), default=(0, 0))
    if gap < WORTH_TWO_CALLS:
        return _sequence_nll(model, tokenizer, batch)
    parts = [_sequence_nll(model, tokenizer, [batch[i] for i in rows]) for rows in (order[:cut], order[cut:])]
    return torch.cat(parts)[torch.tensor(order).argsort()]


def _sequence_nll(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, batch: list[Demonstration]) -> torch.Tensor:
    """Negative log-likelihood of each response, summed over its tokens; shape (B,)."""
    heads = [tokenizer.apply_chat_template(d.messages, tokenize=False, add_generation_prompt=True) for d in batch]
    head_ids = tokenizer(heads, add_special_tokens=False)["input_ids"]
    body_ids = tokenizer([f"{d.response}{END}" for d in batch], add_special_tokens=False)["input_ids"]
    rows = [torch.tensor(h + b) for h, b in zip(head_ids, body_ids, strict=True)]
    labels = [torch.tensor([-100] * len(h) + b) for h, b in zip(head_ids, body_ids, strict=True)]
    ids_BT = pad_sequence(rows, batch_first=True, padding_value=int(tokenizer.pad_token_id))
    labels_BT = pad_sequence(labels, batch_first=True, padding_value=-100)
    mask_BT = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1].transpose(1, 2), labels_BT[:, 1:], ignore_index=-100, reduction="none"
    )
    return losses.sum(dim=1)
