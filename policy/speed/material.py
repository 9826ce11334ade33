"""What both sides of the policy's speed comparison start from: random weights, prompts, completions, and a reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from configs.keyed import keyed_rng
from policy.speed.command import PolicySpeedTable
from rm.benchmarks.random_material import SHAPES, random_weights

PAD, END, FIRST_WORD = "<pad>", "<end>", 2
"""Neither padding nor end occurs in prompts or replayed completions."""


def words_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Token i is the word `i`, but for the first two, so that a text of n words is n tokens."""
    words = [PAD, END, *map(str, range(FIRST_WORD, vocabulary))]
    plain = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=PAD))
    plain.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token=PAD, eos_token=END, padding_side="left")


def random_prompts(table: PolicySpeedTable) -> list[str]:
    """A step's prompts twice over."""
    rng = keyed_rng(table.seed, "policy speed prompts")
    shape = (2 * table.prompts_per_step, table.prompt_tokens)
    drawn = rng.integers(FIRST_WORD, SHAPES[table.shape]["vocab_size"], shape)
    return [" ".join(map(str, row)) for row in drawn.tolist()]


def replayed(table: PolicySpeedTable) -> Callable[[list[str], Any], dict[str, Any]]:
    """TRL's rollout function: completions of random tokens, the same for every trainer at the same step."""

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        rng = keyed_rng(table.seed, "policy speed completions", trainer.state.global_step)
        shares = np.exp(-np.abs(rng.normal(0.0, table.spread, len(prompts)))) if table.spread else np.ones(len(prompts))
        lengths = np.maximum(1, (table.completion_tokens * shares).astype(int))
        vocabulary = SHAPES[table.shape]["vocab_size"]
        completions = [rng.integers(FIRST_WORD, vocabulary, length).tolist() for length in lengths]
        ids = [[int(word) for word in prompt.split()] for prompt in prompts]
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}

    return rollout


def reward_by_ids(prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Something in 0..1 that differs between completions and between no runs."""
    return [sum(ids) % 1009 / 1009 for ids in completion_ids]


def start_model(shape: str, seed: int, device: str) -> Any:
    """A shape of `SHAPES` with random weights; twice the same gives the same."""
    more = {"pad_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 32768, "rope_theta": 1e6}
    # As Qwen2.5 has it.
    config = Qwen2Config(**SHAPES[shape], **more, tie_word_embeddings=shape != "7b")
    return random_weights(Qwen2ForCausalLM, config, seed, device)
