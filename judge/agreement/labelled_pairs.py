"""Pairs of answers that people labelled, with what judges said of them where the file holds it.

Rows are those of any preference set that `tasks.preference.rows` reads (HelpSteer3's columns, LLMBar, hh-rlhf, TRL,
UltraFeedback), or FastChat's pairwise judgments, which have no labels of people. Malformed rows are counted, never
mended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.records import sha256_of_record
from judge.agreement.stored_texts import JUDGMENTS, Sayings, StoredGrammar, named_in, stored_in
from judge.verdicts import ORDERS, Verdict, mapped
from tasks.preference.fields import RowProblem, individual_of, label_of, messages_of, preference_of
from tasks.preference.numbered_records import Record, numbered_records
from tasks.preference.rows import detect_schema, read_row
from tasks.records import Message

STORED = "stored"
"""The name of a judge whose texts stand in named fields."""
MOST_MALFORMED = 0.05
MIN_ROWS_FOR_SHARE = 20
REASONS_OF_THE_DATA = frozenset({"no_preference", "same_response", "empty_response", "empty_prompt", "prompt_not_open"})
LABELS_OF_PEOPLE = "overall_preference"


@dataclass(frozen=True)
class LabelledPair:
    """Two answers, what people think of them, and what judges said.

    Attributes:
        pair_id: file and line.
        prompt_id: pairs of one prompt stand or fall together.
        messages: the chat up to the answer; empty where the file does not hold it.
        responses: the answers in the order of the file; None where it does not hold two texts.
        names: what the two are called; `named`: whether these are names of the data, as of models.
        preference: of people, -3..3, negative: the first is better, 0: a tie; None where nobody was asked.
        strength: |preference| where people graded it.
        individual: preferences of single annotators.
        domain: as in the data.
        sayings: what each judge said, by its name and the order of display.
    """

    pair_id: str
    prompt_id: str
    messages: list[Message]
    responses: tuple[str, str] | None
    names: tuple[str, str]
    preference: float | None
    strength: float | None
    individual: tuple[float, ...]
    domain: str
    named: bool = False
    sayings: dict[str, Sayings] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledPairs:
    """What was read.

    Attributes:
        n_rows: of all files.
        pairs: the usable ones.
        dropped: rows that are not used, by reason; `first_dropped`: the first of them.
    """

    n_rows: int
    pairs: list[LabelledPair]
    dropped: dict[str, int]
    first_dropped: str | None


def read_labelled_pairs(
    paths: Sequence[str], text_ab: str | None = None, text_ba: str | None = None, grammar: StoredGrammar = "pairwise"
) -> LabelledPairs:
    """All rows of some files.

    Args:
        paths: .jsonl, .jsonl.gz, .json or .parquet files.
        text_ab, text_ba: fields with a judge's texts on the answers as they stand and exchanged, where they have names
            of their own.
        grammar: of those texts.

    Raises:
        UserError: a file is missing or cut, nothing in it is usable, or more than one row in twenty is malformed.
    """
    pairs: list[LabelledPair] = []
    problems: list[tuple[str, RowProblem]] = []
    n_rows = 0
    for name in paths:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"judge validate: there is no file {path}; name .jsonl, .json or .parquet files of pairs")
        for line, record in numbered_records(path):
            n_rows += 1
            try:
                if isinstance(record, RowProblem):
                    raise record
                pair = read_pair(record, f"{path.name}:{line}")
            except RowProblem as problem:
                problems.append((f"{path}, line {line}", problem))
                continue
            if text_ab is not None:
                pair.sayings[STORED] = named_in(record, text_ab, text_ba, grammar)
            pairs.append(pair)
    malformed = [row for row in problems if row[1].reason not in REASONS_OF_THE_DATA]
    if len(malformed) > MOST_MALFORMED * max(n_rows, MIN_ROWS_FOR_SHARE) or not pairs:
        what = f"{len(malformed)} of {n_rows} rows are malformed" if malformed else f"none of {n_rows} rows is usable"
        first = f"; the first is {malformed[0][0]}: {malformed[0][1]}" if malformed else ""
        raise UserError(f"judge validate: {', '.join(paths)}: {what}{first}")
    dropped = dict(sorted(Counter(problem.reason for _, problem in problems).items()))
    shown = f"{problems[0][0]}: {problems[0][1]}" if problems else None
    return LabelledPairs(n_rows, pairs, dropped, shown)


def read_pair(record: Record, pair_id: str) -> LabelledPair:
    """One row.

    Raises:
        RowProblem: it cannot be used.
    """
    if any(column in record for column in JUDGMENTS):
        return _judgment(record, pair_id)
    schema = detect_schema(record)
    if schema is None:
        raise RowProblem("missing_column", f"no pair of answers; found {', '.join(sorted(map(str, record)))[:120]}")
    try:
        row = read_row(record, schema)
    except RowProblem as problem:
        return _labels_alone(record, pair_id, problem)
    subset = record.get("subset")
    domain = subset if row.domain == "general" and isinstance(subset, str) and subset else row.domain
    return LabelledPair(
        pair_id=pair_id,
        prompt_id=sha256_of_record(row.messages)[:16],
        messages=row.messages,
        responses=row.responses,
        **_names(record, ("model1", "model2"), ("response 1", "response 2")),
        preference=row.preference,
        strength=row.strength,
        individual=row.individual,
        domain=domain,
        sayings=stored_in(record),
    )


def verdicts_of(pair: LabelledPair, judge: str) -> list[Verdict]:
    """What a judge said of a pair as verdicts, in the order of `ORDERS`; orders that the file lacks are left out."""
    sayings = pair.sayings.get(judge, {})
    return [
        Verdict(
            pair.pair_id,
            pair.prompt_id,
            0,
            order,
            sayings[order].verdict,
            mapped(sayings[order].verdict, order),
            sayings[order].status,
            raw=sayings[order].text or None,
        )
        for order in ORDERS
        if order in sayings
    ]


def _labels_alone(record: Record, pair_id: str, problem: RowProblem) -> LabelledPair:
    """A row whose texts no judge could be shown (an empty answer, say), but which people and stored judges judged.

    Raises:
        RowProblem: what was found at first, where the row holds no label or no stored text.
    """
    sayings = stored_in(record)
    if LABELS_OF_PEOPLE not in record or not sayings:
        raise problem
    preference = preference_of(record[LABELS_OF_PEOPLE])
    texts = record.get("response1"), record.get("response2")
    messages = messages_of(record.get("context"), "context")
    return LabelledPair(
        pair_id=pair_id,
        prompt_id=sha256_of_record(messages)[:16],
        messages=messages,
        responses=(texts[0], texts[1]) if isinstance(texts[0], str) and isinstance(texts[1], str) else None,
        **_names(record, ("model1", "model2"), ("response 1", "response 2")),
        preference=preference,
        strength=abs(preference) or None,
        individual=individual_of(record.get("individual_preference")),
        domain=label_of(record.get("domain"), "general"),
        sayings=sayings,
    )


def _judgment(record: Record, pair_id: str) -> LabelledPair:
    question = record.get("question_id")
    if not isinstance(question, (int, str)):
        raise RowProblem("missing_column", "a pairwise judgment needs its question_id")
    category = record.get("category")
    return LabelledPair(
        pair_id=pair_id,
        prompt_id=f"question {question}",
        messages=[],
        responses=None,
        **_names(record, ("model_a", "model_b"), ("A", "B")),
        preference=None,
        strength=None,
        individual=(),
        domain=category if isinstance(category, str) and category else "general",
        sayings=stored_in(record),
    )


def _names(record: Record, columns: tuple[str, str], default: tuple[str, str]) -> dict[str, Any]:
    found = [record.get(column) for column in columns]
    named = all(isinstance(name, str) and name for name in found)
    return {"names": tuple(found) if named else default, "named": named}
