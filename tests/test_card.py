"""A rung's card: groups, thresholds and spreads against counts made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from rm.card import at_threshold, by_group, length_group, pair_measures, reference_measures, strength_group
from rm.measures import paired_difference, scale_for_spread, score_spread, wilson
from rm.units import ScoreUnits
from tasks.records import PreferencePair

UNITS = ScoreUnits(0.0, 1.0, "by hand", 4)


def pair(name: str, strength: float | None = None, chosen: str = "aa", rejected: str = "bb", domain: str = "code"):  # type: ignore[no-untyped-def]
    return PreferencePair(name, name, "measurement", [], chosen, rejected, strength, domain=domain)


def test_groups_count_their_own_pairs() -> None:
    pairs = [pair("a", 1.0), pair("b", 3.0), pair("c", 3.0), pair("d", None), pair("e", 1.5)]
    rows = by_group(pairs, np.array([1.0, 2.0, -1.0, 0.0, 1.0]), strength_group)
    assert [(row["group"], row["estimate"], row["n"], row["small"]) for row in rows] == [
        ("1", 1.0, 1, True),
        ("1.5", 1.0, 1, True),
        ("3", 0.5, 2, True),
        ("unknown", 0.5, 1, True),
    ]
    assert (rows[2]["lo"], rows[2]["hi"]) == (wilson(1, 2)["lo"], wilson(1, 2)["hi"])
    many = by_group([pair(str(i)) for i in range(30)], np.ones(30), lambda p: p.domain)
    assert (many[0]["group"], many[0]["n"], many[0]["small"]) == ("code", 30, False)


@pytest.mark.parametrize(
    ("chosen", "rejected", "name"),
    [
        (1, 10, "0 chosen is much shorter"),
        (8, 10, "1 chosen is shorter"),
        (10, 10, "2 chosen is about equal"),
        (19, 20, "2 chosen is about equal"),
        (10, 8, "3 chosen is longer"),
        (10, 5, "4 chosen is much longer"),
    ],
)
def test_length_bins(chosen: int, rejected: int, name: str) -> None:
    assert length_group(pair("a", chosen="x" * chosen, rejected="y" * rejected)) == name


def test_a_threshold_on_single_answers_by_hand() -> None:
    scores = np.array([[0.9, 0.4], [0.5, 0.6], [0.2, 0.1], [0.7, 0.3]])
    found = at_threshold(scores, 0.5)
    assert (found["tpr"]["estimate"], found["fpr"]["estimate"]) == (0.75, 0.25)
    assert (found["j"]["estimate"], found["j"]["n"]) == (0.5, 4)
    assert (found["accuracy"]["estimate"], found["accuracy"]["n"]) == (0.75, 8)


def test_newcombe_s_own_example_of_paired_shares() -> None:
    """Newcombe 1998, Table II, 36 12 2 0: method 8 gives 0.0569 to 0.3404, as in its published worked tables."""
    first = np.array([True] * 48 + [False] * 2)
    second = np.array([True] * 36 + [False] * 12 + [True] * 2)
    found = paired_difference(first, second)
    assert found["estimate"] == pytest.approx(0.2)
    assert (found["lo"], found["hi"]) == (pytest.approx(0.0569, abs=5e-4), pytest.approx(0.3404, abs=5e-4))


def test_a_paired_difference_mirrors_and_survives_the_edges() -> None:
    first, second = np.array([True, True, False, True]), np.array([False, True, False, False])
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert (one["lo"], one["hi"]) == (pytest.approx(-other["hi"]), pytest.approx(-other["lo"]))
    same = paired_difference(np.ones(20, dtype=bool), np.ones(20, dtype=bool))
    assert same["estimate"] == 0.0 and same["lo"] <= 0 <= same["hi"]


def test_the_scale_that_gives_a_spread() -> None:
    # Scores of -1 and 1 about 0: standard deviation sigmoid(a) - 1/2, so 1/4 at a = ln 3.
    assert scale_for_spread(np.array([-1.0, 1.0]), 0.0, 0.25) == pytest.approx(math.log(3), rel=1e-6)
    logits = np.random.default_rng(0).normal(2.0, 5.0, size=500)
    scale = scale_for_spread(logits, 1.5, 0.11)
    assert score_spread(scale * (logits - 1.5)) == pytest.approx(0.11, abs=1e-9)
    with pytest.raises(UserError, match=r"rm\.rescale_to: no scale gives"):
        scale_for_spread(np.zeros(5), 0.0, 0.1)


def test_pair_measures_count_pair_by_pair() -> None:
    pairs = [pair("a", 1.0), pair("b", 2.0, "long answer", "x"), pair("c", 2.0)]
    card = pair_measures(pairs, np.array([[1.0, -1.0], [-2.0, 2.0], [0.5, 0.5]]), UNITS)
    assert (card["accuracy"]["estimate"], card["accuracy"]["n"], card["ties"]) == (0.5, 3, 1)
    assert [row["n"] for row in card["accuracy_by"]["strength"]] == [1, 2]
    assert sum(row["n"] for row in card["accuracy_by"]["length_difference"]) == 3
    assert card["at_logit_threshold"] is None
    raw = pair_measures(pairs, np.array([[0.6, 0.4]] * 3), UNITS, "pointwise_mse")["at_logit_threshold"]
    assert (raw["tpr"]["estimate"], raw["fpr"]["estimate"]) == (1.0, 0.0)
    assert card["pair_score_quantiles"]["0.0"] == pytest.approx(1 / (1 + math.exp(2)))


def test_malformed_reference_answers_have_no_share_in_anything() -> None:
    found = reference_measures(["p", "p", "q"], [1.0, None, -1.0], [1.0, 0.0, 0.0], UNITS)
    assert (found["n_reference_answers"], found["n_malformed_reference_answers"]) == (3, 1)
    assert found["score_spread"] == pytest.approx(1 / (1 + math.exp(-1)) - 0.5)
    assert found["on_policy_accuracy"] is None


def test_the_card_of_a_real_rung_adds_up(small: Experiment) -> None:
    card = read_json(small.folder / "rm" / "rung-60" / "card.json")
    for rows in card["accuracy_by"].values():
        assert sum(row["n"] for row in rows) == card["accuracy"]["n"]
        right = sum(row["estimate"] * row["n"] for row in rows)
        assert right == pytest.approx(card["accuracy"]["estimate"] * card["accuracy"]["n"])
    at = card["at_score_threshold"]
    assert at["j"]["estimate"] == pytest.approx(at["tpr"]["estimate"] - at["fpr"]["estimate"])
    assert card["held_out_dropped"]["measurement"] == {"over_length": 0, "ties": 0, "kept": 150}
    assert (card["route"], card["route_value"], card["body_dtype"]) == ("early_stop", None, "float32")
    assert card["trained_on"]["n_train_pairs"] == 1500
