"""Evaluation: marks, rates and intervals by hand, cells and files, differences, and a step chosen on the test set."""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.loader import read_words
from configs.records import read_json, write_jsonl
from configs.runfolder import Stage, run_stage
from judge.evaluation.command import EvaluateTable, evaluate, evaluate_judged, run, show_judged
from judge.evaluation.contestants import Contestant, cells_in, read_cell, read_file, short_names
from tasks.mathematics.answer_files import Answer, FileFields
from tasks.records import Prompt, write_prompts

RIGHT, OTHER, SILENT = Answer("7", "right"), Answer("8", "wrong"), Answer(None, "malformed")
HALF = Answer("\\frac{1}{2}", "right")


def contestant(name: str, **answers: list[Answer]) -> Contestant:
    return Contestant(name, f"{name}.jsonl", answers, sets={problem: problem[0] for problem in answers})


def test_rates_by_hand() -> None:
    """One problem with 2 right, 1 wrong, 1 silent of 4; one that is never right."""
    found = evaluate(
        [contestant("x", a1=[RIGHT, RIGHT, OTHER, SILENT], b1=[OTHER, OTHER, Answer("9", "wrong"), OTHER])], [2], 0, 500
    )["contestants"][0]["sets"]
    assert (found["all"]["n_problems"], found["all"]["n_samples"]) == (2, 8)
    assert found["all"]["marks"] == {"right": 2, "wrong": 5, "malformed": 1, "unparsable": 0, "timeout": 0}
    assert found["a"]["avg"]["value"] == 0.5
    assert found["all"]["avg"]["value"] == 0.25
    assert found["a"]["pass@2"]["value"] == pytest.approx(1 - 1 / 6)
    # Of the 6 pairs: two right ones 1; right with wrong, two, by half; right with silence, two; the last none.
    assert found["a"]["maj@2"]["value"] == pytest.approx((1 + 2 / 2 + 2) / 6)
    assert found["b"]["maj@2"]["value"] == 0.0
    assert found["all"]["avg"]["lo"] <= 0.25 <= found["all"]["avg"]["hi"]


def test_answers_that_are_equal_vote_together() -> None:
    """1/2, 0.5 and \\frac{1}{2} outvote two times 2, and not apart."""
    answers = [HALF, Answer("0.5", "right"), Answer("1/2", "right"), Answer("2", "wrong"), Answer("2", "wrong")]
    assert evaluate([contestant("x", a=answers)], [5], 0, 100)["contestants"][0]["sets"]["all"]["maj@5"]["value"] == 1.0


def test_an_answer_is_as_right_as_its_samples() -> None:
    doubtful = [HALF, Answer("0.5", "timeout")]
    assert (
        evaluate([contestant("x", a=doubtful)], [2], 0, 100)["contestants"][0]["sets"]["all"]["maj@2"]["value"] == 0.5
    )


def test_single_answers_have_wilsons_interval() -> None:
    """8 of 10, from any textbook: 0.490 to 0.943."""
    single = {f"p{i}": [RIGHT if i < 8 else OTHER] for i in range(10)}
    greedy = {problem: answers[0] for problem, answers in single.items()}
    for figure, one in (("avg", contestant("x", **single)), ("greedy", Contestant("x", "x", {}, greedy))):
        found = evaluate([one], None, 0, 100)["contestants"][0]["sets"]["all"][figure]
        assert (found["value"], found["interval"], found["n_problems"]) == (0.8, "wilson", 10)
        assert (found["lo"], found["hi"]) == (pytest.approx(0.490, abs=5e-4), pytest.approx(0.943, abs=5e-4))


