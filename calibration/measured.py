"""What rules need to know of a rung, measured on its reference answers: spread, lengths, error rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.compensation import RuleInputs, corrected
from calibration.config import CalibrationTable
from configs.errors import UserError

Floats = NDArray[np.float64]
LONGEST = 0.95
"""The quantile of lengths that is worth the whole bonus of the rule `length`."""
CUTS = np.linspace(0.05, 0.95, 19)
"""Quantiles of the scores among which a cut is looked for."""
DIGITS = 3


@dataclass(frozen=True)
class Measured:
    """What rules need to know of a rung; None where it could not be measured.

    Attributes:
        centre: mean score of the well-formed reference answers.
        spread: their standard deviation (ddof 0), above 0.
        target_spread: the standard deviation that `variance_matched` stretches them to, above 0.
        full_length: characters of scored text that 95% of the reference answers do not exceed, at least 1.
        cut: the score at which error rates were taken.
        rho0: share of bad answers that score at or above the cut.
        rho1: share of good ones that score below it.
    """

    centre: float | None = None
    spread: float | None = None
    target_spread: float | None = None
    full_length: int | None = None
    cut: float | None = None
    rho0: float | None = None
    rho1: float | None = None

    def __post_init__(self) -> None:
        """Refuse what a changed record may hold.

        Raises:
            UserError: a number that is none, or a spread or length that is not above 0.
        """
        for name, value in asdict(self).items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UserError(f"measured.{name} must be a finite number or null, found {value!r}")
            if name in ("spread", "target_spread", "full_length") and value <= 0:
                raise UserError(f"measured.{name} must be above 0, found {value}")


def measured_spread(scores: Floats) -> tuple[float | None, float | None]:
    """Mean and standard deviation of scores, shape (N,); None for both where there is no spread."""
    if len(scores) == 0 or not float(np.std(scores)) > 0:
        return None, None
    return float(np.mean(scores)), float(np.std(scores))


def measured_length(lengths: Sequence[int]) -> int | None:
    """The length that 95% do not exceed, at least 1; None of nothing."""
    return max(1, int(np.quantile(np.array(lengths), LONGEST, method="higher"))) if lengths else None


def best_cut(scores: Floats, good: NDArray[np.bool_]) -> float | None:
    """The cut with the largest J = 1 - rho0 - rho1 among quantiles of the scores, shape (N,) each; the lowest of equal
    ones, and None without good or without bad answers."""
    if good.all() or not good.any():
        return None
    cuts = np.unique(np.quantile(scores, CUTS).round(DIGITS))
    above = scores >= cuts[:, None]
    return float(cuts[np.argmax(above[:, good].mean(axis=1) - above[:, ~good].mean(axis=1))])


def error_rates(scores: Floats, good: NDArray[np.bool_], cut: float) -> tuple[float | None, float | None]:
    """rho0 and rho1 of scores cut to 0 or 1, shape (N,) each; None without a bad, or a good, answer."""
    above = scores >= cut
    return (
        None if good.all() else float(above[~good].mean()),
        None if not good.any() else float((~above[good]).mean()),
    )


def constants_of(rung: str, settings: CalibrationTable, measured: Measured) -> RuleInputs:
    """What the rule of a table reads besides the response; what the table gives comes before what was measured.

    Raises:
        UserError: it was neither given nor could be measured, or error rates leave nothing to correct.
    """
    given = RuleInputs(0.0, threshold=settings.threshold, alpha=settings.alpha or 0.0)
    if settings.rule == "length" and settings.full_length is None and measured.full_length is None:
        raise _unknown(rung, settings, "how long a text is", "give calibration.full_length")
    if settings.rule == "variance_matched":
        target = measured.target_spread if settings.spread is None else settings.spread
        if measured.centre is None or measured.spread is None or target is None:
            raise _unknown(rung, settings, "how far scores spread", "choose another rule")
        return replace(given, centre=measured.centre, stretch=target / measured.spread)
    if settings.rule == "noise_corrected":
        rates = (settings.cut or settings.threshold, settings.rho0, settings.rho1)
        if settings.rho0 is None and settings.cut in (None, measured.cut):
            rates = (measured.cut or 0.0, measured.rho0, measured.rho1)
        cut, rho0, rho1 = rates
        if rho0 is None or rho1 is None:
            remedy = "give calibration.rho0 and calibration.rho1"
            raise _unknown(rung, settings, "how often a score is wrong", remedy)
        try:
            corrected(0.0, rho0, rho1)
        except ValueError as error:
            raise UserError(
                f"rung {rung}: {error} where its score is cut at {cut:g}, so that nothing can be corrected; choose "
                "another calibration.cut or rule"
            ) from None
        return replace(given, threshold=cut, rho0=rho0, rho1=rho1)
    return given


def _unknown(rung: str, settings: CalibrationTable, what: str, remedy: str) -> UserError:
    return UserError(
        f"rung {rung}: rule {settings.rule} needs to know {what}, and the answers beside the rung do not tell; {remedy}"
    )
