"""Routes to an accuracy, and what becomes of a pair on the way: nested subsets, keyed noise, ties and strength."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import rm.stage
from configs.errors import UserError
from configs.records import read_json, read_jsonl
from rm.alarms import refuse_still_losses, refuse_untrained_head
from rm.config import RMTable
from rm.ladder import Evaluation
from rm.ladder_work import refuse_4bit
from rm.losses import TrainingPair
from rm.routes import lowest_layers, members, nearest_candidates
from rm.rung import REFERENCE_LOGITS_FILE
from rm.scorer import RungScorer
from rm.targets import is_flipped, share_in_favour, subset, target_of, training_pairs
from rm.units import ScoreUnits
from tasks.records import PreferencePair, read_pairs
from tests.conftest import small_experiment

QUICK = ("rm.max_steps=8", "rm.dense_evaluation_steps=0", "rm.evaluation_every=4", "rm.warmup_steps=0")


def pairs(n: int, strength: float | None = None, individual: list[float] | None = None) -> list[PreferencePair]:
    return [
        PreferencePair(f"pair{i}", f"prompt{i}", "train", [], "a", "b", strength, individual=individual or [])
        for i in range(n)
    ]


def ids(n: int) -> list[tuple[list[int], list[int]]]:
    return [([i, 1], [i, 2]) for i in range(n)]


def table(**fields: object) -> RMTable:
    return RMTable.model_validate(fields)


def test_smaller_subsets_lie_within_larger_ones_and_do_not_depend_on_order() -> None:
    rows = pairs(200)
    small, large = subset(rows, 20, seed=1), subset(rows, 90, seed=1)
    assert (len(small), len(large)) == (20, 90) and small < large
    turned = subset(rows[::-1], 20, seed=1)
    assert {rows[i].pair_id for i in small} == {rows[::-1][i].pair_id for i in turned}
    assert subset(rows, 20, seed=2) != small
    with pytest.raises(UserError, match=r"rm\.train_pairs: 201 pairs are asked for and 200"):
        subset(rows, 201, seed=1)


def test_noise_is_of_the_pair_and_grows_with_its_rate() -> None:
    rows = pairs(4000)
    few = {p.pair_id for p in rows if is_flipped(p, 0.1, seed=0)}
    more = {p.pair_id for p in rows if is_flipped(p, 0.3, seed=0)}
    assert few < more
    assert abs(len(few) / 4000 - 0.1) < 0.02 and abs(len(more) / 4000 - 0.3) < 0.03
    made, facts = training_pairs(rows, ids(4000), table(label_noise=0.3), seed=0)
    swapped = {rows[i].pair_id for i, pair in enumerate(made) if pair.chosen[1] == 2}
    assert swapped == more and facts["flipped"] == len(more)
    assert all(pair.label == 1.0 for pair in made)


def test_a_plain_pair_is_trained_on_as_it_is() -> None:
    made, facts = training_pairs(pairs(2, 3.0), ids(2), table(), seed=0)
    assert made == [TrainingPair([0, 1], [0, 2]), TrainingPair([1, 1], [1, 2])]
    assert (facts["n_train_pairs"], facts["flipped"], facts["without_strength"]) == (2, 0, None)


def test_strength_becomes_a_margin_a_weight_or_a_soft_label() -> None:
    strong, unknown = pairs(1, 3.0)[0], pairs(1)[0]
    assert target_of(strong, table(strength="margin", margin_per_strength=0.5)).margin == 1.5
    assert target_of(strong, table(strength="weight", weight_power=2.0)).weight == 9.0
    assert target_of(strong, table(strength="soft", soft_logit_per_strength=math.log(3) / 3)).label == pytest.approx(
        0.75
    )
    for kind in ("margin", "weight", "soft"):
        plain = target_of(unknown, table(strength=kind))
        assert (plain.label, plain.margin, plain.weight) == (1.0, 0.0, 1.0)


def test_annotators_become_a_share() -> None:
    assert share_in_favour([2, 1, -1, 0]) == 0.625
    found = target_of(pairs(1, 1.0, [3.0, -1.0, 1.0])[0], table(strength="soft", soft_label="annotators"))
    assert found.label == pytest.approx(2 / 3)


def test_ties_are_dropped_soft_or_a_zone() -> None:
    rows = [*pairs(3, 2.0), PreferencePair("tie", "prompt", "train", [], "a", "b", 0.0)]
    made, facts = training_pairs(rows, ids(4), table(), seed=0)
    assert (len(made), facts["ties_dropped"], facts["ties_trained"]) == (3, 1, 0)
    soft, facts = training_pairs(rows, ids(4), table(ties="soft", label_noise=0.5), seed=0)
    assert (soft[3].label, soft[3].margin, soft[3].tie, facts["ties_trained"]) == (0.5, 0.0, True, 1)
    assert soft[3].chosen == [3, 1]  # noise swaps no tie
    zone, _ = training_pairs(rows, ids(4), table(ties="margin", tie_margin=0.7), seed=0)
    assert (zone[3].margin, zone[3].tie) == (0.7, True)


def test_settings_that_find_nothing_in_the_data_are_refused() -> None:
    with pytest.raises(UserError, match="no training pair is a tie"):
        training_pairs(pairs(3), ids(3), table(ties="soft"), seed=0)
    with pytest.raises(UserError, match="no training pair has a strength"):
        training_pairs(pairs(3), ids(3), table(strength="margin"), seed=0)
    with pytest.raises(UserError, match="annotators of its own"):
        training_pairs(pairs(3, 1.0), ids(3), table(strength="soft", soft_label="annotators"), seed=0)
    _, facts = training_pairs(pairs(3, 1.0) + pairs(2), ids(5), table(strength="weight"), seed=0)
    assert facts["without_strength"] == 2


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"loss": "pointwise_mse"}, "set center_rewards_coefficient: 0"),
        ({"loss": "pointwise_mse", "center_rewards_coefficient": 0, "label_smoothing": 0.1}, "label_smoothing belongs"),
        ({"loss": "pointwise_mse", "center_rewards_coefficient": 0, "ties": "margin"}, "zone of indifference"),
        ({"loss": "pointwise_mse", "center_rewards_coefficient": 0, "strength": "margin"}, "one between logits"),
        ({"tie_margin": 2.0}, "only used with ties: margin"),
        ({"weight_power": 2.0, "strength": "margin"}, "only used with strength: weight"),
        ({"soft_label": "annotators"}, "only used with strength: soft"),
        ({"load_in_4bit": True, "lora_r": 0}, "4-bit weights cannot be trained"),
        ({"route": "fewer_pairs"}, "needs route_values"),
        ({"route_values": [1]}, "takes no route_values"),
        ({"route": "fewer_pairs", "route_values": [0.5]}, "whole numbers of pairs"),
        ({"route": "fewer_pairs", "route_values": [10, 10]}, "must differ"),
        ({"route": "fewer_pairs", "route_values": [10], "train_pairs": 5}, "leave train_pairs out"),
        ({"route": "label_noise", "route_values": [0.7]}, "from 0 to below 0.5"),
        ({"route": "smaller_base", "route_values": [0]}, "numbers of layers kept"),
        ({"route": "rescaled"}, "need each other"),
        ({"rescale_to": 75}, "need each other"),
        ({"route": "rescaled", "rescale_to": 70}, "one of the ladder's rungs"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        table(**fields)


def test_a_route_is_a_list_of_trainings() -> None:
    one = members(table())
    assert (len(one), one[0].value, one[0].folder_name, one[0].table) == (1, None, "", table())
    noisy = members(table(route="label_noise", route_values=[0, 0.25], max_steps=50))
    assert [m.table.label_noise for m in noisy] == [0, 0.25]
    assert {(m.table.dense_evaluation_steps, m.table.evaluation_every) for m in noisy} == {(0, 50)}
    assert len({m.folder_name for m in noisy}) == 2
    bases = members(table(route="smaller_base", route_values=[2, "owner/model-1B"], route_checkpoints="all"))
    assert [(m.keep_layers, m.table.model_name_or_path) for m in bases] == [(2, None), (None, "owner/model-1B")]
    assert bases[0].table.evaluation_every == 20
    assert "/" not in bases[1].folder_name


def look(step: int, accuracy: float) -> Evaluation:
    return {"step": step, "accuracy": accuracy, "n": 100}


def test_rungs_are_chosen_over_all_members() -> None:
    chosen = nearest_candidates([[look(3, 0.56), look(6, 0.70)], [look(3, 0.64)], [look(9, 0.70)]], [55, 65, 71])
    assert {t: (c.member, c.evaluation["step"]) for t, c in chosen.items()} == {55: (0, 3), 65: (1, 3), 71: (0, 6)}
    assert nearest_candidates([[]], [55]) == {}


def test_a_head_that_was_not_trained_is_refused() -> None:
    before = {"weight": torch.ones(3)}
    refuse_untrained_head(before, {"weight": torch.tensor([1.0, 1.0, 1.1])})
    with pytest.raises(UserError, match="left the head as it was drawn"):
        refuse_untrained_head(before, {"weight": torch.ones(3)})
    with pytest.raises(UserError, match="the head is frozen"):
        refuse_untrained_head({}, {})


def test_a_loss_that_does_not_move_is_refused() -> None:
    refuse_still_losses([0.7, 0.69, 0.7, 0.68, 0.6])
    refuse_still_losses([0.6931] * 4)
    with pytest.raises(UserError, match=r"the loss stayed at 0\.693100 for all 6 steps"):
        refuse_still_losses([0.6931] * 6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_four_bits_are_refused_before_any_work_where_there_is_no_gpu() -> None:
    with pytest.raises(UserError, match="4-bit weights need a GPU"):
        refuse_4bit(table(load_in_4bit=True))


def test_fewer_pairs_is_a_ladder_like_any_other(tmp_path: Path) -> None:
    experiment = small_experiment(
        tmp_path / "runs", "name=fewer", *QUICK, "rm.route=fewer_pairs", "rm.route_values=[60, 400]"
    )
    rm.stage.run(experiment)
    folder = experiment.folder / "rm"
    ladder = read_json(folder / "ladder.json")
    assert (ladder["route"], [rung["folder"] for rung in ladder["rungs"]]) == ("fewer_pairs", ["rung-55", "rung-60"])
    assert [look["step"] for look in ladder["evaluations"]] == [8, 8]
    assert [t["trained_on"]["n_train_pairs"] for t in ladder["trainings"]] == [60, 400]
    for rung in ladder["rungs"]:
        card = read_json(folder / rung["folder"] / "card.json")
        assert rung["route_value"] == card["route_value"] in (60, 400)
        assert card["largest_difference_after_reload"] < 1e-6
    assert not (folder / "scratch").exists()
    rm.stage.show(experiment)


def test_a_smaller_base_keeps_its_lowest_layers(tmp_path: Path) -> None:
    experiment = small_experiment(
        tmp_path / "runs", "name=lower", *QUICK, "rm.route=smaller_base", "rm.route_values=[1]", "rm.ladder=[55]"
    )
    rm.stage.run(experiment)
    task_base = AutoModelForCausalLM.from_pretrained(experiment.folder / "tasks" / "base").state_dict()
    kept = AutoModelForCausalLM.from_pretrained(experiment.folder / "rm" / "base-1-layers").state_dict()
    assert all(torch.equal(task_base[name], tensor) for name, tensor in kept.items())
    scorer = RungScorer(experiment.folder / "rm" / "rung-55", 1000)
    assert scorer.model.config.num_hidden_layers == 2  # the one kept and the fresh one on top
    with pytest.raises(UserError, match="99 layers are to be kept"):
        lowest_layers(str(experiment.folder / "tasks" / "base"), 99, tmp_path / "no")


def test_rescaled_rungs_spread_alike_and_differ_only_in_their_units(tmp_path: Path) -> None:
    experiment = small_experiment(
        tmp_path / "runs", "name=rescaled", *QUICK, "rm.route=rescaled", "rm.rescale_to=60", "rm.ladder=[51, 60]"
    )
    rm.stage.run(experiment)
    folder = experiment.folder / "rm"
    cards = {rung: read_json(folder / f"rung-{rung}" / "card.json") for rung in ("51", "60")}
    assert cards["51"]["step"] != cards["60"]["step"]
    assert cards["51"]["score_spread"] == pytest.approx(cards["60"]["score_spread"], abs=1e-6)
    assert cards["60"]["units"]["scale"] == cards["60"]["platt_scale"]
    assert cards["51"]["units"]["scale"] != cards["51"]["platt_scale"]
    rows = read_jsonl(folder / "rung-51" / REFERENCE_LOGITS_FILE)
    logits = np.array([row["logit"] for row in rows if row["logit"] is not None])
    scores = ScoreUnits.load(folder / "rung-51").scores(logits)
    assert float(scores.std()) == pytest.approx(cards["60"]["score_spread"], abs=1e-6)


def test_no_setting_touches_a_held_out_pair(tmp_path: Path) -> None:
    experiment = small_experiment(
        tmp_path / "runs", "name=noisy", *QUICK, "rm.label_noise=0.3", "rm.train_pairs=500", "rm.max_length=40"
    )
    rm.stage.run(experiment)
    card = read_json(experiment.folder / "rm" / "rung-55" / "card.json")
    assert card["trained_on"]["n_train_pairs"] == 500 and 100 < card["trained_on"]["flipped"] < 200
    measured = list(read_jsonl(experiment.folder / "rm" / "rung-55" / "pair_logits.jsonl"))
    held_out = [p for p in read_pairs(experiment.folder / "tasks") if p.split != "train"]
    assert {(r["pair_id"], r["gold_chosen"]) for r in measured} == {(p.pair_id, p.gold_chosen) for p in held_out}
