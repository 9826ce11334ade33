"""Broken inputs as one table: each is a one-line error or a counted drop, in the audit and in the build, never more."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from configs.errors import UserError
from tasks.preference.audit import AuditTable
from tasks.preference.audit import run as audit
from tasks.preference.sets import PreferenceTable, PreferenceTask

N = 60
PLACE = 4
"""The broken row is line 5."""


def good(number: int) -> dict[str, Any]:
    question = [{"role": "user", "content": f"what is the {number}th of the numbers that I think of?"}]
    answers = {"response1": f"it may be {number}", "response2": f"I cannot know what {number} people think"}
    return {"context": question, **answers, "overall_preference": -1}


def lines(*broken: Any, rows: int = N) -> bytes:
    written: list[Any] = [good(i) for i in range(rows)]
    for offset, record in enumerate(broken):
        written[PLACE + offset] = record
    encoded = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in written]
    return b"\n".join(encoded) + b"\n"


def without(column: str) -> dict[str, Any]:
    return {name: value for name, value in good(PLACE).items() if name != column}


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def parquet_with_bad_text() -> bytes:
    rows = [good(i) for i in range(N)]
    rows[PLACE]["response1"] = "MARKER"
    return as_parquet(rows).replace(b"MARKER", b"MAR\xff\xfeR")


COUNTED: dict[str, tuple[bytes, str]] = {
    "missing column": (lines(without("response2")), "missing_column"),
    "wrong type": (lines(good(PLACE) | {"response1": 7}), "wrong_type"),
    "null": (lines(good(PLACE) | {"response1": None}), "wrong_type"),
    "context that is a text": (lines(good(PLACE) | {"context": "what?"}), "wrong_type"),
    "empty response": (lines(good(PLACE) | {"response1": ""}), "empty_response"),
    "response of white space": (lines(good(PLACE) | {"response1": " \n\t"}), "empty_response"),
    "lone surrogate": (lines(good(PLACE) | {"response1": "a\ud800"}), "not_unicode"),
    "NaN preference": (lines(good(PLACE) | {"overall_preference": float("nan")}), "preference_out_of_range"),
    "infinite preference": (lines(good(PLACE) | {"overall_preference": float("inf")}), "preference_out_of_range"),
    "null preference": (lines(good(PLACE) | {"overall_preference": None}), "no_preference"),
    "line cut in the middle": (lines(json.dumps(good(PLACE)).encode()[:40]), "unreadable_json"),
    "not UTF-8": (lines(b'{"context": "\xff\xfe"}'), "unreadable_json"),
    "NUL bytes": (lines(b"\x00\x00\x00\x00"), "unreadable_json"),
    "a list": (lines([1, 2]), "not_an_object"),
    "deep nesting": (lines(b"[" * 100_000), "unreadable_json"),
    "a number of 5,000 digits": (lines(b'{"overall_preference": ' + b"1" * 5000 + b"}"), "unreadable_json"),
}
KEPT: dict[str, tuple[str, bytes]] = {
    "BOM at the start": ("a.jsonl", b"\xef\xbb\xbf" + lines()),
    "response of a megabyte": ("a.jsonl", lines(good(PLACE) | {"response1": "long " * (2**20 // 5)})),
    "escaped NUL in a text": ("a.jsonl", lines(good(PLACE) | {"response1": "a\x00b"})),
    "CRLF and blank lines": ("a.jsonl", lines().replace(b"\n", b"\r\n\r\n")),
    "no newline at the end": ("a.jsonl", lines()[:-1]),
    "two gzip members": ("a.jsonl.gz", gzip.compress(lines()[:-1] + b"\n")[:] + gzip.compress(b"\n")),
}
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "0 rows": ("a.jsonl", b"", "holds no row"),
    "blank lines": ("a.jsonl", b"\n\n", "holds no row"),
    "parquet with 0 rows": ("a.parquet", as_parquet([good(0)][:0] or []), "holds no row"),
    "gz cut in the middle": ("a.jsonl.gz", gzip.compress(lines())[:300], "not a whole gzip file"),
    "gz that is none": ("a.jsonl.gz", lines(), "not a whole gzip file"),
    "gz with a wrong checksum": ("a.jsonl.gz", gzip.compress(lines())[:-8] + b"\x00" * 8, "not a whole gzip file"),
    "parquet cut": ("a.parquet", as_parquet([good(i) for i in range(N)])[:-30], "not a whole parquet file"),
    "parquet that is none": ("a.parquet", b"PAR1 and nothing", "not a whole parquet file"),
    "other columns": ("a.jsonl", b'{"question": 1, "answer": 2}\n' * 30, "of no known schema"),
    "another encoding": ("a.jsonl", lines().decode().encode("utf-16"), "no readable row"),
    "one JSON list": ("a.jsonl", json.dumps([good(0)]).encode(), "no readable row"),
    "an indented JSON file": ("a.jsonl", json.dumps(good(0), indent=1).encode(), "no readable row"),
    "binary": ("a.jsonl", bytes(range(256)) * 40, "no readable row"),
}


def build(path: Path, folder: Path) -> dict[str, Any]:
    """The build up to the base; the counts are written before it."""
    folder.mkdir()
    PreferenceTask(PreferenceTable(files=[str(path)], held_out_share=0.4, base=str(folder / "no model"))).build(
        folder, 0
    )
    raise AssertionError("there is no such base")


def counts_of(path: Path, tmp_path: Path) -> dict[str, Any]:
    with pytest.raises(UserError, match=r"tasks\.base"):
        build(path, tmp_path / "run")
    return json.loads((tmp_path / "run" / "dropped.json").read_text())


@pytest.mark.parametrize("name", COUNTED)
def test_a_broken_row_is_a_counted_drop(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, reason = COUNTED[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    counts = counts_of(path, tmp_path)
    assert counts["by_reason"] == {reason: 1}
    assert (counts["kept"], counts["rows_read"]) == (N - 1, N)
    assert [(shown["line"], shown["reason"]) for shown in counts["first_of_each_reason"]] == [(PLACE + 1, reason)]
    audit([str(path)], AuditTable())
    assert f"line {PLACE + 1}: {reason}" in capsys.readouterr().out


@pytest.mark.parametrize("name", KEPT)
def test_what_is_only_unusual_is_kept(name: str, tmp_path: Path) -> None:
    file, content = KEPT[name]
    (tmp_path / file).write_bytes(content)
    counts = counts_of(tmp_path / file, tmp_path)
    assert (counts["kept"], counts["by_reason"]) == (N, {})


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_file_is_one_line(name: str, tmp_path: Path) -> None:
    file, content, sentence = REFUSED[name]
    path = tmp_path / file
    path.write_bytes(content)
    attempts: tuple[Callable[[], Any], ...] = (
        lambda: build(path, tmp_path / "run"),
        lambda: audit([str(path)], AuditTable()),
    )
    for attempt in attempts:
        with pytest.raises(UserError, match=sentence) as caught:
            attempt()
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_a_text_of_a_parquet_file_that_is_not_utf8_is_a_counted_drop(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_with_bad_text())
    counts = counts_of(path, tmp_path)
    assert (counts["kept"], counts["by_reason"]) == (N - 1, {"not_unicode": 1})


def test_more_than_the_stated_share_of_malformed_rows_stops(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*[without("response1")] * 4))
    with pytest.raises(UserError, match=r"4 of 60 rows are malformed, more than tasks.max_malformed_share .*line 5"):
        build(path, tmp_path / "run")
    audit([str(path)], AuditTable())  # looks and tells
    with pytest.raises(UserError, match="4 of 60 rows are malformed"):
        audit([str(path)], AuditTable(max_malformed_share=0.05))


@pytest.mark.parametrize(
    ("paths", "table", "sentence"),
    [
        ([], {}, "name files or folders, or dataset=name"),
        (["a.jsonl"], {"dataset": "b"}, "one of the two"),
        (["nowhere.jsonl"], {}, "'nowhere.jsonl' matches no file"),
        (["."], {}, "holds no .jsonl"),
        (["notes.txt"], {}, r"notes.txt is not a .jsonl, .jsonl.gz, .parquet file"),
        (["folder.jsonl"], {}, "the folder folder.jsonl holds no"),
    ],
)
def test_wrong_paths_are_one_line(
    paths: list[str], table: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match=sentence) as caught:
        audit(paths, AuditTable(**table))
    assert "\n" not in str(caught.value)
