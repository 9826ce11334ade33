"""What a judgement says in sum: the record of `summary.json`, and the table that is printed of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.terminal import interval, say, show_table
from judge.answers import Pair
from judge.config import GOLD_MODEL, JudgeTable
from judge.equal_length import equal_length_record
from judge.prompting import count_attempts
from judge.statistics import Estimate, cluster_bootstrap, compare, order_effects, wilson
from judge.verdicts import Outcome, Verdict

DIGITS = 12
"""Results are rounded to so many decimals, so that another BLAS writes the same bytes."""
SETTLED = ("identical", "forfeit", "both_malformed")
"""Statuses of verdicts that needed no judge."""
WITHOUT_VERDICT = ("unreadable", "refused", "truncated", "rejected")
"""Statuses of replies that hold no verdict, which asking again would not mend."""
FEW = 20
"""So many replies without a verdict, and none with one, condemn a judge even where other pairs needed none."""
LEAST_CONSISTENCY = 0.8
"""A judge that names the same winner in both orders less often is warned of."""
REPLY_LENGTH = 120
"""Characters of a reply that are shown."""


def summarise(
    cell: str,
    table: JudgeTable,
    seed: int,
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
    outcomes: Sequence[Outcome],
    n_unpaired: int = 0,
) -> dict[str, Any]:
    """The record of `summary.json`. The generators are keyed without the cell, so cells share their resamples."""
    comparison = compare(outcomes, keyed_rng(seed, "judge bootstrap"), table.resamples)
    # People rate a pair in one order, and both verdicts are taken from it: they tell nothing of the order.
    ordered = [] if table.kind == "people" else verdicts
    orders = order_effects(ordered, keyed_rng(seed, "judge bootstrap", "orders"), table.resamples)
    columns: list[list[float | None]] = [
        [pair.a.gold for pair in pairs],
        [pair.b.gold for pair in pairs],
        [None if pair.a.gold is None or pair.b.gold is None else pair.a.gold - pair.b.gold for pair in pairs],
        [pair.a.n_tokens for pair in pairs],
        [pair.b.n_tokens for pair in pairs],
    ]
    clusters = [pair.prompt.prompt_id for pair in pairs]
    gold, gold_baseline, gold_gain, length, length_baseline = cluster_bootstrap(
        columns, clusters, keyed_rng(seed, "judge bootstrap"), table.resamples
    )
    length_record = equal_length_record(pairs, outcomes, keyed_rng(seed, "judge bootstrap"), table.resamples)
    usage: Counter[str] = Counter()
    for verdict in {verdict.request: verdict for verdict in verdicts if verdict.request}.values():
        usage.update(verdict.usage or {})
    return {
        "cell": cell,
        "baseline": table.baseline,
        "judge": table.kind,
        "model": model_of(table),
        "models_reported": sorted({verdict.model for verdict in verdicts if verdict.model}),
        **_flat("quality", comparison.quality),
        "n_prompts": comparison.n_prompts,
        "n_pairs": comparison.n_pairs,
        "n_missing": comparison.n_missing,
        "n_unpaired": n_unpaired,
        "disagreement": table.disagreement,
        **_flat("net_win", comparison.net_win),
        "equal_length": _rounded_all(length_record),
        **_flat("win", comparison.win),
        **_flat("tie", comparison.tie),
        **_flat("lose", comparison.lose),
        "consistency": _rounded(orders.consistency),
        "n_both_orders": orders.n_both,
        "n_conflicts": orders.n_conflicts,
        "position_first": _rounded(orders.first_share),
        "position_first_lo": _rounded(orders.first_lo),
        "position_first_hi": _rounded(orders.first_hi),
        "n_decisive": orders.n_decisive,
        "verdicts": dict(sorted(Counter(verdict.status for verdict in verdicts).items())),
        "outcomes": dict(sorted(Counter(outcome.status for outcome in outcomes).items())),
        "without_verdict": example_without_verdict(verdicts),
        **_flat("gold_mean", gold),
        **_flat("gold_mean_baseline", gold_baseline),
        **_flat("gold_gain", gold_gain),
        "n_without_gold": sum(pair.a.gold is None for pair in pairs),
        **_flat("length_mean", length),
        **_flat("length_mean_baseline", length_baseline),
        "malformed": _share([pair.a.answer is None for pair in pairs]),
        "malformed_baseline": _share([pair.b.answer is None for pair in pairs]),
        "truncated": _share([pair.a.truncated for pair in pairs]),
        "truncated_baseline": _share([pair.b.truncated for pair in pairs]),
        "n_addressing_judge": count_attempts([pair.a.answer for pair in pairs]),
        "n_addressing_judge_baseline": count_attempts([pair.b.answer for pair in pairs]),
        "tokens": dict(sorted(usage.items())),
    }


def model_of(table: JudgeTable) -> str:
    """Who judges, in one word."""
    if table.kind == "rung" and table.rung is not None:
        return Path(table.rung).name
    return {"openai": table.model, "people": "people"}.get(table.kind, GOLD_MODEL)


def show_summaries(title: str, summaries: Sequence[dict[str, Any]]) -> None:
    """Print one row a summary."""
    rows = [
        (
            summary["cell"],
            interval(summary["quality"], summary["quality_lo"], summary["quality_hi"]),
            _at_equal_length(summary),
            interval(summary["gold_mean"], summary["gold_mean_lo"], summary["gold_mean_hi"]),
            summary["n_prompts"],
            summary["n_pairs"],
            summary["n_missing"] or None,
        )
        for summary in summaries
    ]
    columns = (
        "cell",
        "win rate, ties half [95%]",
        "at equal length [95%]",
        "gold [95%]",
        "prompts",
        "pairs",
        "missing",
    )
    show_table(title, columns, rows)
    show_table(
        "judge: shares of pairs, of those read in both orders (n), and of all answers (malformed); 95% intervals",
        ("cell", "win", "tie", "lose", "conflict", "consistent", "n", "malformed"),
        _parts(summaries),
    )
    for summary in summaries:
        for line in remarks(summary):
            say(line)


def remarks(summary: dict[str, Any]) -> list[str]:
    """What makes a judgement doubtful, one line each: verdicts that are missing, orders that disagree, lone answers."""
    lines = []
    example = summary.get("without_verdict")
    if summary["n_missing"] and example:
        counts = ", ".join(f"{n} {status}" for status, n in summary["verdicts"].items())
        lines.append(f"{summary['cell']}: verdicts: {counts}; one that is {example['status']}: {example['reply']!r}")
    consistency = summary["consistency"]
    if consistency is not None and consistency < LEAST_CONSISTENCY:
        first = summary["position_first"]
        place = "" if first is None else f"; what is shown first wins {first:.3f} of its decisive verdicts"
        lines.append(
            f"warning: {summary['cell']}: the judge names the same winner in both orders for only {consistency:.3f} of "
            f"{summary['n_both_orders']} pairs{place}: the order decides more than the answers do"
        )
    if summary.get("n_unpaired"):
        lines.append(
            f"{summary['cell']}: {summary['n_unpaired']} answers stand in the cell or in {summary['baseline']} only "
            "and are left out; the samples that both have are judged"
        )
    return lines


def example_without_verdict(verdicts: Sequence[Verdict]) -> dict[str, str] | None:
    """Status and beginning of the first reply that holds no verdict; None where each holds one."""
    found = next((verdict for verdict in verdicts if verdict.status in WITHOUT_VERDICT), None)
    if found is None:
        return None
    reply = found.raw or found.error or ""
    return {"status": found.status, "reply": reply if len(reply) <= REPLY_LENGTH else f"{reply[:REPLY_LENGTH]}…"}


def refuse_unreadable(what: str, table: JudgeTable, verdicts: Sequence[Verdict]) -> None:
    """Refuse a judgement in which the judge was asked and not one reply holds a verdict.

    A few refused replies beside pairs that needed no judge say little of the judge, and are counted as missing.

    Raises:
        UserError: with the counts and the beginning of one reply.
    """
    asked = [verdict for verdict in verdicts if verdict.status not in SETTLED]
    example = example_without_verdict(asked)
    if example is None or any(verdict.status not in WITHOUT_VERDICT for verdict in asked):
        return
    if len(asked) < FEW and len(asked) < len(verdicts):
        return
    counts = ", ".join(f"{n} {status}" for status, n in sorted(Counter(verdict.status for verdict in asked).items()))
    raise UserError(
        f"judge: {what}: not one of {len(asked)} replies holds a verdict that the prompt {table.prompt!r} allows "
        f"({counts}), for example {example['reply']!r}; the replies are kept and nothing is finished: see whether "
        "judge.prompt (and judge.prompt_file) asks for what this model writes, and whether judge.max_tokens suffices"
    )


def _parts(summaries: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Shares of each judgement: win and lose with the bootstrap's interval, all else with Wilson's over prompts."""
    rows = []
    for summary in summaries:
        win, tie, lose = _shares(summary)
        rows.append(
            (
                summary["cell"],
                interval(win, summary["win_lo"], summary["win_hi"], 2),
                _by_wilson(tie, summary["n_pairs"], summary),
                interval(lose, summary["lose_lo"], summary["lose_hi"], 2),
                _by_wilson(_conflicts(summary), summary["n_pairs"], summary),
                _by_wilson(summary["consistency"], summary["n_both_orders"], summary),
                summary["n_both_orders"],
                _by_wilson(summary["malformed"], summary["n_pairs"] + summary["n_missing"], summary),
            )
        )
    return rows


