"""Forced openings: a chat that ends in an assistant's turn, which the policy goes on with instead of beginning its own.

Paper B (arXiv 2506.10947, section 4.3) lets every response begin with "Let's solve this using Python.". The opening is
part of the response: it is read, graded, rewarded and classified with it. It is not sampled, hence it counts neither
in lengths in tokens nor in gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from tasks.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _as_written(value: Any) -> Any:
    """YAML reads `opening=python:` as a table with an empty key."""
    return f"{next(iter(value))}:" if isinstance(value, dict) and list(value.values()) == [None] else value


OpeningText = Annotated[str, BeforeValidator(_as_written), StringConstraints(strip_whitespace=True, max_length=2000)]
Opening = Annotated[OpeningText, Field(exclude_if=lambda opening: not opening)]
"""A task's setting; empty for none, which is left out of what a task is made from."""


def opening_of(chat: Sequence[Message]) -> str:
    """The words with which a response to this chat begins; empty where it does not end in an assistant's turn."""
    return chat[-1]["content"] if chat and chat[-1]["role"] == "assistant" else ""


def with_opening(chat: list[Message], opening: str) -> list[Message]:
    """The chat with a turn for the response to go on with; the same where there is no opening."""
    return [*chat, {"role": "assistant", "content": opening}] if opening else chat


def asked_text(tokenizer: PreTrainedTokenizerBase, chat: list[Message]) -> str:
    """The chat in the tokenizer's template, up to the first token of the response that is sampled.

    The opening stands where the policy itself would begin, right after the generation prompt: a template may write a
    finished turn otherwise, and a space too many is another token.
    """
    opening = opening_of(chat)
    before = chat[:-1] if opening else chat
    return str(tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)) + opening
