"""The `curve` table: which cells there are and how many run side by side."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from configs.loader import Table
from policy.config import PolicyTable

Scalar = str | int | float | bool | None


class CurveTable(Table):
    """Settings of the sweep.

    Attributes:
        sweep: blocks of policy fields; a field with a list is expanded, and a block is the product of its lists. The
            untrained policy is always a cell.
        seeds: every cell is trained once with each.
        workers: cells at work at the same time, each a process of its own.
        title: of the figure.
    """

    sweep: list[dict[str, Scalar | list[Scalar]]] = Field(min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    workers: int = Field(2, ge=1, le=256)
    title: str = "How accurate must the reward model be?"

    @field_validator("sweep")
    @classmethod
    def _policy_fields(cls, sweep: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for block in sweep:
            for key, value in block.items():
                if key not in PolicyTable.model_fields or key == "seed":
                    raise ValueError(
                        f"{key!r} is not a field of the policy table that can be swept"
                        + (
                            "; use curve.seeds"
                            if key == "seed"
                            else f"; there are {', '.join(PolicyTable.model_fields)}"
                        )
                    )
                if value == []:
                    raise ValueError(f"{key!r} is swept over an empty list")
            if "reward" not in block:
                raise ValueError(f"a block needs a reward, found {block}")
        return sweep
