"""One row a cell: what the reward model was worth, and what the policy that climbed it was worth.

A sweep with variants has their cells in one table, each named `label/cell`. What the columns hold beyond their names:

    base        what the policies start from: the variant of an offline world's base, or the model's name
    setup       what else of a variant differs (`sweep.variants.setup_of`); rows of another setup are another experiment
    arm         `policy.arm`; null where the cell is named by its reward
    treatment   the arm, or the reward with what belongs to it: noise, the graph's name (`gold_flip0.4`)
    quality     against the untrained policy of the same variant, on the same prompts, with the same noise
    gold_gain   mean gold less that of the untrained policy, paired by prompt
    flip_rate   `policy.noise.flip_rate`; null where that was not set. The rates of false negatives and positives are
                those in force: 0 without noise, null for a reward that noise cannot flip
    world       the task that the prompts are of (`tasks.task`); null in files of an earlier version
    updates_per_rollout, n_updates    optimizer steps a rollout, and up to the state that answered the eval prompts
    code_share, steps_share, reasoned_share    of the eval answers in this style; null where the world has no such style
"""

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
from configs.runfolder import MANIFEST, is_finished
from curve.sweep.cells import Cell
from curve.sweep.variants import VARIANTS_FOLDER, base_of, setup_of
from judge.config import JudgeTable
from judge.judged_cells import read_judged_cell
from policy.answers import ANSWERS_FILE
from policy.audit import read_metrics
from policy.config import treatment_of
from policy.rewards.verifiable_table import BINARY
from rm.rung_digest import CARD_FILE
from tasks.table import task_table

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
    "variant",
    "base",
    "setup",
    "arm",
    "treatment",
    "gold_gain",
    "gold_gain_lo",
    "gold_gain_hi",
    "flip_rate",
    "false_negative_rate",
    "false_positive_rate",
    "updates_per_rollout",
    "n_updates",
    "code_share",
    "code_share_untrained",
    "steps_share",
    "steps_share_untrained",
    "reasoned_share",
    "reasoned_share_untrained",
    "world",
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
    "base",
    "setup",
    "arm",
    "treatment",
)
STYLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "code_share": (("arithmetic", "mathematics"), ("code", "code_with_output", "fenced_code", "bare_code")),
    "steps_share": (("arithmetic",), ("steps",)),
    "reasoned_share": (("advice",), ("reasoned",)),
}
"""Column -> the tasks that know the style, and what they call it."""
TOLD_APART = ("reward", "rung", "route", "algorithm", "base", "setup", "treatment")
"""Cells that are the same in these are one point of the curve, with several seeds."""
SAME_POLICY = ("rm_seed", "seed", "quality", "gold_mean", "length_mean")

Point = dict[str, Any]


def gather(experiment: Experiment, cells: Sequence[Cell]) -> list[Point]:
    """The points of finished and judged cells, in the order of `cells`."""
    ladders: dict[Path, dict[str, Any]] = {}
    points = []
    for cell in cells:
        ladder: dict[str, Any] = {"rungs": []}
        if cell.table.rung is not None:
            if cell.run.folder not in ladders:
                ladders[cell.run.folder] = read_json(cell.run.folder / "rm" / "ladder.json")
            ladder = ladders[cell.run.folder]
        rungs = {rung["rung"]: rung for rung in ladder["rungs"]}
        points.append(
            _point(cell, ladder, rungs.get(cell.table.rung or ""))
            | {
                "variant": cell.variant,
                "base": base_of(cell.run, task_table(cell.run)),
                "setup": setup_of(experiment, cell.variant, bool(cell.table.rungs)),
                "world": cell.run.tables["tasks"].get("task"),
            }
        )
    return points


def _point(cell: Cell, ladder: dict[str, Any], rung: dict[str, Any] | None) -> Point:
    judged = read_json(cell.judged / "summary.json")
    answers = list(read_jsonl(cell.folder / ANSWERS_FILE))
    metrics = read_metrics(cell.folder)
    looks = [row["dev/gold_mean"] for row in metrics if "dev/gold_mean" in row]
    known = all(look is not None for look in looks) and bool(looks)
    dev_prompts = [row["dev/n"] for row in metrics if "dev/n" in row]
    trained = cell.table.reward != "untrained"
    card = read_json(cell.run.folder / "rm" / rung["folder"] / CARD_FILE) if rung else {}
    j = (card.get("at_score_threshold") or {}).get("j", {})
    return {
        "cell": cell.label,
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
        "arm": cell.table.arm,
        "treatment": treatment_of(cell.table),
        **{name: judged.get(name) for name in ("gold_gain", "gold_gain_lo", "gold_gain_hi")},
        **_training(cell, metrics, trained),
        **_styles(cell, answers),
    }


