"""Tiny untrained rungs for tests of what is done with rungs: a base of 30,000 weights, adapters and complete weights.

The adapters' second matrices and the heads are drawn, so that every rung scores, and each scores otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from configs.keyed import keyed_seed
from configs.records import write_json
from rm.backbone import build_reward_model
from rm.config import RMTable
from rm.units import ScoreUnits
from tasks.base_folder import describe_template
from tasks.tiny_base import build_model, build_tokenizer

ROOT = Path(__file__).parent.parent
CONTEXT = 1024
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "grey", "geese", "fly")


def make_base(folder: Path) -> Path:
    """A base model with its tokenizer in `folder/base`."""
    tokenizer = build_tokenizer([" ".join(WORDS)] * 4, 320)
    model = build_model(tokenizer, layers=2, hidden=32, heads=2, seed=0)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return folder / "base"


def make_rung(folder: Path, base: Path, seed: int, lora_r: int = 4, centre: float = 0.0) -> Path:
    """A rung on `base` in `folder`: an adapter, or complete weights with `lora_r=0`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = build_reward_model(str(base), RMTable(lora_r=lora_r), tokenizer, seed)
    generator = torch.Generator().manual_seed(keyed_seed(seed, "tiny rung"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "score" in name:
                scale = 0.1 if "lora_B" in name else 0.2
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    if lora_r:
        model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ScoreUnits(centre, 0.5, "nothing; drawn for a test", 1).save(folder)
    accuracy = {"estimate": 0.5, "lo": 0.2, "hi": 0.8, "n": 9}
    write_json(folder / "card.json", {"rung": folder.name, "accuracy": accuracy, **describe_template(tokenizer)})
    return folder


def sentence(seed: int, most_words: int = 40) -> str:
    """A text of 1 to `most_words` words, the same for the same seed."""
    length = 1 + keyed_seed(0, "length", seed) % most_words
    return " ".join(WORDS[keyed_seed(0, "word", seed, i) % len(WORDS)] for i in range(length))
