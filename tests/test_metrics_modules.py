"""The metrics for Hugging Face's `evaluate`: each loads from its folder without a network and agrees with the house."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.metric_path import known_metrics, metric_path
from judge.statistics import compare
from judge.verdicts import Outcome
from rm.measures import expected_calibration_error, pair_accuracy

CHOSEN = [1.0, 2.0, 3.0, 4.0, -1.0]
REJECTED = [0.0, 3.0, 3.0, 1.0, -2.5]
OUTCOMES = ["win", "tie", "lose", "missing", "win", "win"]
PROMPTS = ["a", "a", "b", "b", "c", "d"]

PROGRAM = """
import json, socket, sys

def refuse(*_):
    raise AssertionError("a metric asked the network")

socket.socket.connect = refuse
socket.getaddrinfo = refuse
import evaluate
from configs.metric_path import metric_path

asked = json.loads(sys.argv[1])
found = [evaluate.load(metric_path(name)).compute(**given) for name, given in asked]
errors = []
for name, given in (("win_rate", {"outcomes": ["won"], "prompts": ["a"]}),
                    ("expected_calibration_error", {"chosen": [float("nan")], "rejected": [0.0]})):
    try:
        evaluate.load(metric_path(name)).compute(**given)
    except ValueError as error:
        errors.append(str(error))
print(json.dumps([found, errors]))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the metrics say in a process of its own, far from the checkout, with the network cut off."""
    pairs = {"chosen": CHOSEN, "rejected": REJECTED}
    asked = [
        ("pairwise_accuracy", pairs),
        ("expected_calibration_error", {**pairs, "scale": 0.5, "bins": 2}),
        ("expected_calibration_error", {"chosen": [2.0, 2.0], "rejected": [2.0, 2.0]}),
        ("win_rate", {"outcomes": OUTCOMES, "prompts": PROMPTS, "resamples": 500, "seed": 3}),
        ("win_rate", {"outcomes": ["missing"], "prompts": ["a"]}),
    ]
    place = tmp_path_factory.mktemp("elsewhere")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(asked)],
        cwd=place,
        env={**os.environ, "HF_HOME": str(place), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_pairwise_accuracy_is_that_of_the_house(loaded: Any) -> None:
    found = loaded[0][0]
    share = pair_accuracy(np.array(CHOSEN) - np.array(REJECTED))
    assert found == {"pairwise_accuracy": 0.7, "lo": share["lo"], "hi": share["hi"], "n": 5, "ties": 1}


def test_the_calibration_error_is_that_of_the_house(loaded: Any) -> None:
    found = loaded[0][1]
    differences = 0.5 * (np.array(CHOSEN) - np.array(REJECTED))
    assert found["expected_calibration_error"] == expected_calibration_error(differences, 2)
    assert (found["n"], found["ties"]) == (5, 1)
    # Equal logits: confidence one half, right half of the time.
    assert loaded[0][2] == {"expected_calibration_error": 0.0, "n": 2, "ties": 2}


def test_the_win_rate_is_that_of_the_judge(loaded: Any) -> None:
    found = loaded[0][3]
    shares = {"win": (1.0, 0.0, 0.0), "tie": (0.0, 1.0, 0.0), "lose": (0.0, 0.0, 1.0)}
    outcomes = [
        Outcome(
            str(i), prompt, 0, *(("agreed", *shares[outcome]) if outcome in shares else ("missing", None, None, None))
        )
        for i, (outcome, prompt) in enumerate(zip(OUTCOMES, PROMPTS, strict=True))
    ]
    own = compare(outcomes, keyed_rng(3, "judge bootstrap"), 500)
    assert found["win_rate"] == own.quality.value == pytest.approx(3.5 / 5)
    assert (found["lo"], found["hi"]) == (own.quality.lo, own.quality.hi)
    assert found["lose"] == {"value": 0.2, "lo": own.lose.lo, "hi": own.lose.hi}
    assert (found["n_pairs"], found["n_prompts"], found["n_missing"]) == (5, 4, 1)
    assert (loaded[0][4]["win_rate"], loaded[0][4]["n_missing"]) == (None, 1)


def test_what_is_no_outcome_and_no_number_is_refused(loaded: Any) -> None:
    assert loaded[1] == [
        "outcome 0 must be win, tie, lose or missing, found 'won'",
        "a logit is not a finite number",
    ]


def test_a_metric_is_found_by_its_name() -> None:
    assert sorted(known_metrics()) == ["expected_calibration_error", "pairwise_accuracy", "win_rate"]
    folder = Path(metric_path("win_rate"))
    assert (folder / "win_rate.py").is_file()
    with pytest.raises(UserError, match="there is no metric 'winrate'; choose expected_calibration_error, pairwise"):
        metric_path("winrate")
