"""One row of any known preference set, read into one record.

    helpsteer3   context, response1, response2, overall_preference (-3..3, negative: response1 is better, 0: a tie)
    hh-rlhf      chosen, rejected: whole transcripts "\\n\\nHuman: … \\n\\nAssistant: …" (Bai et al. 2022)
    trl          prompt, chosen, rejected, each a text or a list of messages; without `prompt`, it is what both share;
                 perhaps `margin`, or `score_chosen` and `score_rejected` (UltraFeedback binarized; equal: a tie)
    ultrafeedback  instruction, completions, each with a response and an overall_score (Cui et al. 2023): the best
                 against the worst, one pair a row; the first of several equal ones; all equal: a tie
    llmbar       input, output_1, output_2, label (1 or 2: the better one; Zeng et al. 2024); `subset` is the domain

Scores of a model judge are not graded preferences of people, so they become a margin in the data's own units and never
a strength. `domain` and `language` are kept where a row of any schema has them. A row that cannot be used raises
`RowProblem` with a reason from `preference_fields.REASONS`; nothing is guessed or mended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tasks.preference.fields import (
    RowProblem,
    column_of,
    demand_unicode,
    individual_of,
    label_of,
    messages_of,
    preference_of,
    score_of,
    text_of,
)
from tasks.records import Message

Schema = Literal["helpsteer3", "hh-rlhf", "trl", "ultrafeedback", "llmbar"]

HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
HH_LAST_TURN = "\n\nAssistant:"


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
        margin: score of `chosen` minus score of `rejected`, where the data have scores.
    """

    messages: list[Message]
    responses: tuple[str, str]
    preference: float
    strength: float | None
    individual: tuple[float, ...] = ()
    domain: str = "general"
    language: str = "english"
    margin: float | None = None

    @property
    def chosen(self) -> str:
        """The preferred answer; of a tie the first."""
        return self.responses[0 if self.preference <= 0 else 1]

    @property
    def rejected(self) -> str:
        """The other answer."""
        return self.responses[1 if self.preference <= 0 else 0]

    @property
    def individual_for_chosen(self) -> list[float]:
        """The preferences of single annotators, above 0 where they favour `chosen`."""
        return [score if self.preference > 0 else 0.0 - score for score in self.individual]


def detect_schema(record: dict[str, Any]) -> Schema | None:
    """The schema whose columns a row has; None where it is none of them."""
    if all(column in record for column in HELPSTEER3_COLUMNS):
        return "helpsteer3"
    for schema, columns in OTHER_COLUMNS.items():
        if all(column in record for column in columns):
            return schema
    if all(column in record for column in PAIR_COLUMNS):
        chosen = record["chosen"]
        transcript = isinstance(chosen, str) and HH_TURN.match(chosen) is not None
        return "hh-rlhf" if transcript and not {"prompt", "messages"} & record.keys() else "trl"
    return None


def read_row(record: dict[str, Any], schema: Schema) -> PreferenceRow:
    """Read one row.

    Raises:
        RowProblem: the row cannot be used.
    """
    row = READERS[schema](record)
    row = replace(
        row,
        domain=label_of(record.get("domain"), row.domain),
        language=label_of(record.get("language"), row.language),
    )
    for message in row.messages:
        demand_unicode(message["content"], "the prompt")
    for response in row.responses:
        demand_unicode(response, "a response")
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
    preference = preference_of(record["overall_preference"])
    return PreferenceRow(
        messages=messages_of(record["context"], "context"),
        responses=(text_of(record["response1"], "response1"), text_of(record["response2"], "response2")),
        preference=preference,
        strength=abs(preference) or None,
        individual=individual_of(record.get("individual_preference")),
    )


def _read_hh_rlhf(record: dict[str, Any]) -> PreferenceRow:
    """The answer is the last Assistant turn; what stands before it must be the same on both sides."""
    chosen_prompt, chosen = _split_transcript(column_of(record, "chosen"))
    rejected_prompt, rejected = _split_transcript(column_of(record, "rejected"))
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
    chosen, rejected, prompt = column_of(record, "chosen"), column_of(record, "rejected"), record.get("prompt")
    prompt = record.get("messages") if prompt is None else prompt  # as a run's own pairs.jsonl has it
    texts = isinstance(chosen, str) and isinstance(rejected, str)
    read = _trl_texts if texts else _trl_chats
    messages, responses = read(prompt, chosen, rejected)
    scores = score_of(record, "score_chosen"), score_of(record, "score_rejected")
    if scores[0] is None or scores[1] is None:
        return PreferenceRow(messages, responses, -1.0, None, margin=score_of(record, "margin"))
    if scores[0] < scores[1]:
        raise RowProblem("scores_contradict", f"chosen has the score {scores[0]:g}, rejected {scores[1]:g}")
    margin = scores[0] - scores[1]
    return PreferenceRow(messages, responses, -1.0 if margin else 0.0, None, margin=margin)


