"""The one pure core: a rung's units, a phrase set and a rule, bound into a record that turns logits into rewards.

The RL callable, the file scorer and adapters for other trainers all apply this record; it is stored beside each rung's
report as `calibration.json` and holds everything it needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from calibration.compensation import RULES, is_affine, reward_of
from calibration.config import CalibrationTable
from calibration.phrase_set import PhraseSet, checked_phrase_set
from calibration.rpr import rpr
from configs.errors import UserError
from configs.records import read_json, write_json
from rm.units import ScoreUnits
from tasks.records import Response

CALIBRATOR_FILE = "calibration.json"
FORMAT = 1
KEYS = ("format", "rung", "units", "settings", "phrase_set", "phrase_set_sha256")


@dataclass(frozen=True)
class CalibratedReward:
    """What one response gets, and why.

    Attributes:
        reward: what the policy climbs.
        score: in 0..1 by the rung's units (the logit itself under `units: raw`); None where there is no logit.
        rpr: in 0..1; None for a malformed response, whose text is not measured.
        bonus: what the rule added to the score; 0 where it added nothing.
        compensated: whether the bonus is above 0.
        status: `ok`, or `malformed`.
    """

    reward: float
    score: float | None
    rpr: float | None
    bonus: float
    compensated: bool
    status: Literal["ok", "malformed"]


@dataclass(frozen=True)
class Calibrator:
    """A rung's units, a phrase set and a rule.

    Attributes:
        rung: the name of the rung, as in `ladder.json`.
        units: the rung's score units.
        phrase_set: the phrases, with normaliser and n-gram length as they are used.
        settings: rule and constants.
    """

    rung: str
    units: ScoreUnits
    phrase_set: PhraseSet
    settings: CalibrationTable

    @classmethod
    def build(cls, rung: str, units: ScoreUnits, settings: CalibrationTable) -> Calibrator:
        """Bind a table to a rung."""
        return cls(rung, units, settings.phrase_set(), settings)

    def with_settings(self, **changes: Any) -> Calibrator:
        """The same rung under another rule, phrase set or constants, for example a control; alpha goes along.

        Raises:
            UserError: the changed settings mean nothing together.
        """
        kept = self.settings.model_dump()
        if not RULES[changes.get("rule", self.settings.rule)].adds:
            del kept["alpha"]
        try:
            settings = CalibrationTable.model_validate(kept | changes)
        except ValidationError as error:
            raise UserError(f"calibration: {_reason(error)}") from None
        phrases = settings.phrase_set() if {"phrases", "normaliser", "ngram"} & changes.keys() else self.phrase_set
        return replace(self, settings=settings, phrase_set=phrases)

    @property
    def reads_score(self) -> bool:
        """Whether the rule needs the reward model at all."""
        return RULES[self.settings.rule].reads_score

    @property
    def is_affine(self) -> bool:
        """Whether the reward is an increasing affine map of the score; group scaling then makes it a no-op."""
        return is_affine(self.settings.rule)

    def score(self, logit: float) -> float:
        """The score of one logit, in 0..1, or the logit itself under `units: raw`."""
        return float(logit) if self.settings.units == "raw" else self.units.score(logit)

    def rpr(self, response: Response) -> float:
        """The RPR of a well-formed response in 0..1, over the text that the settings name."""
        answer = response.answer or ""
        text = {
            "think": response.think,
            "answer": answer,
            # the paper's code joins the two with nothing between; whole words would then grow together
            "both": response.think + ("" if self.phrase_set.matching == "substring" else "\n") + answer,
        }[self.settings.scored_text]
        return rpr(text, self.phrase_set)

    def reward(self, logit: float | None, response: Response) -> CalibratedReward:
        """The reward of one response.

        Args:
            logit: the reward model's raw output for the answer; None for a malformed response, and where the rule
                reads no score.
            response: the completion taken apart by its task.

        Raises:
            UserError: a well-formed response without a finite logit, under a rule that needs one.
        """
        s = self.settings
        if not response.well_formed:
            return CalibratedReward(s.malformed_reward, None, None, 0.0, False, "malformed")
        if logit is not None and not math.isfinite(logit):
            raise UserError(f"rung {self.rung}: the reward model gave {logit} for a well-formed answer")
        if logit is None and self.reads_score:
            raise UserError(f"rung {self.rung}: a well-formed answer has no logit, and rule {s.rule} needs one")
        score = None if logit is None else self.score(logit)
        measured = self.rpr(response)
        reward = reward_of(s.rule, score, measured, True, s.threshold, s.alpha or 0.0, s.malformed_reward)
        bonus = reward - score if score is not None and RULES[s.rule].adds else 0.0
        return CalibratedReward(reward, score, measured, bonus, bonus > 0.0, "ok")

    def rewards(self, logits: Sequence[float | None], responses: Sequence[Response]) -> list[CalibratedReward]:
        """The rewards of many responses, in their order."""
        return [self.reward(logit, response) for logit, response in zip(logits, responses, strict=True)]

    def save(self, folder: Path) -> None:
        """Write `calibration.json`."""
        write_json(
            folder / CALIBRATOR_FILE,
            {
                "format": FORMAT,
                "rung": self.rung,
                "units": asdict(self.units),
                "settings": self.settings.model_dump(mode="json"),
                "phrase_set": self.phrase_set.model_dump(mode="json"),
                "phrase_set_sha256": self.phrase_set.sha256,
            },
        )

    @classmethod
    def load(cls, folder: Path) -> Calibrator:
        """Read `calibration.json`.

        Raises:
            UserError: the file is missing, is not a calibrator or was altered.
        """
        path = folder / CALIBRATOR_FILE
        record = read_json(path)
        if not isinstance(record, dict) or sorted(record) != sorted(KEYS):
            raise UserError(f"{path}: not a calibrator; its keys are {', '.join(KEYS)}")
        if record["format"] != FORMAT:
            raise UserError(f"{path}: format {record['format']!r} is unknown; this version reads {FORMAT}")
        phrase_set = checked_phrase_set(record["phrase_set"], f"{path}, phrase_set")
        if phrase_set.sha256 != record["phrase_set_sha256"]:
            raise UserError(f"{path}: its phrases were altered since it was written; run the calibration again")
        try:
            units = ScoreUnits(**record["units"])
            settings = CalibrationTable.model_validate(record["settings"])
        except (TypeError, ValidationError, UserError) as error:
            reason = _reason(error) if isinstance(error, ValidationError) else str(error)
            raise UserError(f"{path}: not a calibrator ({reason})") from None
        if not isinstance(record["rung"], str):
            raise UserError(f"{path}: not a calibrator (rung must be a text, found {record['rung']!r})")
        return cls(record["rung"], units, phrase_set, settings)

    def refuse_other_units(self, units: ScoreUnits, where: str) -> None:
        """Refuse a rung that this calibrator was not made for.

        Raises:
            UserError: the rung's units are not the ones stored here.
        """
        if units != self.units:
            raise UserError(
                f"{where}: this rung has other score units than the calibrator of rung {self.rung} was made for; "
                "run the calibration again"
            )


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
    return f"{place}: {reason}" if place else str(reason)
