"""One row a cell: what the reward model was worth, and what the policy that climbed it was worth."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from configs.loader import Experiment
from configs.records import read_json, read_jsonl, write_bytes
from configs.runfolder import is_finished
from curve.cells import Cell
from judge.judged_cells import read_judged_cell
from policy.answers import ANSWERS_FILE
from policy.audit import read_metrics
from rm.rung_digest import CARD_FILE

POINTS_FILE = "points.csv"
CURVE_FILE = "curve.csv"
COLUMNS = (
    "cell",
    "rung",
    "route",
    "reward",
    "algorithm",
    "seed",
    "rm_seed",
    "rm_accuracy",
    "rm_accuracy_lo",
    "rm_accuracy_hi",
    "rm_n_pairs",
    "rm_on_policy_accuracy",
    "rm_spread_per_prompt",
    "quality",
    "quality_lo",
    "quality_hi",
    "n_prompts",
    "net_win",
    "net_win_lo",
    "net_win_hi",
    "gold_mean",
    "gold_mean_lo",
    "gold_mean_hi",
    "length_mean",
    "well_formed_share",
    "dev_gold_peak",
    "dev_gold_final",
    "dev_n_prompts",
    "rm_j",
    "rm_j_lo",
    "rm_j_hi",
    "judge",
    "judge_consistency",
    "judge_n_both_orders",
)
CURVE_COLUMNS = (
    "reward",
    "rung",
    "rm_accuracy",
    "rm_accuracy_lo",
    "rm_accuracy_hi",
    "n_seeds",
    "quality",
    "quality_lo",
    "quality_hi",
    "interval_over",
    "gold_mean",
    "length_mean",
    "route",
    "algorithm",
    "n_rm_seeds",
)

Point = dict[str, Any]


def gather(experiment: Experiment, cells: Sequence[Cell]) -> list[Point]:
    """The points of finished and judged cells, in the order of `cells`."""
    ladder: dict[str, Any] = {"rungs": []}
    if any(cell.table.rung is not None for cell in cells):
        ladder = read_json(experiment.folder / "rm" / "ladder.json")
    rungs = {rung["rung"]: rung for rung in ladder["rungs"]}
    return [_point(experiment, cell, ladder, rungs.get(cell.table.rung or "")) for cell in cells]


def _point(experiment: Experiment, cell: Cell, ladder: dict[str, Any], rung: dict[str, Any] | None) -> Point:
    judged = read_json(experiment.folder / "judge" / cell.name / "summary.json")
    answers = list(read_jsonl(cell.folder(experiment) / ANSWERS_FILE))
    looks = [row["dev/gold_mean"] for row in read_metrics(cell.folder(experiment)) if "dev/gold_mean" in row]
    known = all(look is not None for look in looks) and bool(looks)
    dev_prompts = [row["dev/n"] for row in read_metrics(cell.folder(experiment)) if "dev/n" in row]
    trained = cell.table.reward != "untrained"
    card = read_json(experiment.folder / "rm" / rung["folder"] / CARD_FILE) if rung else {}
    j = (card.get("at_score_threshold") or {}).get("j", {})
    return {
        "cell": cell.name,
        "rung": cell.table.rung,
        "route": ladder["route"] if rung else None,
        "reward": cell.table.reward,
        "algorithm": cell.table.algorithm if trained else None,
        "seed": cell.seed if trained else None,
        "rm_seed": ladder["rm_seed"] if rung else None,
        "rm_accuracy": rung["accuracy"] if rung else None,
        "rm_accuracy_lo": rung["accuracy_lo"] if rung else None,
        "rm_accuracy_hi": rung["accuracy_hi"] if rung else None,
        "rm_n_pairs": rung["n_pairs"] if rung else None,
        "rm_on_policy_accuracy": rung["on_policy_accuracy"] if rung else None,
        "rm_spread_per_prompt": rung["score_spread_per_prompt"] if rung else None,
        **{name: judged.get(name) for name in COLUMNS[COLUMNS.index("quality") : COLUMNS.index("well_formed_share")]},
        "well_formed_share": sum(row["status"] == "ok" for row in answers) / len(answers),
        "dev_gold_peak": max(looks) if known else None,
        "dev_gold_final": looks[-1] if known else None,
        "dev_n_prompts": dev_prompts[-1] if dev_prompts else None,
        "rm_j": j.get("estimate"),
        "rm_j_lo": j.get("lo"),
        "rm_j_hi": j.get("hi"),
        "judge": judged.get("judge"),
        "judge_consistency": judged.get("consistency"),
        "judge_n_both_orders": judged.get("n_both_orders"),
    }


def outcomes_by_prompt(judged: Path, cells: Sequence[str]) -> dict[str, dict[str, float]]:
    """Quality of each cell on each prompt, the mean over its pairs; without prompts that have no verdict.

    Args:
        judged: the judge's room of a run.
        cells: their names; those that are not finished there are left out.
    """
    found: dict[str, dict[str, float]] = {}
    for cell in cells:
        if not is_finished(judged / cell):
            continue
        values: dict[str, list[float]] = {}
        for outcome in read_judged_cell(judged / cell).outcomes:
            if outcome.quality is not None:
                values.setdefault(outcome.prompt_id, []).append(outcome.quality)
        found[cell] = {prompt: statistics.fmean(qualities) for prompt, qualities in values.items()}
    return found


def over_seeds(points: Sequence[Point]) -> list[Point]:
    """One row a reward, rung, route and algorithm: the mean over seeds with its interval.

    The interval is Student's t over the highest unit that was repeated: `rm_seeds` (each the mean of its policies), or
    `seeds` of the policy; with one of each it is the prompt bootstrap of that cell, which says nothing about other
    seeds. `interval_over` says which. Accuracy and its bounds are means over the reward models.
    """
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(point[name] for name in ("reward", "rung", "route", "algorithm")), []).append(point)
    rows = []
    for (reward, rung, route, algorithm), members in groups.items():
        by_rm: dict[int | None, list[Point]] = {}
        for member in members:
            by_rm.setdefault(member["rm_seed"], []).append(member)
        qualities = [member["quality"] for member in members]
        low, high, over = members[0]["quality_lo"], members[0]["quality_hi"], "prompts"
        if len(by_rm) > 1:
            qualities = [statistics.fmean(member["quality"] for member in group) for group in by_rm.values()]
            low, high, over = *_t_interval(qualities), "rm_seeds"
        elif len(members) > 1:
            low, high, over = *_t_interval(qualities), "seeds"
        golds = [member["gold_mean"] for member in members]
        models = [group[0] for group in by_rm.values()]
        accuracies = ("rm_accuracy", "rm_accuracy_lo", "rm_accuracy_hi")
        rows.append(
            {
                "reward": reward,
                "rung": rung,
                **{name: statistics.fmean(m[name] for m in models) if rung else None for name in accuracies},
                "n_seeds": max(len(group) for group in by_rm.values()),
                "quality": statistics.fmean(qualities),
                "quality_lo": low,
                "quality_hi": high,
                "interval_over": over,
                "gold_mean": None if None in golds else statistics.fmean(golds),
                "length_mean": statistics.fmean(member["length_mean"] for member in members),
                "route": route,
                "algorithm": algorithm,
                "n_rm_seeds": len(by_rm) if rung else 0,
            }
        )
    return rows


def _t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% Student interval of the mean."""
    mean, error = statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean - half, mean + half


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Point]) -> None:
    """Write rows as CSV; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: row[name] for name in columns} for row in rows])
    write_bytes(path, text.getvalue().encode())
