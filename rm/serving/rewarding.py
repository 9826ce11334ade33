"""What a later room hands to the server, so that /get_reward gives a policy's reward with all of its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tasks.records import Message


class Asked(NamedTuple):
    """One completion to be rewarded: the chat before it, its text, and the label that came with its prompt."""

    chat: list[Message]
    text: str
    label: Any = None


class Rewarding(Protocol):
    """Rewards of completions around the logits of the served rung."""

    description: Mapping[str, Any]
    """What GET /calibration adds to the rung's own description; plain JSON."""

    def chat_of(self, label: Any) -> list[Message] | None:
        """The chat that a label carries; None where it carries none."""

    def shown(self, asked: Asked) -> tuple[list[Message], str | None]:
        """The chat and the answer that the rung reads, in its form; None where there is nothing to read."""

    def rewards(self, asked: Sequence[Asked], logits: Sequence[float | None]) -> list[dict[str, float]]:
        """Of each completion its reward under `score`, and its parts; a logit is None where nothing was shown."""
