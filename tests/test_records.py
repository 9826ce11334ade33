"""JSON on disk: whole or not at all, no NaN, texts of every kind come back, and errors name the line."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import UserError
from configs.records import (
    canonical_json,
    make_folder,
    place_to_write,
    read_json,
    read_jsonl,
    sha256_of_file,
    sha256_of_record,
    write_bytes,
    write_json,
    write_jsonl,
)

MILLION_A_SHA256 = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
"""SHA-256 of one million times `a`, from FIPS 180-2, appendix B.3."""
EMPTY_OBJECT_SHA256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
"""SHA-256 of the two bytes `{}`."""
# A pair of surrogates written as two characters is the same JSON as the one character that they encode.
TEXTS = st.text(st.characters(exclude_categories=[])).filter(
    lambda text: text == text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
)


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    write_bytes(path, b"first, and longer")
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert [inside.name for inside in path.parent.iterdir()] == ["a.bin"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def disk_is_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": 1})
    assert read_json(path) == {"old": 1}
    assert [inside.name for inside in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinities_are_refused_and_leave_the_old_file(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    for write in (lambda: write_json(path, {"x": [value]}), lambda: write_jsonl(path, [{}, {"x": value}])):
        with pytest.raises(ValueError, match="JSON compliant"):
            write()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": value})
    assert path.read_bytes() == b"old"


def test_the_bytes_of_a_record_are_as_written_here(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None], "a": "é"})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "b": [\n    1,\n    null\n  ],\n  "a": "é"\n}\n'.encode()
    assert write_jsonl(tmp_path / "a.jsonl", ({"i": i, "t": "é"} for i in range(2))) == 2
    assert (tmp_path / "a.jsonl").read_bytes() == b'{"i": 0, "t": "\\u00e9"}\n{"i": 1, "t": "\\u00e9"}\n'
    assert canonical_json({"b": 1, "a": {"d": 1.0, "c": "é"}}) == '{"a":{"c":"é","d":1.0},"b":1}'


def test_hashes_are_those_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 1_000_000)
    assert sha256_of_file(tmp_path / "a") == MILLION_A_SHA256
    assert sha256_of_record({}) == EMPTY_OBJECT_SHA256
    assert sha256_of_record({"a": 1, "b": 2}) == sha256_of_record({"b": 2, "a": 1})
    assert sha256_of_record({"a": 1}) != sha256_of_record({"a": "1"})
    assert sha256_of_record("\ud800") != sha256_of_record("\udfff")


@given(TEXTS)
def test_every_text_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_json(folder / "a.json", {"text": text})
    write_jsonl(folder / "a.jsonl", [{text: text}, {"text": text}])
    assert read_json(folder / "a.json") == {"text": text}
    assert list(read_jsonl(folder / "a.jsonl")) == [{text: text}, {"text": text}]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_comes_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    path = tmp_path_factory.getbasetemp() / "number.json"
    write_json(path, value)
    assert read_json(path) == value


def test_line_ends_inside_texts_and_blank_lines_make_no_records(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"t": "a\u2028b\x85c\r\nd"}])
    assert list(read_jsonl(path)) == [{"t": "a\u2028b\x85c\r\nd"}]
    path.write_bytes(b'\n{"a": 1}\r\n\r\n   \n{"a": "\xe2\x80\xa8"}')
    assert list(read_jsonl(path)) == [{"a": 1}, {"a": "\u2028"}]


def test_nothing_at_all_is_no_record(tmp_path: Path) -> None:
    assert write_jsonl(tmp_path / "a.jsonl", []) == 0
    assert list(read_jsonl(tmp_path / "a.jsonl")) == []


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (b'{"a": 1, "b": "cut he', "line 2: not readable as JSON ("),
        (b'{"a": "\xff"}', "line 2: not readable as JSON ("),
        (b"[1]", "line 2: a JSON object is needed, found list"),
        (b'"text"', "line 2: a JSON object is needed, found str"),
        (b"null", "line 2: a JSON object is needed, found NoneType"),
        (b"\x00\x00", "line 2: not readable as JSON ("),
    ],
)
def test_a_line_that_is_no_record_is_named_after_the_good_ones(tmp_path: Path, second: bytes, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + second + b"\n")
    rows = read_jsonl(path)
    assert next(rows) == {"a": 1}
    with pytest.raises(UserError) as error:
        next(rows)
    assert str(error.value).startswith(f"{path}, {said}")


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b'{"a": 1} {"b": 2}'])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: not readable as JSON \(.*\); it may have been cut or edited"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_json, lambda path: list(read_jsonl(path))):
        with pytest.raises(UserError) as error:
            read(tmp_path / "no.json")
        assert str(error.value) == f"{tmp_path}/no.json: there is no such file"


def test_any_order_of_keys_is_one_canonical_text() -> None:
    def shuffled(record: dict[str, Any]) -> dict[str, Any]:
        return dict(reversed([(k, shuffled(v) if isinstance(v, dict) else v) for k, v in record.items()]))

    record = {"b": {"y": 1, "x": [{"q": 1, "p": 2}]}, "a": None}
    assert canonical_json(record) == canonical_json(shuffled(record))
    assert json.loads(canonical_json(record)) == record


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc here")
def test_a_place_that_takes_no_file_is_refused_before_the_work() -> None:
    with pytest.raises(UserError, match=r"^output: /proc/x cannot be written \("):
        place_to_write("/proc/x", "output")
    with pytest.raises(UserError, match=r"^/proc/x/y cannot be made \(.*\); name another folder$"):
        make_folder(Path("/proc/x/y"))
    with pytest.raises(UserError, match=r"^/proc/x/y cannot be made \("):
        write_bytes(Path("/proc/x/y/z"), b"")


def test_trying_a_place_leaves_nothing_there_and_what_was_there(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("before")
    assert place_to_write(there, "output") == there
    assert place_to_write(str(tmp_path / "new.json"), "output") == tmp_path / "new.json"
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"] and there.read_text() == "before"
    with pytest.raises(UserError, match=r"cannot be written \(File name too long\); name another place"):
        place_to_write(tmp_path / ("a" * 254), "output")
