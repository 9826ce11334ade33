"""`score`: any rows in, one line an answer out, in order, by several rungs at once, and the same after a kill."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from configs.errors import UserError
from configs.records import read_json, read_jsonl
from rm.scorer import RungScorer
from rm.serving import conversations, scoring
from rm.serving.conversations import read_answers, read_rows
from rm.serving.loaded_rungs import load_rungs, rung_names
from rm.serving.score_summary import summarise
from rm.serving.scoring import ScoreTable, run, windows
from tasks.preference.fields import RowProblem
from tests.tiny_rungs import CONTEXT, ROOT, make_base, make_rung, sentence

USER = {"role": "user", "content": "one fox"}
SAID = {"role": "assistant", "content": "two geese"}


@pytest.fixture(scope="module")
def rungs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("rungs")
    base = make_base(folder)
    made = [make_rung(folder / f"rung-{name}", base, seed) for seed, name in enumerate(("a", "b"))]
    return [*made, make_rung(folder / "rung-full", base, 3, lora_r=0, centre=0.1)]


def write(path: Path, rows: list[Any]) -> Path:
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def some_rows(n: int) -> list[dict[str, Any]]:
    return [{"id": f"r{i}", "prompt": sentence(2 * i), "response": sentence(2 * i + 1)} for i in range(n)]


def score(rungs: list[Path], source: Path, output: Path, **settings: Any) -> list[dict[str, Any]]:
    run([*map(str, rungs), str(source)], ScoreTable(output=str(output), **settings))
    return list(read_jsonl(output))


def test_several_rungs_score_in_one_pass_as_each_does_alone(rungs: list[Path], tmp_path: Path) -> None:
    rows = some_rows(60)
    lines = score(rungs, write(tmp_path / "c.jsonl", rows), tmp_path / "s.jsonl", window_rows=25)
    assert [(line["line"], line["id"]) for line in lines] == [(i + 1, f"r{i}") for i in range(60)]
    chats = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    for rung in rungs:
        alone = RungScorer(rung, 16384).logits(chats, [row["response"] for row in rows])
        cells = [line["scores"][rung.name] for line in lines]
        assert np.abs(np.array([cell["logit"] for cell in cells]) - alone).max() < 1e-5
        centre = 0.1 if rung.name == "rung-full" else 0.0
        expected = 1 / (1 + np.exp(-0.5 * (alone - centre)))
        assert np.abs(np.array([cell["score"] for cell in cells]) - expected).max() < 1e-6
        assert {cell["status"] for cell in cells} == {"ok"}


def test_adapters_share_one_base(rungs: list[Path]) -> None:
    first, second, full = load_rungs(rungs, 1000)
    assert first.scorer.model is second.scorer.model
    assert full.scorer.model is not first.scorer.model
    assert (first.context, first.adapter, full.adapter) == (CONTEXT, "default", None)


def test_rungs_of_one_name_are_told_apart_by_their_folders() -> None:
    folders = [Path("runs/x/rm/rung-60"), Path("runs/y/rm/rung-60"), Path("runs/y/rm/rung-70")]
    assert rung_names(folders) == ["x/rm/rung-60", "y/rm/rung-60", "rung-70"]


def test_every_form_of_a_row_is_read(tmp_path: Path) -> None:
    answer = read_answers({"messages": [USER, SAID, USER, SAID]})
    assert [(a.chat, a.text, a.preferred) for a in answer] == [([USER, SAID, USER], "two geese", None)]
    (single,) = read_answers({"prompt": "one fox", "response": ""})
    assert (single.chat, single.text) == ([USER], "")
    chosen, rejected = read_answers({"prompt": [USER], "chosen": "good", "rejected": "bad"})
    assert [(a.text, a.preferred) for a in (chosen, rejected)] == [("good", True), ("bad", False)]
    graded = {"context": [USER], "response1": "first", "response2": "second"}
    assert [a.preferred for a in read_answers({**graded, "overall_preference": 2})] == [False, True]
    assert [a.preferred for a in read_answers({**graded, "overall_preference": 0})] == [None, None]
    frame = tmp_path / "c.parquet"
    pd.DataFrame([{"id": 7, "prompt": "one fox", "response": "x"}]).to_parquet(frame)
    assert [(row.line, row.name, row.answers[0].chat) for row in read_rows(frame)] == [(1, 7, [USER])]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a"}, "missing_column: there is no response"),
        ({"response": "a"}, "missing_column: there is no prompt"),
        ({"prompt": "a", "response": 5}, "wrong_type: response must be a text, found int"),
        ({"prompt": " ", "response": "a"}, "empty_prompt"),
        ({"prompt": "a", "response": "\ud800"}, "not_unicode: response holds a lone surrogate at character 0"),
        ({"messages": [USER]}, "no_answer: messages ends with a turn of 'user'"),
        ({"messages": [SAID]}, "empty_prompt"),
        ({"messages": []}, "wrong_type: messages must be a list of messages"),
        ({"messages": [{"role": "robot", "content": "x"}, SAID]}, "wrong_type"),
        ({"messages": [{"role": "user", "content": None}, SAID]}, "wrong_type"),
        ({"prompt": "a", "chosen": "x", "rejected": None}, "wrong_type"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowProblem, match=reason):
        read_answers(row)


def test_what_is_not_scored_is_counted_and_null(
    rungs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"prompt": "one fox", "chosen": sentence(5), "rejected": sentence(6)}
    rows = [
        "{broken",
        pair,
        "",
        {"prompt": "a", "response": "fox " * 3 * CONTEXT},
        {"prompt": "a", "response": "\ud800"},
    ]
    source = write(tmp_path / "c.jsonl.gz", rows)
    lines = score(rungs[:2], source, tmp_path / "s.jsonl")
    cells = [line["scores"]["rung-a"] for line in lines]
    assert [line["line"] for line in lines] == [1, 2, 2, 4, 5]
    assert [line["answer"] for line in lines] == [1, 1, 2, 1, 1]
    assert [line["preferred"] for line in lines] == [None, True, False, None, None]
    assert [cell["status"] for cell in cells] == ["malformed", "ok", "ok", "too_long", "malformed"]
    assert [cell["logit"] is None for cell in cells] == [True, False, False, True, True]
    assert cells[3]["tokens"] is None or cells[3]["tokens"] > CONTEXT
    summary = read_json(tmp_path / "s.jsonl.manifest.json")["summary"]["rungs"]["rung-a"]
    assert summary["statuses"] == {"ok": 2, "malformed": 2, "too_long": 1, "not_finite": 0}
    assert summary["pairs"]["accuracy"]["n"] == 1
    assert summary["pairs"]["accuracy"]["estimate"] == float(cells[1]["logit"] > cells[2]["logit"])
    shown = capsys.readouterr().out
    assert f"not scored: {source}, line 1: unreadable_json" in shown


def test_the_summary_counts_by_hand(tmp_path: Path) -> None:
    def line(number: int, answer: int, preferred: bool | None, logit: float | None) -> dict[str, Any]:
        status = "malformed" if logit is None else "ok"
        cell = {"logit": logit, "score": logit, "status": status, "tokens": 3}
        return {"line": number, "answer": answer, "preferred": preferred, "scores": {"r": cell}}

    rows = [line(1, 1, True, 2.0), line(1, 2, False, 1.0), line(2, 1, False, 4.0), line(2, 2, True, 3.0)]
    rows += [line(3, 1, True, 5.0), line(3, 2, False, 5.0), line(4, 1, None, 1.0), line(4, 2, None, 9.0)]
    rows += [line(5, 1, True, None), line(5, 2, False, 2.0), line(6, 1, None, 0.0)]
    found = summarise(write(tmp_path / "s.jsonl", rows))["rungs"]["r"]
    assert (found["n"], found["statuses"]["ok"], found["tokens"]) == (11, 10, 30)
    # right, wrong and half a pair of three; Wilson's interval of 1.5 in 3 is symmetric
    assert found["pairs"]["accuracy"]["estimate"] == 0.5
    assert (found["pairs"]["accuracy"]["n"], found["pairs"]["equal"]) == (3, 1)
    assert (found["pairs"]["no_preference"], found["pairs"]["not_scored"]) == (1, 1)
    # sorted: 0 1 1 2 2 3 4 5 5 9
    assert found["logit_quantiles"] == {"0.0": 0, "0.05": 0, "0.25": 1, "0.5": 2, "0.75": 5, "0.95": 9, "1.0": 9}


def test_a_kill_and_the_same_command_give_the_same_bytes(rungs: list[Path], tmp_path: Path) -> None:
    source = write(tmp_path / "c.jsonl", some_rows(400))
    score(rungs[:2], source, tmp_path / "whole.jsonl", window_rows=10)
    output = tmp_path / "killed.jsonl"
    program = (
        "import sys; from rm.serving.scoring import ScoreTable, run; "
        "run(sys.argv[2:], ScoreTable(output=sys.argv[1], window_rows=10))"
    )
    command = [sys.executable, "-c", program, str(output), *map(str, rungs[:2]), str(source)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = scoring.Places(output).progress
    deadline = time.monotonic() + 120
    while not progress.exists() or read_json(progress)["done"]["line"] < 20:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    assert read_json(progress)["done"]["line"] < 400
    with scoring.Places(output).part.open("ab") as stream:
        stream.write(b'{"half a li')
    score(rungs[:2], source, output, window_rows=10)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("c.jsonl", "killed.jsonl", "killed.jsonl.manifest.json"),
        *("whole.jsonl", "whole.jsonl.manifest.json"),
    ]


def test_a_kill_between_the_last_files_is_mended_too(
    rungs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "c.jsonl", some_rows(5))
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "summarise", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(rungs[:1], source, tmp_path / "s.jsonl")
    before = (tmp_path / "s.jsonl").read_bytes()
    assert len(score(rungs[:1], source, tmp_path / "s.jsonl")) == 5
    assert (tmp_path / "s.jsonl").read_bytes() == before


def test_other_inputs_and_settings_are_refused_by_name(rungs: list[Path], tmp_path: Path) -> None:
    source, output = write(tmp_path / "c.jsonl", some_rows(5)), tmp_path / "s.jsonl"
    base = make_base(tmp_path)
    rung = make_rung(tmp_path / "rung-x", base, 5)
    score([rung], source, output)
    before = output.read_bytes()
    with pytest.raises(UserError, match=r"begun with window_rows=4096, now it is 7; name another output"):
        score([rung], source, output, window_rows=7)
    with pytest.raises(UserError, match="rung rung-a is there or not"):
        score([rung, rungs[0]], source, output)
    write(source, some_rows(6))
    with pytest.raises(UserError, match="has changed since"):
        score([rung], source, output)
    write(source, some_rows(5))
    make_rung(rung, base, 6)
    with pytest.raises(UserError, match="rung rung-x has changed since"):
        score([rung], source, output)
    make_rung(rung, base, 5)
    score([rung], source, output)
    assert output.read_bytes() == before
    output.write_bytes(before[:-3])
    with pytest.raises(UserError, match="missing or altered"):
        score([rung], source, output)
    (tmp_path / "mine.jsonl").write_text("kept\n")
    with pytest.raises(UserError, match=r"mine.jsonl: is there, and was not made by this command"):
        score([rung], source, tmp_path / "mine.jsonl")


def test_broken_files_are_one_line_errors(rungs: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in some_rows(50)).encode())[:-40])
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(b"PAR1 nothing")
    cases = {
        str(write(tmp_path / "empty.jsonl", [])): "holds no row",
        str(write(tmp_path / "wrong.jsonl", [{"text": "a"}] * 3)): "can be scored; .*line 1: missing_column",
        str(cut): "not a whole gzip file",
        str(torn): "not a whole parquet file",
        str(tmp_path / "none.jsonl"): "there is no such file",
    }
    for number, (path, sentence_) in enumerate(cases.items()):
        with pytest.raises(UserError, match=sentence_) as caught:
            score(rungs[:1], Path(path), tmp_path / f"out-{number}.jsonl")
        assert "\n" not in str(caught.value)
    fine = write(tmp_path / "c.jsonl", some_rows(2))
    with pytest.raises(UserError, match=f"more than the context of rung-a, {CONTEXT} tokens"):
        score(rungs[:1], fine, tmp_path / "s.jsonl", max_length=CONTEXT + 1)
    with pytest.raises(UserError, match="needs rung folders and one file"):
        run([str(fine)], ScoreTable(output="s.jsonl"))
    with pytest.raises(UserError, match="is no folder; make it first"):
        score(rungs[:1], fine, tmp_path / "nowhere" / "s.jsonl")
    with pytest.raises(UserError, match="no such rung folder"):
        score([tmp_path / "rung-z"], fine, tmp_path / "s.jsonl")
    with pytest.raises(UserError, match="named twice"):
        rung_names([rungs[0], rungs[0] / "." / ".." / "rung-a"])


def test_memory_is_bounded_by_windows_and_by_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "WINDOW_CHARACTERS", 1000)
    rows = [{"prompt": "x" * 10, "response": "y" * 390} for _ in range(10)]
    taken = [len(window) for window in windows(read_rows(write(tmp_path / "c.jsonl", rows)), 100)]
    assert taken == [3, 3, 3, 1]
    monkeypatch.setattr(conversations, "MAX_LINE_BYTES", 200)
    long = {"prompt": "x", "response": "y" * 5000}
    found = list(
        read_rows(write(tmp_path / "d.jsonl", [rows[0] | {"response": "y"}, long, {"prompt": "a", "response": "b"}]))
    )
    assert [(row.line, row.problem and row.problem[:9]) for row in found] == [(1, None), (2, "too_large"), (3, None)]


def test_a_part_shorter_than_its_progress_says_is_refused_and_nothing_is_invented(
    rungs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write(tmp_path / "c.jsonl", some_rows(9)), tmp_path / "s.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "_finish", lambda *given, **more: 1 / 0, raising=False)
        patched.setattr(scoring, "summarise", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(rungs[:1], source, output, window_rows=3)
    part = tmp_path / "s.jsonl.part"
    if output.exists():  # it had been renamed before the summary was made
        output.rename(part)
    part.write_bytes(part.read_bytes()[:10])
    with pytest.raises(UserError, match="is shorter than"):
        score(rungs[:1], source, output, window_rows=3)
    part.unlink()
    with pytest.raises(UserError, match="is shorter than"):
        score(rungs[:1], source, output, window_rows=3)


def test_a_parquet_text_that_is_not_utf8_is_a_counted_row(rungs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    pd.DataFrame([{"prompt": "one", "response": text} for text in ("good", "MARKER", "fine")]).to_parquet(
        path, compression=None
    )
    path.write_bytes(path.read_bytes().replace(b"MARKER", b"MAR\xff\xfeR"))
    found = score(rungs[:1], path, tmp_path / "s.jsonl")
    assert len(found) == 3
    assert [row["problem"] is None for row in found] == [True, False, True]


def test_an_output_that_is_a_folder_is_refused_first(rungs: list[Path], tmp_path: Path) -> None:
    source = write(tmp_path / "c.jsonl", some_rows(2))
    with pytest.raises(UserError, match="is a folder; name a file"):
        score(rungs[:1], source, tmp_path)
