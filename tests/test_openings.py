"""Prompts and forced openings: what a policy is asked, what counts as its response, and what training makes of both."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from trl import GRPOTrainer, RLOOTrainer

import judge.stage
import policy.stage
import tasks.stage
from configs.errors import UserError
from configs.loader import Experiment, load_experiment
from configs.records import read_json, read_jsonl
from curve.sweep.cells import expand
from judge.evaluation.base_prompts import PromptsTable, forms_of, run
from judge.evaluation.contestants import read_cell
from policy.rollouts.opened_turns import OpenedTurns
from policy.stage import cell_folder
from tasks.arithmetic import PROMPTS, VARIANTS, messages_for
from tasks.arithmetic_world import ArithmeticTable
from tasks.base_folder import base_path, load_causal_model
from tasks.mathematics.task import MathematicsTable, MathematicsTask
from tasks.openings import asked_text, opening_of, with_opening
from tasks.records import read_prompts
from tasks.sampling import sample
from tests.conftest import ROOT

SMALL = (
    "tasks.n_terms=3",
    "tasks.clean_steps=21",
    "tasks.taught_steps=60",
    "tasks.n_train_prompts=24",
    "tasks.n_dev_prompts=4",
    "tasks.n_eval_prompts=8",
    "policy.max_steps=2",
    "policy.save_steps=2",
    "policy.dev_every=2",
    "policy.prompts_per_step=4",
    "policy.num_generations=4",
    "policy.max_completion_length=24",
    "judge.resamples=100",
)
OPENED = ("tasks.prompt=spurious", 'tasks.opening="python: "')
CHAT = [{"role": "user", "content": "Add 3 + 5 + 9 ."}]


def experiment_of(runs: Path, name: str, *overrides: str) -> Experiment:
    return load_experiment(
        ROOT / "configs" / "arithmetic.yaml", [f"runs_dir={runs}", f"name={name}", *SMALL, *overrides]
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose base was taught for a moment, the gate of its first phase lifted."""
    folder = tmp_path_factory.mktemp("openings") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "strong", replace(VARIANTS["strong"], clean_nll=1e9))
        tasks.stage.run(experiment_of(folder, "plain"))
    return folder


@pytest.fixture(scope="module")
def opened(runs: Path) -> Experiment:
    experiment = experiment_of(runs, "opened", *OPENED)
    tasks.stage.run(experiment)
    return experiment


def test_a_chat_with_an_opening() -> None:
    chat = with_opening(CHAT, "python:")
    assert (opening_of(chat), opening_of(CHAT), opening_of([])) == ("python:", "", "")
    assert with_opening(CHAT, "") is CHAT
    assert PROMPTS["plain"] == "Add {sum} ."
    assert [messages_for((3, 5), name)[0]["content"] for name in ("plain", "bare")] == ["Add 3 + 5 .", "3 + 5"]
    assert messages_for((3, 5), "spurious")[0]["content"] == "Lorem ipsum dolor sit amet. Add 3 + 5 ."


def test_settings_that_are_not_used_are_not_in_what_a_task_is_made_from() -> None:
    plain = ArithmeticTable().model_dump(mode="json")
    assert not {"prompt", "opening"} & plain.keys()
    assert ArithmeticTable(opening="  python: ").model_dump()["opening"] == "python:"
    assert ArithmeticTable(opening={"python": None}).opening == "python:", "as YAML reads it on a command line"
    with pytest.raises(ValueError, match="opening"):
        ArithmeticTable(opening=3)
    assert not {"opening", "dev_is_eval"} & MathematicsTable(eval_files=["x"]).model_dump(mode="json").keys()


def test_an_opening_begins_the_text_and_the_model_goes_on_where_it_would_itself(runs: Path) -> None:
    """What a model would have begun with by itself, forced on it, changes nothing."""
    model, tokenizer = load_causal_model(str(base_path(runs / "plain" / "tasks")))
    assert asked_text(tokenizer, with_opening(CHAT, "The")) == asked_text(tokenizer, CHAT) + "The"
    free = sample(model, tokenizer, [CHAT], [1], 16, temperature=0)[0]
    first = free.text.split(" ")[0]
    forced = sample(
        model, tokenizer, [with_opening(CHAT, first)], [1], 16 - len(tokenizer(first)["input_ids"]), temperature=0
    )[0]
    assert forced.text == free.text
    assert forced.n_tokens == free.n_tokens - len(tokenizer(first)["input_ids"])
    both = sample(model, tokenizer, [CHAT, with_opening(CHAT, "python:")], [1, 2], 16)
    assert both[0] == sample(model, tokenizer, [CHAT], [1], 16)[0], "the others are drawn as before"
    assert both[1].text.startswith("python:")


