"""Looks at the dev prompts while policies were trained: gold, divergence from the base, reward, step by step.

`looks.csv` has a row for each look of each cell, and one for the first optimizer step, whose rollout the untrained
policy answered:

    step                 optimizer steps made
    gold, gold_se        mean over the dev prompts and its standard error; empty where the truth is not known
    kl, kl_se            estimate of KL(policy || base) per completion, in nats (`policy.updates.divergence`)
    length, well_formed  of the dev answers
    reward, reward_std   of the rollout of that step: mean, and mean standard deviation inside a prompt's answers
    entropy, token_probability  means over the tokens of that step's rollout
    best_of_n            of the first step: gold of the answer with the highest reward, mean over the rollout's prompts
"""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from configs.errors import UserError
from curve.points import Point
from policy.audit import COMPLETIONS_FILE, METRICS_FILE, read_metrics

LOOKS_FILE = "looks.csv"
METRIC_OF = {
    "gold": "dev/gold_mean",
    "gold_se": "dev/gold_se",
    "kl": "dev/kl",
    "kl_se": "dev/kl_se",
    "length": "dev/length_mean",
    "well_formed": "dev/well_formed_share",
    "reward": "reward",
    "reward_std": "reward_std",
    "entropy": "entropy",
    "token_probability": "token_probability",
}
"""Column of a look -> name in `metrics.jsonl`."""
LOOK_COLUMNS = ("cell", "step", *METRIC_OF, "best_of_n")
OF_A_GROUP = ("reward", "treatment", "rung", "route", "algorithm", "base", "setup", "flip_rate")
"""Columns of points that the cells of one line of the figure share; they differ in seeds."""

Look = dict[str, Any]


def looks_of(cell: str, metrics: Sequence[Mapping[str, Any]]) -> list[Look]:
    """The looks of one cell, in the order of steps; empty without any."""
    steps = [row for row in metrics if "step" in row]
    looked = [row for row in steps if row["step"] == 1 or any(name.startswith("dev/") for name in row)]
    return [
        {"cell": cell, "step": row["step"], "best_of_n": None}
        | {column: row.get(name) for column, name in METRIC_OF.items()}
        for row in looked
    ]


def gather_looks(folders: Mapping[str, Path]) -> list[Look]:
    """The looks of cells from their folders in the policy's room; cells that were not trained have none."""
    found: list[Look] = []
    for cell, folder in folders.items():
        if (folder / METRICS_FILE).exists():
            own = looks_of(cell, read_metrics(folder))
            for look in own:
                if look["step"] == 1 and (folder / COMPLETIONS_FILE).exists():
                    look["best_of_n"] = best_of_first(folder / COMPLETIONS_FILE)
            found += own
    return found


def best_of_first(completions: Path) -> float | None:
    """Gold of the best by reward of each prompt's answers in the first rollout, which the untrained policy gave.

    Equal rewards share the mean of their golds; None where a gold is not known.
    """
    columns = ["prompt_id", "reward", "gold"]
    rows = pq.read_table(completions, columns=columns, filters=[("step", "=", 0)]).to_pylist()
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["gold"] is None:
            return None
        if row["reward"] is not None:
            groups[row["prompt_id"]].append((row["reward"], row["gold"]))
    best = [[gold for reward, gold in group if reward == max(group)[0]] for group in groups.values()]
    return statistics.fmean(statistics.fmean(golds) for golds in best) if best else None


