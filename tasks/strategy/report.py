"""How answers are reached before and after: `rewardladder strategy before.jsonl after.jsonl [after2.jsonl …]`.

Each file holds answers to the same questions, one a line: a text (`completion` or `response`), a key (`prompt_id`,
`idx` or `id`, with `sample` where there is one) and, where it is known, whether it is right (`gold` or `score`). So it
reads `policy/<cell>/answers.jsonl`. One file alone gets frequencies and accuracies. Several files after the first are
arms, each compared with the first: trainings on other rewards, or the same policy under another prompt; for every two
arms the table of switches says how far one induces code where the other does.

A .csv file with the columns `arm, transition, n, right_before, right_after` gives contributions from counts alone.

    rewardladder strategy runs/x/policy/untrained/answers.jsonl runs/x/policy/random-grpo-s0/answers.jsonl output=flows
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import Field

from configs.errors import UserError
from configs.loader import Table
from configs.records import place_to_write, read_jsonl, write_bytes, write_json
from configs.terminal import interval, say, show_table
from tasks.strategy.classifier import classify
from tasks.strategy.transitions import (
    TRANSITIONS,
    Answered,
    Change,
    Counts,
    Share,
    contribution_intervals,
    flows,
    frequencies,
    mean_contributions,
    partial_contributions,
    switched_to_code,
    transition_counts,
)

TEXT_FIELDS = ("completion", "response", "answer_text")
KEY_FIELDS = ("prompt_id", "idx", "id")
RIGHT_FIELDS = ("gold", "score", "is_correct")
COUNT_COLUMNS = ("arm", "transition", "n", "right_before", "right_after")
GOOD_FROM = 0.5


class StrategyTable(Table):
    """Settings of the analysis.

    Attributes:
        text, key, right: fields of a row; found among the usual ones where not given. A number of 0.5 or more is right.
        resamples: of the bootstrap over questions.
        seed: of the bootstrap.
        output: a place without ending: `<output>.json`, `<output>.csv` (flows), `<output>.png` and `<output>.svg`.
    """

    text: str | None = None
    key: str | None = None
    right: str | None = None
    resamples: int = Field(2000, ge=100, le=100_000)
    seed: int = Field(0, ge=0)
    output: str | None = None


def run(paths: Sequence[str], table: StrategyTable) -> None:
    """Analyse one file, two or more, or one file of counts.

    Raises:
        UserError: a file cannot be read, has no such fields, or shares no question with the first.
    """
    output = place_to_write(table.output, "output") if table.output else None
    if not paths:
        raise UserError("strategy: nothing to work on; name answers before and after")
    if any(path.endswith(".csv") for path in paths):
        if len(paths) > 1:
            raise UserError("strategy: a file of counts stands alone; name one .csv or several .jsonl files")
        report = _report_of_counts(read_counts(Path(paths[0])))
        drawn: dict[str, dict[tuple[str, str], Counts]] = {}
    else:
        report, drawn = _report_of_files([Path(path) for path in paths], table)
    if output is None:
        return
    write_json(output.with_name(f"{output.name}.json"), report)
    say(f"wrote {output}.json")
    if drawn:
        from tasks.strategy.figure import draw

        write_bytes(output.with_name(f"{output.name}.csv"), flows_as_csv(drawn).encode())
        draw(output, drawn, "Strategies before and after")
        say(f"wrote {output}.csv, {output}.png, {output}.svg")


def read_answers(path: Path, table: StrategyTable) -> dict[str, Answered]:
    """The answers of a file by key, classified.

    Raises:
        UserError: no row, a missing field, or a key that stands twice.
    """
    found: dict[str, Answered] = {}
    for line, row in enumerate(read_jsonl(path), start=1):
        text = row.get(_field(row, table.text, TEXT_FIELDS, "text", path, line))
        if not isinstance(text, str):
            raise UserError(f"{path}, line {line}: the answer must be a text, found {type(text).__name__}")
        key = str(row[_field(row, table.key, KEY_FIELDS, "key", path, line)])
        key = f"{key}#{row['sample']}" if "sample" in row else key
        if key in found:
            raise UserError(f"{path}, line {line}: the key {key!r} stands twice; name another field with key=FIELD")
        found[key] = Answered(classify(text).strategy, _truth(row, table.right))
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


def flows_as_csv(drawn: Mapping[str, Mapping[tuple[str, str], Counts]]) -> str:
    """The numbers behind the figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("arm", "before", "after", "n", "right_before", "right_after"))
    for arm, cells in drawn.items():
        for (before, after), counts in cells.items():
            writer.writerow((arm, before, after, counts.n, counts.right_before, counts.right_after))
    return text.getvalue()


