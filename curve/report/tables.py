"""Tables of the report as plain texts: columns by subject, cells with their intervals, records of any shape.

Where a quantity has an interval, the three columns become one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.terminal import interval

MISSING = "–"
NUMBER = re.compile(r"<?\s*[-+]?\d")
ESTIMATE = {"value", "lo", "hi"}
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ReportTable:
    """A table of texts; the first cell of a row is its heading. `prose`: cells are sentences and may be long."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    prose: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, or nothing, in every row."""
        return [
            not self.prose and all(row[place] == MISSING or NUMBER.match(row[place]) for row in self.rows)
            for place in range(len(self.columns))
        ]


@dataclass(frozen=True)
class Part:
    """One part of the report.

    Attributes:
        title: its heading, and `key` its name in addresses.
        note: what a reader must know first; `sentences`: what it says.
        tables: its tables.
        in_summary: whether the Markdown summary has it too.
    """

    title: str
    key: str
    note: str = ""
    sentences: Sequence[str] = ()
    tables: Sequence[ReportTable] = field(default_factory=tuple)
    in_summary: bool = True


SUBJECTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Quality, gold and the judge",
        (
            "quality",
            "n_prompts",
            "net_win",
            "gold_mean",
            "gold_gain",
            "dev_gold_peak",
            "dev_gold_final",
            "dev_n_prompts",
            "judge",
            "judge_consistency",
            "judge_n_both_orders",
        ),
    ),
    (
        "The reward model behind it",
        (
            "rung",
            "route",
            "rm_seed",
            "rm_accuracy",
            "rm_n_pairs",
            "rm_on_policy_accuracy",
            "rm_spread_per_prompt",
            "rm_j",
        ),
    ),
    (
        "How it was trained, and its answers",
        (
            "reward",
            "algorithm",
            "seed",
            "base",
            "setup",
            "arm",
            "treatment",
            "variant",
            "world",
            "length_mean",
            "well_formed_share",
        ),
    ),
    (
        "Flipped rewards and updates",
        ("flip_rate", "false_negative_rate", "false_positive_rate", "updates_per_rollout", "n_updates"),
    ),
    (
        "How answers are reached",
        (
            "code_share",
            "code_share_untrained",
            "steps_share",
            "steps_share_untrained",
            "reasoned_share",
            "reasoned_share_untrained",
        ),
    ),
)
"""Columns of the points by subject, so that no table is wider than a page; columns that stand in none follow."""
WIDEST = 11
"""Columns beside the first that a page of paper holds."""


def tables_by_subject(rows: Rows, name: str) -> list[ReportTable]:
    """Rows of many columns as several tables, each row under its `name`; a column that is empty everywhere is out."""
    columns = [c for c in shown_columns(rows) if c != name and any(row.get(c) is not None for row in rows)]
    placed = {column for _, subject in SUBJECTS for column in subject}
    rest = [column for column in columns if column not in placed]
    further = [(f"Further columns ({i // WIDEST + 1})", rest[i : i + WIDEST]) for i in range(0, len(rest), WIDEST)]
    return [
        ReportTable(
            caption,
            (name, *map(heading_of, chosen)),
            [[shown(row[name]), *(value_of(row, c) for c in chosen)] for row in rows],
        )
        for caption, subject in (*SUBJECTS, *further)
        if (chosen := [column for column in subject if column in columns])
    ]


def tables_of_records(caption: str, rows: Rows) -> list[ReportTable]:
    """Records of an analysis as tables: a record inside a record that is an estimate becomes one cell.

    A record is an estimate where it has `value`, `lo` and `hi`; its verdict, where it has one, is a further column.
    """
    flat = [_flattened(row) for row in rows]
    columns = [c for c in dict.fromkeys(c for row in flat for c in row) if any(row.get(c) != MISSING for row in flat)]
    first, rest = columns[:1], [column for column in columns[1:] if not repeats(flat, column, columns[0])]
    return [
        ReportTable(
            caption if i == 0 else f"{caption} ({i // WIDEST + 1})",
            [*first, *(part := rest[i : i + WIDEST])],
            [[row.get(column, MISSING) for column in (*first, *part)] for row in flat],
        )
        for i in range(0, len(rest), WIDEST)
    ]


def _flattened(row: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    own = row.keys() >= ESTIMATE
    for name, value in row.items():
        if name in ESTIMATE and own:
            found.setdefault("value [95%]", estimate_of(row))
        elif isinstance(value, Mapping):
            if value.keys() >= ESTIMATE:
                found[f"{heading_of(name)} [95%]"] = estimate_of(value)
            if "verdict" in value:
                found[f"{heading_of(name)}, verdict"] = shown(value["verdict"])
        elif not isinstance(value, (list, tuple)):
            found[heading_of(name)] = p_value(value) if name.startswith("p_") else shown(value)
    return found


def repeats(rows: Rows, column: str, name: str) -> bool:
    """Whether a column says in every row what the column `name` says."""
    return all(row.get(column) == row.get(name) for row in rows)


def shown_columns(rows: Rows) -> list[str]:
    """The columns of rows without those of bounds, which stand beside their estimate."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [name for name in names if not (name.endswith(("_lo", "_hi")) and name[:-3] in names)]


def grid_of(rows: Rows, columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of some columns of rows."""
    return [heading_of(column) for column in columns], [[value_of(row, column) for column in columns] for row in rows]


def heading_of(column: str) -> str:
    """A column's name as people read it; its name in the CSV has lines for blanks."""
    words = column.split("_")
    return " ".join("RM" if word == "rm" else word for word in words)


def value_of(row: Mapping[str, Any], column: str) -> str:
    """A cell, with its interval where the row has one."""
    value, low, high = (row.get(name) for name in (column, f"{column}_lo", f"{column}_hi"))
    if value is not None and low is not None and high is not None:
        return interval(value, low, high)
    return shown(value)


def estimate_of(record: Mapping[str, Any] | None) -> str:
    """A value with its interval."""
    return interval(record["value"], record["lo"], record["hi"]) if record else MISSING


def p_value(p: float | None) -> str:
    """A p-value, the smallest ones by their bound."""
    return "< 0.001" if p is not None and p < 0.001 else shown(p)


def shown(value: Any) -> str:
    """A value as a text; a dash where there is none."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
