"""Looks during training: gathered, read again, averaged over seeds, drawn against steps and against KL."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import UserError
from curve.analysis.looks import (
    LOOK_COLUMNS,
    best_of_first,
    gather_looks,
    looks_of,
    mean_looks,
    over_optimisation,
    read_looks,
    with_looks,
)
from curve.figures.looks import draw_ends, draw_looks
from curve.figures.names import name_of
from curve.points import write_table
from tests.test_claims import cell

METRICS: list[dict[str, Any]] = [
    {"step": 0, "dev/gold_mean": 0.30, "dev/gold_se": 0.03, "dev/kl": 0.0, "dev/kl_se": 0.0, "dev/n": 128},
    {"step": 1, "loss": 0.1, "reward": 0.5, "reward_std": 0.2, "entropy": 1.5, "token_probability": 0.4},
    {"step": 2, "loss": 0.1, "reward": 0.6, "reward_std": 0.2, "entropy": 1.4, "token_probability": 0.5},
    {"step": 20, "reward": 0.8, "entropy": 1.0, "token_probability": 0.6, "dev/gold_mean": 0.60, "dev/kl": 1.0},
    {"step": 40, "reward": 0.9, "entropy": 0.5, "token_probability": 0.7, "dev/gold_mean": 0.40, "dev/kl": 4.0},
]


def cells() -> list[dict[str, Any]]:
    return [cell("raw", "65", 0.4, seed) for seed in (0, 1)]


def looks() -> list[dict[str, Any]]:
    first, second = cells()
    higher = [row | {"dev/gold_mean": row["dev/gold_mean"] + 0.1} if "dev/gold_mean" in row else row for row in METRICS]
    return looks_of(first["cell"], METRICS) + looks_of(second["cell"], higher)


def test_a_look_is_every_visit_to_the_dev_prompts_and_the_first_step() -> None:
    found = looks_of("a", METRICS)
    assert [look["step"] for look in found] == [0, 1, 20, 40]
    assert (found[1]["gold"], found[1]["reward_std"], found[3]["kl"]) == (None, 0.2, 4.0)
    assert all(set(look) == set(LOOK_COLUMNS) for look in found)


def test_looks_written_and_read_are_the_same_looks(tmp_path: Path) -> None:
    write_table(tmp_path / "looks.csv", LOOK_COLUMNS, looks())
    assert read_looks(tmp_path / "looks.csv") == looks()
    (tmp_path / "bad.csv").write_text("cell,step,gold\na,many,0.5\n")
    with pytest.raises(UserError, match=r"bad\.csv:2: is no look"):
        read_looks(tmp_path / "bad.csv")
    with pytest.raises(UserError, match="cannot be read as looks"):
        read_looks(tmp_path / "none.csv")


def test_looks_are_gathered_where_a_cell_was_trained(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
    found = gather_looks({"a": tmp_path / "a", "untrained": tmp_path / "none"})
    assert found == looks_of("a", METRICS)


def test_best_of_n_is_the_gold_of_the_highest_reward_in_the_first_rollout(tmp_path: Path) -> None:
    rows = [
        {"step": step, "prompt_id": prompt, "reward": reward, "gold": gold}
        for step, prompt, reward, gold in (
            (0, "a", 0.9, 0.2),
            (0, "a", 0.1, 1.0),
            (0, "b", 0.5, 0.4),
            (0, "b", 0.5, 0.8),
            (0, "b", None, 0.9),
            (1, "a", 1.0, 1.0),
        )
    ]
    path = tmp_path / "completions.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert best_of_first(path) == pytest.approx((0.2 + 0.6) / 2)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
    found = gather_looks({"a": tmp_path})
    assert [look["best_of_n"] for look in found] == [None, pytest.approx(0.4), None, None]
    assert with_looks([cell("raw", "65", 0.4) | {"cell": "a"}], found)[0]["start_best_of_n"] == pytest.approx(0.4)
    pq.write_table(pa.Table.from_pylist([rows[0], rows[1] | {"gold": None}]), path)
    assert best_of_first(path) is None


def test_points_are_told_what_their_looks_say() -> None:
    first, second = with_looks([cells()[0], cell("raw", "75", 0.5)], looks())
    assert first["start_reward_std"] == 0.2 and first["kl_end"] == 4.0
    assert first["entropy_rise"] == pytest.approx(-1.0) and first["token_probability_rise"] == pytest.approx(0.3)
    assert second["kl_end"] is None and second["token_probability_rise"] is None


def test_means_are_over_seeds_with_their_standard_error() -> None:
    (line,) = mean_looks(cells(), looks())
    assert line["n_cells"] == 2 and [look["step"] for look in line["looks"]] == [0, 20, 40]
    assert [look["gold"] for look in line["looks"]] == pytest.approx([0.35, 0.65, 0.45])
    assert line["looks"][1]["gold_error"] == pytest.approx(0.1 / math.sqrt(2) / math.sqrt(2))
    (alone,) = mean_looks(cells()[:1], looks())
    assert alone["looks"][0]["gold_error"] == 0.03, "of one cell, over prompts"
    assert mean_looks([cell("raw", "75", 0.5)], looks()) == []


def test_the_peak_of_gold_is_found_with_its_distance() -> None:
    (row,) = over_optimisation(mean_looks(cells(), looks()))
    assert (row["peak_step"], row["peak_kl"], row["end_step"], row["end_kl"]) == (20, 1.0, 40, 4.0)
    assert row["peak_gold"] == pytest.approx(0.65) and row["end_reward"] == pytest.approx(0.9)


def test_gold_is_drawn_against_steps_and_against_kl(tmp_path: Path) -> None:
    lines = mean_looks([*cells(), cell("gold", None, 0.9)], looks())
    assert draw_looks(tmp_path, lines, "test") == ["gold-against-steps", "gold-against-kl"]
    assert "optimizer steps" in (tmp_path / "gold-against-steps.svg").read_text()
    assert "√KL" in (tmp_path / "gold-against-kl.svg").read_text()
    old = [look | {"kl": None} for look in looks()]
    assert draw_looks(tmp_path / "old", mean_looks(cells(), old), "test") == ["gold-against-steps"]
    unknown = [look | {"gold": None} for look in looks()]
    assert draw_looks(tmp_path / "unknown", mean_looks(cells(), unknown), "test") == []


def test_the_judge_is_drawn_against_the_distance_at_the_end(tmp_path: Path) -> None:
    points = with_looks([*cells(), cell("gold", None, 0.9)], looks())
    assert draw_ends(tmp_path, points, "test") == ["quality-against-kl"]
    text = (tmp_path / "quality-against-kl.svg").read_text()
    assert "reward model as it is" in text and "gold" not in text, "no look at the policy on gold was taken"
    assert draw_ends(tmp_path / "none", with_looks(cells(), []), "test") == []


def test_names_hold_what_tells_rows_apart_and_nothing_that_all_share() -> None:
    rows = [
        {"reward": "gold", "treatment": "flip0.4", "algorithm": "grpo", "base": base, "setup": setup}
        for base, setup in (("strong", "tasks.n=6"), ("weak", "tasks.n=6"), ("weak", "tasks.n=6 tasks.opening=x"))
    ]
    plain = {**rows[0], "treatment": "gold"}
    names = [name_of(row, [*rows, plain], "gold reward (bound)") for row in [*rows, plain]]
    assert names == [
        "flip0.4 (strong, as it is)",
        "flip0.4 (weak, as it is)",
        "flip0.4 (weak, tasks.opening=x)",
        "gold reward (bound)",
    ]
