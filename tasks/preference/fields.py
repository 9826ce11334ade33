"""Fields of a preference row, each checked for its type, and the reasons why a row is not used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tasks.records import Message

ROLES = ("system", "user", "assistant")
LARGEST_PREFERENCE = 3
LARGEST_SCORE = 1e300
"""A larger whole number has no float."""


class RowProblem(Exception):
    """Why a row is not used: a key of `REASONS`, and what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def column_of(record: dict[str, Any], column: str) -> Any:
    """A column that must be there."""
    if column not in record:
        raise RowProblem("missing_column", f"there is no {column}")
    return record[column]


def text_of(value: Any, column: str) -> str:
    """A text, as it is."""
    if not isinstance(value, str):
        raise RowProblem("wrong_type", f"{column} must be a text, found {type(value).__name__}")
    return value


def messages_of(value: Any, column: str) -> list[Message]:
    """A list of turns with role and content; what else a turn holds is left out."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowProblem("wrong_type", f"{column} must be a list of messages, found {type(value).__name__}")
    messages = []
    for turn in value:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str) or turn.get("role") not in ROLES:
            raise RowProblem("wrong_type", f"{column}: a message needs a content and a role of {', '.join(ROLES)}")
        messages.append({"role": turn["role"], "content": turn["content"]})
    return messages


def preference_of(value: Any) -> float:
    """HelpSteer3's graded preference in -3..3."""
    if value is None:
        raise RowProblem("no_preference", "overall_preference is null")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowProblem("wrong_type", f"overall_preference must be a number, found {type(value).__name__}")
    if not abs(value) <= LARGEST_PREFERENCE:  # NaN compares with nothing; a huge whole number has no float
        raise RowProblem("preference_out_of_range", f"overall_preference must be in -3..3, found {str(value)[:20]}")
    return float(value)


def score_of(record: dict[str, Any], column: str) -> float | None:
    """A score; None where there is none, which UltraFeedback also writes as NaN or "N/A"."""
    value = record.get(column)
    if value is None or value == "N/A":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowProblem("wrong_type", f"{column} must be a number, found {type(value).__name__}")
    if abs(value) > LARGEST_SCORE:
        raise RowProblem("preference_out_of_range", f"{column} must be finite, found {str(value)[:20]}")
    return None if math.isnan(value) else float(value)


def individual_of(value: Any) -> tuple[float, ...]:
    """The scores of single annotators; those that are not numbers are left out, as `overall_preference` decides."""
    entries = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    scores = [entry.get("score") if isinstance(entry, dict) else entry for entry in entries]
    return tuple(
        float(score)
        for score in scores
        if isinstance(score, (int, float)) and not isinstance(score, bool) and abs(score) <= LARGEST_PREFERENCE
    )


def label_of(value: Any, default: str) -> str:
    """A domain or a language."""
    return value if isinstance(value, str) and value else default


def demand_unicode(text: str, what: str) -> None:
    """A lone surrogate cannot be encoded, so no tokenizer could read the text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowProblem("not_unicode", f"{what} holds a lone surrogate at character {error.start}") from None


MALFORMED = (
    "unreadable_json",
    "not_an_object",
    "missing_column",
    "wrong_type",
    "preference_out_of_range",
    "not_unicode",
    "not_a_transcript",
)
"""Reasons that mean a broken file; too large a share of them stops the run."""
UNUSABLE = (
    "no_preference",
    "tie",
    "empty_prompt",
    "prompt_not_open",
    "prompts_differ",
    "empty_response",
    "same_response",
    "scores_contradict",
    "too_few_completions",
    "exact_duplicate",
    "near_duplicate",
    "leak_exact",
    "leak_near",
    "near_held_out_prompt",
    "held_out_conversation",
    "over_max_pairs",
)
"""Reasons that are a choice of this tool or a fact of the data."""
REASONS = (*MALFORMED, *UNUSABLE)
