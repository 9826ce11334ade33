"""`rewardladder samples`: what a reward did while a policy climbed it, from kept completions, whole and broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calibration.calibrator import Calibrator
from calibration.config import CalibrationTable
from calibration.sample_rows import ALWAYS, SCHEMA, read_cell
from calibration.samples import SamplesTable, run, samples_report
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.records import read_json, write_json
from policy.audit import SCHEMA as AUDIT_SCHEMA
from rm.units import ScoreUnits

Row = dict[str, Any]
GIVEN = SamplesTable(threshold=0.5, gold_good=0.5)


def rows(steps: int = 6, hacked: bool = True) -> list[Row]:
    """Each step 4 prompts of 4 answers: from step 2 of 6 on, scores rise whatever gold is, and gold falls if hacked."""
    found = []
    for step in range(steps):
        for prompt in range(4):
            for sample in range(4):
                rng = keyed_rng(step, "sample", prompt, sample)
                late = step >= steps // 3
                gold = 0.25 * sample * (0.3 if late and hacked else 1.0)
                score = 0.2 + gold / 2 if not late else 0.7 + 0.2 * rng.random()
                bonus = 0.1 if score < 0.5 and sample == 3 else 0.0
                found.append(
                    {
                        "step": step,
                        "prompt_id": f"p{step % 2}{prompt}",
                        "sample": sample,
                        "status": "ok",
                        "n_tokens": 10 + step,
                        "gold": gold,
                        "score": score,
                        "rpr": 1.0 if sample == 3 else 0.0,
                        "bonus": bonus,
                        "reward": score + bonus,
                        "completion": "x",
                    }
                )
    return found


def write(folder: Path, given: list[Row], **columns: pa.DataType) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(field.name, columns.get(field.name, field.type)) for field in AUDIT_SCHEMA])
    pq.write_table(pa.Table.from_pylist(given, schema=schema), folder / "completions.parquet")
    return folder


def report(folder: Path, table: SamplesTable = GIVEN) -> dict[str, Any]:
    found = samples_report(read_cell(folder, table.threshold, table.gold_good), table.seed)
    json.dumps(found, allow_nan=False)
    return found


def test_the_columns_that_are_read_are_those_that_training_keeps() -> None:
    assert set(SCHEMA.names) <= set(AUDIT_SCHEMA.names)
    assert set(ALWAYS) <= set(SCHEMA.names)


def test_a_reward_that_is_exploited_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = write(tmp_path / "raw-rung65", rows())
    run([str(cell)], GIVEN.model_copy(update={"output": str(tmp_path / "out.json")}))
    out = capsys.readouterr().out
    assert "the reward rises and gold falls: the policy exploits this reward." in out
    assert "The reward model orders the last third's answers worse than the first's." in out
    assert "first 0–1" in out and "last 4–5" in out
    (found,) = read_json(tmp_path / "out.json")["cells"]
    assert found["reading"] in out
    first, last = found["windows"]["first"], found["windows"]["last"]
    # first: scores order as gold does; four prompts a step, two steps
    assert first["against_gold"]["order_agreement"]["before"]["estimate"] == 1.0
    assert first["against_gold"]["order_agreement"]["before"]["n"] == 8 * 6
    assert last["against_gold"]["order_agreement"]["before"]["estimate"] < 0.75
    assert first["gold_mean"]["estimate"] == pytest.approx(0.375)
    assert last["gold_mean"]["estimate"] == pytest.approx(0.375 * 0.3)
    assert found["change"]["gold"]["estimate"] == pytest.approx(-0.375 * 0.7)
    assert found["change"]["length"]["estimate"] == pytest.approx(4.0)
    # good: gold 0.5 and 0.75, scores 0.45 and 0.575; so half of them are negatives, and none of these has a bonus
    assert first["against_gold"]["tpr"]["estimate"] == 0.5
    assert first["against_gold"]["false_negatives"]["lifted"]["estimate"] == 0.0
    assert first["against_gold"]["precision"]["estimate"] == 1.0
    assert last["by_length"][0]["unit"] == "tokens"
    # standard deviation of 0, 0.25, 0.5, 0.75
    assert first["gold_spread"]["estimate"] == pytest.approx(0.25 * np.sqrt(1.25))
    assert found["windows"]["all"]["n_answers"] == 96


def test_a_reward_that_helps_is_not_accused(tmp_path: Path) -> None:
    given = [row | {"score": row["gold"], "reward": row["gold"] + 0.05 * row["step"]} for row in rows(hacked=False)]
    found = report(write(tmp_path / "c", [row | {"gold": row["gold"] + 0.01 * row["step"]} for row in given]))
    assert found["reading"] == "From the first to the last third of the steps the reward rises and gold rises."


def test_answers_of_one_prompt_at_two_steps_are_not_compared(tmp_path: Path) -> None:
    two = [row | {"prompt_id": "p"} for row in rows(steps=3) if row["sample"] == 0]
    found = report(write(tmp_path / "c", [{**row, "step": i} for i, row in enumerate(two)]))["windows"]["all"]
    assert found["order_changes"]["n_pairs"] == 0
    assert found["against_gold"]["order_agreement"]["before"] == {"estimate": None, "lo": None, "hi": None, "n": 0}
    assert found["spread_per_prompt"]["n_groups"] == 0


def test_a_cell_without_a_reward_model_is_told_by_its_reward(tmp_path: Path) -> None:
    nothing = {"score": None, "rpr": None, "bonus": None}
    cell = write(tmp_path / "gold-grpo", [row | nothing | {"reward": row["gold"]} for row in rows()])
    found = report(cell, SamplesTable())
    first = found["windows"]["first"]
    assert first["against_gold"]["order_agreement"]["before"] is None
    assert first["against_gold"]["order_agreement"]["after"]["estimate"] == 1.0
    assert first["spread_per_prompt"]["before"] is None
    assert (first["score_mean"], first["rpr_mean"], found["threshold"]) == (None, None, None)


def test_without_gold_the_reading_says_so(tmp_path: Path) -> None:
    cell = write(tmp_path / "c", [row | {"gold": None} for row in rows()])
    found = report(cell)
    assert found["windows"]["last"]["against_gold"] is None
    assert found["windows"]["last"]["gold_mean"] is None
    assert found["reading"].startswith("The reward rises; no gold is known")
    run([str(cell)], GIVEN)


def test_few_steps_have_no_thirds(tmp_path: Path) -> None:
    found = report(write(tmp_path / "c", rows(steps=2)))
    assert list(found["windows"]) == ["all"]
    assert found["reading"].startswith("Fewer than three steps")
    run([str(tmp_path / "c")], GIVEN)


def test_rows_that_cannot_be_compared_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = rows()
    given[0] |= {"reward": None, "score": None}
    given[1] |= {"score": None}
    given[2] |= {"score": None, "rpr": None, "bonus": None, "reward": 0.0, "status": "malformed"}
    cell = write(tmp_path / "c", given)
    found = report(cell)
    assert found["left_out"] == {"rows without a reward": 1, "rows without a score": 1}
    assert found["windows"]["all"]["n_answers"] == 94
    assert found["windows"]["all"]["malformed"]["estimate"] == pytest.approx(1 / 94)
    run([str(cell)], GIVEN)
    assert "left out: 1 rows without a reward, 1 rows without a score" in capsys.readouterr().out


def test_the_threshold_is_that_of_the_runs_calibrator(tmp_path: Path) -> None:
    cell = write(tmp_path / "policy" / "rpr-rung65-grpo-s0", rows())
    settings = {"reward": "rpr", "rung": "65"}
    write_json(cell / "manifest.json", {"made_from": {"settings": settings}})
    table = CalibrationTable(phrases="advice", threshold=0.625, gold_good=0.25)
    Calibrator.build("65", ScoreUnits(0.0, 1.0, "by hand", 5), table).save(tmp_path / "calibration" / "here")
    write_json(tmp_path / "calibration" / "summary.json", {"rungs": [{"rung": "65", "folder": "here"}]})
    found = report(cell, SamplesTable())
    assert (found["threshold"], found["gold_good"], found["rung"], found["reward"]) == (0.625, 0.25, "65", "rpr")
    given = report(cell, SamplesTable(threshold=0.5))
    assert (given["threshold"], given["gold_good"]) == (0.5, 0.25)
    write_json(tmp_path / "calibration" / "summary.json", {"rungs": [{"rung": "80", "folder": "here"}]})
    with pytest.raises(UserError, match=r"summary\.json: no rung '65'; give threshold"):
        report(cell, SamplesTable())
    write_json(tmp_path / "calibration" / "summary.json", {"rungs": [{"rung": "65", "folder": "gone"}]})
    with pytest.raises(UserError, match=r"calibration\.json: there is no such file; give threshold"):
        report(cell, SamplesTable())
    write_json(cell / "manifest.json", {"made_from": []})
    with pytest.raises(UserError, match=r"manifest\.json: not the manifest of a policy cell"):
        report(cell, SamplesTable())


def _cut(cell: Path) -> None:
    path = cell / "completions.parquet"
    path.write_bytes(path.read_bytes()[:-200])


def _text(cell: Path) -> None:
    (cell / "completions.parquet").write_text("not parquet\n", encoding="utf-8")


def _without_scores(cell: Path) -> None:
    table = pq.read_table(cell / "completions.parquet").drop_columns(["score", "gold"])
    pq.write_table(table, cell / "completions.parquet")


def _changed(name: str, value: Any) -> Callable[[Path], None]:
    def change(cell: Path) -> None:
        given = rows()
        given[4] |= {name: value}
        write(cell, given)

    return change


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda cell: (cell / "completions.parquet").unlink(), "there is no such file; a cell that was trained"),
        (_cut, "not readable as completions"),
        (_text, "not readable as completions"),
        (lambda cell: write(cell, []), "there is no row in it"),
        (_without_scores, "no column gold, score; the completions of a cell have step, prompt_id"),
        (_changed("score", float("nan")), "row 5: score is nan; a finite number or null is needed"),
        (_changed("reward", float("inf")), "row 5: reward is inf"),
        (_changed("step", None), "row 5: step is missing"),
        (_changed("prompt_id", None), "row 5: prompt_id is missing"),
        (lambda cell: write(cell, [row | {"reward": None} for row in rows()]), "none of 96 rows has a reward"),
        (
            lambda cell: write(cell, [row | {"gold": "good"} for row in rows()], gold=pa.string()),
            "not readable as completions",
        ),
    ],
)
def test_broken_completions_are_one_line(tmp_path: Path, spoil: Callable[[Path], Any], sentence: str) -> None:
    cell = write(tmp_path / "c", rows())
    spoil(cell)
    with pytest.raises(UserError, match=sentence) as error:
        run([str(cell)], GIVEN)
    assert "\n" not in str(error.value)
    assert "completions.parquet" in str(error.value)


def test_what_is_missing_is_said_before_the_work(tmp_path: Path) -> None:
    cell = write(tmp_path / "c", rows())
    with pytest.raises(UserError, match="name one or more cell folders"):
        run([], GIVEN)
    with pytest.raises(UserError, match="nothing says what its threshold is"):
        run([str(cell)], SamplesTable())
    with pytest.raises(UserError, match="there is no such file"):
        run([str(tmp_path / "nowhere")], GIVEN)
    with pytest.raises(UserError, match="output: there is no folder"):
        run([str(cell)], SamplesTable(output=str(tmp_path / "no" / "out.json")))
    # the file itself may be named
    run([str(cell / "completions.parquet")], GIVEN)
