"""The audit command: planted overlaps are counted to the row, in both directions, and the report can be read again."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from tasks.preference.audit import AuditTable, IndexedPart, audit_between, audit_inside, read_parts, run
from tasks.preference.near_texts import Texts

SYLLABLES = tuple(a + b for a in "bdfgklmnprst" for b in "aeiou")


def prose(number: int, what: str, words: int = 20) -> str:
    rng = np.random.default_rng([number, *what.encode()])
    return " ".join("".join(SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=3)) for _ in range(words))


def row(number: int, preference: float = -1, **changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "context": [{"role": "user", "content": prose(number, "question")}],
        "response1": prose(number, "first"),
        "response2": prose(number, "second"),
        "overall_preference": preference,
    }
    return whole | changes


def turned(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"response1": record["response2"], "response2": record["response1"]}


TRAIN = [
    *(row(i, (-1, 2, 0)[i % 3]) for i in range(30)),
    *(row(i) for i in range(100, 104)),  # 4 identical to validation rows
    *(turned(row(i)) for i in range(104, 107)),  # 3 with sides swapped
    *(row(i, response1=prose(i, "first").replace(" ", "  ", 1)) for i in range(107, 109)),  # 2 near
    row(200, context=row(109)["context"]),  # a context
    row(201, context=[{"role": "user", "content": prose(110, "question") + "!"}]),  # a near context
    row(202, response2=prose(111, "first")),  # a response
    row(203, response2=prose(112, "first") + "!"),  # a near response
    row(0, 1),  # an exact duplicate with the opposite label
    row(204, response1=""),
]
VALIDATION = [*(row(i) for i in range(100, 130)), turned(row(129))]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(record) + "\n" for record in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def test_planted_overlaps_are_counted_to_the_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path / "train.jsonl", TRAIN), write(tmp_path / "validation.jsonl", VALIDATION)]
    run(paths, AuditTable(output=str(tmp_path / "audit.json")))
    report = json.loads((tmp_path / "audit.json").read_text())

    train, validation = report["parts"]
    assert (train["rows"], train["usable"], train["ties"]) == (45, 34, 10)
    assert train["by_reason"] == {"empty_response": 1}
    assert [drop["line"] for drop in train["first_dropped"]] == [45]
    inside = ("exact_duplicates", "near_duplicates", "swapped_duplicates", "contradictory_duplicates")
    assert [train[name] for name in inside] == [1, 0, 0, 1]
    # The turned copy in validation prefers the other text: swapped sides and the same sign.
    assert [validation[name] for name in inside] == [1, 0, 1, 1]
    assert (train["repeated_contexts"], validation["repeated_contexts"]) == (1, 1)

    assert [(item["part"], item["other"]) for item in report["between"]] == [tuple(paths), tuple(paths[::-1])]
    kinds = ("identical", "swapped", "near", "context", "near_context", "response", "near_response")
    for item, rows in zip(report["between"], (44, 31), strict=True):
        assert item["rows"] == rows
        # 4 + 3 + 2 rows bring their contexts and responses along.
        assert [item[kind] for kind in kinds] == [4, 3, 2, 10, 1, 10, 1]

    printed = capsys.readouterr().out
    assert "train.jsonl, line 45: empty_response" in printed
    assert "4 (9.1%)" in printed
    assert "4 (12.9%)" in printed


def test_a_folder_is_audited_by_its_published_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "HelpSteer3"
    write(folder / "preference" / "train-0.jsonl.gz", TRAIN[:20])
    write(folder / "preference" / "train-1.jsonl.gz", TRAIN[20:])
    write(folder / "preference" / "validation.jsonl.gz", VALIDATION)
    write(folder / "edit" / "train.jsonl.gz", [{"context": [], "feedback": []}])
    parts = read_parts([str(folder)], AuditTable())
    assert [(part.name, len(part.rows)) for part in parts] == [("train", 44), ("validation", 31)]
    run([str(folder)], AuditTable())
    assert "4 (9.1%)" in capsys.readouterr().out


def test_parts_are_what_the_user_names(tmp_path: Path) -> None:
    one = write(tmp_path / "some" / "a.jsonl", TRAIN[:3])
    other = write(tmp_path / "some" / "b_test.jsonl", TRAIN[3:5])
    assert [part.name for part in read_parts([one], AuditTable())] == [one]
    assert [part.name for part in read_parts([one, other], AuditTable())] == [one, other]
    assert [part.name for part in read_parts([str(tmp_path / "some")], AuditTable())] == [one, other]
    both = read_parts([str(tmp_path / "some"), one], AuditTable())
    assert [len(part.rows) for part in both] == [5, 3]
    with pytest.raises(UserError, match=r"a.jsonl is named twice"):
        read_parts([one, one], AuditTable())


def test_the_real_sets_share_what_a_plain_comparison_finds(shared_data: Path) -> None:
    """Tulu and PandaLM were asked the same user-oriented questions, with other white space; hh-rlhf was not."""
    names = ("tulu_human_eval_hs3schema", "pandalm_testset_hs3schema", "hh_rlhf_harmless_test")
    parts = read_parts([str(shared_data / "preference" / f"{name}.jsonl") for name in names], AuditTable())
    texts = Texts()
    tulu, pandalm, harmless = (IndexedPart(part, texts) for part in parts)
    questions = {"".join(row.messages[0]["content"].split()).lower() for row in tulu.rows}
    shared = sum("".join(row.messages[0]["content"].split()).lower() in questions for row in pandalm.rows)
    assert audit_between(pandalm, tulu).context == shared == 560
    between = audit_between(harmless, tulu)
    assert (between.identical, between.swapped, between.near, between.context) == (0, 0, 0, 0)
    inside = audit_inside(parts[0], texts)
    assert (inside.rows, inside.usable, inside.ties) == (576, 396, 180)


def test_a_fortieth_of_helpsteer3_takes_seconds(tmp_path: Path) -> None:
    """1,000 rows with contexts of 2,500 characters and responses of 2,000; the time is linear in the rows."""
    rng = np.random.default_rng(0)
    words = np.array([prose(i, "word", 1) for i in range(2000)])

    def text(characters: int) -> str:
        return " ".join(words[rng.integers(2000, size=characters // 7)])

    rows = [
        row(i, context=[{"role": "user", "content": text(2500)}], response1=text(2000), response2=text(2000))
        for i in range(1000)
    ]
    paths = [write(tmp_path / "train.jsonl", rows), write(tmp_path / "validation.jsonl", rows[:100])]
    began = time.process_time()
    run(paths, AuditTable())
    assert time.process_time() - began < 10
