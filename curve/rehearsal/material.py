"""What a rehearsal starts from: a folder with random weights of a shape, and a file of random pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.records import write_jsonl
from policy.speed.material import END, PAD, start_model
from rm.benchmarks.random_material import SHAPES

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}:\n {{ message['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
LETTERS = "abcdefghijklmnopqrst"
TEMPLATE_TOKENS = 32
RESPONSE_TOKENS, RESPONSE_SPREAD = 450, 0.6
"""Of HelpSteer3's responses, about: the mean, and the spread of the logarithm."""
FIRST_PLAIN_ID, N_WORDS = 16, 2000


def write_base(folder: Path, shape: str | None, named: str | None, device: str) -> None:
    """A base with random weights and its tokenizer.

    Args:
        shape: of `SHAPES`, with a tokenizer of made-up words.
        named: a model whose configuration and tokenizer are taken where `shape` is None.

    Raises:
        UserError: neither is given, or the named model's configuration cannot be had.
    """
    if shape is not None:
        tokenizer: Any = made_up_tokenizer(SHAPES[shape]["vocab_size"])
        model = start_model(shape, 0, device)
    else:
        if named is None:
            raise UserError("rehearse: the recipe names no model; say shape=3b or shape=7b")
        try:
            config, tokenizer = AutoConfig.from_pretrained(named), AutoTokenizer.from_pretrained(named)
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"rehearse: {named}: {first} Or say shape=3b or shape=7b") from None
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
        try:
            with torch.device(device):
                model = AutoModelForCausalLM.from_config(config)
        finally:
            torch.set_default_dtype(before)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def made_up_tokenizer(vocabulary: int) -> Qwen2Tokenizer:
    """A tokenizer of Qwen2's kind in which nearly every token is a word after a blank: ` a`, ` ab`, ` abcd`.

    A policy with random weights then says words that a reward model reads as just as many tokens.
    """
    tokens, merges = [PAD, END, *sorted(ByteLevel.alphabet())], []

    def merge(left: str, right: str) -> str:
        tokens.append(left + right)
        merges.append((left, right))
        return left + right

    first = [merge("Ġ", letter) for letter in LETTERS]
    halves = [merge(start, letter) for start in first for letter in LETTERS]
    ends = [merge(one, other) for one in LETTERS for other in LETTERS]
    for start in halves:
        for end in ends:
            merge(start, end)
    kept = {token: index for index, token in enumerate(tokens[:vocabulary])}
    special = {"pad_token": PAD, "eos_token": END, "unk_token": PAD}
    known = [pair for pair in merges if "".join(pair) in kept]
    tokenizer = Qwen2Tokenizer(vocab=kept, merges=known, padding_side="left", **special)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def single_token_words(tokenizer: Any, n: int) -> list[str]:
    """Up to `n` words that the tokenizer reads as one token each after a blank."""
    rng = keyed_rng(0, "rehearsal words")
    words: dict[str, None] = {}
    for index in rng.permutation(np.arange(FIRST_PLAIN_ID, len(tokenizer))).tolist():
        word = tokenizer.decode([index]).strip()
        if word.isascii() and word.isalnum() and len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1:
            words[word] = None
        if len(words) == n:
            break
    return list(words)


def write_random_pairs(path: Path, n: int, prompt_tokens: int, most_tokens: int, words: list[str]) -> None:
    """Pairs of random words, as HelpSteer3's file has them.

    Args:
        prompt_tokens: the longest prompt that a policy is asked; every second prompt is that long.
        most_tokens: the longest prompt and response together.
        words: to draw from, each one token.
    """
    rng = keyed_rng(0, "rehearsal pairs")

    def text(length: int) -> str:
        return " ".join(words[index] for index in rng.integers(len(words), size=max(1, length)))

    rows = []
    for index in range(n):
        prompt = max(1, prompt_tokens - TEMPLATE_TOKENS)
        if index % 2:
            prompt = int(rng.integers(max(1, prompt // 8), prompt + 1))
        room = max(2, most_tokens - prompt - TEMPLATE_TOKENS)
        drawn = rng.lognormal(np.log(RESPONSE_TOKENS) - RESPONSE_SPREAD**2 / 2, RESPONSE_SPREAD, 2).astype(int)
        sides = np.clip(drawn, 2, room)
        rows.append(
            {
                "domain": "general",
                "language": "english",
                "context": [{"role": "user", "content": text(prompt)}],
                "response1": text(int(sides[0])),
                "response2": text(int(sides[1])),
                "overall_preference": int(rng.choice([-2, -1, 1, 2])),
            }
        )
    write_jsonl(path, rows)
