"""The table `calibration:` of an experiment."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from calibration.compensation import RULES, RuleName, rule_named
from calibration.phrase_set import Counting, PhraseSet, load_phrase_set
from configs.loader import Table

PAPER_ALPHA = 0.1
PAPER_THRESHOLD = 0.5
AUTO = "auto"
FittedUnits = Literal["temperature", "platt", "beta", "isotonic", "quantile", "reference"]
FITTED_UNITS: tuple[FittedUnits, ...] = ("temperature", "platt", "beta", "isotonic", "quantile", "reference")
RUNG_PLACE = "{rung}"
"""Stands for the name of a rung in the path of a map."""


class CalibrationTable(Table):
    """How logits become rewards.

    Attributes:
        rule: a rule of `compensation.RULES`; `rpr` is the paper's.
        threshold: tau, in score units; below it a score is thought too low for a good answer. The score of a typical
            untrained answer is 0.5 in a rung's units, so 0.5 compensates half of them and 0.75 nearly all. `auto`
            chooses it for each rung on answers known to be good or bad (`calibration.choice`).
        alpha: the largest bonus; 0.1 where the rule has one and none is given; or `auto`, as the threshold.
        auto: which of the two are chosen; it stands in a record beside the numbers that were.
        phrases: name of a set in `calibration/phrases`, or the path of a YAML file with the same keys.
        control_phrases: the same for the rule `random_phrases`, which reads no other.
        scored_text: where phrases are looked for and length is measured. The paper's text says `think`, its code does
            `both`.
        normaliser: number of phrases worth 1, where it is not the set's own; `n` is the number of its phrases.
        ngram: length of repeated word runs that are subtracted, where it is not the set's own.
        counting: whether a phrase counts once (`presence`) or up to `cap` times (`frequency`), where it is not the
            set's own.
        cap: the most that one phrase counts under `frequency`.
        units: how logits become scores. `rung`: 0..1 by the rung's stored units. `raw`: the logit itself as the paper
            does, where 0.5 means something else for every rung. `platt`, `beta`, `isotonic`: the chance that the answer
            is good; `temperature`, `reference`: that it beats the median untrained answer, or one at random;
            `quantile`: the share of untrained answers below it; all fitted for each rung (`calibration.units`).
            `file`: the map of `map`.
        map: path of a map that `rewardladder fit` wrote; `{rung}` in it stands for the name of the rung.
        malformed_reward: reward of a response that breaks the format.
        gold_good: gold from which an answer counts as good.
        full_length: characters of text worth the whole bonus of the rule `length`; where it is not given, the length
            that 95% of the reference answers do not exceed.
        spread: standard deviation of the scores of the reference answers under the rule `variance_matched`.
        spread_of: the rung that it is taken from instead; without either, the most accurate rung.
        cut: the score from which the rule `noise_corrected` takes an answer as good, as the threshold is none of its
            own; where it is not given, the one that tells good from bad best on half of the labelled answers, or the
            threshold where rates are given.
        rho0, rho1: rates of bad answers at or above the cut and of good ones below it; where they are not given,
            estimated on answers known to be good or bad (the other half of them, where the cut was looked for).

    What only another rule reads is allowed, because a policy's reward may name that rule.
    """

    rule: RuleName = "rpr"
    threshold: float = Field(default=PAPER_THRESHOLD, gt=0, le=1, allow_inf_nan=False)
    alpha: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    auto: tuple[Literal["threshold", "alpha"], ...] = ()
    phrases: str = Field(default="corrected-helpsteer", min_length=1)
    control_phrases: str = Field(default="advice-random", min_length=1)
    scored_text: Literal["think", "answer", "both"] = "think"
    normaliser: float | Literal["n"] | None = None
    ngram: int | None = Field(default=None, ge=1)
    counting: Counting | None = None
    cap: int | None = Field(default=None, ge=1)
    units: Literal["rung", "raw", FittedUnits, "file"] = "rung"
    map: str | None = Field(default=None, min_length=1)
    malformed_reward: float = Field(default=0.0, ge=-1, le=1, allow_inf_nan=False)
    gold_good: float = Field(default=0.5, gt=0, le=1, allow_inf_nan=False)
    full_length: int | None = Field(default=None, ge=1, le=10**9)
    spread: float | None = Field(default=None, ge=1e-9, le=1e9)
    spread_of: str | None = Field(default=None, min_length=1)
    cut: float | None = Field(default=None, gt=0, le=1)
    rho0: float | None = Field(default=None, ge=0, lt=1)
    rho1: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, data: Any) -> Any:
        """Put in what follows from what is given, so that a stored table says what was used."""
        if not isinstance(data, dict):
            return data
        found = dict(data)
        for key in ("threshold", "alpha"):
            if found.get(key) == AUTO:
                del found[key]
                found["auto"] = [*dict.fromkeys([*found.get("auto", ()), key])]
            elif isinstance(found.get(key), str):
                raise ValueError(f"{key} must be a number above 0 and at most 1, or auto; found {found[key]!r}")
        if found.get("alpha") is None:
            rule = rule_named(found.get("rule", "rpr"))
            found["alpha"] = PAPER_ALPHA if rule and rule.adds else None
        if found.get("map") is not None:
            found.setdefault("units", "file")
        if isinstance(found.get("spread_of"), int):
            found["spread_of"] = str(found["spread_of"])  # YAML reads a rung's name as a number
        return found

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        for refusal in (self._rule_refusal(), self._auto_refusal(), self._units_refusal(), self._constants_refusal()):
            if refusal is not None:
                raise ValueError(refusal)
        return self

    def _rule_refusal(self) -> str | None:
        rule = RULES[self.rule]
        if self.alpha is not None and not rule.adds:
            return (
                f"alpha means nothing with rule {self.rule} ({rule.what}); remove it or choose another rule, on a "
                "command line calibration.alpha=null"
            )
        if self.rule in ("rpr_ordered", "noise_corrected") and self.units == "raw":
            return f"rule {self.rule} needs scores in 0..1, which raw logits are not; choose units: rung, or rule: rpr"
        if self.rule == "rpr_only" and self.units != "rung":
            return f"units: {self.units} means nothing with rule rpr_only, which reads no logit; remove one of them"
        if self.rule == "rpr_ordered" and self.alpha is not None and self.alpha > self.threshold and not self.auto:
            return (
                f"rule rpr_ordered with alpha {self.alpha} above threshold {self.threshold} would lift a score of 0 "
                "over the threshold; choose an alpha of at most the threshold"
            )
        if self.rule == "rpr_ordered" and self.malformed_reward > 0:
            return (
                f"rule rpr_ordered keeps malformed responses below all others, and malformed_reward "
                f"{self.malformed_reward} is above 0; choose 0 or less"
            )
        if self.rule == "noise_corrected" and self.malformed_reward > 0:
            return (
                f"rule noise_corrected takes a malformed response as a 0, and malformed_reward "
                f"{self.malformed_reward} is above 0; choose 0 or less"
            )
        return None

    def _auto_refusal(self) -> str | None:
        if not self.auto:
            return None
        if not RULES[self.rule].adds:
            return f"{self.auto[0]}: auto means nothing with rule {self.rule}, which adds no bonus; give numbers"
        if self.units == "raw":
            return f"{self.auto[0]}: auto looks among scores in 0..1, which raw logits are not; choose other units"
        return None

    def _units_refusal(self) -> str | None:
        if self.units == "file" and self.map is None:
            return "units: file needs the path of a map that `rewardladder fit` wrote; add map: PATH"
        if self.units != "file" and self.map is not None:
            return f"map means nothing with units: {self.units}; remove one of them"
        return None

    def _constants_refusal(self) -> str | None:
        if isinstance(self.normaliser, float) and self.normaliser <= 0:
            return f"normaliser must be above 0, or n for the number of phrases; found {self.normaliser:g}"
        if self.cap is not None and self.counting == "presence":
            return "cap means nothing with counting: presence; remove it or write counting: frequency"
        if self.spread is not None and self.spread_of is not None:
            return "spread is a number and spread_of the rung that it is taken from; give one of them"
        if (self.rho0 is None) != (self.rho1 is None):
            return "rho0 and rho1 go together; give both, or neither to have them estimated"
        if self.rho0 is not None and self.rho1 is not None and self.rho0 + self.rho1 >= 1:
            return (
                f"rho0 {self.rho0} and rho1 {self.rho1} sum to 1 or more: such a score says nothing of the truth, or "
                "the reverse; give rates with a sum below 1"
            )
        return None

    def phrase_set(self) -> PhraseSet:
        """The phrase set that the rule reads, with the table's own normaliser, n-gram length and counting put in.

        Raises:
            UserError: there is no such set, or it cannot be counted so.
        """
        name = self.control_phrases if self.rule == "random_phrases" else self.phrases
        return load_phrase_set(name).changed(self.normaliser, self.ngram, self.cap, self.counting)

    def chosen(self, threshold: float, alpha: float | None) -> CalibrationTable:
        """The same table with the numbers that were chosen for `auto`."""
        return CalibrationTable.model_validate(self.model_dump() | {"threshold": threshold, "alpha": alpha})
