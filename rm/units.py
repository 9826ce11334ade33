"""From a raw logit to a score in 0..1, by a centre and a scale that travel with the rung.

A Bradley-Terry logit is defined up to a constant and its scale grows with training, so a threshold on it means
something else for every rung. A rung's units are measured once, on a named reference set, and stored beside its
weights:

    score = sigmoid(scale * (logit - centre))
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from configs.records import read_json, write_json

UNITS_FILE = "units.json"


@dataclass(frozen=True)
class ScoreUnits:
    """The units of one rung.

    Attributes:
        centre: the logit that scores 0.5, in logits: the median logit of the untrained policy's answers, so that 0.5
            means "as good as an answer before any training".
        scale: above 0; the Platt slope that makes sigmoid(scale * difference) the fitted chance of being preferred.
        reference: the set on which both were measured, in words.
        n_reference: its size.
    """

    centre: float
    scale: float
    reference: str
    n_reference: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.centre) and math.isfinite(self.scale) and self.scale > 0):
            raise UserError(f"score units need a finite centre and a scale above 0, found {self.centre}, {self.scale}")

    def score(self, logit: float) -> float:
        """The score in 0..1 of one raw logit."""
        return float(self.scores(np.array([logit]))[0])

    def scores(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores in 0..1 of raw logits, elementwise; NaN stays NaN."""
        x = self.scale * (np.asarray(logits, dtype=np.float64) - self.centre)
        return np.exp(-np.logaddexp(0.0, -x))

    def save(self, folder: Path) -> None:
        """Write `units.json` into a rung's folder."""
        write_json(folder / UNITS_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> ScoreUnits:
        """Read `units.json` of a rung's folder.

        Raises:
            UserError: the file is missing or is not a record of score units.
        """
        record = read_json(folder / UNITS_FILE)
        try:
            return cls(**record)
        except TypeError:
            raise UserError(f"{folder / UNITS_FILE}: not a record of score units") from None
