"""The summary of a file of scores (rm.serving.scoring): how many of what status, quantiles, pair accuracy.

The file is read once, line by line. Quantiles come from counts of values rounded to four significant digits, so memory
does not grow with the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.records import read_jsonl
from configs.terminal import interval, show_table
from rm.measures import wilson

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
DIGITS = 4
STATUSES = ("ok", "malformed", "too_long", "not_finite")


def summarise(path: Path) -> dict[str, Any]:
    """The summary of a file of scores, as plain JSON.

    Of each rung: `n` answers, how many of each status, tokens of the scored ones, quantiles of logits and scores (to
    four digits; null without scored answers), and `pairs`: accuracy with its interval where both answers are scored and
    one is preferred (equal logits count half), and how many pairs had no preference or were not scored.
    """
    tallies: dict[str, dict[str, Counter[Any]]] = {}
    first: dict[str, Any] | None = None
    n = 0
    for line in read_jsonl(path):
        n += 1
        for rung, cell in line["scores"].items():
            tally = tallies.setdefault(rung, {key: Counter() for key in ("status", "logit", "score", "pair", "sum")})
            tally["status"][cell["status"]] += 1
            if cell["status"] == "ok":
                tally["sum"]["tokens"] += cell["tokens"]
                for key in ("logit", "score"):
                    tally[key][float(f"{cell[key]:.{DIGITS - 1}e}")] += 1
            if line["answer"] == 2 and first is not None:
                tally["pair"][_outcome(first, line, rung)] += 1
        first = line if line["answer"] == 1 else None
    return {"n": n, "rungs": {rung: _finish(tally) for rung, tally in tallies.items()}}


def _outcome(first: dict[str, Any], second: dict[str, Any], rung: str) -> str:
    logits = [line["scores"][rung]["logit"] for line in (first, second)]
    if first["preferred"] is None:
        return "no_preference"
    if None in logits:
        return "not_scored"
    if logits[0] == logits[1]:
        return "equal"
    return "right" if (logits[0] > logits[1]) == first["preferred"] else "wrong"


def _finish(tally: dict[str, Counter[Any]]) -> dict[str, Any]:
    pairs = tally["pair"]
    counted = pairs["right"] + pairs["wrong"] + pairs["equal"]
    found: dict[str, Any] = {
        "n": tally["status"].total(),
        "statuses": {status: tally["status"][status] for status in STATUSES},
        "tokens": tally["sum"]["tokens"],
        "logit_quantiles": _quantiles(tally["logit"]),
        "score_quantiles": _quantiles(tally["score"]),
        "pairs": None,
    }
    if pairs:
        found["pairs"] = {
            "accuracy": wilson(pairs["right"] + 0.5 * pairs["equal"], counted) if counted else None,
            "equal": pairs["equal"],
            "no_preference": pairs["no_preference"],
            "not_scored": pairs["not_scored"],
        }
    return found


def _quantiles(counts: Counter[float]) -> dict[str, float] | None:
    """The smallest value with at least a share q of all values at or below it."""
    if not counts:
        return None
    total, values = counts.total(), sorted(counts)
    found: dict[str, float] = {}
    below, place = counts[values[0]], 0
    for q in QUANTILES:
        while below < q * total:
            place += 1
            below += counts[values[place]]
        found[str(q)] = values[place]
    return found


def show_summary(path: Path, summary: dict[str, Any]) -> None:
    """Print the table of statuses and quantiles, and that of pairs where there are any."""
    rungs: dict[str, dict[str, Any]] = summary["rungs"]
    shown = ("0.05", "0.5", "0.95")
    rows: list[Sequence[Any]] = []
    for name, rung in rungs.items():
        logits, scores = rung["logit_quantiles"] or {}, rung["score_quantiles"] or {}
        quantiles = [*(logits.get(q) for q in shown), *(scores.get(q) for q in shown)]
        rows.append((name, rung["n"], *rung["statuses"].values(), rung["tokens"], *quantiles))
    columns = ("rung", "answers", *(status.replace("_", " ") for status in STATUSES), "tokens")
    heads = (*(f"logit {float(q):.0%}" for q in shown), *(f"score {float(q):.0%}" for q in shown))
    show_table(f"scores  ({path})", (*columns, *heads), rows)
    if any(rung["pairs"] for rung in rungs.values()):
        show_table(
            "pairs: the preferred answer has the higher logit (equal logits count half)",
            ("rung", "accuracy [95%]", "pairs", "equal logits", "without preference", "not scored"),
            [_pair_row(name, rung["pairs"]) for name, rung in rungs.items() if rung["pairs"]],
        )


def _pair_row(name: str, pairs: dict[str, Any]) -> tuple[Any, ...]:
    share = pairs["accuracy"] or {"estimate": None, "lo": None, "hi": None, "n": 0}
    accuracy = interval(share["estimate"], share["lo"], share["hi"])
    return name, accuracy, share["n"], pairs["equal"], pairs["no_preference"], pairs["not_scored"]
