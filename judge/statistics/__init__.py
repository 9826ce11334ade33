"""Rates with intervals, where a prompt and not a verdict is the unit. All functions are pure.

Both orders of a pair, and all samples of a prompt, stand or fall together, so prompts are resampled whole (paired
cluster bootstrap; Efron and Tibshirani 1993, chapter 8).

    bootstrap       means of clusters with intervals          agreement   a judge beside people, people beside people
    rates           win, tie, lose, order effects             style       the win rate at equal length and style
    differences     between cells: Holm, equivalence          ranking     strengths of many policies (Davidson)
    planning        the smallest effect that can be seen
"""

from judge.statistics.bootstrap import (
    LEVEL,
    Estimate,
    Floats,
    cluster_bootstrap,
    clustered,
    widened_at_the_edge,
    widened_where_all_agree,
    wilson,
)
from judge.statistics.rates import Comparison, OrderEffects, compare, order_effects

__all__ = [
    "LEVEL",
    "Comparison",
    "Estimate",
    "Floats",
    "OrderEffects",
    "cluster_bootstrap",
    "clustered",
    "compare",
    "order_effects",
    "widened_at_the_edge",
    "widened_where_all_agree",
    "wilson",
]
