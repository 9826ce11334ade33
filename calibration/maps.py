"""Maps from a raw logit to a score in 0..1, each a small record of plain JSON: a kind and its parameters.

    identity     sigmoid(logit): the logit taken at its word
    temperature  sigmoid((logit - centre) / temperature)                                   (Guo et al. 2017)
    platt        sigmoid(slope * logit + intercept)                                        (Platt 1999)
    beta         sigmoid(a ln s - b ln(1 - s) + c), s = sigmoid((logit - centre) / spread) (Kull et al. 2017, eq. 6)
    isotonic     linear between the knots of a monotone regression                         (Zadrozny and Elkan 2002)
    quantile     the share of reference answers that lie below
    reference    the mean over reference answers of sigmoid(scale * (logit - reference)): the chance to beat one
    by_domain    one of these a domain, and a pooled one for every other domain

Every map but a worthless one increases strictly, as far as doubles resolve: two answers keep their order. They are
fitted by `calibration.fitting`. NaN stays NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from configs.errors import UserError
from configs.records import read_json, sha256_of_record, write_json
from rm.measures import sigmoid
from rm.units import ScoreUnits

Floats = NDArray[np.float64]
FORMAT = 1
MAX_KNOTS = 1024
"""A quantile map holds at most this many reference values, evenly spaced in rank."""
BLOCK = 1 << 20
"""Sigmoids that a reference map takes at once."""


class ScoreMap(BaseModel):
    """What all maps share. `kind` names the map in its JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def scores(self, logits: Floats) -> Floats:
        """Scores in 0..1 of raw logits, elementwise."""
        raise NotImplementedError

    def score(self, logit: float) -> float:
        """The score in 0..1 of one raw logit."""
        return float(self.scores(np.array([logit], dtype=np.float64))[0])

    @property
    def sha256(self) -> str:
        """The hash of kind and parameters."""
        return sha256_of_record(self.model_dump(mode="json"))


class Identity(ScoreMap):
    """sigmoid(logit)."""

    kind: Literal["identity"] = "identity"

    def scores(self, logits: Floats) -> Floats:
        """Scores in 0..1, elementwise."""
        return sigmoid(logits)


class Temperature(ScoreMap):
    """sigmoid((logit - centre) / temperature).

    Attributes:
        centre: the logit that scores 0.5.
        temperature: in logits, above 0; above 1 where the logits were over-confident.
    """

    kind: Literal["temperature"] = "temperature"
    centre: float
    temperature: float = Field(gt=0)

    def scores(self, logits: Floats) -> Floats:
        """Scores in 0..1, elementwise."""
        return sigmoid((np.asarray(logits, dtype=np.float64) - self.centre) / self.temperature)


class Platt(ScoreMap):
    """sigmoid(slope * logit + intercept), slope above 0."""

    kind: Literal["platt"] = "platt"
    slope: float = Field(gt=0)
    intercept: float

    def scores(self, logits: Floats) -> Floats:
        """Scores in 0..1, elementwise."""
        return sigmoid(self.slope * np.asarray(logits, dtype=np.float64) + self.intercept)


class Beta(ScoreMap):
    """sigmoid(a ln s - b ln(1 - s) + c) with s = sigmoid((logit - centre) / spread).

    The beta map is made for scores s in 0..1, and a logit has no zero and no scale of its own: centre and spread are
    those of the logits it was fitted on. With a = b it is Platt's map.
    """

    kind: Literal["beta"] = "beta"
    a: float = Field(ge=0)
    b: float = Field(ge=0)
    c: float
    centre: float
    spread: float = Field(gt=0)

    @model_validator(mode="after")
    def _increases(self) -> Self:
        if self.a + self.b == 0:
            raise ValueError("a and b are both 0, so that every logit scores the same")
        return self

    def scores(self, logits: Floats) -> Floats:
        """Scores in 0..1, elementwise."""
        x = (np.asarray(logits, dtype=np.float64) - self.centre) / self.spread
        return sigmoid(self.b * np.logaddexp(0.0, x) - self.a * np.logaddexp(0.0, -x) + self.c)


