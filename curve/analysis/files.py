"""What an analysis leaves in a folder: points, curve, looks, claims, figures with their data, and `analysis.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.records import read_json, read_jsonl, write_json
from curve.analysis.claims_mathematics import SWITCHES
from curve.analysis.contrasts import MARGIN
from curve.analysis.domains import accuracies_by_domain, domains_of
from curve.analysis.looks import LOOK_COLUMNS, LOOKS_FILE, gather_looks, mean_looks, with_looks
from curve.analysis.predictors import PREDICTORS
from curve.analysis.whole import ANALYSIS_FILE, CLAIM_COLUMNS, CLAIMS_FILE, Beside, analyse, claim_rows
from curve.figures.domains import DOMAINS_FIGURE, draw_domains
from curve.figures.flips import FLIPS_FIGURE, draw_flips
from curve.figures.looks import ENDS_FIGURE, draw_ends, draw_looks
from curve.figures.predictors import PREDICTORS_FIGURE, draw_predictors
from curve.figures.quality import draw
from curve.points import COLUMNS, CURVE_COLUMNS, CURVE_FILE, POINTS_FILE, Point, over_seeds, write_table
from curve.sweep.variants import VARIANTS_FOLDER
from policy.answers import ANSWERS_FILE

STRATEGIES_FILE = "strategies.json"
"""What `rewardladder strategy … output=runs/<name>/strategies` writes; claim 11 reads it."""
UNIT_COLUMNS = ("route", "rm_seed", "rung", "quality", "n_policy_seeds", *PREDICTORS)
END_COLUMNS = ("cell", "reward", "rung", "rm_accuracy", "kl_end", "quality", "quality_lo", "quality_hi", "gold_mean")
FLIP_COLUMNS = ("start", "kind", "flip_rate", "informativeness", "value", "lo", "hi", "n_policy_seeds", "steps_to_half")


def write_analysis(
    folder: Path, points: Sequence[Point], beside: Beside, title: str, seed: int, margin: float = MARGIN
) -> dict[str, Any]:
    """Analyse points, and write all files.

    Args:
        folder: for the files.
        points: rows of `points.csv`.
        beside: what else is known.
        title: of the figures.
        seed: of the bootstraps.
        margin: of equivalence.

    Returns:
        What is in `analysis.json`.
    """
    curve = over_seeds(points)
    found = analyse(points, {}, seed, margin, beside)
    write_table(folder / POINTS_FILE, COLUMNS, points)
    write_table(folder / CURVE_FILE, CURVE_COLUMNS, curve)
    write_json(folder / ANALYSIS_FILE, found)
    write_table(folder / CLAIMS_FILE, CLAIM_COLUMNS, claim_rows(found["claims"]))
    draw(folder / "curve", points, curve, title, found["fits"])
    if beside.looks:
        write_table(folder / LOOKS_FILE, LOOK_COLUMNS, beside.looks)
        draw_looks(folder, mean_looks(points, beside.looks), title)
        ends = with_looks(points, beside.looks)
        if draw_ends(folder, ends, title):
            write_table(folder / f"{ENDS_FIGURE}.csv", END_COLUMNS, [end for end in ends if end["kl_end"] is not None])
    if draw_predictors(folder, found["predictors"], "What foretells the quality of a policy"):
        write_table(folder / f"{PREDICTORS_FIGURE}.csv", UNIT_COLUMNS, found["predictors"]["units"])
    if found["domains"]:
        write_table(folder / f"{DOMAINS_FIGURE}.csv", tuple(found["domains"][0]), found["domains"])
        draw_domains(folder, found["domains"], title)
    if draw_flips(folder, found["flips"], "What a flipped reward costs"):
        rows = [{**row, **(row["final"] or {})} for row in found["flips"]]
        blank = dict.fromkeys(FLIP_COLUMNS)
        write_table(folder / f"{FLIPS_FIGURE}.csv", FLIP_COLUMNS, [{**blank, **row} for row in rows])
    return found


def beside_run(run: Path, points: Sequence[Point], outcomes: dict[str, dict[str, float]]) -> Beside:
    """What a run's folder knows besides its points, as far as it is there.

    Args:
        run: the folder of the run; cells of a variant, `label/cell`, lie in its variants.
        points: of the run, cells named as there.
        outcomes: `curve.points.outcomes_by_prompt`.
    """
    places = {point["cell"]: place_of(run, point["cell"]) for point in points}
    policies = {cell: folder / "policy" / name for cell, (folder, name) in places.items()}
    domains: dict[str, str] = {}
    for folder in dict.fromkeys(folder for folder, _ in places.values()):
        domains |= domains_of(folder / "tasks")
    accuracies: dict[str, dict[str, float]] = {}
    if domains:
        rungs = {folder: _rungs(folder) for folder in dict.fromkeys(folder for folder, _ in places.values())}
        for point in points:
            rung = rungs[places[point["cell"]][0]].get(point["rung"] or "")
            if rung is not None:
                accuracies[point["cell"]] = accuracies_by_domain(rung)
    strategies = run / STRATEGIES_FILE
    return Beside(
        outcomes=outcomes,
        golds={point["cell"]: g for point in points if (g := golds_of(policies[point["cell"]], point)) is not None},
        looks=gather_looks(policies),
        domains=domains,
        accuracies=accuracies,
        strategies=read_strategies(strategies) if strategies.exists() else None,
    )


def read_strategies(path: Path) -> dict[str, Any]:
    """What `rewardladder strategy` wrote.

    Raises:
        UserError: it is something else.
    """
    found = read_json(path)
    cells = found.get("arms") if isinstance(found, dict) else None
    if not isinstance(cells, dict) or not all(map(_has_switches, cells.values())):
        raise UserError(f"{path}: has no arms; name what rewardladder strategy wrote with output=")
    return dict(found)


def _has_switches(arm: Any) -> bool:
    """Whether an arm of `strategies.json` has its transitions, each with its number of questions."""
    transitions = arm.get("transitions") if isinstance(arm, dict) else None
    if not isinstance(transitions, dict) or not set(SWITCHES) <= set(transitions):
        return False
    return all(isinstance(cell, dict) and isinstance(cell.get("n"), int) for cell in transitions.values())


def place_of(run: Path, cell: str) -> tuple[Path, str]:
    """The run folder of a cell, and its name there."""
    label, slash, name = cell.rpartition("/")
    return (run / VARIANTS_FOLDER / label, name) if slash else (run, cell)


def _rungs(run: Path) -> dict[str, Path]:
    ladder = run / "rm" / "ladder.json"
    rows = read_json(ladder)["rungs"] if ladder.exists() else []
    return {row["rung"]: run / "rm" / row["folder"] for row in rows}


SAME_MEAN = 1e-6
"""Values by prompt that do not have the mean of the point are of another version of the run, and are not used."""


def golds_of(policy: Path, point: Point) -> dict[str, float] | None:
    """The gold of a cell's eval answers by prompt, a mean over samples; None where it is not that of the point."""
    if point["gold_mean"] is None or not (policy / ANSWERS_FILE).exists():
        return None
    values: dict[str, list[float]] = {}
    for row in read_jsonl(policy / ANSWERS_FILE):
        gold, prompt = row.get("gold"), row.get("prompt_id")
        if not isinstance(gold, int | float) or not isinstance(prompt, str):
            return None
        values.setdefault(prompt, []).append(float(gold))
    if not values:
        return None
    means = {prompt: sum(golds) / len(golds) for prompt, golds in values.items()}
    n = sum(len(golds) for golds in values.values())
    mean = sum(sum(golds) for golds in values.values()) / n
    return means if abs(mean - point["gold_mean"]) < SAME_MEAN else None
