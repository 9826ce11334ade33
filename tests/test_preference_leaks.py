"""A leak planted between published splits of real rows is found, removed and counted; so are its softer forms."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from configs.loader import Experiment
from tasks.preference.cleaning import Cleaned, clean_and_split
from tasks.preference.files import read_file, read_records
from tasks.preference.rows import PreferenceRow
from tasks.preference.sets import PreferenceTable, PreferenceTask
from tasks.preference.sources import PublishedSplit
from tasks.records import read_pairs

PLANTED = 100
"""Copies of each kind."""
STATED_RECALL = 0.95
TINY = {"vocab_size": 600, "layers": 1, "hidden": 16, "heads": 2, "steps": 1, "batch_size": 2}
PUBLISHED: dict[str, PublishedSplit] = {"train": "train", "validation": "validation", "test": "test"}
SYLLABLES = tuple(a + b for a in "bdfgklmnprst" for b in "aeiou")


def as_record(row: PreferenceRow) -> dict[str, Any]:
    return {
        "context": row.messages,
        "response1": row.responses[0],
        "response2": row.responses[1],
        "overall_preference": row.preference,
    }


def swapped(record: dict[str, Any]) -> dict[str, Any]:
    turned = {"response1": record["response2"], "response2": record["response1"]}
    return record | turned | {"overall_preference": -record["overall_preference"]}


def with_changed_part(record: dict[str, Any], place: int, change: Any) -> dict[str, Any]:
    if place < 2:
        column = ("response1", "response2")[place]
        return record | {column: change(record[column])}
    *before, last = record["context"]
    return record | {"context": [*before, last | {"content": change(last["content"])}]}


def one_space_more(text: str, rng: np.random.Generator) -> str:
    words = text.split(" ")
    place = int(rng.integers(len(words)))
    return " ".join([*words[:place], "", *words[place:]])


def one_word_changed(text: str, rng: np.random.Generator) -> str:
    words = text.split(" ")
    words[int(rng.integers(len(words)))] = "zebra"
    return " ".join(words)


def published_rows(shared_data: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train and validation rows of real sets that share nothing: cleaned together and split by conversation."""
    files = ("preference/tulu_human_eval_hs3schema.jsonl", "preference/hh_rlhf_harmless_test.jsonl")
    sources = [read_file(shared_data / name, None, 0.05) for name in files]
    cleaned = clean_and_split(sources, 0.5, None, 0)
    records: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for number, pair in enumerate(cleaned.pairs):
        record = as_record(PreferenceRow(pair.messages, (pair.chosen, pair.rejected), -1.0, None))
        records[pair.split == "train"].append(swapped(record) if number % 2 else record)
    return records[True], records[False]


def cleaned_of(**records: list[dict[str, Any]]) -> Cleaned:
    sources = [read_records(name, enumerate(rows, 1), None, 0.05) for name, rows in records.items()]
    return clean_and_split(sources, 0.1, None, 0, published=PUBLISHED)


def test_a_planted_leak_of_real_rows_is_found_counted_and_removed(shared_data: Path) -> None:
    train, validation = published_rows(shared_data)
    assert len(train) > 500
    assert len(validation) > 500
    before = cleaned_of(train=train, validation=validation)
    assert not any(drop.reason.startswith("leak") for drop in before.dropped)

    rng = np.random.default_rng(0)
    victims = iter(rng.permutation(len(validation))[: 4 * PLANTED])
    planted: dict[str, list[dict[str, Any]]] = {}
    planted["exact"] = [validation[next(victims)] for _ in range(PLANTED)]
    planted["swapped"] = [swapped(validation[next(victims)]) for _ in range(PLANTED)]
    for kind, change in (("space", one_space_more), ("word", one_word_changed)):
        planted[kind] = []
        for number in range(PLANTED):
            original = validation[next(victims)]
            copy = with_changed_part(original, number % 3, lambda text, change=change: change(text, rng))
            planted[kind].append(swapped(copy) if number % 2 else copy)
    kind_of_line = dict(enumerate([kind for kind, rows in planted.items() for _ in rows], len(train) + 1))
    cleaned = cleaned_of(train=[*train, *(row for rows in planted.values() for row in rows)], validation=validation)

    leaks = [drop for drop in cleaned.dropped if drop.reason in ("leak_exact", "leak_near")]
    assert all(drop.file == "train" for drop in leaks)
    assert {drop.line for drop in leaks} <= set(kind_of_line)
    found = Counter((kind_of_line[drop.line], drop.reason, "sides swapped" in drop.detail) for drop in leaks)
    assert found["exact", "leak_exact", False] == PLANTED
    assert found["swapped", "leak_exact", True] == PLANTED
    assert sum(drop.reason == "leak_exact" for drop in leaks) == 2 * PLANTED
    assert sum(n for (kind, *_), n in found.items() if kind == "space") == PLANTED
    assert sum(n for (kind, *_), n in found.items() if kind == "word") >= STATED_RECALL * PLANTED
    near_swapped = sum(n for (kind, _, turned), n in found.items() if kind in ("space", "word") and turned)
    assert near_swapped == pytest.approx(PLANTED, abs=0.05 * PLANTED)

    counts = cleaned.facts["duplicates_with_sides_swapped"]
    assert counts["leak_exact"] == PLANTED
    assert cleaned.facts["duplicates_with_the_opposite_label"] == 0
    gone = {drop.line for drop in cleaned.dropped if drop.file == "train"}
    assert len(set(kind_of_line) - gone) <= 0.02 * PLANTED  # of 400 copies, whatever the reason of their removal
    held_out = [pair for pair in cleaned.pairs if pair.split != "train"]
    assert held_out == [pair for pair in before.pairs if pair.split != "train"]


