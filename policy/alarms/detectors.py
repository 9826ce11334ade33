"""Signs of an ill run, found in the figures of its steps: pure functions, no torch.

RL runs die silently: rewards that do not differ, answers that are all cut, a policy that says one short thing. Each
detector reads the history of one run and gives what it found at the last step, or None; figures that a run does not
have (no reference, no gold) are passed over. What is found is compared as `policy.alarms.table.AlarmTable` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policy.alarms.table import Action, AlarmName, AlarmRule, AlarmTable

Floats = NDArray[np.float64]

RUN_LENGTH = 4
"""Tokens of the runs that `repeated_share` compares, as seq-rep-4 does (Welleck et al. 2020)."""
GRADIENT_AND_LOSS = ("loss", "grad_norm")
"""Endings of the figures that must be numbers."""


class History:
    """The figures of a run's training steps, in order: one column a figure, NaN where a step does not have it."""

    def __init__(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self.steps: list[int] = []
        self.columns: dict[str, list[float]] = {}
        self.broken: list[tuple[str, ...]] = []
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of `metrics.jsonl`, in which a figure that is no number is null; rows without a loss are looks."""
        if "loss" not in row:
            return
        place = len(self.steps)
        self.steps.append(int(row["step"]))
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.columns.setdefault(name, [math.nan] * place).append(float(value))
        for column in self.columns.values():
            column.extend([math.nan] * (place + 1 - len(column)))
        unfit = (None, math.inf, -math.inf)
        self.broken.append(
            tuple(
                name
                for name, value in row.items()
                if name.endswith(GRADIENT_AND_LOSS) and (value in unfit or value != value)
            )
        )

    def known(self, *names: str) -> list[Floats]:
        """The columns of these figures at the steps that have all of them; each of shape (steps,)."""
        if any(name not in self.columns for name in names):
            return [np.zeros(0) for _ in names]
        columns = [np.array(self.columns[name]) for name in names]
        kept = np.logical_and.reduce([np.isfinite(column) for column in columns])
        return [column[kept] for column in columns]


class Finding(NamedTuple):
    """What a detector found: the figure that is compared, the sentence that says so, and what is allowed."""

    found: float
    what: str
    allowed: str


@dataclass(frozen=True)
class Alarm:
    """One alarm of one run, a row of `alarms.jsonl`.

    Attributes:
        step: the step after which it rose.
        alarm, action: as in the table.
        found: the figure compared; `threshold` and `window` as in the table.
        what, allowed, advice: for people.
    """

    step: int
    alarm: AlarmName
    action: Action
    found: float
    threshold: float
    window: int
    what: str
    allowed: str
    advice: str

    def line(self) -> str:
        """One line: where, what was found, what is allowed, what to try."""
        return f"policy: step {self.step}: {self.what}; allowed is {self.allowed}; {self.advice} ({self.alarm})"

    def row(self) -> dict[str, Any]:
        """The alarm as plain JSON."""
        return asdict(self)


def repeated_share(tokens: Sequence[int], n: int = RUN_LENGTH) -> float:
    """Share of the runs of `n` tokens that occurred before in the same text: 1 - #different / #all, in 0..1.

    A text that says one thing over and over approaches 1. Shorter texts than n tokens repeat nothing.
    """
    runs = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def window_means(values: Floats, window: int) -> Floats:
    """Means of each `window` values in a row, shape (N - window + 1,); empty where there are fewer."""
    if len(values) < window:
        return np.zeros(0)
    means: Floats = np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=-1)
    return means


def detect(history: History, rules: Mapping[AlarmName, AlarmRule]) -> list[Alarm]:
    """The alarms that hold at the last step of a history, in the order of the table."""
    found = []
    for name, rule in rules.items():
        detector = DETECTORS[name]
        finding = detector.find(history, rule)
        if finding is not None:
            settings = {"action": rule.action, "threshold": rule.threshold, "window": rule.window}
            found.append(
                Alarm(
                    step=history.steps[-1],
                    alarm=name,
                    found=finding.found,
                    what=finding.what,
                    allowed=finding.allowed,
                    advice=detector.advice,
                    **settings,  # type: ignore[arg-type]
                )
            )
    return found


def replay(rows: Sequence[Mapping[str, Any]], table: AlarmTable) -> list[Alarm]:
    """The alarms of a whole run in the order in which they rose; one that goes on is named once."""
    history, rules, alarms, held = History(), table.rules(), list[Alarm](), set[str]()
    for row in rows:
        before = len(history.steps)
        history.add(row)
        if len(history.steps) > before:
            now = detect(history, rules)
            alarms.extend(alarm for alarm in now if alarm.alarm not in held)
            held = {alarm.alarm for alarm in now}
    return alarms


def _not_a_number(history: History, rule: AlarmRule) -> Finding | None:
    recent = history.broken[-rule.window :]
    bad = sum(bool(names) for names in recent)
    if bad <= rule.threshold:
        return None
    names = " and ".join(dict.fromkeys(name for names in recent for name in names))
    return Finding(bad, f"{names} no number in {bad} of the last {rule.window} steps", f"at most {rule.threshold:g}")


def _constant_reward(history: History, rule: AlarmRule) -> Finding | None:
    rewards, spreads = history.known("reward", "reward_std")
    if len(spreads) < rule.window or spreads[-rule.window :].max() > rule.threshold:
        return None
    mean = float(rewards[-rule.window :].mean())
    if spreads.max() > rule.threshold and mean >= rewards[: rule.window].mean():
        return None  # it differed once and is now the same good reward everywhere: nothing is left to climb
    what = f"every completion of the last {rule.window} steps was given the same reward, {mean:.3f}"
    return Finding(float(spreads[-rule.window :].max()), what, f"a standard deviation above {rule.threshold:g}")


def _mean_at_least(name: str, what: str) -> Callable[[History, AlarmRule], Finding | None]:
    """A detector of a figure whose mean over the window reaches the threshold."""

    def find(history: History, rule: AlarmRule) -> Finding | None:
        means = window_means(history.known(name)[0], rule.window)
        if not len(means) or means[-1] < rule.threshold:
            return None
        sentence = f"{what} is {means[-1]:.3f} over {rule.window} steps"
        return Finding(float(means[-1]), sentence, f"below {rule.threshold:g}")

    return find


def _length_collapse(history: History, rule: AlarmRule) -> Finding | None:
    means = window_means(history.known("completions/mean_length")[0], rule.window)
    if len(means) < 2 or means[-1] > rule.threshold * means.max():
        return None
    what = f"completions shrank from {means.max():.1f} to {means[-1]:.1f} tokens"
    return Finding(float(means[-1] / means.max()), what, f"above {rule.threshold:g} of the longest")


def _length_blow_up(history: History, rule: AlarmRule) -> Finding | None:
    means = window_means(history.known("completions/mean_length")[0], rule.window)
    if len(means) < 2 or means[-1] < rule.threshold * means[0]:
        return None
    what = f"completions grew from {means[0]:.1f} to {means[-1]:.1f} tokens"
    return Finding(float(means[-1] / means[0]), what, f"below {rule.threshold:g} times the first")


def _entropy_collapse(history: History, rule: AlarmRule) -> Finding | None:
    means = window_means(history.known("entropy")[0], rule.window)
    if len(means) < 2 or means[-1] > rule.threshold * means[0]:
        return None
    what = f"the entropy of a token fell from {means[0]:.3f} to {means[-1]:.3f} nats"
    return Finding(float(means[-1] / means[0]), what, f"above {rule.threshold:g} of the first")


def _no_clipping(history: History, rule: AlarmRule) -> Finding | None:
    means = window_means(history.known("clip_ratio/region_mean")[0], rule.window)
    if not len(means) or means[-1] > rule.threshold:
        return None
    what = f"clipping held back {means[-1]:.2g} of the tokens over {rule.window} steps"
    return Finding(float(means[-1]), what, f"above {rule.threshold:g}")


def _reward_up_while_down(name: str, words: str) -> Callable[[History, AlarmRule], Finding | None]:
    """A detector of a figure that falls from its highest window while the reward does not fall."""

    def find(history: History, rule: AlarmRule) -> Finding | None:
        rewards, values = history.known("reward", name)
        means, reward_means = window_means(values, rule.window), window_means(rewards, rule.window)
        if not len(means):
            return None
        best = int(means.argmax())
        fall = float(means[best] - means[-1])
        if fall < rule.threshold or reward_means[-1] < reward_means[best]:
            return None
        what = (
            f"{words} fell from {means[best]:.3f} to {means[-1]:.3f} while the reward rose from "
            f"{reward_means[best]:.3f} to {reward_means[-1]:.3f}"
        )
        return Finding(fall, what, f"a fall below {rule.threshold:g}")

    return find


class Detector(NamedTuple):
    """How an alarm is found, and what to try when it is."""

    find: Callable[[History, AlarmRule], Finding | None]
    advice: str


DETECTORS: dict[AlarmName, Detector] = {
    "not_a_number": Detector(_not_a_number, "lower policy.learning_rate"),
    "constant_reward": Detector(
        _constant_reward, "look at completions.parquet: does the format ever fit, and does the reward read the answer?"
    ),
    "no_spread": Detector(
        _mean_at_least("frac_reward_zero_std", "the share of groups whose rewards are all equal"),
        "take harder or easier prompts, raise policy.num_generations, or stop here",
    ),
    "all_truncated": Detector(
        _mean_at_least("completions/clipped_ratio", "the share of completions cut by the limit"),
        "raise policy.max_completion_length, or look whether the policy still ends its answers",
    ),
    "length_collapse": Detector(
        _length_collapse, "the reward may favour short answers: try reward rpr, policy.beta, or a better rung"
    ),
    "length_blow_up": Detector(_length_blow_up, "try policy.loss_type=dr_grpo, and look at what the reward pays for"),
    "entropy_collapse": Detector(_entropy_collapse, "lower policy.learning_rate or raise policy.epsilon_high"),
    "repetition": Detector(
        _mean_at_least("repetition", f"the share of {RUN_LENGTH}-token runs that are repeats"),
        "the reward pays for repetition: try reward rpr, which subtracts it, or policy.beta",
    ),
    "kl_explosion": Detector(
        _mean_at_least("kl", "the KL divergence a token from the reference"),
        "lower policy.learning_rate or raise policy.beta",
    ),
    "sampler_difference": Detector(
        _mean_at_least("sampling/sampling_logp_difference/mean", "the sampler's log-probability differs: the mean"),
        "sampler and trainer do not hold the same policy: look at their dtype, and at how weights reach the sampler",
    ),
    "reward_up_gold_down": Detector(
        _reward_up_while_down("gold", "gold"),
        "the policy exploits the reward: stop earlier (policy.keep), try reward rpr or a better rung",
    ),
    "reward_up_format_down": Detector(
        _reward_up_while_down("well_formed", "the share of well-formed completions"),
        "the reward pays for broken answers: look at calibration.malformed_reward",
    ),
    "no_clipping": Detector(
        _no_clipping, "raise policy.num_mini_batches or policy.learning_rate, or lower policy.epsilon"
    ),
}
