"""What a preference set holds, and how much its files share: `rewardladder audit train.jsonl validation.jsonl`.

Prints, for every part (a file, a folder, or a published split): rows, usable rows, ties, what is dropped and why with
the first ones shown, and duplicates inside. For every two parts: how many rows of each stand in the other, identical,
with swapped sides or nearly; how many share their context or one of their responses. Nothing is removed or written but
the report.

    rewardladder audit data/train.jsonl data/validation.jsonl output=audit.json
    rewardladder audit HelpSteer3/                       # a folder: its published splits
    rewardladder audit dataset=nvidia/HelpSteer3 dataset_config=preference
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.errors import UserError
from configs.loader import Table
from configs.records import place_to_write, write_json
from configs.terminal import say, show_table
from tasks.preference.duplicates import Compared, Prepared, RowIndex, chat_text, contradicts, exact_key, find_duplicates
from tasks.preference.fields import REASONS
from tasks.preference.files import Dropped, SourceRows, read_dataset, read_file
from tasks.preference.near_texts import NEAR_JACCARD, SHINGLE_LENGTH, NearIndex, Texts
from tasks.preference.rows import PreferenceRow, Schema
from tasks.preference.sources import published_split, resolve_files


class AuditTable(Table):
    """Settings of the audit.

    Attributes:
        dataset: instead of paths, a dataset on a model hub, whose published splits are compared.
        dataset_config: the dataset's configuration, for example `preference`.
        columns: how rows are read; `auto` finds it from each file's columns.
        max_malformed_share: a file with a larger share of malformed rows stops the audit; 1 reports them all.
        shown: so many of the first dropped rows of each reason are printed.
        output: a file for the report as JSON.
    """

    dataset: str | None = None
    dataset_config: str | None = None
    columns: Literal["auto", "helpsteer3", "hh-rlhf", "trl", "ultrafeedback", "llmbar"] = "auto"
    max_malformed_share: float = Field(1.0, ge=0, le=1)
    shown: int = Field(2, ge=0, le=100)
    output: str | None = None


@dataclass(frozen=True)
class Part:
    """What is compared as one: its name and its files."""

    name: str
    sources: list[SourceRows]

    @property
    def rows(self) -> list[PreferenceRow]:
        """The readable rows, ties included."""
        return [row for source in self.sources for _, row in source.rows]

    @property
    def dropped(self) -> list[Dropped]:
        """The rows that cannot be used."""
        return [drop for source in self.sources for drop in source.dropped]


@dataclass(frozen=True)
class Inside:
    """Counts of rows of one part.

    Attributes:
        rows: all of them.
        usable: readable and with a preference; `ties` are readable without one; the rest is dropped.
        by_reason: the dropped rows by reason.
        exact_duplicates, near_duplicates: readable rows that repeat an earlier one of the part.
        swapped_duplicates: how many of both have their sides swapped.
        contradictory_duplicates: how many of both prefer the other answer.
        repeated_contexts: readable rows whose context stands earlier in the part.
    """

    part: str
    schemas: list[str]
    rows: int
    usable: int
    ties: int
    by_reason: dict[str, int]
    exact_duplicates: int
    near_duplicates: int
    swapped_duplicates: int
    contradictory_duplicates: int
    repeated_contexts: int


@dataclass(frozen=True)
class Between:
    """Of the `rows` readable rows of `part`, how many have each of these in `other`.

    Attributes:
        identical, swapped, near: a row that is the same, the same with swapped sides, or only near; each row counts in
            one of the three at most.
        context, near_context: a context of the same normal form; only a near one.
        response, near_response: for either of its responses one of the same normal form; only a near one.
    """

    part: str
    other: str
    rows: int
    identical: int
    swapped: int
    near: int
    context: int
    near_context: int
    response: int
    near_response: int


class IndexedPart:
    """A part whose rows, contexts and responses can be looked up; `texts` is shared by all parts."""

    def __init__(self, part: Part, texts: Texts) -> None:
        self.name = part.name
        self.rows = [Compared(row.messages, row.responses) for row in part.rows]
        self.index = RowIndex(texts)
        self.prepared = [self.index.prepare(row) for row in self.rows]
        self.keys = [exact_key(row) for row in self.rows]
        self.sides: dict[bytes, set[tuple[str, str]]] = {}
        self.contexts, self.responses = NearIndex(texts), NearIndex(texts)
        for name, (row, prepared, key) in enumerate(zip(self.rows, self.prepared, self.keys, strict=True)):
            if key not in self.sides:
                self.index.add(name, prepared)
            self.sides.setdefault(key, set()).add(row.responses)
            self.contexts.add(prepared.chat)
            for answer in prepared.answers:
                self.responses.add(answer)

    def kinship(self, row: Compared, key: bytes, prepared: Prepared) -> str | None:
        """How a row of another part stands in this one: `identical`, `swapped`, `near` or not at all."""
        if key in self.sides:
            return "identical" if row.responses in self.sides[key] else "swapped"
        return "near" if self.index.find(prepared) else None


def run(paths: Sequence[str], table: AuditTable) -> None:
    """Audit files, folders or a dataset and print the report.

    Raises:
        UserError: nothing or too much is named, or a file cannot be read.
    """
    output = place_to_write(table.output, "output") if table.output else None
    parts = read_parts(paths, table)
    texts = Texts()
    inside = [audit_inside(part, texts) for part in parts]
    indexed = [IndexedPart(part, texts) for part in parts] if len(parts) > 1 else []
    between = [audit_between(one, other) for one, other in permutations(indexed, 2)]
    _show(parts, inside, between, table.shown)
    if output:
        first = {part.name: [asdict(drop) for drop in _first_ones(part.dropped, table.shown)] for part in parts}
        report = {
            "parts": [asdict(item) | {"first_dropped": first[item.part]} for item in inside],
            "between": [asdict(item) for item in between],
            "near": {"jaccard": NEAR_JACCARD, "shingle_characters": SHINGLE_LENGTH},
        }
        write_json(output, report)
        say(f"wrote {output}")


def read_parts(paths: Sequence[str], table: AuditTable) -> list[Part]:
    """The parts that paths or a dataset name: one a path, but of a single folder one for each of its published splits.

    Raises:
        UserError: nothing or too much is named, or a file cannot be read.
    """
    schema: Schema | None = None if table.columns == "auto" else table.columns
    if bool(paths) == bool(table.dataset):
        raise UserError("audit: name files or folders, or dataset=name, one of the two")
    if table.dataset:
        sources = read_dataset(table.dataset, table.dataset_config, schema, table.max_malformed_share, "audit: dataset")
        return [Part(source.file, [source]) for source in sources]
    if len(set(paths)) < len(paths):
        raise UserError(f"audit: {Counter(paths).most_common(1)[0][0]} is named twice; name each part once")
    named: dict[str, list[Path]] = {path: resolve_files([path], "audit") for path in paths}
    if len(paths) == 1:
        files = named[paths[0]]
        splits = [published_split(str(file)) for file in files]
        published = None not in splits and len(set(splits)) > 1
        named = {}
        for file, split in zip(files, splits, strict=True):
            named.setdefault(str(split) if published else str(file), []).append(file)
    return [
        Part(name, [read_file(file, schema, table.max_malformed_share) for file in files])
        for name, files in named.items()
    ]


def audit_inside(part: Part, texts: Texts) -> Inside:
    """Count what one part holds."""
    rows, dropped = part.rows, part.dropped
    duplicates = find_duplicates([Compared(row.messages, row.responses) for row in rows], texts)
    contexts = [texts.add(chat_text(row.messages)) for row in rows]
    ties = sum(row.preference == 0 for row in rows)
    counts = Counter(drop.reason for drop in dropped)
    return Inside(
        part=part.name,
        schemas=sorted({source.schema for source in part.sources}),
        rows=len(rows) + len(dropped),
        usable=len(rows) - ties,
        ties=ties,
        by_reason={reason: counts[reason] for reason in REASONS if counts[reason]},
        exact_duplicates=sum(duplicate.exact for duplicate in duplicates),
        near_duplicates=sum(not duplicate.exact for duplicate in duplicates),
        swapped_duplicates=sum(duplicate.swapped for duplicate in duplicates),
        contradictory_duplicates=sum(
            contradicts(rows[duplicate.of].preference, rows[duplicate.index].preference, duplicate.swapped)
            for duplicate in duplicates
        ),
        repeated_contexts=len(contexts) - len(set(contexts)),
    )


def audit_between(part: IndexedPart, other: IndexedPart) -> Between:
    """Count the rows of `part` that stand in `other`, wholly or in part."""
    counts: Counter[str] = Counter()
    for row, key, prepared in zip(part.rows, part.keys, part.prepared, strict=True):
        kinship = other.kinship(row, key, prepared)
        if kinship:
            counts[kinship] += 1
        if prepared.chat in other.contexts.members:
            counts["context"] += 1
        elif other.contexts.find(prepared.chat) is not None:
            counts["near_context"] += 1
        if any(answer in other.responses.members for answer in prepared.answers):
            counts["response"] += 1
        elif any(other.responses.find(answer) is not None for answer in prepared.answers):
            counts["near_response"] += 1
    kinds = ("identical", "swapped", "near", "context", "near_context", "response", "near_response")
    return Between(part.name, other.name, len(part.rows), **{kind: counts[kind] for kind in kinds})


def _show(parts: Sequence[Part], inside: Sequence[Inside], between: Sequence[Between], shown: int) -> None:
    labels = _labels([part.name for part in parts])
    show_table(
        "What each part holds",
        ("part", "schema", "rows", "usable", "ties", "dropped", "why dropped"),
        [
            (
                labels[item.part],
                ", ".join(item.schemas),
                item.rows,
                item.usable,
                item.ties,
                sum(item.by_reason.values()),
                ", ".join(f"{n} {reason}" for reason, n in item.by_reason.items()) or None,
            )
            for item in inside
        ],
    )
    for part in parts:
        for drop in _first_ones(part.dropped, shown):
            say(f"{drop.file}, line {drop.line}: {drop.reason}, {drop.detail}")
    columns = ("exact duplicates", "near duplicates", "sides swapped", "opposite label", "repeated contexts")
    show_table(
        "Inside each part: rows that repeat an earlier one, with their share of the readable rows",
        ("part", *columns),
        [
            (
                labels[item.part],
                *(
                    _with_share(n, item.usable + item.ties)
                    for n in (
                        item.exact_duplicates,
                        item.near_duplicates,
                        item.swapped_duplicates,
                        item.contradictory_duplicates,
                        item.repeated_contexts,
                    )
                ),
            )
            for item in inside
        ],
    )
    if not between:
        return
    kinds = ("identical", "swapped", "near", "context", "near_context", "response", "near_response")
    show_table(
        "Between parts: readable rows that have in the other part an identical row, one with sides swapped, …",
        ("rows of", "in", "rows", *(kind.replace("_", " ") for kind in kinds)),
        [
            (
                labels[item.part],
                labels[item.other],
                item.rows,
                *(_with_share(getattr(item, kind), item.rows) for kind in kinds),
            )
            for item in between
        ],
    )
    say(
        f"near: at least {NEAR_JACCARD} of all runs of {SHINGLE_LENGTH} characters are shared, or of a row one word "
        f"differs; at least 0.99 of the near ones are found. Identical, swapped and near exclude each other; "
        f"the context and the responses of such rows are counted too."
    )


def _first_ones(dropped: Sequence[Dropped], shown: int) -> list[Dropped]:
    by_reason: dict[str, list[Dropped]] = {reason: [] for reason in REASONS}
    for drop in dropped:
        by_reason[drop.reason].append(drop)
    return [drop for drops in by_reason.values() for drop in drops[:shown]]


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Short names of parts: the last piece of a path without its ending where that tells them apart."""
    short = {name: Path(name).name.partition(".")[0] or name for name in names}
    return short if len(set(short.values())) == len(names) else dict(zip(names, names, strict=True))


def _with_share(n: int, total: int) -> str:
    return f"{n} ({n / total:.1%})" if n else "0"