def _by_wilson(share: float | None, n: int, summary: dict[str, Any]) -> str:
    """A share of n cases with Wilson's interval, where several answers to one prompt count as one."""
    if share is None or not summary["n_pairs"]:
        return interval(share, None, None, 2)
    cases = max(1, round(n * summary["n_prompts"] / summary["n_pairs"]))
    return interval(share, *wilson(share * cases, cases), 2)


def _shares(summary: dict[str, Any]) -> list[float | None]:
    """Win, tie and lose, of which the tie holds no order conflicts: these stand beside it."""
    conflicts, tie = _conflicts(summary), summary["tie"]
    if tie is not None and conflicts is not None and summary.get("disagreement", "tie") == "tie":
        tie = max(0.0, tie - conflicts)
    return [summary["win"], tie, summary["lose"]]


def _conflicts(summary: dict[str, Any]) -> float | None:
    """The share of pairs in which the orders name opposite winners; a tie or two halves, as the table says."""
    n = summary["n_pairs"]
    return summary["outcomes"].get("conflict", 0) / n if n else None


def _at_equal_length(summary: dict[str, Any]) -> str:
    found = summary.get("equal_length")  # which judgements of earlier versions lack
    return interval(found["quality"], found["quality_lo"], found["quality_hi"]) if found else "–"


def _flat(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {
        name: _rounded(estimate.value),
        f"{name}_lo": _rounded(estimate.lo),
        f"{name}_hi": _rounded(estimate.hi),
    }


def _share(flags: Sequence[bool]) -> float | None:
    return _rounded(sum(flags) / len(flags)) if flags else None


def _rounded_all(record: dict[str, Any]) -> dict[str, Any]:
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in record.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
