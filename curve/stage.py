"""The stage `curve`: runs the sweep, judges it, and gathers `points.csv`, the figure and the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import calibration.stage
import judge.stage
import policy.stage
import rm.stage
import tasks.stage
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json, sha256_of_record, write_bytes, write_json
from configs.runfolder import Stage, is_finished, run_stage
from configs.terminal import interval, say, show_table
from curve.analysis import ANALYSIS_FILE, CLAIM_COLUMNS, CLAIMS_FILE, analyse, claim_rows, sentences_of
from curve.cells import Cell, expand
from curve.config import CurveTable
from curve.contrasts import MARGIN
from curve.figure import draw
from curve.points import (
    COLUMNS,
    CURVE_COLUMNS,
    CURVE_FILE,
    POINTS_FILE,
    Point,
    gather,
    outcomes_by_prompt,
    over_seeds,
    write_table,
)
from curve.report import findings_of, write_report
from curve.workers import LOG_FILE, Job, run_side_by_side

ROOM = "curve"
EXPERIMENTS_FOLDER = "experiments"


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
    made = [cell for cell in cells if cell.name not in failed]
    if not any(cell.table.reward == "untrained" for cell in made):
        raise UserError(f"untrained: failed ({failed['untrained']}); without it nothing can be judged")
    with judge.stage.Sitting(experiment, [cell.name for cell in made]) as sitting:
        for cell in made:
            judge.stage.judge_cell(experiment, cell.name, sitting)
    draw_curve(experiment, made, sorted(failed))
    if failed:
        return (
            f"{len(failed)} of {len(cells)} cells failed ({', '.join(sorted(failed))}); the curve is drawn from the "
            f"others, and the same command tries them again; their logs are in {experiment.folder / 'policy'}"
        )
    return None


def run_cells(experiment: Experiment, cells: Sequence[Cell]) -> dict[str, str]:
    """Make the missing cells side by side and check the finished ones; returns the failed ones with the reason."""
    tasks.stage.run(experiment)
    if any(cell.table.rungs for cell in cells):
        rm.stage.run(experiment)
        calibration.stage.run(experiment)
    # named by its content: another run with other settings in this folder must not change what our cells read
    text = describe(experiment)
    source = experiment.folder / EXPERIMENTS_FOLDER / f"{sha256_of_record(text)[:16]}.yaml"
    write_bytes(source, text.encode())
    jobs = []
    for cell in cells:
        if is_finished(cell.folder(experiment)):
            policy.stage.run(cell.experiment(experiment))
            continue
        overrides = [f"{key}={json.dumps(value)}" for key, value in cell.overrides.items()]
        command = [sys.executable, "-P", "-m", "policy", str(source), *overrides]
        jobs.append(Job(cell.name, command, cell.folder(experiment) / LOG_FILE, cell.table.cpu_threads))
    if not jobs:
        return {}
    failed = run_side_by_side(jobs, experiment.table(ROOM, CurveTable).workers)
    for cell in cells:
        if cell.name not in failed:
            policy.stage.run(cell.experiment(experiment))  # finished, so this only checks that it is what was asked for
    return failed


def describe(experiment: Experiment) -> str:
    """The experiment as one YAML text, overrides included."""
    top = {"name": experiment.name, "seed": experiment.seed, "runs_dir": str(experiment.runs_dir)}
    return str(yaml.safe_dump({**top, **experiment.tables}, sort_keys=False))


def draw_curve(experiment: Experiment, cells: Sequence[Cell], missing: Sequence[str]) -> dict[str, Any]:
    """Gather the points of judged cells and write table, figure and report; made anew when a cell has changed."""
    table = experiment.table(ROOM, CurveTable)
    inputs = {f"policy/{cell.name}": cell.folder(experiment) for cell in cells}
    inputs |= {f"judge/{cell.name}": experiment.folder / "judge" / cell.name for cell in cells}
    settings = table.model_dump(mode="json", exclude={"workers"}) | {"missing": list(missing), "margin": MARGIN}
    stage = Stage(ROOM, folder_of(experiment), settings, experiment.seed, inputs, derived=True)

    def work(folder: Path) -> dict[str, Any]:
        points = gather(experiment, cells)
        curve = over_seeds(points)
        findings = findings_of(points)
        write_table(folder / POINTS_FILE, COLUMNS, points)
        write_table(folder / CURVE_FILE, CURVE_COLUMNS, curve)
        outcomes = outcomes_by_prompt(experiment.folder / "judge", [cell.name for cell in cells])
        analysis = analyse(points, outcomes, experiment.seed)
        write_json(folder / ANALYSIS_FILE, analysis)
        write_table(folder / CLAIMS_FILE, CLAIM_COLUMNS, claim_rows(analysis["claims"]))
        draw(folder / "curve", points, curve, table.title, analysis["fits"])
        write_report(
            folder / "report.html", experiment, folder / "curve.png", points, curve, findings, analysis, missing
        )
        return {"points": len(points), "findings": findings, "missing": list(missing)}

    return run_stage(stage, work)


def show(experiment: Experiment) -> None:
    """Print the curve and where the figure lies."""
    folder = folder_of(experiment)
    judged = experiment.folder / "judge"
    cells = [c for c in expand(experiment) if is_finished(c.folder(experiment)) and is_finished(judged / c.name)]
    points: list[Point] = gather(experiment, cells)
    rows = [
        (
            point["cell"],
            interval(point["rm_accuracy"], point["rm_accuracy_lo"], point["rm_accuracy_hi"]),
            interval(point["quality"], point["quality_lo"], point["quality_hi"]),
            point["n_prompts"],
            interval(point["gold_mean"], point["gold_mean_lo"], point["gold_mean_hi"]),
            point["dev_gold_peak"],
            point["length_mean"],
        )
        for point in points
    ]
    show_table(
        f"curve: quality is the win rate against the untrained policy, ties half  ({folder})",
        ("cell", "RM accuracy [95%]", "quality [95%]", "prompts", "gold [95%]", "peak dev gold", "length"),
        rows,
    )
    for finding in findings_of(points):
        say(f"- {finding}")
    if (folder / ANALYSIS_FILE).exists():
        for sentence in sentences_of(read_json(folder / ANALYSIS_FILE)):
            say(f"- {sentence}")
    say(f"\nFigure: {folder / 'curve.png'}\nReport: {folder / 'report.html'}\nPoints: {folder / POINTS_FILE}")
