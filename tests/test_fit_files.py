"""The command `fit`: forms of rows, what is counted and what is refused, splits, domains, what is written."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from calibration.fit import FitTable, run
from calibration.fit_rows import FieldTable, at, read_labelled
from calibration.maps import load_map
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import read_words
from rm.measures import sigmoid
from tasks.preference.fields import RowProblem

Rows = list[dict[str, Any]]


def rows_of(n: int, seed: int = 0, scale: float = 3.0, shift: float = 1.0) -> Rows:
    """Rows whose logits are a calibrated model's, scaled and shifted."""
    rng = keyed_rng(seed, "rows")
    z = rng.normal(0, 1.5, n)
    good = rng.random(n) < sigmoid(z)
    return [
        {"logit": scale * float(x) + shift, "label": int(y), "prompt": f"p{i // 3}"}
        for i, (x, y) in enumerate(zip(z, good, strict=True))
    ]


def written(path: Path, rows: list[Any]) -> str:
    """A file of rows; a text is a line as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def fitted(tmp_path: Path, source: str, *words: str) -> dict[str, Any]:
    """The report of a command."""
    paths, table = read_words([source, f"output={tmp_path / 'out'}", "resamples=60", *words], FitTable, "fit")
    run(paths, table)
    return json.loads((tmp_path / "out" / "report.json").read_text())


def refusal(tmp_path: Path, rows: list[Any], *words: str) -> str:
    """The one line of a refused command, which has written nothing."""
    with pytest.raises(UserError) as error:
        fitted(tmp_path, written(tmp_path / "rows.jsonl", rows), *words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_a_known_distortion_is_undone_by_the_written_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = fitted(tmp_path, written(tmp_path / "rows.jsonl", rows_of(9000)), "kind=platt", "prompt=prompt", "bins=8")
    row = report["maps"]["platt"]
    assert report["measured"] == "on 900 held-out prompts"
    assert report["map_fitted_on"] == "the other 6300 cases"
    assert row["parameters"]["temperature"]["lo"] < 3 < row["parameters"]["temperature"]["hi"]
    assert row["parameters"]["centre"]["lo"] < 1 < row["parameters"]["centre"]["hi"]
    assert row["nll_change"]["hi"] < 0
    assert report["maps"]["identity"]["figures"]["ece"]["lo"] > 0.05 > row["figures"]["ece"]["estimate"]
    found = load_map(tmp_path / "out" / "map.json")
    assert found.score(1.0) == pytest.approx(0.5, abs=0.05)
    assert found.sha256 == row["map_sha256"]
    for name in ("reliability.png", "reliability.svg"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    assert "platt" in capsys.readouterr().out


def test_all_kinds_are_compared_in_one_table_by_cross_validation(tmp_path: Path) -> None:
    report = fitted(tmp_path, written(tmp_path / "rows.jsonl.gz", rows_of(300)), "kind=all", "prompt=prompt")
    assert report["measured"] == "5-fold cross-validation by prompt"
    names = ["identity", "temperature", "platt", "beta", "isotonic", "quantile", "reference"]
    assert list(report["maps"]) == names
    assert sorted(path.stem for path in (tmp_path / "out" / "maps").iterdir()) == sorted(names)
    for row in report["maps"].values():
        assert row["figures"]["n"] == 300 and row["figures"]["n_prompts"] == 100
        assert sum(point["n"] for point in row["figures"]["diagram"]) == 300
    assert report["maps"]["identity"]["nll_change"]["estimate"] == 0


def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    source = written(tmp_path / "rows.jsonl", rows_of(200))
    one, two = (tmp_path / name for name in ("one", "two"))
    for folder in (one, two):
        folder.mkdir()
        fitted(folder, source, "kind=all")
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 10
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)


def test_pairs_of_logits(tmp_path: Path) -> None:
    rng = keyed_rng(1, "pairs")
    d = rng.normal(0, 4, 600)
    sign = np.where(rng.random(600) < sigmoid(d / 2), 1.0, -1.0)
    rows = [{"a": {"x": float(v * s) + 7}, "b": 7.0} for v, s in zip(d, sign, strict=True)]
    words = ("logit_chosen=a.x", "logit_rejected=b")
    report = fitted(tmp_path, written(tmp_path / "rows.jsonl", rows), *words, "kind=all")
    assert list(report["maps"]) == ["identity", "temperature", "isotonic", "reference"]
    found = report["maps"]["temperature"]
    assert found["parameters"]["temperature"]["lo"] < 2 < found["parameters"]["temperature"]["hi"]
    assert found["figures"]["n"] == 600 and found["figures"]["base_rate"] == pytest.approx(0.5)
    assert found["figures"]["accuracy"]["estimate"] == pytest.approx((d * sign > 0).mean())
    assert load_map(tmp_path / "out" / "maps" / "temperature.json").score(7.0) == pytest.approx(0.5, abs=0.1)
    assert not (tmp_path / "out" / "maps" / "isotonic.json").exists(), "it maps differences only"
    with pytest.raises(UserError, match="choose identity, temperature, isotonic, reference"):
        fitted(tmp_path, str(tmp_path / "rows.jsonl"), *words, "kind=platt")


def test_lists_of_answers_nested_fields_and_many_forms_of_labels(tmp_path: Path) -> None:
    forms: dict[str, list[Any]] = {"truth": [True, False], "word": ["Good", "bad"], "sign": [1, -1], "grade": [7, 2]}
    for name, labels in forms.items():
        rows = [{"m": {"y": labels}, "s.x": [[1.5], [0.5]], "id": i} for i in range(4)]
        words = {"logit": "s.x", "label": "m.y", "prompt": "id"} | ({"good_from": 5} if name == "grade" else {})
        data, counts = read_labelled([Path(written(tmp_path / "rows.jsonl", rows))], FieldTable.model_validate(words))
        assert data.labels.tolist() == [1.0, 0.0] * 4, name
        assert data.logits.tolist() == [1.5, 0.5] * 4
        assert (counts["cases"], counts["prompts"]) == (8, 4)


def test_a_dotted_path_reaches_through_names_with_dots() -> None:
    assert at({"scores": {"rung-0.5": {"logit": 2.0}}}, "scores.rung-0.5.logit") == 2.0
    assert at({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    with pytest.raises(RowProblem):
        at({"a": 1}, "a.b")


def test_parquet_gives_what_json_lines_give(tmp_path: Path) -> None:
    rows = rows_of(60)
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    one, _ = read_labelled([tmp_path / "rows.parquet"], FieldTable())
    two, _ = read_labelled([Path(written(tmp_path / "rows.jsonl", rows))], FieldTable())
    assert one.logits.tolist() == two.logits.tolist() and one.labels.tolist() == two.labels.tolist()


def test_rows_that_cannot_be_used_are_counted_with_their_first_place(tmp_path: Path) -> None:
    broken = [
        "{not json",
        [1],
        {"logit": None, "label": 1},
        {"logit": 1.0, "label": None},
        {"logit": "1.0", "label": 1},
        {"logit": True, "label": 1},
        {"logit": 1.0, "label": "perhaps"},
        {"label": 1},
        {"logit": [1.0], "label": [1, 0]},
        {"logit": 1.0, "label": [1]},
    ]
    report = fitted(tmp_path, written(tmp_path / "rows.jsonl", [*broken, *rows_of(50)]))
    left = {row["reason"]: row["rows"] for row in report["counts"]["left_out"]}
    assert left == {
        "unreadable_json": 1,
        "not_an_object": 1,
        "no_logit": 1,
        "no_label": 1,
        "bad_logit": 2,
        "bad_label": 1,
        "missing_field": 1,
        "lists_differ": 2,
    }
    assert report["counts"]["rows"] == 60 and report["counts"]["cases"] == 50


@pytest.mark.parametrize(
    ("rows", "words", "reason"),
    [
        ([{"logit": i, "label": 1} for i in range(9)], (), "all 9 labels are 1"),
        ([{"logit": 2, "label": i % 2} for i in range(9)], (), "all 9 logits are 2, to nine digits"),
        (['{"logit": NaN, "label": 1}'], (), "line 1: logit is nan"),
        (['{"logit": 1e999, "label": 1}'], (), "line 1: logit is inf"),
        ([{"logit": i, "label": i / 10} for i in range(9)], (), "give good_from=NUMBER"),
        ([{"logit": i, "label": i % 3 - 1} for i in range(9)], (), "label holds -1, 0, 1"),
        ([{"logits": i, "label": i % 2} for i in range(9)], (), "did you mean logits?"),
        ([{"x": i} for i in range(9)], (), "the columns are x"),
        ([], (), "the files are empty"),
        ([{"logit": 10.0 ** (i * 40), "label": i % 2} for i in range(7)], (), "these are no logits"),
        ([{"logit": i, "label": i % 2, "w": 0} for i in range(9)], ("weight=w",), "9: bad_weight"),
        (rows_of(9), ("logit_chosen=a",), "logit_chosen and logit_rejected go together"),
        (rows_of(9), ("good_from=1", "soft=true"), "remove one"),
        (rows_of(9), ("folds=3", "held_out=0.5"), "give one of them"),
        (rows_of(9), ("folds=50",), "50 folds need as many prompts, found 9"),
        (rows_of(9), ("kind=plat",), "did you mean platt?"),
        (rows_of(9), ("lable=x",), "did you mean label?"),
        ([{"logit": i, "label": i % 2, "p": 1} for i in range(9)], ("prompt=p",), "one prompt"),
        ([{"logit": i, "label": int(i > 7)} for i in range(9)], (), "too few to fit on one part"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(
    tmp_path: Path, rows: list[Any], words: tuple[str, ...], reason: str
) -> None:
    assert reason in refusal(tmp_path, rows, *words)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    for name, reason in (("a.csv", "is not a .jsonl"), ("absent.jsonl", "cannot be read"), ("cut.parquet", "parquet")):
        with pytest.raises(UserError, match=reason):
            fitted(tmp_path, str(tmp_path / name))
    source = written(tmp_path / "rows.jsonl", rows_of(60))
    for output, reason in ((source, "is a file; name a folder"), (f"{source}/x", "cannot be written")):
        with pytest.raises(UserError, match=reason):
            run([source], FitTable(output=output, resamples=50))
    with pytest.raises(UserError, match="name a file"):
        run([], FitTable(output=str(tmp_path / "out")))


def test_domains_are_fitted_and_measured_apart(tmp_path: Path) -> None:
    rows = [row | {"d": "law"} for row in rows_of(400, 1)] + [row | {"d": "code"} for row in rows_of(400, 2, 0.5, -4.0)]
    rows += [row | {"d": "art"} for row in rows_of(30, 3)] + [row | {"d": None} for row in rows_of(30, 4)]
    rows = [row | {"prompt": f"{row['d']} {row['prompt']}"} for row in rows]
    words = ("prompt=prompt", "domain=d", "kind=platt", "min_domain=100")
    report = fitted(tmp_path, written(tmp_path / "rows.jsonl", rows), *words)
    row = report["maps"]["platt"]
    assert sorted(row["domains"]["own_map"]) == ["code", "law"]
    assert row["domains"]["pooled_map"] == {"art": 30}
    assert {name: found["n"] for name, found in row["figures_by_domain"].items()} == {
        "art": 30,
        "code": 400,
        "law": 400,
    }
    pooled = fitted(tmp_path / "pooled", str(tmp_path / "rows.jsonl"), "prompt=prompt", "kind=platt")
    assert row["figures"]["nll"]["estimate"] < pooled["maps"]["platt"]["figures"]["nll"]["estimate"] - 0.02


def test_soft_labels_weights_and_a_median_centre(tmp_path: Path) -> None:
    rows = [
        {"logit": x, "label": float(sigmoid(np.array(x / 2 - 1))), "w": 1 + abs(x)} for x in np.linspace(-6, 9, 300)
    ]
    words = ("soft=true", "weight=w", "kind=all", "centre=median")
    report = fitted(tmp_path, written(tmp_path / "rows.jsonl", rows), *words)
    platt = report["maps"]["platt"]
    assert platt["parameters"]["slope"]["estimate"] == pytest.approx(0.5, abs=0.02)
    assert platt["figures"]["ece"]["estimate"] < 0.02
    record = json.loads((tmp_path / "out" / "maps" / "temperature.json").read_text())["map"]
    assert record["centre"] == pytest.approx(1.5)
    assert not math.isnan(record["temperature"])


def test_the_output_of_the_command_score_is_read_as_it_is(tmp_path: Path) -> None:
    cells = [
        {"line": i // 2, "answer": 1 + i % 2, "preferred": bool(row["label"]), "scores": {"rung-65": row}}
        for i, row in enumerate(rows_of(80))
    ]
    cells += [cells[0] | {"preferred": None}, cells[0] | {"scores": {"rung-65": {"logit": None, "status": "too_long"}}}]
    words = ("logit=scores.rung-65.logit", "label=preferred", "prompt=line")
    counts = fitted(tmp_path, written(tmp_path / "scores.jsonl", cells), *words)["counts"]
    assert (counts["cases"], counts["prompts"]) == (80, 40)
    assert {row["reason"]: row["rows"] for row in counts["left_out"]} == {"no_label": 1, "no_logit": 1}
