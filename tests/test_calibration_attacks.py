"""What hostile input meets in calibration: one line instead of a traceback, no hang, no order of rows in a result."""

from __future__ import annotations

import json
import random
import time
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import calibration.stage
from calibration.calibrator import CALIBRATOR_FILE, Calibrator
from calibration.compensation import RuleInputs, corrected, noise_corrected, variance_matched
from calibration.config import CalibrationTable
from calibration.fit import FitTable
from calibration.fit import run as fit
from calibration.folding import folded
from calibration.labelled_logits import answer_pairs, folds_of, single_answers
from calibration.maps import ByDomain, Platt, save_map
from calibration.measured import Measured
from calibration.mined_texts import read_corpus
from calibration.mining import MineTable, mine
from calibration.mining import run as run_mine
from calibration.phrase_set import load_phrase_set, read_phrase_set
from calibration.report import AnswerRow, PairRow, answer_report, pair_ece, pair_report
from calibration.rpr import repetition, rpr
from calibration.rung_calibrators import make_calibrators
from calibration.samples import SamplesTable
from calibration.samples import run as samples
from calibration.units import RungRows
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.records import sha256_of_record, write_json
from policy.policy_samples import rung_rewards
from rm.measures import expected_calibration_error
from rm.units import ScoreUnits
from tasks.records import Response

UNITS = ScoreUnits(0.0, 1.0, "by hand", 2)
WORDS = {"name": "x", "version": 1, "source": "", "note": "", "normaliser": 4, "matching": "words"}


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def labelled(n: int = 120) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {"logit": rng.gauss(i % 2, 1), "label": i % 2, "prompt": f"p{i // 3}", "domain": "ab"[i // 3 % 2]}
        for i in range(n)
    ]


def fitted(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """The report of a fit without the digest of its file."""
    source = written(folder / "rows.jsonl", rows)
    fit([source], FitTable.model_validate({"output": str(folder / "out"), "resamples": 50, **settings}))
    report: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    return {key: value for key, value in report.items() if key != "files"}


@pytest.mark.parametrize("settings", [{"prompt": "prompt", "domain": "domain", "min_domain": 20}, {}])
def test_a_fit_does_not_know_the_order_of_rows_nor_where_they_lie(tmp_path: Path, settings: dict[str, Any]) -> None:
    rows = labelled()
    for name in ("a", "elsewhere"):
        (tmp_path / name).mkdir()
    first = fitted(tmp_path / "a", rows, kind="beta", **settings)
    random.Random(1).shuffle(rows)
    assert fitted(tmp_path / "elsewhere", rows, kind="beta", **settings) == first


def test_pairs_in_order_keep_their_mirrors() -> None:
    data = answer_pairs(np.array([3.0, 1.0, 2.0]), np.array([0.0, 5.0, 1.0]), ["b", "c", "a"]).in_order()
    assert data.prompts == ("a", "b", "c") * 2
    assert data.logits.tolist() == [1.0, 3.0, -4.0, -1.0, -3.0, 4.0]
    assert data.own.tolist() == [2.0, 3.0, 1.0, 1.0, 0.0, 5.0]
    assert data.labels.tolist() == [1.0] * 3 + [0.0] * 3


@pytest.mark.parametrize(
    ("rows", "settings", "sentence"),
    [
        # but for one prompt all logits are equal to nine digits
        (
            [{"logit": i * 1e-300, "label": i % 2, "prompt": i} for i in range(40)]
            + [{"logit": 5, "label": 1, "prompt": -1}],
            {},
            "have one label or one logit",
        ),
        ([row | {"w": 5e-324} for row in labelled()], {"weight": "w"}, "weights are 1e-09 to 1e"),
        (labelled(), {"domain": "nope"}, "no row has a domain in nope"),
        (labelled(), {"output": "~nobody-of-that-name/x"}, "output: .* cannot be written"),
    ],
)
def test_a_fit_that_cannot_be_is_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        fitted(tmp_path, rows, **{"prompt": "prompt", "kind": "platt", **settings})
    assert "\n" not in str(error.value)


def test_a_centre_that_no_logit_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="centre"):
        FitTable.model_validate({"output": str(tmp_path), "centre": 1e200})


@pytest.mark.parametrize("absurd", [{"full_length": 10**400}, {"spread": 1e308}, {"spread": 1e-300}])
def test_a_number_beyond_all_sense_is_refused(absurd: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(absurd))):
        CalibrationTable.model_validate(absurd)


