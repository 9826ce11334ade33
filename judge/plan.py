"""`rewardladder plan difference=0.05`: how many prompts and seeds a difference of win rates takes to be seen.

    rewardladder plan runs/pilot/judge/raw-rung65-grpo-s0 runs/pilot/judge/rpr-rung65-grpo-s0 difference=0.05
    rewardladder plan difference=0.05 tie=0.3 sd_seeds=0.02 comparisons=45

Judged cells of a pilot give the spread between prompts, and with several seeds the spread between seeds; without a
pilot both are assumed. One condition is planned against the baseline (0.5), two against each other. Cells of one
condition have one name up to its end `-s0`, `-s1`, ….
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from configs.errors import UserError
from configs.loader import Table
from configs.records import place_to_write, write_json
from configs.terminal import say, show_table
from judge.judged_cells import JudgedCell, read_judged_cells
from judge.statistics.bootstrap import Floats
from judge.statistics.planning import (
    POWER,
    Components,
    components_of,
    prompts_needed,
    sd_of_outcomes,
    smallest_difference,
)

FORMAT = 1
_SEED = re.compile(r"-s\d+$")


class PlanTable(Table):
    """Settings of `rewardladder plan`.

    Attributes:
        difference: of win rates (ties half), that is to be seen.
        power: the chance to see it.
        alpha: the level of the two-sided test.
        comparisons: how many tests are made; each is planned at alpha / comparisons, which Holm demands at worst.
        prompts: numbers of prompts in the table.
        seeds: numbers of training seeds in the table.
        samples: answers a prompt.
        between: `cells`: two trained policies, `baseline`: one against 0.5. A pilot decides it itself.
        win, tie: assumed shares of wins and ties against the baseline, where there is no pilot.
        correlation: assumed, of two policies' outcomes on the same prompt.
        same_prompt: assumed, of two samples' outcomes on the same prompt.
        sd_seeds: standard deviation of one condition's win rate between training seeds; instead of the pilot's, where
            given. Without this and a pilot of several seeds it is unknown, and the plan is of one seed.
        output: a JSON file for the plan.
    """

    difference: float = Field(0.05, gt=0.0, lt=1.0)
    power: float = Field(POWER, gt=0.5, lt=1.0)
    alpha: float = Field(0.05, gt=0.0, lt=0.5)
    comparisons: int = Field(1, ge=1)
    prompts: list[int] = Field([50, 100, 200, 400, 800, 1600, 3200])
    seeds: list[int] = Field([1, 2, 3, 5, 10])
    samples: int = Field(1, ge=1)
    between: Literal["cells", "baseline"] = "cells"
    win: float = Field(0.35, ge=0.0, le=1.0)
    tie: float = Field(0.3, ge=0.0, le=1.0)
    correlation: float = Field(0.3, ge=0.0, lt=1.0)
    same_prompt: float = Field(0.5, ge=0.0, le=1.0)
    sd_seeds: float | None = Field(None, ge=0.0, lt=1.0)
    output: str | None = None

    @model_validator(mode="after")
    def _meaningful(self) -> PlanTable:
        if self.win + self.tie > 1:
            raise ValueError(f"win and tie are shares of one whole, found {self.win:g} and {self.tie:g}")
        if not self.prompts or min(self.prompts) < 2 or not self.seeds or min(self.seeds) < 1:
            raise ValueError("prompts are at least 2 and seeds at least 1, and there is at least one of each")
        return self


def run(paths: Sequence[str], table: PlanTable) -> None:
    """Plan, write and print.

    Raises:
        UserError: the pilot has no judged cell, more than two conditions, or seeds on different prompts.
    """
    output = place_to_write(table.output, "output") if table.output else None
    found = from_pilot(read_judged_cells(paths, "plan"), table) if paths else assumed(table)
    plan = planned(found, table)
    if output:
        write_json(output, plan)
    show(plan)
    if output:
        say(f"wrote {output}")


def assumed(table: PlanTable) -> dict[str, Any]:
    """The spreads that the settings state."""
    one = sd_of_outcomes(table.win, table.tie)
    averaged = one * (table.same_prompt + (1 - table.same_prompt) / table.samples) ** 0.5
    sd = averaged * (2 * (1 - table.correlation)) ** 0.5 if table.between == "cells" else averaged
    # How much of it stays with the prompt under another seed is not known; all of it is the cautious guess.
    parts = Components(_seeds_of(table, 0.0), sd, 0.0)
    return {"what": f"assumed, {_versus(table.between)}", "parts": parts, "seeds_known": table.sd_seeds is not None}


def from_pilot(cells: Sequence[JudgedCell], table: PlanTable) -> dict[str, Any]:
    """The spreads in judged cells: of one condition about the baseline, or between two conditions.

    Raises:
        UserError: more than two conditions, or nothing that they share.
    """
    conditions: dict[str, dict[str, JudgedCell]] = {}
    for cell in cells:
        if cell.name != cell.baseline:
            seed = _SEED.search(cell.name)
            conditions.setdefault(_SEED.sub("", cell.name), {})[seed[0] if seed else ""] = cell
    if not 1 <= len(conditions) <= 2:
        raise UserError(
            f"plan: one or two conditions are planned, found {len(conditions)} "
            f"({', '.join(sorted(conditions)) or 'none besides the baseline'}); name the cells of two of them"
        )
    names = sorted(conditions)
    first = conditions[names[0]]
    other = conditions[names[1]] if len(names) > 1 else None
    seeds = sorted(first if other is None else first.keys() & other.keys())
    if not seeds:
        raise UserError(f"plan: {names[0]} and {names[1]} share no seed; name cells of the same seeds")
    values = [_differences(first[seed], None if other is None else other[seed]) for seed in seeds]
    prompts = sorted(set.intersection(*(set(row) for row in values)))
    if len(prompts) < 2:
        raise UserError(f"plan: the pilot's cells share {len(prompts)} prompts with an outcome; at least 2 are needed")
    table_SP: Floats = np.array([[row[prompt] for prompt in prompts] for row in values])
    parts = components_of(table_SP)
    between = "cells" if other is not None else "baseline"
    of_seeds = parts.seed if table.sd_seeds is None else table.sd_seeds * (1.0 if other is None else 2**0.5)
    return {
        "what": f"pilot, {' − '.join(names)}, {_versus(between)}: {len(seeds)} seeds, {len(prompts)} prompts, observed "
        f"{table_SP.mean():+.3f}",
        "parts": Components(of_seeds, parts.prompt, parts.rest),
        "seeds_known": table.sd_seeds is not None or len(seeds) > 1,
    }


def planned(found: dict[str, Any], table: PlanTable) -> dict[str, Any]:
    """The plan as a JSON record."""
    parts: Components = found["parts"]
    alpha = table.alpha / table.comparisons
    known = found["seeds_known"]
    seeds = table.seeds if known else [1]  # nothing is known of others
    return {
        "format": FORMAT,
        "from": found["what"],
        "settings": table.model_dump(mode="json", exclude={"output"}),
        "sd": {"seeds": parts.seed if known else None, "prompts": parts.prompt, "rest": parts.rest},
        "seeds_known": known,
        "prompts_needed": {str(n): prompts_needed(table.difference, parts, n, alpha, table.power) for n in seeds},
        "smallest_difference": {
            str(n_seeds): {str(n): smallest_difference(parts, n, n_seeds, alpha, table.power) for n in table.prompts}
            for n_seeds in seeds
        },
    }


def show(plan: dict[str, Any]) -> None:
    """Print the table of smallest differences and the numbers of prompts."""
    settings, sd = plan["settings"], plan["sd"]
    spread = "unknown" if sd["seeds"] is None else f"{sd['seeds']:.3f}"
    rows = [
        (
            int(n_seeds) if plan["seeds_known"] else "unknown",
            *(None if value is None else round(value, 4) for value in row.values()),
            plan["prompts_needed"][n_seeds] or "not by prompts",
        )
        for n_seeds, row in plan["smallest_difference"].items()
    ]
    show_table(
        f"smallest difference of win rates seen with power {settings['power']:g} at alpha {settings['alpha']:g}"
        + (f" / {settings['comparisons']} comparisons" if settings["comparisons"] > 1 else ""),
        ("seeds", *(f"{n} prompts" for n in settings["prompts"]), f"prompts for {settings['difference']:g}"),
        rows,
    )
    say(f"{plan['from']}; standard deviations: seeds {spread}, prompts {sd['prompts']:.3f}, rest {sd['rest']:.3f}")
    if not plan["seeds_known"]:
        say(
            "nothing is known of the spread between seeds: the plan holds for these trained policies, not for their "
            "kind; run a pilot with several seeds, or state sd_seeds="
        )


def _differences(cell: JudgedCell, other: JudgedCell | None) -> dict[str, float]:
    """By prompt, the mean over samples of a cell's quality less 0.5 or less the other's."""
    theirs = {} if other is None else {outcome.pair_id: outcome.quality for outcome in other.outcomes}
    found: dict[str, list[float]] = {}
    for outcome in cell.outcomes:
        reference = 0.5 if other is None else theirs.get(outcome.pair_id)
        if outcome.quality is not None and reference is not None:
            found.setdefault(outcome.prompt_id, []).append(outcome.quality - reference)
    return {prompt: sum(values) / len(values) for prompt, values in found.items()}


def _seeds_of(table: PlanTable, default: float) -> float:
    if table.sd_seeds is None:
        return default
    return table.sd_seeds * (2**0.5 if table.between == "cells" else 1.0)


def _versus(between: str) -> str:
    return "two policies" if between == "cells" else "one policy against the baseline"
