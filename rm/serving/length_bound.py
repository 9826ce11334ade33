"""How much text a number of tokens can hold at most, so that an endless text is refused before it is tokenised."""

from __future__ import annotations

from typing import Any

from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel


def characters_per_token(tokenizer: Any) -> int | None:
    """The most characters of a normalised text that one token stands for.

    None where it is not known: an unknown word may be one token whatever its length, and tokens that strip white space
    swallow any amount of it, so only byte-level BPE, or BPE that falls back to bytes, has a bound.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, BPE):
        return None
    vocabulary = tokenizer.get_vocab()
    if not (backend.model.byte_fallback or vocabulary.keys() >= set(ByteLevel.alphabet())):
        return None
    if any(token.lstrip or token.rstrip for token in tokenizer.added_tokens_decoder.values()):
        return None
    return max(map(len, vocabulary))


def normalised_length(tokenizer: Any, text: str) -> int:
    """Characters of a text as the tokenizer's model sees it."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return len(text if normalizer is None else normalizer.normalize_str(text))
