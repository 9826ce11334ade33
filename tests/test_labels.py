"""Labels that the base makes: votes by hand, the record on disk, what cells do with it, and flips after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import policy.rewards.labels
import policy.stage
import tasks.stage
from configs.errors import UserError
from configs.loader import Experiment, load_experiment
from configs.records import read_json, read_jsonl, write_jsonl
from policy.audit import COMPLETIONS_FILE
from policy.config import PolicyTable
from policy.rewards.noise import Judged, add_noise, paper_a
from policy.rewards.votes import Label, answer_classes, is_tie, label_of
from policy.rollouts.train_prompts import choose_prompts, repeated_to_fill
from policy.stage import cell_folder
from tasks.arithmetic import VARIANTS
from tasks.arithmetic_world import ArithmeticTable, ArithmeticTask
from tasks.mathematics.task import MathematicsTable, MathematicsTask
from tasks.records import Prompt, read_prompts
from tests.conftest import ROOT, small_experiment

ADDS = ArithmeticTask(ArithmeticTable())
MATHS = MathematicsTask(MathematicsTable(eval_files=["none.jsonl"], check_seconds=30))
SUM = Prompt("sum", "train", [], {"terms": [3, 5, 9]})
HALF = Prompt("half", "train", [], {"answer": "\\frac{1}{2}"})
SMALL = (
    "tasks.n_terms=3",
    "tasks.clean_steps=21",
    "tasks.taught_steps=60",
    "tasks.n_train_prompts=24",
    "tasks.n_dev_prompts=4",
    "tasks.n_eval_prompts=8",
    "policy.max_steps=4",
    "policy.save_steps=2",
    "policy.dev_every=0",
    "policy.prompts_per_step=4",
    "policy.num_generations=4",
    "policy.max_completion_length=24",
    "policy.labels.n_samples=6",
)
FLIPS = "policy.noise={flip_rate: 0.4, unit: group, malformed: exempt}"


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The arithmetic world with a base that was taught for a moment: it answers, mostly wrong.

    A base must reach a gate in its first phase; that is lifted here, and the cache hands the base to other processes.
    """
    runs = tmp_path_factory.mktemp("sums") / "runs"
    experiment = load_experiment(ROOT / "configs" / "arithmetic.yaml", [f"runs_dir={runs}", "name=sums", *SMALL])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "strong", replace(VARIANTS["strong"], clean_nll=1e9))
        tasks.stage.run(experiment)
    return experiment


def made(experiment: Experiment, **settings: Any) -> tuple[Path, list[dict[str, Any]]]:
    cell = experiment.with_overrides({f"policy.{key}": value for key, value in settings.items()})
    policy.stage.run(cell)
    rows: list[dict[str, Any]] = pq.read_table(cell_folder(cell) / COMPLETIONS_FILE).to_pylist()
    return cell_folder(cell), rows


def test_votes_by_hand() -> None:
    def same(label: str, answer: str) -> bool:
        return float(label) == float(answer)

    def counted(answers: list[str | None]) -> list[tuple[str, int, int]]:
        return [(found.text, found.votes, found.first) for found in answer_classes(answers, same)]

    assert counted(["2", "3", "3.0", None, "2.0", "03"]) == [("3", 3, 1), ("2", 2, 0)]
    assert counted(["5", "4", "4", "5", None]) == [("5", 2, 0), ("4", 2, 1)]
    assert is_tie(answer_classes(["5", "4", "4", "5"], same)) and not is_tie(answer_classes([None, "5"], same))
    assert counted([None, None]) == [] and not is_tie([])
    # One answer of three forms beats one of two, though the second's own text is the most frequent.
    assert counted(["0.5", "0.50", "1", "1", "0.500"]) == [("0.5", 3, 0), ("1", 2, 2)]
    assert len(answer_classes(["1", "1.0"], lambda label, answer: None)) == 2, "what cannot be compared is not equal"


