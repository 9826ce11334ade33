"""What the strategy tool reads: finished cells of a run, files of answers, and counts from a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.errors import UserError
from configs.runfolder import open_finished
from tasks.mathematics.answer_files import UNKNOWN, FileFields, mark_all, read_given, sources_of
from tasks.pairing import ANSWERS_FILE, GREEDY_FILE, Identity, identities_beside
from tasks.strategy.classifier import classify
from tasks.strategy.transitions import TRANSITIONS, Answered, Counts

COUNT_COLUMNS = ("arm", "transition", "n", "right_before", "right_after")
ROOMS = ("policy", "variants", "prompts")
"""Folders that tell no two cells apart."""


class StrategyTable(FileFields):
    """Settings of the analysis.

    Attributes:
        answers: which answers of cells are compared: `greedy`; the `first` sample; `all`, sample by sample; `auto` is
            greedy where every cell has such answers, else the first sample. Files are read whole.
        by: `text` tells strategies by rules (`tasks.strategy.classifier`), `style` takes the task's own word for them,
            of which `code` is code (the arithmetic world: code, steps, direct, other).
        text, answer, key, right: fields of a row; found among the usual ones where not given. Answers of files are
            checked where there is a reference, unless `right` names a stored verdict; 0.5 or more is right.
        answer_in: where an answer of a file counts, `anywhere` or only in a `box`; cells have `tasks.answer_in`.
        workers, seconds: processes that check the answers of files, and the limit of each comparison.
        resamples: of the bootstrap over questions.
        seed: of the bootstrap.
        output: a place without ending: `<output>.json`, `<output>.csv` (flows), `<output>-transitions.csv`,
            `<output>.png` and `<output>.svg`.
    """

    answers: Literal["auto", "greedy", "first", "all"] = "auto"
    by: Literal["text", "style"] = "text"
    workers: int = Field(1, ge=1, le=64)
    seconds: float = Field(3.0, gt=0, le=60)
    resamples: int = Field(2000, ge=100, le=100_000)
    seed: int = Field(0, ge=0)
    output: str | None = None


@dataclass(frozen=True)
class Answers:
    """The answers of a cell or a file.

    Attributes:
        answered: by a name, of the problem and, beyond the first, of the sample.
        identities: by the same name, what tells the problem and the sample from others.
        verdicts: where it is known from which answers are right, in words.
    """

    answered: dict[str, Answered]
    identities: dict[str, Identity]
    verdicts: str


def read_all(paths: Sequence[Path], table: StrategyTable) -> dict[str, Answers]:
    """The answers of cells and files by a short name.

    Raises:
        UserError: a cell is unfinished or altered, or lacks the answers that are asked for; a file cannot be used.
    """
    cells = [path for path in paths if path.is_dir()]
    for cell in cells:
        open_finished(cell)
    greedy = table.answers == "greedy" or (
        table.answers == "auto" and bool(cells) and all((cell / GREEDY_FILE).is_file() for cell in cells)
    )
    found: dict[str, Answers] = {}
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


def read_answers(path: Path, table: StrategyTable, first: bool = False) -> Answers:
    """The answers of a file, classified and marked; of each problem only sample 0 with `first`.

    Raises:
        UserError: no row, a missing field, or an answer that stands twice.
    """
    given = read_given(path, table, identities_beside(path), unmarked=True)
    given = [one for one in given if not (first and one.sample)]
    if not given:
        raise UserError(f"{path}: holds no answers")
    answered: dict[str, Answered] = {}
    identities: dict[str, Identity] = {}
    marked = mark_all(given, table.answer_in, table.workers, table.seconds)
    for one, answer in zip(given, marked, strict=True):
        name = f"{one.problem}#{one.sample}" if one.sample else one.problem
        if name in answered:
            raise UserError(f"{path}: the key {name[:60]!r} stands twice; name another field with key=FIELD")
        if table.by == "style" and one.style is None:
            raise UserError(f"{path}: by=style, and the row of {name[:60]!r} has no style; leave by=text")
        strategy = classify(one.text).strategy if table.by == "text" else str(one.style)
        answered[name] = Answered(strategy, None if one.source == UNKNOWN else answer.mark == "right")
        digest = one.identity.digest
        identities[name] = (
            one.identity if digest is None or not one.sample else replace(one.identity, digest=f"{digest}#{one.sample}")
        )
    return Answers(answered, identities, sources_of(given))


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
