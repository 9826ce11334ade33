"""Reads the answers of two contestants and pairs them by prompt and sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from configs.errors import UserError
from configs.records import read_jsonl, write_jsonl
from judge.verdicts import Order, Shown, Verdict, VerdictStatus, Winner, mapped
from tasks.records import Prompt

ANSWERS_FILE = "answers.jsonl"
PAIRS_FILE = "pairs.jsonl"


class DifferentPrompts(UserError):
    """Two cells that did not answer the same prompts, so that no common sample of them can be judged fairly."""


class Answer(BaseModel):
    """One row of `answers.jsonl`, as far as the judge looks at it; other columns are left alone.

    Attributes:
        prompt_id, sample: together the name of the row.
        completion: all that the policy wrote; `answer` is the part for the user, None where it is malformed.
        n_tokens: length of the completion; `truncated`: whether the limit cut it.
        gold: the truth in 0..1; None where nobody knows it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    prompt_id: str
    sample: int = Field(ge=0)
    completion: str
    answer: str | None
    status: Literal["ok", "malformed"]
    n_tokens: int = Field(ge=0)
    truncated: bool
    gold: float | None = Field(default=None, allow_inf_nan=False)
    style: str | None = None

    @model_validator(mode="after")
    def _malformed_has_no_answer(self) -> Answer:
        if (self.answer is None) != (self.status == "malformed"):
            raise ValueError("answer must be null where, and only where, status is malformed")
        return self


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt: `a` of the cell that is judged, `b` of the baseline."""

    pair_id: str
    prompt: Prompt
    a: Answer
    b: Answer


@dataclass(frozen=True)
class Question:
    """A pair in one order, to be decided by a judge."""

    pair: Pair
    order: Order

    @property
    def first(self) -> Answer:
        """The answer shown first."""
        return self.pair.a if self.order == "AB" else self.pair.b

    @property
    def second(self) -> Answer:
        """The answer shown second."""
        return self.pair.b if self.order == "AB" else self.pair.a


def read_answers(folder: Path) -> dict[tuple[str, int], Answer]:
    """The answers of a finished policy cell, by prompt and sample.

    Raises:
        UserError: a row lacks a column or has one of another kind, or a prompt and sample stand twice.
    """
    path = folder / ANSWERS_FILE
    answers: dict[tuple[str, int], Answer] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            answer = Answer.model_validate(row)
        except ValidationError as error:
            first: Any = error.errors()[0]
            column = ".".join(str(part) for part in first["loc"]) or "row"
            raise UserError(f"{path}, row {number}: {column}: {first['msg']}; write the answers again") from None
        key = (answer.prompt_id, answer.sample)
        if key in answers:
            raise UserError(f"{path}, row {number}: prompt {key[0]}, sample {key[1]} stands twice")
        answers[key] = answer
    if not answers:
        raise UserError(f"{path}: there are no answers to judge")
    return answers


def pair_answers(cell: Path, baseline: Path, prompts: Sequence[Prompt]) -> list[Pair]:
    """Pair the samples that two cells have in common (`count_unpaired` counts the rest), sorted by prompt and sample.

    Raises:
        DifferentPrompts: the two did not answer the same prompts, or share no sample of one. Which prompts remain
            would otherwise depend on the cell, and two cells could not be compared.
        UserError: a prompt is none of `prompts`.
    """
    answers_a, answers_b = read_answers(cell), read_answers(baseline)
    common = answers_a.keys() & answers_b.keys()
    shared = {prompt_id for prompt_id, _ in common}
    lonely = sorted(key for key in answers_a.keys() ^ answers_b.keys() if key[0] not in shared)
    if lonely:
        prompt_id, sample = lonely[0]
        where = cell if lonely[0] in answers_a else baseline
        raise DifferentPrompts(
            f"{cell} and {baseline} answer different prompts: {len(lonely)} samples stand in one of them only, for "
            f"example prompt {prompt_id}, sample {sample} in {where}; generate both with the same settings"
        )
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    unknown = sorted({prompt_id for prompt_id, _ in answers_a} - by_id.keys())
    if unknown:
        raise UserError(f"{cell / ANSWERS_FILE}: {unknown[0]!r} is no eval prompt of the task ({len(unknown)} unknown)")
    return [
        Pair(f"{prompt_id}#{sample}", by_id[prompt_id], answers_a[prompt_id, sample], answers_b[prompt_id, sample])
        for prompt_id, sample in sorted(common)
    ]


def count_unpaired(cell: Path, baseline: Path) -> int:
    """How many answers of two cells have no counterpart in the other."""
    return len(read_answers(cell).keys() ^ read_answers(baseline).keys())


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs whole, for a judgement of answers that lie in no run."""
    write_jsonl(
        path,
        (
            {
                "pair_id": pair.pair_id,
                "prompt_id": pair.prompt.prompt_id,
                "messages": pair.prompt.messages,
                "a": pair.a.model_dump(mode="json"),
                "b": pair.b.model_dump(mode="json"),
            }
            for pair in pairs
        ),
    )


def read_pairs(path: Path) -> list[Pair]:
    """The pairs that `write_pairs` wrote.

    Raises:
        UserError: a row is none of this tool's.
    """
    try:
        return [
            Pair(
                row["pair_id"],
                Prompt(row["prompt_id"], "eval", row["messages"]),
                Answer.model_validate(row["a"]),
                Answer.model_validate(row["b"]),
            )
            for row in read_jsonl(path)
        ]
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{path}: not rows of this tool ({error}); judge the answers again") from None


def settle(pair: Pair) -> tuple[VerdictStatus, Winner] | None:
    """What needs no judge: malformed and identical answers; None where a judge has to look.

    A malformed answer has nothing to show, so it loses against any well-formed one. Two that are word for word the same
    are a tie whatever a judge would say, which keeps a policy against itself at exactly 0.5.
    """
    if pair.a.answer is None and pair.b.answer is None:
        return "both_malformed", "tie"
    if pair.a.answer is None:
        return "forfeit", "b"
    if pair.b.answer is None:
        return "forfeit", "a"
    if pair.a.answer == pair.b.answer:
        return "identical", "tie"
    return None


def verdict_of(
    question: Question,
    verdict: Shown | None,
    status: VerdictStatus,
    *,
    raw: str | None = None,
    model: str | None = None,
    usage: dict[str, int] | None = None,
    request: str | None = None,
    error: str | None = None,
    level: float | None = None,
) -> Verdict:
    """The record of one question's verdict."""
    answer = question.pair.a
    return Verdict(
        question.pair.pair_id,
        answer.prompt_id,
        answer.sample,
        question.order,
        verdict,
        mapped(verdict, question.order),
        status,
        raw=raw,
        model=model,
        usage=usage,
        request=request,
        error=error,
        level=level,
    )
