"""The fields of the `policy` table for answers that are right or wrong: noise, labels, prompts, conditions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from configs.loader import Table
from policy.rewards.noise import NoiseTable

LabelKind = Literal["majority", "majority_live", "incorrect"]
"""`majority`: of the base's answers, made once; `majority_live`: of the group in hand; `incorrect`: a wrong answer."""
IncorrectLabels = Literal["paper", "truly_wrong"]
Condition = Literal["no_python", "no_repetition"]
BINARY: frozenset[str] = frozenset(
    {
        "gold",
        "one_shot",
        "majority",
        "majority_live",
        "incorrect",
        "random",
        "format",
        "python",
        "no_repetition",
        "rpr_partial",
    }
)
"""Rewards of 0 and 1, which noise can flip; of `rpr_partial` it flips whether the answer counts as right."""
OF_A_LABEL: dict[str, LabelKind] = {
    "majority": "majority",
    "majority_live": "majority_live",
    "incorrect": "incorrect",
}
"""Rewards for matching a label."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class LabelTable(Table):
    """How the base's answers to the training prompts are sampled, of which labels are made (`policy.rewards.labels`).

    Attributes:
        n_samples: answers a prompt; paper B takes 64.
        temperature: at which they are sampled, keyed by run seed, prompt and sample.
        file: samples made elsewhere instead, JSON Lines with `prompt_id` and `completion`, one row a sample.
    """

    n_samples: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    file: str | None = Field(default=None, min_length=1)


class VerifiableTable(Table):
    """What `policy.config.PolicyTable` has for tasks whose answers can be checked.

    Attributes:
        noise: flips of a reward of 0 or 1 (`policy.rewards.noise`, `BINARY`); refused beside a reward that is a number.
        random_rate: chance of reward 1 under `random`.
        labels: how the labels of `majority` and `incorrect` are made; other rewards do not read it.
        incorrect_labels: of `incorrect`. `paper`: the majority label, and only prompts whose majority is wrong are
            trained on. `truly_wrong`: the base's most frequent answer that is known to be wrong, or a made-up one where
            it has none, on all prompts.
        only_if: conditions without which a reward of any kind is 0: `no_python` (paper B's compound), `no_repetition`.
        rpr_weight: of `rpr_partial`: a wrong well-formed answer gets so much of its RPR; 1 is paper A's flag.
        rpr_warmup_steps: of `rpr_partial`: first steps in which every well-formed answer gets its RPR, right or wrong
            (paper A's correctness_warmup).
        n_train_prompts: so many training prompts, chosen by the policy's seed, instead of all; repeated until they fill
            a step. 1 for `one_shot` where neither this nor `train_prompts` is given.
        train_prompts: these training prompts by their ids, instead.
    """

    noise: NoiseTable = NoiseTable()
    random_rate: float = Field(0.5, ge=0, le=1)
    labels: LabelTable = LabelTable()
    incorrect_labels: IncorrectLabels = "paper"
    only_if: Annotated[list[Condition], BeforeValidator(_as_list)] = Field(default_factory=list)
    rpr_weight: float = Field(1.0, gt=0, le=1)
    rpr_warmup_steps: int = Field(0, ge=0)
    n_train_prompts: int | None = Field(None, ge=1)
    train_prompts: Annotated[list[str] | None, BeforeValidator(_as_list)] = Field(None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_shot_is_one_prompt(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("reward") != "one_shot":
            return data
        chosen = data.get("n_train_prompts") is not None or data.get("train_prompts") is not None
        return data if chosen else {**data, "n_train_prompts": 1}

    def refuse_unverifiable(self, reward: str) -> None:
        """Refuse combinations that mean nothing.

        Raises:
            ValueError: with the reason.
        """
        if self.noise.is_on and reward not in BINARY and reward != "untrained":
            raise ValueError(
                f"noise flips rewards of 0 and 1, and {reward} is none; it is for {', '.join(sorted(BINARY))}"
            )
        if self.n_train_prompts is not None and self.train_prompts is not None:
            raise ValueError("n_train_prompts chooses prompts, and train_prompts names them; remove one of the two")

    def offline_labels(self, kinds: set[LabelKind]) -> bool:
        """Whether labels made beforehand are read."""
        return bool(kinds & {"majority", "incorrect"})

    def unread(self, reward: str, kinds: set[LabelKind]) -> set[str]:
        """Fields of this table that a cell with this reward does not read, and those that are not set."""
        found = set() if self.offline_labels(kinds) else {"labels"}
        found |= set() if "incorrect" in kinds else {"incorrect_labels"}
        found |= set() if reward == "rpr_partial" else {"rpr_weight", "rpr_warmup_steps"}
        return found | {name for name in ("only_if", "n_train_prompts", "train_prompts") if not getattr(self, name)}

    def label(self, reward: str) -> str:
        """What tells a cell apart from others of the same reward, for its name."""
        words = [self.noise.label] if reward in BINARY else []
        if reward == "incorrect" and self.incorrect_labels == "truly_wrong":
            words.append("_truly_wrong")
        if reward == "rpr_partial":
            words += [f"_w{self.rpr_weight:g}"] if self.rpr_weight != 1 else []
            words += [f"_warm{self.rpr_warmup_steps}"] if self.rpr_warmup_steps else []
        words += [f"_{condition}" for condition in self.only_if]
        if self.n_train_prompts is not None and (reward, self.n_train_prompts) != ("one_shot", 1):
            words.append(f"_{self.n_train_prompts}prompts")
        if self.train_prompts is not None:
            words.append(f"_{len(self.train_prompts)}named")
        return "".join(words)
