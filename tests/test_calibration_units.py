"""Fitted units and chosen numbers on ladders made by hand: a known truth, and each rung its own map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.calibrator import Calibrator
from calibration.config import CalibrationTable
from calibration.maps import Platt, Quantile, Reference, Temperature, save_map
from calibration.measured import best_cut, error_rates, measured_length, measured_spread
from calibration.report import AnswerRow, PairRow
from calibration.stage import run, show
from calibration.units import RungRows, fit_units
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Experiment
from configs.records import read_json, write_json, write_jsonl
from configs.runfolder import Stage, run_stage
from rm.measures import Floats, sigmoid
from rm.units import ScoreUnits
from tasks.records import Response

SCALE, SHIFT = 3.0, 1.0
"""The planted distortion: logit = 3 z + 1 where an answer is good with chance sigmoid(z)."""
Push = Callable[[Floats], Floats]
REASONING = "first , i need to x . next , then ,"
UNITS = ScoreUnits(centre=SHIFT, scale=1.0, reference="by hand", n_reference=1)


def planted(n: int, seed: int, push: Push | None = None) -> tuple[list[AnswerRow], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Answers of a calibrated model with the planted distortion, four a prompt; 30% of them reason, none is below -2.5.

    `push` moves z of 20% of the good ones that reason. Returns the answers and which were pushed.
    """
    rng = keyed_rng(seed, "planted")
    z = np.maximum(rng.normal(0.3, 1.5, n), -2.5)
    good = rng.random(n) < sigmoid(z)
    reasons = rng.random(n) < 0.3
    pushed = good & reasons & (rng.random(n) < 0.2)
    if push is None:
        pushed[:] = False
    else:
        z = np.where(pushed, push(z), z)
    rows = [
        AnswerRow(f"p{i // 4}", Response(REASONING * bool(reasons[i]), "x", True), SCALE * z[i] + SHIFT, float(good[i]))
        for i in range(n)
    ]
    return rows, pushed


def planted_pairs(n: int, seed: int) -> list[PairRow]:
    """Pairs whose preference follows the same calibrated model, half of them to select and half to measure on."""
    rng = keyed_rng(seed, "planted pairs")
    first, second = rng.normal(0, 1.5, (2, n))
    wins = rng.random(n) < sigmoid(first - second)
    chosen, rejected = np.where(wins, first, second), np.where(wins, second, first)
    return [
        PairRow(
            f"q{i}", "selection" if i % 2 else "measurement", SCALE * chosen[i] + SHIFT, SCALE * rejected[i] + SHIFT
        )
        for i in range(n)
    ]


def rung(answers: list[AnswerRow], pairs: list[PairRow] | None = None) -> RungRows:
    return RungRows("65", UNITS, pairs or [], answers)


def inside(estimate: Any, truth: float) -> bool:
    return bool(estimate["lo"] <= truth <= estimate["hi"])


def test_platt_units_find_the_truth_on_answers_that_were_not_pushed() -> None:
    answers, _ = planted(24_000, 1)
    found = fit_units("platt", rung(answers), 0.5, 0)
    assert inside(found.report["parameters"]["slope"], 1 / SCALE)
    assert inside(found.report["parameters"]["intercept"], -SHIFT / SCALE)
    figures = found.report["figures"]
    assert figures["map"]["ece"]["estimate"] < 0.02 < figures["raw"]["ece"]["estimate"]
    assert found.report["nll_change"]["from_raw"]["hi"] < 0
    assert found.report["fitted_on"]["n"] == found.report["measured_on"]["n"] == 12_000


def test_what_was_pushed_down_is_rescued_and_nothing_else_is() -> None:
    """The truth is fitted where nothing was pushed: on the answers that do not reason."""
    answers, pushed = planted(24_000, 2, push=lambda z: np.full_like(z, -4.0))
    found = fit_units("platt", rung([row for row in answers if not row.response.think]), 0.5, 0)
    assert inside(found.report["parameters"]["slope"], 1 / SCALE)
    assert inside(found.report["parameters"]["intercept"], -SHIFT / SCALE)
    assert found.report["figures"]["map"]["ece"]["estimate"] < 0.02
    table = CalibrationTable(phrases="advice", units="platt", threshold=0.05, alpha=0.1)
    calibrator = Calibrator.build("65", UNITS, table, found.score_map)
    given = calibrator.rewards([row.logit for row in answers], [row.response for row in answers])
    # z = -4 scores 0.018, z = -2.5 scores 0.076: below the threshold lie the pushed ones alone, and all have full RPR
    assert pushed.sum() > 500
    assert [one.compensated for one in given] == pushed.tolist()
    assert [one.score is not None and one.score < 0.05 <= one.reward for one in given] == pushed.tolist()