def test_the_label_of_a_prompt_by_hand() -> None:
    found = label_of(ADDS, SUM, ["16", "17", None, "16", "18"], 0.0, 0)
    assert found == Label("sum", 5, 4, "16", 2, False, True, "16", 2)
    found = label_of(ADDS, SUM, ["17", "17", "19"], 1.0, 0)
    assert found == Label("sum", 3, 3, "17", 2, False, False, "19", 1)
    found = label_of(ADDS, SUM, ["17"], 1.0, 0)
    assert (found.wrong, found.wrong_votes) == (ADDS.wrong_answer(SUM, 0), 0)
    found = label_of(ADDS, SUM, [None, None], None, 0)
    assert (found.n_answers, found.majority, found.votes, found.majority_wrong) == (0, None, 0, None)
    found = label_of(MATHS, HALF, ["0.5", "1/2", "\\frac{3}{2}", "2", "1.5"], 1.0, 0)
    assert found == Label("half", 5, 5, "0.5", 2, True, False, "\\frac{3}{2}", 2)


def test_labels_are_made_once_for_cells_that_start_together_and_are_what_the_samples_say(sums: Experiment) -> None:
    table = sums.with_overrides({"policy.reward": "majority"}).table("policy", PolicyTable)
    with ThreadPoolExecutor(3) as threads:
        manifests = list(threads.map(lambda _: policy.rewards.labels.run(sums, table), range(3)))
    assert manifests[0] == manifests[1] == manifests[2]
    folder = policy.rewards.labels.labels_folder(sums, table)
    assert folder == sums.folder / "labels" / "base-k6"
    labels = policy.rewards.labels.read_labels(folder)
    assert list(labels) == [prompt.prompt_id for prompt in read_prompts(sums.folder / "tasks", "train")]
    assert {label.n_samples for label in labels.values()} == {6}
    found = manifests[0]["summary"]
    assert found["majority_wrong"] + found["majority_right"] + found["without_label"] == found["prompts"] == 24
    assert found["majority_wrong"] > 4, "a base that was taught for a moment is mostly wrong"
    assert not (folder / "scratch").exists()


def test_samples_that_are_there_are_not_drawn_again(
    sums: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, prompts = sums.table("policy", PolicyTable), read_prompts(sums.folder / "tasks", "train")
    whole = policy.rewards.labels._sampled(tmp_path / "whole", sums, table, ADDS, prompts)
    monkeypatch.setattr(policy.rewards.labels, "CHUNK", 10)
    pieces = policy.rewards.labels._sampled(tmp_path / "pieces", sums, table, ADDS, prompts)
    assert pieces == whole
    files = sorted((tmp_path / "pieces").iterdir())
    assert [len(list(read_jsonl(path))) for path in files] == [60, 60, 24]
    files[1].unlink()
    before = files[0].stat().st_mtime_ns
    assert policy.rewards.labels._sampled(tmp_path / "pieces", sums, table, ADDS, prompts) == whole
    assert files[0].stat().st_mtime_ns == before and files[1].exists()


def test_a_cell_climbs_its_labels_and_keeps_them(sums: Experiment) -> None:
    folder, rows = made(sums, reward="majority")
    labels = policy.rewards.labels.read_labels(sums.folder / "labels" / "base-k6")
    for row in rows:
        label = labels[row["prompt_id"]].majority
        assert row["label"] == label
        assert row["reward"] == row["true_reward"] == (None if label is None else float(row["answer"] == label))
    assert "labels" in read_json(folder / "manifest.json")["made_from"]["inputs"]
    _, wrong = made(sums, reward="incorrect")
    assert {row["prompt_id"] for row in wrong} <= {name for name, label in labels.items() if label.majority_wrong}
    _, truly = made(sums, reward="incorrect", incorrect_labels="truly_wrong", seed=3)
    assert all(row["label"] == labels[row["prompt_id"]].wrong for row in truly)
    assert all(row["reward"] == 0 for row in truly if row["gold"] == 1)


def test_the_live_majority_of_each_group_is_recorded(sums: Experiment) -> None:
    _, rows = made(sums, reward="majority_live")
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["step"], row["prompt_id"]), []).append(row)
    for group in groups.values():
        answers = [row["answer"] for row in group]
        winner = next(iter(answer_classes(answers, ADDS.equal)), None)
        for row in group:
            assert row["label"] == (winner and winner.text)
            assert row["reward"] == (None if winner is None else float(row["answer"] == winner.text))