def read_looks(path: Path) -> list[Look]:
    """The rows of a `looks.csv`.

    Raises:
        UserError: it cannot be read, or a number is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as looks ({error}); remove it, or make it anew") from None
    lacking = [name for name in ("cell", "step", "gold") if name not in (reader.fieldnames or ())]
    if lacking:
        raise UserError(f"{path}: looks without {', '.join(lacking)}; remove the file, or make it anew")
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            look: Look = {"cell": row["cell"], "step": int(row["step"])}
            look |= {name: float(row[name]) if row.get(name) else None for name in (*METRIC_OF, "best_of_n")}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}:{number}: is no look ({error}); remove the file, or make it anew") from None
        found.append(look)
    return found


def with_looks(points: Sequence[Point], looks: Sequence[Look]) -> list[Point]:
    """Points with what looks say of them: the spread at the start, the KL at the end, how sure the policy became."""
    by_cell: dict[str, list[Look]] = defaultdict(list)
    for look in looks:
        by_cell[look["cell"]].append(look)
    return [{**point, **_summary(by_cell.get(point["cell"], []))} for point in points]


def _summary(looks: Sequence[Look]) -> dict[str, Any]:
    trained = [look for look in looks if look["step"] > 0]
    found: dict[str, Any] = {"start_reward_std": None, "start_best_of_n": None, "kl_end": None}
    if trained and trained[0]["step"] == 1:
        found |= {"start_reward_std": trained[0]["reward_std"], "start_best_of_n": trained[0].get("best_of_n")}
    if trained:
        found["kl_end"] = trained[-1]["kl"]
    for name in ("entropy", "token_probability"):
        ends = [look[name] for look in (trained[:1] + trained[-1:] if len(trained) > 1 else [])]
        found[f"{name}_rise"] = ends[1] - ends[0] if ends and None not in ends else None
    return found


def mean_looks(points: Sequence[Point], looks: Sequence[Look]) -> list[dict[str, Any]]:
    """One record a line of the figure: the means over seeds at each step that all its cells have, and their errors.

    Returns:
        Records of the columns of `OF_A_GROUP`, `rm_accuracy`, `n_cells`, and `looks`: rows of `step` and of each column
        of a look its mean, with `gold_error`: the standard error over cells, or that over prompts of a single one.
    """
    groups: dict[tuple[Any, ...], list[Point]] = defaultdict(list)
    for point in points:
        if point["reward"] != "untrained":
            groups[tuple(point.get(name) for name in OF_A_GROUP)].append(point)
    by_cell: dict[str, dict[int, Look]] = defaultdict(dict)
    for look in looks:
        by_cell[look["cell"]][look["step"]] = look
    found = []
    for key, members in groups.items():
        own = [by_cell[point["cell"]] for point in members if point["cell"] in by_cell]
        steps = sorted(set.intersection(*(set(one) for one in own))) if own else []
        rows = [_mean([one[step] for one in own]) for step in steps]
        rows = [row for row in rows if row["gold"] is not None or row["kl"] is not None]
        if rows:
            accuracies = [point["rm_accuracy"] for point in members if point["rm_accuracy"] is not None]
            facts = {"rm_accuracy": statistics.fmean(accuracies) if accuracies else None, "n_cells": len(own)}
            found.append({**dict(zip(OF_A_GROUP, key, strict=True)), **facts, "looks": rows})
    return found


def _mean(looks: Sequence[Look]) -> dict[str, Any]:
    row: dict[str, Any] = {"step": looks[0]["step"]}
    for name in METRIC_OF:
        values = [look[name] for look in looks]
        row[name] = None if None in values else statistics.fmean(values)
    row["gold_error"] = looks[0]["gold_se"]
    if len(looks) > 1 and row["gold"] is not None:
        row["gold_error"] = statistics.stdev(look["gold"] for look in looks) / math.sqrt(len(looks))
    return row


def over_optimisation(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where the gold of each line peaks and ends: step, gold, KL and reward at both (arXiv 2210.10760).

    Args:
        lines: of `mean_looks`. The peak is of the mean over cells, so its noise is that of the mean.
    """
    rows = []
    for line in lines:
        known = [look for look in line["looks"] if look["gold"] is not None]
        if not known:
            continue
        ends = {"peak": max(known, key=lambda look: look["gold"]), "end": known[-1]}
        figures = {f"{end}_{n}": look[n] for end, look in ends.items() for n in ("step", "gold", "kl", "reward")}
        rows.append({n: line[n] for n in (*OF_A_GROUP, "rm_accuracy", "n_cells")} | figures)
    return rows