@pytest.mark.parametrize(
    ("answers", "bounds"),
    [
        ([RIGHT, RIGHT], (0.90108, 1.0)),
        ([OTHER, SILENT], (0.0, 0.09892)),
        ([RIGHT, OTHER], (0.5 * 0.90108, 1 - 0.5 * 0.90108)),
    ],
)
def test_problems_that_all_agree_are_doubted(answers: list[Answer], bounds: tuple[float, float]) -> None:
    """Wilson's bound for 0 of 35 is 3.8415 / 38.8415 = 0.09890; resamples of equal values have no width."""
    one, two = (contestant(name, **{f"p{i}": answers for i in range(35)}) for name in "xy")
    report = evaluate([one, two], [2], 0, 100)
    figures = report["contestants"][0]["sets"]["all"]
    assert (figures["avg"]["lo"], figures["avg"]["hi"]) == (
        pytest.approx(bounds[0], abs=1e-4),
        pytest.approx(bounds[1], abs=1e-4),
    )
    for figure in (*(figures[name] for name in ("avg", "pass@2", "maj@2")), report["differences"][0]["avg"]):
        assert figure["interval"] in ("all_agree", "wilson") and figure["hi"] - figure["lo"] > 0.09


def test_differences_are_paired_by_problem() -> None:
    """Ten problems, each right once more of four than before: a gain of 1/4 that only unseen problems can doubt.

    Wilson's bound for 0 of 10 is 3.8415 / 13.8415 = 0.27753, and a difference lies in -1..1.
    """
    before = {f"p{i}": [RIGHT] * (i % 3) + [OTHER] * (4 - i % 3) for i in range(10)}
    after = {f"p{i}": [RIGHT] * (i % 3 + 1) + [OTHER] * (3 - i % 3) for i in range(11)}
    report = evaluate([contestant("before", **before), contestant("after", **after)], None, 0, 300)
    (gain,) = report["differences"]
    assert (gain["minus"], gain["n_problems"], gain["only_in_one"]) == ("before", 10, 1)
    assert (gain["avg"]["value"], gain["avg"]["interval"]) == (0.25, "all_agree")
    assert gain["avg"]["lo"] == pytest.approx(0.25 - 0.27753 * 1.25, abs=1e-5)
    assert gain["avg"]["hi"] == pytest.approx(0.25 + 0.27753 * 0.75, abs=1e-5)
    assert report["contestants"][0]["sets"]["all"]["avg"]["hi"] > 0.25
    with pytest.raises(UserError, match="share no problem"):
        evaluate([contestant("x", a=[RIGHT]), contestant("y", b=[RIGHT])], None, 0, 300)


def test_problems_with_fewer_samples_than_k_are_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [
        {"problem": "1+1", "answer": "2", "responses": ["2", "3", "2"]},
        {"problem": "2+2", "answer": "4", "responses": ["4"]},
    ]
    write_jsonl(tmp_path / "x.jsonl", rows)
    run([str(tmp_path / "x.jsonl")], EvaluateTable(k=[1, 2], output=str(tmp_path / "out"), seconds=30))
    found = read_json(tmp_path / "out.json")["contestants"][0]["sets"]["all"]
    assert (found["pass@1"]["n_problems"], found["pass@2"]["n_problems"]) == (2, 1)
    assert found["n_samples_a_problem"] == [1, 3]
    assert "pass@2 and maj@2 are of 1 problems" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert {(row["figure"], row["k"]) for row in rows} == {
        ("avg", ""),
        *(("pass", k) for k in "12"),
        *(("maj", k) for k in "12"),
    }


