"""Names and captions for the reader: what tells rows apart and no more, and each figure in its own words."""

from __future__ import annotations

from pathlib import Path

from curve.analysis.starts import starts_of
from curve.analysis.whole import curves_of
from curve.figures.names import with_short_setups
from curve.report.page import figures_of
from curve.report.parts import parts_of
from tests.test_claims import cell
from tests.test_claims_mathematics import start, trained

SHARED = "tasks.n_eval_prompts=60"
OPENED = f"{SHARED} tasks.opening=python:"


def test_every_figure_has_its_own_words(tmp_path: Path) -> None:
    names = ("curve", "gold-against-kl", "gold-against-steps", "quality-against-kl", "quality-by-domain")
    names += ("accuracy-against-flips", "predictors")
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(b"png")
    found = {figure.name.removesuffix(".png"): figure for figure in figures_of(tmp_path / "curve.png")}
    assert set(found) == set(names) and len({figure.alternative for figure in found.values()}) == len(names)
    assert found["quality-against-kl"].alternative.startswith("Quality of each policy against its distance")
    assert "win rate" in found["quality-against-kl"].caption and "Gold" not in found["quality-against-kl"].caption
    assert found["gold-against-kl"].alternative.startswith("Gold utility against the distance")


def test_setups_are_named_by_what_not_all_share() -> None:
    points = [p for setup in (SHARED, OPENED) for p in trained("gold", 0.8, "strong", setup=setup)]
    assert [found.name for found in starts_of(points)] == ["as it is", "tasks.opening=python:"]
    on_rungs = [cell("raw", "65", 0.3, setup=setup) for setup in (SHARED, OPENED)]
    names = [found.name for found in curves_of(on_rungs, {})]
    assert names == ["early_stop, grpo, as it is", "early_stop, grpo, tasks.opening=python:"]
    assert [row["setup"] for row in with_short_setups(points)][::3] == ["as it is", "tasks.opening=python:"]
    one = [start("strong") | {"setup": OPENED}]
    assert with_short_setups(one) == one, "a single setup is said in full"


def test_the_tables_of_a_report_leave_out_what_all_setups_share() -> None:
    points = [p for setup in (SHARED, OPENED) for p in trained("gold", 0.8, "strong", setup=setup)]
    cells = [
        text for part in parts_of(points, points, {}, []) for table in part.tables for r in table.rows for text in r
    ]
    assert "tasks.opening=python:" in cells and not any(SHARED in text for text in cells if "gold" not in text)