def test_a_file_named_twice_is_not_counted_twice(tmp_path: Path) -> None:
    source = written(tmp_path / "rows.jsonl", labelled())
    with pytest.raises(UserError, match="is the same file as"):
        fit(
            [source, f"{tmp_path}/../{tmp_path.name}/rows.jsonl"],
            FitTable.model_validate({"output": str(tmp_path / "out")}),
        )


def test_a_domain_for_every_row_is_measured_in_time_and_counted(tmp_path: Path) -> None:
    rows = [row | {"domain": f"d{i}"} for i, row in enumerate(labelled(300))]
    began = time.monotonic()
    report = fitted(tmp_path, rows, kind="identity", prompt="prompt", domain="domain")
    assert time.monotonic() - began < 20
    found = report["maps"]["identity"]
    assert (len(found["figures_by_domain"]), found["domains_without_figures"]) == (50, 250)


def test_a_map_of_pairs_that_is_none_is_not_another_map(tmp_path: Path) -> None:
    rng = random.Random(0)
    pairs = [{"c": rng.gauss(0.5, 1), "r": rng.gauss(0, 1), "prompt": i // 2} for i in range(80)]
    words = {"logit_chosen": "c", "logit_rejected": "r", "prompt": "prompt"}
    fitted(tmp_path, pairs, kind="temperature", **words)
    assert (tmp_path / "out" / "map.json").exists()
    fitted(tmp_path, pairs, kind="isotonic", **words)
    assert not (tmp_path / "out" / "map.json").exists()


@pytest.mark.parametrize("name", ["a.yaml", "rows.jsonl/x.yaml", "~nobody-of-that-name/x.yaml"])
def test_mined_phrases_that_cannot_be_written_are_one_line(tmp_path: Path, name: str) -> None:
    first = written(tmp_path / "rows.jsonl", [{"response": "wait let me"}] * 30)
    second = written(tmp_path / "base.jsonl", [{"response": "it is so"}] * 30)
    (tmp_path / "a.yaml").mkdir()
    place = name if name.startswith("~") else str(tmp_path / name)
    with pytest.raises(UserError, match="cannot be written"):
        run_mine([first, second], MineTable(output=place, least_z=0))


def test_thousands_of_candidates_are_merged_in_time(tmp_path: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=5)) for _ in range(300)]
    sides = [[{"response": " ".join(rng.choices(words, k=60))} for _ in range(80)] for _ in range(2)]
    paths = [written(tmp_path / f"{i}.jsonl", side) for i, side in enumerate(sides)]
    corpus = read_corpus(paths, "response", None, None, None, None)
    began = time.monotonic()
    found = mine(corpus, MineTable(least_z=0, min_documents=1))
    assert found.candidates > 3000 and time.monotonic() - began < 10


def test_marks_in_the_wrong_order_do_not_hang() -> None:
    text = "wait a" + "\u0301\u0316" * 100_000 + "\uff9e\u0301" * 50_000 + "\u0f73" * 50_000
    began = time.monotonic()
    assert rpr(text, load_phrase_set("corrected-helpsteer")) == 1 / 20  # the one `wait`
    assert time.monotonic() - began < 5


def test_long_runs_of_marks_fold_as_the_standard_says() -> None:
    rng = random.Random(0)
    marks = ["\u0301", "\u0316", "\u0345", "\u0f73", "\uff9e", "\u3099", "\u0308", "\u20dd", "\u093c", "\u0344"]
    for _ in range(20):
        text = "".join(
            rng.choice(["e", "\u304b", "\u00e9", " ", "\ud800", "x"])
            + "".join(rng.choices(marks, k=rng.choice([1, 90])))
            for _ in range(150)
        )
        plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        assert len(text) > 4096 and folded(text) == " ".join(plain.split())


def test_long_repeated_runs_are_counted_exactly_and_in_time() -> None:
    rng = random.Random(0)
    for n in (2, 7, 100, 1000):
        words = [f"w{rng.randrange(3)}" for _ in range(40)] * 60 + rng.choices("abc", k=900)
        runs = Counter(tuple(words[i : i + n]) for i in range(len(words) + 1 - n))
        expected = sum(times > 1 for times in runs.values()) / runs.total()
        assert repetition(" ".join(words), n) == expected
    began = time.monotonic()
    assert repetition("a " * 300_000, 1000) == 1 / 299_001
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"phrases": ["let\u2019s"]}, "can never match"),
        ({"phrases": ["let  me"]}, "can never match"),
        ({"phrases": [["x"] * 9] * 9}, "phrases: a list of texts is needed"),
        ({"phrases": ["wait", "wait"]}, "stands twice"),
    ],
)
def test_phrases_that_mean_nothing_are_refused(tmp_path: Path, keys: dict[str, Any], sentence: str) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(WORDS | keys), encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        read_phrase_set(tmp_path / "x.yaml")