def test_marks_of_a_file_are_told_apart(tmp_path: Path) -> None:
    texts = [r"\boxed{5}", r"\boxed{6}", "I do not know.", r"\boxed{\frac{}}", r"\boxed{9^{9^{9^{9}}}}"]
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"question": "?", "gt": 5, "response": text, "score": [False]} for text in texts])
    began = time.monotonic()
    found = read_file(path, "x", FileFields(), greedy=False, workers=2, seconds=2.0)
    assert [answer.mark for answer in found.sampled["?"]] == ["right", "wrong", "malformed", "unparsable", "timeout"]
    assert time.monotonic() - began < 60
    believed = read_file(path, "x", FileFields(right="score"), greedy=False, workers=1, seconds=2.0)
    assert [answer.mark for answer in believed.sampled["?"]] == ["wrong", "wrong", "malformed", "wrong", "wrong"]
    write_jsonl(
        tmp_path / "y.jsonl", [{"question": "?", "gt": 5, "response": text} for text in ("\\boxed{5}", "It is 5.")]
    )
    boxed = read_file(tmp_path / "y.jsonl", "y", FileFields(answer_in="box"), greedy=False, workers=1, seconds=2.0)
    assert [answer.mark for answer in boxed.sampled["?"]] == ["right", "malformed"]
    with pytest.raises(UserError, match="greedy=true, and the problem '\\?' has 5 answers"):
        read_file(path, "x", FileFields(), greedy=True, workers=1, seconds=2.0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"problem": "?"}, "line 1: no responses or response"),
        ({"problem": "?", "answer": "3", "responses": []}, "line 1: an empty list of responses"),
        ({"problem": "?", "score": 7, "response": "x"}, "line 1: a verdict is true, false or from 0 to 1, found 7"),
        ({"problem": "?", "score": math.nan, "response": "x"}, "line 1: a verdict is true, false or from 0 to 1"),
        ({"response": "5", "gt": 5}, "no prompt_id .* name the field with key=FIELD"),
        ({"problem": "?", "response": "5"}, "neither a reference answer nor a verdict"),
        ({"problem": "?", "responses": ["5", "6"], "score": [1]}, "2 responses and 1 verdicts"),
        ({"problem": "?", "responses": [5], "gt": 5}, "must be a text"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=words):
        run([str(tmp_path / "x.jsonl")], EvaluateTable())


def test_settings(tmp_path: Path) -> None:
    assert read_words(["x.jsonl", "k=8"], EvaluateTable, "evaluate")[1].k == [8]
    assert EvaluateTable(k=[8, 1]).k == [1, 8]
    for k in (0, 1001, True, "all"):
        with pytest.raises(UserError, match="evaluate: k"):
            read_words([f"k={json.dumps(k)}"], EvaluateTable, "evaluate")
    with pytest.raises(UserError, match="no finished policy cell"):
        run([str(tmp_path)], EvaluateTable())


def test_a_problem_has_one_reference(tmp_path: Path) -> None:
    rows = [{"problem": "?", "answer": answer, "response": "\\boxed{3}"} for answer in ("3", "3.0", "77")]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"line 3: the problem '\?' has the reference '77', and before '3'; name the"):
        run([str(tmp_path / "x.jsonl")], EvaluateTable())
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    run([str(tmp_path / "x.jsonl")], EvaluateTable(resamples=100))


@pytest.mark.parametrize(("name", "right"), [("amc23_Qwen2.5-3B-Instruct", 17), ("amc23_Qwen-2.5-3B-rlft", 15)])
def test_real_answers_of_one_sample(shared_data: Path, name: str, right: int) -> None:
    found = read_file(shared_data / "solutions" / f"{name}.jsonl", name, FileFields(), True, 1, 30.0)
    assert sum(answer.mark == "right" for answer in found.greedy.values()) == right
    assert evaluate([found], None, 0, 100)["contestants"][0]["sets"]["all"]["greedy"]["value"] == right / 40


