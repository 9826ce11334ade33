"""Opens the core from what there is: a run's folder, a rung's folder and its calibrator, or the address of a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from calibration.calibrator import CALIBRATOR_FILE, Calibrator
from calibration.config import CalibrationTable
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from configs.runfolder import MANIFEST
from policy.adapters.core import NO_LIMIT, CompletionReward
from policy.adapters.reading import Reader, TextReader
from policy.adapters.settings import AdapterTable, Format
from policy.rewards.table import REWARDS, LogitSource, RewardSettings
from policy.rewards.verifiable_table import OF_A_LABEL
from rm.answer_form import AnswerForm
from rm.rung_digest import rung_digest
from rm.serving.client import ServedRung
from rm.units import ScoreUnits

BATCH_TOKENS = 16384
NOT_OUTSIDE = frozenset({"length", *OF_A_LABEL})
"""Parts of a graph that count tokens or look at the other completions of a prompt, which trainers hand over by one."""


def open_reward(table: AdapterTable) -> CompletionReward:
    """The reward that an adapter's settings describe, ready to be asked.

    Raises:
        UserError: a folder or the server is not there, the calibrator is of another rung, or settings mean nothing.
    """
    if table.of_server:
        return _of_server(table)
    task = None if table.run is None else task_record(table.run)
    name = table.rung if table.rung_folder is None else table.rung_folder.name.removeprefix("rung-")
    settings = _settings(table, name)
    rung = table.rung_folder or (None if table.rung is None else _rung_of_run(table, table.rung))
    reader = reader_of(table.response_format, task, AnswerForm() if rung is None else AnswerForm.of_rung(rung))
    folders = {other: rung if rung and other == name else _rung_of_run(table, other) for other in settings.table.rungs}
    found = {other: _calibrator_of(table, folder) for other, folder in folders.items()}
    settings = _with_calibrators(settings, found, partial(_own_calibration, table, found))
    sources = {other: _source(table, folder) for other, folder in folders.items()}
    return CompletionReward(settings, reader, sources, _knows_gold(task, table.response_format))


def reader_of(response_format: Format, task: Mapping[str, Any] | None, form: AnswerForm) -> Reader:
    """What takes completions apart.

    Args:
        response_format: as in the settings.
        task: the settings of the run's task; None where there is no run.
        form: of the rung.

    Raises:
        UserError: it is left to a task that is not known.
    """
    if response_format != "task":
        return TextReader(response_format, form)
    if task is None:
        raise UserError("response_format: task is read from a run, and none is named; choose tagged, plain or any")
    from tasks.table import load_task

    return load_task(Experiment("the run's task", "", 0, Path(), {"tasks": dict(task)}))


def task_record(run: Path) -> dict[str, Any]:
    """The settings of a run's task, from its manifest.

    Raises:
        UserError: the run has no finished task.
    """
    return dict(_settings_of(run.expanduser(), "tasks"))


def _settings_of(run: Path, room: str) -> Any:
    path = run / room / MANIFEST
    if not path.exists():
        raise UserError(f"{run}: no run with a finished stage {room} ({path} is not there)")
    return read_json(path)["made_from"]["settings"]


def _knows_gold(task: Mapping[str, Any] | None, response_format: Format) -> bool:
    return task is not None and response_format == "task" and task.get("task") != "preference"


def _rung_of_run(table: AdapterTable, name: str) -> Path:
    if table.run is None:
        raise UserError(
            f"rung {name} is not the one of rung_folder, and no run is named that could hold it; name one: run"
        )
    ladder = table.run.expanduser() / "rm"
    folder = ladder / f"rung-{name}"
    if not folder.is_dir():
        there = ", ".join(sorted(path.name.removeprefix("rung-") for path in ladder.glob("rung-*"))) or "none"
        raise UserError(f"{ladder}: there is no rung {name}; there are: {there}")
    return folder


def _calibrator_of(table: AdapterTable, rung: Path) -> Calibrator:
    own = rung.expanduser().absolute().parent.parent / "calibration" / rung.name
    folder = own if table.calibrator is None else table.calibrator.expanduser()
    if table.calibrator is None and not (own / CALIBRATOR_FILE).exists():
        raise UserError(
            f"{rung}: it has no calibrator ({own / CALIBRATOR_FILE} is not there); name its folder: calibrator"
        )
    calibrator = Calibrator.load(folder)
    calibrator.refuse_other_rung(rung.expanduser())
    return calibrator


def _settings(table: AdapterTable, rung: str | None) -> RewardSettings:
    policy = table.policy_table(rung)
    for name, part in ({} if policy.graph is None else policy.graph.parts).items():
        if part.kind in NOT_OUTSIDE:
            raise UserError(
                f"policy.graph: part {name} is of kind {part.kind}, which needs the tokens or the other completions of "
                "a prompt; trainers outside hand over one text at a time"
            )
    return RewardSettings(policy, table.seed, NO_LIMIT, None)


def _with_calibrators(
    settings: RewardSettings, found: Mapping[str, Calibrator], own: Callable[[], CalibrationTable]
) -> RewardSettings:
    """The settings with a calibrator for each rung; `own` is the calibration of rewards and parts that read none."""
    policy = settings.table
    if policy.reward == "graph" and policy.graph is not None:
        of_parts: dict[str, Calibrator] = {}
        for name, part in policy.graph.parts.items():
            if part.kind == "rpr":
                changes: dict[str, Any] = {"phrases": part.phrases, "scored_text": part.scored_text}
                given = {key: value for key, value in changes.items() if value is not None}
                of_parts[name] = Calibrator.without_rung(own(), "rpr_only").with_settings(**given)
        return replace(settings, calibrators={**found, **of_parts})
    rule = REWARDS[policy.reward].rule
    if found:
        calibrator = next(iter(found.values()))
        return replace(settings, calibrator=calibrator if rule is None else calibrator.with_settings(rule=rule))
    if rule is not None:
        return replace(settings, calibrator=Calibrator.without_rung(own(), rule))
    return settings


def _own_calibration(table: AdapterTable, found: Mapping[str, Calibrator]) -> CalibrationTable:
    """The run's calibration table: the phrases of rewards that read no rung."""
    if found:
        return next(iter(found.values())).settings
    if table.run is not None:
        record = dict(_settings_of(table.run.expanduser(), "calibration"))
        given = {key: record[key] for key in record if key in CalibrationTable.model_fields}
        return Experiment("the run's calibration", "", 0, Path(), {"calibration": given}).table(
            "calibration", CalibrationTable
        )
    raise UserError(f"reward {table.reward} needs the phrases of a calibration, and no run is named; name one: run")