class Isotonic(ScoreMap):
    """A monotone regression, with its plateaus tilted so that no order is lost.

    The regression is flat over each pooled block, and beyond the first and last knot, and would tie answers that the
    logit tells apart. Into it goes a small share of a strictly increasing curve,

        score = (1 - tilt) * regression(logit) + tilt * (1 + u / (1 + |u|)) / 2,    u = (logit - centre) / spread,

    with tilt = 1 / (n + 2) for n fitted answers: it moves no score by more than the tilt, keeps every order, and no
    score reaches 0 or 1, as one imagined answer more would.

    Attributes:
        logits: of the knots, strictly increasing.
        values: of the regression at the knots, in 0..1, never falling.
        tilt: in 0..1, not reaching either.
        centre, spread: of the curve, in logits.
    """

    kind: Literal["isotonic"] = "isotonic"
    logits: tuple[float, ...] = Field(min_length=1)
    values: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    tilt: float = Field(gt=0, lt=1)
    centre: float
    spread: float = Field(gt=0)

    @model_validator(mode="after")
    def _knots_increase(self) -> Self:
        _check_knots(self.logits, self.values, "values")
        return self

    def scores(self, logits: Floats) -> Floats:
        """Scores in 0..1, elementwise."""
        x = np.asarray(logits, dtype=np.float64)
        u = (x - self.centre) / self.spread
        return (1 - self.tilt) * _between(x, self.logits, self.values) + self.tilt * (1 + u / (1 + np.abs(u))) / 2


class Quantile(ScoreMap):
    """The mid-rank quantile on a reference set: the share below, and half of the equal ones.

    Between two reference values it is linear. Beyond the last it goes on as 1 - (1 - q) / (1 + distance / spread), and
    below the first likewise, so that it never stops rising and never reaches 0 or 1.

    Attributes:
        logits: distinct reference values, strictly increasing; at most 1024.
        quantiles: their mid-rank quantiles, strictly between 0 and 1.
        spread: standard deviation of the reference set, in logits (1 where it has none).
        n_reference: size of the reference set.
    """

    kind: Literal["quantile"] = "quantile"
    logits: tuple[float, ...] = Field(min_length=1)
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    spread: float = Field(gt=0)
    n_reference: int = Field(ge=1)

    @model_validator(mode="after")
    def _knots_increase(self) -> Self:
        _check_knots(self.logits, self.quantiles, "quantiles")
        return self

    @classmethod
    def of(cls, reference: Floats) -> Quantile:
        """The map of a reference set of finite logits, shape (N,) with N at least 1."""
        values, counts = np.unique(np.asarray(reference, dtype=np.float64), return_counts=True)
        quantiles = (np.cumsum(counts) - counts / 2) / counts.sum()
        if len(values) > MAX_KNOTS:
            kept = np.unique(np.searchsorted(quantiles, np.linspace(0, 1, MAX_KNOTS)).clip(0, len(values) - 1))
            values, quantiles = values[kept], quantiles[kept]
        return cls(
            logits=tuple(values.tolist()),
            quantiles=tuple(quantiles.tolist()),
            spread=spread_of(reference),
            n_reference=len(reference),
        )

    def scores(self, logits: Floats) -> Floats:
        """Scores strictly between 0 and 1 for finite logits, elementwise."""
        x = np.asarray(logits, dtype=np.float64)
        below = np.maximum(self.logits[0] - x, 0.0) / self.spread
        above = np.maximum(x - self.logits[-1], 0.0) / self.spread
        inside = _between(x, self.logits, self.quantiles)
        return np.where(below > 0, inside / (1 + below), 1 - (1 - inside) / (1 + above))


