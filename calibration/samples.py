"""`rewardladder samples CELL …`: what a reward did while a policy climbed it, from the kept completions.

For every cell, from its `completions.parquet`, and for the first, middle and last third of its steps: the same report
as on the untrained policy's answers (`calibration.effect`), how often the reward model orders two answers to one prompt
as gold does, and what became of reward, gold and length. A reward that rises while gold falls is being exploited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from calibration.effect import MeasuredAnswers, effect
from calibration.measures import Estimate, agreement_of, ordered_pairs
from calibration.resamples import Mask, Resamples
from calibration.sample_rows import SampleRows, read_cell
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Table
from configs.records import place_to_write, write_json
from configs.terminal import interval, say, show_table
from rm.measures import Floats

WINDOWS = ("first", "middle", "last")
MEANS = ("reward", "gold", "score", "rpr", "length")


class SamplesTable(Table):
    """Settings of the command `samples`.

    Attributes:
        threshold: in score units; that of the run's calibrator where none is given.
        gold_good: gold from which an answer counts as good; that of the run's calibrator where none is given.
        seed: of resamples.
        output: the JSON file to write; none is written without it.
    """

    threshold: float | None = Field(default=None, gt=0)
    gold_good: float | None = Field(default=None, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    output: str | None = None


@dataclass(frozen=True)
class _Window:
    """A part of the rows, and how often each of its pairs is ordered as gold has it, with the pairs' prompts."""

    rows: Mask
    agreement: Floats
    owners: list[str]


def run(paths: Sequence[str], table: SamplesTable) -> None:
    """Report on each cell, print one table and write JSON where asked.

    Raises:
        UserError: no cell is named, one has no completions or broken ones, or no threshold is known.
    """
    if not paths:
        raise UserError("samples: name one or more cell folders, for example runs/demo/policy/rpr-rung65-grpo-s0")
    try:
        output = place_to_write(table.output, "output") if table.output else None
        places = [Path(path).expanduser() for path in paths]
    except RuntimeError as error:  # the home of nobody
        raise UserError(f"samples: {error}; write the path without ~") from None
    cells = [read_cell(place, table.threshold, table.gold_good) for place in places]
    reports = [samples_report(cell, table.seed) for cell in cells]
    if output is not None:
        try:
            write_json(output, {"format": 1, "seed": table.seed, "cells": reports})
        except OSError as error:
            raise UserError(f"output: {output} cannot be written ({error}); name another file") from None
    show(reports)
    if output is not None:
        say(f"written: {output}")


def samples_report(cell: SampleRows, seed: int) -> dict[str, Any]:
    """The report of one cell: `windows` (first, middle, last third of the steps; `all`), `change` and `reading`."""
    resamples = Resamples(cell.prompts, keyed_rng(seed, "calibration", "samples"))
    steps = np.unique(cell.steps)
    parts = dict(zip(WINDOWS, np.array_split(steps, len(WINDOWS)), strict=True)) if len(steps) >= len(WINDOWS) else {}
    windows = {name: _window(cell, np.isin(cell.steps, part)) for name, part in {**parts, "all": steps}.items()}
    change = _change(cell, windows["first"], windows["last"], resamples) if parts else None
    return {
        "cell": cell.name,
        "reward": cell.reward_name,
        "rung": cell.rung,
        "threshold": cell.threshold,
        "gold_good": cell.gold_good,
        "left_out": cell.left_out,
        "windows": {name: _figures(cell, window, resamples) for name, window in windows.items()},
        "change": change,
        "reading": _reading(cell, change),
    }


def _window(cell: SampleRows, rows: Mask) -> _Window:
    known = np.flatnonzero(rows & np.isfinite(cell.gold))
    better, worse = (known[side] for side in ordered_pairs(cell.gold[known], [cell.groups[i] for i in known.tolist()]))
    values = cell.reward if cell.score is None else cell.before
    return _Window(rows, agreement_of(values, better, worse), [cell.prompts[i] for i in better.tolist()])


