"""The table `calibration:` of an experiment."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from calibration.compensation import RULES, RuleName
from calibration.phrase_set import PhraseSet, load_phrase_set
from configs.loader import Table

PAPER_ALPHA = 0.1
PAPER_THRESHOLD = 0.5


class CalibrationTable(Table):
    """How logits become rewards.

    Attributes:
        rule: a rule of `compensation.RULES`; `rpr` is the paper's.
        threshold: tau, in score units; below it a score is thought too low for a good answer. The score of a typical
            untrained answer is 0.5 in a rung's units, so 0.5 compensates half of them and 0.75 nearly all.
        alpha: the largest bonus; 0.1 where the rule has one and none is given.
        phrases: name of a set in `calibration/phrases`, or the path of a YAML file with the same keys.
        scored_text: where phrases are looked for. The paper's text says `think`, its code does `both`.
        normaliser: number of phrases worth 1, where it is not the set's own.
        ngram: length of repeated word runs that are subtracted, where it is not the set's own.
        units: `rung` maps logits to 0..1 by the rung's stored units; `raw` takes the logit itself as the paper does,
            where 0.5 means something else for every rung.
        malformed_reward: reward of a response that breaks the format.
        gold_good: gold from which an answer counts as good in the report (false negatives, rescues).
    """

    rule: RuleName = "rpr"
    threshold: float = Field(default=PAPER_THRESHOLD, gt=0, le=1, allow_inf_nan=False)
    alpha: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    phrases: str = Field(default="corrected-helpsteer", min_length=1)
    scored_text: Literal["think", "answer", "both"] = "think"
    normaliser: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    ngram: int | None = Field(default=None, ge=1)
    units: Literal["rung", "raw"] = "rung"
    malformed_reward: float = Field(default=0.0, ge=-1, le=1, allow_inf_nan=False)
    gold_good: float = Field(default=0.5, gt=0, le=1, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _paper_alpha(cls, data: Any) -> Any:
        """Resolve alpha, so that a stored table says what was used."""
        if isinstance(data, dict) and data.get("alpha") is None:
            rule = RULES.get(data.get("rule", "rpr")) if isinstance(data.get("rule", "rpr"), str) else None
            return {**data, "alpha": PAPER_ALPHA if rule and rule.adds else None}
        return data

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        rule = RULES[self.rule]
        if self.alpha is not None and not rule.adds:
            raise ValueError(
                f"alpha means nothing with rule {self.rule} ({rule.what}); remove it or choose another rule"
            )
        if self.rule == "rpr_ordered" and self.units == "raw":
            raise ValueError(
                "rule rpr_ordered needs scores in 0..1, which raw logits are not; choose units: rung, or rule: rpr"
            )
        if self.rule == "rpr_ordered" and self.alpha is not None and self.alpha > self.threshold:
            raise ValueError(
                f"rule rpr_ordered with alpha {self.alpha} above threshold {self.threshold} would lift a score of 0 "
                "over the threshold; choose an alpha of at most the threshold"
            )
        if self.rule == "rpr_ordered" and self.malformed_reward > 0:
            raise ValueError(
                f"rule rpr_ordered keeps malformed responses below all others, and malformed_reward "
                f"{self.malformed_reward} is above 0; choose 0 or less"
            )
        if self.rule == "rpr_only" and self.units == "raw":
            raise ValueError("units: raw means nothing with rule rpr_only, which reads no logit; remove one of them")
        return self

    def phrase_set(self) -> PhraseSet:
        """The phrase set with the table's own normaliser and n-gram length put in."""
        return load_phrase_set(self.phrases).changed(self.normaliser, self.ngram)
