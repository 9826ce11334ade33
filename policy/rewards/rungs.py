"""The rungs that a cell's reward reads: loaded here, on the policy's own base, or served elsewhere; each calibrated."""

from __future__ import annotations

from typing import Any

from torch import nn

import calibration.stage
import rm.stage
from calibration.calibrator import Calibrator
from calibration.config import CalibrationTable
from calibration.scored_text import demand_scored_text
from configs.loader import Experiment
from configs.terminal import say
from policy.config import PolicyTable
from policy.rewards.table import REWARDS, LogitSource
from rm.scorer import RungScorer
from rm.serving.client import ServedRung
from rm.shared_base import share_base
from rm.units import ScoreUnits

BATCH_TOKENS = 16384


def open_rungs(experiment: Experiment, table: PolicyTable, policy: nn.Module, device: str) -> dict[str, LogitSource]:
    """What gives the logits of each rung of the reward, by the rung's name.

    Args:
        policy: the policy, whose frozen base the rung reads under `share_base`.
        device: of the rungs that are loaded here.

    Raises:
        UserError: a rung cannot be loaded, or the server's key is not set.
    """
    opened: dict[str, LogitSource] = {}
    for name in table.rungs:
        folder = rm.stage.rung_folder(experiment, name)
        if table.rung_server is not None:
            opened[name] = ServedRung(
                table.rung_server, folder.name, ScoreUnits.load(folder), api_key_env=table.rung_server_key_env
            )
            continue
        scorer = RungScorer(folder, BATCH_TOKENS, "cpu" if table.share_base else device)
        if table.share_base:
            scorer.model.requires_grad_(False)
            saved = share_base(scorer.model, policy)
            scorer.model.to(device)
            say(f"rung {name} reads the policy's base: {saved / 2**30:.2f} GiB less")
        opened[name] = scorer
    return opened


def open_calibrators(experiment: Experiment, table: PolicyTable) -> dict[str, Calibrator]:
    """The calibrators of a graph: of each rung, and of each part that measures RPR; none for other rewards."""
    if table.reward != "graph" or table.graph is None:
        return {}
    found = {name: _of_rung(experiment, name) for name in table.graph.rungs}
    own = experiment.table(calibration.stage.ROOM, CalibrationTable)
    for name, part in table.graph.parts.items():
        if part.kind == "rpr":
            changes: dict[str, Any] = {"phrases": part.phrases, "scored_text": part.scored_text}
            given = {key: value for key, value in changes.items() if value is not None}
            found[name] = Calibrator.without_rung(own, "rpr_only").with_settings(**given)
            demand_scored_text(experiment, found[name].settings.scored_text, "rpr_only")
    return found


def load_calibrator(experiment: Experiment, table: PolicyTable) -> Calibrator | None:
    """The calibrator that turns this cell's logits into rewards; None for rewards that need none."""
    row = REWARDS[table.reward]
    if table.rung is not None:
        calibrator = _of_rung(experiment, table.rung)
        found = calibrator if row.rule is None else calibrator.with_settings(rule=row.rule)
    elif row.rule is not None:
        found = Calibrator.without_rung(experiment.table(calibration.stage.ROOM, CalibrationTable), row.rule)
    else:
        return None
    demand_scored_text(experiment, found.settings.scored_text, found.settings.rule)
    return found


def _of_rung(experiment: Experiment, name: str) -> Calibrator:
    calibrator = Calibrator.load(calibration.stage.calibrator_folder(experiment, name))
    calibrator.refuse_other_rung(rm.stage.rung_folder(experiment, name))
    return calibrator
