"""The stage `calibration`: one calibrator and one report a rung, in `runs/<name>/calibration/`.

    calibration/rung-65/calibration.json   the record that later rooms apply (`calibrator.Calibrator`)
    calibration/rung-65/report.json        before and after on the rung's pairs and on the untrained policy's answers
    calibration/summary.json               one row a rung

It reads what the room `rm` stored beside each rung (units and logits) and loads no model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibration.calibrator import Calibrator
from calibration.compensation import RULES
from calibration.config import CalibrationTable
from calibration.report import answer_report, answer_row, pair_report, pair_row
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json, read_jsonl, write_json
from configs.runfolder import Stage, is_finished, run_stage
from configs.terminal import progress, say, show_table
from rm.units import ScoreUnits

ROOM = "calibration"
RM_ROOM = "rm"
LADDER_FILE = "ladder.json"
PAIR_LOGITS_FILE = "pair_logits.jsonl"
REFERENCE_LOGITS_FILE = "reference_logits.jsonl"
REPORT_FILE = "report.json"
SUMMARY_FILE = "summary.json"
AFFINE_NOTE = (
    "This rule is an affine map of the score. GRPO with group scaling subtracts each group's mean and divides by its "
    "standard deviation, so no affine map of the score changes what the policy learns."
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
    phrase_set = table.phrase_set()
    settings = table.model_dump(mode="json") | {
        "phrase_set": {"name": phrase_set.name, "version": phrase_set.version, "sha256": phrase_set.sha256}
    }
    stage = Stage(ROOM, folder_of(experiment), settings, experiment.seed, {RM_ROOM: ladder_folder})
    return run_stage(stage, lambda folder: _calibrate(folder, ladder_folder, table, experiment.seed))


def show(experiment: Experiment) -> None:
    """Print before and after of every rung."""
    folder = folder_of(experiment)
    summary = read_json(folder / SUMMARY_FILE)
    rows = [
        (
            rung["rung"],
            _beside(rung["ece_before"], "→", rung["ece_after"]),
            _beside(rung["nll_before"], "→", rung["nll_after"]),
            rung["below_threshold"],
            _beside(rung["false_negatives_lifted"], " / ", rung["true_negatives_lifted"]),
            _beside(rung["spread_before"], "→", rung["spread_after"]),
            _beside(rung["order_agreement_before"], "→", rung["order_agreement_after"]),
        )
        for rung in summary["rungs"]
    ]
    show_table(
        f"calibration: rule {summary['rule']}, phrases {summary['phrases']}  ({folder})",
        (
            "rung",
            "ECE raw→units",
            "NLL raw→units",
            f"below {summary['threshold']}",
            "lifted: good / bad",
            "spread per prompt",
            "order as gold",
        ),
        rows,
    )
    say(
        "ECE and NLL of pairs by raw logits and by the rung's units; lifted: share of good and of bad answers below "
        f"the threshold that get a bonus; spread and order of the rewards before→after. {summary['note']}".strip()
    )


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


def _calibrate(folder: Path, ladder_folder: Path, table: CalibrationTable, seed: int) -> dict[str, Any]:
    rows = []
    for name, rung_name in progress(_rungs(ladder_folder), "calibrating"):
        calibrator = Calibrator.build(rung_name, ScoreUnits.load(ladder_folder / name), table)
        calibrator.save(folder / name)
        pairs, answers = ladder_folder / name / PAIR_LOGITS_FILE, ladder_folder / name / REFERENCE_LOGITS_FILE
        report = {
            "rung": rung_name,
            "pairs": pair_report(
                calibrator, [pair_row(row, f"{pairs}, row {i}") for i, row in enumerate(read_jsonl(pairs), 1)], seed
            ),
            "answers": answer_report(
                calibrator,
                [answer_row(row, f"{answers}, row {i}") for i, row in enumerate(read_jsonl(answers), 1)]
                if answers.exists()
                else [],
                seed,
            ),
        }
        write_json(folder / name / REPORT_FILE, report)
        rows.append(_summary_row(name, report))
    summary = {
        "rule": table.rule,
        "what": RULES[table.rule].what,
        "threshold": table.threshold,
        "alpha": table.alpha,
        "phrases": table.phrases,
        "scored_text": table.scored_text,
        "note": AFFINE_NOTE if RULES[table.rule].is_affine else "",
        "rungs": rows,
    }
    write_json(folder / SUMMARY_FILE, summary)
    return {"rungs": [row["rung"] for row in rows], "rule": table.rule, "phrases": table.phrases}


def _rungs(ladder_folder: Path) -> list[tuple[str, str]]:
    """(folder, name) of each rung of a ladder."""
    path = ladder_folder / LADDER_FILE
    try:
        return [(str(entry["folder"]), str(entry["rung"])) for entry in read_json(path)["rungs"]]
    except (KeyError, TypeError):
        raise UserError(f"{path}: not a ladder (rungs with rung and folder are needed)") from None


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
        "spread_before": _value(answers, "spread_per_prompt", "before"),
        "spread_after": _value(answers, "spread_per_prompt", "after"),
        "order_agreement_before": _value(gold, "order_agreement", "before"),
        "order_agreement_after": _value(gold, "order_agreement", "after"),
    }


def _value(report: dict[str, Any], *keys: str) -> float | None:
    """The estimate under a path of keys; None where the report has no such part."""
    place: Any = report
    for key in keys:
        place = place.get(key) if place else None
    return place["estimate"] if place else None


def _beside(first: float | None, between: str, second: float | None) -> str | None:
    if first is None or second is None:
        return None
    return f"{first:.3f}{between}{second:.3f}"
