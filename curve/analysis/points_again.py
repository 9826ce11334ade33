"""`rewardladder analyse a/curve/points.csv b/curve/points.csv`: figure, fits and claims again, from points alone.

Several files are one sweep: runs that differ in `rm.seed`, `rm.route` or `policy.algorithm` and share their world.
Where a file still lies in its run, outcomes and gold by prompt, domains, and looks during training are read there, and
prompts are paired; elsewhere the prompts of two cells count as independent. Looks are also read from a file beside the
points that is named alike (`looks.csv` beside `points.csv`, `demo-looks.csv` beside `demo-points.csv`).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from configs.errors import UserError
from configs.loader import Table
from configs.terminal import say
from curve.analysis.contrasts import MARGIN
from curve.analysis.looks import read_looks
from curve.analysis.whole import Beside, sentences_of
from curve.points import COLUMNS, Point, outcomes_by_prompt

WORDS = frozenset(
    {"cell", "rung", "route", "reward", "algorithm", "judge", "variant", "base", "setup", "arm", "treatment", "world"}
)
WHOLE = frozenset(
    {
        "seed",
        "rm_seed",
        "rm_n_pairs",
        "n_prompts",
        "dev_n_prompts",
        "judge_n_both_orders",
        "updates_per_rollout",
        "n_updates",
    }
)
NEEDED = ("cell", "rung", "route", "reward", "algorithm", "seed", "rm_seed", "rm_accuracy", "quality", "n_prompts")
SHARES = ("quality", "quality_lo", "quality_hi", "rm_accuracy", "rm_accuracy_lo", "rm_accuracy_hi", "flip_rate")
"""Columns of numbers between 0 and 1."""
SAME_CELL = ("route", "rm_seed", "rung", "reward", "treatment", "flip_rate", "algorithm", "seed", "base", "setup")
"""What names a cell in all runs of one sweep."""
SAME = ("quality", "gold_mean", "length_mean", "n_prompts")
"""What a cell without a rung has in common in all runs of one world."""

SAME_MEAN = 1e-6
"""Outcomes that do not have the mean of the point are of another version of the run, and are not used."""


class AnalyseTable(Table):
    """Settings of `rewardladder analyse`.

    Attributes:
        output: a folder for figure, points, analysis and claims.
        margin: of equivalence, in win rate.
        seed: of the bootstraps.
        title: of the figure.
        strategies: what `rewardladder strategy` wrote, for claim 11; that of the run where it is not given.
    """

    output: str = "analysis"
    margin: float = Field(default=MARGIN, gt=0.0, lt=1.0)
    seed: int = 0
    title: str = "How accurate must the reward model be?"
    strategies: str | None = None


def read_points(path: Path) -> list[Point]:
    """The rows of a `points.csv`; columns of a later version are missing in it, and so None.

    Raises:
        UserError: it cannot be read, lacks a column, or a number is none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, found = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read as points ({why}); name a points.csv of this tool") from None
    lacking = [name for name in NEEDED if name not in found]
    if lacking or not rows:
        what = f"lacks {', '.join(lacking)}" if lacking else "has no rows"
        raise UserError(f"{path}: {what}; name a points.csv of this tool")
    points = []
    for number, row in enumerate(rows, start=2):
        point: Point = dict.fromkeys(COLUMNS)
        for name in COLUMNS:
            text = row.get(name)
            if not text:
                continue
            if name == "rung":
                text = text.removesuffix(".0")  # as a table program writes 65 in a column with gaps
            try:
                point[name] = text if name in WORDS else _whole(text) if name in WHOLE else _finite(text)
            except ValueError:
                kind = "whole number" if name in WHOLE else "number"
                raise UserError(f"{path}:{number}: {name} should be a {kind}, found {text[:60]!r}") from None
        _refuse(point, f"{path}:{number}")
        points.append(point)
    return points


def _whole(text: str) -> int:
    """A whole number, also where a table program has written it as 3.0."""
    value = _finite(text)
    if value != int(value):
        raise ValueError
    return int(value)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _refuse(point: Point, where: str) -> None:
    """Refuse a row that is no point: without a name or a reward, or with numbers that cannot be."""
    nameless = [name for name in ("cell", "reward") if point[name] is None]
    if nameless:
        raise UserError(f"{where}: {', '.join(nameless)} is empty; name a points.csv of this tool")
    if point["quality"] is None or (point["rung"] is not None and point["rm_accuracy"] is None):
        raise UserError(f"{where}: {point['cell']} has no quality, or a rung without an accuracy")
    if point["rung"] is not None and None in (point["rm_accuracy_lo"], point["rm_accuracy_hi"]):
        raise UserError(f"{where}: {point['cell']} has no interval of its accuracy (rm_accuracy_lo, rm_accuracy_hi)")
    for name in SHARES:
        if point[name] is not None and not 0 <= point[name] <= 1:
            raise UserError(f"{where}: {name} should be between 0 and 1, found {point[name]}")
    if point["n_prompts"] is None or point["n_prompts"] < 1:
        raise UserError(f"{where}: n_prompts should be 1 or more, found {point['n_prompts']}")


