"""The base model of a preference set: a tiny one taught on the training texts, or one that the user names.

The tiny one needs no hub: a byte-level tokenizer and a Qwen2-shaped transformer, taught to continue the training
split's chats, so that a reward model does not start from random features. It never sees a held-out text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from configs.errors import UserError
from configs.loader import Table
from configs.records import sha256_of_record
from tasks.base_folder import cached_base, describe_template, load_config, load_tokenizer, save_base
from tasks.base_reference import count_parameters, locate_model, write_reference
from tasks.records import BASE_FOLDER, PreferencePair
from tasks.tiny_base import Demonstration, Phase, build_model, build_tokenizer, teach

TAUGHT = "taught"
TOKENIZER_CHARACTERS = 20_000
"""Only so much of one text enters the tokenizer's training."""
MOST_CHARACTERS_A_TOKEN = 16
"""A longer text cannot fit and is not even tokenised."""
STYLE = "text"


class TaughtTable(Table):
    """Shape and teaching of the tiny base.

    Attributes:
        vocab_size: of the tokenizer.
        layers, hidden, heads: shape of the transformer.
        steps, learning_rate, batch_size: teaching; the rate falls linearly.
        max_tokens: longer chats are not taught; they are still pairs.
    """

    vocab_size: int = Field(4096, ge=512, le=65536)
    layers: int = Field(2, ge=1, le=24)
    hidden: int = Field(128, ge=16)
    heads: int = Field(4, ge=1)
    steps: int = Field(300, ge=0)
    learning_rate: float = Field(3e-3, gt=0)
    batch_size: int = Field(12, ge=1)
    max_tokens: int = Field(256, ge=16, le=1024)

    @model_validator(mode="after")
    def _whole_heads(self) -> TaughtTable:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden must be a multiple of 2 x heads, found {self.hidden} and {self.heads}")
        return self


def write_base(
    folder: Path, base: str, table: TaughtTable, pairs: Sequence[PreferencePair], seed: int
) -> dict[str, Any]:
    """Write `base/` and return what to say about it.

    Args:
        folder: the task's folder.
        base: `taught`, or a folder or hub name.
        table: for the taught base.
        pairs: the training pairs, whose texts it is taught.
        seed: of weights and teaching.

    Raises:
        UserError: the named model cannot be loaded, or has no chat template.
    """
    if base != TAUGHT:
        return _refer_to_named(folder, base)
    texts = sha256_of_record([[pair.messages, pair.chosen, pair.rejected] for pair in pairs])
    recipe = {"preference": table.model_dump(mode="json"), "texts": texts, "seed": seed}
    taught = cached_base(folder.parent, recipe, lambda: _teach(table, pairs, seed))
    save_base(folder, taught)
    return {"base": TAUGHT, **taught.summary}


def _refer_to_named(folder: Path, name: str) -> dict[str, Any]:
    """Check a causal model and refer to it from the run folder; its weights stay where they are and are not loaded.

    Weights are taken from safetensors only: no pickle is ever loaded.
    """
    advice = "name a folder that holds a causal model and its tokenizer, or write tasks.base: taught"
    try:
        place = locate_model(name)
        tokenizer = load_tokenizer(str(place))
        architectures = load_config(str(place)).architectures or []
    except UserError as error:
        raise UserError(f"tasks.base: {error}; {advice}") from None
    if not any(kind.endswith(CAUSAL_ENDINGS) for kind in architectures):
        raise UserError(f"tasks.base: {name!r} is a {', '.join(architectures)}, which cannot continue a text; {advice}")
    if tokenizer.chat_template is None:
        raise UserError(f"tasks.base: the tokenizer of {name!r} has no chat template; use a chat model's folder")
    write_reference(folder / BASE_FOLDER, name, place)
    return {"base": name, "parameters": count_parameters(place), **describe_template(tokenizer)}


def _teach(table: TaughtTable, pairs: Sequence[PreferencePair], seed: int) -> tuple[Any, Any, dict[str, Any]]:
    texts = [message["content"] for pair in pairs for message in pair.messages]
    texts += [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
    tokenizer = build_tokenizer([text[:TOKENIZER_CHARACTERS] for text in texts], table.vocab_size)
    model = build_model(tokenizer, table.layers, table.hidden, table.heads, seed)
    shown = [
        Demonstration(pair.messages, answer, STYLE)
        for pair in pairs
        for answer in (pair.chosen, pair.rejected)
        if _fits(tokenizer, pair, answer, table.max_tokens)
    ]
    if not shown:
        raise UserError(f"tasks.taught.max_tokens: no training chat fits into {table.max_tokens} tokens; raise it")

    def draw(rng: np.random.Generator) -> Demonstration:
        return shown[rng.integers(len(shown))]

    phases = [Phase(draw, table.steps, table.learning_rate, anneal=True)] if table.steps else []
    record = teach(model, tokenizer, phases, table.batch_size, seed)
    facts = {
        "parameters": model.num_parameters(),
        "taught_chats": len(shown),
        "too_long_chats": 2 * len(pairs) - len(shown),
    }
    return model, tokenizer, {**facts, "phases": record, **describe_template(tokenizer)}


def _fits(tokenizer: Any, pair: PreferencePair, answer: str, max_tokens: int) -> bool:
    characters = sum(len(message["content"]) for message in pair.messages) + len(answer)
    if characters > MOST_CHARACTERS_A_TOKEN * max_tokens:
        return False
    chat = [*pair.messages, {"role": "assistant", "content": answer}]
    return len(tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)) <= max_tokens


CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")
