"""Noise on verifiable rewards: which true rewards are given flipped. Pure; imports no torch.

Each setting is a field, where the papers' repositories draw from an unseeded global generator or parse a name. Every
draw is keyed by seed, prompt, sample and step (`configs.keyed`), so a resumed run, another batch size, another order of
prompts or another engine gives the same flips.

The two papers' rules:

- `paper_a` (arXiv 2505.22653; its reward manager, naive.py): symmetric flips with chance p, one draw for a question's
  whole group, drawn anew each time the question comes up; an answer without an extractable box keeps its 0. So at any p
  the reward still tells form from no form.
- `paper_b` (arXiv 2506.10947; `random0.5` in auto_verify.py): 1 with chance gamma for every response by itself,
  whatever it holds, malformed or not. As flips: a right answer is flipped with chance 1 - gamma, a wrong one with
  gamma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from configs.keyed import keyed_uniform
from configs.loader import Table

Unit = Literal["sample", "group", "prompt"]
PURPOSE = "reward noise"


class NoiseTable(Table):
    """Noise on a binary reward; all zero is no noise.

    Attributes:
        false_negative_rate: chance that a true reward of 1 is given as 0.
        false_positive_rate: chance that a true reward of 0 is given as 1.
        flip_rate: both of these at once, instead of them.
        unit: what shares one draw: each `sample` by itself; the `group` of a prompt's samples at one step; or the
            `prompt`, a fixed set of prompts whose rewards are always flipped.
        resampled: whether a unit draws anew at each step (or the number that counts visits); a fixed draw of a `sample`
            belongs to prompt and sample number. A `prompt` never draws anew, and a `group` that never does is one.
        malformed: what happens to an answer that keeps no format, whose true reward is 0: `flipped` like every other,
            or `exempt`, which is paper A's rule and leaves a clean reward for form in the noise.
    """

    false_negative_rate: float | None = Field(default=None, ge=0, le=1)
    false_positive_rate: float | None = Field(default=None, ge=0, le=1)
    flip_rate: float | None = Field(default=None, ge=0, le=1)
    unit: Unit = "sample"
    resampled: bool = True
    malformed: Literal["flipped", "exempt"] = "flipped"

    @model_validator(mode="before")
    @classmethod
    def _a_prompt_is_fixed(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("unit") == "prompt" and "resampled" not in data:
            return {**data, "resampled": False}
        return data

    @model_validator(mode="after")
    def _combinations(self) -> NoiseTable:
        if self.flip_rate is not None and (self.false_negative_rate, self.false_positive_rate) != (None, None):
            raise ValueError("flip_rate sets both rates; give it or false_negative_rate and false_positive_rate")
        if self.unit == "prompt" and self.resampled:
            raise ValueError("unit prompt is fixed for the whole run; set resampled: false, or unit: group")
        if self.unit == "group" and not self.resampled:
            raise ValueError("a group that is not resampled is a prompt; set unit: prompt")
        return self

    def rate(self, true: float) -> float:
        """The chance that a true reward, 0 or 1, is flipped."""
        if self.flip_rate is not None:
            return self.flip_rate
        return (self.false_negative_rate if true else self.false_positive_rate) or 0.0

    @property
    def is_on(self) -> bool:
        """Whether anything can be flipped."""
        return self.rate(0.0) > 0 or self.rate(1.0) > 0

    @property
    def label(self) -> str:
        """What tells this noise apart in a cell's name; empty without noise."""
        if not self.is_on:
            return ""
        rates = (
            f"flip{self.rate(0.0):g}"
            if self.rate(0.0) == self.rate(1.0)
            else f"fn{self.rate(1.0):g}fp{self.rate(0.0):g}"
        )
        unit = "" if self.unit == "sample" else f"_{self.unit}"
        more = ("" if self.resampled or self.unit == "prompt" else "_fixed") + (
            "_exempt" if self.malformed == "exempt" else ""
        )
        return f"_{rates}{unit}{more}"

    @property
    def informativeness(self) -> float:
        """J = TPR - FPR = 1 - false negatives - false positives: above 0 the noise slows, at 0 nothing is learned."""
        return 1.0 - self.rate(1.0) - self.rate(0.0)


class Judged(NamedTuple):
    """One completion with its true reward.

    Attributes:
        prompt_id, sample, step: what its draws are keyed by; `step` is the optimizer step of the rollout.
        true: 0 or 1; None where it is not known, which stays None.
        well_formed: whether the completion keeps the task's format.
    """

    prompt_id: str
    sample: int
    step: int
    true: float | None
    well_formed: bool = True


@dataclass(frozen=True)
class Given:
    """The reward that is given, and whether it is the true one's opposite; both None where the truth is not known."""

    reward: float | None
    flipped: bool | None


def add_noise(judged: Sequence[Judged], table: NoiseTable, seed: int) -> list[Given]:
    """The rewards as the noise gives them.

    One uniform draw u in [0, 1) a unit: a reward is flipped if u < its rate. With rates of their own, the right and the
    wrong samples of one group so share a draw, too, and raising a rate only adds flips.

    Args:
        judged: in any order and any batch; each row's result depends on nothing but the row.
        table: the noise.
        seed: of the policy.

    Raises:
        ValueError: a true reward other than 0 and 1.
    """
    return [_given(one, table, seed) for one in judged]


def _given(one: Judged, table: NoiseTable, seed: int) -> Given:
    if one.true is None:
        return Given(None, None)
    if one.true not in (0.0, 1.0):
        raise ValueError(f"noise flips rewards of 0 and 1; {one.prompt_id} has {one.true}")
    if not one.well_formed and table.malformed == "exempt":
        return Given(float(one.true), False)
    flipped = draw(one, table, seed) < table.rate(one.true)
    return Given(1.0 - one.true if flipped else float(one.true), flipped)


def draw(one: Judged, table: NoiseTable, seed: int) -> float:
    """The draw in [0, 1) of the unit that a completion belongs to."""
    key: dict[str, tuple[str | int, ...]] = {
        "prompt": (one.prompt_id,),
        "group": (one.prompt_id, one.step),
        "sample": (one.prompt_id, one.sample, one.step) if table.resampled else (one.prompt_id, one.sample),
    }
    return keyed_uniform(seed, PURPOSE, table.unit, *key[table.unit])


def paper_a(flip_rate: float) -> NoiseTable:
    """Paper A's noise at flip rate p (module docstring)."""
    return NoiseTable(flip_rate=flip_rate, unit="group", resampled=True, malformed="exempt")


def paper_b(gamma: float) -> NoiseTable:
    """Paper B's random(gamma) as flips of the true reward (module docstring)."""
    return NoiseTable(
        false_negative_rate=1.0 - gamma, false_positive_rate=gamma, unit="sample", resampled=True, malformed="flipped"
    )
