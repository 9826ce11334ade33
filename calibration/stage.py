"""The stage `calibration`: one calibrator and one report a rung, in `runs/<name>/calibration/`.

    calibration/rung-65/calibration.json   the record that later rooms apply (`calibrator.Calibrator`)
    calibration/rung-65/report.json        before and after on the rung's pairs and on the untrained policy's answers,
                                           and how fitted units, error rates and chosen numbers came about
    calibration/summary.json               one row a rung

It reads what the room `rm` stored beside each rung (units and logits) and loads no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibration.compensation import RULES
from calibration.config import RUNG_PLACE, CalibrationTable
from calibration.maps import ByDomain, load_map
from calibration.report import answer_report, answer_row, pair_report, pair_row
from calibration.rung_calibrators import RungCalibrator, make_calibrators
from calibration.scored_text import demand_scored_text
from calibration.stage_tables import show_reports, show_units
from calibration.units import RungRows
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json, read_jsonl, write_json
from configs.runfolder import Stage, is_finished, run_stage
from configs.terminal import progress, say
from rm.rung_digest import rung_digest
from rm.units import ScoreUnits

ROOM = "calibration"
RM_ROOM = "rm"
LADDER_FILE = "ladder.json"
PAIR_LOGITS_FILE = "pair_logits.jsonl"
REFERENCE_LOGITS_FILE = "reference_logits.jsonl"
FITTED_ON_ANSWERS = ("platt", "beta", "isotonic")
REPORT_FILE = "report.json"
SUMMARY_FILE = "summary.json"
AFFINE_NOTE = (
    "This rule is an affine map of the score. GRPO with group scaling subtracts each group's mean and divides by its "
    "standard deviation, so no affine map of the score changes what the policy learns."
)

CHOSEN_NOTE = (
    "Threshold or alpha were chosen on the same answers that report.json and this table are taken on, which flatters "
    "what the rule does; the figure on held-out prompts is choice.gain."
)
FITTED_NOTE = (
    "Half of the prompts whose answers report.json is taken on are those that the map from logits to scores was fitted "
    "on; its figures on the other half are in units.figures."
)
DOMAINS_NOTE = (
    "The map has domains of its own; answers without the name of a domain, as those beside a rung, take its pooled map."
)
CUT_NOTE = (
    "This rule is an affine map of the score cut to 0 or 1. Group scaling undoes the correction for "
    "noise and leaves the cut."
)


def folder_of(experiment: Experiment) -> Path:
    """Where the calibrators lie."""
    return experiment.folder / ROOM


def run(experiment: Experiment) -> dict[str, Any]:
    """Calibrate every rung of the finished ladder, or find it done; returns the manifest.

    Raises:
        UserError: the ladder is not finished, or the table is not allowed.
    """
    table = experiment.table(ROOM, CalibrationTable)
    ladder_folder = experiment.folder / RM_ROOM
    if not is_finished(ladder_folder):
        raise UserError(f"{ladder_folder}: the ladder is not finished; run `rewardladder rm {experiment.source}` first")
    demand_scored_text(experiment, table.scored_text, table.rule)
    phrase_set = table.phrase_set()
    settings = table.model_dump(mode="json") | {
        "phrase_set": {"name": phrase_set.name, "version": phrase_set.version, "sha256": phrase_set.sha256}
    }
    maps = _map_paths(table, [entry["rung"] for entry in _rungs(ladder_folder)])
    inputs = {RM_ROOM: ladder_folder} | {f"map of rung {rung}": path for rung, path in maps.items()}
    stage = Stage(ROOM, folder_of(experiment), settings, experiment.seed, inputs)
    return run_stage(stage, lambda folder: _calibrate(folder, ladder_folder, table, maps, experiment.seed))


def show(experiment: Experiment) -> None:
    """Print before and after of every rung."""
    folder = folder_of(experiment)
    summary = read_json(folder / SUMMARY_FILE)
    reports = {rung["rung"]: read_json(folder / rung["folder"] / REPORT_FILE) for rung in summary["rungs"]}
    show_reports(f"calibration: rule {summary['rule']}, phrases {summary['phrases']}  ({folder})", summary, reports)
    for note in summary["same_answers"]:
        say(note)
    show_units(summary, reports)
    for rung in summary["rungs"]:
        if rung["choice"] is not None:
            say(f"rung {rung['rung']}, threshold {rung['threshold']:g}, alpha {rung['alpha']:g}: {rung['choice']}")


def calibrator_folder(experiment: Experiment, rung: str) -> Path:
    """The folder of a rung's calibrator in a finished stage.

    Raises:
        UserError: there is no such rung.
    """
    folder = folder_of(experiment)
    folders: dict[str, str] = {row["rung"]: row["folder"] for row in read_json(folder / SUMMARY_FILE)["rungs"]}
    if rung not in folders:
        raise UserError(f"{folder}: there is no rung {rung!r}; the rungs are {', '.join(folders)}")
    return folder / folders[rung]


def _calibrate(
    folder: Path, ladder_folder: Path, table: CalibrationTable, maps: dict[str, Path], seed: int
) -> dict[str, Any]:
    entries = _rungs(ladder_folder)
    folders = {entry["rung"]: entry["folder"] for entry in entries}
    read = [_read_rung(ladder_folder / place, rung) for rung, place in folders.items()]
    made = make_calibrators(
        read,
        table,
        {rung: load_map(path) for rung, path in maps.items()},
        {rung: rung_digest(ladder_folder / place) for rung, place in folders.items()},
        {entry["rung"]: entry["accuracy"] for entry in entries},
        seed,
    )
    rows = []
    for found, beside in progress(list(zip(made, read, strict=True)), "calibrating"):
        calibrator, place = found.calibrator, folders[beside.rung]
        calibrator.save(folder / place)
        report = {
            "rung": beside.rung,
            "pairs": pair_report(calibrator, beside.pairs, seed),
            "answers": answer_report(calibrator, beside.answers, seed),
            "units": found.units,
            "error_rates": found.rates,
            "choice": found.choice,
        }
        write_json(folder / place / REPORT_FILE, report)
        rows.append(_summary_row(place, report) | _made_row(found))
    summary = {
        "rule": table.rule,
        "what": RULES[table.rule].what,
        "threshold": None if "threshold" in table.auto else table.threshold,
        "alpha": None if "alpha" in table.auto else table.alpha,
        "auto": list(table.auto),
        "units": table.units,
        "phrases": table.phrase_set().name,
        "scored_text": table.scored_text,
        "note": CUT_NOTE if table.rule == "noise_corrected" else AFFINE_NOTE if RULES[table.rule].is_affine else "",
        "same_answers": _same_answers(table, made),
        "rungs": rows,
    }
    write_json(folder / SUMMARY_FILE, summary)
    return {"rungs": [row["rung"] for row in rows], "rule": table.rule, "phrases": summary["phrases"]}


def _same_answers(table: CalibrationTable, made: Sequence[RungCalibrator]) -> list[str]:
    """What a reader of the reports must know of the answers that they are taken on."""
    found = [CHOSEN_NOTE] if table.auto else []
    if table.units in FITTED_ON_ANSWERS:
        found.append(FITTED_NOTE)
    if any(isinstance(one.calibrator.score_map, ByDomain) for one in made):
        found.append(DOMAINS_NOTE)
    return found


def _read_rung(folder: Path, rung: str) -> RungRows:
    pairs, answers = folder / PAIR_LOGITS_FILE, folder / REFERENCE_LOGITS_FILE
    return RungRows(
        rung,
        ScoreUnits.load(folder),
        [pair_row(row, f"{pairs}, row {i}") for i, row in enumerate(read_jsonl(pairs), 1)],
        [answer_row(row, f"{answers}, row {i}") for i, row in enumerate(read_jsonl(answers), 1)]
        if answers.exists()
        else [],
    )


def _map_paths(table: CalibrationTable, rungs: list[str]) -> dict[str, Path]:
    """The file of each rung's map; empty where the table names none.

    Raises:
        UserError: one file for several rungs.
    """
    if table.map is None:
        return {}
    if RUNG_PLACE not in table.map and len(rungs) > 1:
        raise UserError(
            f"calibration.map: {table.map} would be the map of {len(rungs)} rungs, and each has logits of its own; "
            f"write {RUNG_PLACE} where the path holds the name of the rung"
        )
    try:
        return {rung: Path(table.map.replace(RUNG_PLACE, rung)).expanduser() for rung in rungs}
    except RuntimeError as error:  # the home of nobody
        raise UserError(f"calibration.map: {table.map!r} is no path ({error}); name the file of a map") from None


def _rungs(ladder_folder: Path) -> list[dict[str, Any]]:
    """Name, folder and accuracy of each rung of a ladder."""
    path = ladder_folder / LADDER_FILE
    try:
        return [
            {"rung": str(entry["rung"]), "folder": str(entry["folder"]), "accuracy": entry.get("accuracy")}
            for entry in read_json(path)["rungs"]
        ]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a ladder (rungs with rung and folder are needed)") from None


def _made_row(found: RungCalibrator) -> dict[str, Any]:
    """What the summary says of how a rung's calibrator came about."""
    settings = found.calibrator.settings
    units = found.units or {}
    figures = units.get("figures")
    return {
        "threshold": settings.threshold,
        "alpha": settings.alpha,
        "choice": None if found.choice is None else found.choice["sentence"],
        "few_prompts": units.get("few_prompts", False),
        "units_figures": None
        if figures is None
        else {
            "n": figures["map"]["n"],
            "ece_raw": figures["raw"]["ece"]["estimate"],
            "ece_rung": figures["rung"]["ece"]["estimate"],
            "ece_map": figures["map"]["ece"],
            "ece_by_chance": figures["map"]["ece_by_chance"],
            "nll_change": units["nll_change"]["from_rung"],
        },
    }


