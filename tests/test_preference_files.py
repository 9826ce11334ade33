"""Files of preference rows: formats, broken files and rows, datasets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from tasks.preference.files import read_dataset, read_file, read_records

SHARE = 0.05


def row(number: int, **changes: Any) -> dict[str, Any]:
    question = [{"role": "user", "content": f"question {number}"}]
    whole = {"context": question, "response1": "yes", "response2": "no", "overall_preference": -1}
    return whole | changes


def write_lines(path: Path, rows: list[Any]) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows)
    if path.suffix == ".gz":
        with gzip.open(path, "wt", encoding="utf-8") as stream:
            stream.write(text)
    else:
        path.write_text(text, encoding="utf-8", newline="")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_the_three_formats_hold_the_same_rows(tmp_path: Path) -> None:
    rows = [row(i, individual_preference=[{"score": -1}, {"score": -2}]) for i in range(3)]
    read = [
        read_file(path, None, SHARE)
        for path in (
            write_lines(tmp_path / "a.jsonl", rows),
            write_lines(tmp_path / "a.jsonl.gz", rows),
            write_parquet(tmp_path / "a.parquet", rows),
        )
    ]
    assert [source.schema for source in read] == ["helpsteer3"] * 3
    assert read[0].rows == read[1].rows == read[2].rows
    assert [line for line, _ in read[0].rows] == [1, 2, 3]
    assert read[0].rows[0][1].individual == (-1.0, -2.0)


def test_broken_rows_are_counted_with_their_lines(tmp_path: Path) -> None:
    rows: list[Any] = [row(i) for i in range(100)]
    rows[1] = '{"context": ['
    rows[2] = "[1, 2]"
    rows[3] = row(3, overall_preference=float("nan"))
    rows[4] = row(4, response1="a\ud800")
    rows[5] = row(5, response1="")
    rows[6] = ""
    source = read_file(write_lines(tmp_path / "a.jsonl", rows), None, SHARE)
    assert [(drop.line, drop.reason) for drop in source.dropped] == [
        (2, "unreadable_json"),
        (3, "not_an_object"),
        (4, "preference_out_of_range"),
        (5, "not_unicode"),
        (6, "empty_response"),
    ]
    assert len(source.rows) == 94


def test_bytes_that_are_not_utf8_are_one_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"context": "\xff"}\n' + (json.dumps(row(1)) + "\n").encode())
    source = read_file(path, None, SHARE)
    assert [(drop.line, drop.reason) for drop in source.dropped] == [(1, "unreadable_json")]


def test_too_many_malformed_rows_stop_and_empty_answers_do_not(tmp_path: Path) -> None:
    malformed = [row(i, response1=3 if i < 6 else "yes") for i in range(100)]
    with pytest.raises(
        UserError, match=r"a.jsonl: 6 of 100 rows are malformed.*\(0.05\).*line 1: wrong_type, response1"
    ):
        read_file(write_lines(tmp_path / "a.jsonl", malformed), None, SHARE)
    assert len(read_file(tmp_path / "a.jsonl", None, 0.06).rows) == 94
    empty = [row(i, response1="" if i < 50 else "yes") for i in range(100)]
    assert len(read_file(write_lines(tmp_path / "b.jsonl", empty), None, SHARE).dropped) == 50


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.jsonl", b"", "empty.jsonl: holds no row"),
        ("blank.jsonl", b"\n\n", "holds no row"),
        ("other.jsonl", b'{"question": 1, "answer": 2}\n', "of no known schema .found answer, question.; needed"),
        ("garbage.jsonl", b"\x00\x01\n", "no readable row"),
        ("cut.jsonl.gz", gzip.compress(json.dumps([row(i) for i in range(500)]).encode())[:-40], "not a whole gzip"),
        ("plain.jsonl.gz", b'{"a": 1}\n', "not a whole gzip file"),
        ("broken.parquet", b"PAR1 and then nothing", "not a whole parquet file"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read_file(tmp_path / name, None, SHARE)
    assert "\n" not in str(caught.value)


def test_a_cut_parquet_file_is_one_sentence(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [row(i) for i in range(50)])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="not a whole parquet file"):
        read_file(path, None, SHARE)


def test_a_named_schema_is_not_guessed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row(1)])
    with pytest.raises(UserError, match="30 of 30 rows are malformed"):
        read_records("x", enumerate([row(1)] * 30, 1), "trl", SHARE)
    assert read_file(path, "helpsteer3", SHARE).schema == "helpsteer3"


def test_a_dataset_that_cannot_be_loaded_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: object) -> None:
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub (offline)")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"tasks.dataset: 'nobody/nothing' cannot be loaded .*name them instead"):
        read_dataset("nobody/nothing", None, None, SHARE)


def test_a_dataset_folder_is_read_split_by_split(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_lines(tmp_path / "set" / "train.jsonl", [row(i) for i in range(3)])
    write_lines(tmp_path / "set" / "validation.jsonl", [row(9)])
    sources = read_dataset(str(tmp_path / "set"), None, None, SHARE)
    assert [(source.file.rsplit(":", 1)[1], len(source.rows)) for source in sources] == [
        ("train", 3),
        ("validation", 1),
    ]