def test_isotonic_units_are_calibrated_even_with_the_answers_that_were_pushed_down() -> None:
    answers, _ = planted(24_000, 3, push=lambda z: z - 2)
    figures = fit_units("isotonic", rung(answers), 0.5, 0).report["figures"]
    assert figures["map"]["ece"]["estimate"] < 0.02 < figures["raw"]["ece"]["estimate"]


def test_units_of_pairs_find_the_scale_and_stand_on_the_untrained_answers() -> None:
    answers, _ = planted(400, 4)
    rows = rung(answers, planted_pairs(4000, 4))
    temperature = fit_units("temperature", rows, 0.5, 0)
    assert isinstance(temperature.score_map, Temperature)
    assert inside(temperature.report["parameters"]["temperature"], SCALE)
    assert temperature.score_map.centre == np.median(rows.logits)
    assert temperature.report["figures"]["map"]["ece"]["estimate"] < 0.02
    reference = fit_units("reference", rows, 0.5, 0)
    assert isinstance(reference.score_map, Reference) and set(reference.score_map.references) <= set(rows.logits)
    assert inside(reference.report["parameters"]["scale"], 1 / SCALE)
    # the chance to beat one untrained answer drawn at random, averaged over them, is one half
    assert reference.score_map.scores(rows.logits).mean() == pytest.approx(0.5, abs=0.01)


def test_quantile_units_need_no_labels() -> None:
    answers, _ = planted(800, 5)
    unknown = [AnswerRow(row.prompt_id, row.response, row.logit, None) for row in answers]
    found = fit_units("quantile", rung(unknown), 0.5, 0)
    assert isinstance(found.score_map, Quantile) and found.score_map.n_reference == 400
    assert inside(found.report["mean_quantile"], 0.5)
    assert found.report["figures"] is None


@pytest.mark.parametrize("kind", ["platt", "beta", "isotonic"])
def test_maps_of_good_answers_need_labels_of_both_kinds(kind: Any) -> None:
    answers, _ = planted(40, 6)
    for gold in (None, 1.0):
        rows = [AnswerRow(row.prompt_id, row.response, row.logit, gold) for row in answers]
        with pytest.raises(
            UserError, match=f"rung 65, units {kind}: it needs answers that are known to be good and bad"
        ):
            fit_units(kind, rung(rows), 0.5, 0)


def test_constants_by_hand() -> None:
    scores, good = np.array([0.1, 0.2, 0.6, 0.7, 0.9]), np.array([False, False, True, False, True])
    assert error_rates(scores, good, 0.65) == (1 / 3, 1 / 2)
    assert error_rates(scores, np.full(5, True), 0.65) == (None, 3 / 5)
    cut = best_cut(scores, good)
    assert cut is not None and 0.2 < cut <= 0.6  # J = 1 - 1/3 there, 1/2 - 1/3 or less elsewhere
    assert best_cut(scores, np.full(5, False)) is None
    assert measured_spread(np.array([0.0, 1.0])) == (0.5, 0.5)
    assert measured_spread(np.array([0.5, 0.5])) == (None, None)
    assert (measured_length([0, 0]), measured_length([]), measured_length(list(range(1, 101)))) == (1, None, 96)


def ladder(folder: Path, scales: dict[str, float]) -> None:
    """A finished stage `rm`: rungs whose logits differ by a scale, 240 answers and 200 pairs each."""

    def work(at: Path) -> dict[str, Any]:
        for name, scale in scales.items():
            answers, _ = planted(240, 7)
            place = at / f"rung-{name}"
            ScoreUnits(centre=0.0, scale=1 / scale, reference="by hand", n_reference=1).save(place)
            write_json(place / "config.json", {"rung": name})
            rows = [
                {
                    "prompt_id": row.prompt_id,
                    "think": row.response.think,
                    "answer": "x",
                    "well_formed": True,
                    "logit": scale * (row.logit or 0.0),
                    "gold": row.gold,
                }
                for row in answers
            ]
            write_jsonl(place / "reference_logits.jsonl", rows)
            pairs = [
                {
                    "prompt_id": pair.prompt_id,
                    "split": pair.split,
                    "logit_chosen": scale * pair.logit_chosen,
                    "logit_rejected": scale * pair.logit_rejected,
                }
                for pair in planted_pairs(200, 7)
            ]
            write_jsonl(place / "pair_logits.jsonl", pairs)
        rungs = [{"rung": name, "folder": f"rung-{name}", "accuracy": int(name) / 100} for name in scales]
        write_json(at / "ladder.json", {"rungs": rungs})
        return {}

    run_stage(Stage("rm", folder / "rm", {}, 0), work)


def calibrated(tmp_path: Path, **table: Any) -> tuple[Experiment, dict[str, Calibrator]]:
    experiment = Experiment("x.yaml", "x", 0, tmp_path, {"calibration": {"phrases": "advice", **table}})
    if not (experiment.folder / "rm").exists():
        ladder(experiment.folder, {"60": 1.0, "80": 2.0})
    run(experiment)
    folder = experiment.folder / "calibration"
    return experiment, {name: Calibrator.load(folder / f"rung-{name}") for name in ("60", "80")}


