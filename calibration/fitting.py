"""Fit maps from logits to scores on labelled data, pooled or a domain each, with intervals; measure across prompts.

Temperature, Platt and beta are logistic regressions on one, two and three features. Their targets are Platt's (1999,
section 2.2), (N+ + 1) / (N+ + 2) for good and 1 / (N- + 2) for bad answers in the place of 1 and 0, so that separable
data give finite parameters. Intervals are Wald's, errors clustered by prompt (sandwich; t with prompts - 1 degrees).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import t as student

from calibration.labelled_logits import LabelledLogits, are_equal, folds_of
from calibration.maps import Beta, ByDomain, Identity, Isotonic, Platt, Quantile, Reference, ScoreMap, Temperature
from calibration.measures import Estimate
from configs.errors import UserError
from rm.measures import LEVEL, SCALE_BOUNDS, sigmoid

Floats = NDArray[np.float64]
Kind = Literal["identity", "temperature", "platt", "beta", "isotonic", "quantile", "reference"]
KINDS: tuple[Kind, ...] = ("identity", "temperature", "platt", "beta", "isotonic", "quantile", "reference")
PAIR_KINDS: tuple[Kind, ...] = ("identity", "temperature", "isotonic", "reference")
"""Kinds that give the chance of a pair; the others have an intercept, which swapping the answers would turn over."""
MAX_REFERENCES = 256
"""A reference map holds at most this many reference logits, evenly spaced in rank."""
LEAST_SLOPE, MOST_SLOPE = SCALE_BOUNDS
"""Bounds of slopes, for logits divided by their spread."""


@dataclass(frozen=True)
class Fit:
    """A fitted map.

    Attributes:
        link: what is measured: it maps `LabelledLogits.logits`, of pairs therefore differences.
        answer_map: maps the logit of one answer; for pairs it may be another record than the link. None where a fit on
            pairs says nothing of single answers.
        parameters: named estimates with their intervals (None at a bound, and where a kind has none).
        at_bound: whether a slope is the least or largest allowed: the logits say next to nothing, or the reverse of the
            labels; or they separate them.
    """

    link: ScoreMap
    answer_map: ScoreMap | None
    parameters: dict[str, Estimate]
    at_bound: bool = False


def fit(kind: Kind, data: LabelledLogits, centre: float | None = 0.0) -> Fit:
    """Fit one map on all of the data.

    Args:
        kind: which.
        data: of single answers, with good and bad ones among them; or of pairs, for kinds of `PAIR_KINDS`.
        centre: of the temperature map for single answers, in logits; None and for pairs the median logit, so that a
            typical answer scores 0.5.

    Raises:
        UserError: the kind has no meaning for pairs.
    """
    if data.pairs and kind not in PAIR_KINDS:
        raise UserError(
            f"fit: kind {kind} gives no chance that one answer of a pair is preferred; choose {', '.join(PAIR_KINDS)}"
        )
    return FITTERS[kind](data, centre)


def fit_by_domain(
    kind: Kind, data: LabelledLogits, least: int, centre: float | None = 0.0
) -> tuple[Fit, dict[str, Fit], dict[str, int]]:
    """A map for each domain with at least `least` cases and both labels, and a pooled one for all others.

    Returns:
        The pooled fit with the maps of domains bound in, the fits of single domains, and how many cases each domain
        has that takes the pooled map.
    """
    pooled = fit(kind, data, centre)
    own: dict[str, Fit] = {}
    others: dict[str, int] = {}
    sizes = Counter(domain for domain in data.domains if domain is not None)
    for name in sorted(sizes):
        if sizes[name] < least * (2 if data.pairs else 1):  # a file may name a domain for every row
            others[name] = sizes[name] // (2 if data.pairs else 1)
            continue
        mine = data.in_domain(name)
        enough = np.ptp(mine.labels) > 0 and not are_equal(mine.logits)
        if enough:
            own[name] = fit(kind, mine, centre)
        else:
            others[name] = mine.n
    if not own:
        return pooled, own, others
    links = ByDomain.model_validate({"own": {k: v.link for k, v in own.items()}, "pooled": pooled.link})
    answers = None
    if pooled.answer_map is not None:
        answers = ByDomain.model_validate(
            {"own": {k: v.answer_map for k, v in own.items()}, "pooled": pooled.answer_map}
        )
    return Fit(links, answers, pooled.parameters, pooled.at_bound or any(v.at_bound for v in own.values())), own, others


def linked_scores(fitted: Fit, data: LabelledLogits) -> Floats:
    """The scores that a fit gives the cases of `data`, shape (N,)."""
    if isinstance(fitted.link, ByDomain):
        return fitted.link.scores(data.logits, data.domains)
    return fitted.link.scores(data.logits)


def cross_fitted(fit_on: Callable[[LabelledLogits], Fit], data: LabelledLogits, folds: int, seed: int) -> Floats:
    """The score of every case by a map fitted on the other folds, shape (N,); folds are of whole prompts.

    Raises:
        UserError: there are fewer prompts than folds, or the rest of a fold lacks good or bad answers.
    """
    n_prompts = len(set(data.prompts))
    if n_prompts < folds:
        raise UserError(f"fit: {folds} folds need as many prompts, found {n_prompts}; set folds={max(2, n_prompts)}")
    fold = folds_of(data.prompts, folds, seed)
    found = np.full(len(data), np.nan)
    for number in range(folds):
        part = data.take(fold != number)
        check_part(part, f"without fold {number + 1} of {folds}")
        found[fold == number] = linked_scores(fit_on(part), data.take(fold == number))
    return found


def check_part(part: LabelledLogits, what: str) -> None:
    """Refuse to fit on a part of the data with one label or one logit.

    Raises:
        UserError: it has.
    """
    if len(part) == 0 or np.ptp(part.labels) == 0 or are_equal(part.logits):
        raise UserError(
            f"fit: the {part.n} cases {what} have one label or one logit; too few to fit on one part "
            "and measure on another"
        )


@dataclass(frozen=True)
class _Regression:
    """Coefficients of a logistic regression, shape (K,), their covariance (K, K), and whether one is at its bound."""

    beta: Floats
    covariance: Floats
    at_bound: bool
    data: LabelledLogits

    def estimate(self, value: float, gradient: Sequence[float]) -> Estimate:
        """A function of the coefficients with its Wald interval (delta method); none at a bound."""
        if self.at_bound:
            return {"estimate": value, "lo": None, "hi": None, "n": self.data.n}
        g = np.array(gradient)
        degrees = max(1, len(set(self.data.prompts)) - 1)
        half = float(student.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(max(0.0, g @ self.covariance @ g)))
        return {"estimate": value, "lo": value - half, "hi": value + half, "n": self.data.n}


def _regress(
    features: Floats, data: LabelledLogits, bounds: Sequence[tuple[float | None, float | None]]
) -> _Regression:
    """The most likely coefficients of sigmoid(features @ beta) within bounds; features have shape (N, K)."""
    good = float((data.weights * data.labels).sum())
    bad = float((data.weights * (1 - data.labels)).sum())
    # mixed as labels are, so that soft labels are drawn in alike
    targets = data.labels * (good + 1) / (good + 2) + (1 - data.labels) / (bad + 2)
    weights = data.weights

    def loss(beta: Floats) -> tuple[float, Floats]:
        z = features @ beta
        value = (weights * (np.logaddexp(0.0, z) - targets * z)).sum()
        return float(value / weights.sum()), features.T @ (weights * (sigmoid(z) - targets)) / weights.sum()

    start = np.array([1.0 if low is not None else 0.0 for low, _ in bounds])
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500}
    ).x
    near = [
        (low is not None and b <= low * (1 + 1e-6) + 1e-12) or (high is not None and b >= high * (1 - 1e-6))
        for b, (low, high) in zip(found, bounds, strict=True)
    ]
    return _Regression(found, _sandwich(features, targets, data, found), any(near), data)


def _sandwich(features: Floats, targets: Floats, data: LabelledLogits, beta: Floats) -> Floats:
    """Covariance of the coefficients with errors clustered by prompt (Liang and Zeger 1986)."""
    p = sigmoid(features @ beta)
    bread = np.linalg.pinv(features.T @ (features * (data.weights * p * (1 - p))[:, None]))
    numbers = {name: i for i, name in enumerate(dict.fromkeys(data.prompts))}
    index = np.array([numbers[name] for name in data.prompts])
    # residuals of labels, not of targets: the pull of the targets is no noise
    pulls = np.zeros((len(numbers), features.shape[1]))
    np.add.at(pulls, index, features * (data.weights * (data.labels - p))[:, None])
    correction = len(numbers) / max(1, len(numbers) - 1)
    return correction * bread @ (pulls.T @ pulls) @ bread


def _identity(data: LabelledLogits, centre: float | None) -> Fit:
    return Fit(Identity(), Identity(), {})


def _temperature(data: LabelledLogits, centre: float | None) -> Fit:
    median = float(np.median(data.own))
    zero = 0.0 if data.pairs else median if centre is None else centre
    spread = float(np.sqrt(((data.logits - zero) ** 2).mean()))
    found = _regress(((data.logits - zero) / spread)[:, None], data, [(LEAST_SLOPE, MOST_SLOPE)])
    slope = float(found.beta[0]) / spread
    parameters = {
        "slope": found.estimate(slope, [1 / spread]),
        "temperature": found.estimate(1 / slope, [-1 / (slope**2 * spread)]),
    }
    link = Temperature(centre=zero, temperature=1 / slope)
    answers = Temperature(centre=median, temperature=1 / slope) if data.pairs else link
    return Fit(link, answers, parameters, found.at_bound)


def _platt(data: LabelledLogits, centre: float | None) -> Fit:
    middle, spread = float(data.logits.mean()), float(data.logits.std())
    x = (data.logits - middle) / spread
    found = _regress(np.stack([x, np.ones_like(x)], axis=1), data, [(LEAST_SLOPE, MOST_SLOPE), (None, None)])
    a, b = map(float, found.beta)
    slope, intercept = a / spread, b - a * middle / spread
    parameters = {
        "slope": found.estimate(slope, [1 / spread, 0.0]),
        "intercept": found.estimate(intercept, [-middle / spread, 1.0]),
        "temperature": found.estimate(1 / slope, [-spread / a**2, 0.0]),
        "centre": found.estimate(middle - spread * b / a, [spread * b / a**2, -spread / a]),
    }
    fitted = Platt(slope=slope, intercept=intercept)
    return Fit(fitted, fitted, parameters, found.at_bound)


def _beta(data: LabelledLogits, centre: float | None) -> Fit:
    middle, spread = float(data.logits.mean()), float(data.logits.std())
    x = (data.logits - middle) / spread
    features = np.stack([-np.logaddexp(0.0, -x), np.logaddexp(0.0, x), np.ones_like(x)], axis=1)
    found = _regress(features, data, [(0.0, MOST_SLOPE), (0.0, MOST_SLOPE), (None, None)])
    a, b, c = map(float, found.beta)
    if a + b < LEAST_SLOPE:
        a = b = LEAST_SLOPE / 2
    parameters = {name: found.estimate(v, g.tolist()) for name, v, g in zip("abc", (a, b, c), np.eye(3), strict=True)}
    for name in "ab":
        low = parameters[name]["lo"]
        parameters[name]["lo"] = None if low is None else max(0.0, low)
    fitted = Beta(a=a, b=b, c=c, centre=middle, spread=spread)
    return Fit(fitted, fitted, parameters, found.at_bound)


def _isotonic(data: LabelledLogits, centre: float | None) -> Fit:
    from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    regression.fit(data.logits, data.labels, sample_weight=data.weights)
    fitted = Isotonic(
        logits=tuple(regression.X_thresholds_.tolist()),
        values=tuple(np.clip(regression.y_thresholds_, 0, 1).tolist()),
        tilt=1 / (data.n + 2),
        centre=0.0 if data.pairs else float(np.median(data.logits)),
        spread=float(data.logits.std()),
    )
    return Fit(fitted, None if data.pairs else fitted, {})


def _quantile(data: LabelledLogits, centre: float | None) -> Fit:
    fitted = Quantile.of(data.own)
    return Fit(fitted, fitted, {})


def _reference(data: LabelledLogits, centre: float | None) -> Fit:
    """The scale of pairs is one over the temperature; that of single answers is Platt's slope a.

    Where good is sigmoid(a x + b) and one of two answers is good, it is the first with chance sigmoid(a (x1 - x2)).
    """
    scaled = _temperature(data, centre) if data.pairs else _platt(data, centre)
    scale = scaled.parameters["slope"]
    assert scale["estimate"] is not None
    fitted = Reference(scale=scale["estimate"], references=references_of(data.own))
    return Fit(scaled.link if data.pairs else fitted, fitted, {"scale": scale}, scaled.at_bound)


def references_of(logits: Floats) -> tuple[float, ...]:
    """The logits that a reference map holds of a reference set, shape (N,) with N at least 1, rising."""
    ranked = np.sort(logits)
    kept = np.unique(np.linspace(0, len(ranked) - 1, min(len(ranked), MAX_REFERENCES)).round().astype(int))
    return tuple(ranked[kept].tolist())


FITTERS: dict[Kind, Callable[[LabelledLogits, float | None], Fit]] = {
    "identity": _identity,
    "temperature": _temperature,
    "platt": _platt,
    "beta": _beta,
    "isotonic": _isotonic,
    "quantile": _quantile,
    "reference": _reference,
}
