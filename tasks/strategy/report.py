"""How answers are reached before and after: `rewardladder strategy BEFORE AFTER [AFTER …]`, cells of a run or files.

A file holds answers, one a line: a text (`completion` or `response`), a name (`prompt_id`, `idx` or `id`, with `sample`
where there is one), the problem, and where there is one its reference answer, against which the answer is checked. A
stored verdict (`gold`, `score`) is believed with `right=FIELD` or without a reference, as `rewardladder evaluate` does.
Problems are paired by their text (`tasks.pairing`).

One file alone gets frequencies and accuracies. Those after the first are arms, each compared with the first: trainings
on other rewards, or the same policy under another prompt; for every two arms the table of switches says how far one
induces code where the other does, so a prompt's cell beside a training's tells prompt-induced code from RL-induced.

A .csv file with the columns `arm, transition, n, right_before, right_after` gives contributions from counts alone.

    rewardladder strategy runs/x/policy/untrained runs/x/policy/random-grpo-s0 output=flows
    rewardladder strategy runs/x/policy/untrained runs/x/prompts/plain-opened-python/policy/untrained \\
        runs/x/policy/gold-grpo-s0 by=style
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.records import place_to_write, write_bytes, write_json
from configs.terminal import interval, say, show_table
from tasks.pairing import pair, unpaired
from tasks.strategy.reading import COUNT_COLUMNS, Answers, StrategyTable, read_all, read_counts
from tasks.strategy.transitions import (
    Change,
    Counts,
    Share,
    contribution_intervals,
    flows,
    frequencies,
    mean_contributions,
    partial_contributions,
    share,
    switched_to_code,
    transition_counts,
)


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
    write_bytes(output.with_name(f"{output.name}-transitions.csv"), transitions_as_csv(report["arms"]).encode())
    say(f"wrote {output}.json, {output}-transitions.csv")
    if drawn:
        from tasks.strategy.figure import draw

        write_bytes(output.with_name(f"{output.name}.csv"), flows_as_csv(drawn).encode())
        draw(output, drawn, "Strategies before and after")
        say(f"wrote {output}.csv, {output}.png, {output}.svg")


def flows_as_csv(drawn: Mapping[str, Mapping[tuple[str, str], Counts]]) -> str:
    """The numbers behind the figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("arm", "before", "after", "n", "right_before", "right_after"))
    for arm, cells in drawn.items():
        for (before, after), counts in cells.items():
            writer.writerow((arm, before, after, counts.n, counts.right_before, counts.right_after))
    return text.getvalue()


def transitions_as_csv(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """Transitions and contributions of each arm; the tool reads its first columns back as counts."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COUNT_COLUMNS, "contribution", "contribution_lo", "contribution_hi"))
    for arm, found in arms.items():
        for name, cell in found["transitions"].items():
            counts = (cell[key] for key in COUNT_COLUMNS[2:])
            writer.writerow(
                (arm, name, *counts, cell["contribution"], *(cell["contribution_interval"] or (None, None)))
            )
    return text.getvalue()


def _report_of_files(
    paths: Sequence[Path], table: StrategyTable
) -> tuple[dict[str, Any], dict[str, dict[tuple[str, str], Counts]]]:
    files = read_all(paths, table)
    first, *others = files
    paired = {name: pair(files[first].identities, files[name].identities, (first, name), "strategy") for name in others}
    report: dict[str, Any] = {"files": {}, "arms": {}, "switches": {}}
    for name, answers in files.items():
        report["files"][name] = _one(name, answers)
    arms: dict[str, dict[str, Change]] = {}
    for name, pairs in paired.items():
        before, after = files[first], files[name]
        changes = [Change(before.answered[key], after.answered[other]) for key, other in pairs.names.items()]
        arms[name] = dict(zip(pairs.names, changes, strict=True))
        report["arms"][name] = {
            "questions": len(changes),
            "only_before": pairs.only_first,
            "only_after": pairs.only_second,
            "other_reference": pairs.refused,
            "paired_by": pairs.by,
            "transitions": _cells(
                transition_counts(changes), contribution_intervals(changes, table.seed, table.resamples)
            ),
        }
        verdicts = " and ".join(dict.fromkeys((before.verdicts, after.verdicts)))
        title = f"{first} -> {name}: {len(changes)} questions in both, verdicts: {verdicts}"
        _show_cells(title, report["arms"][name]["transitions"])
        only = (pairs.only_first, pairs.only_second)
        for line in unpaired(first, name, len(changes), pairs.by, only, pairs.refused):
            say(line)
    for one, other in combinations(arms, 2):
        overlap = switched_to_code(arms[one], arms[other])
        report["switches"][f"{one} and {other}"] = asdict(overlap)
        say(
            f"moved from language to code: {overlap.both} by both, {overlap.only_first} only by {one} (accuracy after "
            f"{_shown(overlap.accuracy_first)}), {overlap.only_second} only by {other} "
            f"({_shown(overlap.accuracy_second)})"
        )
    return report, {name: flows(list(changes.values())) for name, changes in arms.items()}


def _one(name: str, answers: Answers) -> dict[str, Any]:
    """Frequencies and accuracies of one cell or file, printed and for the report."""
    answered = list(answers.answered.values())
    found = frequencies(answered)
    show_table(
        f"{name}: {len(answered)} answers, verdicts: {answers.verdicts}",
        ("strategy", "n", "share", "accuracy"),
        [(key, s.n and round((s.value or 0) * s.n), _shown(s), _shown(a)) for key, (s, a) in found.items()],
    )
    return {
        "n": len(answered),
        "verdicts": answers.verdicts,
        "truth_unknown": sum(answer.right is None for answer in answered),
        "strategies": {key: {"share": asdict(s), "accuracy": asdict(a)} for key, (s, a) in found.items()},
    }


def _report_of_counts(arms: Mapping[str, Mapping[str, Counts]]) -> dict[str, Any]:
    report: dict[str, Any] = {"arms": {arm: {"transitions": _cells(cells, {})} for arm, cells in arms.items()}}
    for arm, cells in report["arms"].items():
        _show_cells(f"{arm}: verdicts: those of the counts", cells["transitions"])
    mean = mean_contributions(list(arms.values()))
    report["mean_contributions"] = mean
    show_table(f"Partial contributions, mean of {len(arms)} arms", ("transition", "contribution"), list(mean.items()))
    return report


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
                _shown(share(cell["right_before"], cell["n"])),
                _shown(share(cell["right_after"], cell["n"])),
                cell["right_after"] - cell["right_before"],
                interval(cell["contribution"], *(cell["contribution_interval"] or (None, None))),
            )
            for name, cell in cells.items()
        ],
    )


def _shown(found: Share) -> str:
    return interval(found.value, found.lo, found.hi)