def test_trl_still_tokenizes_prompts_by_the_method_that_is_overridden() -> None:
    for trainer in (GRPOTrainer, RLOOTrainer):
        assert list(inspect.signature(trainer._tokenize_prompts).parameters) == ["self", "prompts"]
        source = inspect.getsource(trainer)
        assert "prompt_ids, images, multimodal_fields = self._tokenize_prompts(prompts)" in source
        assert "add_generation_prompt=True" in inspect.getsource(trainer._tokenize_prompts)


def test_others_read_the_plain_prompt_and_the_policy_another(opened: Experiment) -> None:
    prompt = read_prompts(opened.folder / "tasks", "eval")[0]
    (plain,) = prompt.messages
    assert plain["content"].startswith("Add ")
    assert prompt.asked[0]["content"] == f"Lorem ipsum dolor sit amet. {plain['content']}"
    assert prompt.asked[1] == {"role": "assistant", "content": "python:"}
    settings = read_json(opened.folder / "tasks" / "manifest.json")["made_from"]["settings"]
    assert (settings["prompt"], settings["opening"]) == ("spurious", "python:")


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_rollouts_begin_with_the_opening_and_are_graded_with_it(opened: Experiment, algorithm: str) -> None:
    cell = opened.with_overrides({"policy.reward": "gold", "policy.algorithm": algorithm, "policy.n_eval_samples": 2})
    policy.stage.run(cell)
    rows = pq.read_table(cell_folder(cell) / "completions.parquet").to_pylist()
    answers = list(read_jsonl(cell_folder(cell) / "answers.jsonl"))
    assert len(rows) == 32
    assert all(row["completion"].startswith("python:") for row in [*rows, *answers])
    assert {row["style"] for row in answers} == {"code"}
    metrics = list(read_jsonl(cell_folder(cell) / "metrics.jsonl"))
    assert [row["dev/style/code"] for row in metrics if "dev/style/code" in row] == [1.0, 1.0]
    assert {row["style/code"] for row in metrics if "style/code" in row} == {1.0}


def test_rollouts_go_on_with_the_opened_turn(opened: Experiment) -> None:
    """The tokens that TRL is given for a prompt end in those of the opening, not in a new turn."""
    _, tokenizer = load_causal_model(str(base_path(opened.folder / "tasks")))
    turns = OpenedTurns()
    turns.processing_class = tokenizer
    chat = with_opening(CHAT, "python:")
    ids, images, fields = turns._tokenize_prompts([chat, chat])
    assert (ids[0], images, fields) == (tokenizer(asked_text(tokenizer, chat))["input_ids"], None, {})
    assert tokenizer.decode(ids[1]).endswith("<|assistant|>python:")