class Reference(ScoreMap):
    """The chance of beating a reference answer under Bradley and Terry: mean of sigmoid(scale * (logit - reference)).

    Attributes:
        scale: above 0; turns a difference of logits into log odds of being preferred.
        references: logits of reference answers; a stored sample.
    """

    kind: Literal["reference"] = "reference"
    scale: float = Field(gt=0)
    references: tuple[float, ...] = Field(min_length=1)

    def scores(self, logits: Floats) -> Floats:
        """Scores in 0..1, elementwise."""
        x = np.asarray(logits, dtype=np.float64)
        flat, references = x.ravel(), np.array(self.references)
        step = max(1, BLOCK // len(references))
        parts = [
            sigmoid(self.scale * (flat[i : i + step, None] - references)).mean(axis=1)
            for i in range(0, len(flat), step)
        ]
        return np.concatenate(parts or [flat]).reshape(x.shape)


SingleMap = Annotated[
    Identity | Temperature | Platt | Beta | Isotonic | Quantile | Reference, Field(discriminator="kind")
]


class ByDomain(ScoreMap):
    """A map for each domain that had data enough, and a pooled one for every other answer.

    Attributes:
        own: by name of the domain.
        pooled: fitted on all answers, of these domains too.
    """

    kind: Literal["by_domain"] = "by_domain"
    own: dict[str, SingleMap]
    pooled: SingleMap

    def scores(self, logits: Floats, domains: Sequence[str | None] | None = None) -> Floats:
        """Scores in 0..1, elementwise; without domains those of the pooled map.

        Args:
            logits: shape (N,).
            domains: of each answer, length N; None and unknown names take the pooled map.
        """
        x = np.asarray(logits, dtype=np.float64)
        found = self.pooled.scores(x)
        names = np.array([""] * x.size if domains is None else [name or "" for name in domains], dtype=object)
        for name, own in self.own.items() if domains is not None else ():
            mine = names == name
            found[mine] = own.scores(x[mine])
        return found


AnyMap = Annotated[
    Identity | Temperature | Platt | Beta | Isotonic | Quantile | Reference | ByDomain, Field(discriminator="kind")
]
_READER: TypeAdapter[Any] = TypeAdapter(AnyMap)


def map_from_record(record: Any, where: str) -> ScoreMap:
    """A map from the plain JSON of `model_dump`.

    Raises:
        UserError: it is no map, or its parameters are none that a map may have.
    """
    try:
        found: ScoreMap = _READER.validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
        raise UserError(
            f"{where}: not a map from logits to scores ({place + ': ' if place else ''}{reason}); fit it again with "
            "rewardladder fit"
        ) from None
    return found


def save_map(path: Path, fitted: ScoreMap) -> None:
    """Write a map: format, kind and parameters, and their hash."""
    write_json(path, {"format": FORMAT, "map": fitted.model_dump(mode="json"), "sha256": fitted.sha256})


def load_map(path: Path) -> ScoreMap:
    """Read what `save_map` wrote.

    Raises:
        UserError: the file is missing, holds no map or was altered.
    """
    try:
        record = read_json(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not isinstance(record, dict) or sorted(record) != ["format", "map", "sha256"] or record["format"] != FORMAT:
        raise UserError(f"{path}: not a file of a map (format {FORMAT}, with map and sha256); fit it again")
    found = map_from_record(record["map"], str(path))
    if found.sha256 != record["sha256"]:
        raise UserError(f"{path}: the map was altered since it was written; fit it again")
    return found


def map_of_units(units: ScoreUnits) -> Temperature:
    """The map of a rung's stored units, as one of these records."""
    return Temperature(centre=units.centre, temperature=1 / units.scale)


def spread_of(logits: Floats) -> float:
    """Standard deviation (ddof 0) of logits; 1 where they are all equal."""
    return float(np.std(logits)) or 1.0


def _between(x: Floats, logits: Sequence[float], values: Sequence[float]) -> Floats:
    """Linear between knots and flat beyond them; it never falls by rounding, however near two are."""
    knots, heights = np.array(logits), np.array(values)
    if len(knots) == 1:
        return np.where(np.isnan(x), np.nan, heights[0])
    inside = np.clip(x, knots[0], knots[-1])
    left = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, len(knots) - 2)
    along = (inside - knots[left]) / (knots[left + 1] - knots[left])
    return np.minimum(heights[left] + along * (heights[left + 1] - heights[left]), heights[left + 1])


def _check_knots(logits: Sequence[float], values: Sequence[float], name: str) -> None:
    if len(logits) != len(values):
        raise ValueError(f"there are {len(logits)} logits and {len(values)} {name}")
    if any(later <= earlier for earlier, later in itertools.pairwise(logits)):
        raise ValueError("the logits of the knots must increase")
    if any(later < earlier for earlier, later in itertools.pairwise(values)):
        raise ValueError(f"the {name} of the knots must not fall")