def prose(number: int, what: str, words: int = 14) -> str:
    rng = np.random.default_rng([number, *what.encode()])
    return " ".join("".join(SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=3)) for _ in range(words))


def made(number: int, **changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "context": [{"role": "user", "content": prose(number, "question")}],
        "response1": prose(number, "first"),
        "response2": prose(number, "second"),
        "overall_preference": -2,
    }
    return record | changes


def test_published_train_rows_train_and_published_held_out_rows_are_halved() -> None:
    cleaned = cleaned_of(train=[made(i) for i in range(40)], validation=[made(i) for i in range(100, 200)])
    splits = Counter((pair.source.partition(":")[0], pair.split) for pair in cleaned.pairs)
    assert splits["train", "train"] == 40
    assert set(splits) == {("train", "train"), ("validation", "selection"), ("validation", "measurement")}
    # Three standard deviations of a binomial half of 100 are 15.
    assert splits["validation", "selection"] == pytest.approx(50, abs=15)


def test_where_both_are_published_validation_selects_and_test_measures() -> None:
    rows = {"train": [made(i) for i in range(9)], "validation": [made(20), made(21)], "test": [made(30), made(21)]}
    cleaned = cleaned_of(**rows)
    assert Counter((pair.source.partition(":")[0], pair.split) for pair in cleaned.pairs) == {
        ("train", "train"): 9,
        ("validation", "selection"): 1,
        ("test", "measurement"): 2,
    }
    assert [(drop.file, drop.line, drop.reason) for drop in cleaned.dropped] == [("validation", 2, "leak_exact")]


def test_shared_prompts_and_conversations_leave_the_published_train_rows() -> None:
    question = prose(50, "question", 60)
    other = {"response1": prose(51, "first"), "response2": prose(51, "second")}
    near = made(51, context=[{"role": "user", "content": question + " zu"}], **other)
    deeper = made(
        52,
        context=[
            {"role": "user", "content": question},
            {"role": "assistant", "content": prose(52, "answer", 80)},
            {"role": "user", "content": prose(52, "and then", 40)},
        ],
    )
    held_out = made(50, context=[{"role": "user", "content": question}])
    cleaned = cleaned_of(train=[*(made(i) for i in range(5)), near, deeper], validation=[held_out, made(99)])
    assert [(drop.line, drop.reason) for drop in cleaned.dropped] == [
        (6, "near_held_out_prompt"),
        (7, "held_out_conversation"),
    ]
    assert len(cleaned.pairs) == 7


def test_the_limit_never_thins_what_is_held_out() -> None:
    rows = {"train": [made(i) for i in range(40)], "validation": [made(i) for i in range(100, 130)]}
    sources = [read_records(name, enumerate(records, 1), None, 0.05) for name, records in rows.items()]
    cleaned = clean_and_split(sources, 0.1, 10, 0, published=PUBLISHED)
    assert Counter(pair.split == "train" for pair in cleaned.pairs) == {True: 10, False: 30}


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_a_folder_with_published_splits_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARDLADDER_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "set" / "preference" / "train.jsonl", [*(made(i) for i in range(30)), swapped(made(70))])
    write(tmp_path / "set" / "preference" / "validation.jsonl", [made(i) for i in range(60, 90)])
    write(tmp_path / "set" / "feedback" / "train.jsonl", [{"context": [], "feedback1": []}])
    table = PreferenceTable(files=[str(tmp_path / "set")], splits="published", taught=TINY)
    folder = tmp_path / "run" / "tasks"
    folder.mkdir(parents=True)
    task = PreferenceTask(table)
    assert [path.name for path in task.input_files().values()] == ["train.jsonl", "validation.jsonl"]
    summary = task.build(folder, 0)
    assert summary["dropped"] == {"leak_exact": 1}
    pairs = read_pairs(folder)
    assert {pair.split == "train": Path(pair.source).name.split(":")[0] for pair in pairs} == {
        True: "train.jsonl",
        False: "validation.jsonl",
    }
    assert len(pairs) == 60


def test_held_out_files_may_be_named(tmp_path: Path) -> None:
    train, other = write(tmp_path / "a.jsonl", [made(1)]), write(tmp_path / "b.jsonl", [made(2)])
    task = PreferenceTask(PreferenceTable(files=[str(train)], held_out_files=[str(other)], splits="published"))
    assert list(task.input_files().values()) == [train, other]
    assert task._published(task._sources()) == {str(train): "train", str(other): "validation"}
    unnamed = PreferenceTask(PreferenceTable(files=[str(train), str(other)], splits="published"))
    with pytest.raises(UserError, match=r"a.jsonl does not say which published split.*tasks.held_out_files"):
        unnamed._published(unnamed._sources())


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"files": ["a"], "held_out_files": ["b"]}, "held_out_files belong to files and splits: published"),
        ({"dataset": "a", "held_out_files": ["b"], "splits": "published"}, "held_out_files belong to files"),
        ({"files": ["a"], "splits": "published", "held_out_share": 0.2}, "held_out_share means nothing with splits"),
        ({"files": ["a"], "splits": "publshed"}, "did you mean published"),
    ],
)
def test_a_wrong_table_is_one_sentence(table: dict[str, Any], sentence: str) -> None:
    experiment = Experiment("x.yaml", "x", 0, Path("runs"), {"tasks": {"task": "preference", **table}})
    with pytest.raises(UserError, match=sentence):
        experiment.table("tasks", PreferenceTable)