def _report_of_files(
    paths: Sequence[Path], table: StrategyTable
) -> tuple[dict[str, Any], dict[str, dict[tuple[str, str], Counts]]]:
    names = _names(paths)
    files = {name: read_answers(path, table) for name, path in zip(names, paths, strict=True)}
    report: dict[str, Any] = {"files": {}, "arms": {}, "switches": {}}
    for name, answers in files.items():
        found = frequencies(list(answers.values()))
        report["files"][name] = {
            "n": len(answers),
            "truth_unknown": sum(answer.right is None for answer in answers.values()),
            "strategies": {key: {"share": asdict(s), "accuracy": asdict(a)} for key, (s, a) in found.items()},
        }
        show_table(
            f"{name}: {len(answers)} answers",
            ("strategy", "n", "share", "accuracy"),
            [(key, s.n and round((s.value or 0) * s.n), _shown(s), _shown(a)) for key, (s, a) in found.items()],
        )
    first, *others = names
    arms = {name: _changes(files[first], files[name], first, name) for name in others}
    for name, changes in arms.items():
        counts = transition_counts(list(changes.values()))
        report["arms"][name] = {
            "questions": len(changes),
            "only_before": len(files[first].keys() - files[name].keys()),
            "only_after": len(files[name].keys() - files[first].keys()),
            "transitions": _cells(counts, contribution_intervals(list(changes.values()), table.seed, table.resamples)),
        }
        _show_cells(f"{first} -> {name}: {len(changes)} questions in both", report["arms"][name]["transitions"])
    for one, other in combinations(arms, 2):
        overlap = switched_to_code(arms[one], arms[other])
        report["switches"][f"{one} and {other}"] = asdict(overlap)
        say(
            f"moved from language to code: {overlap.both} by both, {overlap.only_first} only by {one} (accuracy after "
            f"{_shown(overlap.accuracy_first)}), {overlap.only_second} only by {other} "
            f"({_shown(overlap.accuracy_second)})"
        )
    return report, {name: flows(list(changes.values())) for name, changes in arms.items()}


def _report_of_counts(arms: Mapping[str, Mapping[str, Counts]]) -> dict[str, Any]:
    report: dict[str, Any] = {"arms": {arm: {"transitions": _cells(cells, {})} for arm, cells in arms.items()}}
    for arm, cells in report["arms"].items():
        _show_cells(f"{arm}: from counts", cells["transitions"])
    mean = mean_contributions(list(arms.values()))
    report["mean_contributions"] = mean
    show_table(f"Partial contributions, mean of {len(arms)} arms", ("transition", "contribution"), list(mean.items()))
    return report


def _changes(before: dict[str, Answered], after: dict[str, Answered], first: str, name: str) -> dict[str, Change]:
    shared = [key for key in before if key in after]
    if not shared:
        raise UserError(f"strategy: {first} and {name} share no question; are their keys the same? (key=FIELD)")
    return {key: Change(before[key], after[key]) for key in shared}


def _cells(
    counts: Mapping[str, Counts], intervals: Mapping[str, tuple[float, float] | None]
) -> dict[str, dict[str, Any]]:
    contributions = partial_contributions(counts)
    return {
        name: {
            **asdict(cell),
            "accuracy_before": cell.right_before / cell.n if cell.n else None,
            "accuracy_after": cell.right_after / cell.n if cell.n else None,
            "contribution": contributions[name],
            "contribution_interval": intervals.get(name),
        }
        for name, cell in counts.items()
    }


def _show_cells(title: str, cells: Mapping[str, Mapping[str, Any]]) -> None:
    show_table(
        title,
        ("transition", "n", "accuracy before", "accuracy after", "net gain", "contribution"),
        [
            (
                name,
                cell["n"],
                cell["accuracy_before"],
                cell["accuracy_after"],
                cell["right_after"] - cell["right_before"],
                interval(cell["contribution"], *(cell["contribution_interval"] or (None, None))),
            )
            for name, cell in cells.items()
        ],
    )


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


def _names(paths: Sequence[Path]) -> list[str]:
    """Short names: the file's, or its folder's where several files have one name."""
    for names in ([path.stem for path in paths], [path.parent.name for path in paths]):
        if len(set(names)) == len(names) and all(names):
            return names
    if len(set(paths)) < len(paths):
        raise UserError("strategy: a file is named twice")
    return [str(path) for path in paths]


def _shown(found: Share) -> str:
    return interval(found.value, found.lo, found.hi)