def test_real_answers_of_eight_samples_by_their_stored_scores(shared_data: Path) -> None:
    path = shared_data / "calibration" / "qwen_math_cot_100_rm.jsonl"
    fields = FileFields(text="code", right="score", key="idx")
    found = evaluate([read_file(path, "x", fields, False, 1, 30.0)], None, 0, 500)
    of = found["contestants"][0]["sets"]["all"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert (found["k"], of["n_problems"], of["n_samples"]) == ([8], 50, 400)
    assert of["avg"]["value"] == pytest.approx(sum(sum(row["score"]) for row in rows) / 400)
    assert of["pass@8"]["value"] == pytest.approx(sum(any(row["score"]) for row in rows) / 50)
    assert 0.85 < of["maj@8"]["value"] < of["pass@8"]["value"]


def made_run(folder: Path, kept: dict[str, Any] | None, on_test: bool, grade: str = "timeout") -> Path:
    """A finished run of the mathematics task, with a cell of two samples a problem and greedy answers."""
    prompts = [Prompt(f"p{i}", "eval", [], {"answer": "7", "set": f"set{i % 2}"}) for i in range(4)]
    if on_test:
        prompts += [Prompt("dev-p0", "dev", [], {"answer": "7", "on_the_test_set": True})]

    def tasks(inside: Path) -> dict[str, Any]:
        write_prompts(inside, prompts)
        return {}

    def cell(inside: Path) -> dict[str, Any]:
        base = {"completion": "7", "status": "ok", "style": "language", "n_tokens": 1, "truncated": False}
        rows = [
            {**base, "prompt_id": f"p{i}", "sample": k, "answer": "7", "gold": float(k), "grade": "ok"}
            for i in range(4)
            for k in (0, 1)
        ]
        rows[0] |= {"gold": None, "grade": grade}
        write_jsonl(inside / "answers.jsonl", rows)
        write_jsonl(inside / "greedy.jsonl", [row for row in rows if row["sample"] == 1])
        return {} if kept is None else {"kept": kept}

    settings = {"task": "mathematics", "prompt": "orz", "opening": "Let's go."}
    run_stage(Stage("tasks", folder / "tasks", settings, 0), tasks)
    name = "untrained" if kept is None else "gold-grpo-s0"
    run_stage(Stage("policy", folder / "policy" / name, {"x": name}, 0), cell)
    return folder / "policy" / name


def test_cells_of_a_run_with_greedy_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(tmp_path / "run", None, False)
    trained = made_run(tmp_path / "run", {"rule": "best_dev_gold", "step": 40, "value": 0.5}, False)
    assert [cell.name for cell in cells_in(tmp_path / "run")] == ["untrained", "gold-grpo-s0"]
    run([str(tmp_path / "run")], EvaluateTable(output=str(tmp_path / "out")))
    first, second = read_json(tmp_path / "out.json")["contestants"]
    assert (first["name"], first["prompt"], first["kept"]) == ("untrained", 'orz + "Let\'s go."', None)
    assert (second["kept"], second["chosen_on_test_set"]) == ("best_dev_gold, step 40", False)
    assert first["sets"]["all"]["marks"] == {"right": 4, "wrong": 3, "malformed": 0, "unparsable": 0, "timeout": 1}
    assert first["sets"]["all"]["greedy"]["value"] == 1.0
    assert set(first["sets"]) == {"all", "set0", "set1"}
    said = capsys.readouterr().out
    assert "CHOSEN ON THE TEST SET" not in said
    folders = {"baseline": tmp_path / "run" / "policy" / "untrained", "cell": trained}
    judged = tmp_path / "judged"
    judged.mkdir()
    evaluate_judged(judged, folders, "mathematics", 0, 200)
    show_judged([judged])
    assert "Differences to untrained" in capsys.readouterr().out
    evaluate_judged(tmp_path, folders, "advice", 0, 200)
    assert not (tmp_path / "evaluation.json").exists()


def test_a_step_that_was_chosen_on_the_test_set_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rule, chosen in (("best_dev_gold", True), ("last", False), ("best_reward", False)):
        cell = made_run(tmp_path / rule, {"rule": rule, "step": 40, "value": None}, True)
        assert read_cell(cell, "x").on_test_set is chosen
        run([str(cell)], EvaluateTable())
        assert ("CHOSEN ON THE TEST SET" in capsys.readouterr().out) is chosen


def test_cells_that_cannot_be_evaluated(tmp_path: Path) -> None:
    cell = made_run(tmp_path / "old", None, False, grade="ok")
    with pytest.raises(UserError, match="row 1: gold is None and its grade 'ok'"):
        run([str(cell)], EvaluateTable())
    run_stage(Stage("tasks", tmp_path / "advice" / "tasks", {"task": "advice"}, 0), lambda inside: {})

    def answers(inside: Path) -> dict[str, Any]:
        write_jsonl(inside / "answers.jsonl", [{"prompt_id": "p"}])
        return {}

    run_stage(Stage("policy", tmp_path / "advice" / "policy" / "untrained", {}, 0), answers)
    with pytest.raises(UserError, match="the task advice are neither right nor wrong"):
        run([str(tmp_path / "advice")], EvaluateTable())


def test_short_names_tell_cells_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "policy" / "untrained", tmp_path / "x" / "variants" / "weak" / "policy" / "untrained"]
    assert short_names(paths) == ["x/untrained", "weak/untrained"]
    with pytest.raises(UserError, match="named twice"):
        short_names([paths[0], paths[0]])
