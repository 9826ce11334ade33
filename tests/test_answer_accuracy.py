"""Accuracies of real answers beside the scores stored with them: equal to half a point, or differences explained."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from configs.records import read_jsonl
from tasks.mathematics.equality import Question
from tasks.mathematics.extraction import extract_answer, reference_answer
from tasks.mathematics.workers import AnswerChecker

TABLE = Path(__file__).parent / "answers" / "solution_differences.csv"
HALF_A_POINT = 0.005
SECONDS = 5.0
_NUMERIC = re.compile(r"[0-9][eE][-+]?[0-9]+|\\(?:frac|sqrt|pi|times|cdot)")
_LETTERS = re.compile(r"[A-Za-z]")

FILES = [
    ("amc23_Qwen-2.5-3B-rlft", 40, 15),
    ("amc23_Qwen2.5-3B-Instruct", 40, 17),
    ("sat_math_Qwen-2.5-3B-rlft", 32, 31),
    ("sat_math_Qwen2.5-3B-Instruct", 32, 30),
    pytest.param("math500_rho-math-1b-interpreter-v0.1", 500, 201, marks=pytest.mark.slow),
    pytest.param("math500_rho-math-1b-v0.1", 500, 79, marks=pytest.mark.slow),
    pytest.param("minerva_math_Qwen-2.5-3B-rlft", 272, 83, marks=pytest.mark.slow),
    pytest.param("minerva_math_Qwen2.5-3B-Instruct", 272, 70, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "n", "n_stored"), FILES)
def test_real_answers_score_as_stored_or_the_difference_is_explained(
    shared_data: Path, name: str, n: int, n_stored: int
) -> None:
    """Of minerva_math, formulas with letters are asked only where a difference is explained: sympy takes minutes."""
    rows = list(read_jsonl(shared_data / "solutions" / f"{name}.jsonl"))
    assert (len(rows), sum(bool(row["score"][0]) for row in rows)) == (n, n_stored)
    with TABLE.open(newline="") as stream:
        explained = {int(row["idx"]): row["stored"] for row in csv.DictReader(stream) if row["file"] == name}
    if name.startswith("minerva"):
        rows = [row for row in rows if row["idx"] in explained or not _LETTERS.search(_NUMERIC.sub("", row["gt"]))]
    asked = [
        Question(reference_answer(row["answer"]) or row["gt"], extract_answer(row["response"]) or "") for row in rows
    ]
    with AnswerChecker(workers=2, seconds=SECONDS) as checker:
        found = [one.verdict for one in checker.check_all(asked)]
    left = [
        (row["idx"], row["score"], verdict)
        for row, verdict in zip(rows, found, strict=True)
        if verdict != "timeout"
        and (verdict == "right") is not bool(row["score"][0])
        and explained.get(row["idx"]) != ("right" if row["score"][0] else "wrong")
    ]
    assert len(left) <= HALF_A_POINT * n, left
    assert found.count("timeout") <= 0.02 * n


def test_gsm8k_answers_of_four_models_score_as_stored(shared_data: Path) -> None:
    rows = list(read_jsonl(shared_data / "solutions" / "gsm8k_openai_example_solutions.jsonl"))
    with AnswerChecker(seconds=30.0) as checker:
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            right = sum(
                checker.check(
                    Question(
                        row["ground_truth"].rpartition("A:")[2].strip(), extract_answer(row[model]["solution"]) or ""
                    )
                ).verdict
                == "right"
                for row in rows
            )
            assert right == sum(row[model]["is_correct"] for row in rows), model
