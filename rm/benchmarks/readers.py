"""Rows of published reward-model benchmarks, read into one record; no row leaves without being counted.

    rewardbench2  prompt, chosen and rejected (or correct and incorrect): lists of texts, subset, id (arXiv 2506.01937)
    rm-bench      prompt, chosen and rejected: three texts each, terse, detailed, in Markdown; domain (arXiv 2410.16184)
    judgebench    question, response_A, response_B, label "A>B" or "B>A", source (arXiv 2410.12784)
    llmbar        input, output_1, output_2, label 1 or 2; the subset is a column or the folder (arXiv 2310.07641)
    pairs         any preference file that `tasks.preference.rows` reads

Files are .jsonl, .jsonl.gz, .json (one list of rows) or .parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.errors import UserError
from configs.records import sha256_of_record
from tasks.preference.fields import UNUSABLE, RowProblem, column_of, demand_unicode, text_of
from tasks.preference.numbered_records import Record, numbered_records
from tasks.preference.rows import PreferenceRow, Schema, detect_schema, read_row
from tasks.records import Message

Kind = Literal["rewardbench2", "rm-bench", "judgebench", "llmbar", "pairs"]
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
ROWS_LOOKED_AT = 100
"""The kind of a benchmark is that of the first of these rows of each file that has one."""
MIN_ROWS_FOR_SHARE = 20
"""In a smaller file one broken row would already be more than the allowed share."""
N_STYLES = 3
TIES = "ties"
JUDGEBENCH_GROUPS = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")
"""The four categories by which JudgeBench is reported; `source` begins with them."""
NOT_BROKEN = frozenset(UNUSABLE)
"""Reasons that are a fact of the data; all others mean a malformed row."""


@dataclass(frozen=True)
class Item:
    """One task of a benchmark: answers to one chat, of which the first `n_correct` are correct.

    Attributes:
        item_id: as in the data; the row's place where it has none.
        subset: the part of the benchmark that it is reported with.
        prompt_id: items of one prompt stand or fall together when intervals are drawn.
        messages: the chat up to the answer.
        answers: correct ones first; an RM-Bench item has them in the order of its styles.
        n_correct: how many are correct.
    """

    item_id: str
    subset: str
    prompt_id: str
    messages: list[Message]
    answers: tuple[str, ...]
    n_correct: int


@dataclass(frozen=True)
class DroppedRow:
    """A row that is not scored: its file, its line or row from 1, the reason, and what was found."""

    file: str
    line: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Benchmark:
    """What was read: its kind, its files, the number of rows, the usable items, and the rows that are not."""

    kind: Kind
    files: list[str]
    n_rows: int
    items: list[Item]
    dropped: list[DroppedRow]


def read_benchmark(paths: Sequence[str], kind: Kind | None, max_malformed_share: float) -> Benchmark:
    """All items of files and folders; rows that stand twice (RM-Bench ships its parts and their sum) count once.

    Raises:
        UserError: no file, a cut file, no known kind, two kinds at once, nothing usable, or too many malformed rows.
    """
    files = [file for path in paths for file in _files_of(Path(path).expanduser())]
    rows = {file: list(numbered_records(file)) for file in files}
    found = kind or _kind_of(rows)
    items: dict[str, Item] = {}
    ids_of_ties: set[str] = set()
    dropped: list[DroppedRow] = []
    for file, records in rows.items():
        for line, record in records:
            try:
                if isinstance(record, RowProblem):
                    raise record
                item = READERS[found](record, file, line)
                key = sha256_of_record([item.subset, item.messages, item.answers, item.n_correct])
                if key in items:
                    raise RowProblem("exact_duplicate", f"the same as {items[key].item_id}")
                if item.subset.lower() == TIES and item.item_id in ids_of_ties:
                    raise RowProblem("wrong_id", f"another item of Ties is {item.item_id} too")
                items[key] = item
                ids_of_ties |= {item.item_id} if item.subset.lower() == TIES else set()
            except RowProblem as problem:
                dropped.append(DroppedRow(str(file), line, problem.reason, problem.detail))
    n_rows = sum(map(len, rows.values()))
    _demand_whole(n_rows, dropped, max_malformed_share)
    if not items:
        raise UserError(f"benchmark: {', '.join(paths)} hold no usable {found} row{_first_of(dropped)}")
    return Benchmark(found, [str(file) for file in files], n_rows, list(items.values()), dropped)


def detect_kind(record: Record) -> Kind | None:
    """The kind whose columns a row has; None where it is none of them."""
    if {"question", "response_A", "response_B", "label"} <= record.keys():
        return "judgebench"
    if {"input", "output_1", "output_2", "label"} <= record.keys():
        return "llmbar"
    correct, incorrect = _sides(record)
    if "prompt" in record and _is_list_of_texts(correct) and _is_list_of_texts(incorrect):
        if "subset" in record:
            return "rewardbench2"
        if "domain" in record:
            return "rm-bench"
    return "pairs" if detect_schema(record) else None


def _demand_whole(n_rows: int, dropped: Sequence[DroppedRow], max_malformed_share: float) -> None:
    malformed = [row for row in dropped if row.reason not in NOT_BROKEN]
    if len(malformed) > max_malformed_share * max(n_rows, MIN_ROWS_FOR_SHARE):
        raise UserError(
            f"benchmark: {len(malformed)} of {n_rows} rows are malformed, more than max_malformed_share "
            f"({max_malformed_share}){_first_of(malformed)}"
        )


def _first_of(dropped: Sequence[DroppedRow]) -> str:
    if not dropped:
        return ""
    first = dropped[0]
    return f"; the first is {first.file}, line {first.line}: {first.reason}, {first.detail}"


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name.endswith(SUFFIXES)]
        shown = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not shown:
            raise UserError(f"benchmark: {path} holds no {', '.join(SUFFIXES)} file")
        return shown
    if not path.exists():
        raise UserError(f"benchmark: there is no file {path}; name .jsonl, .json or .parquet files or their folder")
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"benchmark: {path} is not a {', '.join(SUFFIXES)} file")
    return [path]


def _kind_of(rows: dict[Path, list[tuple[int, Record | RowProblem]]]) -> Kind:
    kinds: dict[Kind, Path] = {}
    for file, records in rows.items():
        looked_at = [record for _, record in records[:ROWS_LOOKED_AT] if not isinstance(record, RowProblem)]
        kind = next((kind for kind in map(detect_kind, looked_at) if kind), None)
        if kind is None:
            columns = ", ".join(sorted(map(str, looked_at[0]))) if looked_at else "no readable row"
            raise UserError(f"{file}: of no known benchmark (found {columns}); see `kind` for those there are")
        kinds.setdefault(kind, file)
    if len(kinds) > 1:
        places = ", ".join(f"{kind} ({file})" for kind, file in kinds.items())
        raise UserError(f"benchmark: the files are of different kinds: {places}; score them one by one")
    return next(iter(kinds))


def _read_rewardbench2(record: Record, file: Path, line: int) -> Item:
    """Best of n with one correct answer; in the subset Ties several are, and `id` is `ref:7` or `tied:7`."""
    messages = _prompt(record, "prompt")
    subset = _text(record, "subset")
    correct, incorrect = (_texts(side, name) for side, name in zip(_sides(record), ("chosen", "rejected"), strict=True))
    if not correct or not incorrect:
        raise RowProblem("no_answers", "a correct and an incorrect answer are needed")
    for column, answers in (("num_correct", correct), ("num_incorrect", incorrect)):
        if record.get(column) is not None and record[column] != len(answers):
            raise RowProblem("wrong_count", f"{column} is {record[column]!r}, and there are {len(answers)}")
    item_id = str(record.get("id") or f"{file}:{line}")
    prompt_id = _prompt_id(messages)
    if subset.lower() == TIES:
        role, _, prompt_id = item_id.partition(":")
        if role not in ("ref", "tied") or not prompt_id:
            raise RowProblem("wrong_id", f"an item of Ties is ref:N or tied:N, found {item_id!r}")
    elif len(correct) != 1:
        raise RowProblem("wrong_count", f"outside of Ties one answer is correct, found {len(correct)}")
    return Item(item_id, subset, prompt_id, messages, (*correct, *incorrect), len(correct))


def _read_rm_bench(record: Record, file: Path, line: int) -> Item:
    messages = _prompt(record, "prompt")
    chosen, rejected = (_texts(column_of(record, name), name) for name in ("chosen", "rejected"))
    if (len(chosen), len(rejected)) != (N_STYLES, N_STYLES):
        raise RowProblem("wrong_count", f"three styles a side are needed, found {len(chosen)} and {len(rejected)}")
    item_id = str(record.get("id") or f"{file}:{line}")
    return Item(item_id, _text(record, "domain"), _prompt_id(messages), messages, (*chosen, *rejected), N_STYLES)


def _read_judgebench(record: Record, file: Path, line: int) -> Item:
    messages = _prompt(record, "question")
    answers = (_text(record, "response_A"), _text(record, "response_B"))
    label = _text(record, "label").replace(" ", "")
    if label == "A=B":
        raise RowProblem("tie", "neither answer is correct alone")
    if label not in ("A>B", "B>A"):
        raise RowProblem("wrong_label", f"label must be A>B or B>A, found {label[:20]!r}")
    source = record.get("source")
    source = source if isinstance(source, str) and source else "judgebench"
    subset = next((group for group in JUDGEBENCH_GROUPS if source.startswith(group)), source)
    item_id = str(record.get("pair_id") or f"{file}:{line}")
    return Item(item_id, subset, _prompt_id(messages), messages, answers if label == "A>B" else answers[::-1], 1)


def _read_llmbar(record: Record, file: Path, line: int) -> Item:
    row = _preferred(record, "llmbar")
    subset = record.get("subset")
    if not isinstance(subset, str) or not subset:
        parts = file.with_suffix("").parts
        start = next((i for i, part in enumerate(parts) if part in ("Natural", "Adversarial")), len(parts) - 1)
        subset = "/".join(parts[start:-1]) or parts[-1]
    return Item(f"{file}:{line}", subset, _prompt_id(row.messages), row.messages, (row.chosen, row.rejected), 1)


def _read_pair(record: Record, file: Path, line: int) -> Item:
    schema = detect_schema(record)
    if schema is None:
        raise RowProblem("missing_column", f"found {', '.join(sorted(map(str, record)))[:80]}")
    row = _preferred(record, schema)
    return Item(f"{file}:{line}", row.domain, _prompt_id(row.messages), row.messages, (row.chosen, row.rejected), 1)


def _preferred(record: Record, schema: Schema) -> PreferenceRow:
    row = read_row(record, schema)
    if not row.preference:
        raise RowProblem("tie", "neither answer is preferred")
    return row


def _sides(record: Record) -> tuple[Any, Any]:
    """Correct and incorrect answers under either pair of names."""
    return record.get("chosen", record.get("correct")), record.get("rejected", record.get("incorrect"))


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _prompt(record: Record, column: str) -> list[Message]:
    return [{"role": "user", "content": _text(record, column)}]


def _prompt_id(messages: Sequence[Message]) -> str:
    return sha256_of_record(list(messages))[:16]


def _text(record: Record, column: str) -> str:
    text = text_of(column_of(record, column), column)
    demand_unicode(text, column)
    return text


def _texts(values: Any, column: str) -> list[str]:
    if not isinstance(values, list):
        raise RowProblem("wrong_type", f"{column} must be a list of texts, found {type(values).__name__}")
    for value in values:
        demand_unicode(text_of(value, column), column)
    return values


READERS: dict[Kind, Callable[[Record, Path, int], Item]] = {
    "rewardbench2": _read_rewardbench2,
    "rm-bench": _read_rm_bench,
    "judgebench": _read_judgebench,
    "llmbar": _read_llmbar,
    "pairs": _read_pair,
}
