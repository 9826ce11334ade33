"""Every estimate in the tables that the stages print has its n and its interval."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from calibration.stage_tables import show_reports
from configs.records import write_json, write_jsonl
from configs.terminal import show_table
from judge.summaries import show_summaries
from tests.conftest import small_experiment


def cells_of(text: str) -> list[list[str]]:
    """The rows of printed tables, cell by cell."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def estimate(value: float, n: int = 40) -> dict[str, Any]:
    return {"estimate": value, "lo": value - 0.1, "hi": value + 0.1, "n": n}


def test_calibration_shows_before_after_and_change(capsys: pytest.CaptureFixture[str]) -> None:
    gold = {
        "j": estimate(0.1, 30),
        "after": {"j": estimate(0.3, 30)},
        "change": {"j": estimate(0.2, 30)},
        "false_negatives": {"lifted": estimate(0.4, 12)},
        "true_negatives": {"lifted": estimate(0.2, 18)},
    }
    report = {
        "pairs": {
            "before": {"ece": estimate(0.3), "nll": estimate(0.7)},
            "after": {"ece": estimate(0.2), "nll": estimate(0.6)},
            "change": {"nll": estimate(-0.1)},
        },
        "answers": {"below_threshold": estimate(0.9, 30), "against_gold": gold, "spread_per_prompt": {}},
    }
    show_reports("title", {"threshold": 0.75, "note": ""}, {"65": report, "80": {**report, "answers": None}})
    rows = cells_of(capsys.readouterr().out)
    assert rows[:3] == [
        ["65", "ECE of pairs", "40", "0.300 [0.200, 0.400]", "0.200 [0.100, 0.300]", "–"],
        ["65", "NLL of pairs", "40", "0.700 [0.600, 0.800]", "0.600 [0.500, 0.700]", "-0.100 [-0.200, 0.000]"],
        ["65", "J at the threshold", "30", "0.100 [0.000, 0.200]", "0.300 [0.200, 0.400]", "0.200 [0.100, 0.300]"],
    ]
    assert [row[:3] for row in rows[3:5]] == [["80", "ECE of pairs", "40"], ["80", "NLL of pairs", "40"]]
    assert rows[5:] == [
        ["65", "0.900 [0.800, 1.000] of 30", "0.400 [0.300, 0.500] of 12", "0.200 [0.100, 0.300] of 18", "–"],
        ["80", "–", "–", "–", "–"],
    ]


def test_the_judge_shows_shares_with_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    """Wilson of 0 of 20 reaches 0.16; of 40 pairs of 20 prompts 20 count."""
    judged: dict[str, Any] = {"cell": "x", "n_prompts": 20, "n_pairs": 40, "n_missing": 0, "outcomes": {"conflict": 0}}
    for name, value in (("quality", 0.6), ("gold_mean", 0.5), ("win", 0.3), ("lose", 0.1)):
        judged |= {name: value, f"{name}_lo": value - 0.1, f"{name}_hi": value + 0.1}
    judged |= {"tie": 0.6, "consistency": 1.0, "n_both_orders": 40, "malformed": 0.0}
    show_summaries("title", [judged])
    first, second = cells_of(capsys.readouterr().out)
    assert first == ["x", "0.600 [0.500, 0.700]", "–", "0.500 [0.400, 0.600]", "20", "40", "–"]
    assert second[:2] == ["x", "0.30 [0.20, 0.40]"] and second[3] == "0.10 [0.00, 0.20]"
    assert second[4:] == ["0.00 [0.00, 0.16]", "1.00 [0.84, 1.00]", "40", "0.00 [0.00, 0.16]"]


def test_the_policy_shows_its_answers_with_intervals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import policy.stage

    monkeypatch.setattr(policy.stage, "cell_folder", lambda experiment: tmp_path)
    answer = {"sample": 0, "status": "ok", "truncated": False, "n_tokens": 10}
    golds = [0.0, 1.0] * 20 + [None]
    write_jsonl(
        tmp_path / "answers.jsonl", [answer | {"prompt_id": f"p{i}", "gold": gold} for i, gold in enumerate(golds)]
    )
    look = {"step": 0, "dev/n": 20, "dev/gold_mean": 0.5, "dev/gold_se": 0.1, "dev/length_mean": 9.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(look | {"dev/well_formed_share": 1.0}) + "\n")
    policy.stage.show(small_experiment(tmp_path))
    answers, dev = cells_of(capsys.readouterr().out)
    assert answers[:2] == ["41", "41"]
    gold = re.fullmatch(r"0\.500 \[(0\.3\d\d), (0\.6\d\d)\]", answers[2])
    assert gold is not None and float(gold[1]) < 0.37 and float(gold[2]) > 0.63
    assert answers[4].startswith("1.000 [0.9") and answers[5].startswith("0.000 [0.000, 0.0")
    assert dev == ["0", "–", "20", "0.500 [0.304, 0.696]", "9.000", "1.000 [0.839, 1.000]"]


def test_the_ladder_shows_accuracy_on_own_answers_with_its_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import rm.stage

    experiment = small_experiment(tmp_path)
    folder = rm.stage.folder_of(experiment)
    rung = {"folder": "rung-65", "step": 3, "route_value": None, "n_pairs": 100, "ece": 0.1, "nll": 0.6}
    rung |= {"rung": "65", "accuracy": 0.6, "accuracy_lo": 0.5, "accuracy_hi": 0.7, "score_spread_per_prompt": 0.1}
    ladder = {"route": "early_stop", "rungs": [rung], "length_baseline": estimate(0.5), "targets_missed": []}
    write_json(folder / "ladder.json", ladder)
    for on_policy, shown in ((estimate(0.7, 55), ["0.700 [0.600, 0.800]", "55"]), (None, ["–", "–"])):
        write_json(folder / "rung-65" / "card.json", {"on_policy_accuracy": on_policy})
        rm.stage.show(experiment)
        (row,) = cells_of(capsys.readouterr().out)
        assert row[:6] == ["65", "3", "0.600 [0.500, 0.700]", "100", *shown]


def test_a_table_too_wide_folds_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("title", ("a", "b"), [("x" * 120, "y" * 120)])
    out = capsys.readouterr().out
    assert "…" not in out and out.count("x") == 120 and out.count("y") == 120