def _figures(cell: SampleRows, window: _Window, resamples: Resamples) -> dict[str, Any]:
    """One window: means of what is known, and the effect of the rule; without scores, of the reward alone."""
    rows = np.flatnonzero(window.rows).tolist()
    prompts = [cell.prompts[i] for i in rows]
    measured = MeasuredAnswers(
        prompts=prompts,
        groups=[cell.groups[i] for i in rows],
        before=cell.before[rows],
        after=cell.reward[rows],
        bonus=cell.bonus[rows],
        well=cell.well[rows],
        gold=cell.gold[rows],
        lengths=cell.length[rows],
        length_unit="tokens",
        threshold=np.inf if cell.threshold is None else cell.threshold,
        gold_good=np.inf if cell.gold_good is None else cell.gold_good,
    )
    found: dict[str, Any] = {"steps": [int(cell.steps[rows].min()), int(cell.steps[rows].max())]}
    for name in MEANS:
        found[f"{name}_mean"] = _mean(cell.column(name), rows, cell, resamples)
    found["gold_spread"] = _gold_spread(measured, resamples)
    if cell.score is not None:
        return found | effect(measured, resamples)
    whole = effect(measured, resamples)
    agreement = None if whole["against_gold"] is None else whole["against_gold"]["order_agreement"]["after"]
    spread = {name: whole["spread_per_prompt"][name] for name in ("n_prompts", "n_groups", "after", "none_after")}
    return found | {
        **{name: whole[name] for name in ("n_answers", "n_prompts", "malformed")},
        "against_gold": None if agreement is None else {"order_agreement": {"before": None, "after": agreement}},
        "spread_per_prompt": {**spread, "before": None},
    }


def _gold_spread(measured: MeasuredAnswers, resamples: Resamples) -> Estimate:
    """Mean standard deviation of gold inside a group: what there is left to tell apart."""
    rows: dict[str, list[int]] = {}
    for i in np.flatnonzero(np.isfinite(measured.gold)).tolist():
        rows.setdefault(measured.groups[i], []).append(i)
    groups = [members for members in rows.values() if len(members) > 1]
    stds = np.array([measured.gold[members].std() for members in groups], dtype=np.float64)
    return resamples.mean(stds, [measured.prompts[members[0]] for members in groups])


def _mean(values: Floats | None, rows: Sequence[int], cell: SampleRows, resamples: Resamples) -> Estimate | None:
    if values is None:
        return None
    known = [i for i in rows if np.isfinite(values[i])]
    return resamples.mean(values[known], [cell.prompts[i] for i in known])


def _change(cell: SampleRows, first: _Window, last: _Window, resamples: Resamples) -> dict[str, Estimate | None]:
    """Last third less first third: mean reward, gold, score, RPR, length, and the share of pairs ordered as gold."""
    found: dict[str, Estimate | None] = {}
    for name in MEANS:
        values = cell.column(name)
        if values is None:
            found[name] = None
            continue
        known = np.isfinite(values)
        now, was = (np.flatnonzero(window.rows & known).tolist() for window in (last, first))
        found[name] = resamples.difference(
            values[now], [cell.prompts[i] for i in now], values[was], [cell.prompts[i] for i in was]
        )
    found["order_agreement"] = resamples.difference(last.agreement, last.owners, first.agreement, first.owners)
    return found


def _reading(cell: SampleRows, change: dict[str, Estimate | None] | None) -> str:
    """What the change says, in words; nothing is said that is within noise."""
    if change is None:
        return "Fewer than three steps: no first, middle and last third to compare."
    reward, gold, right = (_direction(change[name]) for name in ("reward", "gold", "order_agreement"))
    judge = "reward" if cell.score is None else "reward model"
    if gold is None:
        return f"The reward {_WORDS[reward or 0]}; no gold is known, so nothing says whether the answers got better."
    first = f"From the first to the last third of the steps the reward {_WORDS[reward or 0]} and gold {_WORDS[gold]}"
    if reward == 1 and gold == -1:
        first += ": the policy exploits this reward"
    elif reward == 1 and gold == 0:
        first += ": the policy climbs something else than gold"
    if right == -1:
        return f"{first}. The {judge} orders the last third's answers worse than the first's."
    return f"{first}."


