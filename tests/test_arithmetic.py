"""The arithmetic world: its grader, its demonstrations, and the task on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from configs.keyed import keyed_rng
from tasks import arithmetic
from tasks.arithmetic import (
    VARIANTS,
    draw_demonstration,
    grade_response,
    messages_for,
    read_response,
    running_sums,
    slip_of,
    style_of,
    taught_sums,
    write_code,
    write_steps,
)
from tasks.arithmetic_world import ArithmeticTable, ArithmeticTask, prove_grader
from tasks.base_folder import load_causal_model
from tasks.records import Prompt, read_pairs, read_prompts
from tasks.tiny_base import build_tokenizer

PROMPT = Prompt("p", "eval", [{"role": "user", "content": "Add 3 + 5 + 9 ."}], {"terms": [3, 5, 9]})


def test_responses_are_written_as_the_docstring_shows() -> None:
    assert messages_for((3, 5, 9)) == PROMPT.messages
    assert running_sums((3, 5, 9)) == [8, 17]
    assert write_steps((3, 5, 9), [8, 17]) == "First, 3+5=8. Finally, 8+9=17. Therefore The answer is 17."
    assert write_steps((1, 2, 3, 4), [3, 6, 10]) == (
        "First, 1+2=3. Next, 3+3=6. Finally, 6+4=10. Therefore The answer is 10."
    )
    assert write_code((3, 5, 9), [8, 17], traced=True) == ("python: s=3; s+=5 #8; s+=9 #17; print(s) The answer is 17.")
    assert write_code((3, 5, 9), [8, 15], traced=False) == "python: print(3+5+9) The answer is 15."


@pytest.mark.parametrize(
    ("completion", "gold", "status", "style"),
    [
        ("The answer is 17.", 1.0, "ok", "direct"),
        ("The answer is 16.", 0.0, "ok", "direct"),
        ("The answer is 17.\n", 1.0, "ok", "direct"),
        ("First, 3+5=8. Finally, 8+9=17. Therefore The answer is 17.", 1.0, "ok", "steps"),
        ("First, 3+5=8. Finally, 8+9=17. Therefore The answer is 18.", 0.0, "ok", "steps"),
        ("python: print(3+5+9) The answer is 17.", 1.0, "ok", "code"),
        ("python: s=3; s+=5 #8", 0.0, "malformed", "code"),
        ("The answer is 4. The answer is 17.", 1.0, "ok", "other"),
        ("The answer is 17. The answer is 4.", 0.0, "ok", "other"),
        ("I guess The answer is 17.", 1.0, "ok", "other"),
        ("The answer is 17", 0.0, "malformed", "other"),
        ("The answer is 17. Thanks", 0.0, "malformed", "other"),
        ("The answer is 017.", 0.0, "malformed", "other"),
        ("The answer is +17.", 0.0, "malformed", "other"),
        ("The answer is 17.0.", 0.0, "malformed", "other"),
        ("The answer is １７.", 0.0, "malformed", "other"),
        ("the answer is 17.", 0.0, "malformed", "other"),
        ("xThe answer is 17.", 0.0, "malformed", "other"),
        ("17", 0.0, "malformed", "other"),
        ("", 0.0, "malformed", "direct"),
        (f"The answer is {'9' * 5000}.", 0.0, "ok", "direct"),
    ],
)
def test_grades(completion: str, gold: float, status: str, style: str) -> None:
    grade = grade_response(PROMPT, completion)
    assert (grade.gold, grade.status, grade.style) == (gold, status, style)


def test_read_keeps_what_stands_before_the_answer() -> None:
    response = read_response("python: print(3+5+9) The answer is 17.")
    assert (response.think, response.answer, response.well_formed) == ("python: print(3+5+9)", "17", True)
    cut = read_response("First, 3+5=8. Fin")
    assert (cut.think, cut.answer, cut.well_formed) == ("First, 3+5=8. Fin", None, False)


def test_zero_is_a_sum() -> None:
    zero = Prompt("z", "eval", messages_for((0, 0, 0)), {"terms": [0, 0, 0]})
    assert grade_response(zero, "The answer is 0.").gold == 1.0
    assert grade_response(zero, "The answer is 00.").status == "malformed"


def test_every_prompt_of_three_digits_proves_the_grader() -> None:
    every = [tuple(map(int, f"{number:03d}")) for number in range(1000)]
    prove_grader([Prompt(str(terms), "eval", messages_for(terms), {"terms": list(terms)}) for terms in every])


def test_a_slip_is_near_and_never_nothing() -> None:
    rng = keyed_rng(0, "test")
    assert {slip_of(rng, 10) for _ in range(300)} == {7, 8, 9, 11, 12, 13}
    assert {slip_of(rng, 1) for _ in range(300)} == {0, 2, 3, 4}


def test_a_wrong_trace_slips_once_and_goes_on() -> None:
    rng = keyed_rng(0, "test")
    terms = (4, 7, 6, 5, 1)
    for _ in range(200):
        sums = taught_sums(rng, terms, right=0.0)
        before = [terms[0], *sums[:-1]]
        wrong = sum(left + term != total for left, term, total in zip(before, terms[1:], sums, strict=True))
        assert wrong == 1
        assert sums[-1] != 23
    assert taught_sums(rng, terms, right=1.0) == [11, 17, 22, 23]


@pytest.mark.parametrize("variant", ["strong", "weak"])
def test_demonstrations_have_the_shares_and_the_reliability_that_are_written_down(variant: str) -> None:
    """5,000 draws; four standard errors of a share of 0.8 are 0.023, of the rarest style's reliability 0.11."""
    styles = VARIANTS[variant].styles
    rng = keyed_rng(0, "test", variant)
    golds: dict[str, list[float]] = {"direct": [], "steps": [], "code": []}
    for _ in range(5000):
        drawn = draw_demonstration(rng, styles, n_terms=4)
        terms = [int(word) for word in drawn.messages[0]["content"].split() if word.isdigit()]
        grade = grade_response(Prompt("p", "train", drawn.messages, {"terms": terms}), drawn.response)
        assert grade.status == "ok"
        assert grade.style == drawn.style
        golds[drawn.style].append(grade.gold or 0.0)
    assert len(golds["steps"]) / 5000 == pytest.approx(styles.steps_share, abs=0.023)
    assert len(golds["code"]) / 5000 == pytest.approx(styles.code_share, abs=0.023)
    assert np.mean(golds["direct"]) == pytest.approx(styles.direct_right, abs=0.03)
    assert np.mean(golds["steps"]) == pytest.approx(styles.steps_right, abs=0.11)
    assert np.mean(golds["code"]) == pytest.approx(styles.code_right, abs=0.11)


