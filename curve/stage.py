"""The stage `curve`: runs the sweep, judges it, and gathers `points.csv`, the figure and the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import judge.stage
import policy.stage
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from configs.runfolder import Stage, is_finished, run_stage
from configs.terminal import interval, say, show_table
from curve.analysis.contrasts import MARGIN
from curve.analysis.files import STRATEGIES_FILE, beside_run, write_analysis
from curve.analysis.whole import ANALYSIS_FILE, sentences_of
from curve.config import CurveTable
from curve.points import POINTS_FILE, Point, gather, outcomes_by_prompt, over_seeds
from curve.report.page import findings_of, write_report
from curve.sweep.cells import Cell, expand
from curve.sweep.preparation import described, is_ready, make_ready
from curve.sweep.ray_jobs import RayTable, run_on_ray
from curve.sweep.variants import variants_of
from curve.sweep.workers import LOG_FILE, Job, run_side_by_side
from judge.answers import DifferentPrompts
from judge.config import JudgeTable
from judge.stage import SUMMARY_FILE
from rm.config import RMTable

ROOM = "curve"
PREPARATION_LOG = "preparation.log"


def folder_of(experiment: Experiment) -> Path:
    """Where the curve lies."""
    return experiment.folder / ROOM


def run(experiment: Experiment) -> str | None:
    """Make what is missing of the whole sweep and draw the curve.

    Returns:
        What to say of cells that failed, where the curve could be drawn from the others; else None.

    Raises:
        UserError: the sweep means nothing, or nothing can be drawn.
    """
    cells = expand(experiment)
    failed = run_cells(experiment, cells)
    judge_cells(experiment, cells, failed)
    draw_curve(experiment, [cell for cell in cells if cell.label not in failed], sorted(failed))
    if not failed:
        return None
    first = next(iter(failed))
    reason = failed[first].removeprefix("error: ")
    return (
        f"{len(failed)} of {len(cells)} cells failed ({', '.join(sorted(failed))}), {first} because: {reason}; "
        f"the curve is drawn from the others, and the same command tries them again; their logs are in their folders "
        f"in {experiment.folder}"
    )


def run_cells(experiment: Experiment, cells: Sequence[Cell]) -> dict[str, str]:
    """Make the missing cells side by side and check the finished ones; returns the failed ones with the reason."""
    failed = prepare(experiment, cells)
    jobs = []
    for cell in cells:
        if cell.label in failed:
            continue
        if is_finished(cell.folder):
            policy.stage.run(cell.experiment)
            continue
        command = [sys.executable, "-P", "-m", "policy", str(described(cell.run)), *cell.words]
        jobs.append(Job(cell.label, command, cell.folder / LOG_FILE, cell.table.cpu_threads))
    failed |= run_jobs(experiment, jobs, "cells")
    for cell in cells:
        if cell.label not in failed:
            policy.stage.run(cell.experiment)  # finished, so this only checks that it is what was asked for
    return failed


def prepare(experiment: Experiment, cells: Sequence[Cell]) -> dict[str, str]:
    """Make task, ladder and calibration; those of variants side by side. Returns the cells that cannot be made."""
    if cells[0].variant is None:
        make_ready(experiment)
        return {}
    jobs = []
    for label, run in variants_of(experiment).items():
        if not is_ready(run):
            command = [sys.executable, "-P", "-m", "curve.sweep.preparation", str(described(run))]
            threads = run.table("rm", RMTable).cpu_threads
            jobs.append(Job(str(label), command, run.folder / PREPARATION_LOG, threads))
    without = run_jobs(experiment, jobs, "variants")
    for label, run in variants_of(experiment).items():
        if label not in without:
            make_ready(run)  # finished, so this only checks that it is what was asked for
    return {cell.label: without[cell.variant] for cell in cells if cell.variant in without}


def run_jobs(experiment: Experiment, jobs: Sequence[Job], what: str) -> dict[str, str]:
    """Run processes by the executor of the curve's table; returns the failed ones with the reason."""
    table = experiment.table(ROOM, CurveTable)
    if not jobs:
        return {}
    if table.executor == "ray":
        return run_on_ray(jobs, table.ray or RayTable.model_validate({}))
    return run_side_by_side(jobs, table.workers, what)