def test_every_rung_gets_a_map_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment, found = calibrated(tmp_path, units="platt")
    maps = [found[name].score_map for name in ("60", "80")]
    assert all(isinstance(one, Platt) for one in maps)
    assert maps[0].slope == pytest.approx(2 * maps[1].slope, rel=1e-3)  # type: ignore[union-attr]
    assert found["60"].score(1.3) == pytest.approx(found["80"].score(2.6), rel=1e-3)
    for name, calibrator in found.items():
        calibrator.refuse_other_rung(experiment.folder / "rm" / f"rung-{name}")
    with pytest.raises(UserError, match="other score units than the calibrator of rung 60"):
        found["60"].refuse_other_rung(experiment.folder / "rm" / "rung-80")
    report = read_json(experiment.folder / "calibration" / "rung-60" / "report.json")
    assert report["units"]["kind"] == "platt" and report["units"]["fitted_on"]["n"] == 120
    show(experiment)
    assert "units platt, on what was not fitted" in capsys.readouterr().out


def test_maps_that_fit_wrote_are_taken_by_the_name_of_the_rung(tmp_path: Path) -> None:
    for name, slope in (("60", 0.5), ("80", 0.25)):
        save_map(tmp_path / "maps" / name / "map.json", Platt(slope=slope, intercept=0.0))
    with pytest.raises(UserError, match=r"calibration.map: .* would be the map of 2 rungs, .* write \{rung\}"):
        calibrated(tmp_path, map=str(tmp_path / "maps" / "60" / "map.json"))
    experiment, found = calibrated(tmp_path, map=str(tmp_path / "maps" / "{rung}" / "map.json"))
    assert [found[name].score(1.0) for name in ("60", "80")] == pytest.approx(
        [float(sigmoid(np.array(0.5))), float(sigmoid(np.array(0.25)))]
    )
    inputs = read_json(experiment.folder / "calibration" / "manifest.json")["made_from"]["inputs"]
    assert {"rm", "map of rung 60", "map of rung 80"} == set(inputs)


def test_scores_are_stretched_to_the_most_accurate_rung_or_to_the_named_one(tmp_path: Path) -> None:
    _, found = calibrated(tmp_path / "best", rule="variance_matched", units="raw")
    spread = {name: calibrator.measured.spread for name, calibrator in found.items()}
    assert spread["80"] == pytest.approx(2 * (spread["60"] or 0.0))
    assert {calibrator.measured.target_spread for calibrator in found.values()} == {spread["80"]}
    response = Response("", "x", True)
    centre = found["60"].measured.centre or 0.0
    assert found["60"].reward(centre + 1.0, response).reward == pytest.approx(centre + 2.0)
    _, found = calibrated(tmp_path / "named", rule="variance_matched", spread_of=60)
    assert found["80"].measured.target_spread == found["60"].measured.spread
    with pytest.raises(UserError, match="spread_of: there is no rung '70'; the rungs are 60, 80"):
        calibrated(tmp_path / "unknown", rule="variance_matched", spread_of=70)


def test_error_rates_are_taken_where_the_cut_was_not_looked_for(tmp_path: Path) -> None:
    experiment, found = calibrated(tmp_path, rule="noise_corrected", units="platt")
    rates = read_json(experiment.folder / "calibration" / "rung-60" / "report.json")["error_rates"]
    # 240 answers: the map is fitted on half, the cut looked for on half of the rest
    assert rates["rho0"]["n"] + rates["rho1"]["n"] == 60
    measured = found["60"].measured
    assert (measured.cut, measured.rho0, measured.rho1) == (
        rates["cut"],
        rates["rho0"]["estimate"],
        rates["rho1"]["estimate"],
    )


def test_auto_chooses_for_each_rung_and_says_what_it_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, found = calibrated(tmp_path, threshold="auto", alpha="auto")
    folder = experiment.folder / "calibration"
    for name, calibrator in found.items():
        choice = read_json(folder / f"rung-{name}" / "report.json")["choice"]
        assert (calibrator.settings.threshold, calibrator.settings.alpha) == (choice["threshold"], choice["alpha"])
        assert calibrator.settings.auto == ("threshold", "alpha")
        assert len(choice["table"]) == 45
    summary = read_json(folder / "summary.json")
    assert (summary["threshold"], summary["alpha"]) == (None, None)
    assert [row["threshold"] for row in summary["rungs"]] == [one.settings.threshold for one in found.values()]
    show(experiment)
    assert summary["rungs"][0]["choice"].split(":")[0] in capsys.readouterr().out.replace("\n", " ")
