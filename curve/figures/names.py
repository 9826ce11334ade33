"""Names for the reader: what tells a row of the curve from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

AS_IT_IS = "as it is"
"""A setup that changes nothing of what others change."""


def name_of(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The treatment, where it is not the plain reward called `name`, and what tells `row` from others of it."""
    treatment = _treatment(row)
    apart = apart_by(row, [other for other in rows if _treatment(other) == treatment], ("algorithm", "base", "setup"))
    shown = name if treatment == row["reward"] else treatment
    return f"{shown} ({', '.join(apart)})" if apart else shown


def apart_by(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """What `row` has in those of `columns` that vary over `rows`; of a setup only the settings that not all have."""
    found = []
    for column in columns:
        values = [other.get(column) for other in rows]
        if len(set(values)) < 2:
            continue
        if column == "setup":
            shared = set.intersection(*(set((value or "").split()) for value in values))
            own = [word for word in (row.get(column) or "").split() if word not in shared]
            found.append(" ".join(own) or AS_IT_IS)
        elif row.get(column):
            found.append(str(row[column]))
    return found


def with_short_setups(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, their setups without the settings that all of them have; unchanged where all are one setup."""
    told = len({row.get("setup") for row in rows}) > 1
    return [{**row, "setup": apart_by(row, rows, ("setup",))[0]} if told else dict(row) for row in rows]


def _treatment(row: Mapping[str, Any]) -> str:
    return str(row.get("treatment") or row["reward"])
