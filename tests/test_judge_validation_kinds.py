"""`judge validate` with a reward model and with people as the judge, on pairs that others labelled."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from configs.errors import UserError
from configs.records import read_json, read_jsonl, write_jsonl
from judge.agreement.validate import ValidateTable, run
from judge.people.ratings import PEOPLE_FOLDER, SHEET_FILE, read_sheet
from tests.tiny_rungs import make_base, make_rung, sentence


def settings(folder: Path, judge: dict[str, Any], **more: Any) -> ValidateTable:
    return ValidateTable.model_validate(
        {"judge": judge, "store": str(folder / "store"), "output": str(folder / "found.json"), "resamples": 100, **more}
    )


def test_a_reward_model_agrees_with_labels_as_often_as_its_scores_do(tmp_path: Path) -> None:
    from rm.scorer import RungScorer

    rung = make_rung(tmp_path / "rung", make_base(tmp_path), seed=1, lora_r=0)
    rows = [
        {
            "context": [{"role": "user", "content": sentence(i)}],
            "response1": sentence(1000 + i),
            "response2": sentence(2000 + i),
            "overall_preference": (-2, 1, 2, 0, -1)[i % 5],
        }
        for i in range(40)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    run([str(tmp_path / "pairs.jsonl")], settings(tmp_path, {"kind": "rung", "rung": str(rung)}))
    found = read_json(tmp_path / "found.json")["judges"]["rung"]
    scorer = RungScorer(rung, 4096)
    first, second = (
        np.asarray(scorer.logits([row["context"] for row in rows], [row[side] for row in rows]))
        for side in ("response1", "response2")
    )
    labels = np.array([row["overall_preference"] for row in rows])
    right = (first > second) == (labels < 0)
    assert found["agreement"]["agreement"]["n"] == 80 and found["n_missing"] == 0
    assert found["agreement"]["accuracy"]["estimate"] == pytest.approx(right[labels != 0].mean())
    assert found["agreement"]["agreement"]["estimate"] == pytest.approx((right & (labels != 0)).mean())
    assert found["position"]["consistency"] == 1.0 and found["position"]["first_share"] == 0.5


def test_people_who_rate_as_the_annotators_did_agree_with_the_majority_of_them(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PandaLM's three annotators fill in the sheet: the majority is the file's, and Fleiss' kappa a direct count's."""
    path = str(shared_data / "preference" / "pandalm_testset_hs3schema.jsonl")
    table = settings(tmp_path, {"kind": "people", "min_raters": 3}, limit=80)
    with pytest.raises(UserError, match=r"fewer than 3 ratings; rate them with `rewardladder rate "):
        run([path], table)
    by_answers: dict[frozenset[str], list[dict[str, Any]]] = defaultdict(list)
    for row in read_jsonl(Path(path)):
        by_answers[frozenset((row["response1"], row["response2"]))].append(row)
    people = tmp_path / "store" / PEOPLE_FOLDER
    counted = []
    ratings: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in read_sheet(people / SHEET_FILE):
        rows = by_answers[frozenset((pair.response_1, pair.response_2))]
        asked = pair.messages[0]["content"]
        (row, *_) = [row for row in rows if row["context"][-1]["content"] in asked]
        counted.append([one["score"] for one in row["individual_preference"]])
        for one in row["individual_preference"]:
            first = pair.response_1 == row["response1"]
            rating = "tie" if one["score"] == 0 else "1" if (one["score"] < 0) == first else "2"
            ratings[one["annotator"]].append((pair.code, rating))
    for annotator, rated in ratings.items():
        with (people / f"ratings-{annotator}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("pair", "rating"), *rated])
    run([path], table)
    found = read_json(tmp_path / "found.json")["judges"]["people"]
    assert found["agreement"]["agreement"]["estimate"] == 1.0 and found["agreement"]["agreement"]["n"] > 120
    agreed = json.loads((people / "agreement.json").read_text())
    assert list(agreed["raters"]) == sorted(ratings) and len(ratings) == 3
    # which answer is called the first does not change how far raters agree with each other, only chance
    same = np.mean([(a == b) + (b == c) + (a == c) for a, b, c in counted]) / 3
    assert agreed["agreement"] == pytest.approx(same)
    assert agreed["kappa"] == pytest.approx(_kappa(ratings))
    assert "people: 3 raters" in capsys.readouterr().out


def _kappa(ratings: dict[str, list[tuple[str, str]]]) -> float:
    by_pair = [dict(rated) for rated in ratings.values()]
    table, _ = aggregate_raters(np.array([[one[code] for one in by_pair] for code in by_pair[0]]))
    return float(fleiss_kappa(table))
