"""Logits and labels out of files of any columns (.jsonl, .jsonl.gz, .parquet), by the names of fields.

A field is a column or a dotted path (`metadata.judge_score`, `scores.rung-65.logit`). A row holds one answer, or lists
of logits and of labels with one entry an answer, or the two logits of a pair. A row that cannot be used is counted with
its reason; a logit that is NaN or infinite stops the reading, because its reward model is broken.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from calibration.labelled_logits import LARGEST_WEIGHT, LEAST_WEIGHT, LabelledLogits, answer_pairs, single_answers
from configs.errors import UserError
from configs.loader import Table
from tasks.preference.fields import RowProblem
from tasks.preference.numbered_records import numbered_records

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
WORDS = {"good": 1.0, "bad": 0.0, "true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "-1": 0.0}
LONGEST_SHOWN = 200
_ABSENT = object()


class FieldTable(Table):
    """Which fields of a row hold what.

    Attributes:
        logit: the logit of an answer, or a list of them.
        label: 0 and 1, -1 and 1, true and false, `good` and `bad`; or numbers, with `good_from`; or shares, with
            `soft`. A list where `logit` is one.
        logit_chosen, logit_rejected: of a pair, instead of `logit` and `label`.
        prompt: what answers with the same value share; without it every row is a prompt.
        domain: for a map of its own for each domain.
        weight: of a row, 1e-9 to 1e9.
        good_from: the least label that is good.
        soft: labels are shares in 0..1 of raters who found the answer good.
    """

    logit: str = Field("logit", min_length=1)
    label: str = Field("label", min_length=1)
    logit_chosen: str | None = Field(None, min_length=1)
    logit_rejected: str | None = Field(None, min_length=1)
    prompt: str | None = Field(None, min_length=1)
    domain: str | None = Field(None, min_length=1)
    weight: str | None = Field(None, min_length=1)
    good_from: float | None = None
    soft: bool = False

    @model_validator(mode="after")
    def _one_form(self) -> FieldTable:
        if (self.logit_chosen is None) != (self.logit_rejected is None):
            raise ValueError("logit_chosen and logit_rejected go together; give both, or logit and label")
        if self.logit_chosen and {"logit", "label", "good_from", "soft"} & self.model_fields_set:
            raise ValueError("pairs need no logit, label, good_from or soft; remove these or logit_chosen")
        if self.soft and self.good_from is not None:
            raise ValueError("soft takes labels as shares and good_from cuts them into good and bad; remove one")
        return self

    @property
    def pairs(self) -> bool:
        """Whether rows are pairs."""
        return self.logit_chosen is not None


@dataclass
class _Columns:
    """What was read so far; `first` and `second` are logit and label, or the logits of a pair."""

    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    domains: list[str | None] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    alike: Counter[str] = field(default_factory=Counter)
    """How many rows without a prompt were the same so far."""


def read_labelled(paths: Sequence[Path], table: FieldTable) -> tuple[LabelledLogits, dict[str, Any]]:
    """All usable answers or pairs of the files, and how many rows were not used, by reason, with the first of each.

    Raises:
        UserError: a file cannot be read, no row can be used (the most frequent reason is given), a logit is NaN or
            infinite, or labels are not of one kind.
    """
    columns = _Columns()
    left_out: Counter[str] = Counter()
    shown: dict[str, str] = {}
    seen: set[str] = set()
    rows = 0
    _refuse_twice(paths)
    for path in paths:
        if not path.name.endswith(SUFFIXES):
            raise UserError(f"fit: {path} is not a {', '.join(SUFFIXES)} file")
        for line, record in numbered_records(path):
            rows += 1
            where = f"{path}, line {line}"
            try:
                if isinstance(record, RowProblem):
                    raise record
                seen |= set(list(record)[:50])
                _read_row(record, table, columns, where)
            except RowProblem as problem:
                left_out[problem.reason] += 1
                shown.setdefault(problem.reason, f"{where}: {problem.detail}")
    if not columns.first:
        raise UserError(f"fit: none of {rows} rows can be used{_why(left_out, shown, table, seen)}")
    if table.domain is not None and all(name is None for name in columns.domains):
        raise UserError(f"fit: no row has a domain in {table.domain}; the columns are {', '.join(sorted(seen))[:200]}")
    labels = _plain_labels(np.array(columns.second), table)
    make = answer_pairs if table.pairs else single_answers
    data = make(
        np.array(columns.first), labels, columns.prompts, columns.domains, np.array(columns.weights, dtype=np.float64)
    )
    reasons = [{"reason": r, "rows": n, "first": shown[r]} for r, n in left_out.most_common()]
    return data, {"rows": rows, "cases": data.n, "prompts": len(set(data.prompts)), "left_out": reasons}


def _refuse_twice(paths: Sequence[Path]) -> None:
    """A file that is read twice would count each row as two independent ones."""
    seen: dict[Path, Path] = {}
    for path in paths:
        try:
            place = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a NUL, or links that go round
            raise UserError(f"fit: {str(path)!r} is no path of a file ({error})") from None
        if place in seen:
            raise UserError(f"fit: {path} is the same file as {seen[place]}; name each file once")
        seen[place] = path


def at(record: dict[str, Any], path: str) -> Any:
    """The value at a dotted path; a column whose own name has dots comes before a path through tables.

    Raises:
        RowProblem: there is none.
    """
    found = _walk(record, path)
    if found is _ABSENT:
        raise RowProblem("missing_field", f"there is no {path}")
    return found


def _walk(value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        return _ABSENT
    if path in value:
        return value[path]
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        head = ".".join(parts[:cut])
        if head in value:
            found = _walk(value[head], ".".join(parts[cut:]))
            if found is not _ABSENT:
                return found
    return _ABSENT


def _read_row(record: dict[str, Any], table: FieldTable, columns: _Columns, where: str) -> None:
    if table.logit_chosen is not None and table.logit_rejected is not None:
        first = [_logit(at(record, table.logit_chosen), table.logit_chosen, where)]
        second = [_logit(at(record, table.logit_rejected), table.logit_rejected, where)]
    else:
        logits, labels = at(record, table.logit), at(record, table.label)
        if isinstance(labels, list) != (isinstance(logits, list) and isinstance(labels, list)):
            raise RowProblem("lists_differ", f"{table.label} is a list and {table.logit} is none")
        if not isinstance(labels, list):
            logits, labels = [logits], [labels]
        if len(logits) != len(labels):
            raise RowProblem("lists_differ", f"{len(logits)} in {table.logit}, {len(labels)} in {table.label}")
        first = [_logit(value, table.logit, where) for value in logits]
        second = [_label(value, table) for value in labels]
    weight = 1.0 if table.weight is None else _number(at(record, table.weight), table.weight, "bad_weight")
    if not LEAST_WEIGHT <= weight <= LARGEST_WEIGHT:
        raise RowProblem(
            "bad_weight", f"{table.weight} is {weight}, and weights are {LEAST_WEIGHT:g} to {LARGEST_WEIGHT:g}"
        )
    domain = None if table.domain is None else _domain(_walk(record, table.domain))
    if table.prompt is not None:
        prompt = _name(at(record, table.prompt), table.prompt)
    else:  # named by what it holds, so that neither its place nor that of the file decides the splits
        content = repr((first, second, weight, domain))
        prompt = f"{content} {columns.alike[content]}"
        columns.alike[content] += 1
    columns.first += first
    columns.second += second
    columns.prompts += [prompt] * len(first)
    columns.domains += [domain] * len(first)
    columns.weights += [weight] * len(first)


def _logit(value: Any, name: str, where: str) -> float:
    """A finite number, perhaps alone in a list, as some reward models give it."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        raise RowProblem("no_logit", f"{name} is null")
    number = _number(value, name, "bad_logit")
    if not math.isfinite(number):
        raise UserError(
            f"fit: {where}: {name} is {number}; a reward model that gives NaN or infinity cannot be calibrated"
        )
    return number


