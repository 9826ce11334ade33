"""From a sweep to cells: stable names, no cell twice."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from configs.errors import UserError
from configs.loader import Experiment, parse_yaml
from configs.records import sha256_of_record
from curve.config import OF_A_BLOCK, CurveTable
from curve.sweep.variants import setup_of, variants_of
from policy.config import PolicyTable, cell_name

UNTRAINED = "untrained"
PLACE = re.compile(r"\{([a-z0-9_.]+)\}")
WORD = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Cell:
    """One trained policy of a sweep.

    Attributes:
        name: its folder in `runs/<name>/policy/`.
        overrides: what tells it apart, as `policy.key` -> value.
        table: its validated settings.
        seed: the seed it is trained with.
        run: the experiment it belongs to: the sweep's own, or a variant.
        variant: the label of the variant; None where the sweep has none.
    """

    name: str
    overrides: dict[str, Any]
    table: PolicyTable
    seed: int
    run: Experiment
    variant: str | None = None

    @property
    def label(self) -> str:
        """What the cell is called in the whole sweep: `raw-rung65-grpo-s0`, or `weak/raw-rung65-grpo-s0`."""
        return self.name if self.variant is None else f"{self.variant}/{self.name}"

    @property
    def experiment(self) -> Experiment:
        """The experiment whose policy table is this cell's."""
        return self.run.with_overrides(self.overrides)

    @property
    def folder(self) -> Path:
        """Where the cell lies."""
        return self.run.folder / "policy" / self.name

    @property
    def judged(self) -> Path:
        """Where its judgement lies."""
        return self.run.folder / "judge" / self.name

    @property
    def words(self) -> list[str]:
        """Its overrides as the command line takes them."""
        return [f"{key}={as_yaml(value)}" for key, value in self.overrides.items()]


def expand(experiment: Experiment) -> list[Cell]:
    """The cells of a sweep, variant by variant, the untrained policy of each first.

    A cell that reads no reward model is made once for all variants that differ in nothing that it reads.

    Raises:
        UserError: a combination means nothing, or two cells of different settings have the same name.
    """
    cells: list[Cell] = []
    told: dict[str, Cell] = {}
    for label, run in variants_of(experiment).items():
        for plain in _cells(run):
            cell = replace(plain, variant=label)
            if label is not None and cell.name != UNTRAINED:
                other = told.setdefault(_digest(experiment, cell), cell)
                if other is not cell and not cell.table.rungs:
                    continue
                if other is not cell:
                    raise UserError(
                        f"{experiment.source}: curve.variants {other.variant} and {label} would both have the point "
                        f"{cell.name}, and no column tells them apart; give them another rm.seed or rm.route"
                    )
            cells.append(cell)
    return cells


def _digest(experiment: Experiment, cell: Cell) -> str:
    """What a cell of a variant has to itself: all it reads, or where it reads a rung, what its point says of it."""
    tables = cell.run.tables
    if not cell.table.rungs:
        reads: list[Any] = [tables[room] for room in ("tasks", "calibration", "judge")]
        return sha256_of_record([cell.name, cell.table.deciding(), reads])
    ladder = [tables["rm"].get("route"), tables["rm"].get("seed")]
    base = [tables["tasks"].get("variant"), tables["policy"].get("model_name_or_path")]
    return sha256_of_record([cell.name, ladder, base, setup_of(experiment, cell.variant, True)])


def _cells(run: Experiment) -> list[Cell]:
    table = run.table("curve", CurveTable)
    cells: dict[str, Cell] = {}
    # a cell has no rung or arm but its own, whatever stands in the experiment's policy table
    empty = {f"policy.{key}": None for key in ("rung", "arm") if run.tables["policy"].get(key) is not None}
    for overrides in [{"policy.reward": UNTRAINED}, *_combinations(table)]:
        overrides = empty | overrides
        arm = overrides.get("policy.arm")
        policy = run.with_overrides(overrides | {"policy.arm": None}).table("policy", PolicyTable)
        if arm is not None:
            overrides["policy.arm"] = _filled(str(arm), policy, run.source)
        if policy.reward == UNTRAINED:
            overrides.pop("policy.seed", None)
            if arm is None:
                overrides = empty | {"policy.reward": UNTRAINED}
        policy = run.with_overrides(overrides).table("policy", PolicyTable)
        seed = run.seed if policy.seed is None else policy.seed
        cell = Cell(cell_name(policy, run.seed), overrides, policy, seed, run)
        if cell.name in cells and cells[cell.name].table != policy:
            raise UserError(
                f"{run.source}: curve.sweep has two different cells named {cell.name}; name them apart by arm, for "
                "example arm: lr{learning_rate}"
            )
        near = next((name for name in cells if name != cell.name and name.casefold() == cell.name.casefold()), None)
        if near is not None:
            raise UserError(
                f"{run.source}: curve.sweep has cells named {near} and {cell.name}, which differ in case alone; many "
                "file systems would put both into one folder, so rename an arm"
            )
        cells[cell.name] = cell
    return list(cells.values())


def _combinations(table: CurveTable) -> Iterator[dict[str, Any]]:
    """Every product of a block's lists with the seeds; a table's own keys come after the table as a whole."""
    for block in table.sweep:
        fields = {key: value for key, value in block.items() if key != OF_A_BLOCK}
        lists = [value if isinstance(value, list) else [value] for value in fields.values()]
        for values, seed in itertools.product(itertools.product(*lists), table.seeds):
            chosen = dict(zip(fields, values, strict=True))
            yield {f"policy.{key}": chosen[key] for key in sorted(chosen, key=lambda k: k.count("."))} | {
                "policy.seed": seed
            }


def _filled(arm: str, policy: PolicyTable, source: str) -> str:
    """An arm with the values of the policy's fields in the places of their names in braces."""

    def value_of(place: re.Match[str]) -> str:
        value: Any = policy
        for key in place[1].split("."):
            value = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        if value is None or isinstance(value, BaseModel | dict | list):
            raise UserError(f"{source}: curve.sweep: arm {arm!r} names {place[1]}, and the policy has no such value")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return text.removesuffix(".0")

    return PLACE.sub(value_of, arm)


def as_yaml(value: Any) -> str:
    """A value on one line of YAML that reads back as itself: JSON, but for plain words, and floats with a point.

    YAML takes `1e-05` for text.
    """
    if isinstance(value, str) and WORD.fullmatch(value) and _is_plain(value):
        return value
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{json.dumps(str(k), ensure_ascii=False)}: {as_yaml(v)}" for k, v in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


def _is_plain(word: str) -> bool:
    """Whether YAML reads a word as itself; it refuses one like 2026-99-99, which has a date's form."""
    try:
        return bool(parse_yaml(word) == word)
    except ValueError:
        return False
