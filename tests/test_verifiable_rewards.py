"""Rewards on answers that can be checked, by hand: text rewards, labels, RPR for wrong answers, noise, conditions."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from pydantic import ValidationError

from calibration.calibrator import Calibrator
from calibration.config import CalibrationTable
from configs.errors import UserError
from configs.keyed import keyed_rng
from policy.config import PolicyTable, cell_name
from policy.rewards.label_matching import LabelMatcher, Match
from policy.rewards.noise import Judged, add_noise
from policy.rewards.table import Parts, RewardSettings, Rollout, reward_of
from policy.rewards.text import contains, repeats
from policy.rewards.votes import Label
from tasks.arithmetic_world import ArithmeticTable, ArithmeticTask
from tasks.mathematics.task import MathematicsTable, MathematicsTask
from tasks.records import Prompt, VerifiableTask

ADDS = ArithmeticTask(ArithmeticTable())
MATHS = MathematicsTask(MathematicsTable(eval_files=["none.jsonl"], check_seconds=30))
BOXES = MathematicsTask(MathematicsTable(eval_files=["none.jsonl"], check_seconds=30, answer_in="box"))
SUM = Prompt("sum", "train", [{"role": "user", "content": "Add 3 + 5 + 9 ."}], {"terms": [3, 5, 9]})
HALF = Prompt("half", "train", [{"role": "user", "content": "What is 2/4?"}], {"answer": "\\frac{1}{2}"})
STEPS = "First, 3+5=8. Finally, 8+9=17. Therefore The answer is 17."
DIFFERENT = "".join(chr(0x4E00 + i) for i in range(257))
RPR_ONLY = Calibrator.without_rung(CalibrationTable(phrases="corrected-helpsteer", normaliser=4, ngram=8), "rpr_only")


def rollout(
    completion: str, task: Any = ADDS, prompt: Prompt = SUM, sample: int = 0, step: int = 0, **matches: Match
) -> Rollout:
    read, grade = task.read(completion), task.grade(prompt, completion)
    return Rollout(prompt, sample, step, completion, 9, False, read, grade, None, matches=matches)  # type: ignore[arg-type]


def parts(of: Rollout, seed: int = 0, **fields: Any) -> Parts:
    return reward_of(of, RewardSettings(PolicyTable(**fields), seed, 64, RPR_ONLY))


@pytest.mark.parametrize(
    ("completion", "python", "form"),
    [
        ("python: s=3; s+=5 #8; s+=9 #17; print(s) The answer is 17.", 1.0, 1.0),
        ("I use PyThOn3 no more", 1.0, 0.0),
        ("pyth on The answer is 17.", 0.0, 1.0),
        ("", 0.0, 0.0),
    ],
)
def test_python_is_the_word_in_either_case_whatever_the_form(completion: str, python: float, form: float) -> None:
    assert parts(rollout(completion), reward="python") == Parts(python, true=python)
    assert parts(rollout(completion), reward="format") == Parts(form, true=form)


@pytest.mark.parametrize(
    ("completion", "boxed", "gold_anywhere", "gold_box"),
    [
        (r"so \boxed{0.5}", 1.0, 1.0, 1.0),
        (r"\boxed{\frac{2}{4}} or \boxed{}", 1.0, 1.0, 1.0),
        (r"\boxed{3}", 1.0, 0.0, 0.0),
        (r"\boxed{} 0.5", 0.0, 1.0, 0.0),
        (r"\boxed{0.5", 0.0, 1.0, 0.0),
        ("The answer is 0.5.", 0.0, 1.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_format_in_mathematics_is_a_box_that_is_not_empty(
    completion: str, boxed: float, gold_anywhere: float, gold_box: float
) -> None:
    for task, gold in ((MATHS, gold_anywhere), (BOXES, gold_box)):
        of = rollout(completion, task, HALF)
        assert parts(of, reward="format").reward == boxed
        assert parts(of, reward="gold").reward == gold
    exempt = {"flip_rate": 1.0, "malformed": "exempt"}
    flipped = parts(rollout(completion, BOXES, HALF), reward="gold", noise=exempt)
    assert flipped.reward == (1 - gold_box if boxed else 0.0), "paper A flips what stands in a box and nothing else"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0123456789" * 10, True),
        ("0123456789" * 9 + "012345678", False),
        ("ab" + "0123456789" * 10 + "cd", True),
        ("a" * 100, True),
        ("a" * 99, False),
        ("wait, " * 20, True),  # 12 characters, ten times
        ("wait, " * 19, False),
        (DIFFERENT[:256] * 10, True),
        (DIFFERENT[:256] * 10 + "!", True),
        ("!" + DIFFERENT[:256] * 9 + DIFFERENT[:255], False),
        (DIFFERENT * 10, False),
        ("", False),
    ],
)
def test_repetition_is_ten_times_in_a_row(text: str, found: bool) -> None:
    assert repeats(text) is found
    assert parts(rollout(text), reward="no_repetition").reward == float(not found)


def test_repetition_is_what_a_regular_expression_finds() -> None:
    pattern = re.compile(r"(.{3,6})\1{3}", re.DOTALL)
    for i in range(400):
        text = f"{i * 7919 % 1000:03b}"[:4] * (i % 7) + f"{i:b}" * (i % 9) + "é\n" * (i % 8)
        assert repeats(text, 3, 6, 4) is bool(pattern.search(text)), text


def test_a_hundred_answers_of_ten_thousand_characters_take_less_than_a_second() -> None:
    texts = ["".join(map(chr, keyed_rng(0, "letters", i).integers(97, 123, 10_000))) for i in range(8)]
    texts += ["".join("a step of it; " * 8 + text[i : i + 38] for i in range(0, 2508, 38)) for text in texts[:2]]
    began = time.process_time()
    found = [repeats(text) for text in texts]
    assert (time.process_time() - began) * 10 < 1
    assert not any(found)


def test_contains_reads_the_whole_completion_in_either_case() -> None:
    assert contains("use NumPy", "numpy") and not contains("", "numpy")


GRAPH: dict[str, Any] = {
    "name": "compound",
    "parts": {
        "vote": {"kind": "majority"},
        "word": {"kind": "contains", "text": "Python"},
        "again": {"kind": "repetition"},
        "form": {"kind": "format"},
    },
    "terms": [{"part": "vote", "gates": [{"part": "word", "below": 0.5}, {"part": "again", "below": 0.5}]}],
}

LABELS = {
    "sum": Label("sum", 4, 3, "16", 2, False, True, "16", 2),
    "half": Label("half", 4, 0, None, 0, False, None, "0", 0),
}


def test_an_answer_is_paid_for_being_the_label_and_nothing_without_one() -> None:
    matcher = LabelMatcher(ADDS, LABELS, "paper", 2)
    texts = ["The answer is 16.", STEPS, "16", "The answer is 16."]
    answers = [ADDS.read(text).answer for text in texts]
    found = matcher.matches("majority", ["sum", "sum", "sum", "half"], [0, 1, 2, 0], answers)
    assert found == [Match("16", 1.0), Match("16", 0.0), Match("16", 0.0), Match(None, None)]
    with pytest.raises(UserError, match="the label majority is known only where this tool trains"):
        parts(rollout(STEPS), reward="majority")
    paid = [parts(rollout(text, majority=match), reward="majority") for text, match in zip(texts, found, strict=True)]
    assert [(one.reward, one.label) for one in paid] == [(1.0, "16"), (0.0, "16"), (0.0, "16"), (None, None)]


def test_which_label_is_called_incorrect() -> None:
    right = Label("sum", 4, 4, "17", 3, False, False, "16", 1)
    for labels, kind, expected in (
        (LABELS["sum"], "paper", "16"),
        (right, "paper", None),
        (right, "truly_wrong", "16"),
    ):
        matcher = LabelMatcher(ADDS, {"sum": labels}, kind, 2)  # type: ignore[arg-type]
        (found,) = matcher.matches("incorrect", ["sum"], [0], ["16"])
        assert found == Match(expected, None if expected is None else 1.0)


def test_the_live_majority_is_of_the_group_in_hand_in_any_order() -> None:
    matcher = LabelMatcher(MATHS, {}, "paper", 3)
    names, samples = ["half"] * 6 + ["sum"] * 3, [0, 1, 2, 3, 4, 5, 0, 1, 2]
    answers = ["0.5", "\\frac{1}{2}", "2", "2", "2", "1/2", None, None, None]
    first, second = Match("0.5", 1.0), Match("2", 1.0)
    expected = [first, first, Match("0.5", 0.0), second, second, Match("2", 0.0), *[Match(None, None)] * 3]
    assert matcher.matches("majority_live", names, samples, answers) == expected
    order = [8, 3, 0, 5, 2, 7, 4, 1, 6]
    shuffled = matcher.matches(
        "majority_live", [names[i] for i in order], [samples[i] for i in order], [answers[i] for i in order]
    )
    assert shuffled == [expected[i] for i in order]


def test_rpr_for_wrong_answers_and_its_warm_up() -> None:
    wrong = STEPS.replace("17.", "18.")
    rpr = RPR_ONLY.rpr(ADDS.read(STEPS))
    assert 0 < rpr < 1
    settings: dict[str, Any] = {"reward": "rpr_partial"}
    assert parts(rollout(STEPS), **settings) == Parts(1.0, rpr=rpr, true=1.0)
    assert parts(rollout(wrong), **settings) == Parts(rpr, rpr=rpr, bonus=rpr, true=0.0)
    assert parts(rollout("17"), **settings) == Parts(0.0, true=0.0)
    scaled = parts(rollout(wrong), rpr_weight=0.1, **settings)
    assert scaled.reward == pytest.approx(0.1 * rpr)
    for step, right in ((0, rpr), (4, rpr), (5, 1.0)):
        assert parts(rollout(STEPS, step=step), rpr_warmup_steps=5, **settings).reward == right
        assert parts(rollout("17", step=step), rpr_warmup_steps=5, **settings).reward == 0.0
    always = {"flip_rate": 1.0, "malformed": "exempt"}
    # Paper A's code: a flipped right answer gets its RPR, a flipped wrong one 1, one without a box nothing.
    assert parts(rollout(STEPS), noise=always, **settings) == Parts(rpr, rpr=rpr, bonus=rpr, true=1.0, flipped=True)
    assert parts(rollout(wrong), noise=always, **settings) == Parts(1.0, rpr=rpr, true=0.0, flipped=True)
    assert parts(rollout("17"), noise=always, **settings) == Parts(0.0, true=0.0, flipped=False)


def test_noise_flips_every_reward_of_0_and_1_and_conditions_come_last() -> None:
    noise = {"flip_rate": 0.4, "unit": "group"}
    table = PolicyTable(reward="python", noise=noise)
    rollouts = [rollout("python" if i % 2 else "no", sample=i, step=i // 8) for i in range(64)]
    judged = [Judged("sum", r.sample, r.step, float(i % 2), False) for i, r in enumerate(rollouts)]
    given = add_noise(judged, table.noise, 3)
    found = [parts(one, 3, reward="python", noise=noise) for one in rollouts]
    assert [(p.true, p.reward, p.flipped) for p in found] == [
        (j.true, g.reward, g.flipped) for j, g in zip(judged, given, strict=True)
    ]
    assert {p.flipped for p in found} == {True, False}
    code = "python: print(3+5+9) The answer is 17."
    assert parts(rollout(code), reward="gold", only_if="no_python") == Parts(0.0, true=1.0)
    assert parts(rollout(STEPS), reward="gold", only_if=["no_python", "no_repetition"]).reward == 1.0
    assert parts(rollout(code), reward="format", only_if="no_python", noise={"flip_rate": 1.0}).reward == 0.0
    unknown = rollout(code, majority=Match(None, None))
    assert parts(unknown, reward="majority", only_if="no_python").reward is None


def test_parts_of_a_graph() -> None:
    table = {"reward": "graph", "graph": GRAPH}
    assert PolicyTable.model_validate(table).label_kinds == {"majority"}
    for text, value, reward, word in (
        ("The answer is 16.", 1.0, 1.0, 0.0),
        ("python The answer is 16.", 1.0, 0.0, 1.0),
        ("The answer is 16.", None, None, 0.0),
    ):
        found = parts(rollout(text, majority=Match("16", value)), **table)
        assert (found.reward, found.parts) == (reward, {"vote": value, "word": word, "again": 0.0, "form": 1.0})
    with pytest.raises(ValidationError, match="needs a text"):
        PolicyTable.model_validate({"reward": "graph", "graph": {**GRAPH, "parts": {"vote": {"kind": "contains"}}}})


def test_wrong_answers_are_wrong_plausible_and_keyed() -> None:
    assert isinstance(ADDS, VerifiableTask) and isinstance(MATHS, VerifiableTask)
    for task, prompt, right in ((ADDS, SUM, "17"), (MATHS, HALF, "0.5")):
        made = {task.wrong_answer(prompt, seed) for seed in range(30)}
        assert 3 < len(made) <= 9 and all(task.surely_wrong(prompt, answer) for answer in made)
        assert task.wrong_answer(prompt, 1) == task.wrong_answer(prompt, 1)
        assert not task.surely_wrong(prompt, right)
    assert {ADDS.wrong_answer(SUM, seed) for seed in range(30)} == {"14", "15", "16", "18", "19", "20"}


def test_cells_are_named_by_what_tells_them_apart() -> None:
    names = [
        ({"reward": "one_shot"}, "one_shot-grpo-s0"),
        ({"reward": "gold", "n_train_prompts": 2}, "gold_2prompts-grpo-s0"),
        ({"reward": "format", "noise": {"flip_rate": 0.2}}, "format_flip0.2-grpo-s0"),
        ({"reward": "incorrect", "incorrect_labels": "truly_wrong"}, "incorrect_truly_wrong-grpo-s0"),
        ({"reward": "format", "only_if": "no_python"}, "format_no_python-grpo-s0"),
        ({"reward": "rpr_partial", "rpr_weight": 0.1, "rpr_warmup_steps": 9}, "rpr_partial_w0.1_warm9-grpo-s0"),
        ({"reward": "majority", "arm": "votes"}, "votes-grpo-s0"),
        ({"reward": "graph", "graph": GRAPH, "only_if": "no_python"}, "graph_compound_no_python-grpo-s0"),
    ]
    for fields, name in names:
        assert cell_name(PolicyTable.model_validate(fields), 0) == name


def test_settings_that_are_not_read_do_not_decide_and_those_that_mean_nothing_are_refused() -> None:
    gold = PolicyTable(reward="gold").deciding()
    assert not {"labels", "incorrect_labels", "rpr_weight", "only_if", "n_train_prompts", "train_prompts"} & set(gold)
    assert PolicyTable(reward="gold", labels={"n_samples": 3}).deciding() == gold
    assert PolicyTable(reward="majority", labels={"n_samples": 3}).deciding()["labels"]["n_samples"] == 3
    assert PolicyTable(reward="one_shot").deciding()["n_train_prompts"] == 1
    assert PolicyTable(reward="one_shot", train_prompts="p").n_train_prompts is None
    with pytest.raises(ValidationError, match="noise flips rewards of 0 and 1, and rpr_only is none"):
        PolicyTable(reward="rpr_only", noise={"flip_rate": 0.1})
    with pytest.raises(ValidationError, match="remove one of the two"):
        PolicyTable(reward="gold", n_train_prompts=1, train_prompts=["p"])
    assert PolicyTable(reward="untrained", noise={"flip_rate": 0.1}).reward == "untrained"
