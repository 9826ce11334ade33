"""The rows of a file with their numbers: .jsonl, .jsonl.gz, .parquet, or .json that is one list of rows.

A broken row is handed on as a `RowProblem` and never stops the reading; a broken file (cut, not what its name says)
does, because nobody knows what was in the rest.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import UserError
from tasks.preference.fields import RowProblem

Record = dict[str, Any]
PARQUET_ROWS = 1024
"""Rows of a parquet file that are in memory at a time."""


def numbered_records(path: Path) -> Iterator[tuple[int, Record | RowProblem]]:
    """The rows of a file, each with its line or row from 1.

    Raises:
        UserError: the file cannot be read to its end.
    """
    if path.suffix == ".parquet":
        yield from parquet_records(path)
    elif path.suffix == ".json":
        yield from enumerate(map(_as_record, json_rows(path)), start=1)
    else:
        yield from _json_records(path)


def _json_records(path: Path) -> Iterator[tuple[int, Record | RowProblem]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for line, content in enumerate(stream, start=1):
                if content.strip():
                    yield line, _json_record(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _json_record(content: bytes) -> Record | RowProblem:
    try:
        record = json.loads(content.decode("utf-8-sig", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        return RowProblem("unreadable_json", str(error))
    return _as_record(record)


def _as_record(value: Any) -> Record | RowProblem:
    return value if isinstance(value, dict) else RowProblem("not_an_object", f"found {type(value).__name__}")


def json_rows(path: Path) -> list[Any]:
    """The rows of a .json file, which is one list.

    Raises:
        UserError: it cannot be read, or is no list.
    """
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); fetch it again") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: a list of rows is needed, found {type(rows).__name__}; name the data files")
    return rows


def parquet_records(path: Path, columns: list[str] | None = None) -> Iterator[tuple[int, Record | RowProblem]]:
    """The rows of a parquet file, each with its number from 1, a few at a time in memory.

    Args:
        path: the file.
        columns: those that are read; all of them where it is not given, none of them (only to count) where empty.

    Raises:
        UserError: the file cannot be read to its end.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        line = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS, columns=columns):
            for record in _records_of_batch(batch):
                line += 1
                yield line, record
    except (pyarrow.ArrowException, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{path}: not a whole parquet file ({first}); fetch it again") from None


def _records_of_batch(batch: Any) -> Iterator[Record | RowProblem]:
    """The rows of a batch; texts that are not UTF-8 (a writer may not have checked) make only their row unreadable."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for place in range(batch.num_rows):
            try:
                yield from batch.slice(place, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield RowProblem("not_unicode", f"not UTF-8 ({error.reason})")