def test_aliases_that_multiply_do_not_hang(tmp_path: Path) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    (tmp_path / "x.yaml").write_text(bomb + yaml.safe_dump(WORDS) + "phrases: *i\n", encoding="utf-8")
    with pytest.raises(UserError, match="aliases"):
        read_phrase_set(tmp_path / "x.yaml")


def _calibrator(**changes: Any) -> Calibrator:
    return Calibrator.build("65", UNITS, CalibrationTable.model_validate({"phrases": "advice", **changes}))


@pytest.mark.parametrize("value", [float("nan"), "much", 0, True])
def test_a_measured_number_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    _calibrator().save(tmp_path)
    record = json.loads((tmp_path / CALIBRATOR_FILE).read_text(encoding="utf-8"))
    record["measured"]["spread"] = value
    if value == value:  # a NaN has no digest
        record["sha256"] = sha256_of_record({key: part for key, part in record.items() if key != "sha256"})
    (tmp_path / CALIBRATOR_FILE).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match="spread must be"):
        Calibrator.load(tmp_path)


def test_a_policys_samples_refuse_the_calibrator_of_another_rung(tmp_path: Path) -> None:
    _calibrator().save(tmp_path)
    ScoreUnits(1.0, 1.0, "other", 2).save(tmp_path / "rung-80")
    with pytest.raises(UserError, match="other score units than the calibrator of rung 65"):
        rung_rewards([], tmp_path / "rung-80", tmp_path, tmp_path)


def test_a_calibrator_that_is_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / CALIBRATOR_FILE).mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        Calibrator.load(tmp_path)


def _completions(folder: Path, name: str = "x.parquet", shuffled: bool = False, **columns: Any) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(0)
    n = 120
    table: dict[str, Any] = {
        "step": [2**60 + i // 12 for i in range(n)],
        "prompt_id": [f"p{i // 4 % 3}" for i in range(n)],
        "status": ["ok"] * n,
        "n_tokens": [10 + i % 7 for i in range(n)],
        **{name: [rng.random() for _ in range(n)] for name in ("gold", "score", "rpr", "bonus", "reward")},
    } | {name: [value] * n for name, value in columns.items()}
    order = rng.sample(range(n), n) if shuffled else range(n)
    pq.write_table(pa.table({key: [values[i] for i in order] for key, values in table.items()}), folder / name)
    return str(folder / name)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"reward": 1e308}, "row 1: reward is 1e.308; a finite number or null"),
        ({"status": "weird"}, "row 1: status is 'weird'"),
        ({"n_tokens": -1}, "row 1: n_tokens is below 0"),
    ],
)
def test_strange_completions_are_one_line(tmp_path: Path, columns: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        samples([_completions(tmp_path, **columns)], SamplesTable(threshold=0.5, gold_good=0.5))


def test_samples_know_neither_the_order_of_rows_nor_steps_beyond_a_double(tmp_path: Path) -> None:
    found = []
    for name, shuffled in (("x.parquet", False), ("y.parquet", True)):
        path = _completions(tmp_path, name, shuffled)
        output = tmp_path / f"{name}.json"
        samples([path], SamplesTable(threshold=0.5, gold_good=0.5, output=str(output)))
        found.append(json.loads(output.read_text(encoding="utf-8"))["cells"][0] | {"cell": "", "reading": ""})
    assert set(found[0]["windows"]) == {"first", "middle", "last", "all"}
    assert _flat(found[0]) == pytest.approx(_flat(found[1]), abs=1e-9)


def _flat(tree: Any, place: str = "") -> dict[str, float]:
    if isinstance(tree, dict):
        return {key: value for name, part in tree.items() for key, value in _flat(part, f"{place}.{name}").items()}
    if isinstance(tree, list):
        return {key: value for i, part in enumerate(tree) for key, value in _flat(part, f"{place}.{i}").items()}
    return {place: tree} if isinstance(tree, (int, float)) else {}


def _rung(prompts: int = 30) -> RungRows:
    rng = random.Random(0)
    answers = [
        AnswerRow(f"p{i // 4}", Response("wait" * (i % 2), "x", True), rng.gauss(i % 2, 1), float(i % 2) * rng.random())
        for i in range(4 * prompts)
    ]
    pairs = [
        PairRow(f"q{i // 2}", split, rng.gauss(0.5, 1), rng.gauss(0, 1))
        for split in ("selection", "measurement")
        for i in range(60)
    ]
    return RungRows("65", UNITS, pairs, answers)


def test_reports_do_not_know_the_order_of_rows() -> None:
    rows, calibrator = _rung(), _calibrator()
    other = RungRows("65", UNITS, rows.pairs[::-1], rows.answers[::-1])
    first, second = (
        {"pairs": pair_report(calibrator, found.pairs, 0), "answers": answer_report(calibrator, found.answers, 0)}
        for found in (rows, other)
    )
    assert _flat(first) == pytest.approx(_flat(second), abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"units": "platt"}, "one prompt"),
        ({"threshold": "auto"}, "auto needs labelled answers to 5 prompts or more, found 1"),
    ],
)
def test_too_few_prompts_are_one_line(settings: dict[str, Any], sentence: str) -> None:
    table = CalibrationTable.model_validate({"phrases": "advice", "gold_good": 1e-9, **settings})
    with pytest.raises(UserError, match=sentence):
        make_calibrators([_rung(prompts=1)], table, {}, {"65": "x"}, {"65": 0.7}, 0)


