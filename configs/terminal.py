"""What a person sees: one table at the end of a stage, progress bars, short lines. Results go to files, not here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from tqdm import tqdm

T = TypeVar("T")
MINIMUM_WIDTH = 150


def is_heard() -> bool:
    """Whether this process speaks: of several that a launcher started together only the first one does."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """Print one line for people."""
    if is_heard():
        print(line, flush=True)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; numbers align right, None shows as a dash."""
    if not is_heard():
        return
    listed = [list(row) for row in rows]
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=max(console.width, MINIMUM_WIDTH))
    console.print(f"\n{title}", style="bold", markup=False, soft_wrap=True)
    table = RichTable()
    for position, column in enumerate(columns):
        numeric = all(isinstance(row[position], (int, float, type(None))) for row in listed)
        table.add_column(escape(column), justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


def interval(estimate: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """A number with its interval, as it stands in every table: `0.812 [0.790, 0.833]`."""
    if estimate is None:
        return "–"
    if low is None or high is None:
        return f"{estimate:.{digits}f}"
    return f"{estimate:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar on stderr; redirected output gets a line now and then instead of thousands."""
    yield from tqdm(items, desc=what, total=total, **_bar_settings())


def progress_bar(total: int, what: str) -> tqdm[Any]:
    """A bar to be moved by hand with `.update(n)`, for work that is not a loop over items."""
    return tqdm(desc=what, total=total, **_bar_settings())


def _bar_settings() -> dict[str, Any]:
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return {"dynamic_ncols": True, "mininterval": interval, "disable": not is_heard()}


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return escape(str(value))
