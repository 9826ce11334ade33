"""Rows of preference sets from files and from a model hub's datasets, with the place of every row that is not used.

Formats: .jsonl, .jsonl.gz, .parquet. A broken row is counted with its file and line and never stops the reading; a
broken file (cut, not what its name says) does, because nobody knows what was in the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from tasks.preference.fields import MALFORMED, RowProblem
from tasks.preference.numbered_records import numbered_records
from tasks.preference.rows import (
    HELPSTEER3_COLUMNS,
    OTHER_COLUMNS,
    PAIR_COLUMNS,
    PreferenceRow,
    Schema,
    detect_schema,
    read_row,
)

ROWS_LOOKED_AT = 100
"""A file's schema is that of the first of these rows that has one."""
MIN_ROWS_FOR_SHARE = 20
"""In a smaller file one broken row would already be more than the allowed share."""
LONGEST_SHOWN = 200
"""Characters of column names in a message."""


@dataclass(frozen=True)
class Dropped:
    """A row that is not used: where it stands (line or row, from 1), a key of `REASONS`, and what was found."""

    file: str
    line: int
    reason: str
    detail: str


@dataclass(frozen=True)
class SourceRows:
    """What one file holds.

    Attributes:
        file: its name.
        schema: the schema its rows were read by.
        rows: the usable rows with their line numbers.
        dropped: the others.
    """

    file: str
    schema: Schema
    rows: list[tuple[int, PreferenceRow]]
    dropped: list[Dropped]


def read_file(path: Path, schema: Schema | None, max_malformed_share: float) -> SourceRows:
    """All rows of a file.

    Raises:
        UserError: the file is cut, empty or of no known schema, or too many of its rows are malformed.
    """
    return read_records(str(path), numbered_records(path), schema, max_malformed_share)


def read_dataset(
    name: str, config: str | None, schema: Schema | None, max_malformed_share: float, where: str = "tasks.dataset"
) -> list[SourceRows]:
    """All published splits of a dataset on a hub, each as one source `name:split`.

    Raises:
        UserError: the dataset cannot be loaded.
    """
    import datasets

    try:
        splits = datasets.load_dataset(name, config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{where}: {name!r} cannot be loaded ({first}); without a network, fetch its files elsewhere and name "
            f"them instead of the dataset"
        ) from None
    return [
        read_records(f"{name}:{split}", enumerate(rows, start=1), schema, max_malformed_share)
        for split, rows in splits.items()
    ]


def read_records(
    file: str,
    records: Iterable[tuple[int, dict[str, Any] | RowProblem]],
    schema: Schema | None,
    max_malformed_share: float,
) -> SourceRows:
    """Numbered records, read by one schema; `None` finds it from the columns.

    Raises:
        UserError: there is no row, no schema, or too large a share of malformed rows.
    """
    listed = list(records)
    if not listed:
        raise UserError(f"{file}: holds no row")
    found = schema or _schema_of(file, [record for _, record in listed[:ROWS_LOOKED_AT]])
    rows, dropped = [], []
    for line, record in listed:
        try:
            if isinstance(record, RowProblem):
                raise record
            rows.append((line, read_row(record, found)))
        except RowProblem as problem:
            dropped.append(Dropped(file, line, problem.reason, problem.detail))
    malformed = [drop for drop in dropped if drop.reason in MALFORMED]
    if len(malformed) > max_malformed_share * max(len(listed), MIN_ROWS_FOR_SHARE):
        first = malformed[0]
        raise UserError(
            f"{file}: {len(malformed)} of {len(listed)} rows are malformed, more than tasks.max_malformed_share "
            f"({max_malformed_share}); the first is line {first.line}: {first.reason}, {first.detail}"
        )
    return SourceRows(file, found, rows, dropped)


def _schema_of(file: str, records: Sequence[dict[str, Any] | RowProblem]) -> Schema:
    readable = [record for record in records if not isinstance(record, RowProblem)]
    problem = next((record for record in records if isinstance(record, RowProblem)), None)
    for record in readable:
        schema = detect_schema(record)
        if schema:
            return schema
    if not readable:
        raise UserError(f"{file}: no readable row among the first {len(records)} ({problem}); is it JSON Lines?")
    found = ", ".join(sorted(map(str, readable[0])))[:LONGEST_SHOWN]
    if any("feedback" in column for column in readable[0]) and "context" in readable[0]:
        raise UserError(
            f"{file}: rows of HelpSteer3's feedback or edit sets (found {found}), which hold no preferences; "
            f"take its preference set (dataset_config: preference, or the folder preference/)"
        )
    needed = [HELPSTEER3_COLUMNS, PAIR_COLUMNS, *OTHER_COLUMNS.values()]
    raise UserError(
        f"{file}: of no known schema (found {found}); needed are {'; or '.join(', '.join(names) for names in needed)}"
    )
