"""`rewardladder analyse a/curve/points.csv b/curve/points.csv`: figure, fits and claims again, from points alone.

Several files are one sweep: runs that differ in `rm.seed`, `rm.route` or `policy.algorithm` and share their world.
Where a file still lies in its run, outcomes by prompt are read there and prompts are paired; elsewhere the prompts of
two cells count as independent.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from configs.errors import UserError
from configs.loader import Table
from configs.records import write_json
from configs.terminal import say
from curve.analysis import ANALYSIS_FILE, CLAIM_COLUMNS, CLAIMS_FILE, analyse, claim_rows, sentences_of
from curve.contrasts import MARGIN
from curve.points import (
    COLUMNS,
    CURVE_COLUMNS,
    CURVE_FILE,
    POINTS_FILE,
    Point,
    outcomes_by_prompt,
    over_seeds,
    write_table,
)

WORDS = frozenset({"cell", "rung", "route", "reward", "algorithm", "judge"})
WHOLE = frozenset({"seed", "rm_seed", "rm_n_pairs", "n_prompts", "dev_n_prompts", "judge_n_both_orders"})
NEEDED = ("cell", "rung", "route", "reward", "algorithm", "seed", "rm_seed", "rm_accuracy", "quality", "n_prompts")
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
    """

    output: str = "analysis"
    margin: float = Field(default=MARGIN, gt=0.0, lt=1.0)
    seed: int = 0
    title: str = "How accurate must the reward model be?"


def read_points(path: Path) -> list[Point]:
    """The rows of a `points.csv`; columns of a later version are missing in it, and so None.

    Raises:
        UserError: it cannot be read, lacks a column, or a number is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
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
            try:
                point[name] = text if name in WORDS else int(text) if name in WHOLE else float(text)
            except ValueError:
                raise UserError(f"{path}:{number}: {name} should be a number, found {text!r}") from None
        if point["quality"] is None or (point["rung"] is not None and point["rm_accuracy"] is None):
            raise UserError(f"{path}:{number}: {point['cell']} has no quality, or a rung without an accuracy")
        points.append(point)
    return points


def join(files: Sequence[Sequence[Point]], names: Sequence[str]) -> list[Point]:
    """All points, each cell once: cells of rungs by route, RM seed, rung, reward, algorithm and seed.

    Raises:
        UserError: two files hold different cells that should be one, so they are not of one sweep.
    """
    joined: dict[tuple[Any, ...], tuple[Point, str]] = {}
    for points, name in zip(files, names, strict=True):
        for point in points:
            key = tuple(point[column] for column in ("route", "rm_seed", "rung", "reward", "algorithm", "seed"))
            first, place = joined.setdefault(key, (point, name))
            other = next((column for column in SAME if first[column] != point[column]), None)
            if other:
                raise UserError(
                    f"{name}: {point['cell']} is not the one of {place} ({other} {point[other]} and {first[other]}); "
                    "runs of one world are analysed together, others one by one"
                )
    return [point for point, _ in joined.values()]


def run(paths: Sequence[str], table: AnalyseTable) -> None:
    """Write the figure, `points.csv`, `curve.csv`, `analysis.json` and `claims.csv`, and say what was found.

    Raises:
        UserError: a file is no points, or the files are not of one sweep.
    """
    from curve.figure import draw

    if not paths:
        raise UserError("analyse: name one points.csv or more, for example runs/demo/curve/points.csv")
    files: list[list[Point]] = []
    outcomes: dict[str, dict[str, float]] = {}
    for path in paths:
        points, run_folder = read_points(Path(path)), Path(path).absolute().parent.parent
        names = {
            point["cell"]: f"{run_folder.name}/{point['cell']}" if paths[1:] else point["cell"] for point in points
        }
        of_run = outcomes_by_prompt(run_folder / "judge", list(names))
        for point in points:
            values = of_run.get(point["cell"])
            if values and abs(fmean(values.values()) - point["quality"]) < SAME_MEAN:
                outcomes[names[point["cell"]]] = values
        files.append([{**point, "cell": names[point["cell"]]} for point in points])
    points = join(files, paths)
    curve, folder = over_seeds(points), Path(table.output)
    analysis = analyse(points, outcomes, table.seed, table.margin)
    write_table(folder / POINTS_FILE, COLUMNS, points)
    write_table(folder / CURVE_FILE, CURVE_COLUMNS, curve)
    write_json(folder / ANALYSIS_FILE, analysis)
    write_table(folder / CLAIMS_FILE, CLAIM_COLUMNS, claim_rows(analysis["claims"]))
    draw(folder / "curve", points, curve, table.title, analysis["fits"])
    for line in sentences_of(analysis):
        say(f"- {line}")
    say(f"\n{len(points)} cells, prompts paired for {len(outcomes)}.\nFigure: {folder / 'curve.png'}")
