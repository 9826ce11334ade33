"""An expression that hangs, within a real call of the reward function: killed, counted, and training goes on."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

from policy.audit import Audit
from policy.config import PolicyTable
from policy.rewards.callable import RewardCallable
from policy.rewards.table import RewardSettings
from tasks.mathematics.task import MathematicsTable, MathematicsTask
from tasks.mathematics.workers import shared_checker
from tasks.records import Prompt

SECONDS = 2.0
LONGEST = 5.0
HANGS = r"\boxed{((((x+1)^{100})^{100})^{100}+1)^{100}}"


def test_a_pathological_expression_cannot_hang_training(tmp_path: Path) -> None:
    """Killed, counted, under five seconds; the other answers of the batch have their rewards."""
    task = MathematicsTask(MathematicsTable(eval_files=["none.jsonl"], check_seconds=SECONDS))
    prompt = Prompt("p", "train", [{"role": "user", "content": "?"}], {"answer": "\\frac{1}{2}"})
    checker = shared_checker(SECONDS)
    assert task.grade(prompt, r"\boxed{0.5}").gold == 1.0, "the worker runs before the clock does"
    settings = RewardSettings(PolicyTable(reward="gold"), 0, 64, None)
    reward = RewardCallable(task, [prompt], settings, {}, Audit(tmp_path))
    logged: dict[str, float] = {}
    texts = [r"\boxed{0.5}", HANGS, r"\boxed{3}", r"\boxed{\frac{2}{4}}"]
    killed = checker.counts["workers_killed"]
    began = time.monotonic()
    found = reward(
        prompts=[prompt.asked] * 4,
        completions=[[{"role": "assistant", "content": text}] for text in texts[:2]],
        completion_ids=[[1]] * 2,
        prompt_id=["p"] * 2,
        trainer_state=SimpleNamespace(global_step=0),
        log_metric=logged.__setitem__,
    )
    assert time.monotonic() - began < LONGEST
    assert found == [1.0, None], "an answer that is not known to be wrong teaches nothing"
    assert logged["grade/timeout"] == 0.5
    assert (checker.counts["workers_killed"] - killed, checker.counts["timeout"]) == (1, 1)
    assert [task.grade(prompt, text).gold for text in texts[2:]] == [0.0, 1.0], "the pool goes on"