def _summary_row(folder: str, report: dict[str, Any]) -> dict[str, Any]:
    pairs, answers = report["pairs"], report["answers"] or {}
    gold = answers.get("against_gold") or {}
    return {
        "rung": report["rung"],
        "folder": folder,
        "n_pairs": pairs["n_pairs"],
        "n_answers": answers.get("n_answers", 0),
        "accuracy": pairs["accuracy"]["estimate"],
        "ece_before": _value(pairs, "before", "ece"),
        "ece_after": _value(pairs, "after", "ece"),
        "nll_before": _value(pairs, "before", "nll"),
        "nll_after": _value(pairs, "after", "nll"),
        "malformed": _value(answers, "malformed"),
        "below_threshold": _value(answers, "below_threshold"),
        "bonus_mean_below_threshold": _value(answers, "bonus_mean_below_threshold"),
        "false_negatives_lifted": _value(gold, "false_negatives", "lifted"),
        "true_negatives_lifted": _value(gold, "true_negatives", "lifted"),
        "false_negatives_rescued": _value(gold, "false_negatives", "over_threshold"),
        "true_negatives_rescued": _value(gold, "true_negatives", "over_threshold"),
        "tpr": _value(gold, "tpr"),
        "fpr": _value(gold, "fpr"),
        "precision": _value(gold, "precision"),
        "j_before": _value(gold, "j"),
        "j_after": _value(gold, "after", "j"),
        "auc_before": _value(gold, "rank", "auc", "before"),
        "auc_after": _value(gold, "rank", "auc", "after"),
        "kendall_before": _value(gold, "rank", "kendall", "before"),
        "kendall_after": _value(gold, "rank", "kendall", "after"),
        "spread_before": _value(answers, "spread_per_prompt", "before"),
        "spread_after": _value(answers, "spread_per_prompt", "after"),
        "advantage_change": _value(answers, "spread_per_prompt", "advantage_change"),
        "order_reversed": _value(answers, "order_changes", "reversed"),
        "order_agreement_before": _value(gold, "order_agreement", "before"),
        "order_agreement_after": _value(gold, "order_agreement", "after"),
    }


def _value(report: dict[str, Any], *keys: str) -> float | None:
    """The estimate under a path of keys; None where the report has no such part."""
    place: Any = report
    for key in keys:
        place = place.get(key) if place else None
    return place["estimate"] if place else None
