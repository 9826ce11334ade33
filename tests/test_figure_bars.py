"""Points without an interval are drawn open and said to be so, never as if they were exact."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from configs.errors import UserError
from curve.analysis.points_again import AnalyseTable, read_points, run
from curve.figures.bars import OPEN, UNKNOWN, bar_lengths, open_markers
from curve.figures.domains import DOMAINS_FIGURE, draw_domains
from curve.figures.flips import FLIPS_FIGURE, draw_flips
from curve.figures.quality import draw
from curve.points import COLUMNS, over_seeds, write_table
from curve.report.page import findings_of
from tests.test_curve import point

BARE: dict[str, Any] = {"quality_lo": None, "quality_hi": None}
OF_GOLD = {"gold_mean_lo": 0.1, "gold_mean_hi": 0.9}


def sweep(bare: bool) -> list[dict[str, Any]]:
    """Raw and RPR on one rung, and gold; raw and gold without an interval where `bare`."""
    lost = BARE if bare else {}
    return [
        point("raw", "65", 0.4, 0.3, 0.5, **OF_GOLD) | lost,
        point("rpr", "65", 0.6, 0.5, 0.7, **OF_GOLD),
        point("gold", None, 0.9, 0.85, 0.95, **OF_GOLD) | lost,
    ]


def test_bars_are_as_long_as_the_bounds_are_far_and_missing_where_one_is() -> None:
    below, above = bar_lengths([0.5, 0.5, 0.5], [(0.4, 0.7), (None, 0.7), (0.6, 0.8)])
    assert (below[0], above[0]) == (pytest.approx(0.1), pytest.approx(0.2))
    assert math.isnan(below[1]) and math.isnan(above[1])
    assert below[2] == 0.0, "a bound on the wrong side of a mean is no bar that points back"


def test_open_markers_are_explained_once() -> None:
    figure, axis = plt.subplots()
    for _ in range(2):
        open_markers(axis, [0.0, 1.0], [0.2, 0.3], [(0.1, 0.3), (None, None)], "#000000", "s", 5)
    assert axis.get_legend_handles_labels()[1] == [OPEN]
    assert axis.lines[0].get_xydata().tolist() == [[1.0, 0.3]]
    assert axis.lines[0].get_markerfacecolor() == "white"
    plt.close(figure)


@pytest.mark.parametrize("bare", [True, False])
def test_the_figure_says_which_points_have_no_interval(tmp_path: Path, bare: bool) -> None:
    points = sweep(bare)
    draw(tmp_path / "rungs", points, over_seeds(points), "t")
    drawn = (tmp_path / "rungs.svg").read_text()
    assert (OPEN in drawn) == (f"gold reward (bound){UNKNOWN}" in drawn) == bare
    free = [row for row in points if row["rung"] is None]
    draw(tmp_path / "levels", free, over_seeds(free), "t")
    assert (f"gold reward (bound){UNKNOWN}" in (tmp_path / "levels.svg").read_text()) == bare


def test_gold_over_seeds_has_an_interval_over_seeds() -> None:
    """Student's t of 0.4, 0.5, 0.6: 4.3027 times 0.1 over the root of 3."""
    row = over_seeds([point("raw", "65", q, 0, 1) for q in (0.4, 0.5, 0.6)])[0]
    assert row["gold_mean"] == pytest.approx(0.5)
    assert row["gold_mean_hi"] - 0.5 == pytest.approx(0.5 - row["gold_mean_lo"]) == pytest.approx(0.248414, abs=1e-6)


def test_domains_and_flips_are_drawn_open_too(tmp_path: Path) -> None:
    known = {"curve": "a", "reward": "raw", "domain": "d", "n_prompts": 9, "value": 0.5, "lo": 0.4, "hi": 0.6}
    rows = [known | {"rm_accuracy": 0.6}, known | {"rm_accuracy": 0.7, "lo": None, "hi": None}]
    assert draw_domains(tmp_path, rows, "t") == [DOMAINS_FIGURE]
    assert OPEN in (tmp_path / f"{DOMAINS_FIGURE}.svg").read_text()
    final = {"value": 0.5, "lo": None, "hi": None}
    flips = [{"start": "s", "kind": "k", "final": final, "gain": None, "flip_rate": r, "unit": "u"} for r in (0.0, 0.5)]
    assert draw_flips(tmp_path, flips, "t") == [FLIPS_FIGURE]
    assert OPEN in (tmp_path / f"{FLIPS_FIGURE}.svg").read_text()


def test_analyse_counts_them_and_refuses_rungs_of_unknown_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"route": "early_stop", "algorithm": "grpo", "rm_seed": 0, "rm_n_pairs": 100}
    points = [row | facts if row["rung"] else row for row in sweep(True)]
    write_table(tmp_path / "points.csv", COLUMNS, points)
    run([str(tmp_path / "points.csv")], AnalyseTable(output=str(tmp_path / "out")))
    said = "- 2 of 3 points have no interval of their quality, and are drawn open: raw-rung65-grpo-s0, gold."
    assert said in capsys.readouterr().out
    write_table(tmp_path / "points.csv", COLUMNS, [points[0] | {"rm_accuracy_lo": None}])
    with pytest.raises(UserError, match=r"points.csv:2: raw-rung65-grpo-s0 has no interval of its accuracy \("):
        read_points(tmp_path / "points.csv")


def test_findings_say_where_intervals_cannot_be_compared() -> None:
    raw, rpr, _ = sweep(True)
    best, beside = findings_of([raw, rpr | BARE])
    assert "not shown to be better than" in best
    assert beside.endswith("the intervals are not both known.")
