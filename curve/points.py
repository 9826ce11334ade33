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
from curve.cells import Cell
from policy.answers import ANSWERS_FILE
from policy.audit import read_metrics

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
    trained = cell.table.reward != "untrained"
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
    }


def over_seeds(points: Sequence[Point]) -> list[Point]:
    """One row a reward and rung: the mean over seeds with its interval.

    With several seeds the interval is Student's t over seeds, the unit that was repeated; with one seed it is the
    prompt bootstrap of that cell, which says nothing about other seeds. `interval_over` says which.
    """
    groups: dict[tuple[str, str | None], list[Point]] = {}
    for point in points:
        groups.setdefault((point["reward"], point["rung"]), []).append(point)
    rows = []
    for (reward, rung), members in groups.items():
        qualities = [member["quality"] for member in members]
        low, high, over = members[0]["quality_lo"], members[0]["quality_hi"], "prompts"
        if len(members) > 1:
            low, high, over = *_t_interval(qualities), "seeds"
        golds = [member["gold_mean"] for member in members]
        rows.append(
            {
                "reward": reward,
                "rung": rung,
                **{name: members[0][name] for name in ("rm_accuracy", "rm_accuracy_lo", "rm_accuracy_hi")},
                "n_seeds": len(members),
                "quality": statistics.fmean(qualities),
                "quality_lo": low,
                "quality_hi": high,
                "interval_over": over,
                "gold_mean": None if None in golds else statistics.fmean(golds),
                "length_mean": statistics.fmean(member["length_mean"] for member in members),
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
