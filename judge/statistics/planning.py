"""How many prompts and seeds show a difference of a given size, and how small a difference given numbers show.

The difference d_sp of two conditions on prompt p under seed s is mu + A_s + B_p + E_sp. With S seeds and P prompts its
mean has the variance var(A)/S + var(B)/P + var(E)/(SP): more prompts do not help against the seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit

from judge.statistics.bootstrap import Floats

POWER = 0.8
MOST_PROMPTS = 10_000_000


@dataclass(frozen=True)
class Components:
    """Standard deviations of a difference: between seeds, between prompts, and what is left."""

    seed: float
    prompt: float
    rest: float

    def variance(self, n_prompts: int, n_seeds: int) -> float:
        """Of the mean over so many prompts and seeds."""
        return self.seed**2 / n_seeds + self.prompt**2 / n_prompts + self.rest**2 / (n_prompts * n_seeds)


def components_of(values_SP: Floats) -> Components:
    """Variance components of a two-way table without replication, by the method of moments (Searle 1992, section 4.3).

    Args:
        values_SP: the difference under each seed on each prompt, shape (S, P); with one seed, nothing is known of
            seeds, and all variance stands under `prompt`. Negative components are 0.

    Raises:
        ValueError: fewer than two prompts.
    """
    n_seeds, n_prompts = values_SP.shape
    if n_prompts < 2:
        raise ValueError("a spread between prompts needs two of them")
    if n_seeds == 1:
        return Components(0.0, float(values_SP[0].std(ddof=1)), 0.0)
    mean = values_SP.mean()
    by_seed, by_prompt = values_SP.mean(axis=1), values_SP.mean(axis=0)
    rest = values_SP - by_seed[:, None] - by_prompt[None, :] + mean
    ms_rest = (rest**2).sum() / ((n_seeds - 1) * (n_prompts - 1))
    ms_seed = n_prompts * ((by_seed - mean) ** 2).sum() / (n_seeds - 1)
    ms_prompt = n_seeds * ((by_prompt - mean) ** 2).sum() / (n_prompts - 1)
    seed, prompt = max(0.0, (ms_seed - ms_rest) / n_prompts), max(0.0, (ms_prompt - ms_rest) / n_seeds)
    return Components(math.sqrt(seed), math.sqrt(prompt), math.sqrt(ms_rest))


def sd_of_outcomes(win: float, tie: float) -> float:
    """Standard deviation of one outcome that is 1 with chance `win`, 0.5 with `tie`, else 0."""
    mean = win + tie / 2
    return math.sqrt(max(0.0, win + tie / 4 - mean**2))


def smallest_effect(error: float, alpha: float, power: float, df: float = math.inf) -> float:
    """The difference that a two-sided test at `alpha` finds with chance `power`: (t_{1-alpha/2} + t_power) error.

    Args:
        error: standard error of the difference.
        alpha: of the test, divided by the number of tests where several are made.
        power: chance to find it.
        df: degrees of freedom behind the error.
    """
    return (_quantile(1 - alpha / 2, df) + _quantile(power, df)) * error


def smallest_difference(parts: Components, n_prompts: int, n_seeds: int, alpha: float, power: float) -> float | None:
    """The smallest difference that so many prompts and seeds show; None for one seed where seeds differ.

    The degrees of freedom are Satterthwaite's (1946), of the parts of seeds (S - 1), prompts (P - 1) and the rest.
    Where more prompts would only shift the weight to the few seeds, the figure is that of the best smaller number:
    nobody has to use all prompts.
    """
    if parts.seed > 0 and n_seeds < 2:
        return None
    low, high = min(2, n_prompts), n_prompts  # the figure falls up to some number of prompts and rises from there on
    while high - low > 1:
        middle = (low + high) // 2
        falls = _smallest(parts, middle, n_seeds, alpha, power) >= _smallest(parts, middle + 1, n_seeds, alpha, power)
        low, high = (middle, high) if falls else (low, middle)
    return min(_smallest(parts, n, n_seeds, alpha, power) for n in (low, high))


def _smallest(parts: Components, n_prompts: int, n_seeds: int, alpha: float, power: float) -> float:
    variance = parts.variance(n_prompts, n_seeds)
    if variance == 0:
        return 0.0
    shares = (
        (parts.seed**2 / n_seeds, n_seeds - 1),
        (parts.prompt**2 / n_prompts, n_prompts - 1),
        (parts.rest**2 / (n_prompts * n_seeds), (n_prompts - 1) * max(1, n_seeds - 1)),
    )
    df = variance**2 / sum(share**2 / max(1, degrees) for share, degrees in shares)
    return smallest_effect(math.sqrt(variance), alpha, power, df)


def prompts_needed(difference: float, parts: Components, n_seeds: int, alpha: float, power: float) -> int | None:
    """The fewest prompts that show a difference with so many seeds; None where no number of prompts does."""

    def shows(n_prompts: int) -> bool:
        smallest = smallest_difference(parts, n_prompts, n_seeds, alpha, power)
        return smallest is not None and smallest <= difference

    if not shows(MOST_PROMPTS):
        return None
    low, high = 1, MOST_PROMPTS  # one prompt has no spread and shows nothing
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def _quantile(mass: float, df: float) -> float:
    return float(stdtrit(df, mass)) if np.isfinite(df) else NormalDist().inv_cdf(mass)