def _label(value: Any, table: FieldTable) -> float:
    if value is None:
        raise RowProblem("no_label", f"{table.label} is null")
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if table.good_from is None and word in WORDS:
            # a word says what it means; -1 as a number waits for the others
            return -1.0 if word == "-1" else WORDS[word]
        raise RowProblem("bad_label", f"{table.label} is {value!r}, which is none of {', '.join(WORDS)}")
    number = _number(value, table.label, "bad_label")
    if not math.isfinite(number):
        raise RowProblem("bad_label", f"{table.label} is {number}")
    return number


def _number(value: Any, name: str, reason: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowProblem(reason, f"{name} must be a number, found {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise RowProblem(reason, f"{name} is too large for a number") from None


def _name(value: Any, name: str) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise RowProblem("no_prompt", f"{name} is {value}")
    return f"{type(value).__name__}:{value}"


def _domain(value: Any) -> str | None:
    return None if value is _ABSENT or value is None or value == "" else str(value)


def _plain_labels(labels: np.ndarray[Any, np.dtype[np.float64]], table: FieldTable) -> Any:
    """Labels as 0 and 1 (or shares).

    Raises:
        UserError: they are of no kind that the settings name.
    """
    if table.pairs:
        return labels
    if table.good_from is not None:
        return (labels >= table.good_from).astype(np.float64)
    kinds = set(np.unique(labels)[:6].tolist())
    if kinds <= {0.0, 1.0}:
        return labels
    if kinds <= {-1.0, 1.0}:
        return (labels + 1) / 2
    if table.soft and labels.min() >= 0 and labels.max() <= 1:
        return labels
    found = ", ".join(f"{value:g}" for value in sorted(kinds)) + (", …" if len(kinds) > 5 else "")
    raise UserError(
        f"fit: {table.label} holds {found}; labels are 0 and 1, -1 and 1, or good and bad; give good_from=NUMBER for "
        "grades, or soft=true for shares in 0..1"
    )


def _why(left_out: Counter[str], shown: dict[str, str], table: FieldTable, seen: set[str]) -> str:
    if not left_out:
        return "; the files are empty"
    reason, n = left_out.most_common(1)[0]
    hint = ""
    if reason == "missing_field":
        named = [name for name in (table.logit_chosen or table.logit, table.logit_rejected, table.label) if name]
        near = [match for name in named for match in difflib.get_close_matches(name, sorted(seen), n=1, cutoff=0.6)]
        wrong = [match for match in near if match not in named]
        hint = (
            f"; did you mean {wrong[0]}?" if wrong else f"; the columns are {', '.join(sorted(seen))[:LONGEST_SHOWN]}"
        )
    return f" ({n}: {reason}; first {shown[reason]}){hint}"