_WORDS = {1: "rises", 0: "does not move beyond noise", -1: "falls"}


def _direction(found: Estimate | None) -> int | None:
    """1 or -1 where the interval excludes 0, else 0; None where there is no estimate."""
    if found is None or found["estimate"] is None:
        return None
    if found["lo"] is None or found["hi"] is None:
        return 0
    return 1 if found["lo"] > 0 else -1 if found["hi"] < 0 else 0


def show(reports: Sequence[dict[str, Any]]) -> None:
    """Print one table over all cells, and what their changes say."""
    windows = [
        (report["cell"], name, window)
        for report in reports
        for name, window in report["windows"].items()
        if name != "all" or len(report["windows"]) == 1
    ]
    show_table(
        "samples: what each reward did while a policy climbed it; 95% intervals over prompts",
        ("cell", "steps", "answers", "reward", "gold", "tokens"),
        [_means(*window) for window in windows],
    )
    show_table(
        "samples: spread of one prompt's answers; 95% intervals over prompts",
        ("cell", "steps", "groups", "of scores", "of rewards"),
        [_spreads(*window) for window in windows],
    )
    show_table(
        "samples: what it knew of gold; 95% intervals over prompts, behind each the number of cases",
        ("cell", "steps", "score's order", "reward's order", "J", "lifted of the good", "lifted of the bad"),
        [_against_gold(*window) for window in windows],
    )
    for report in reports:
        say(f"{report['cell']}: {report['reading']}")
        left_out = {reason: number for reason, number in report["left_out"].items() if number}
        if left_out:
            say(
                f"{report['cell']}: left out: " + ", ".join(f"{number} {reason}" for reason, number in left_out.items())
            )
    say(
        "Order: share of pairs of one prompt and step that stand as their gold does, with a 95% interval over prompts; "
        "J: TPR - FPR at the threshold; lifted: share of good and of bad answers below it that get a bonus; spread: of "
        "one prompt's scores and rewards. Intervals are over prompts of one training; another seed may do otherwise."
    )


def _means(cell: str, name: str, window: dict[str, Any]) -> tuple[Any, ...]:
    reward, gold, length = (window[f"{figure}_mean"] for figure in ("reward", "gold", "length"))
    n = reward["n"] if reward else None
    return (*_head(cell, name, window), n, _bounds(reward), _bounds(gold), _bounds(length, 1))


def _spreads(cell: str, name: str, window: dict[str, Any]) -> tuple[Any, ...]:
    sides = [window["spread_per_prompt"][side] for side in ("before", "after")]
    return (*_head(cell, name, window), sides[0]["n"] if sides[0] else None, *map(_bounds, sides))


def _against_gold(cell: str, name: str, window: dict[str, Any]) -> tuple[Any, ...]:
    gold = window["against_gold"] or {}
    order = gold.get("order_agreement") or {}
    lifted = ((gold.get(kind) or {}).get("lifted") for kind in ("false_negatives", "true_negatives"))
    figures = (order.get("before"), order.get("after"), gold.get("j"), *lifted)
    return (*_head(cell, name, window), *(found and f"{_bounds(found)} {found['n']}" for found in figures))


def _head(cell: str, name: str, window: dict[str, Any]) -> tuple[str, str]:
    return cell, f"{name} {window['steps'][0]}–{window['steps'][1]}"


def _bounds(found: Estimate | None, digits: int = 2) -> str | None:
    return interval(found["estimate"], found["lo"], found["hi"], digits) if found else None
