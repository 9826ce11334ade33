"""Answers to be scored: from the rows of a file or of a request, in any of the forms that people keep them in.

    {"messages": […, {"role": "assistant", "content": answer}]}
    {"prompt": text or messages, "response": text}
    {"prompt": …, "chosen": …, "rejected": …}, HelpSteer3's columns, hh-rlhf transcripts   (tasks.preference.rows)

A row of a pair holds two answers. A row that cannot be read is `malformed`, with its place and the reason.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from configs.errors import UserError
from tasks.preference.fields import RowProblem, demand_unicode, messages_of, text_of
from tasks.preference.numbered_records import parquet_records
from tasks.preference.rows import detect_schema, read_row
from tasks.records import Message

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
MAX_LINE_BYTES = 64 << 20
"""A longer line is malformed and passed over without being held."""
UTF8_MARK = b"\xef\xbb\xbf"
FORMS = '{"messages": […]}, {"prompt": …, "response": …} or {"prompt": …, "chosen": …, "rejected": …}'


@dataclass(frozen=True)
class Answer:
    """One answer to a chat.

    Attributes:
        chat: the turns before the answer, at least one.
        text: the answer, without any template; it may be empty.
        preferred: in a pair, whether people preferred it; None where they did not say, and for a single answer.
    """

    chat: list[Message]
    text: str
    preferred: bool | None = None


@dataclass(frozen=True)
class Row:
    """One row of a file: where it stands (from 1), its own name where it has one, and its answers.

    `problem` says why a row has no answers.
    """

    line: int
    name: str | int | None
    answers: tuple[Answer, ...]
    problem: str | None = None


def read_answers(record: dict[str, Any]) -> tuple[Answer, ...]:
    """The one answer of a conversation, or the two of a pair.

    Raises:
        RowProblem: the record has none of the forms, or a text that no tokenizer can read.
    """
    schema = detect_schema(record)
    if schema is not None:
        row = read_row(record, schema)
        first = None if row.preference == 0 else row.preference < 0
        second = None if first is None else not first
        return (Answer(row.messages, row.responses[0], first), Answer(row.messages, row.responses[1], second))
    if "messages" in record:
        turns = _turns(record["messages"], "messages")
        if turns[-1]["role"] != "assistant":
            raise RowProblem("no_answer", f"messages ends with a turn of {turns[-1]['role']!r}, not of 'assistant'")
        if len(turns) < 2:
            raise RowProblem("empty_prompt", "messages holds nothing before the answer")
        return (Answer(turns[:-1], turns[-1]["content"]),)
    for column in ("prompt", "response"):
        if column not in record:
            raise RowProblem("missing_column", f"there is no {column}; a row is {FORMS}")
    return (Answer(read_prompt(record["prompt"]), demand_text(record["response"], "response")),)


def read_prompt(prompt: Any) -> list[Message]:
    """A prompt as turns: a text is one turn of the user.

    Raises:
        RowProblem: it is neither a text nor a list of messages, or has no text.
    """
    turns = [{"role": "user", "content": demand_text(prompt, "prompt")}] if isinstance(prompt, str) else None
    turns = turns or _turns(prompt, "prompt")
    if not any(turn["content"].strip() for turn in turns):
        raise RowProblem("empty_prompt", "the prompt has no text")
    return turns


def _turns(value: Any, column: str) -> list[Message]:
    turns = messages_of(value, column)
    for turn in turns:
        demand_unicode(turn["content"], column)
    return turns


def demand_text(value: Any, column: str) -> str:
    """A text that a tokenizer can read.

    Raises:
        RowProblem: it is none.
    """
    demand_unicode(text_of(value, column), column)
    return str(value)


def read_rows(path: Path, after_line: int = 0) -> Iterator[Row]:
    """The rows of a file, one at a time, without those up to `after_line`.

    Raises:
        UserError: the file is of no known format, is missing, or is broken (a cut gzip or parquet file).
    """
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: not a {', '.join(SUFFIXES)} file")
    for line, content in parquet_records(path) if path.suffix == ".parquet" else _lines(path):
        if line > after_line and content is not None:
            yield _row(line, content)


def count_rows(path: Path) -> int:
    """How many rows a file has, blank and broken ones included; nothing but a progress bar depends on it."""
    if path.suffix != ".parquet":
        return sum(1 for _ in _lines(path))
    return sum(1 for _ in parquet_records(path, []))


def _row(line: int, content: bytes | dict[str, Any] | RowProblem) -> Row:
    name = None
    try:
        if isinstance(content, RowProblem):
            raise content
        if isinstance(content, bytes):
            if len(content) > MAX_LINE_BYTES:
                raise RowProblem("too_large", f"the line has over {MAX_LINE_BYTES >> 20} MiB")
            try:
                content = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise RowProblem("unreadable_json", str(error)) from None
        if not isinstance(content, dict):
            raise RowProblem("not_an_object", f"found {type(content).__name__}")
        found = content.get("id")
        name = found if isinstance(found, (str, int)) and not isinstance(found, bool) else None
        return Row(line, name, read_answers(content))
    except RowProblem as problem:
        return Row(line, name, (), str(problem))


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None for a blank one. Of a line that is too long only its beginning is kept."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            number = 0
            while content := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(content) > MAX_LINE_BYTES and not content.endswith(b"\n"):
                    _pass_over_line(stream)
                if number == 1:
                    content = content.removeprefix(UTF8_MARK)
                yield number, content if content.strip() else None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _pass_over_line(stream: BinaryIO | gzip.GzipFile) -> None:
    while piece := stream.readline(MAX_LINE_BYTES):
        if piece.endswith(b"\n"):
            return
