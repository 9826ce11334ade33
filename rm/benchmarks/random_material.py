"""Random weights of real shapes and random pairs of real lengths: speed and memory without anything to download."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from configs.keyed import keyed_rng
from configs.loader import Table
from configs.records import read_jsonl
from rm.backbone import with_adapter
from rm.config import RMTable
from rm.memory import GIB

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4, "vocab_size": 512}
    | {"num_attention_heads": 4, "num_key_value_heads": 2},
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "vocab_size": 151936}
    | {"num_attention_heads": 16, "num_key_value_heads": 2},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
    | {"num_attention_heads": 28, "num_key_value_heads": 4},
}
CHARACTERS_A_TOKEN = 3.5
"""Of Qwen2.5's tokenizer, about: 4.3 of English prose, 3 of code, 2.3 of other languages, in HelpSteer3's shares."""
TEMPLATE_TOKENS = 12
LONGEST_PAIR_SIDE = 4096
HEAD_SHARE = 0.1
"""A fresh head on random weights starts at logits of spread 1.2, whose noise in bfloat16 says nothing of training."""


class SpeedTable(Table):
    """Settings of the comparison.

    Attributes:
        shape: Qwen2.5's shape with random weights.
        prompts: JSON Lines with a chat under `prompt` or `context`, whose lengths the prompts take; lengths of the
            same kind are drawn where it is not given.
        response_tokens: mean length of a response; lengths are log-normal with a spread of 0.6.
        pairs_per_step, steps: what both train on.
        batch_tokens, score_batch_tokens: tokens of one packed row in training and in scoring.
        gradient_checkpointing: of our trainer.
        trl_batch_sizes, trl_checkpointing: settings that TRL is tried at, for `trl_trial_steps` steps each.
        memory_gib: cap on the GPU's memory, for both; all of it where it is not given.
        score_pairs: pairs that are scored; 0 leaves scoring out.
        output: a JSON file for the figures.
    """

    shape: Literal["tiny", "3b", "7b"] = "tiny"
    prompts: Path | None = None
    response_tokens: int = Field(450, ge=2)
    pairs_per_step: int = Field(32, ge=1)
    steps: int = Field(20, ge=3)
    lora_r: int = Field(16, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    batch_tokens: int = Field(16384, ge=64)
    score_batch_tokens: int = Field(65536, ge=64)
    gradient_checkpointing: bool = False
    trl_batch_sizes: list[int] = Field([1, 2, 4], min_length=1)
    trl_checkpointing: list[bool] = Field([True, False], min_length=1)
    trl_trial_steps: int = Field(3, ge=2)
    memory_gib: float | None = Field(None, gt=0)
    score_pairs: int = Field(160, ge=0)
    seed: int = Field(0, ge=0)
    output: Path | None = None

    @model_validator(mode="after")
    def _whole_steps(self) -> SpeedTable:
        if any(size < 1 or self.pairs_per_step % size for size in self.trl_batch_sizes):
            raise ValueError(f"trl_batch_sizes must divide pairs_per_step ({self.pairs_per_step}), or steps differ")
        return self


Pair = tuple[list[int], list[int]]


def random_pairs(table: SpeedTable, number: int) -> list[Pair]:
    """Pairs of random tokens with the lengths of real ones; a pair with a side over 4,096 tokens is drawn again."""
    rng = keyed_rng(table.seed, "speed")
    vocabulary = SHAPES[table.shape]["vocab_size"]
    prompts = _prompt_lengths(table, rng)
    pairs: list[Pair] = []
    while len(pairs) < number:
        prompt = int(prompts[rng.integers(len(prompts))])
        spread = 0.6
        drawn = rng.lognormal(np.log(table.response_tokens) - spread**2 / 2, spread, 2)
        sides = [max(2, int(length)) for length in drawn]
        if prompt + max(sides) > LONGEST_PAIR_SIDE:
            continue
        ids = rng.integers(3, vocabulary, prompt + sum(sides)).tolist()
        start, first = ids[:prompt], ids[prompt : prompt + sides[0]]
        pairs.append((start + first, start + ids[prompt + sides[0] :]))
    return pairs


def cap_gpu_memory(gibibytes: float | None) -> None:
    """Let this process take so much of the GPU's memory; all of it for None, and nothing happens without a GPU."""
    if gibibytes and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gibibytes * GIB / total))


def random_model(table: SpeedTable, rm_table: RMTable, device: str) -> nn.Module:
    """The shape with keyed random weights and an adapter; twice the same gives the same weights."""
    config = Qwen2Config(
        **SHAPES[table.shape], num_labels=1, pad_token_id=0, max_position_embeddings=32768, rope_theta=1e6
    )
    plain = random_weights(Qwen2ForSequenceClassification, config, table.seed, device)
    with torch.no_grad():
        plain.score.weight.mul_(HEAD_SHARE)
    return with_adapter(plain, rm_table).to(device)


def random_weights(kind: type[Any], config: Qwen2Config, seed: int, device: str) -> Any:
    """A model of a kind with keyed random weights, in bfloat16 on a GPU and float32 elsewhere."""
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            plain = kind(config)
    finally:
        torch.set_default_dtype(before)
    # As GPT-2 starts (Radford et al. 2019, 2.3): without it rounding in bfloat16 is amplified from layer to layer,
    # which trained weights do not do.
    with torch.no_grad():
        for layer in plain.model.layers:
            for residual in (layer.self_attn.o_proj, layer.mlp.down_proj):
                residual.weight.mul_((2 * config.num_hidden_layers) ** -0.5)
    return plain


def _prompt_lengths(table: SpeedTable, rng: np.random.Generator) -> np.ndarray:
    if table.prompts is None:
        return np.clip(rng.lognormal(5.6, 1.2, 2000), 8, LONGEST_PAIR_SIDE).astype(int)
    chats = [row.get("prompt") or row.get("context") for row in read_jsonl(table.prompts)]
    characters = [len(c) if isinstance(c, str) else sum(len(turn["content"]) for turn in c) for c in chats if c]
    return np.array([int(n / CHARACTERS_A_TOKEN) + TEMPLATE_TOKENS for n in characters])
