"""What a policy is asked, beside what reward models and judges read: the instruction on the format of a response."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calibration.scored_text import demand_scored_text
from configs.errors import UserError
from configs.loader import load_experiment
from policy.config import PolicyTable
from policy.rewards.rungs import load_calibrator
from tasks.preference.sets import PreferenceTable, PreferenceTask
from tasks.records import Prompt, read_prompts, write_prompts
from tasks.responses import read_plain, with_instruction
from tests.test_preference_sets import TINY, own_cache, row, write_rows

__all__ = ["own_cache"]  # a fixture


def built(tmp_path: Path, **table: Any) -> list[Prompt]:
    tmp_path.mkdir(exist_ok=True)
    path = write_rows(tmp_path / "a.jsonl", [row(i) for i in range(60)])
    folder = tmp_path / "run" / "tasks"
    folder.mkdir(parents=True)
    PreferenceTask(PreferenceTable(files=[str(path)], held_out_share=0.4, taught=TINY, **table)).build(folder, 0)
    return read_prompts(folder)


def test_a_policy_is_asked_for_tags_and_nobody_else_is(tmp_path: Path) -> None:
    for prompt in built(tmp_path):
        assert "<think>" not in prompt.messages[-1]["content"]
        assert prompt.asked[-1]["content"].startswith(prompt.messages[-1]["content"] + "\n\n")
        assert all(tag in prompt.asked[-1]["content"] for tag in ("<think>", "</think>", "<answer>", "</answer>"))
        assert prompt.asked[:-1] == prompt.messages[:-1]


def test_a_plain_response_is_its_own_answer_and_the_chat_is_asked_as_it_is(tmp_path: Path) -> None:
    assert all(prompt.asked == prompt.messages for prompt in built(tmp_path, response_format="plain"))
    task = PreferenceTask(PreferenceTable(files=["x"], response_format="plain"))
    assert (task.read(" Hello. ").answer, task.read(" Hello. ").well_formed) == ("Hello.", True)
    assert (read_plain(" \n").answer, read_plain(" \n").well_formed) == (None, False)


def test_dev_and_eval_prompts_are_limited_by_a_hash_and_train_prompts_are_not(tmp_path: Path) -> None:
    whole = built(tmp_path / "whole")
    few = built(tmp_path / "few", n_dev_prompts=3, n_eval_prompts=2)
    counts = {split: sum(prompt.split == split for prompt in few) for split in ("train", "dev", "eval")}
    assert counts == {"train": sum(prompt.split == "train" for prompt in whole), "dev": 3, "eval": 2}
    more = {prompt.prompt_id for prompt in built(tmp_path / "more", n_dev_prompts=5, n_eval_prompts=4)}
    assert {prompt.prompt_id for prompt in few} < more


def test_another_instruction_must_name_the_tags(tmp_path: Path) -> None:
    (own := tmp_path / "own.txt").write_text("Write <think>…</think><answer>…</answer>.")
    assert built(tmp_path / "a", instruction=str(own))[0].asked[-1]["content"].endswith("…</answer>.")
    own.write_text("Think hard.")
    with pytest.raises(UserError, match="does not name the tag <think>"):
        built(tmp_path / "b", instruction=str(own))
    with pytest.raises(UserError, match="cannot be read"):
        built(tmp_path / "c", instruction=str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="response_format is plain"):
        PreferenceTable(files=["x"], instruction=own, response_format="plain")


def test_a_prompt_without_an_instruction_is_stored_without_one(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    prompts = [Prompt("a", "train", chat), Prompt("b", "dev", chat, {}, with_instruction(chat, "Be kind."))]
    write_prompts(tmp_path, prompts)
    assert read_prompts(tmp_path) == prompts
    assert (tmp_path / "prompts.jsonl").read_text().count("policy_messages") == 1


def test_a_bonus_for_reasoning_that_no_response_has_is_refused(tmp_path: Path) -> None:
    text = "name: x\ntasks: {task: preference, files: [x], response_format: plain}\ncalibration: {}\n"
    path = tmp_path / "x.yaml"
    path.write_text(text)
    experiment = load_experiment(path, [f"runs_dir={tmp_path}"])
    with pytest.raises(UserError, match=r"rule rpr_only would add nothing.*calibration\.scored_text=answer"):
        load_calibrator(experiment, PolicyTable(reward="rpr_only"))
    answer = experiment.with_overrides({"calibration.scored_text": "answer"})
    assert load_calibrator(answer, PolicyTable(reward="rpr_only")) is not None
    demand_scored_text(experiment, "think", "constant")
    with pytest.raises(UserError, match=r"x\.yaml: calibration\.scored_text is think"):
        demand_scored_text(experiment, "think", "rpr")
