"""Alarms: each detector on a history made by hand, each alarm in a real small run, silence in a healthy one."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import policy.stage
from configs.errors import UserError
from configs.loader import Experiment, read_words
from configs.records import read_json, read_jsonl
from policy.alarms.callback import ALARMS_FILE, read_alarms
from policy.alarms.detectors import DETECTORS, repeated_share, replay
from policy.alarms.table import AlarmTable
from policy.best_of_n import BestOfNTable, run
from policy.config import PolicyTable
from policy.stage import cell_folder
from policy.updates.critic import Critic

HEALTHY = {
    "loss": 0.1,
    "grad_norm": 0.5,
    "reward": 0.5,
    "reward_std": 0.3,
    "frac_reward_zero_std": 0.1,
    "gold": 0.5,
    "well_formed": 0.98,
    "entropy": 0.7,
    "completions/mean_length": 100.0,
    "completions/clipped_ratio": 0.02,
    "repetition": 0.05,
    "kl": 0.05,
    "sampling/sampling_logp_difference/mean": 0.01,
    "clip_ratio/region_mean": 0.01,
}


def history(steps: int = 40, **changed: Any) -> list[dict[str, Any]]:
    """A healthy run whose figures `changed` are a number, or a function of the step."""
    rows = [{"step": 0, "dev/gold_mean": 0.4}]
    for step in range(1, steps + 1):
        own = {name: value(step) if callable(value) else value for name, value in changed.items()}
        rows.append({"step": step, **HEALTHY, **own})
    return rows


def found(rows: list[dict[str, Any]], **table: Any) -> dict[str, int]:
    """The alarms of a history and the step at which each rose first."""
    first: dict[str, int] = {}
    for alarm in replay(rows, AlarmTable(**table)):
        first.setdefault(alarm.alarm, alarm.step)
    return first


LENGTH = "completions/mean_length"


@pytest.mark.parametrize(
    ("changed", "alarms"),
    [
        ({"loss": lambda step: None if step == 7 else 0.1}, {"not_a_number": 7}),
        ({"grad_norm": lambda step: math.inf if step == 9 else 0.5}, {"not_a_number": 9}),
        ({"reward_std": 0.0}, {"constant_reward": 10}),
        (
            {"reward_std": lambda step: 0.3 * (step < 5), "reward": lambda step: 0.5 * (step < 5)},
            {"constant_reward": 14},
        ),
        ({"reward_std": lambda step: 0.3 * (step < 5), "reward": lambda step: 1.0 - 0.5 * (step < 5)}, {}),
        ({"frac_reward_zero_std": 0.97}, {"no_spread": 10}),
        ({"frac_reward_zero_std": 0.9}, {}),
        ({"completions/clipped_ratio": lambda step: float(step > 10)}, {"all_truncated": 15}),
        ({LENGTH: lambda step: 300.0 if step <= 20 else 6.0}, {"length_collapse": 23}),
        ({LENGTH: lambda step: 100 + 10 * step if step <= 20 else 130.0}, {"length_collapse": 25}),
        ({LENGTH: lambda step: 100 - step}, {}),
        ({LENGTH: lambda step: 100.0 * 1.15**step}, {"length_blow_up": 20}),
        ({"entropy": lambda step: 0.7 * 0.8**step}, {"entropy_collapse": 19}),
        ({"entropy": lambda step: 0.7 * 0.97**step}, {}),
        ({"repetition": lambda step: step / 40}, {"repetition": 22}),
        ({"kl": lambda step: 0.1 * step}, {"kl_explosion": 21}),
        ({"sampling/sampling_logp_difference/mean": 0.2}, {"sampler_difference": 5}),
        ({"reward": lambda s: 0.5 + s / 100, "gold": lambda s: 0.5 - s / 99}, {"reward_up_gold_down": 20}),
        ({"reward": lambda s: 0.5 - s / 100, "gold": lambda s: 0.5 - s / 100}, {}),
        ({"reward": lambda s: 0.5 + s / 100, "well_formed": lambda s: 1 - s / 49}, {"reward_up_format_down": 15}),
        ({}, {}),
    ],
)
def test_each_alarm_speaks_at_the_step_worked_out_by_hand(changed: dict[str, Any], alarms: dict[str, int]) -> None:
    assert found(history(**changed)) == alarms


def test_every_alarm_has_a_detector_and_a_history_that_sets_it_off() -> None:
    assert set(DETECTORS) == {*AlarmTable().rules(), "no_clipping"}  # off where it is not asked for


def test_an_alarm_rises_once_and_again_after_it_was_silent() -> None:
    rows = history()
    for row in rows[1:]:
        row["completions/clipped_ratio"] = float(row["step"] <= 8 or row["step"] >= 20)
    assert [alarm.step for alarm in replay(rows, AlarmTable())] == [5, 24]


def test_figures_that_a_run_does_not_have_set_nothing_off() -> None:
    rows = [{"step": step, "loss": 0.0, "grad_norm": 0.0} for step in range(1, 30)]
    assert found(rows) == {}
    late = history(num_iterations=2)
    for row in late[2::2]:
        for name in ("reward", "reward_std", "gold", LENGTH):  # a second update of the same rollout has none
            row.pop(name, None)
    assert found(late) == {}


def test_a_clip_that_never_acts_is_called_only_where_it_is_asked_for() -> None:
    rows = history(**{"clip_ratio/region_mean": lambda step: 0.1 * (step == 1)})
    assert found(rows) == {}
    assert found(rows, no_clipping="warn") == {}  # 0.1 / 40 is above 1e-4
    assert found(rows, no_clipping={"action": "warn", "window": 10}) == {"no_clipping": 11}
    assert found(history(**{"clip_ratio/region_mean": 0.0}), no_clipping="warn") == {"no_clipping": 40}


@pytest.mark.parametrize("words", [["epsilon=null", "num_mini_batches=8"], []])
def test_where_nothing_can_be_clipped_the_alarm_is_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="nothing is ever clipped with epsilon null, or with one update a rollout"):
        read_words(["reward=random", "alarms.no_clipping=stop", *words], PolicyTable, "policy")
    read_words(["reward=random", "alarms.no_clipping=stop", "num_mini_batches=2"], PolicyTable, "policy")


def test_a_line_says_where_what_is_allowed_and_what_to_try() -> None:
    line = replay(history(**{LENGTH: lambda step: 300.0 if step <= 20 else 6.0}), AlarmTable())[0].line()
    assert line == (
        "policy: step 23: completions shrank from 300.0 to 123.6 tokens; allowed is above 0.5 of the longest; the "
        "reward may favour short answers: try reward rpr, policy.beta, or a better rung (length_collapse)"
    )


def test_repeated_share_by_hand() -> None:
    assert repeated_share([1, 2, 3, 4, 5]) == 0.0
    assert repeated_share([1, 2, 3]) == 0.0
    assert repeated_share([7] * 10) == pytest.approx(6 / 7)
    assert repeated_share([1, 2, 1, 2, 1, 2, 1, 2]) == pytest.approx(3 / 5)


def test_the_table_takes_an_action_alone_and_keeps_the_other_defaults() -> None:
    _, table = read_words(
        ["alarms.length_collapse=stop", "alarms.no_spread=off", "alarms.repetition.threshold=0.2"],
        PolicyTable,
        "policy",
    )
    rules = table.alarms.rules()
    assert "no_spread" not in rules
    assert (rules["length_collapse"].action, rules["length_collapse"].threshold) == ("stop", 0.5)
    assert (rules["repetition"].action, rules["repetition"].threshold) == ("warn", 0.2)
    assert "alarms" not in table.deciding()
    rolling = PolicyTable(alarms={"length_collapse": "roll_back"})  # type: ignore[arg-type]
    assert rolling.deciding()["alarms"]["length_collapse"]["window"] == 5
    for words, message in (
        (["alarms.lenght_collapse=stop"], "did you mean alarms.length_collapse"),
        (["alarms.length_collapse=halt"], "choose off, warn, stop or roll_back"),
        (["alarms.length_collapse.window=0"], "greater than or equal to 1"),
    ):
        with pytest.raises(UserError, match=message):
            read_words(words, PolicyTable, "policy")


def made(small: Experiment, **settings: Any) -> Path:
    cell = small.with_overrides({f"policy.{key}": value for key, value in settings.items()})
    policy.stage.run(cell)
    return cell_folder(cell)


def short_windows(**actions: str) -> dict[str, Any]:
    rules: dict[str, Any] = {name: {"action": "warn", "window": 3} for name in AlarmTable().rules()}
    return rules | {name: {"action": action, "window": 3} for name, action in actions.items()}


def test_constant_rewards_end_the_cell_and_it_goes_on_where_they_may(
    small: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"reward": "random", "random_rate": 1.0, "seed": 11, "dev_every": 0}
    with pytest.raises(
        UserError, match=r"step 3: every completion of the last 3 steps was given the same reward, 1\.000"
    ):
        made(small, **settings, alarms=short_windows(constant_reward="stop"))
    folder = cell_folder(small.with_overrides({f"policy.{key}": value for key, value in settings.items()}))
    assert not (folder / "manifest.json").exists()
    assert {row["alarm"]: row["action"] for row in read_alarms(folder)} == {
        "constant_reward": "stop",
        "no_spread": "warn",
    }
    assert made(small, **settings, alarms=short_windows()) == folder
    policy.stage.show(small.with_overrides({"policy.reward": "random", "policy.seed": 11}))
    assert "what to try" in capsys.readouterr().out
    summary = read_json(folder / "manifest.json")["summary"]
    assert summary["alarms"]["no_spread"] == {"times": 1, "first_step": 3, "roll_backs": 0}


def test_all_truncated_ends_the_cell_by_default(small: Experiment) -> None:
    with pytest.raises(UserError, match=r"step 5: the share of completions cut by the limit is 1\.000.*max_completion"):
        made(small, reward="gold", max_completion_length=2, seed=12, dev_every=0)


def test_a_large_step_sets_off_what_it_breaks(small: Experiment) -> None:
    alarms = short_windows() | {
        "length_blow_up": {"threshold": 2, "window": 3},
        "entropy_collapse": {"threshold": 0.75, "window": 3},
    }
    settings: dict[str, Any] = {"learning_rate": 1e-2, "max_steps": 12, "dev_every": 0, "alarms": alarms}
    longer = {row["alarm"] for row in read_alarms(made(small, reward="length", beta=0.001, seed=3, **settings))}
    assert longer >= {
        *("reward_up_gold_down", "reward_up_format_down", "kl_explosion", "repetition", "constant_reward"),
        *("length_blow_up", "entropy_collapse", "no_spread"),
    }
    shorter = {row["alarm"] for row in read_alarms(made(small, reward="format", seed=5, **settings))}
    assert "length_collapse" in shorter


def test_a_healthy_run_is_silent_by_default(small: Experiment) -> None:
    folder = made(small, reward="gold", max_steps=24, seed=14, beta=0.001, dev_every=0)
    assert (folder / ALARMS_FILE).read_text() == ""
    assert read_json(folder / "manifest.json")["summary"]["alarms"] == {}


def test_no_numbers_end_the_cell(small: Experiment) -> None:
    with pytest.raises(UserError, match=r"no number.*lower policy\.learning_rate.*The cell stops here"):
        made(small, reward="length", learning_rate=1e30, seed=15, dev_every=0)


def test_a_roll_back_goes_to_the_checkpoint_before_with_a_lower_rate(small: Experiment) -> None:
    alarms = {"constant_reward": {"action": "roll_back", "window": 3}, "max_roll_backs": 2, "no_spread": "off"}
    settings: dict[str, Any] = {"reward": "random", "random_rate": 1.0, "save_steps": 1, "dev_every": 0}
    with pytest.raises(UserError, match="Rolled back 2 times already"):
        made(small, **settings, seed=16, alarms=alarms, learning_rate=8e-4, warmup_steps=0)
    folder = cell_folder(small.with_overrides({"policy.reward": "random", "policy.seed": 16}))
    rows = read_alarms(folder)
    assert [(row["step"], row["to_step"], row["learning_rate_factor"]) for row in rows] == [(3, 0, 0.5), (3, 0, 0.25)]
    rates = [row["learning_rate"] for row in read_jsonl(folder / "metrics.jsonl")]
    assert rates == pytest.approx([2e-4] * 3)


def test_a_run_that_was_sent_back_once_goes_on_to_its_end(small: Experiment) -> None:
    alarms: dict[str, Any] = dict.fromkeys(AlarmTable().rules(), "off")
    alarms |= {"length_blow_up": {"action": "roll_back", "threshold": 2.5, "window": 1}, "learning_rate_factor": 1e-4}
    settings: dict[str, Any] = {"learning_rate": 1e-2, "warmup_steps": 0, "max_steps": 5, "dev_every": 0}
    folder = made(small, reward="length", seed=17, save_steps=1, alarms=alarms, **settings)
    rolled = [row for row in read_alarms(folder) if row["action"] == "roll_back"]
    assert len(rolled) == 1 and rolled[0]["to_step"] == rolled[0]["step"] - 2
    rates = {row["step"]: row["learning_rate"] for row in read_jsonl(folder / "metrics.jsonl")}
    assert rates == pytest.approx({step: 1e-2 if step <= rolled[0]["to_step"] else 1e-6 for step in range(1, 6)})
    assert read_json(folder / "manifest.json")["summary"]["alarms"]["length_blow_up"]["roll_backs"] == 1


def test_a_roll_back_lowers_the_critics_rate_too(small: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = Critic.step

    def watched(critic: Critic, rate_factor: float = 1.0) -> float:
        norm = step(critic, rate_factor)
        rates.append(critic.optimizer.param_groups[0]["lr"])
        return norm

    monkeypatch.setattr(Critic, "step", watched)
    alarms = {"constant_reward": {"action": "roll_back", "window": 2}, "max_roll_backs": 1, "no_spread": "off"}
    settings: dict[str, Any] = {"reward": "random", "random_rate": 1.0, "save_steps": 1, "dev_every": 0, "seed": 18}
    with pytest.raises(UserError, match="Rolled back 1 times already"):
        made(small, **settings, alarms=alarms, algorithm="ppo", critic_learning_rate=8e-4, warmup_steps=0)
    assert rates == pytest.approx([8e-4] * 2 + [4e-4] * 2)


def test_samples_of_the_untrained_policy_are_scored_by_a_rung(
    small: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small.folder, tmp_path / "small", ignore=shutil.ignore_patterns("policy"))
    cell = made(replace(small, runs_dir=tmp_path), reward="untrained", n_eval_samples=4, eval_temperature=0.9)
    rung = small.folder / "rm" / "rung-60"
    calibrator = small.folder / "calibration" / "rung-60"
    output = tmp_path / "figures.json"
    by_logit = BestOfNTable(rung=str(rung), output=str(output))
    run([str(cell)], by_logit)
    found = read_json(output)["phases"][0]
    assert (found["n_prompts"], found["n_answers"], [point["n"] for point in found["curve"]]) == (60, 240, [1, 2, 4])
    assert found["curve"][0]["gold"]["estimate"] <= found["curve"][2]["gold_of_best"]["estimate"]
    run([str(cell)], by_logit.model_copy(update={"calibrator": str(calibrator), "output": str(tmp_path / "rpr.json")}))
    assert read_json(tmp_path / "rpr.json")["ranked_by"] == str(calibrator)
    assert "gold of the pick" in capsys.readouterr().out
