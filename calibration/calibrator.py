"""The one pure core: a rung's units, a phrase set and a rule, bound into a record that turns logits into rewards.

The RL callable, the server, the file scorer and adapters for other trainers all apply this record; it is stored beside
each rung's report as `calibration.json` and holds everything it needs, the rung's digest among it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from calibration.compensation import RULES, is_affine, malformed_reward_of, reward_of, rule_named
from calibration.config import CalibrationTable
from calibration.maps import ByDomain, ScoreMap, map_from_record
from calibration.measured import Measured, constants_of
from calibration.phrase_set import PhraseSet, checked_phrase_set
from calibration.rpr import rpr
from configs.errors import UserError
from configs.records import read_json, sha256_of_record, write_json
from rm.rung_digest import rung_digest
from rm.units import ScoreUnits
from tasks.records import Response

Floats = NDArray[np.float64]
CALIBRATOR_FILE = "calibration.json"
FORMAT = 2
KEYS = (
    "format",
    "rung",
    "rung_sha256",
    "units",
    "map",
    "settings",
    "measured",
    "phrase_set",
    "phrase_set_sha256",
    "sha256",
)
OWN_PHRASES = frozenset({"phrases", "control_phrases", "normaliser", "ngram", "counting", "cap"})
NO_UNITS = ScoreUnits(centre=0.0, scale=1.0, reference="no reward model", n_reference=0)
"""What a calibrator without a reward model holds in the place of units; they are never read."""


@dataclass(frozen=True)
class CalibratedReward:
    """What one response gets, and why.

    Attributes:
        reward: what the policy climbs.
        score: in 0..1 by the calibrator's units (the logit itself under `units: raw`); None where there is no logit.
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
        units: the rung's own score units.
        phrase_set: the phrases that the rule reads, with normaliser, n-gram length and counting as they are used.
        settings: rule and constants; the numbers in the place of `auto` are the chosen ones.
        score_map: from logits to scores, where the settings name other units than `rung` and `raw`.
        measured: what the rule needs of the reference answers.
        rung_sha256: the rung's digest (`rm.rung_digest`); None for a calibrator that belongs to no rung on disk.
    """

    rung: str
    units: ScoreUnits
    phrase_set: PhraseSet
    settings: CalibrationTable
    score_map: ScoreMap | None = None
    measured: Measured = field(default_factory=Measured)
    rung_sha256: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot give a reward.

        Raises:
            UserError: units without their map, or a rule whose constants are not known or allow no reward.
        """
        s = self.settings
        if (self.score_map is None) != (s.units in ("rung", "raw")):
            found = "none is there" if self.score_map is None else "one is there"
            raise UserError(f"rung {self.rung}: units: {s.units}, and {found} of the maps from logits to scores")
        constants_of(self.rung, s, self.measured)

    @classmethod
    def build(
        cls,
        rung: str,
        units: ScoreUnits,
        settings: CalibrationTable,
        score_map: ScoreMap | None = None,
        measured: Measured | None = None,
        rung_sha256: str | None = None,
    ) -> Calibrator:
        """Bind a table to a rung."""
        return cls(rung, units, settings.phrase_set(), settings, score_map, measured or Measured(), rung_sha256)

    @classmethod
    def without_rung(cls, settings: CalibrationTable, rule: str) -> Calibrator:
        """The calibrator of a rule that reads no reward model, with the table's phrases and constants."""
        return cls.build("none", NO_UNITS, _changed(settings, {"rule": rule}))

    def with_settings(self, **changes: Any) -> Calibrator:
        """The same rung under another rule, phrase set or constants, for example a control; alpha goes along.

        Settings that mean nothing under another rule are left behind.

        Raises:
            UserError: the changed settings mean nothing together, or the rule's constants are not known.
        """
        settings = _changed(self.settings, changes)
        same = settings.units == self.settings.units
        other_list = OWN_PHRASES & changes.keys() or "random_phrases" in (settings.rule, self.settings.rule)
        return replace(
            self,
            settings=settings,
            phrase_set=settings.phrase_set() if other_list else self.phrase_set,
            score_map=self.score_map if same else None,
        )

    @property
    def reads_score(self) -> bool:
        """Whether the rule needs the reward model at all."""
        return RULES[self.settings.rule].reads_score

    @property
    def is_affine(self) -> bool:
        """Whether the reward is an increasing affine map of the score; group scaling then makes it a no-op."""
        return is_affine(self.settings.rule)

    def score(self, logit: float, domain: str | None = None) -> float:
        """The score of one logit, in 0..1, or the logit itself under `units: raw`.

        Args:
            logit: the rung's raw output.
            domain: of the prompt, for a map with domains; None and unknown ones take its pooled map.
        """
        return float(self.scores(np.array([logit], dtype=np.float64), [domain])[0])

    def scores(self, logits: Floats, domains: Sequence[str | None] | None = None) -> Floats:
        """The scores of many logits, shape (N,); `domains` as for one."""
        if self.settings.units == "raw":
            return np.asarray(logits, dtype=np.float64)
        if isinstance(self.score_map, ByDomain):
            return self.score_map.scores(logits, domains)
        return (self.units if self.score_map is None else self.score_map).scores(logits)

    def scored_text(self, response: Response) -> str:
        """The text of a well-formed response that is searched for phrases and measured in length."""
        answer = response.answer or ""
        return {
            "think": response.think,
            "answer": answer,
            # the paper's code joins the two with nothing between; whole words would then grow together
            "both": response.think + ("" if self.phrase_set.matching == "substring" else "\n") + answer,
        }[self.settings.scored_text]

    def rpr(self, response: Response) -> float:
        """The RPR of a well-formed response in 0..1, over the text that the settings name."""
        return rpr(self.scored_text(response), self.phrase_set)

    def reward(self, logit: float | None, response: Response, domain: str | None = None) -> CalibratedReward:
        """The reward of one response.

        Args:
            logit: the reward model's raw output for the answer; None for a malformed response, and where the rule
                reads no score.
            response: the completion taken apart by its task.
            domain: of the prompt, for a map with domains.

        Raises:
            UserError: a well-formed response without a finite logit, under a rule that needs one.
        """
        s = self.settings
        constants = constants_of(self.rung, s, self.measured)
        if not response.well_formed:
            reward = malformed_reward_of(s.rule, s.malformed_reward, constants)
            return CalibratedReward(reward, None, None, 0.0, False, "malformed")
        if logit is not None and not math.isfinite(logit):
            raise UserError(f"rung {self.rung}: the reward model gave {logit} for a well-formed answer")
        if logit is None and self.reads_score:
            raise UserError(f"rung {self.rung}: a well-formed answer has no logit, and rule {s.rule} needs one")
        score = None if logit is None else self.score(logit, domain)
        given = replace(constants, score=score or 0.0, rpr=self.rpr(response), length=self._length(response))
        reward = reward_of(s.rule, given)
        bonus = reward - score if score is not None and RULES[s.rule].adds else 0.0
        return CalibratedReward(reward, score, given.rpr, bonus, bonus > 0.0, "ok")

    def rewards(
        self,
        logits: Sequence[float | None],
        responses: Sequence[Response],
        domains: Sequence[str | None] | None = None,
    ) -> list[CalibratedReward]:
        """The rewards of many responses, in their order."""
        named = [None] * len(responses) if domains is None else domains
        return [
            self.reward(logit, response, domain)
            for logit, response, domain in zip(logits, responses, named, strict=True)
        ]

    @property
    def sha256(self) -> str:
        """The digest of everything in the record."""
        return sha256_of_record(self._record())

    def save(self, folder: Path) -> None:
        """Write `calibration.json`."""
        write_json(folder / CALIBRATOR_FILE, self.record())

    def record(self) -> dict[str, Any]:
        """What `of_record` reads, as plain JSON."""
        return self._record() | {"sha256": self.sha256}

    def _record(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "rung": self.rung,
            "rung_sha256": self.rung_sha256,
            "units": asdict(self.units),
            "map": None if self.score_map is None else self.score_map.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
            "measured": asdict(self.measured),
            "phrase_set": self.phrase_set.model_dump(mode="json"),
            "phrase_set_sha256": self.phrase_set.sha256,
        }

    @classmethod
    def load(cls, folder: Path) -> Calibrator:
        """Read `calibration.json`.

        Raises:
            UserError: the file is missing, is not a calibrator, is of another format or was altered.
        """
        path = folder / CALIBRATOR_FILE
        try:
            record = read_json(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
        return cls.of_record(record, str(path))

    @classmethod
    def of_record(cls, record: Any, path: str) -> Calibrator:
        """A calibrator from its record, for example one that a server sent; `path` says where it came from.

        Raises:
            UserError: it is not a calibrator, is of another format or was altered.
        """
        if isinstance(record, dict) and record.get("format", FORMAT) != FORMAT:
            raise UserError(
                f"{path}: format {record['format']!r} is not the one that this version reads, {FORMAT}, which is bound "
                "to its rung by hash; delete the folder `calibration` of the run and calibrate again"
            )
        if not isinstance(record, dict) or sorted(record) != sorted(KEYS):
            raise UserError(f"{path}: not a calibrator; its keys are {', '.join(KEYS)}")
        phrase_set = checked_phrase_set(record["phrase_set"], f"{path}, phrase_set")
        if phrase_set.sha256 != record["phrase_set_sha256"]:
            raise UserError(f"{path}: its phrases were altered since it was written; run the calibration again")
        score_map = None if record["map"] is None else map_from_record(record["map"], f"{path}, map")
        if not isinstance(record["rung"], str):
            raise UserError(f"{path}: not a calibrator (rung must be a text, found {record['rung']!r})")
        try:
            units = ScoreUnits(**record["units"])
            settings = CalibrationTable.model_validate(record["settings"])
            measured = Measured(**record["measured"])
        except (TypeError, ValidationError, UserError) as error:
            reason = _reason(error) if isinstance(error, ValidationError) else str(error)
            raise UserError(f"{path}: not a calibrator ({reason})") from None
        try:
            sha256 = sha256_of_record({key: record[key] for key in KEYS[:-1]})
        except ValueError:  # NaN or an infinity, which no record holds
            sha256 = None
        if sha256 != record["sha256"] or sha256 is None:
            raise UserError(f"{path}: altered since it was written (its SHA-256 is another); run the calibration again")
        return cls(record["rung"], units, phrase_set, settings, score_map, measured, record["rung_sha256"])

    def refuse_other_rung(self, folder: Path) -> None:
        """Refuse a rung that this calibrator was not made for.

        Args:
            folder: the rung's.

        Raises:
            UserError: the rung's units, weights, tokenizer, template or base are not those that were calibrated.
        """
        what = "other score units" if ScoreUnits.load(folder) != self.units else None
        if what is None and rung_digest(folder) != self.rung_sha256:
            what = "other weights, tokenizer, template or base"
        if what is not None:
            raise UserError(
                f"{folder}: this rung has {what} than the calibrator of rung {self.rung} was made for; run the "
                "calibration again"
            )

    def _length(self, response: Response) -> float:
        """Length of the scored text as a share of the full length, at most 1; 0 under rules that do not read it."""
        full = self.settings.full_length or self.measured.full_length
        if self.settings.rule != "length" or full is None:
            return 0.0
        return min(1.0, len(self.scored_text(response)) / full)


def _changed(settings: CalibrationTable, changes: dict[str, Any]) -> CalibrationTable:
    """A table with changes; what means nothing under another rule is dropped.

    Raises:
        UserError: the changed settings mean nothing together.
    """
    kept = settings.model_dump()
    rule = rule_named(changes.get("rule", settings.rule))
    if rule is not None and not rule.adds:
        kept |= {"alpha": None, "auto": ()}
    if rule is not None and not rule.reads_score:
        kept |= {"units": "rung", "map": None}
    try:
        return CalibrationTable.model_validate(kept | changes)
    except ValidationError as error:
        raise UserError(f"calibration: {_reason(error)}") from None


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
    return f"{place}: {reason}" if place else str(reason)
