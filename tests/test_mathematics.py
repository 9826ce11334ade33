"""Mathematics as a task: extraction, files of many kinds, prompts, the task on disk, and the grader on every row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import UserError
from configs.loader import load_experiment
from tasks.mathematics.extraction import find_answer, last_boxed, perturbed_answer, reference_answer
from tasks.mathematics.problems import INSTRUCTION, load_problems, problem_files
from tasks.mathematics.prompting import load_prompt, prompt_names
from tasks.mathematics.task import MathematicsTable, MathematicsTask
from tasks.records import Prompt, read_pairs, read_prompts
from tasks.table import load_task

TASK = MathematicsTask(MathematicsTable(eval_files=["none.jsonl"], check_seconds=30))


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{1} and then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{7}", None),
        (r"\fboxed{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\boxed{3} but \boxed{4", "3"),
        (r"\boxed{3} but \boxed{}", "3"),
        (r"\boxed{", None),
        (r"\boxed{1\\", None),
        ("none", None),
        (r"\boxed{" * 20_000, None),
    ],
)
def test_last_boxed(text: str, inside: str | None) -> None:
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("completion", "answer", "place"),
    [
        (r"first 3, so \boxed{5}. 6 it is not", "5", "box"),
        (r"<think>\boxed{1}</think> <answer>\boxed{2}</answer>", "2", "box"),
        (r"<answer> \boxed{27}", "27", "box"),
        (r"\boxed{5} <answer> six", "5", "box"),
        ("<think> 3 </think> <answer> 5", "5", "tag"),
        ("<answer>1</answer> no, <answer>x + 1</answer> 9", "x + 1", "tag"),
        ("<answer>the sum is 12 apples</answer> 7", "12", "tag"),
        ("<answer>\\frac{1}{2} of them", "\\frac{1}{2} of them", "tag"),
        ("<answer>" + "so it goes " * 60 + "4 times", "4", "tag"),
        ("The final answer is $(3,\\frac{\\pi}{2}).$ I hope it is correct.", "(3,\\frac{\\pi}{2})", "sentence"),
        ("Final Answer: The final answer is 72. I hope it is correct", "72", "sentence"),
        ("The answer is \\(1.5\\).", "1.5", "sentence"),
        ("The final answer is $\\$10$. I hope", "\\$10", "sentence"),
        ("Thus the answer is (C).", "(C)", "sentence"),
        ("9 * 2 = 18\n#### 18", "18", "mark"),
        ("#### 70,000\nthanks 5", "70,000", "mark"),
        ("it is 1,234.5 dollars", "1,234.5", "number"),
        ("x = -3", "-3", "number"),
        ("a .5 share", ".5", "number"),
        ("a share of 3.89e-10 kg", "3.89e-10", "number"),
        ("between 3 and 4.", "4", "number"),
    ],
)
def test_an_answer_and_its_place(completion: str, answer: str, place: str) -> None:
    assert find_answer(completion) == (answer, place)


@pytest.mark.parametrize("completion", ["no number", "", "####", "<answer>", "<answer></answer>", "\\boxed{}"])
def test_no_answer(completion: str) -> None:
    assert find_answer(completion) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((27.0, "27"), (0.5, "0.5"), (70, "70"), ("070", "070"), ("a <<1+1=2>>\n#### 2", "2"), ("  ", None)),
        *((None, None), (True, None), (float("nan"), None), ("$\\frac{1}{2}$", "\\frac{1}{2}"), (["12"], "12")),
        *(("$5 and $6", "$5 and $6"), (["1", "2"], None)),
    ],
)
def test_reference_answer(value: Any, text: str | None) -> None:
    assert reference_answer(value) == text


def test_grades() -> None:
    prompt = Prompt("p", "eval", [], {"answer": "5"})
    found = [TASK.grade(prompt, text) for text in (r"\boxed{5}", r"\boxed{6}", "I do not know.", r"\boxed{\frac{}}")]
    assert [(g.gold, g.status) for g in found] == [(1.0, "ok"), (0.0, "ok"), (0.0, "malformed"), (None, "unparsable")]
    assert TASK.read("I do not know.").well_formed is False
    assert TASK.grade(prompt, "```python\nprint(5)\n```").style == "fenced_code"
    hasty = MathematicsTask(MathematicsTable(eval_files=["none.jsonl"], check_seconds=1))
    assert hasty.grade(prompt, r"\boxed{9^{9^{9^{9}}}}").status == "timeout"
    choice = Prompt("p", "eval", [], {"answer": "C"})
    assert [TASK.grade(choice, t).gold for t in (r"\boxed{\text{(C)}}", "The answer is (B) 3.", "it is 3")] == [1, 0, 0]


def test_perturbed_answers() -> None:
    assert [perturbed_answer(a) for a in ("18", r"\frac{9}{2}", "p - q")] == ["28", r"\frac{0}{2}", "p - q + 1"]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


KINDS: list[dict[str, Any]] = [
    {"problem": "1+1?", "answer": "2", "solution": "it is 2"},
    {"question": "1+1?", "answer": "so\n#### 2"},
    {"prompt": f"1+1?\n{INSTRUCTION}", "answer": 2},
    {"problem": "1+1?", "solution": "so \\boxed{2}"},
    {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "1+1?"}],
        "reward_model": {"ground_truth": "2"},
    },
    {"prompt": [{"from": "human", "value": "1+1?"}], "final_answer": "2"},
    {"0": {"from": "human", "value": "1+1?"}, "1": {"from": "assistant", "ground_truth": {"value": "2"}}},
]


@pytest.mark.parametrize("row", KINDS, ids=lambda row: "+".join(row))
def test_columns_are_recognised(tmp_path: Path, row: dict[str, Any]) -> None:
    problems, dropped = load_problems(write(tmp_path / "x.jsonl", row))
    assert [(p.text, p.answer, p.problem_id) for p in problems] == [("1+1?", "2", "x-00001")]
    assert dropped == []


def test_parquet_and_lists_of_conversations(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([KINDS[4]]), tmp_path / "verl.parquet")
    (tmp_path / "orz.json").write_text(json.dumps([[KINDS[6]["0"], KINDS[6]["1"]]]))
    (tmp_path / "deepscaler.json").write_text(json.dumps([KINDS[0], KINDS[0]]))
    for name, n in (("verl.parquet", 1), ("orz.json", 1), ("deepscaler.json", 2)):
        assert [p.answer for p in load_problems(tmp_path / name)[0]] == ["2"] * n
    files = problem_files([str(tmp_path / "*.parquet"), str(tmp_path / "orz.json")], "x")
    assert [path.name for path in files] == ["verl.parquet", "orz.json"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"task": "1+1", "answer": "2"}], "needs a problem .* found the columns answer, task"),
        ([{"problem": "1+1", "label": 3}], "needs a problem .* found the columns label, problem"),
        ([{"problem": "1+1", "answer": None}], "1 of 1 rows cannot be used.* line 1: no_answer"),
        ([{"problem": ["1+1"], "answer": 2}], "line 1: empty_problem, problem must be a text, found list"),
        (
            [{"problem": "1+1", "answer": 2}] * 20 + [{"problem": "1", "answer": []}] * 2,
            "2 of 22 .* line 21: empty_answer",
        ),
        ([], "holds no problems"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        load_problems(write(tmp_path / "x.jsonl", *rows))
    assert "\n" not in str(error.value)


def test_single_bad_rows_are_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.jsonl", *({"problem": f"{i}?", "answer": i} for i in range(30)), {"problem": "?", "answer": ""}
    )
    path.write_text(path.read_text() + "{cut\n")
    problems, dropped = load_problems(path, max_malformed_share=0.1)
    assert len(problems) == 30
    assert [(d.line, d.reason) for d in dropped] == [(31, "empty_answer"), (32, "unreadable_json")]


def test_prompts_are_put_in_one_pass() -> None:
    assert prompt_names() == ["boxed", "none", "orz", "qwen-math", "r1", "spurious"]
    problem = "Find {problem} in \\{1\\} and {x}."
    for name in prompt_names():
        messages = load_prompt(name).render(problem)
        assert sum(message["content"].count(problem) for message in messages) == 1
    system, user = load_prompt("qwen-math").render("1+1?")
    assert (system["role"], system["content"], user["content"]) == ("system", INSTRUCTION, "1+1?")
    assert load_prompt("none").render("1+1?") == [{"role": "user", "content": "1+1?"}]
    (orz,) = load_prompt("orz").render("1+1?")
    assert orz["content"].startswith("A conversation between User and Assistant. The user asks a question, and the")
    assert orz["content"].endswith("extracted automatically by the \\boxed{} tag. 1+1? Assistant: <think>")
    assert load_prompt("spurious").render("1+1?")[0]["content"].startswith("Lorem ipsum dolor sit amet")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user: no place", "exactly once, found 0 times"),
        ("user: '{problem}'\nsystem: '{problem}'", "found 2 times"),
        ("user: [1]", "must be texts"),
        ("user: '{problem}'\ntemper: 1", "has the keys user"),
        ("user: '{problem}", "not readable as YAML"),
    ],
)
def test_prompt_files_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_prompt(str(tmp_path / "p.yaml"))
    with pytest.raises(UserError, match="no prompt 'qwen-maths'; choose boxed, none, orz"):
        load_prompt("qwen-maths")


def test_the_task_on_disk(tmp_path: Path) -> None:
    rows = [{"question": f"{i}+1?", "answer": i + 1} for i in range(10)]
    train = write(tmp_path / "train.jsonl", *rows, {"question": "2 + 1?", "answer": 3}, {"question": "", "answer": 3})
    evaluated = write(tmp_path / "eval.jsonl", {"problem": "3 + 1?", "answer": "4"}, {"prompt": "Box?", "answer": 1})
    table = MathematicsTable(eval_files=[str(evaluated)], train_files=[str(train)], n_dev_prompts=2, prompt="qwen-math")
    summary = MathematicsTask(table).build(tmp_path, seed=0)
    assert summary["dropped"] == {"copy": 1, "empty_problem": 1, "train_also_evaluated": 1}
    assert json.loads((tmp_path / "dropped.json").read_text())["first"]["copy"][0]["line"] == 11
    prompts = read_prompts(tmp_path)
    assert [sum(p.split == split for p in prompts) for split in ("train", "dev", "eval")] == [7, 2, 2]
    assert prompts[-1].messages == [{"role": "user", "content": "Box?"}]
    assert prompts[-1].asked[0] == {"role": "system", "content": INSTRUCTION}
    assert prompts[-1].meta["set"] == "eval"
    assert read_pairs(tmp_path) == []
    many = MathematicsTable(eval_files=[str(evaluated)], train_files=[str(train)], n_dev_prompts=9)
    with pytest.raises(UserError, match=r"n_dev_prompts: 9 asked for, and .* 9 usable"):
        MathematicsTask(many).build(tmp_path, 0)


def test_an_experiment_runs_it_and_names_its_files(tmp_path: Path) -> None:
    import tasks.stage

    evaluated = write(tmp_path / "eval.jsonl", {"problem": "3 + 1?", "answer": "4"})
    (tmp_path / "x.yaml").write_text(
        f"runs_dir: {tmp_path}/runs\ntasks: {{task: mathematics, eval_files: {evaluated}, prompt: none}}\n"
    )
    experiment = load_experiment(tmp_path / "x.yaml")
    manifest = tasks.stage.run(experiment)
    assert "eval_files[0]" in json.dumps(manifest)
    assert load_task(experiment).name == "mathematics"
    assert read_prompts(tasks.stage.folder_of(experiment))[0].asked == [{"role": "user", "content": "3 + 1?"}]


def test_a_problem_that_its_own_answer_does_not_solve_is_left_out_and_listed(tmp_path: Path) -> None:
    rows = [{"problem": "1+1?", "answer": "2"}, {"problem": "Which?", "answer": "\\frac{"}]
    task = MathematicsTask(MathematicsTable(eval_files=[str(write(tmp_path / "eval.jsonl", *rows))]))
    assert task.build(tmp_path, seed=0)["reference_answer_ungradable_left_out"] == ["eval-00002"]
    assert [p.meta["answer"] for p in read_prompts(tmp_path)] == ["2"]
    only = MathematicsTask(MathematicsTable(eval_files=[str(write(tmp_path / "bad.jsonl", rows[1]))]))
    with pytest.raises(UserError, match="no reference answer scores 1"):
        only.build(tmp_path, seed=0)


@pytest.mark.parametrize(
    ("name", "rows"), [("math500", 500), ("amc23", 40), ("aime24", 30), ("aime25", 30), ("gsm8k_test", 400)]
)
def test_every_row_proves_the_grader(shared_data: Path, name: str, rows: int) -> None:
    """Gold scores 1 and a perturbed gold 0, boxed as a model would write it; no row is excepted."""
    problems, dropped = load_problems(shared_data / "math" / f"{name}.jsonl")
    assert (len(problems), dropped) == (rows, [])
    for problem in problems:
        prompt = Prompt(problem.problem_id, "eval", [], {"answer": problem.answer})
        assert TASK.grade(prompt, f"So it is $\\boxed{{{problem.answer}}}$.").gold == 1.0, problem.answer
        wrong = perturbed_answer(problem.answer)
        assert TASK.grade(prompt, f"So it is $\\boxed{{{wrong}}}$.").gold == 0.0, (problem.answer, wrong)
