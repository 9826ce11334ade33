"""The table `policy.alarms`: which signs of an ill run are looked for, where each begins, and what then happens.

`policy.alarms.length_collapse=stop` changes the action alone; `policy.alarms.length_collapse.threshold=0.3` a number.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.loader import Table

Action = Literal["off", "warn", "stop", "roll_back"]
AlarmName = Literal[
    "not_a_number",
    "constant_reward",
    "no_spread",
    "all_truncated",
    "length_collapse",
    "length_blow_up",
    "entropy_collapse",
    "repetition",
    "kl_explosion",
    "sampler_difference",
    "reward_up_gold_down",
    "reward_up_format_down",
    "no_clipping",
]


class AlarmRule(Table):
    """One alarm.

    Attributes:
        action: `off`: not looked for; `warn`: recorded and said, training goes on; `stop`: the cell ends with an
            error and is not finished; `roll_back`: training goes on from the last checkpoint before the window in
            which the alarm rose, with a lower learning rate.
        threshold: the first value at which the alarm speaks; what is compared stands in `AlarmTable`.
        window: how many steps in a row are looked at together; none speaks before so many steps.
    """

    action: Action
    threshold: float = Field(ge=0)
    window: int = Field(ge=1, le=10_000)

    @field_validator("action", mode="before")
    @classmethod
    def _off_as_text(cls, value: object) -> object:
        """YAML reads `off` as false."""
        return "off" if value is False else value


def _rule(action: Action, threshold: float, window: int) -> AlarmRule:
    return AlarmRule(action=action, threshold=threshold, window=window)


class AlarmTable(Table):
    """One entry an alarm, and what a roll-back does. Figures are means over `window` steps of `metrics.jsonl`.

    Attributes:
        not_a_number: steps of the window whose loss or gradient is NaN or infinite, above `threshold`.
        constant_reward: standard deviation of a step's rewards at most `threshold` in every step of the window, where
            rewards never differed or are lower than they were at the start; a policy that reached the top is not ill.
        no_spread: share of groups whose rewards are all equal; such a group teaches nothing.
        all_truncated: share of completions cut by the limit.
        length_collapse: length in tokens as a share of the highest window so far, at most `threshold`.
        length_blow_up: length as a multiple of the first window's.
        entropy_collapse: entropy of the policy's tokens as a share of the first window's, at most `threshold`.
        repetition: share of 4-token runs that the completion already held.
        kl_explosion: KL divergence from the reference a token, in nats; known where `beta` is above 0.
        sampler_difference: mean difference between the trainer's and the sampler's log-probability of a token, in
            nats; known where another program samples.
        reward_up_gold_down: by how much gold fell from its highest window while the reward did not fall.
        reward_up_format_down: by how much the share of well-formed completions fell likewise.
        no_clipping: share of tokens that teach nothing because their ratio left the range of `epsilon`, at most
            `threshold`. For studies of clipping, where an arm whose clip never acts shows nothing; off by default,
            because most runs neither need nor have one.
        max_roll_backs: after so many the next one stops the cell.
        learning_rate_factor: what each roll-back multiplies the learning rate by.
    """

    not_a_number: AlarmRule = _rule("stop", 0, 1)
    constant_reward: AlarmRule = _rule("stop", 1e-6, 10)
    no_spread: AlarmRule = _rule("warn", 0.95, 10)
    all_truncated: AlarmRule = _rule("stop", 0.95, 5)
    length_collapse: AlarmRule = _rule("warn", 0.5, 5)
    length_blow_up: AlarmRule = _rule("warn", 8, 5)
    entropy_collapse: AlarmRule = _rule("warn", 0.05, 5)
    repetition: AlarmRule = _rule("warn", 0.5, 5)
    kl_explosion: AlarmRule = _rule("warn", 2.0, 3)
    sampler_difference: AlarmRule = _rule("warn", 0.1, 5)
    reward_up_gold_down: AlarmRule = _rule("warn", 0.1, 10)
    reward_up_format_down: AlarmRule = _rule("warn", 0.1, 10)
    no_clipping: AlarmRule = _rule("off", 1e-4, 40)
    max_roll_backs: int = Field(default=2, ge=0, le=100)
    learning_rate_factor: float = Field(default=0.5, gt=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _over_the_defaults(cls, data: object) -> object:
        """An alarm may be given by its action alone, or by some of its fields; the others keep their defaults."""
        if not isinstance(data, dict):
            return data
        found: dict[str, Any] = {}
        for name, given in data.items():
            default = cls.model_fields[name].default if name in cls.model_fields else None
            if isinstance(default, AlarmRule) and (isinstance(given, str) or given is False):
                given = {"action": given}
            if isinstance(default, AlarmRule) and isinstance(given, dict):
                given = default.model_dump() | given
            found[name] = given
        return found

    def rules(self) -> dict[AlarmName, AlarmRule]:
        """The alarms that are looked for, by name."""
        every = {name: getattr(self, name) for name in AlarmName.__args__}  # type: ignore[attr-defined]
        return {name: rule for name, rule in every.items() if rule.action != "off"}

    def longest_way_back(self) -> int:
        """The longest window of an alarm that rolls back, in steps; 0 where none does."""
        return max((rule.window for rule in self.rules().values() if rule.action == "roll_back"), default=0)

    def deciding(self) -> dict[str, Any]:
        """The settings that change what a finished cell holds: those of alarms that roll back.

        `warn` and `stop` change nothing in a cell that was finished, so they may be changed between two runs of the
        same command, for example to go on after a stop.
        """
        rolling = {
            name: rule.model_dump(mode="json") for name, rule in self.rules().items() if rule.action == "roll_back"
        }
        if not rolling:
            return {}
        return rolling | {"max_roll_backs": self.max_roll_backs, "learning_rate_factor": self.learning_rate_factor}
