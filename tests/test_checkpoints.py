"""Which state becomes the cell: the rule on rows made by hand, the weights of a real run, and after a stop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import policy.stage
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json, read_jsonl
from policy.checkpoints import (
    Best,
    Looks,
    best_state,
    copies_needed,
    drop_after,
    kept_path,
    last_good,
    load_weights,
    prune,
    save_weights,
)
from policy.stage import cell_folder
from rm.training import mark_complete

LOOKS = Looks(every=2, max_steps=7)


def rows(golds: dict[int, float | None], rewards: list[float]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"step": 0, "dev/gold_mean": 9.0}]
    for step, reward in enumerate(rewards, start=1):
        found.append({"step": step, "reward": reward} | ({"dev/gold_mean": golds[step]} if step in golds else {}))
    return found


def test_the_rule_by_hand() -> None:
    run = rows({2: 0.4, 4: 0.6, 6: 0.6, 7: 0.5}, [0.1, 0.2, 0.3, 0.9, 0.1, 0.1, 0.1])
    assert best_state(run, "last", LOOKS) == Best(7, None)
    assert best_state(run, "best_dev_gold", LOOKS) == Best(4, 0.6)  # the earlier of two, and never the untrained policy
    assert best_state(run, "best_reward", LOOKS).step == 4
    assert best_state(run, "best_reward", LOOKS).value == pytest.approx(1.5 / 4)
    assert best_state(run[:4], "best_dev_gold", LOOKS) == Best(2, 0.4)
    with pytest.raises(UserError, match=r"policy\.keep: best_dev_gold needs gold on the dev prompts.*choose last"):
        best_state(rows({2: None}, [0.1] * 7), "best_dev_gold", LOOKS)


def test_kept_states_are_bounded_and_serve_every_checkpoint(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        kept_path(tmp_path, step).parent.mkdir(exist_ok=True)
        kept_path(tmp_path, step).touch()
    for step in (5, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
        mark_complete(tmp_path / f"checkpoint-{step}", {})
    (tmp_path / "checkpoint-12").mkdir()  # half-written
    prune(tmp_path)
    assert [step for step in range(12) if kept_path(tmp_path, step).exists()] == [4, 8, 10]
    assert (last_good(tmp_path, 12), last_good(tmp_path, 8), last_good(tmp_path, 4)) == (9, 5, 0)
    drop_after(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-5"]
    assert [step for step in range(12) if kept_path(tmp_path, step).exists()] == [4]
    assert (copies_needed(0, 50), copies_needed(10, 50), copies_needed(11, 3)) == (2, 2, 6)


def test_weights_come_back_to_the_bit_and_only_into_their_own_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_weights(model, tmp_path / "kept" / "step-000001.safetensors")
    with torch.no_grad():
        model[1].weight.zero_()
    load_weights(model, tmp_path / "kept" / "step-000001.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="weights of another model"):
        load_weights(nn.Linear(3, 4), tmp_path / "kept" / "step-000001.safetensors")


def made(small: Experiment, **settings: Any) -> Path:
    cell = small.with_overrides({f"policy.{key}": value for key, value in settings.items()})
    policy.stage.run(cell)
    return cell_folder(cell)


def test_the_best_state_becomes_the_cell_also_after_a_stop(small: Experiment, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        **{"reward": "length", "learning_rate": 4e-3, "seed": 21, "dev_every": 1, "save_steps": 2},
        **{"max_steps": 6, "keep": "best_dev_gold"},
    }
    folder = made(small, **settings)
    looks = {row["step"]: row["dev/gold_mean"] for row in read_jsonl(folder / "metrics.jsonl")}
    kept = read_json(folder / "manifest.json")["summary"]["kept"]
    best = max(range(1, 7), key=lambda step: (looks[step], -step))
    assert kept == {"step": best, "value": looks[best], "rule": "best_dev_gold"}
    assert best < 6, "a test of the last state would show nothing"
    undisturbed = shutil.move(folder, tmp_path / "undisturbed")
    stop = {"no_spread": {"action": "stop", "threshold": 0, "window": 5}}
    with pytest.raises(UserError, match=r"step 5: .*policy\.alarms\.no_spread=warn goes on"):
        made(small, **settings, alarms=stop)
    made(small, **settings)
    for name in ("metrics.jsonl", "answers.jsonl", "policy/model.safetensors", "alarms.jsonl"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    shutil.rmtree(folder)
    shorter = made(small, **(settings | {"max_steps": best, "keep": "last"}))
    assert (shorter / "policy/model.safetensors").read_bytes() == (
        undisturbed / "policy/model.safetensors"
    ).read_bytes()