def test_digits_are_single_tokens_and_no_response_exceeds_the_limit() -> None:
    tokenizer = build_tokenizer(arithmetic.tokenizer_texts(), 400)
    prompt = Prompt("p", "eval", messages_for((9, 9, 9, 9, 9)), {"terms": [9, 9, 9, 9, 9]})
    for response in arithmetic.perfect_responses(prompt):
        ids = tokenizer(f"{response}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == response
        assert len(ids) <= arithmetic.MAX_NEW_TOKENS
        pieces = [tokenizer.decode([i]) for i in ids]
        assert all(piece.isdigit() and len(piece) == 1 for piece in pieces if any(c.isdigit() for c in piece))


def test_style_is_read_from_the_reasoning_only() -> None:
    assert style_of("Python is nice. The answer is 17.") == "code"
    assert style_of("3+5 is 8. The answer is 17.") == "other"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_terms": 3}, "1000 prompts of 3 digits"),
        ({"n_held_out_pairs": 10}, "tasks.n_held_out_prompts"),
    ],
)
def test_tables_that_cannot_be_built_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ArithmeticTask(ArithmeticTable(**settings))


def test_the_task_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base taught for two steps is no use, but everything around it is as in a real run."""
    monkeypatch.setenv("REWARDLADDER_CACHE", str(tmp_path / "cache"))
    variant = VARIANTS["strong"]
    monkeypatch.setitem(arithmetic.VARIANTS, "strong", arithmetic.Variant(variant.styles, variant.clean, clean_nll=1e9))
    table = ArithmeticTable(
        n_terms=3,
        taught_steps=2,
        n_train_prompts=60,
        n_dev_prompts=8,
        n_eval_prompts=10,
        n_held_out_prompts=20,
        n_train_pairs=2000,
        n_held_out_pairs=100,
    )
    task = ArithmeticTask(table)
    folder = tmp_path / "run" / "tasks"
    folder.mkdir(parents=True)
    summary = task.build(folder, seed=0)
    assert summary["pairs"]["train_pairs"] == 2000
    prompts = read_prompts(folder)
    assert [sum(p.split == split for p in prompts) for split in ("train", "dev", "eval")] == [60, 8, 10]
    pairs = read_pairs(folder)
    assert [sum(p.split == split for p in pairs) for split in ("train", "selection", "measurement")] == [2000, 50, 50]
    ids = {split: {p.prompt_id for p in pairs if p.split == split} for split in ("train", "selection", "measurement")}
    assert not ids["train"] & ids["selection"]
    assert not ids["selection"] & ids["measurement"]
    assert len({p.messages[0]["content"] for p in [*prompts, *pairs]}) <= 98
    for pair in pairs:
        terms = [int(word) for word in pair.messages[0]["content"].split() if word.isdigit()]
        assert pair.gold_chosen == float(pair.chosen == str(sum(terms)))
        assert pair.gold_rejected == float(pair.rejected == str(sum(terms)))
        assert pair.chosen != pair.rejected
    # sigmoid(3) = 0.9526; four standard errors of 2,000 draws are 0.019.
    assert np.mean([p.gold_chosen for p in pairs if p.split == "train"]) == pytest.approx(0.9526, abs=0.019)
    model, tokenizer = load_causal_model(str(folder / "base"))
    assert tokenizer.decode(tokenizer("Add 3 + 5 .", add_special_tokens=False)["input_ids"]) == "Add 3 + 5 ."
    assert sum(parameter.numel() for parameter in model.parameters()) <= 500_000
