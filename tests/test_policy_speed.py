"""The comparison of updates in small: packed beside TRL's own, loss by loss and gradient by gradient."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from configs.loader import read_words
from configs.records import read_json
from policy.speed.command import PolicySpeedTable, run

SMALL = ["prompts_per_step=2", "num_generations=4", "prompt_tokens=24", "completion_tokens=16", "spread=0.5", "steps=3"]
SMALL += ["trl_batch_sizes=[2, 8]", "trl_checkpointing=[false]", "learning_rate=0.01", "lora_r=4"]


def table(*words: str) -> PolicySpeedTable:
    """Settings as the command reads them."""
    return read_words([*SMALL, *words], PolicySpeedTable, "policy-speed")[1]


def test_the_command_compares_equal_work_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run([], table(f"output={tmp_path / 'speed.json'}", "batch_tokens=100"))
    printed = capsys.readouterr().out
    assert "times the padded path's steps a second" in printed
    found = read_json(tmp_path / "speed.json")
    ours, padded = found["ours"], found["padded"]
    assert len(ours["losses"]) == len(padded["losses"]) == 3
    assert ours["losses"] == pytest.approx(padded["losses"], abs=1e-5)
    assert ours["gradient_norms"] == pytest.approx(padded["gradient_norms"], rel=1e-3)
    assert ours["entropies"] == pytest.approx(padded["entropies"], abs=1e-4)
    assert found["ours_and_padded"]["gradient"] < 1e-4 and found["ours_and_padded"]["logps_most"] < 1e-5
    assert found["padded_and_itself"]["gradient"] < 1e-4
    assert ours["batch_size"] is None and padded["batch_size"] in (2, 8) and len(found["padded_trials"]) == 2
    assert ours["completion_tokens"] == padded["completion_tokens"] < 8 * 16
    for side in (ours, padded):
        parts = sum(side[f"{part}_seconds"] for part in ("rollout", "logps", "update", "other"))
        assert parts == pytest.approx(side["step_seconds"])
        assert min(side[f"{part}_seconds"] for part in ("update", "other")) > 0
        assert 0 < side["share_of_matrix_rate"] < 1


def test_ppo_is_compared_with_its_own_padded_path(capsys: pytest.CaptureFixture[str]) -> None:
    from policy.speed.work import compare

    found = compare(table("algorithm=ppo", "batch_tokens=100", "trl_batch_sizes=[8]"))
    ours, padded = found["ours"], found["padded"]
    assert ours["losses"] == pytest.approx(padded["losses"], abs=1e-5)
    assert ours["gradient_norms"] == pytest.approx(padded["gradient_norms"], rel=1e-3)
    assert found["ours_and_padded"]["gradient"] < 1e-4 and found["padded_and_itself"] is None
    assert ours["logps_seconds"] > 0, "the critic's values of the rollout are timed"


def test_what_is_apart_is_measured() -> None:
    from policy.speed.work import apart

    one = {"gradient": np.array([3.0, 4.0]), "logps": {b"a": np.array([-1.0, -2.0])}}
    other = {"gradient": np.array([3.0, 3.0]), "logps": {b"a": np.array([-1.0, -2.5])}}
    # |(0, 1)| / |(3, 3)| = 1 / (3 sqrt 2) = 0.2357023
    assert apart(one, other) == pytest.approx({"gradient": 0.2357023, "logps_mean": 0.25, "logps_most": 0.5})
    assert apart(one, other | {"logps": {b"b": np.array([0.0])}}) is None


def test_replayed_completions_are_those_of_their_step() -> None:
    from types import SimpleNamespace

    from policy.speed.material import random_prompts, replayed, words_tokenizer

    prompts = random_prompts(table())
    assert [len(ids) for ids in words_tokenizer(512)(text=prompts)["input_ids"]] == [24] * 4
    at = [SimpleNamespace(state=SimpleNamespace(global_step=step)) for step in (0, 1)]
    rollouts = [replayed(table())(prompts, trainer) for trainer in (at[0], at[0], at[1])]
    assert rollouts[0] == rollouts[1] != rollouts[2]
    assert rollouts[0]["prompt_ids"] == words_tokenizer(512)(text=prompts)["input_ids"]
    assert all(1 <= len(ids) <= 16 for ids in rollouts[0]["completion_ids"])


def test_settings_that_compare_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="trl_batch_sizes must divide"):
        table("trl_batch_sizes=[3]")
    with pytest.raises(UserError, match="did you mean completion_tokens"):
        table("completion_token=3")
    with pytest.raises(UserError, match="is no setting"):
        run(["3b"], table())
    with pytest.raises(UserError, match="needs vllm, which is not installed"):
        run([], table("rollout=vllm"))


def test_the_settings_are_read_without_torch() -> None:
    code = "import sys, policy.speed.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
