"""`rewardladder rehearse`: a recipe in small, with random weights, its memory, seconds and hours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from configs.loader import load_experiment
from curve.rehearsal.command import RehearseTable, run
from curve.rehearsal.forecast import forecast
from curve.rehearsal.material import made_up_tokenizer, single_token_words, write_base, write_random_pairs
from tasks.base_folder import load_tokenizer

RECIPE = Path(__file__).parent.parent / "configs" / "helpsteer3-qwen2.5-3b-24gb.yaml"
IN_SMALL = ("policy.sampler={engine: generate}", "policy.max_prompt_length=48", "policy.max_completion_length=16")
QUICK = ("rm.max_length=160", "rm.per_device_train_batch_size=8", "rm_steps=2", "policy_steps=2", "n_pairs=60")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "base"
    write_base(folder, "tiny", None, "cpu")
    return folder


def test_every_stage_of_a_recipe_is_run_in_small(tmp_path: Path) -> None:
    asked = (str(RECIPE), "shape=tiny", *IN_SMALL, *QUICK, "prompts_per_step=4", f"output={tmp_path / 'found.json'}")
    command = [sys.executable, "-c", "import sys; from curve.cli import main; sys.exit(main(sys.argv[1:]))", "rehearse"]
    done = subprocess.run([*command, *asked], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "a step of the policy, seconds by part" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    rm, policy = found["rm"], found["policy"]
    assert rm["n_timed"] == 1 and rm["hours"] == pytest.approx(rm["step_seconds"] * 1000 / 3600)
    assert policy["n_timed"] == 1 and policy["prompts_per_step"] == 4
    assert policy["hours"] == pytest.approx(found["cells"] * policy["step_seconds"] * 64 / 4 * 200 / 3600)
    parts = policy["seconds_by_part"]
    assert sum(parts.values()) == pytest.approx(policy["step_seconds"])
    assert all(parts[name] > 0 for name in ("rollout", "scoring", "update"))
    assert 0 < policy["mean_tokens"] <= 16
    assert policy["peak_gib"] is None, "no GPU, no figure"


def test_pairs_are_as_long_as_they_may_be_in_tokens(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    words = single_token_words(tokenizer, 100)
    assert len(set(words)) == 100
    write_random_pairs(tmp_path / "pairs.jsonl", 40, 64, 200, words)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    prompts = [
        len(tokenizer.apply_chat_template(row["context"], add_generation_prompt=True)["input_ids"]) for row in rows
    ]
    assert max(prompts[::2]) == min(prompts[::2]) and 64 - 32 <= prompts[0] <= 64
    for row in rows:
        chat = [*row["context"], {"role": "assistant", "content": row["response1"]}]
        assert len(tokenizer.apply_chat_template(chat)["input_ids"]) <= 200


def test_what_random_weights_say_is_as_many_tokens_when_it_is_read_again() -> None:
    tokenizer = made_up_tokenizer(152064)
    assert len(tokenizer) == 152064
    ids = np.random.default_rng(0).integers(2000, 152064, 500).tolist()
    assert tokenizer(tokenizer.decode(ids))["input_ids"] == ids


def test_hours_tokens_and_money_by_hand(base: Path) -> None:
    recipe = load_experiment(RECIPE, [])
    nothing: dict[str, Any] = {"device": "cpu", "gpu_gib": None, "mean_tokens": 2048.0}
    measured = {
        "material": {"base": str(base)},
        "rm": {"step_seconds": 3.6, **nothing},
        "policy": {"step_seconds": 9.0, "prompts_per_step": 16, "answer_seconds_per_token": 0.05, **nothing},
    }
    found = forecast(recipe, RehearseTable(), measured)
    assert found["rm"]["hours"] == pytest.approx(1.0)  # 3.6 s x 1,000 steps
    assert found["policy"]["hours"] == pytest.approx(7 * 2.0)  # 9 s x 64/16 prompts x 200 steps, 7 cells
    # 11 looks at 64 dev prompts (every 20 steps, and before), then 200 eval prompts; 64 at once, 2,048 tokens
    assert found["policy"]["answer_hours"] == pytest.approx((11 * 1 + 4) * 2048 * 0.05 / 3600)
    # 200 prompts, 2 orders, 7 cells; 350 + 1,536 + 2 x 2,048 tokens each; replies of at most 1,024; 2.5 and 10 dollars
    assert "2,800 requests" in found["sentences"][1]
    assert "16,749,600 tokens of prompts and 2,867,200 of replies, at most $70.55" in found["sentences"][1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([str(RECIPE.parent / "demo.yaml")], "the task is advice, and recipes on preference pairs are rehearsed"),
        (["nowhere.yaml"], "nowhere.yaml"),
        ([str(RECIPE), "shape=tiny", "keep=/proc/x"], "rehearse: keep"),
        ([], "found 0 recipes; name one"),
        ([str(RECIPE), "shape=70b"], "shape"),
        ([str(RECIPE), "memory_gib=-1"], "memory_gib"),
        ([str(RECIPE), "rm.batch_token=4"], "did you mean"),
    ],
)
def test_what_cannot_be_rehearsed_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(words)