def judge_cells(experiment: Experiment, cells: Sequence[Cell], failed: dict[str, str]) -> None:
    """Judge what was made, one variant after the other; cells of a variant without its baseline join the failed ones.

    Raises:
        UserError: nothing has a baseline, or the judge cannot go on.
    """
    for label, run in variants_of(experiment).items():
        own = [cell for cell in cells if cell.variant == label and cell.label not in failed]
        table = run.table("judge", JudgeTable)
        if table.baseline not in [cell.name for cell in own]:
            name = table.baseline if label is None else f"{label}/{table.baseline}"
            lacking = f"{name}: failed ({failed.get(name, 'no cell of the sweep')}); without it nothing can be judged"
            failed |= {cell.label: lacking for cell in own}
            continue
        # replies of all variants in one place, so that a cap on money is of the whole sweep; ratings lie by their pairs
        store = None if table.kind == "people" else experiment.folder / judge.stage.ROOM
        with judge.stage.Sitting(run, [cell.name for cell in own], store) as sitting:
            for cell in own:
                try:
                    judge.stage.judge_cell(run, cell.name, sitting)
                except DifferentPrompts as error:
                    failed[cell.label] = str(error)
    if all(cell.label in failed for cell in cells):
        raise UserError(failed[cells[0].label] if cells[0].variant else lacking)


def draw_curve(experiment: Experiment, cells: Sequence[Cell], missing: Sequence[str]) -> dict[str, Any]:
    """Gather the points of judged cells and write table, figure and report; made anew when a cell has changed."""
    table = experiment.table(ROOM, CurveTable)
    inputs = {f"policy/{cell.label}": cell.folder for cell in cells}
    inputs |= {f"judge/{cell.label}": cell.judged for cell in cells}
    if (experiment.folder / STRATEGIES_FILE).exists():
        inputs["strategies"] = experiment.folder / STRATEGIES_FILE
    unread = {"workers", "executor", "ray"} | ({"variants"} if table.variants is None else set())
    settings = table.model_dump(mode="json", exclude=unread) | {"missing": list(missing), "margin": MARGIN}
    stage = Stage(ROOM, folder_of(experiment), settings, experiment.seed, inputs, derived=True)

    def work(folder: Path) -> dict[str, Any]:
        points = gather(experiment, cells)
        findings = findings_of(points)
        outcomes = outcomes_by_prompt(experiment.folder / "judge", [cell.label for cell in cells])
        beside = beside_run(experiment.folder, points, outcomes)
        analysis = write_analysis(folder, points, beside, table.title, experiment.seed)
        page, figure, curve = folder / "report.html", folder / "curve.png", over_seeds(points)
        write_report(page, experiment, figure, points, curve, findings, analysis, missing)
        return {"points": len(points), "findings": findings, "missing": list(missing)}

    return run_stage(stage, work)


def show(experiment: Experiment) -> None:
    """Print the curve and where the figure lies."""
    folder = folder_of(experiment)
    cells = [cell for cell in expand(experiment) if is_finished(cell.folder) and is_finished(cell.judged)]
    points: list[Point] = gather(experiment, cells)
    rows = [
        (
            point["cell"],
            interval(point["rm_accuracy"], point["rm_accuracy_lo"], point["rm_accuracy_hi"]),
            point["rm_n_pairs"],
            interval(point["quality"], point["quality_lo"], point["quality_hi"]),
            interval(point["gold_mean"], point["gold_mean_lo"], point["gold_mean_hi"]),
            interval(judged["length_mean"], judged["length_mean_lo"], judged["length_mean_hi"], 1),
            point["n_prompts"],
            None if point["dev_gold_peak"] is None else f"{point['dev_gold_peak']:.3f} of {point['dev_n_prompts']}",
        )
        for point, judged in zip(points, (read_json(cell.judged / SUMMARY_FILE) for cell in cells), strict=True)
    ]
    columns = ("cell", "RM accuracy [95%]", "pairs", "quality [95%]", "gold [95%]", "length [95%]", "prompts")
    show_table(
        f"curve: quality is the win rate against the untrained policy, ties half  ({folder})",
        (*columns, "peak dev gold"),
        rows,
    )
    for finding in findings_of(points):
        say(f"- {finding}")
    if (folder / ANALYSIS_FILE).exists():
        for sentence in sentences_of(read_json(folder / ANALYSIS_FILE)):
            say(f"- {sentence}")
    say(f"\nFigure: {folder / 'curve.png'}\nReport: {folder / 'report.html'}\nPoints: {folder / POINTS_FILE}")
