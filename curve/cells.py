"""From a sweep to cells: stable names, no cell twice."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.loader import Experiment
from curve.config import CurveTable
from policy.config import PolicyTable, cell_name

UNTRAINED = "untrained"


@dataclass(frozen=True)
class Cell:
    """One trained policy of a sweep.

    Attributes:
        name: its folder in `runs/<name>/policy/`.
        overrides: what tells it apart, as `policy.key` -> value.
        table: its validated settings.
        seed: the seed it is trained with.
    """

    name: str
    overrides: dict[str, Any]
    table: PolicyTable
    seed: int

    def experiment(self, of: Experiment) -> Experiment:
        """The experiment whose policy table is this cell's."""
        return of.with_overrides(self.overrides)

    def folder(self, of: Experiment) -> Path:
        """Where the cell lies."""
        return of.folder / "policy" / self.name


def expand(experiment: Experiment) -> list[Cell]:
    """The cells of an experiment, the untrained policy first.

    Raises:
        UserError: a combination means nothing, or two cells of different settings have the same name.
    """
    table = experiment.table("curve", CurveTable)
    wanted: list[dict[str, Any]] = [{"policy.reward": UNTRAINED}]
    for block in table.sweep:
        names = list(block)
        lists = [value if isinstance(value, list) else [value] for value in block.values()]
        for values, seed in itertools.product(itertools.product(*lists), table.seeds):
            wanted.append({f"policy.{n}": v for n, v in zip(names, values, strict=True)} | {"policy.seed": seed})
    cells: dict[str, Cell] = {}
    for overrides in wanted:
        if overrides["policy.reward"] == UNTRAINED:
            overrides = {"policy.reward": UNTRAINED}
        own = experiment.with_overrides({"policy.rung": None} | overrides)
        policy = own.table("policy", PolicyTable)
        seed = experiment.seed if policy.seed is None else policy.seed
        cell = Cell(cell_name(policy, experiment.seed), {"policy.rung": None} | overrides, policy, seed)
        if cell.name in cells and cells[cell.name].table != policy:
            raise UserError(
                f"{experiment.source}: curve.sweep has two different cells named {cell.name}; a sweep may vary reward, "
                "rung, algorithm and seed, and everything else needs an experiment of another name"
            )
        cells[cell.name] = cell
    return list(cells.values())
