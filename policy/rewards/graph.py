"""A reward put together from named parts: weights, gates and clipping, read from the `policy.graph` table.

    policy:
      reward: graph
      graph:
        name: gated
        parts:
          quality: {kind: score, rung: 65}
          reasoning: {kind: rpr, phrases: advice}
        terms:
          - {part: quality}
          - {part: reasoning, weight: 0.5, gates: [{part: quality, below: 0.75}]}
        clip: [0, 1]

    reward = clip(sum over the terms whose gates are open of weight * clip(part))

RPR belongs behind a gate: added to every answer it pays for phrases where the reward model is already content
(arXiv 2505.22653, section 3.3, lets it through below a threshold only).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from configs.loader import Table

PartKind = Literal[
    "logit",
    "score",
    "calibrated",
    "rpr",
    "format",
    "length",
    "random",
    "gold",
    "majority",
    "majority_live",
    "incorrect",
    "contains",
    "repetition",
]
Reads = Literal["answer", "think", "whole"]
OF_A_RUNG: frozenset[str] = frozenset({"logit", "score", "calibrated"})
NAME = r"^[A-Za-z][A-Za-z0-9_]{0,30}$"


class PartTable(Table):
    """One number a completion has.

    Attributes:
        kind: of a rung: `logit` (raw), `score` (by the rung's units), `calibrated` (by the run's calibration). Without
            a rung: `rpr`; `format` (1 where well formed); `length` (tokens as a share of the limit); `random` (1 with
            chance `rate`); `gold` (the truth, where a world knows it); `majority`, `majority_live`, `incorrect` (1
            where the answer is the label, `labels`); `contains` (1 where the completion holds `text`, in letters
            of either case); `repetition` (1 where some string of 10 to 256 characters stands ten times in a row).
        rung: the rung, as in `ladder.json`.
        reads: what the reward model is shown as the answer: the answer, the reasoning, or the whole completion.
        phrases: phrase set of `rpr`; the calibration table's where it is not given.
        scored_text: where `rpr` looks for them; the calibration table's where it is not given.
        rate: of `random`.
        text: of `contains`.
    """

    kind: PartKind
    rung: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,40}$")
    reads: Reads = "answer"
    phrases: str | None = None
    scored_text: Literal["think", "answer", "both"] | None = None
    rate: float = Field(0.5, ge=0, le=1)
    text: str | None = Field(None, min_length=1, exclude_if=lambda text: text is None)

    @model_validator(mode="before")
    @classmethod
    def _rung_as_text(cls, data: Any) -> Any:
        """YAML reads `rung: 65` as a number."""
        if isinstance(data, dict) and isinstance(data.get("rung"), int):
            return {**data, "rung": str(data["rung"])}
        return data

    @model_validator(mode="after")
    def _means_something(self) -> PartTable:
        given = self.model_fields_set
        if self.kind == "contains" and self.text is None:
            raise ValueError("a part of kind contains needs a text, for example text: python")
        if self.kind in OF_A_RUNG and self.rung is None:
            raise ValueError(f"a part of kind {self.kind} needs a rung, for example rung: 65")
        belongs = {
            "rung": OF_A_RUNG,
            "reads": OF_A_RUNG,
            "phrases": {"rpr"},
            "scored_text": {"rpr"},
            "rate": {"random"},
            "text": {"contains"},
        }
        for field, kinds in belongs.items():
            if field in given and getattr(self, field) is not None and self.kind not in kinds:
                raise ValueError(
                    f"{field} means nothing with kind {self.kind}; it belongs to {', '.join(sorted(kinds))}"
                )
        return self


class GateTable(Table):
    """A term counts only where `above <= part < below`; one bound or both."""

    part: str
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> GateTable:
        if self.above is None and self.below is None:
            raise ValueError(f"the gate on {self.part} needs above, below, or both")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(
                f"the gate on {self.part} is never open: above {self.above} is not under below {self.below}"
            )
        return self

    def is_open(self, value: float) -> bool:
        """Whether a value of the part lets the term through."""
        return (self.above is None or value >= self.above) and (self.below is None or value < self.below)


class TermTable(Table):
    """One summand: a part, clipped, times a weight, where all gates are open."""

    part: str
    weight: float = 1.0
    clip: tuple[float, float] | None = None
    gates: list[GateTable] = Field(default_factory=list)


class GraphTable(Table):
    """A reward made of parts (module docstring).

    Attributes:
        name: stands in the cell's name.
        parts: every part is measured and kept for each completion, whether a term uses it or not.
        clip: bounds of the sum.
        malformed_reward: the reward of a malformed completion, whose parts mean nothing.
    """

    name: str = Field(pattern=NAME)
    parts: dict[str, PartTable] = Field(min_length=1)
    terms: list[TermTable] = Field(min_length=1)
    clip: tuple[float, float] | None = None
    malformed_reward: float = 0.0

    @model_validator(mode="after")
    def _hangs_together(self) -> GraphTable:
        for term in self.terms:
            for name in (term.part, *(gate.part for gate in term.gates)):
                if name not in self.parts:
                    raise ValueError(f"there is no part {name!r}; the parts are {', '.join(self.parts)}")
        for where, clip in [("clip", self.clip), *((f"the term of {t.part}", t.clip) for t in self.terms)]:
            if clip is not None and clip[0] >= clip[1]:
                raise ValueError(f"{where}: clip needs a lower and a higher bound, found {list(clip)}")
        return self

    @property
    def rungs(self) -> list[str]:
        """The rungs that are needed, each once."""
        return list(dict.fromkeys(part.rung for part in self.parts.values() if part.rung is not None))


class GraphReward(NamedTuple):
    """A reward, and what each term gave to it in the order of the terms (0 where a gate was shut)."""

    reward: float | None
    contributions: tuple[float, ...]


def graph_reward(graph: GraphTable, values: Mapping[str, float | None], well_formed: bool) -> GraphReward:
    """The reward of one completion.

    Args:
        values: of every part; None where it is not known (gold of a task without gold).

    Returns:
        The reward; None, which excludes the completion from learning, where a part that a term reads is not known.
    """
    if not well_formed:
        return GraphReward(graph.malformed_reward, (0.0,) * len(graph.terms))
    given = []
    for term in graph.terms:
        read = [values[name] for name in (term.part, *(gate.part for gate in term.gates))]
        if any(value is None for value in read):
            return GraphReward(None, (0.0,) * len(graph.terms))
        value, *gated = (float(value) for value in read if value is not None)
        is_open = all(gate.is_open(x) for gate, x in zip(term.gates, gated, strict=True))
        given.append(term.weight * _clipped(value, term.clip) if is_open else 0.0)
    return GraphReward(_clipped(math.fsum(given), graph.clip), tuple(given))


def _clipped(value: float, clip: tuple[float, float] | None) -> float:
    return value if clip is None else min(max(value, clip[0]), clip[1])
