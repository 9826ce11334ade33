"""One row of any known preference set, read into one record.

    helpsteer3   context, response1, response2, overall_preference (-3..3, negative: response1 is better, 0: a tie)
    hh-rlhf      chosen, rejected: whole transcripts "\\n\\nHuman: … \\n\\nAssistant: …" (Bai et al. 2022)
    trl          prompt, chosen, rejected, each a text or a list of messages; without `prompt`, it is what both share

A row that cannot be used raises `RowProblem` with a reason from `REASONS`; nothing is guessed or mended. Reasons that
say "malformed" mean a broken file; the others are rows that are well written and still teach nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.records import Message

Schema = Literal["helpsteer3", "hh-rlhf", "trl"]

LARGEST_PREFERENCE = 3
ROLES = ("system", "user", "assistant")
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
HH_LAST_TURN = "\n\nAssistant:"


class RowProblem(Exception):
    """Why a row is not used: a key of `REASONS`, and what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class PreferenceRow:
    """Two answers to one chat, and which of them people prefer.

    Attributes:
        messages: the chat up to the answer; the last turn is the user's.
        responses: the two answers, in the order of the file.
        preference: -3..3; negative means the first answer is better, 0 is a tie.
        strength: |preference| where the data grade it; None where they only say which is better, and for a tie.
        individual: the preferences of single annotators, with the sign of `preference`; empty where not given.
        domain, language: as in the data; `general` and `english` where not given.
    """

    messages: list[Message]
    responses: tuple[str, str]
    preference: float
    strength: float | None
    individual: tuple[float, ...] = ()
    domain: str = "general"
    language: str = "english"

    @property
    def chosen(self) -> str:
        """The preferred answer."""
        return self.responses[0 if self.preference < 0 else 1]

    @property
    def rejected(self) -> str:
        """The other answer."""
        return self.responses[1 if self.preference < 0 else 0]


def detect_schema(record: dict[str, Any]) -> Schema | None:
    """The schema whose columns a row has; None where it is none of them."""
    if all(column in record for column in HELPSTEER3_COLUMNS):
        return "helpsteer3"
    if all(column in record for column in PAIR_COLUMNS):
        chosen = record["chosen"]
        transcript = isinstance(chosen, str) and HH_TURN.match(chosen) is not None
        return "hh-rlhf" if transcript and "prompt" not in record else "trl"
    return None


def read_row(record: dict[str, Any], schema: Schema) -> PreferenceRow:
    """Read one row.

    Raises:
        RowProblem: the row cannot be used.
    """
    row = READERS[schema](record)
    for message in row.messages:
        _demand_unicode(message["content"], "the prompt")
    for response in row.responses:
        _demand_unicode(response, "a response")
    if not any(message["content"].strip() for message in row.messages):
        raise RowProblem("empty_prompt", "the prompt has no text")
    if row.messages[-1]["role"] != "user":
        raise RowProblem("prompt_not_open", f"the prompt ends with a turn of {row.messages[-1]['role']!r}")
    if not all(response.strip() for response in row.responses):
        raise RowProblem("empty_response", "a response has no text")
    if row.preference and row.responses[0] == row.responses[1]:
        raise RowProblem("same_response", "one of two equal texts is preferred")
    return row


def _read_helpsteer3(record: dict[str, Any]) -> PreferenceRow:
    for column in HELPSTEER3_COLUMNS:
        if column not in record:
            raise RowProblem("missing_column", f"there is no {column}")
    preference = _preference(record["overall_preference"])
    return PreferenceRow(
        messages=_messages(record["context"], "context"),
        responses=(_text(record["response1"], "response1"), _text(record["response2"], "response2")),
        preference=preference,
        strength=abs(preference) or None,
        individual=_individual(record.get("individual_preference")),
        domain=_label(record.get("domain"), "general"),
        language=_label(record.get("language"), "english"),
    )