def test_one_shot_is_one_prompt_many_times_with_samples_of_its_own(sums: Experiment) -> None:
    folder, rows = made(sums, reward="one_shot", seed=1)
    (name,) = {row["prompt_id"] for row in rows}
    assert [row["sample"] for row in rows if row["step"] == 0] == list(range(16))
    assert read_json(folder / "manifest.json")["summary"]["train_prompts"] == {"all": 24, "used": 1}
    (_, same) = made(sums, reward="gold", train_prompts=[name], seed=1)
    assert [row["completion"] for row in same] == [row["completion"] for row in rows]
    with pytest.raises(UserError, match=r"'arithmetic-train-0000' is not a training prompt .* did you mean arithm"):
        made(sums, reward="gold", train_prompts="arithmetic-train-0000")


def test_prompts_are_chosen_by_the_seed_in_their_order_and_repeated_to_fill_a_step() -> None:
    prompts = [Prompt(f"p{i}", "train", []) for i in range(50)]
    table = PolicyTable(reward="gold", n_train_prompts=5, prompts_per_step=16)
    chosen, counts = choose_prompts(prompts, table, 0, {})
    assert counts == {"all": 50, "used": 5} and [prompts.index(p) for p in chosen] == sorted(map(prompts.index, chosen))
    assert choose_prompts(prompts[::-1], table, 0, {})[0] == chosen[::-1]
    assert choose_prompts(prompts, table, 1, {})[0] != chosen
    assert repeated_to_fill(chosen, table) == chosen * 4
    assert repeated_to_fill(prompts, PolicyTable(reward="gold")) == prompts
    with pytest.raises(UserError, match="51 asked for, and there are 50"):
        choose_prompts(prompts, PolicyTable(reward="gold", n_train_prompts=51), 0, {})
    right = {p.prompt_id: Label(p.prompt_id, 1, 1, "1", 1, False, False, "2", 0) for p in prompts}
    with pytest.raises(UserError, match=r"wrong for none of the training prompts; use policy\.incorrect_labels=truly"):
        choose_prompts(prompts, PolicyTable(reward="incorrect"), 0, right)


def test_samples_made_elsewhere_are_read_and_bad_ones_refused(sums: Experiment, tmp_path: Path) -> None:
    name = read_prompts(sums.folder / "tasks", "train")[0].prompt_id
    path = tmp_path / "samples.jsonl"
    write_jsonl(path, [{"prompt_id": name, "completion": f"The answer is {n}."} for n in (4, 5, 5)])
    cell = sums.with_overrides({"name": "given", "policy.labels.file": str(path), "policy.reward": "majority"})
    table = cell.table("policy", PolicyTable)
    found = policy.rewards.labels.run(cell, table)["summary"]
    assert (found["samples"], found["without_label"]) == (3, 23)
    assert policy.rewards.labels.read_labels(policy.rewards.labels.labels_folder(cell, table))[name].majority == "5"
    write_jsonl(path, [{"prompt_id": name}])
    with pytest.raises(UserError, match="labels/given: was finished"):
        policy.rewards.labels.run(cell, table)
    with pytest.raises(UserError, match="line 1: a sample needs prompt_id and completion, found prompt_id"):
        policy.rewards.labels._given(path, [])
    write_jsonl(path, [{"prompt_id": "other", "completion": ""}])
    with pytest.raises(UserError, match="no sample is of a training prompt of this run"):
        policy.rewards.labels._given(path, [])