def _trl_texts(prompt: Any, chosen: str, rejected: str) -> tuple[list[Message], tuple[str, str]]:
    if prompt is None:
        shared, chosen, rejected = _split_shared_text(chosen, rejected)
        return [{"role": "user", "content": shared}], (chosen, rejected)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else messages_of(prompt, "prompt")
    return messages, (chosen, rejected)


def _trl_chats(prompt: Any, chosen: Any, rejected: Any) -> tuple[list[Message], tuple[str, str]]:
    sides = messages_of(chosen, "chosen"), messages_of(rejected, "rejected")
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
        stated = messages_of(prompt, "prompt")
        messages = messages if messages[: len(stated)] == stated else stated + messages
    if not messages:
        raise RowProblem("empty_prompt", "chosen and rejected share no turn and there is no prompt")
    return messages, (answers[0][0]["content"], answers[1][0]["content"])


def _read_ultrafeedback(record: dict[str, Any]) -> PreferenceRow:
    """The best completion against the worst, in the order of the file; completions without a score are left out."""
    instruction, completions = (
        text_of(column_of(record, "instruction"), "instruction"),
        column_of(record, "completions"),
    )
    if not isinstance(completions, Sequence) or isinstance(completions, str):
        raise RowProblem("wrong_type", f"completions must be a list, found {type(completions).__name__}")
    scored = []
    for completion in completions:
        if not isinstance(completion, dict):
            raise RowProblem("wrong_type", f"a completion must be an object, found {type(completion).__name__}")
        score = score_of(completion, "overall_score")
        if score is not None:
            scored.append((score, text_of(column_of(completion, "response"), "response")))
    if len(scored) < 2:
        raise RowProblem("too_few_completions", f"{len(scored)} of {len(completions)} completions have a score")
    scores = [score for score, _ in scored]
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    margin = scores[best] - scores[worst]
    first, second = sorted((best, worst)) if margin else (0, 1)
    preference = 0.0 if not margin else -1.0 if best < worst else 1.0
    messages = [{"role": "user", "content": instruction}]
    return PreferenceRow(messages, (scored[first][1], scored[second][1]), preference, None, margin=margin)


def _read_llmbar(record: dict[str, Any]) -> PreferenceRow:
    label = column_of(record, "label")
    if label is None:
        raise RowProblem("no_preference", "label is null")
    if isinstance(label, bool) or not isinstance(label, int):
        raise RowProblem("wrong_type", f"label must be 1 or 2, found {type(label).__name__}")
    if label not in (1, 2):
        raise RowProblem("preference_out_of_range", f"label must be 1 or 2, found {str(label)[:20]}")
    return PreferenceRow(
        messages=[{"role": "user", "content": text_of(column_of(record, "input"), "input")}],
        responses=(
            text_of(column_of(record, "output_1"), "output_1"),
            text_of(column_of(record, "output_2"), "output_2"),
        ),
        preference=-1.0 if label == 1 else 1.0,
        strength=None,
        domain=label_of(record.get("subset"), "general"),
    )


def _split_transcript(transcript: Any) -> tuple[str, str]:
    text = text_of(transcript, "chosen or rejected")
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


HELPSTEER3_COLUMNS = ("context", "response1", "response2", "overall_preference")
PAIR_COLUMNS = ("chosen", "rejected")

OTHER_COLUMNS: dict[Schema, tuple[str, ...]] = {
    "ultrafeedback": ("instruction", "completions"),
    "llmbar": ("input", "output_1", "output_2", "label"),
}
"""Schemas that are known by their columns alone."""

READERS: dict[Schema, Callable[[dict[str, Any]], PreferenceRow]] = {
    "helpsteer3": _read_helpsteer3,
    "hh-rlhf": _read_hh_rlhf,
    "trl": _read_trl,
    "ultrafeedback": _read_ultrafeedback,
    "llmbar": _read_llmbar,
}