def _training(cell: Cell, metrics: Sequence[dict[str, Any]], trained: bool) -> dict[str, Any]:
    """Noise in force, and how many optimizer steps are behind the answers."""
    noise, flips = cell.table.noise, trained and cell.table.reward in BINARY
    kept = read_json(cell.folder / MANIFEST)["summary"].get("kept") or {}
    return {
        "flip_rate": noise.flip_rate if flips else None,
        "false_negative_rate": noise.rate(1.0) if flips else None,
        "false_positive_rate": noise.rate(0.0) if flips else None,
        "updates_per_rollout": cell.table.updates_per_rollout if trained else None,
        "n_updates": kept.get("step", metrics[-1]["step"] if metrics else None) if trained else None,
    }


def _styles(cell: Cell, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares of styles in the cell's answers, and in those of the policy it is compared with."""
    baseline = cell.run.table("judge", JudgeTable).baseline
    before = list(read_jsonl(cell.run.folder / "policy" / baseline / ANSWERS_FILE))
    found: dict[str, float | None] = {}
    for column, (tasks, styles) in STYLES.items():
        known = cell.run.tables["tasks"].get("task") in tasks
        for name, rows in ((column, answers), (f"{column}_untrained", before)):
            found[name] = sum(row["style"] in styles for row in rows) / len(rows) if known else None
    return found


def outcomes_by_prompt(judged: Path, cells: Sequence[str]) -> dict[str, dict[str, float]]:
    """Quality of each cell on each prompt, the mean over its pairs; without prompts that have no verdict.

    Args:
        judged: the judge's room of a run.
        cells: their names, of a variant's cells with its label; those that are not finished there are left out.
    """
    found: dict[str, dict[str, float]] = {}
    for cell in cells:
        label, slash, name = cell.rpartition("/")
        place = judged.parent / VARIANTS_FOLDER / label / judged.name / name if slash else judged / cell
        if not is_finished(place):
            continue
        values: dict[str, list[float]] = {}
        for outcome in read_judged_cell(place).outcomes:
            if outcome.quality is not None:
                values.setdefault(outcome.prompt_id, []).append(outcome.quality)
        found[cell] = {prompt: statistics.fmean(qualities) for prompt, qualities in values.items()}
    return found


def over_seeds(points: Sequence[Point]) -> list[Point]:
    """One row a treatment, rung, route, algorithm, base and setup: the mean over seeds with its interval.

    The interval is Student's t over the highest unit that was repeated: `rm_seeds` (each the mean of its policies), or
    `seeds` of the policy; with one of each it is the prompt bootstrap of that cell, which says nothing about other
    seeds. `interval_over` says which. Accuracy and its bounds are means over the reward models. The same policy under
    several variants, as the untrained one of each seed of the reward model, counts once.
    """
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        group = groups.setdefault(tuple(point.get(name) for name in TOLD_APART), [])
        if point["rung"] or not any(all(point[name] == other[name] for name in SAME_POLICY) for other in group):
            group.append(point)
    return [_over_seeds(members) for members in groups.values()]


def _over_seeds(members: Sequence[Point]) -> Point:
    """The row of cells that differ in nothing but seeds."""
    first = members[0]
    by_rm: dict[int | None, list[Point]] = {}
    for member in members:
        by_rm.setdefault(member["rm_seed"], []).append(member)
    qualities = [member["quality"] for member in members]
    low, high, over = first["quality_lo"], first["quality_hi"], "prompts"
    if len(by_rm) > 1:
        qualities = [statistics.fmean(member["quality"] for member in group) for group in by_rm.values()]
        low, high, over = *_t_interval(qualities), "rm_seeds"
    elif len(members) > 1:
        low, high, over = *_t_interval(qualities), "seeds"
    gold = _gold_over(list(by_rm.values()))
    models = [group[0] for group in by_rm.values()]
    accuracies = ("rm_accuracy", "rm_accuracy_lo", "rm_accuracy_hi")
    rung = first["rung"]
    return {
        **{name: statistics.fmean(m[name] for m in models) if rung else None for name in accuracies},
        "n_seeds": max(len(group) for group in by_rm.values()),
        "quality": statistics.fmean(qualities),
        "quality_lo": low,
        "quality_hi": high,
        "interval_over": over,
        **dict(zip(("gold_mean", "gold_mean_lo", "gold_mean_hi"), gold, strict=True)),
        "length_mean": statistics.fmean(member["length_mean"] for member in members),
        "n_rm_seeds": len(by_rm) if rung else 0,
        "arm": first.get("arm"),
        **{name: first.get(name) for name in TOLD_APART},
    }


def _gold_over(groups: Sequence[Sequence[Point]]) -> tuple[float | None, float | None, float | None]:
    """Mean gold with the interval over what that of quality is over: reward models, seeds, or one cell's prompts."""
    members = [member for group in groups for member in group]
    if any(member["gold_mean"] is None for member in members):
        return None, None, None
    mean = statistics.fmean(member["gold_mean"] for member in members)
    if len(members) == 1:
        return mean, members[0].get("gold_mean_lo"), members[0].get("gold_mean_hi")
    units = groups if len(groups) > 1 else [[member] for member in members]
    return mean, *_t_interval([statistics.fmean(member["gold_mean"] for member in unit) for unit in units])


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
