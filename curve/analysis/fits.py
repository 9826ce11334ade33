"""Quality against the accuracy of the reward model: line, knee and gradual bend, with an interval for the knee.

    line        q = p + b x
    knee        q = p + b min(x - k, 0)           rises to a plateau p and stays there from the accuracy k on
    gradual     q = p - b exp(-(x - x_1) / s)     rises to a plateau without a corner
    monotone    q never falls                     isotonic regression, tested against the points as they are

Each of the first three is a regression on one regressor h with at most one parameter on a grid, so many data sets are
fitted at once. A unit is one reward model: its accuracy has an error, and its quality is the mean over policy seeds.
Weights are 1 / (se_y^2 + tau^2 + (b se_x)^2 below the knee), the effective variance of a fit with errors on both axes
(York et al. 2004, American Journal of Physics 72, 367), with a scatter tau beyond the errors (DerSimonian and Laird
1986), because reward models of one accuracy are not of one quality.

The knee's interval holds every k whose F statistic against the best one is below the 95% quantile of that statistic
over data sets drawn from the fitted curve with new errors on both axes: a likelihood ratio calibrated by parametric
bootstrap (Davison and Hinkley 1997, section 5.4). The line is tested against the knee likewise, on draws from the line.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import ndtr

from judge.statistics import LEVEL, Floats

FEWEST_UNITS = 5
"""Reward models below which a knee and a line are not told apart: a knee has three parameters and a scatter."""
RESAMPLES = 999
GRID = 100
"""Knees, and lengths of a bend, that are tried."""
ROUNDS = 3
"""Fits with weights made from the fit before; more change nothing that matters."""
SMALLEST_ERROR = 1e-3
"""Added in quadrature to each error of y, so that a rate of exactly 1 has no infinite weight."""
ROUNDING = 1e-12

Shape = Literal["line", "knee", "gradual"]


class Units(NamedTuple):
    """Accuracy and quality of each reward model with standard errors, each of shape (N,), all in 0..1."""

    x: Floats
    x_se: Floats
    y: Floats
    y_se: Floats


class Regression(NamedTuple):
    """Residual sums of squares, levels and slopes, each of shape (B, K): a data set, a value of the grid."""

    rss: Floats
    level: Floats
    slope: Floats


@dataclass(frozen=True)
class Model:
    """How well one shape fits: weighted residual sum of squares, and AICc (smaller is better; None for too few)."""

    shape: str
    n_parameters: int
    rss: float
    aicc: float | None


@dataclass(frozen=True)
class Knee:
    """The corner of a curve.

    Attributes:
        identified: told from a line, risen to, and with an interval inside the accuracies measured.
        knee, lo, hi: the accuracy from which on quality stays, with its 95% interval.
        open_below, open_above: whether the interval goes on beyond what was measured.
        plateau, slope: quality from the knee on, and its rise per unit of accuracy below.
        p_line: of the test of the line against the knee.
        scatter: standard deviation between reward models of one accuracy, beyond the errors.
        models: the shapes beside each other.
    """

    identified: bool
    knee: float
    lo: float
    hi: float
    open_below: bool
    open_above: bool
    plateau: float
    slope: float
    p_line: float
    scatter: float
    models: tuple[Model, ...]


def basis(shape: Shape, x_BN: Floats, grid_K: Floats) -> Floats:
    """The regressor h of a shape at every value of its grid, (B, N) -> (B, K, N); a line has no grid, so K is 1."""
    x = x_BN[:, None, :]
    if shape == "knee":
        return np.minimum(x - grid_K[:, None], 0.0)
    if shape == "gradual":
        return -np.exp(-(x - x.min(axis=-1, keepdims=True)) / grid_K[:, None])
    return x


def regress(h_BKN: Floats, y_BN: Floats, w_N: Floats) -> Regression:
    """Weighted least squares of y = level + slope h for every data set and every value of the grid."""
    share = w_N / w_N.sum()
    h_mean = h_BKN @ share
    y_centred = y_BN - (y_BN @ share)[:, None]
    spread = np.maximum(np.einsum("bkn,bkn,n->bk", h_BKN, h_BKN, share) - h_mean**2, 0.0)
    both = (h_BKN @ (share * y_centred)[:, :, None])[:, :, 0]
    slope = np.divide(both, spread, out=np.zeros_like(both), where=spread > ROUNDING)
    rss = np.maximum(((y_centred**2) @ share)[:, None] - slope * both, ROUNDING) * w_N.sum()
    return Regression(rss, (y_BN @ share)[:, None] - slope * h_mean, slope)


def find_knee(units: Units, rng: np.random.Generator, resamples: int = RESAMPLES) -> Knee:
    """Fit the knee, its interval, and the test against a line.

    Args:
        units: of at least `FEWEST_UNITS` reward models of at least four different accuracies.
        rng: a keyed generator.
        resamples: data sets drawn from the knee, and as many from the line.

    Raises:
        ValueError: fewer units or accuracies.
    """
    order = np.argsort(units.x, kind="stable")
    x, x_se, y, y_se = (part[order] for part in units)
    if len(x) < FEWEST_UNITS or len(np.unique(x)) < 4:
        raise ValueError(f"a knee needs {FEWEST_UNITS} reward models of at least four accuracies, found {len(x)}")
    knees = np.linspace(x[0], x[-1], GRID + 1)[1:]
    own = y_se**2 + SMALLEST_ERROR**2
    w, scatter2 = _weights("knee", x, x_se, y, own, knees)
    found = regress(basis("knee", x[None], knees), y[None], w)
    best = int(found.rss[0].argmin())
    knee, plateau, slope = float(knees[best]), float(found.level[0, best]), float(found.slope[0, best])

    def drawn(curve: Floats, beyond2: float) -> tuple[Floats, Floats]:
        shape = (resamples, len(x))
        noise = np.sqrt(own + beyond2)
        return x + x_se * rng.standard_normal(shape), curve + noise * rng.standard_normal(shape)

    x_BN, y_BN = drawn(plateau + slope * np.minimum(x - knee, 0.0), scatter2)
    drawn_rss = regress(basis("knee", x_BN, knees), y_BN, w).rss
    smallest = drawn_rss.min(axis=1)
    limit = float(np.quantile((drawn_rss[:, best] - smallest) / smallest, LEVEL))
    lo, hi = _crossings(knees, found.rss[0] / found.rss[0, best] - 1, limit)
    # The weights of the knee favour it above its own corner, so the line is tested with those of the line.
    w_line, line_scatter2 = _weights("line", x, x_se, y, own, knees)
    line = regress(basis("line", x[None], knees), y[None], w_line)
    observed = line.rss[0, 0] / regress(basis("knee", x[None], knees), y[None], w_line).rss.min()
    x_BN, y_BN = drawn(line.level[0, 0] + line.slope[0, 0] * x, line_scatter2)
    knee_rss = regress(basis("knee", x_BN, knees), y_BN, w_line).rss.min(axis=1)
    ratios = regress(basis("line", x_BN, knees), y_BN, w_line).rss[:, 0] / knee_rss
    p_line = (1 + int((ratios >= observed - ROUNDING).sum())) / (1 + resamples)
    open_below, open_above = lo <= x[1], hi >= knees[-1] - ROUNDING
    bends = regress(basis("gradual", x[None], (x[-1] - x[0]) * np.geomspace(0.05, 5.0, GRID)), y[None], w)
    return Knee(
        identified=p_line < 1 - LEVEL and slope > 0 and not open_below and not open_above,
        knee=knee,
        lo=lo,
        hi=hi,
        open_below=bool(open_below),
        open_above=bool(open_above),
        plateau=plateau,
        slope=slope,
        p_line=p_line,
        scatter=math.sqrt(scatter2),
        models=(
            _model("line", 2, float(regress(basis("line", x[None], knees), y[None], w).rss[0, 0]), len(x)),
            _model("knee", 3, float(found.rss[0, best]), len(x)),
            _model("gradual", 3, float(bends.rss.min()), len(x)),
        ),
    )


def monotone(units: Units, rng: np.random.Generator, resamples: int = RESAMPLES) -> tuple[Floats, float]:
    """The best curve that never falls, in the order of accuracy, and how well the points agree with one.

    The p-value is the share of data sets, drawn from that curve with the errors of y, that are as far from their own
    best curve: small where quality falls from some reward model to a more accurate one by more than its errors.
    """
    order = np.argsort(units.x, kind="stable")
    y, noise = units.y[order], np.sqrt(units.y_se[order] ** 2 + SMALLEST_ERROR**2)
    w = 1 / noise**2

    def misfit(y_N: Floats) -> tuple[Floats, float]:
        curve: Floats = np.asarray(isotonic_regression(y_N, weights=w).x, dtype=np.float64)
        return curve, float((w * (y_N - curve) ** 2).sum())

    curve, observed = misfit(y)
    drawn = curve + noise * rng.standard_normal((resamples, len(y)))
    return curve, (1 + sum(misfit(row)[1] >= observed - ROUNDING for row in drawn)) / (1 + resamples)


def fit_record(units: Units, rng: np.random.Generator, resamples: int = RESAMPLES) -> dict[str, Any]:
    """All that one curve shows, as plain JSON, with a plain `sentence`; without a knee where there are too few units.

    Args:
        units: reward models, in any order.
        rng: a keyed generator.
        resamples: of each bootstrap.
    """
    n = len(units.x)
    record: dict[str, Any] = {
        "n_reward_models": n,
        "accuracy_from": float(units.x.min()) if n else None,
        "accuracy_to": float(units.x.max()) if n else None,
        "p_monotone": monotone(units, rng, resamples)[1] if n > 1 else None,
    }
    if n < FEWEST_UNITS or len(np.unique(units.x)) < 4:
        why = f"{n} reward models stand behind this curve, and a knee needs {FEWEST_UNITS}, of at least four accuracies"
        return record | {"identified": False, "status": "too_few", "sentence": f"Knee not identified: {why}."}
    knee = find_knee(units, rng, resamples)
    record |= asdict(knee) | {"status": "identified" if knee.identified else "not_identified"}
    sentence = _sentence(knee)
    if record["p_monotone"] < 1 - LEVEL:
        sentence += (
            f" Quality falls from some reward model to a more accurate one by more than the errors of quality explain "
            f"(p = {record['p_monotone']:.3f})."
        )
    return record | {"sentence": sentence}


def _sentence(knee: Knee) -> str:
    if knee.identified:
        aicc = {model.shape: model.aicc for model in knee.models}
        gradual = ""
        if aicc["knee"] is not None and aicc["gradual"] is not None:
            better = aicc["knee"] - aicc["gradual"]
            fits = "fits better" if better > 2 else "fits worse" if better < -2 else "fits as well"
            gradual = f" A gradual bend {fits} (AICc {aicc['gradual']:.1f} against {aicc['knee']:.1f})."
        return (
            f"Quality rises up to an accuracy of {knee.knee:.3f} [{knee.lo:.3f}, {knee.hi:.3f}] and stays near "
            f"{knee.plateau:.3f} from there on; a straight line is rejected (p = {knee.p_line:.3f}).{gradual}"
        )
    if knee.p_line >= 1 - LEVEL:
        why = f"a straight line explains the points as well (p = {knee.p_line:.3f})"
    elif knee.slope <= 0:
        why = "quality does not rise with accuracy below the best-fitting corner"
    else:
        sides = [name for name, is_open in (("below", knee.open_below), ("above", knee.open_above)) if is_open]
        why = f"the curve bends, but the interval of its knee is open {' and '.join(sides)}"
    return f"Knee not identified: {why}."


def _weights(shape: Shape, x: Floats, x_se: Floats, y: Floats, own: Floats, knees: Floats) -> tuple[Floats, float]:
    """Weights by effective variance, and the squared scatter beyond the errors (moments, as DerSimonian and Laird)."""
    h, degrees = basis(shape, x[None], knees), len(x) - (3 if shape == "knee" else 2)
    errors2, scatter2 = own, 0.0
    for _ in range(ROUNDS):
        found = regress(h, y[None], 1 / (errors2 + scatter2))
        best = int(found.rss[0].argmin())
        rises = ndtr((knees[best] - x) / np.maximum(x_se, SMALLEST_ERROR)) if shape == "knee" else np.ones(len(x))
        errors2 = own + (found.slope[0, best] * x_se) ** 2 * rises
        w = 1 / errors2
        rss = float(regress(h, y[None], w).rss.min())
        scatter2 = max(0.0, (rss - degrees) / (w.sum() * degrees / len(x)))
    return 1 / (errors2 + scatter2), scatter2


def _crossings(knees: Floats, excess: Floats, limit: float) -> tuple[float, float]:
    """The outermost knees whose excess is within the limit, moved out to where it crosses the limit."""
    within = np.flatnonzero(excess <= limit)
    bounds = []
    for place, step in ((within[0], -1), (within[-1], 1)):
        beyond = place + step
        if not 0 <= beyond < len(knees):
            bounds.append(float(knees[place]))
            continue
        share = (limit - excess[place]) / (excess[beyond] - excess[place])
        bounds.append(float(knees[place] + share * (knees[beyond] - knees[place])))
    return bounds[0], bounds[1]


def _model(shape: Shape, n_parameters: int, rss: float, n: int) -> Model:
    """AICc = n ln(RSS/n) + 2 p n / (n - p - 1) with p the parameters and the variance (Hurvich and Tsai 1989)."""
    p = n_parameters + 1
    aicc = n * math.log(rss / n) + 2 * p * n / (n - p - 1) if n > p + 1 else None
    return Model(shape, n_parameters, rss, aicc)
