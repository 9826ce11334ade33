"""The stage `calibration` on a ladder made by hand, with every number of its report worked out."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.calibrator import Calibrator
from calibration.measures import clustered_mean, order_agreement, share
from calibration.stage import AFFINE_NOTE, calibrator_folder, run, show
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Experiment, load_experiment
from configs.records import read_json, write_json, write_jsonl
from configs.runfolder import MANIFEST, Stage, run_stage
from rm.units import ScoreUnits

LN3 = math.log(3.0)
UNITS = ScoreUnits(centre=0.0, scale=2.0, reference="by hand", n_reference=5)
LOW, HIGH = -LN3 / 2, LN3 / 2
"""Logits that score 1/4 and 3/4: sigmoid(2 * ln 3 / 2) = 3 / (3 + 1)."""
FOUR_PHRASES = "first , i need to x . next , then ,"

ANSWERS = [
    # prompt, think, well formed, logit, gold
    ("p0", FOUR_PHRASES, True, LOW, 1.0),  # false negative, lifted by 0.1
    ("p0", "", True, LOW, 0.0),  # true negative, not lifted
    ("p0", "", True, HIGH, 0.0),  # false positive
    ("p1", "", True, HIGH, 1.0),  # true positive
    ("p1", "first , i need to", True, LOW, 0.2),  # true negative, lifted by 0.05
    ("p1", FOUR_PHRASES, False, None, 0.0),  # malformed
]


def _pair_rows() -> list[dict[str, Any]]:
    """40 measurement pairs, three right in every four, with logit differences of ln 3 / 2; and misleading others."""
    rows = [
        {
            "pair_id": f"m{i}",
            "prompt_id": f"q{i // 2}",
            "split": "measurement",
            "logit_chosen": 5.0 if i % 4 == 3 else 5.0 + HIGH,
            "logit_rejected": 5.0 + HIGH if i % 4 == 3 else 5.0,
            "gold_chosen": 1.0,
            "gold_rejected": None,
        }
        for i in range(40)
    ]
    return rows + [row | {"split": "selection", "logit_chosen": -90.0} for row in rows]


def _answer_rows(with_gold: bool = True) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": prompt,
            "sample": i,
            "completion": f"<think>{think}</think><answer>torch</answer>",
            "answer": "torch" if well_formed else None,
            "think": think,
            "well_formed": well_formed,
            "logit": logit,
            "gold": gold if with_gold else None,
        }
        for i, (prompt, think, well_formed, logit, gold) in enumerate(ANSWERS)
    ]


def _ladder(folder: Path, change: Callable[[Path], None] | None = None) -> None:
    """A finished stage `rm` of three rungs: with gold, without gold, without answers."""

    def work(inside: Path) -> dict[str, Any]:
        for name in ("65", "80", "90"):
            UNITS.save(inside / f"rung-{name}")
            write_json(inside / f"rung-{name}" / "config.json", {"rung": name})
            write_jsonl(inside / f"rung-{name}" / "pair_logits.jsonl", _pair_rows())
        write_jsonl(inside / "rung-65" / "reference_logits.jsonl", _answer_rows())
        write_jsonl(inside / "rung-80" / "reference_logits.jsonl", _answer_rows(with_gold=False))
        rungs = [{"rung": name, "folder": f"rung-{name}", "accuracy": 0.75} for name in ("65", "80", "90")]
        write_json(inside / "ladder.json", {"rungs": rungs})
        if change:
            change(inside)
        return {}

    run_stage(Stage("rm", folder / "rm", {}, 0), work)


def _experiment(tmp_path: Path, **table: Any) -> Experiment:
    tables = {"calibration": {"phrases": "advice", **table}}
    return Experiment("x.yaml", "x", 0, tmp_path, tables)


def _value(estimate: dict[str, Any]) -> tuple[float | None, int]:
    return estimate["estimate"], estimate["n"]


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    experiment = _experiment(tmp_path)
    _ladder(experiment.folder)
    run(experiment)
    found: dict[str, Any] = read_json(experiment.folder / "calibration" / "rung-65" / "report.json")
    return found


def test_pairs_before_and_after(report: dict[str, Any]) -> None:
    pairs = report["pairs"]
    assert (pairs["n_pairs"], pairs["n_prompts"]) == (40, 20)
    assert pairs["accuracy"]["estimate"] == 0.75
    # after: every pair is told with chance 3/4 and right with chance 3/4
    assert _value(pairs["after"]["ece"]) == (pytest.approx(0.0), 40)
    assert _value(pairs["after"]["brier"]) == (pytest.approx(0.75 / 16 + 0.25 * 9 / 16), 40)
    assert _value(pairs["after"]["nll"]) == (pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4)), 40)
    # before: the chance told is sqrt(3) / (1 + sqrt(3))
    told = math.sqrt(3) / (1 + math.sqrt(3))
    assert _value(pairs["before"]["ece"]) == (pytest.approx(0.75 - told), 40)
    assert _value(pairs["before"]["nll"]) == (pytest.approx(-0.75 * math.log(told) - 0.25 * math.log(1 - told)), 40)
    change = pairs["change"]["nll"]
    assert change["lo"] <= change["estimate"] <= change["hi"]
    assert change["estimate"] == pytest.approx(pairs["after"]["nll"]["estimate"] - pairs["before"]["nll"]["estimate"])


def test_answers_before_and_after(report: dict[str, Any]) -> None:
    answers = report["answers"]
    assert (answers["n_answers"], answers["n_prompts"]) == (6, 2)
    assert _value(answers["malformed"]) == (pytest.approx(1 / 6), 6)
    assert _value(answers["below_threshold"]) == (pytest.approx(3 / 5), 5)
    assert _value(answers["compensated"]) == (pytest.approx(2 / 5), 5)
    assert _value(answers["rpr_mean"]) == (pytest.approx((1 + 0.5) / 5), 5)
    assert _value(answers["bonus_mean_below_threshold"]) == (pytest.approx((0.1 + 0 + 0.05) / 3), 3)
    # of the six pairs of p0 and p1 only one changes: two equal scores of p0 are told apart
    changes = answers["order_changes"]
    found = [_value(changes[name])[0] for name in ("reversed", "made_equal", "separated")]
    assert found == pytest.approx([0, 0, 1 / 6])
    spread = answers["spread_per_prompt"]
    # p0: 1/4 1/4 3/4; p1: 3/4 1/4 0
    assert _value(spread["before"]) == (pytest.approx((math.sqrt(1 / 18) + math.sqrt(7 / 72)) / 2), 2)
    assert _value(spread["none_before"]) == (0.0, 2)
    assert _value(spread["changed_after_scaling"]) == (1.0, 2)


def test_answers_against_gold(report: dict[str, Any]) -> None:
    gold = report["answers"]["against_gold"]
    assert _value(gold["tpr"]) == (0.5, 2)
    assert _value(gold["fpr"]) == (pytest.approx(1 / 3), 3)
    assert _value(gold["j"]) == (pytest.approx(0.5 - 1 / 3), 5)
    assert _value(gold["precision"]) == (0.5, 2)
    assert _value(gold["after"]["j"]) == _value(gold["j"])  # 1/4 + 0.1 stays below the threshold
    assert gold["false_negatives"]["n"] == 1
    assert _value(gold["false_negatives"]["lifted"]) == (1.0, 1)
    assert _value(gold["false_negatives"]["over_threshold"]) == (0.0, 1)
    assert gold["true_negatives"]["n"] == 2
    assert _value(gold["true_negatives"]["lifted"]) == (0.5, 2)
    assert _value(gold["true_negatives"]["bonus_mean"]) == (pytest.approx(0.025), 2)
    # p0: a tie and a wrong order; p1: three right ones. The bonus breaks the tie rightly.
    assert _value(gold["order_agreement"]["before"]) == (pytest.approx(3.5 / 5), 5)
    assert _value(gold["order_agreement"]["after"]) == (pytest.approx(4 / 5), 5)
    assert _value(gold["order_agreement"]["change"]) == (pytest.approx(0.1), 5)


def test_what_cannot_be_known_is_null(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path)
    _ladder(experiment.folder)
    run(experiment)
    folder = experiment.folder / "calibration"
    assert read_json(folder / "rung-80" / "report.json")["answers"]["against_gold"] is None
    assert read_json(folder / "rung-90" / "report.json")["answers"] is None
    rows = {row["rung"]: row for row in read_json(folder / "summary.json")["rungs"]}
    assert rows["80"]["below_threshold"] == pytest.approx(3 / 5)
    assert rows["80"]["false_negatives_lifted"] is None
    assert rows["90"]["below_threshold"] is None
    assert rows["90"]["ece_after"] == pytest.approx(0.0)


def test_the_calibrator_applies_what_was_reported(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path, threshold=0.75, alpha=0.5)
    _ladder(experiment.folder)
    run(experiment)
    calibrator = Calibrator.load(calibrator_folder(experiment, "65"))
    assert (calibrator.rung, calibrator.units, calibrator.settings.alpha) == ("65", UNITS, 0.5)
    with pytest.raises(UserError, match="there is no rung '70'; the rungs are 65, 80, 90"):
        calibrator_folder(experiment, "70")


def test_a_second_run_changes_no_byte_and_another_rule_is_refused(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path)
    _ladder(experiment.folder)
    run(experiment)
    folder = experiment.folder / "calibration"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run(experiment)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="was finished with other settings"):
        run(_experiment(tmp_path, threshold=0.75))


def test_the_same_seed_gives_the_same_report_elsewhere(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        experiment = _experiment(tmp_path / name)
        _ladder(experiment.folder)
        run(experiment)
        texts.append((experiment.folder / "calibration" / "rung-65" / "report.json").read_bytes())
    assert texts[0] == texts[1]


def test_the_plain_score_changes_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = _experiment(tmp_path, rule="none")
    _ladder(experiment.folder)
    run(experiment)
    answers = read_json(experiment.folder / "calibration" / "rung-65" / "report.json")["answers"]
    assert _value(answers["compensated"]) == (0.0, 5)
    assert _value(answers["spread_per_prompt"]["changed_after_scaling"]) == (0.0, 2)
    assert answers["spread_per_prompt"]["before"] == answers["spread_per_prompt"]["after"]
    show(experiment)
    assert AFFINE_NOTE in capsys.readouterr().out


def test_without_a_finished_ladder_the_command_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x/rm: the ladder is not finished; run `rewardladder rm x.yaml` first"):
        run(_experiment(tmp_path))


def _spoil(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(inside: Path) -> None:
        path = inside / "rung-65" / name
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows[0] = {key: value for key, value in (rows[0] | changes).items() if value != "absent"}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_spoil("pair_logits.jsonl", logit_chosen="absent"), "pair_logits.jsonl, row 1: not a row of pair logits"),
        (_spoil("pair_logits.jsonl", logit_chosen=math.nan), "pair_logits.jsonl, row 1: logits must be finite"),
        (_spoil("reference_logits.jsonl", gold="absent"), "reference_logits.jsonl, row 1: not a row of reference"),
        (_spoil("reference_logits.jsonl", logit=None), "row 1: a well-formed answer needs a finite logit, found None"),
        (lambda inside: write_jsonl(inside / "rung-65" / "pair_logits.jsonl", []) and None, "no measurement pairs"),
        (lambda inside: write_json(inside / "ladder.json", {}), "ladder.json: not a ladder"),
        (lambda inside: (inside / "rung-65" / "units.json").unlink(), "units.json: there is no such file"),
    ],
)
def test_bad_records_are_refused_by_name(tmp_path: Path, change: Callable[[Path], None], sentence: str) -> None:
    experiment = _experiment(tmp_path)
    _ladder(experiment.folder, change)
    with pytest.raises(UserError, match=sentence):
        run(experiment)
    assert not (experiment.folder / "calibration" / MANIFEST).exists()


def test_the_command(tmp_path: Path) -> None:
    source = tmp_path / "x.yaml"
    source.write_text(f"runs_dir: {tmp_path / 'runs'}\ncalibration: {{phrases: advice}}\n", encoding="utf-8")
    command = [sys.executable, "-m", "calibration", str(source)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    failed = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert "tasks.task is missing" in failed.stderr  # the ladder is missing, and there is no task to make it from
    _ladder(load_experiment(source).folder)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "calibration: rule rpr, phrases advice" in done.stdout
    # rung 65: NLL before 0.593, after 0.562; lifted 1 of 1 good and 1 of 2 bad
    assert re.search(r"65 +│ NLL of pairs +│ +\d+ │ 0\.593\b[^│]*│ 0\.562\b", done.stdout)
    assert re.search(r"order as gold +│ +\d+ │ 0\.700\b[^│]*│ 0\.800\b", done.stdout)


def test_intervals_resample_whole_prompts() -> None:
    # ten prompts of one value each, every value copied 50 times: 500 cases, but only ten independent ones
    values = np.repeat(np.arange(10, dtype=np.float64), 50)
    clusters = [str(int(value)) for value in values]
    found = clustered_mean(values, clusters, keyed_rng(0, "test"))
    assert found["estimate"] == 4.5
    assert found["lo"] is not None and found["hi"] is not None
    # the standard error of a mean of ten such prompts is sqrt(8.25 / 10) = 0.908
    assert (found["hi"] - found["lo"]) / (2 * 1.96) == pytest.approx(0.908, rel=0.1)


def test_shares_carry_wilsons_interval_and_nothing_of_nothing() -> None:
    # Wilson 1927 for 8 of 10: (0.8 + z2/20 -+ z sqrt(0.016 + z2/400)) / (1 + z2/10), z2 = 3.8415
    found = share(8, 10)
    assert (found["lo"], found["hi"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert share(0, 0) == {"estimate": None, "lo": None, "hi": None, "n": 0}
    assert clustered_mean(np.array([]), [], keyed_rng(0, "test"))["estimate"] is None


def test_order_agreement_never_crosses_prompts() -> None:
    agreement, owners = order_agreement(np.array([1.0, 2.0, 0.0, 5.0]), np.array([0.0, 1.0, 2.0, 2.0]), list("aabb"))
    assert (agreement.tolist(), owners) == ([1.0], ["a"])