def _read_hh_rlhf(record: dict[str, Any]) -> PreferenceRow:
    """The answer is the last Assistant turn; what stands before it must be the same on both sides."""
    chosen_prompt, chosen = _split_transcript(_pair_column(record, "chosen"))
    rejected_prompt, rejected = _split_transcript(_pair_column(record, "rejected"))
    if chosen_prompt != rejected_prompt:
        raise RowProblem("prompts_differ", "chosen and rejected differ before the last Assistant turn")
    parts = HH_TURN.split(chosen_prompt)
    if parts[0].strip() or len(parts) < 3:
        raise RowProblem("not_a_transcript", "the transcript does not begin with a Human or Assistant turn")
    messages = [
        {"role": HH_ROLES[name], "content": text.strip()} for name, text in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return PreferenceRow(messages, (chosen, rejected), -1.0, None)


def _read_trl(record: dict[str, Any]) -> PreferenceRow:
    """TRL's preference formats, standard and conversational, with an explicit or an implicit prompt."""
    chosen, rejected, prompt = _pair_column(record, "chosen"), _pair_column(record, "rejected"), record.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            shared, chosen, rejected = _split_shared_text(chosen, rejected)
            messages = [{"role": "user", "content": shared}]
        elif isinstance(prompt, str):
            messages = [{"role": "user", "content": prompt}]
        else:
            messages = _messages(prompt, "prompt")
        return PreferenceRow(messages, (chosen, rejected), -1.0, None)
    sides = _messages(chosen, "chosen"), _messages(rejected, "rejected")
    shared_turns = 0
    while shared_turns < min(map(len, sides)) - 1 and sides[0][shared_turns] == sides[1][shared_turns]:
        shared_turns += 1
    answers = [side[shared_turns:] for side in sides]
    if any(len(answer) != 1 or answer[0]["role"] != "assistant" for answer in answers):
        raise RowProblem("prompts_differ", "chosen and rejected differ in more than one last assistant turn")
    messages = sides[0][:shared_turns]
    if isinstance(prompt, str):
        messages = messages or [{"role": "user", "content": prompt}]
    elif prompt is not None:
        stated = _messages(prompt, "prompt")
        messages = messages if messages[: len(stated)] == stated else stated + messages
    if not messages:
        raise RowProblem("empty_prompt", "chosen and rejected share no turn and there is no prompt")
    return PreferenceRow(messages, (answers[0][0]["content"], answers[1][0]["content"]), -1.0, None)


def _split_transcript(transcript: Any) -> tuple[str, str]:
    text = _text(transcript, "chosen or rejected")
    before, marker, last = text.rpartition(HH_LAST_TURN)
    if not marker:
        raise RowProblem("not_a_transcript", "there is no Assistant turn")
    return before, last.strip()


def _split_shared_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The prompt that two texts share, cut at white space so that no word is torn, and what follows it on each side."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and not chosen[shared - 1].isspace():
        shared -= 1
    return chosen[:shared].rstrip(), chosen[shared:], rejected[shared:]


def _pair_column(record: dict[str, Any], column: str) -> Any:
    if column not in record:
        raise RowProblem("missing_column", f"there is no {column}")
    return record[column]


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise RowProblem("wrong_type", f"{column} must be a text, found {type(value).__name__}")
    return value


def _messages(value: Any, column: str) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowProblem("wrong_type", f"{column} must be a list of messages, found {type(value).__name__}")
    messages = []
    for turn in value:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str) or turn.get("role") not in ROLES:
            raise RowProblem("wrong_type", f"{column}: a message needs a content and a role of {', '.join(ROLES)}")
        messages.append({"role": turn["role"], "content": turn["content"]})
    return messages


def _preference(value: Any) -> float:
    if value is None:
        raise RowProblem("no_preference", "overall_preference is null")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowProblem("wrong_type", f"overall_preference must be a number, found {type(value).__name__}")
    if not abs(value) <= LARGEST_PREFERENCE:  # NaN compares with nothing; a huge whole number has no float
        raise RowProblem("preference_out_of_range", f"overall_preference must be in -3..3, found {str(value)[:20]}")
    return float(value)


def _individual(value: Any) -> tuple[float, ...]:
    """The scores of single annotators; those that are not numbers are left out, as `overall_preference` decides."""
    entries = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    scores = [entry.get("score") if isinstance(entry, dict) else entry for entry in entries]
    return tuple(
        float(score)
        for score in scores
        if isinstance(score, (int, float)) and not isinstance(score, bool) and abs(score) <= LARGEST_PREFERENCE
    )


def _label(value: Any, default: str) -> str:
    return value if isinstance(value, str) and value else default


def _demand_unicode(text: str, what: str) -> None:
    """A lone surrogate cannot be encoded, so no tokenizer could read the text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowProblem("not_unicode", f"{what} holds a lone surrogate at character {error.start}") from None


HELPSTEER3_COLUMNS = ("context", "response1", "response2", "overall_preference")
PAIR_COLUMNS = ("chosen", "rejected")

READERS = {"helpsteer3": _read_helpsteer3, "hh-rlhf": _read_hh_rlhf, "trl": _read_trl}

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
    "exact_duplicate",
    "near_duplicate",
    "near_held_out_prompt",
    "over_max_pairs",
)
"""Reasons that are a choice of this tool or a fact of the data."""
REASONS = (*MALFORMED, *UNUSABLE)
