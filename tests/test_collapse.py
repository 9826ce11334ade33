"""The collapse recipe: annotators who like short answers move the training labels alone, and the recipe is whole."""

from __future__ import annotations

import numpy as np
import pytest

from configs.loader import load_experiment
from curve.config import CurveTable
from policy.config import PolicyTable
from rm.config import RMTable
from tasks.advice import STYLES, draw_demonstration
from tasks.advice_world import AdviceTable, AdviceTask
from tasks.records import PreferencePair, Prompt
from tests.conftest import ROOT

META = {"topic": "camping", "needs": ["warm", "light", "dry", "food"]}
PROMPTS = [Prompt(f"p{i}", "train", [{"role": "user", "content": "?"}], META) for i in range(20)]


def pairs(split: str, brevity: float) -> list[PreferencePair]:
    task = AdviceTask(AdviceTable(annotator_brevity=brevity, smallest_difference=0.0))
    return task._annotate(split, PROMPTS, {prompt.prompt_id: [] for prompt in PROMPTS}, 400, seed=0)[0]  # type: ignore[arg-type]


def shares(split: str, brevity: float) -> tuple[float, float]:
    """How often the shorter answer is preferred where lengths differ, and how often the truly better one is."""
    rows = pairs(split, brevity)
    items = [(row.chosen.count(",") - row.rejected.count(","), row.gold_chosen, row.gold_rejected) for row in rows]
    shorter = [length < 0 for length, _, _ in items if length]
    better = [chosen > rejected for _, chosen, rejected in items if chosen is not None and rejected is not None]
    return float(np.mean(shorter)), float(np.mean(better))


def test_brevity_moves_the_training_labels_and_not_the_truth() -> None:
    plain, brief = shares("train", 0.0), shares("train", 1.2)
    assert plain[0] < 0.5 < brief[0]
    assert plain[1] > 0.9 > brief[1] + 0.1
    assert pairs("selection", 0.0) == pairs("selection", 1.2)
    assert shares("selection", 1.2)[1] == 1.0


def test_a_reasoner_reasons_four_times_out_of_five() -> None:
    rng = np.random.default_rng(0)
    styles = [draw_demonstration(rng, STYLES["reasoner"]).style for _ in range(2000)]
    assert np.mean([style == "reasoned" for style in styles]) == pytest.approx(0.8, abs=0.03)


def test_the_recipe_is_read_by_every_room() -> None:
    experiment = load_experiment(ROOT / "configs" / "collapse.yaml")
    assert experiment.table("tasks", AdviceTable).annotator_brevity > 1
    assert experiment.table("rm", RMTable).ladder == [55]
    assert experiment.table("policy", PolicyTable).alarms.length_collapse.action == "warn"
    assert {"raw", "rpr"} <= set(experiment.table("curve", CurveTable).sweep[0]["reward"])  # type: ignore[arg-type]