def test_the_interval_of_a_pair_ece_covers_the_truth() -> None:
    """At 95% at least 27 of 30 cover, but for one draw in 150; plain percentiles of a resampled ECE cover none."""
    rng = keyed_rng(0, "coverage of the ece")

    def drawn(prompts: int) -> tuple[Any, list[str]]:
        d = np.repeat(rng.normal(0, 0.5, prompts), 2) + rng.normal(0.3, 1, 2 * prompts)
        return d * np.where(rng.random(len(d)) < 1 / (1 + np.exp(-d)), 1, -1), [str(i // 2) for i in range(len(d))]

    truth = expected_calibration_error(drawn(100_000)[0])
    found = [pair_ece(*drawn(100), keyed_rng(i, "ece")) for i in range(30)]
    covered = [row["lo"] <= truth <= row["hi"] for row in found if row["lo"] is not None and row["hi"] is not None]
    assert len(covered) == 30 and sum(covered) >= 27
    assert pair_ece(np.array([1.0, 2.0]), ["p", "p"], keyed_rng(0, "ece"))["lo"] is None


def test_noise_corrected_is_unbiased_and_variance_matched_reaches_the_spread() -> None:
    rng = keyed_rng(0, "noise")
    good = rng.random(100_000) < 0.3
    seen = np.where(good, rng.random(len(good)) >= 0.35, rng.random(len(good)) < 0.2)
    given = [RuleInputs(score, threshold=0.5, rho0=0.2, rho1=0.35) for score in (0.0, 1.0)]
    rewards = np.where(seen, noise_corrected(given[1]), noise_corrected(given[0]))
    assert [rewards[good].mean(), rewards[~good].mean()] == pytest.approx([1.0, 0.0], abs=0.02)
    assert corrected(0.0, 0.2, 0.35) * 0.35 + corrected(1.0, 0.2, 0.35) * 0.65 == pytest.approx(1.0)
    scores = rng.random(1000)
    centre, spread = float(scores.mean()), float(scores.std())
    matched = [variance_matched(RuleInputs(s, centre=centre, stretch=0.3 / spread)) for s in scores.tolist()]
    assert [np.mean(matched), np.std(matched)] == pytest.approx([centre, 0.3])


def test_no_prompt_is_in_two_folds() -> None:
    prompts = [f"p{i % 37}" for i in range(500)]
    fold = folds_of(prompts, 5, 0)
    assert all(len({int(fold[i]) for i in range(500) if prompts[i] == name}) == 1 for name in set(prompts))
    assert single_answers(np.arange(4.0), np.array([0, 1, 0, 1.0]), list("abab")).in_order().prompts == tuple("aabb")


def test_the_summary_says_on_which_answers_numbers_were_chosen(tmp_path: Path) -> None:
    table = CalibrationTable.model_validate({"units": "platt", "threshold": "auto"})
    assert calibration.stage._same_answers(table, []) == [calibration.stage.CHOSEN_NOTE, calibration.stage.FITTED_NOTE]
    assert calibration.stage._same_answers(CalibrationTable(), []) == []
    own = Platt(slope=1.0, intercept=0.0)
    by_domain = ByDomain.model_validate({"own": {"a": own}, "pooled": own})
    save_map(tmp_path / "map.json", by_domain)
    write_json(tmp_path / "x.json", {})
    made = make_calibrators([_rung()], CalibrationTable(map="x"), {"65": by_domain}, {"65": "x"}, {"65": 0.7}, 0)
    found = calibration.stage._same_answers(CalibrationTable(map="x"), made)
    assert found == [calibration.stage.DOMAINS_NOTE]
    assert made[0].calibrator.measured != Measured()
