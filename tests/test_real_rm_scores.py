"""Real reward models and judges, by cross-validation over prompts: before and after every map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.fit import FitTable, run
from calibration.maps import load_map
from configs.loader import read_words
from rm.measures import grouped_differences, pair_accuracy


def compared(output: Path, *words: str) -> dict[str, Any]:
    """The report of `rewardladder fit … kind=all`."""
    paths, table = read_words([*words, "kind=all", f"output={output}"], FitTable, "fit")
    run(paths, table)
    return json.loads((output / "report.json").read_text())


@pytest.fixture(scope="module")
def qwen_file(shared_data: Path) -> Path:
    """Eight answers to each of 50 problems, right or wrong, with the scores of a real reward model."""
    return shared_data / "calibration" / "qwen_math_cot_100_rm.jsonl"


@pytest.fixture(scope="module")
def qwen(qwen_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the report of the comparison on single answers."""
    folder = tmp_path_factory.mktemp("qwen")
    return folder, compared(folder, str(qwen_file), "label=score", "logit=pred_score", "prompt=idx")


@pytest.fixture(scope="module")
def judge(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A judge's scores in 0..1, whose labels are a stronger judge's of at least 0.7."""
    files = [str(path) for path in sorted((shared_data / "calibration").glob("cje_arena_*.jsonl"))]
    fields = ("label=metadata.oracle_label", "logit=metadata.judge_score", "good_from=0.7", "prompt=prompt")
    return compared(tmp_path_factory.mktemp("judge"), *files, *fields)


def test_pair_accuracy_over_mixed_prompts_is_near_the_published_one(qwen_file: Path) -> None:
    rows = [json.loads(line) for line in qwen_file.read_text().splitlines()]
    groups = [str(row["idx"]) for row in rows for _ in row["score"]]
    logits = np.array([score[0] for row in rows for score in row["pred_score"]])
    right = np.array([float(score) for row in rows for score in row["score"]])
    found = pair_accuracy(grouped_differences(groups, logits, right))
    assert found["lo"] <= 0.891 <= found["hi"], "0.891 over all 128 pairs; half of the prompts are in this file"


def test_every_answer_of_the_reward_model_is_used(qwen: tuple[Path, dict[str, Any]]) -> None:
    _, report = qwen
    assert (report["counts"]["rows"], report["counts"]["cases"], report["counts"]["left_out"]) == (50, 400, [])
    assert report["measured"] == "5-fold cross-validation by prompt"


@pytest.mark.parametrize("source", ["qwen", "judge"])
def test_temperature_does_not_raise_held_out_nll_beyond_noise(source: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(source)
    report = found[1] if isinstance(found, tuple) else found
    change = report["maps"]["temperature"]["nll_change"]
    assert change["lo"] <= 0 or change["estimate"] < 0.005


def test_the_judges_scores_are_mended_by_maps_with_a_centre_and_not_by_a_temperature(judge: dict[str, Any]) -> None:
    maps = judge["maps"]
    assert judge["counts"]["cases"] == 500
    assert [row["reason"] for row in judge["counts"]["left_out"]] == ["missing_field"]
    before = maps["identity"]["figures"]["ece"]
    for kind in ("platt", "beta", "isotonic"):
        after = maps[kind]["figures"]["ece"]
        assert maps[kind]["nll_change"]["hi"] < -0.1
        assert after["estimate"] < 0.06 < before["lo"], kind
        assert after["lo"] == 0, "no more than noise"
    assert maps["temperature"]["figures"]["ece"]["lo"] > 0.1


def test_no_map_changes_the_order_of_answers(qwen: tuple[Path, dict[str, Any]], qwen_file: Path) -> None:
    folder, report = qwen
    rows = [json.loads(line) for line in qwen_file.read_text().splitlines()]
    logits = np.unique([score[0] for row in rows for score in row["pred_score"]])
    for kind in report["maps"]:
        assert (np.diff(load_map(folder / "maps" / f"{kind}.json").scores(logits)) > 0).all(), kind


def test_pairs_of_right_and_wrong_answers_to_a_problem(qwen_file: Path, tmp_path: Path) -> None:
    rows = []
    for line in qwen_file.read_text().splitlines():
        row = json.loads(line)
        sides = [
            [s[0] for s, y in zip(row["pred_score"], row["score"], strict=True) if bool(y) == side]
            for side in (True, False)
        ]
        rows += [{"c": good, "r": bad, "p": row["idx"]} for good in sides[0] for bad in sides[1]]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = compared(tmp_path / "out", str(path), "logit_chosen=c", "logit_rejected=r", "prompt=p")
    found = report["maps"]["temperature"]
    assert report["counts"]["cases"] == len(rows)
    # on so few mixed prompts a temperature does raise the held-out NLL, and the report warns of it
    assert report["counts"]["prompts"] < 10 and report["few_prompts"]
    slope = found["parameters"]["slope"]
    assert slope["lo"] < 1 < slope["hi"], "it cannot be told from the logit as it is"
    accuracy = found["figures"]["accuracy"]
    assert accuracy["lo"] < 0.891 < accuracy["hi"]
