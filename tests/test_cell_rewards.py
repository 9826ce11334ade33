"""Cells on put-together, noisy and served rewards, trained for a few steps: parts are kept, and like equals like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import policy.stage
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from policy.config import PolicyTable, cell_name
from policy.rewards.noise import Judged, add_noise, paper_a
from policy.rewards.table import RewardSettings, Rollout, gold_reward
from policy.stage import cell_folder
from tasks.records import Grade, Prompt, Response
from tests.clients import served

GRAPH: dict[str, Any] = {
    "name": "gated",
    "parts": {
        "quality": {"kind": "score", "rung": 60},
        "thought": {"kind": "score", "rung": 60, "reads": "think"},
        "whole": {"kind": "logit", "rung": 55, "reads": "whole"},
        "calibrated": {"kind": "calibrated", "rung": 60},
        "reasoning": {"kind": "rpr"},
        "luck": {"kind": "random", "rate": 0.3},
        "form": {"kind": "format"},
        "long": {"kind": "length"},
        "truth": {"kind": "gold"},
    },
    "terms": [
        {"part": "quality"},
        {"part": "reasoning", "weight": 0.5, "gates": [{"part": "quality", "below": 0.75}]},
    ],
    "clip": [0, 1],
}


def rows_of(experiment: Experiment) -> list[dict[str, Any]]:
    policy.stage.run(experiment)
    rows: list[dict[str, Any]] = pq.read_table(cell_folder(experiment) / "completions.parquet").to_pylist()
    return rows


def test_a_graph_keeps_every_part_and_gives_the_papers_reward(small: Experiment) -> None:
    short = {"policy.max_steps": 2, "policy.dev_every": 0, "policy.seed": 9}
    cell = small.with_overrides({"policy.reward": "graph", "policy.graph": GRAPH, **short})
    rule = small.with_overrides({"policy.reward": "rpr", "policy.rung": "60", **short})
    assert cell_name(cell.table("policy", PolicyTable), 0) == "graph_gated-grpo-s9"
    rows = rows_of(cell)
    by_rule = {(row["step"], row["prompt_id"], row["sample"]): row for row in rows_of(rule)}
    for row in rows:
        parts, same = dict(row["parts"]), by_rule[row["step"], row["prompt_id"], row["sample"]]
        assert list(parts) == list(GRAPH["parts"])
        assert (parts["truth"], parts["form"]) == (row["gold"], float(row["status"] == "ok"))
        assert row["reward"] == pytest.approx(same["reward"], abs=1e-6)
        assert parts["quality"] == (None if same["score"] is None else pytest.approx(same["score"], abs=1e-6))
        assert parts["calibrated"] == (None if row["status"] != "ok" else pytest.approx(same["reward"], abs=1e-6))
        assert (parts["thought"] is None) == (row["status"] != "ok") and parts["whole"] is not None
    assert len({row["parts"][2][1] for row in rows}) > len(rows) / 2, "the whole completions differ, so their logits do"


def test_a_served_rung_and_a_shared_base_give_the_rewards_of_a_loaded_rung(small: Experiment, tmp_path: Path) -> None:
    short = {"policy.max_steps": 2, "policy.dev_every": 0, "policy.reward": "raw", "policy.rung": "60"}
    here = rows_of(small.with_overrides({**short, "policy.seed": 3}))
    with served(small.folder / "rm" / "rung-60") as (address, _):
        there = rows_of(small.with_overrides({**short, "policy.seed": 3, "policy.algorithm": "dr_grpo"} | at(address)))
    first = [row["reward"] for row in here if row["step"] == 0]
    assert [row["reward"] for row in there if row["step"] == 0] == pytest.approx(first, abs=1e-5)
    with pytest.raises(UserError, match="no weight of the rung equals the policy's"):  # it was trained whole
        rows_of(small.with_overrides({**short, "policy.seed": 4, "policy.share_base": True, "policy.lora_r": 4}))


def at(address: str) -> dict[str, str]:
    return {"policy.rung_server": address}


def test_noise_flips_what_is_right_or_wrong_and_nothing_else(small: Experiment) -> None:
    table = PolicyTable(reward="gold", noise=paper_a(0.4))
    settings = RewardSettings(table, 7, 48, None)
    rollouts = [
        Rollout(
            Prompt(f"p{i % 9}", "train", []),
            i // 9,
            i % 5,
            "",
            1,
            False,
            response(i),
            Grade(float(i % 3 == 0), "ok", ""),
            None,
        )
        for i in range(90)
    ]
    judged = [Judged(r.prompt.prompt_id, r.sample, r.step, r.grade.gold, r.response.well_formed) for r in rollouts]
    given = add_noise(judged, table.noise, 7)
    found = [gold_reward(rollout, settings) for rollout in rollouts]
    assert [(parts.reward, parts.flipped) for parts in found] == [(one.reward, one.flipped) for one in given]
    assert 0.2 < sum(bool(parts.flipped) for parts in found) / 90 < 0.6
    assert cell_name(table, 0) == "gold_flip0.4_group_exempt-grpo-s0"
    with pytest.raises(UserError, match="it is for tasks that are right or wrong"):
        rows_of(
            small.with_overrides({"policy.reward": "gold", "policy.noise": {"flip_rate": 0.1}, "policy.max_steps": 2})
        )


def response(i: int) -> Response:
    return Response("", "x" if i % 7 else None, bool(i % 7))


def test_long_prompts_are_left_out_whole_and_counted(small: Experiment) -> None:
    cell = small.with_overrides({"policy.max_prompt_length": 12, "policy.max_steps": 1, "policy.reward": "gold"})
    cell = cell.with_overrides({"policy.seed": 5, "policy.dev_every": 0})
    policy.stage.run(cell)
    left_out = read_json(cell_folder(cell) / "manifest.json")["summary"]["prompts_too_long"]
    assert set(left_out) == {"train", "dev", "eval"} and all(n > 0 for n in left_out.values())
    with pytest.raises(UserError, match="there are no train prompts of at most 3 tokens"):
        policy.stage.run(cell.with_overrides({"policy.max_prompt_length": 3, "policy.seed": 6}))