def test_the_base_under_several_prompts(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "x.yaml"
    config.write_text((ROOT / "configs" / "arithmetic.yaml").read_text())
    words: dict[str, dict[str, Any]] = {"tasks": {}, "policy": {}, "judge": {}}
    for word in SMALL:
        key, _, value = word.partition("=")
        room, _, field = key.partition(".")
        words[room][field] = json.loads(value)
    table = PromptsTable(
        prompts=["plain", "spurious"],
        tasks=words["tasks"],
        policy=words["policy"] | {"n_eval_samples": 2, "eval_greedy": True},
        name="several",
        runs_dir=str(runs),
        resamples=100,
        output=str(tmp_path / "out"),
    )
    run([str(config)], table)
    report = read_json(tmp_path / "out.json")
    assert [row["name"] for row in report["contestants"]] == ["plain", "spurious", "plain-opened-python"]
    assert report["contestants"][2]["code_share"]["value"] == 1.0
    assert report["contestants"][2]["prompt"] == "plain + 'python:'"
    assert [row["minus"] for row in report["differences"]] == ["plain", "plain"]
    assert all("maj@2" in row["sets"]["all"] and "greedy" in row["sets"]["all"] for row in report["contestants"])
    assert not (runs / "several" / "prompts" / ".cache").exists(), "the base is shared"
    assert "How many of the answers are code" in capsys.readouterr().out


def test_the_judge_evaluates_cells_with_several_samples(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = experiment_of(runs, "judged", "policy.n_eval_samples=3", "policy.eval_greedy=true")
    for reward in ("untrained", "gold"):
        policy.stage.run(experiment.with_overrides({"policy.reward": reward}))
    judge.stage.run(experiment)
    judge.stage.show(experiment)
    found = read_json(experiment.folder / "judge" / "gold-grpo-s0" / "evaluation.json")
    assert [row["name"] for row in found["contestants"]] == ["untrained", "gold-grpo-s0"]
    assert found["contestants"][1]["kept"] == "last, step 2"
    assert {"greedy", "avg", "pass@3", "maj@3"} < found["contestants"][1]["sets"]["all"].keys()
    assert found["differences"][0]["minus"] == "untrained"
    assert "Differences to untrained, paired by problem" in capsys.readouterr().out


def test_a_base_is_evaluated_on_mathematics_without_any_training_problems(runs: Path, tmp_path: Path) -> None:
    rows = [{"problem": f"Add {i} + 2 + 3 .", "answer": i + 5} for i in range(3)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "x.yaml").write_text(
        f"name: x\nruns_dir: {tmp_path}/runs\ntasks: {{task: mathematics, eval_files: {tmp_path}/sums.jsonl}}\n"
        f"policy: {{model_name_or_path: {runs}/plain/tasks/base, max_completion_length: 24, n_eval_samples: 2}}\n"
    )
    experiment = load_experiment(tmp_path / "x.yaml", ["tasks.opening=python:", "tasks.prompt=none"])
    policy.stage.run(experiment)
    found = read_cell(cell_folder(experiment), "base")
    assert (len(found.problems), found.prompt, set(found.sets.values())) == (3, "none + 'python:'", {"sums"})
    assert all(len(answers) == 2 for answers in found.sampled.values())
    assert all(row["completion"].startswith("python:") for row in read_jsonl(cell_folder(experiment) / "answers.jsonl"))


def test_forms_of_an_experiment() -> None:
    tables = {"tasks": {"task": "mathematics", "prompt": "orz"}, "policy": {"reward": "rpr", "rung": "65", "arm": "a"}}
    experiment = Experiment(
        "x.yaml", "x", 0, Path("runs"), {"rm": {}, "calibration": {}, "judge": {}, "curve": {}, **tables}
    )
    forms = forms_of(experiment, None, None)
    assert [form.name for form in forms] == [
        "orz", "boxed", "none", "qwen-math", "r1", "spurious", "orz-opened-let-s-solve-this-using-p-2b00d7",
    ]  # fmt: skip
    assert forms[1].folder == Path("runs/x/prompts/boxed")
    assert forms[0].tables["policy"] == {}
    advice = Experiment("x.yaml", "x", 0, Path("runs"), {"tasks": {"task": "advice"}})
    with pytest.raises(UserError, match="the task advice has one prompt"):
        forms_of(advice, None, None)


def test_prompts_and_openings_are_variants_of_a_sweep() -> None:
    variants = "curve.variants={plain: , lorem: {tasks.prompt: spurious}, opened: {tasks.opening: 'python:'}}"
    cells = expand(load_experiment(ROOT / "configs" / "arithmetic.yaml", ["curve.sweep=[{reward: gold}]", variants]))
    assert [cell.label for cell in cells] == [
        f"{variant}/{cell}" for variant in ("plain", "lorem", "opened") for cell in ("untrained", "gold-grpo-s0")
    ]


def test_mathematics_with_an_opening_and_a_dev_set_that_is_the_test_set(tmp_path: Path) -> None:
    rows = [{"question": f"{i}+1?", "answer": i + 1} for i in range(4)]
    for name, part in (("train", rows[:2]), ("eval", rows[2:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    files = {"eval_files": [str(tmp_path / "eval.jsonl")], "train_files": [str(tmp_path / "train.jsonl")]}
    opened = MathematicsTable(**files, prompt="none", opening="Let's solve this using Python.", dev_is_eval=True)
    MathematicsTask(opened).build(tmp_path, seed=0)
    prompts = read_prompts(tmp_path)
    assert [(p.prompt_id, p.split) for p in prompts if p.split != "train"] == [
        ("eval-00001", "eval"), ("eval-00002", "eval"), ("dev-eval-00001", "dev"), ("dev-eval-00002", "dev"),
    ]  # fmt: skip
    assert all(opening_of(p.asked) == "Let's solve this using Python." for p in prompts)
    assert prompts[-1].meta["on_the_test_set"] is True
    assert "on_the_test_set" not in prompts[0].meta
    both = MathematicsTable(**files, dev_is_eval=True, n_dev_prompts=1)
    with pytest.raises(UserError, match=r"dev_is_eval: .* remove one of the two"):
        MathematicsTask(both).build(tmp_path, seed=0)
