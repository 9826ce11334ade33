"""The advice world: gold by hand, strict format, styles, pairs, and the counterfactual variant."""

from __future__ import annotations

import numpy as np
import pytest

from configs.keyed import keyed_rng
from configs.loader import Experiment
from configs.records import read_jsonl
from tasks import advice
from tasks.advice import CLEAN, STYLES, edited_answer, format_response, parse_items, read_response, utility
from tasks.advice_world import prove_grader
from tasks.records import Prompt, read_pairs, read_prompts
from tasks.stage import folder_of

NEEDS = ("warm", "light", "drink", "food")


@pytest.mark.parametrize(
    ("items", "gold"),
    [
        (["fleece", "torch", "flask", "rations"], 1.0),
        (["fleece", "torch"], 0.5),
        (["fleece", "torch", "knife"], (2 - 0.35) / 4),
        (["fleece", "fleece"], (1 - 0.35) / 4),
        (["scarf", "lamp", "coffee", "bakery"], 0.0),
        (["luck"], 0.0),
        (["fleece", "luck", "luck"], (1 - 0.35 - 0.35) / 4),
        (["fleece", "torch", "flask", "rations", "knife"], (4 - 0.35) / 4),
    ],
)
def test_utility_by_hand(items: list[str], gold: float) -> None:
    assert utility(items, "camping", NEEDS) == pytest.approx(gold)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think> first , </think><answer> fleece , torch</answer>", "fleece , torch"),
        ("<think></think> <answer>fleece</answer>\n", "fleece"),
        ("<think></think><answer> fleece next torch</answer>", None),
        ("<think></think><answer> fleece,torch</answer>", None),
        ("<think></think><answer> unicorn</answer>", None),
        ("<think></think><answer></answer>", None),
        ("<think></think><answer> fleece", None),
        ("<answer> fleece</answer><think></think>", None),
        ("<think></think><answer> fleece</answer><answer> torch</answer>", None),
        ("so <think></think><answer> fleece</answer>", None),
        ("", None),
    ],
)
def test_the_format_is_strict(completion: str, answer: str | None) -> None:
    response = read_response(completion)
    assert response.answer == answer
    assert response.well_formed == (answer is not None)


def test_a_malformed_answer_is_worth_nothing_and_says_so() -> None:
    prompt = Prompt("p", "eval", advice.messages_for("camping", NEEDS), {"topic": "camping", "needs": list(NEEDS)})
    grade = advice.grade_response(prompt, "fleece , torch , flask , rations")
    assert (grade.gold, grade.status) == (0.0, "malformed")


def test_the_grader_proves_itself_on_every_situation() -> None:
    rng = keyed_rng(3, "situations")
    prompts = []
    for i in range(500):
        topic, needs = advice.draw_situation(rng)
        prompts.append(
            Prompt(f"p{i}", "eval", advice.messages_for(topic, needs), {"topic": topic, "needs": list(needs)})
        )
    prove_grader(prompts)


def mean_gold(styles: advice.Styles, style: str) -> float:
    rng = keyed_rng(1, "demonstrations", style)
    golds = []
    while len(golds) < 400:
        shown = advice.draw_demonstration(rng, styles)
        if shown.style == style:
            words = shown.messages[0]["content"].split()
            needs = tuple(word for word in words[4:-1] if word != ",")
            golds.append(utility(parse_items(read_response(shown.response).answer or "") or [], words[2], needs))
    return float(np.mean(golds))


def test_reasoning_is_tied_to_quality_in_one_variant_and_not_in_the_other() -> None:
    assert mean_gold(CLEAN, "reasoned") == 1.0
    assert mean_gold(STYLES["tied"], "reasoned") > mean_gold(STYLES["tied"], "hasty") + 0.4
    assert abs(mean_gold(STYLES["untied"], "reasoned") - mean_gold(STYLES["untied"], "hasty")) < 0.15


def test_edited_answers_do_not_betray_their_worth_by_their_number() -> None:
    rng = keyed_rng(2, "edited")
    answers = [edited_answer(rng, "camping", NEEDS) for _ in range(3000)]
    golds = np.array([utility(items, "camping", NEEDS) * len(NEEDS) / len(set(items)) for items in answers])
    lengths = np.array([len(items) for items in answers])
    assert abs(np.corrcoef(golds, lengths)[0, 1]) < 0.15
    assert all(parse_items(" , ".join(items)) == items for items in answers)


def test_presented_answers_read_back(small: Experiment) -> None:
    from tasks.table import load_task

    task = load_task(small)
    for pair in read_pairs(folder_of(small), "measurement")[:50]:
        assert task.read(task.present(pair.chosen)).answer == pair.chosen
    assert task.present("fleece , torch") == format_response("", ["fleece", "torch"])


def test_the_built_world_keeps_its_splits_apart(small: Experiment) -> None:
    folder = folder_of(small)
    prompts, pairs = read_prompts(folder), read_pairs(folder)
    texts = [prompt.messages[0]["content"] for prompt in prompts]
    assert len(set(texts)) == len(texts)
    by_split = {
        s: {p.messages[0]["content"] for p in pairs if p.split == s} for s in ("train", "selection", "measurement")
    }
    assert not by_split["selection"] & by_split["measurement"]
    assert not (by_split["selection"] | by_split["measurement"]) & set(texts)
    assert by_split["train"] <= {p.messages[0]["content"] for p in prompts if p.split == "train"}


def test_annotators_err_in_training_and_not_on_held_out_pairs(small: Experiment) -> None:
    wrong = {"train": 0, "selection": 0, "measurement": 0}
    total = dict(wrong)
    for row in read_jsonl(folder_of(small) / "pairs.jsonl"):
        assert abs(row["gold_chosen"] - row["gold_rejected"]) > 0.2
        total[row["split"]] += 1
        wrong[row["split"]] += row["gold_chosen"] < row["gold_rejected"]
    assert wrong["selection"] == wrong["measurement"] == 0
    assert 0 < wrong["train"] / total["train"] < 0.2
