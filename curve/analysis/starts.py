"""The cells that begin from one base and read no reward model, and the kinds of noise among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from curve.analysis.contrasts import Contrast, Outcomes, gain, level_of
from curve.figures.names import apart_by
from curve.points import Point

CLEAN, CLEAN_ARM = 0.0, "clean"
DIGITS = 6
BASE_COLUMNS = ("base", "setup")
"""Columns that tell bases and worlds apart."""


@dataclass(frozen=True)
class Start:
    """Cells without a reward model, from one base by one algorithm.

    Attributes:
        name: what tells it apart from the others; empty for the only one.
        untrained: the base's own answers; None where the points lack them.
        other_untrained: the same asked otherwise (arms of the untrained policy).
        cells: the trained policies.
        base: as the points name it; several starts may share one, under other setups or algorithms.
    """

    name: str
    untrained: Point | None
    other_untrained: list[Point] = field(default_factory=list)
    cells: list[Point] = field(default_factory=list)
    base: str | None = None

    @property
    def column(self) -> str:
        """Gold where every cell has it, else the win rate."""
        known = [*self.cells, *([self.untrained] if self.untrained else [])]
        return "gold_mean" if all(cell["gold_mean"] is not None for cell in known) else "quality"

    @property
    def unit(self) -> str:
        """What values are in, in words."""
        return "in mean gold" if self.column == "gold_mean" else "in win rate"

    @property
    def level(self) -> float | None:
        """How good the base is before training; None without gold, for a win rate against itself says nothing."""
        gold = None if self.untrained is None else self.untrained["gold_mean"]
        return None if gold is None else float(gold)

    def plain(self, reward: str) -> list[Point]:
        """Cells of a reward without arms or noise."""
        return [c for c in self.cells if c["reward"] == reward and is_plain(c) and rate_of(c) == CLEAN]

    def arm(self, name: str) -> list[Point]:
        """Cells of an arm."""
        return [cell for cell in self.cells if cell.get("arm") == name]

    def gain(self, cells: Sequence[Point], golds: Outcomes) -> Contrast | None:
        """Cells less the untrained policy, paired by prompt where golds are there or the points hold the gain."""
        known = all(cell.get("gold_gain") is not None for cell in cells)
        if self.column == "gold_mean" and known and not all(cell["cell"] in golds for cell in cells):
            return level_of(cells, {}, "gold_gain")
        return None if self.untrained is None else gain(cells, self.untrained, golds, self.column)


def is_plain(cell: Point) -> bool:
    """Whether a cell is its reward and nothing more: no arm, no noise, no condition."""
    return not cell.get("arm") and cell.get("treatment") in (None, cell["reward"])


def rate_of(cell: Point) -> float | None:
    """The flip rate of a cell, 0 without noise; None where right and wrong are flipped at different rates."""
    if cell.get("flip_rate") is not None:
        return round(float(cell["flip_rate"]), DIGITS)
    rates = [float(cell.get(name) or 0.0) for name in ("false_negative_rate", "false_positive_rate")]
    return round(rates[0], DIGITS) if rates[0] == rates[1] else None


def starts_of(points: Sequence[Point]) -> list[Start]:
    """The cells without a reward model by base and algorithm, in the order of the points."""
    alone = [point for point in points if point["rung"] is None]
    trained = [point for point in alone if point["reward"] != "untrained"]
    names = ("algorithm", *BASE_COLUMNS)
    keys = list(dict.fromkeys(tuple(cell.get(name) for name in names) for cell in trained))
    rows = [dict(zip(names, key, strict=True)) for key in keys]
    found = []
    for row, key in zip(rows, keys, strict=True):
        untrained = [p for p in alone if p["reward"] == "untrained" and _same(p, key[1:])]
        own = [p for p in untrained if not p.get("arm")]
        found.append(
            Start(
                ", ".join(apart_by(row, rows, names)),
                own[0] if own else None,
                [p for p in untrained if p.get("arm")],
                [cell for cell in trained if tuple(cell.get(name) for name in names) == key],
                row["base"],
            )
        )
    return found


def _same(point: Point, key: Sequence[str | None]) -> bool:
    return all(point.get(name) == value for name, value in zip(BASE_COLUMNS, key, strict=True))


def noise_series(cells: Sequence[Point]) -> dict[str, dict[float, list[Point]]]:
    """Kinds of flips of gold: name -> flip rate, rising from 0 -> cells.

    All flips are one kind, unless one rate stands there twice for a seed: then a kind is what is left of arm or
    treatment without the rate. A kind without cells of its own at 0 takes the plain gold cells; without those it is
    left out.
    """
    gold = [cell for cell in cells if cell["reward"] == "gold" and rate_of(cell) is not None]
    noisy = [cell for cell in gold if rate_of(cell) != CLEAN]
    kinds: dict[str, list[Point]] = {"": noisy}
    if _twice(noisy):
        kinds = {}
        for cell in noisy:
            kinds.setdefault(_kind_of(cell), []).append(cell)
    found = {}
    for name, own in kinds.items():
        arms = {cell.get("arm") for cell in own}
        clean = [cell for cell in gold if rate_of(cell) == CLEAN and cell.get("arm") in arms] or clean_gold(cells)
        if own and clean and not _twice([*own, *clean]):
            rates = sorted({rate for cell in own if (rate := rate_of(cell)) is not None})
            found[name] = {CLEAN: clean} | {rate: [c for c in own if rate_of(c) == rate] for rate in rates}
    return found


def clean_gold(cells: Sequence[Point]) -> list[Point]:
    """Gold cells without noise: the plain ones, else those of the arm `clean`, else those of the only arm there is."""
    unflipped = [cell for cell in cells if cell["reward"] == "gold" and rate_of(cell) == CLEAN]
    by_arm: dict[str | None, list[Point]] = {}
    for cell in unflipped:
        by_arm.setdefault(cell.get("arm"), []).append(cell)
    only = next(iter(by_arm.values())) if len(by_arm) == 1 else []
    return [cell for cell in unflipped if is_plain(cell)] or by_arm.get(CLEAN_ARM, only)


def _kind_of(cell: Point) -> str:
    return str(cell.get("arm") or cell.get("treatment") or "").replace(f"{rate_of(cell):g}", "")


def _twice(cells: Sequence[Point]) -> bool:
    keys = [(rate_of(cell), cell["seed"]) for cell in cells]
    return len(set(keys)) < len(keys)
