"""Best of n: the estimator against every subset, the curve where the order is known, what is refused and counted."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from configs.loader import read_words
from configs.records import read_json, write_jsonl
from policy.best_of_n import BestOfNTable, best_of, look, run
from policy.policy_samples import samples_of


def brute_force(rewards: list[float], golds: list[float], n: int) -> float:
    """The mean over every subset of the mean gold of its highest rewards."""
    found = []
    for subset in itertools.combinations(range(len(rewards)), n):
        top = max(rewards[i] for i in subset)
        best = [golds[i] for i in subset if rewards[i] == top]
        found.append(sum(best) / len(best))
    return sum(found) / len(found)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_estimator_is_the_mean_over_every_subset_where_rewards_differ(n: int) -> None:
    rewards, golds = [0.3, -1.0, 2.0, 0.5, 0.1, 7.0], [0.2, 0.9, 0.4, 0.0, 1.0, 0.3]
    assert best_of(np.array(rewards), np.array(golds), n) == pytest.approx(brute_force(rewards, golds, n), abs=1e-12)


def test_two_of_three_by_hand() -> None:
    # pairs (1, 2), (1, 3), (2, 3) of answers with rewards 1 < 2 < 3: golds of the picks 0.5, 0.9, 0.9
    assert best_of(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.5, 0.9]), 2) == pytest.approx((0.5 + 0.9 + 0.9) / 3)


def test_equal_rewards_share_the_mean_of_all_that_are_equal() -> None:
    rewards, golds = np.array([1.0, 1.0, 1.0, -math.inf]), np.array([0.0, 0.6, 0.9, 0.3])
    assert best_of(rewards, golds, 4) == pytest.approx(0.5)
    assert best_of(rewards, golds, 1) == pytest.approx(0.45)
    assert best_of(rewards[::-1], golds[::-1], 2) == pytest.approx(best_of(rewards, golds, 2))


def rows_of(answers: dict[str, list[tuple[float | None, float | None]]], **more: Any) -> list[dict[str, Any]]:
    return [
        {"prompt_id": prompt, "sample": k, "reward": reward, "gold": gold, **more}
        for prompt, pairs in answers.items()
        for k, (reward, gold) in enumerate(pairs)
    ]


def measured(rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    return look(samples_of(rows, [row["reward"] for row in rows], "here"), BestOfNTable(**settings))


def many(sign: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    golds = rng.random((40, 8))
    return rows_of({f"p{i}": [(sign * gold, gold) for gold in row] for i, row in enumerate(golds.tolist())})


def test_a_reward_that_is_gold_climbs_to_the_best_and_its_opposite_falls() -> None:
    up, down = measured(many(1.0)), measured(many(-1.0))
    assert [point["n"] for point in up["curve"]] == [1, 2, 4, 8]
    for point in up["curve"]:
        assert point["gold"] == point["gold_of_best"]
        expected = point["n"] / (point["n"] + 1)  # mean of the highest of n uniform draws
        assert point["gold"]["lo"] - 0.02 < expected < point["gold"]["hi"] + 0.02
    assert up["curve"][0]["gain"]["estimate"] == 0
    assert [point["gain"]["estimate"] < 0 for point in down["curve"]] == [False, True, True, True]
    assert up["pair_accuracy"]["estimate"] == 1 and down["pair_accuracy"]["estimate"] == 0
    assert up["pair_accuracy"]["n"] == 40 * 28
    assert up["curve"][3]["kl_at_most"] == pytest.approx(math.log(8) - 7 / 8)
    assert up["share_without_spread"]["estimate"] == 0 < up["share_without_spread"]["hi"]


def test_spread_is_within_a_prompt_and_a_constant_reward_has_none() -> None:
    found = measured(rows_of({"a": [(1.0, 0.0), (3.0, 1.0)], "b": [(5.0, 0.0), (5.0, 1.0)]}))
    assert found["spread_per_prompt"]["estimate"] == pytest.approx(0.5)
    assert found["share_without_spread"]["estimate"] == 0.5
    assert found["pair_accuracy"]["estimate"] == pytest.approx(0.75)


def test_rows_without_gold_or_reward_and_small_prompts_are_counted() -> None:
    rows = rows_of({"a": [(1.0, 0.2), (2.0, 0.4)], "b": [(None, 0.3), (1.0, 0.1)], "c": [(1.0, None), (2.0, None)]})
    found = measured(rows)
    assert found["dropped"] == {"no reward": 1, "no gold": 2}
    assert (found["n_groups"], found["n_groups_too_small"], found["n_answers"]) == (1, 1, 3)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="n=2 needs as many answers to a prompt, and none has more than 1"):
        measured(rows_of({"a": [(1.0, 0.2)], "b": [(1.0, 0.2)]}))
    with pytest.raises(UserError, match="n=4 needs as many answers"):
        measured(rows_of({"a": [(1.0, 0.2), (2.0, 0.1)]}), n=[2, 4])
    with pytest.raises(UserError, match="name a rung to score them"):
        measured(rows_of({"a": [(None, 0.2)]}))
    with pytest.raises(UserError, match="numbers of answers rise from at least 1"):
        read_words(["n=[4, 2]"], BestOfNTable, "best-of-n")
    with pytest.raises(UserError, match="did you mean phases"):
        read_words(["phase=2"], BestOfNTable, "best-of-n")
    with pytest.raises(UserError, match="name it too, rung=FOLDER"):
        run(["x"], BestOfNTable(calibrator="y"))
    with pytest.raises(UserError, match="there is no such file"):
        run(["nowhere.parquet"], BestOfNTable())


def test_a_file_gives_a_table_and_figures_by_stretches_of_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {f"p{i}": [(float(k), k / 4) for k in range(4)] for i in range(5)}
    rows = [row for step in range(6) for row in rows_of(answers, step=step)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    output = tmp_path / "figures.json"
    run([str(tmp_path / "rows.jsonl")], BestOfNTable(phases=2, output=str(output)))
    found = read_json(output)
    assert [(phase["first_step"], phase["last_step"]) for phase in found["phases"]] == [(0, 2), (3, 5)]
    assert [phase["n_groups"] for phase in found["phases"]] == [15, 15]
    assert [phase["n_prompts"] for phase in found["phases"]] == [5, 5]
    assert found["phases"][0]["curve"][2]["gold"]["estimate"] == 0.75
    assert "gold of the pick" in capsys.readouterr().out