def join(files: Sequence[Sequence[Point]], names: Sequence[str]) -> list[Point]:
    """All points, each cell once: cells of rungs by route, RM seed, rung, reward, algorithm and seed.

    Raises:
        UserError: two files hold different cells that should be one, so they are not of one sweep.
    """
    joined: dict[tuple[Any, ...], tuple[Point, str]] = {}
    for points, name in zip(files, names, strict=True):
        for point in points:
            key = tuple(point.get(column) for column in SAME_CELL)
            first, place = joined.setdefault(key, (point, name))
            other = next((column for column in SAME if first[column] != point[column]), None)
            if other:
                raise UserError(
                    f"{name}: {point['cell']} is not the one of {place} ({other} {point[other]} and {first[other]}); "
                    "runs of one world are analysed together, others one by one"
                )
    return [point for point, _ in joined.values()]


WORLD_OF = {"reasoned_share": "advice", "steps_share": "arithmetic"}
"""Columns that only one world fills, which tell it in points of an earlier version."""


def worlds_of(points: Sequence[Point]) -> set[str]:
    """The worlds of points, as far as they say."""
    named = {str(point["world"]) for point in points if point.get("world") is not None}
    return named or {
        world for column, world in WORLD_OF.items() if any(point.get(column) is not None for point in points)
    }


def check_worlds(files: Sequence[Sequence[Point]], names: Sequence[str]) -> str | None:
    """A warning where files do not say which world they are of; None where all are of one.

    Raises:
        UserError: two files are of different worlds.
    """
    known = {name: found for points, name in zip(files, names, strict=True) if (found := worlds_of(points))}
    for name, found in known.items():
        first, other = next(iter(known.items()))
        if not found & other:
            raise UserError(
                f"{name}: is of the world {' and '.join(sorted(found))}, {first} of {' and '.join(sorted(other))}; "
                "runs of one world are analysed together, others one by one"
            )
    unknown = [name for name in names if name not in known]
    if len(files) < 2 or not unknown:
        return None
    return f"Warning: {', '.join(unknown)} does not say of which world it is; only runs of one world may be joined."


def run(paths: Sequence[str], table: AnalyseTable) -> None:
    """Write what `curve.analysis.files` lists, and say what was found.

    Raises:
        UserError: a file is no points, or the files are not of one sweep.
    """
    from curve.analysis.files import read_strategies, write_analysis

    if not paths:
        raise UserError("analyse: name one points.csv or more, for example runs/demo/curve/points.csv")
    files: list[list[Point]] = []
    besides: list[Beside] = []
    for path in paths:
        points, beside = read_with_run(Path(path))
        label = f"{Path(path).absolute().parent.parent.name}/" if paths[1:] else ""
        files.append([{**point, "cell": label + point["cell"]} for point in points])
        besides.append(_renamed(beside, label))
    warning = check_worlds(files, paths)
    if warning is not None:
        say(warning)
    points, folder = join(files, paths), Path(table.output)
    beside = _merged(besides)
    if table.strategies is not None:
        beside = replace(beside, strategies=read_strategies(Path(table.strategies)))
    analysis = write_analysis(folder, points, beside, table.title, table.seed, table.margin)
    for line in sentences_of(analysis):
        say(f"- {line}")
    bare = [point["cell"] for point in points if None in (point["quality_lo"], point["quality_hi"])]
    if bare:
        shown = ", ".join(bare[:3]) + (f" and {len(bare) - 3} more" if len(bare) > 3 else "")
        say(f"- {len(bare)} of {len(points)} points have no interval of their quality, and are drawn open: {shown}.")
    figures = ", ".join(str(path) for path in sorted(folder.glob("*.png")))
    say(f"\n{len(points)} cells, prompts paired for {len(beside.outcomes)}.\nFigures: {figures}")


def read_with_run(path: Path) -> tuple[list[Point], Beside]:
    """The points of a file, and what lies beside them.

    Raises:
        UserError: the file, or the looks beside it, cannot be read.
    """
    from curve.analysis.files import beside_run

    points, run_folder = read_points(path), path.absolute().parent.parent
    means = {point["cell"]: point["quality"] for point in points}
    found = outcomes_by_prompt(run_folder / "judge", list(means))
    outcomes = {
        cell: values
        for cell, values in found.items()
        if values and abs(fmean(values.values()) - means[cell]) < SAME_MEAN
    }
    beside = beside_run(run_folder, points, outcomes)
    looks = path.with_name(path.name.replace("points", "looks"))
    if looks != path and looks.exists():
        found_looks = read_looks(looks)
        if {look["cell"] for look in found_looks} & set(means):
            beside = replace(beside, looks=found_looks)
        else:
            say(f"{looks}: no look is of a cell of {path.name}, so it is not used")
    return points, beside


def _renamed(beside: Beside, label: str) -> Beside:
    return replace(
        beside,
        outcomes={label + cell: values for cell, values in beside.outcomes.items()},
        golds={label + cell: values for cell, values in beside.golds.items()},
        accuracies={label + cell: values for cell, values in beside.accuracies.items()},
        looks=[{**look, "cell": label + look["cell"]} for look in beside.looks],
    )


def _merged(besides: Sequence[Beside]) -> Beside:
    strategies = next((beside.strategies for beside in besides if beside.strategies is not None), None)
    return Beside(
        outcomes={cell: values for beside in besides for cell, values in beside.outcomes.items()},
        golds={cell: values for beside in besides for cell, values in beside.golds.items()},
        looks=[look for beside in besides for look in beside.looks],
        domains={prompt: domain for beside in besides for prompt, domain in beside.domains.items()},
        accuracies={cell: values for beside in besides for cell, values in beside.accuracies.items()},
        strategies=strategies,
    )
