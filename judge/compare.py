"""`rewardladder judge compare runs/demo`: all judged cells of a run beside each other, from what is already judged.

Rates raw and at equal length and style; a ranking of all cells on one scale; every pair of cells with a p-value that is
corrected for all of them, the smallest difference the prompts could have shown, and whether the two are as good as each
other within a margin that is stated beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Table
from configs.records import place_to_write, write_json
from configs.terminal import interval, say, show_table
from judge.equal_length import judged_of, resamples_of
from judge.judged_cells import JudgedCell, read_judged_cells
from judge.statistics import Estimate
from judge.statistics.differences import Difference, all_differences
from judge.statistics.ranking import Game, Ranking, rank
from judge.statistics.style import FEATURES, LENGTH, StyleControl, style_controlled

FORMAT = 1
DIGITS = 12
MOST_SHOWN = 60


class CompareTable(Table):
    """Settings of `rewardladder judge compare`.

    Attributes:
        margin: the largest difference of win rates that does not matter, for the test of being as good as each other.
        style: control headings, lists, bold words and code blocks too; false controls the length alone.
        output: a JSON file for all figures.
        resamples: bootstrap resamples of whole prompts, and sign flips.
        seed: of the resamples.
    """

    margin: float = Field(0.05, gt=0.0, lt=1.0)
    style: bool = True
    output: str | None = None
    resamples: int = Field(10_000, ge=100)
    seed: int = Field(0, ge=0)


def run(paths: Sequence[str], table: CompareTable) -> None:
    """Compare, write and print.

    Raises:
        UserError: no judged cell, cells of different baselines, or answers that are gone.
    """
    if not paths:
        raise UserError("judge compare: name a run or judged cells, for example runs/demo")
    output = place_to_write(table.output, "output") if table.output else None
    cells = read_judged_cells(paths, "judge compare")
    rng_of = partial(keyed_rng, table.seed, "judge bootstrap")
    controlled = {cell.name: controlled_rate(cell, rng_of(), table) for cell in cells if cell.name != cell.baseline}
    ranking = ranked(cells, rng_of, table.resamples)
    differences = all_differences(with_baseline(cells), rng_of, table.resamples, table.margin)
    if output:
        write_json(output, record_of(cells, controlled, ranking, differences))
    show(cells, controlled, ranking, differences, table)
    if output:
        say(f"wrote {output}")


def controlled_rate(cell: JudgedCell, rng: np.random.Generator, table: CompareTable) -> StyleControl:
    """The rate of a cell at equal length and style; pairs in which an answer is malformed are left out and counted."""
    judged = judged_of(cell.pairs(), cell.outcomes)
    return style_controlled(judged, rng, resamples_of(table.resamples), FEATURES if table.style else (LENGTH,))


def with_baseline(cells: Sequence[JudgedCell]) -> dict[str, Any]:
    """Outcomes by cell; a baseline that was not judged against itself is a cell of ties."""
    found = {cell.name: cell.outcomes for cell in cells}
    baseline = cells[0].baseline
    if baseline not in found:
        known = {outcome.pair_id: outcome for cell in cells for outcome in cell.outcomes}
        found[baseline] = [replace(outcome, status="agreed", win=0.0, tie=1.0, lose=0.0) for outcome in known.values()]
    return found


def ranked(cells: Sequence[JudgedCell], rng_of: Callable[[], np.random.Generator], resamples: int) -> Ranking | None:
    """All cells on one scale with the baseline at 0; None where nothing was compared with another."""
    games = [
        Game(outcome.prompt_id, cell.name, cell.baseline, outcome.win, outcome.tie, outcome.lose)
        for cell in cells
        if cell.name != cell.baseline
        for outcome in cell.outcomes
        if outcome.win is not None and outcome.tie is not None and outcome.lose is not None
    ]
    return rank(games, cells[0].baseline, rng_of(), resamples_of(resamples)) if games else None


def record_of(
    cells: Sequence[JudgedCell],
    controlled: Mapping[str, StyleControl],
    ranking: Ranking | None,
    differences: Sequence[Difference],
) -> dict[str, Any]:
    """The JSON record of all figures."""
    record: dict[str, Any] = _rounded(
        {
            "format": FORMAT,
            "baseline": cells[0].baseline,
            "judges": sorted({cell.judge for cell in cells}),
            "cells": {name: asdict(found) for name, found in controlled.items()},
            "ranking": asdict(ranking) if ranking else None,
            "differences": [asdict(difference) for difference in differences],
        }
    )
    return record


def show(
    cells: Sequence[JudgedCell],
    controlled: Mapping[str, StyleControl],
    ranking: Ranking | None,
    differences: Sequence[Difference],
    table: CompareTable,
) -> None:
    """Print the rates with the ranking, and the pairs of cells."""
    baseline = cells[0].baseline
    standings = {standing.name: standing for standing in ranking.standings} if ranking else {}
    rows = [
        (
            name,
            _said(found.raw),
            _said(found.controlled),
            _said(found.shift),
            "–" if found.share_longer is None else f"{found.share_longer:.2f}",
            standings[name].rank if name in standings else None,
            f"{standings[name].rank_lo}–{standings[name].rank_hi}" if name in standings else "–",
            found.n_pairs,
        )
        for name, found in controlled.items()
    ]
    if baseline in standings:
        own = standings[baseline]
        rows.append((baseline, "0.500", "0.500", "–", "–", own.rank, f"{own.rank_lo}–{own.rank_hi}", 0))
    rows.sort(key=lambda row: row[5] or 0)
    what = "equal length and style" if table.style else "equal length"
    columns = ("cell", "win rate, ties half", f"at {what}", "change", "longer", "rank", "ranks (95%)", "pairs")
    show_table(f"against {baseline}, well-formed answers; 95% intervals over prompts", columns, rows)
    for name, found in controlled.items():
        for doubt in found.warnings:
            say(f"{name}: {doubt}")
    shown = sorted(differences, key=lambda row: (row.p_holm is None, row.p_holm, row.first, row.second))[:MOST_SHOWN]
    show_table(
        f"pairs of cells; p by sign flips, corrected by Holm for {len(differences)} pairs; as good as each other: "
        f"within ±{table.margin:g} (90% interval)",
        ("cells", "difference of win rates", "p (Holm)", "smallest visible", "as good as each other", "p (as good)"),
        [
            (
                f"{row.first} − {row.second}",
                _said(row.difference),
                None if row.p_holm is None else round(row.p_holm, 4),
                row.smallest,
                row.equivalence.equivalent,
                None if row.equivalence.p is None else round(row.equivalence.p, 4),
            )
            for row in shown
        ],
    )
    if len(shown) < len(differences):
        say(f"{len(differences) - len(shown)} further pairs of cells stand in the output only (output=FILE)")
    missing = sum(row.n_missing for row in differences)
    if missing:
        say(f"{missing} comparisons of answers lack an outcome in one of the two cells and have no weight")
    say(
        "smallest visible: the true difference that so many prompts show with a power of 0.8; one seed says nothing of "
        "others"
    )


def _said(estimate: Estimate) -> str:
    return interval(estimate.value, estimate.lo, estimate.hi)


def _rounded(value: Any) -> Any:
    """Numbers rounded, so that another BLAS writes the same bytes."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(inside) for key, inside in value.items()}
    return [_rounded(inside) for inside in value] if isinstance(value, (list, tuple)) else value
