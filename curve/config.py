"""The `curve` table: which cells there are, of which variants of the experiment, and what runs them."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.loader import ROOMS, Table
from curve.sweep.ray_jobs import RayTable
from policy.config import PolicyTable

OF_A_BLOCK = "variants"
"""The key of a block that is no field of the policy: the variants that the block is for."""
LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,39}")
SET_BY_THE_SWEEP = ("reward", "rung", "arm", "seed")
"""Fields of the policy that blocks and `curve.seeds` decide, so a variant cannot."""


class CurveTable(Table):
    """Settings of the sweep.

    Attributes:
        sweep: blocks of policy fields, also of its tables (`noise.flip_rate`). A list is an axis and a mapping a single
            value; a block is the product of its lists. A field of the policy in braces in `arm` is replaced by its
            value (`arm: lr{learning_rate}`). `variants` in a block names those that it is for, otherwise all. The
            untrained policy is always a cell.
        seeds: every cell is trained once with each.
        variants: label -> what differs from this experiment, as `room.key` -> value: other bases, seeds of the reward
            model, routes. Each has a run folder of its own in `variants/`. A cell that reads no reward model is made
            once for all variants that differ in nothing else.
        workers: cells at work at the same time, each a process of its own.
        executor: `local`: processes of this machine; `ray`: tasks of a Ray cluster, with the settings in `ray`.
        ray: see `curve.sweep.ray_jobs`.
        title: of the figure.
    """

    sweep: list[dict[str, Any]] = Field(min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    variants: dict[str, dict[str, Any] | None] | None = Field(None, min_length=1)
    workers: int = Field(2, ge=1, le=256)
    executor: Literal["local", "ray"] = "local"
    ray: RayTable | None = None
    title: str = "How accurate must the reward model be?"

    @field_validator("sweep")
    @classmethod
    def _policy_fields(cls, sweep: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for block in sweep:
            for key, value in block.items():
                field = str(key).partition(".")[0]
                if key == "seed":
                    raise ValueError("'seed' is not a field of the policy table that can be swept; use curve.seeds")
                if key != OF_A_BLOCK and field not in PolicyTable.model_fields:
                    known = [*PolicyTable.model_fields, OF_A_BLOCK]
                    raise ValueError(
                        f"{key!r} is not a field of the policy table that can be swept{_hint(field, known)}"
                    )
                if value == []:
                    raise ValueError(f"{key!r} is swept over an empty list")
            if "reward" not in block:
                raise ValueError(f"a block needs a reward, found {block}")
        return sweep

    @field_validator("variants")
    @classmethod
    def _tables_of_rooms(
        cls, variants: dict[str, dict[str, Any] | None] | None
    ) -> dict[str, dict[str, Any] | None] | None:
        rooms = [room for room in ROOMS if room != "curve"]
        seen: dict[str, str] = {}
        for label, overrides in (variants or {}).items():
            other = seen.setdefault(label.casefold(), label)
            if other != label:
                raise ValueError(
                    f"the labels {other!r} and {label!r} differ in case alone, and many file systems would put both "
                    "variants into one folder; rename one"
                )
            if not LABEL.fullmatch(label):
                raise ValueError(f"a variant's label is a folder's name of letters, digits, _ . -, found {label!r}")
            for key in overrides or {}:
                room, _, field = str(key).partition(".")
                if room not in rooms or not field:
                    raise ValueError(
                        f"variant {label}: {key!r} is no key of a room, for example rm.seed{_hint(room, rooms)}"
                    )
                if room == "policy" and field in SET_BY_THE_SWEEP:
                    raise ValueError(f"variant {label}: {key} is set by the sweep; use its blocks or curve.seeds")
        return variants

    @model_validator(mode="after")
    def _labels_exist(self) -> CurveTable:
        for block in self.sweep:
            named = variants_of_block(block)
            if named is None:
                continue
            if self.variants is None:
                raise ValueError(f"a block is for variants {named}, and there is no curve.variants")
            for label in named:
                if label not in self.variants:
                    raise ValueError(f"a block is for variant {label!r}{_hint(str(label), list(self.variants))}")
        if self.ray is not None and self.executor != "ray":
            raise ValueError("ray is read only with executor: ray")
        return self


def variants_of_block(block: dict[str, Any]) -> list[Any] | None:
    """The variants that a block is for; None for all."""
    named = block.get(OF_A_BLOCK)
    return named if named is None or isinstance(named, list) else [named]


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