def _source(table: AdapterTable, folder: Path) -> LogitSource:
    folder = folder.expanduser()
    if table.server is None:
        import torch

        from rm.scorer import RungScorer
        from tasks.torch_setup import prepare_torch

        prepare_torch(table.cpu_threads)
        return RungScorer(folder, BATCH_TOKENS, "cuda" if torch.cuda.is_available() else "cpu")
    served = _served(table, folder.name, ScoreUnits.load(folder))
    if served.description().get("rung_sha256") != rung_digest(folder):
        raise UserError(
            f"{table.server}: the served rung is not the one in {folder} (other weights, tokenizer, template or base); "
            "serve this one, or leave run and rung_folder out to use the server's own calibrator"
        )
    return served


def _served(table: AdapterTable, rung: str, units: ScoreUnits | None) -> ServedRung:
    return ServedRung(str(table.server), rung, units, table.api_key_env, table.timeout_s, table.patience_s)


def _of_server(table: AdapterTable) -> CompletionReward:
    """The core of a server's own rung, calibrator and task; one core everywhere, only logits travel."""
    place = f"{table.server}/calibration"
    record = _served(table, "", None).description()
    if record.get("calibrator") is None:
        raise UserError(
            f"{place}: the served rung has no calibrator; serve a rung of a calibrated run, or start the server with "
            "calibrator=FOLDER"
        )
    calibrator = Calibrator.of_record(record["calibrator"], place)
    if record.get("rung_sha256") != calibrator.rung_sha256:
        raise UserError(f"{place}: its calibrator was made for another rung than the served one; calibrate again")
    served_format: Format = record.get("response_format") or "any"
    chosen: Format = served_format if table.response_format == "task" else table.response_format
    task = record.get("task")
    reader = reader_of(chosen, task, AnswerForm.of_card(record))
    settings = _settings(table, calibrator.rung)
    for rung in settings.table.rungs:
        if rung != calibrator.rung:
            raise UserError(f"{place}: serves rung {calibrator.rung}, and the reward reads rung {rung}")
    named = dict.fromkeys(settings.table.rungs, calibrator)
    settings = _with_calibrators(settings, named, lambda: calibrator.settings)
    sources = {rung: _served(table, str(record.get("rung")), calibrator.units) for rung in named}
    return CompletionReward(settings, reader, sources, _knows_gold(task, chosen))
