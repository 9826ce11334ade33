"""Rows of mathematics sets: a problem and its reference answer, whatever the columns are called.

Known are the columns of MATH-500 (`problem`, `answer`), MATH (`problem`, `solution` with a box), AMC and AIME
(`problem` or `prompt`, `answer`), GSM8K (`question`, `answer` with `####`), DeepScaleR (`problem`, `answer`), TTRL
(`prompt`, `answer`), Open-Reasoner-Zero (a conversation whose second turn holds `ground_truth.value`, as a list or
under the columns `0` and `1`; in its tests `prompt` and `final_answer`), and verl's parquet (`prompt` as messages,
`reward_model.ground_truth`). A row that cannot be used is counted with its reason; a file without a single known column
is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from tasks.mathematics.extraction import last_boxed, reference_answer
from tasks.preference.fields import RowProblem
from tasks.preference.numbered_records import json_rows, numbered_records
from tasks.preference.sources import resolve_files

PROBLEM_COLUMNS = ("problem", "question", "prompt", "0")
ANSWER_COLUMNS = ("answer", "final_answer", "ground_truth", "reward_model", "gt", "1", "solution")
"""The first of these that a row has is its answer; a `solution` gives its last box."""
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""Qwen's wording, which some files hold at the end of every problem; it is taken off, because prompts say it."""
SHOWN_CHARACTERS = 80
"""Of what was found, in a message."""
MIN_ROWS_FOR_SHARE = 20
"""In a smaller file one broken row would already be more than the allowed share."""


@dataclass(frozen=True)
class Problem:
    """One usable row: `source` is the file's name without its ending, `line` counts from 1."""

    source: str
    line: int
    text: str
    answer: str

    @property
    def problem_id(self) -> str:
        """A stable name."""
        return f"{self.source}-{self.line:05d}"

    @property
    def key(self) -> str:
        """What two copies of a problem have in common: the text without white space and case."""
        return "".join(self.text.split()).lower()


@dataclass(frozen=True)
class Dropped:
    """A row that is not used: its file and line, a reason in one word, and what was found."""

    file: str
    line: int
    reason: str
    detail: str


def problem_files(patterns: Sequence[str], where: str) -> list[Path]:
    """The files that paths, globs and folders name; `.json` files by their path only.

    Raises:
        UserError: a pattern matches nothing or a file of no known format, or two files have one name.
    """
    files: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        files += [path] if path.suffix == ".json" and path.is_file() else resolve_files([pattern], where)
    repeated = [name for name, n in Counter(map(source_name, files)).items() if n > 1]
    if repeated:
        raise UserError(f"{where}: two files are called {repeated[0]!r}, and prompts are named after them; rename one")
    return files


def source_name(path: Path) -> str:
    """A file's name without its endings."""
    return path.name.partition(".")[0]


def load_problems(path: Path, max_malformed_share: float = 0.05) -> tuple[list[Problem], list[Dropped]]:
    """Read one file.

    Raises:
        UserError: no row, no known column, or more unusable rows than `max_malformed_share`.
    """
    problems: list[Problem] = []
    dropped: list[Dropped] = []
    columns: set[str] = set()
    for line, row in _records(path):
        try:
            if isinstance(row, RowProblem):
                raise row
            columns |= set(map(str, row))
            problems.append(read_problem(row, source_name(path), line))
        except RowProblem as problem:
            dropped.append(Dropped(str(path), line, problem.reason, problem.detail))
    rows = len(problems) + len(dropped)
    if not rows:
        raise UserError(f"{path}: holds no problems")
    if columns and not (columns & set(PROBLEM_COLUMNS) and columns & set(ANSWER_COLUMNS)):
        raise UserError(
            f"{path}: needs a problem ({', '.join(PROBLEM_COLUMNS[:3])}) and an answer ({', '.join(ANSWER_COLUMNS)}); "
            f"found the columns {', '.join(sorted(columns))}"
        )
    if len(dropped) > max_malformed_share * max(rows, MIN_ROWS_FOR_SHARE) or not problems:
        first = dropped[0]
        raise UserError(
            f"{path}: {len(dropped)} of {rows} rows cannot be used, more than tasks.max_malformed_share "
            f"({max_malformed_share}); the first is line {first.line}: {first.reason}, {first.detail}"
        )
    return problems, dropped


def read_problem(row: dict[str, Any], source: str, line: int) -> Problem:
    """One row.

    Raises:
        RowProblem: it holds no problem, or no answer that is a text or a number.
    """
    column = next((name for name in PROBLEM_COLUMNS if row.get(name) is not None), None)
    if column is None:
        raise RowProblem("no_problem", f"found the columns {', '.join(map(str, row)) or 'none'}")
    text = _text_of(row[column])
    if text is None or not text.strip():
        raise RowProblem("empty_problem", f"{column} must be a text, found {type(row[column]).__name__}")
    found = next((name for name in ANSWER_COLUMNS if row.get(name) is not None), None)
    if found is None:
        raise RowProblem("no_answer", f"found the columns {', '.join(map(str, row))}")
    answer = _answer_of(row[found], found)
    if answer is None:
        raise RowProblem(
            "empty_answer", f"{found} must be a text or a number, found {str(row[found])[:SHOWN_CHARACTERS]!r}"
        )
    return Problem(source, line, text.strip().removesuffix(INSTRUCTION).strip(), answer)


def without_known(problems: Sequence[Problem], known: set[str]) -> tuple[list[Problem], list[Dropped]]:
    """Training problems that are new, and those that are evaluated (their key is in `known`) or stand twice."""
    seen: set[str] = set()
    kept, left_out = [], []
    for problem in problems:
        reason = "train_also_evaluated" if problem.key in known else "copy" if problem.key in seen else None
        seen.add(problem.key)
        if reason is None:
            kept.append(problem)
        else:
            left_out.append(Dropped(problem.source, problem.line, reason, problem.text[:SHOWN_CHARACTERS]))
    return kept, left_out


def _text_of(value: Any) -> str | None:
    """A text; of messages the content of the last turn that is not an assistant's; of one turn its content."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        content = value.get("content", value.get("value"))
        return content if isinstance(content, str) else None
    if isinstance(value, list):
        asked = [turn for turn in value if isinstance(turn, dict) and turn.get("role") not in ("assistant", "system")]
        return _text_of(asked[-1]) if asked else None
    return None


def _answer_of(value: Any, column: str) -> str | None:
    if column == "solution":
        return last_boxed(value) if isinstance(value, str) else None
    for _ in range(3):  # 1.ground_truth.value, reward_model.ground_truth
        if isinstance(value, dict):
            value = next((value[name] for name in ("ground_truth", "value", "answer") if name in value), None)
    return reference_answer(value)


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any] | RowProblem]]:
    """Numbered rows; a row of a .json list that is itself a list becomes a row with the columns 0, 1, …"""
    if path.suffix != ".json":
        yield from numbered_records(path)
        return
    for line, row in enumerate(json_rows(path), start=1):
        if isinstance(row, list):
            row = {str(place): turn for place, turn in enumerate(row)}
        yield line, row if isinstance(row, dict) else RowProblem("not_an_object", f"found {type(row).__name__}")
