"""What the strategy tool reads: finished cells of a run, files of answers, and counts from a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from configs.errors import UserError
from configs.loader import Table
from configs.records import read_jsonl
from configs.runfolder import open_finished
from tasks.strategy.classifier import classify
from tasks.strategy.transitions import TRANSITIONS, Answered, Counts

TEXT_FIELDS = ("completion", "response", "answer_text")
KEY_FIELDS = ("prompt_id", "idx", "id")
RIGHT_FIELDS = ("gold", "score", "is_correct")
COUNT_COLUMNS = ("arm", "transition", "n", "right_before", "right_after")
GOOD_FROM = 0.5
ANSWERS_FILE, GREEDY_FILE = "answers.jsonl", "greedy.jsonl"
ROOMS = ("policy", "variants", "prompts")
"""Folders that tell no two cells apart."""


class StrategyTable(Table):
    """Settings of the analysis.

    Attributes:
        answers: which answers of cells are compared: `greedy`; the `first` sample; `all`, sample by sample; `auto` is
            greedy where every cell has such answers, else the first sample. Files are read whole.
        by: `text` tells strategies by rules (`tasks.strategy.classifier`), `style` takes the task's own word for them,
            of which `code` is code (the arithmetic world: code, steps, direct, other).
        text, key, right: fields of a row; found among the usual ones where not given. A number of 0.5 or more is right.
        resamples: of the bootstrap over questions.
        seed: of the bootstrap.
        output: a place without ending: `<output>.json`, `<output>.csv` (flows), `<output>-transitions.csv`,
            `<output>.png` and `<output>.svg`.
    """

    answers: Literal["auto", "greedy", "first", "all"] = "auto"
    by: Literal["text", "style"] = "text"
    text: str | None = None
    key: str | None = None
    right: str | None = None
    resamples: int = Field(2000, ge=100, le=100_000)
    seed: int = Field(0, ge=0)
    output: str | None = None


def read_all(paths: Sequence[Path], table: StrategyTable) -> dict[str, dict[str, Answered]]:
    """The answers of cells and files by a short name and by key.

    Raises:
        UserError: a cell is unfinished or altered, or lacks the answers that are asked for; a file cannot be used.
    """
    cells = [path for path in paths if path.is_dir()]
    for cell in cells:
        open_finished(cell)
    greedy = table.answers == "greedy" or (
        table.answers == "auto" and bool(cells) and all((cell / GREEDY_FILE).is_file() for cell in cells)
    )
    found = {}
    for name, path in zip(names_of(paths), paths, strict=True):
        if not path.is_dir():
            found[name] = read_answers(path, table)
            continue
        if greedy and not (path / GREEDY_FILE).is_file():
            raise UserError(
                f"{path}: there is no {GREEDY_FILE}; make the cell with policy.eval_greedy=true, or take answers=first"
            )
        file = path / (GREEDY_FILE if greedy else ANSWERS_FILE)
        found[name] = read_answers(file, table, first=table.answers != "all" and not greedy)
    return found


def read_answers(path: Path, table: StrategyTable, first: bool = False) -> dict[str, Answered]:
    """The answers of a file by key, classified; of each key only sample 0 with `first`.

    Raises:
        UserError: no row, a missing field, or a key that stands twice.
    """
    found: dict[str, Answered] = {}
    for line, row in enumerate(read_jsonl(path), start=1):
        if first and row.get("sample"):
            continue
        text = row.get(_field(row, table.text, TEXT_FIELDS, "text", path, line))
        if not isinstance(text, str):
            raise UserError(f"{path}, line {line}: the answer must be a text, found {type(text).__name__}")
        key = str(row[_field(row, table.key, KEY_FIELDS, "key", path, line)])
        key = f"{key}#{row['sample']}" if "sample" in row else key
        if key in found:
            raise UserError(f"{path}, line {line}: the key {key!r} stands twice; name another field with key=FIELD")
        found[key] = Answered(_strategy(row, text, table, path, line), _truth(row, table.right))
    if not found:
        raise UserError(f"{path}: holds no answers")
    return found


def read_counts(path: Path) -> dict[str, dict[str, Counts]]:
    """The transitions of each arm from a CSV file.

    Raises:
        UserError: a column is missing, a transition is unknown or stands twice, or counts contradict each other.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    arms: dict[str, dict[str, Counts]] = {}
    for line, row in enumerate(rows, start=2):
        try:
            arm, name = row["arm"], row["transition"]
            counts = Counts(int(row["n"]), int(row["right_before"]), int(row["right_after"]))
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}, line {line}: needs the columns {', '.join(COUNT_COLUMNS)}, whole numbers"
            ) from None
        if name not in TRANSITIONS or name in arms.get(arm, {}):
            raise UserError(
                f"{path}, line {line}: {name!r} is unknown or stands twice; choose {', '.join(TRANSITIONS)}"
            )
        if not 0 <= max(counts.right_before, counts.right_after) <= counts.n or min(asdict(counts).values()) < 0:
            raise UserError(f"{path}, line {line}: more right answers than questions")
        arms.setdefault(arm, {})[name] = counts
    if not arms:
        raise UserError(f"{path}: holds no counts")
    return {arm: {name: cells.get(name, Counts(0, 0, 0)) for name in TRANSITIONS} for arm, cells in arms.items()}


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short names: as many of the last folders as tell them apart, a file called `answers` by its folder.

    Raises:
        UserError: a path is named twice.
    """
    parts = []
    for path in paths:
        own = [part for part in path.absolute().parts if part not in ROOMS]
        own[-1] = own[-1] if path.is_dir() else path.stem
        parts.append(own[:-1] if own[-1] == "answers" and len(paths) > 1 else own)
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("strategy: a file is named twice")


def _strategy(row: dict[str, Any], text: str, table: StrategyTable, path: Path, line: int) -> str:
    if table.by == "text":
        return classify(text).strategy
    style = row.get("style")
    if not isinstance(style, str):
        raise UserError(f"{path}, line {line}: by=style, and the row has no style; leave by=text")
    return style


def _field(row: dict[str, Any], named: str | None, usual: Sequence[str], what: str, path: Path, line: int) -> str:
    found = next((name for name in ([named] if named else usual) if row.get(name) is not None), None)
    if found is None:
        raise UserError(
            f"{path}, line {line}: no {named or ' or '.join(usual)}; name the field with {what}=FIELD "
            f"(there are {', '.join(row) or 'none'})"
        )
    return found


def _truth(row: dict[str, Any], named: str | None) -> bool | None:
    value = next((row[name] for name in ([named] if named else RIGHT_FIELDS) if row.get(name) is not None), None)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value >= GOOD_FROM if isinstance(value, int | float) else None