def test_problems_in_files_have_labels_too(sums: Experiment, tmp_path: Path) -> None:
    problems = [{"problem": f"What is {n}/2?", "answer": f"\\frac{{{n}}}{{2}}"} for n in (1, 3, 5, 7, 9, 11)]
    write_jsonl(tmp_path / "train.jsonl", problems)
    write_jsonl(tmp_path / "eval.jsonl", [{"problem": "What is 2 + 2?", "answer": "4"}])
    tasks_table = {
        "task": "mathematics",
        "train_files": str(tmp_path / "train.jsonl"),
        "eval_files": str(tmp_path / "eval.jsonl"),
        "n_dev_prompts": 1,
        "prompt": "none",
        "check_seconds": 30,
        "max_new_tokens": 4,
    }
    own = Experiment("x.yaml", "maths", 0, sums.runs_dir, {**sums.tables, "tasks": tasks_table})
    tasks.stage.run(own)
    prompts = read_prompts(own.folder / "tasks", "train")
    wrong, half = prompts[0].prompt_id, prompts[1]
    samples = [(wrong, "\\boxed{8}"), (wrong, "it is 8.0"), (half.prompt_id, f"\\boxed{{{half.meta['answer']}}}")]
    write_jsonl(tmp_path / "samples.jsonl", [{"prompt_id": name, "completion": text} for name, text in samples])
    settings = {
        "labels.file": str(tmp_path / "samples.jsonl"),
        "model_name_or_path": str(sums.folder / "tasks" / "base"),
    }
    settings |= {"max_completion_length": 4, "max_steps": 1, "num_generations": 2, "prompts_per_step": 4}
    _, rows = made(own, reward="majority", **settings)
    labels = policy.rewards.labels.read_labels(own.folder / "labels" / "given")
    assert labels[wrong] == Label(wrong, 2, 2, "8", 2, False, True, "8", 2)
    assert labels[half.prompt_id].majority_wrong is False and labels[half.prompt_id].wrong_votes == 0
    assert {row["label"] for row in rows} <= {"8", half.meta["answer"], None}
    with pytest.raises(UserError, match="4 prompts a step, but there are only 1 training prompts"):
        made(own, reward="incorrect", seed=2, **settings)
    _, rows = made(own, reward="incorrect", n_train_prompts=1, **settings)
    assert {row["prompt_id"] for row in rows} == {wrong}


def test_a_task_without_right_and_wrong_has_no_labels(tmp_path: Path) -> None:
    cell = small_experiment(tmp_path / "runs", "name=none", "policy.reward=majority_live")
    with pytest.raises(UserError, match="answers of the task advice are neither right nor wrong"):
        policy.stage.run(cell)


@pytest.mark.slow
def test_killed_labels_and_flips_go_on_and_end_the_same(sums: Experiment, tmp_path: Path) -> None:
    """One kill while labels are sampled, one while the policy trains on them with flips: then the same samples."""
    _, whole = made(sums, reward="majority", seed=5, noise={"flip_rate": 0.4, "unit": "group", "malformed": "exempt"})
    noise = paper_a(0.4)
    for row in whole:
        judged = Judged(row["prompt_id"], row["sample"], row["step"], row["true_reward"], row["status"] == "ok")
        (given,) = add_noise([judged], noise, 5)
        assert (row["reward"], row["flipped"]) == (given.reward, given.flipped)
    assert {row["flipped"] for row in whole} >= {True, False}
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "policy", "configs/arithmetic.yaml", f"runs_dir={runs}", "name=sums", *SMALL]
    command += ["policy.reward=majority", "policy.seed=5", FLIPS]
    cell = runs / "sums" / "policy" / "majority_flip0.4_group_exempt-grpo-s5"
    moments = (
        runs / "sums" / "labels" / "base-k6" / "started.json",
        cell / "scratch" / "audit" / "step-000002.parquet",
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for moment in moments:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while not moment.exists() and time.monotonic() < deadline:
            assert process.poll() is None, "the cell ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert pq.read_table(cell / COMPLETIONS_FILE).to_pylist() == whole
    labels = (sums.folder / "labels" / "base-k6" / "labels.jsonl").read_bytes()
    assert (runs / "sums" / "labels" / "base-k6" / "labels.jsonl").read_bytes() == labels
    assert len(list(read_jsonl(cell / "answers.jsonl"))) == 8
