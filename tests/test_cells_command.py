"""The lines of `rewardladder cells`, the script for SLURM with a scheduler that only pretends, and `status`."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.loader import Experiment, load_experiment
from curve.sweep.cells import expand
from curve.sweep.cells_command import run_words
from curve.sweep.status import duration, looks_of, show_status, time_left
from judge.asking.budget import Tokens
from judge.asking.store import ReplyStore
from tests.conftest import ROOT

OVERRIDES = ["curve.sweep=[{reward: gold, noise.flip_rate: [0.1, 0.2]}, {reward: raw, rung: 65}]"]
VARIANTS = "curve.variants={one: null, two: {rm.seed: 1}}"
FAKE_SBATCH = """#!/bin/bash
# hands a job in like SLURM would: at once, and writes down what was asked
echo "$@" >> asked
for word in "$@"; do case $word in --array=*) n=${word#--array=1-}; n=${n%%%*};; esac; done
for i in $(seq "$n"); do SLURM_ARRAY_TASK_ID=$i bash "${@: -2:1}" "${@: -1}" || echo "$i failed" >> asked; done
echo "4$(wc -l < asked);cluster"
"""


def words(tmp_path: Path, *more: str) -> list[str]:
    return [str(ROOT / "configs" / "demo.yaml"), f"runs_dir={tmp_path / 'runs'}", *OVERRIDES, *more]


def loaded(tmp_path: Path, *more: str) -> Experiment:
    given = words(tmp_path, *more)
    return load_experiment(Path(given[0]), given[1:])


def finish(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text('{"seconds": 60.0, "finished": "2026-01-01"}')


def printed(capsys: pytest.CaptureFixture[str], given: Sequence[str]) -> list[list[str]]:
    """The words of each line, after its environment and its program."""
    run_words(given)
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line[0] == "OMP_NUM_THREADS=1" and Path(line[1]).name == "rewardladder" for line in lines)
    return [line[2:] for line in lines]


def test_there_is_a_line_for_what_is_missing_and_none_for_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, words(tmp_path))
    assert [line[0] for line in lines] == ["calibrate", "policy", "policy", "policy", "policy"]
    run = tmp_path / "runs" / "demo"
    assert {Path(line[1]).parent for line in lines} == {run / "experiments"}
    finish(*(run / room for room in ("tasks", "rm", "calibration")), run / "policy" / "gold_flip0.1-grpo-s0")
    lines = printed(capsys, words(tmp_path))
    assert [line[2:] for line in lines] == [
        ["policy.reward=untrained"],
        ["policy.reward=gold", "policy.noise.flip_rate=0.2", "policy.seed=0"],
        ["policy.reward=raw", "policy.rung=65", "policy.seed=0"],
    ]
    finish(*(cell.folder for cell in expand(loaded(tmp_path))))
    run_words(words(tmp_path))
    out, said = capsys.readouterr()
    assert (out, "Every cell of demo is finished" in said) == ("", True)


def test_each_line_makes_the_cell_it_is_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in printed(capsys, words(tmp_path, VARIANTS)) if line[0] == "policy"]
    cells = expand(loaded(tmp_path, VARIANTS))
    assert len(lines) == len(cells) == 6
    for line, cell in zip(lines, cells, strict=True):
        read = load_experiment(Path(line[1]), line[2:])
        assert (read.folder, read.tables["policy"]) == (cell.run.folder, cell.experiment.tables["policy"])


def test_every_variant_is_prepared_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, words(tmp_path, VARIANTS))
    assert [line[0] for line in lines[:3]] == ["calibrate", "calibrate", "policy"]
    plain = printed(capsys, words(tmp_path, "curve.sweep=[{reward: gold}]"))
    assert [line[0] for line in plain] == ["tasks", "policy", "policy"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["x.yaml", "sbtach=a"], "sbtach is not a key; did you mean sbatch?"),
        (["sbatch=a"], "name an experiment"),
        (["rm.seed=1"], "name an experiment"),
        (["nothing.yaml"], "there is no such file"),
    ],
)
def test_what_is_no_command_is_refused(given: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        run_words(given)


def test_a_long_override_is_no_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = ", ".join(f"v{i}: {{rm.seed: {i}}}" for i in range(30))
    assert len(printed(capsys, words(tmp_path, f"curve.variants={{{many}}}"))) == 30 + 2 + 60


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [("sbatch", "would break the script's lines"), ("runs_dir", "runs_dir must be a folder")],
)
def test_a_path_of_two_lines_writes_no_script(tmp_path: Path, broken: str, sentence: str) -> None:
    paths = {"runs_dir": tmp_path / "runs", "sbatch": tmp_path / "sweep.sbatch"} | {broken: tmp_path / "a\ntouch b #"}
    with pytest.raises(UserError, match=sentence):
        run_words([*words(tmp_path), *(f"{key}={json.dumps(str(path))}" for key, path in paths.items())])
    assert list(tmp_path.glob("*a*")) == []


@pytest.mark.parametrize("folder", ["it's", 'a "b" #c', "50%", "plain"])
def test_logs_of_slurm_lie_in_a_folder_of_any_name(tmp_path: Path, folder: str) -> None:
    """SLURM takes the words of `#SBATCH` lines apart as a shell does, and `%%` for `%`."""
    runs = tmp_path / folder
    run_words([*words(tmp_path), f"runs_dir={json.dumps(str(runs))}", f"sbatch={tmp_path / 'sweep.sbatch'}"])
    (line,) = [x for x in (tmp_path / "sweep.sbatch").read_text().splitlines() if x.startswith("#SBATCH --output")]
    (word,) = shlex.split(line.removeprefix("#SBATCH"), comments=True)
    assert word.replace("%%", "%") == f"--output={runs}/demo/slurm/%A_%a.log"


def test_a_backslash_which_turns_off_patterns_of_slurm_is_refused(tmp_path: Path) -> None:
    runs = json.dumps(str(tmp_path / "a\\b"))
    with pytest.raises(UserError, match=r"^runs_dir: SLURM writes no logs into .*backslash"):
        run_words([*words(tmp_path), f"runs_dir={runs}", f"sbatch={tmp_path / 'sweep.sbatch'}"])


def test_slurm_prepares_first_and_then_runs_one_line_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run_words(words(folder, VARIANTS, "sbatch=sweep.sbatch", "at_once=3", "gpus=1", "time=1-00:00:00"))
    script = (folder / "sweep.sbatch").read_text()
    assert "#SBATCH --gres=gpu:1\n" in script and "#SBATCH --time=1-00:00:00\n" in script
    lines = (folder / "sweep.preparation.lines").read_text() + (folder / "sweep.cells.lines").read_text()
    program = shlex.split(lines.splitlines()[0])[1]
    for name in ("preparation", "cells"):  # the real program would train; this one writes down what it was given
        path = folder / f"sweep.{name}.lines"
        path.write_text(path.read_text().replace(program, "recorded"))
    for name, text in (("sbatch", FAKE_SBATCH), ("recorded", '#!/bin/bash\nprintf "%s\\n" "$*" >> made\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", "a folder/sweep.sbatch"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    first, second = (folder / "asked").read_text().splitlines()
    assert first.startswith("--parsable --array=1-2 ")
    assert second.startswith("--parsable --array=1-6%3 --dependency=afterany:41 ")
    wanted = [" ".join(shlex.split(line)[2:]) for line in lines.splitlines()]
    assert (folder / "made").read_text().splitlines() == wanted
    assert subprocess.run(["bash", "-n", str(folder / "sweep.sbatch")]).returncode == 0


def rows(found: Experiment) -> dict[str, tuple[str, int | None, str]]:
    return {look.inside: (look.state, look.steps, look.reason) for look in looks_of(found)}


def test_status_tells_what_a_cell_is_doing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = loaded(tmp_path, "policy.max_steps=40")
    untrained, first, second, third = expand(found)
    finish(untrained.folder, first.folder)
    for folder, steps in ((first.folder, 40), (second.folder, 10)):
        folder.mkdir(parents=True, exist_ok=True)
        records = "".join(json.dumps({"step": step}) + "\n" for step in range(1, steps + 1))
        (folder / "metrics.jsonl").write_text(records + '{"step": ')
    (second.folder / "started.json").write_text("{}")
    third.folder.mkdir(parents=True)
    (third.folder / "cell.log").write_text("1%\nerror: rm.x: no\n\n")
    with (second.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        seen = rows(found)
        show_status(found)
    names = [cell.folder.relative_to(found.folder).as_posix() for cell in (untrained, first, second, third)]
    assert [seen[name] for name in names] == [
        ("finished", None, ""),
        ("finished", 40, ""),
        ("running", 10, ""),
        ("failed", None, "rm.x: no"),
    ]
    out = capsys.readouterr().out
    assert f"{names[3]}: failed (rm.x: no); the next run tries it again" in out
    assert "About 52 s are left for 2 cells, 2 at a time, by the 1 finished ones" in out
    assert rows(found)[names[2]] == ("begun", 10, "")


def test_a_traceback_is_a_failure_and_a_bar_is_none(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    cells = expand(found)
    logs = ["Traceback (most recent call last):\n  File\nValueError: bug\n", "training: 10%| 4/40\r20%\n"]
    for cell, log in zip(cells, logs, strict=False):
        cell.folder.mkdir(parents=True)
        (cell.folder / "cell.log").write_text(log)
    seen = [rows(found)[f"policy/{cell.name}"] for cell in cells]
    assert seen[:2] == [("failed", None, "ValueError: bug"), ("missing", None, "")]


@pytest.mark.parametrize(
    "wrong", ['{"seconds": "x"}', '{"seconds": [1]}', '{"seconds": -5}', '{"seconds": 1e999}', "[]"]
)
def test_a_manifest_of_something_else_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    found = loaded(tmp_path)
    cell = expand(found)[1]
    finish(cell.folder)
    (cell.folder / "manifest.json").write_text(wrong)
    (cell.folder / "metrics.jsonl").write_text('{"step": 7}\n{"step": 1e999}\n' + "[" * 9000)
    assert rows(found)[f"policy/{cell.name}"] == ("damaged", None, "")
    show_status(found)
    assert f"damaged: the manifest.json of policy/{cell.name}" in capsys.readouterr().out
    (cell.folder / "manifest.json").unlink()
    (cell.folder / "cell.log").write_bytes(b"error: \x1b[2Jno \xff\n")
    assert rows(found)[f"policy/{cell.name}"] == ("failed", 7, "?[2Jno \ufffd")


def test_time_left_is_by_cells_of_the_same_algorithm(tmp_path: Path) -> None:
    found = loaded(tmp_path, "curve.sweep=[{reward: gold, algorithm: [grpo, ppo]}]", "curve.seeds=[0, 1]")
    assert list(time_left(found, looks_of(found))) == [
        "4 cells are to be trained; none is finished yet, so nothing says how long they take."
    ]
    for cell, seconds in zip(expand(found)[1:], (100.0, None, 1000.0, None), strict=True):
        if seconds:
            finish(cell.folder)
            (cell.folder / "manifest.json").write_text(json.dumps({"seconds": seconds, "finished": ""}))
    assert "About 9 min are left for 2 cells, 2 at a time, by the 2 finished ones" in "".join(
        time_left(found, looks_of(found))
    )
    assert [duration(seconds) for seconds in (89, 90, 5399, 5400, 36000)] == [
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
        "10.0 h",
    ]


def test_status_has_a_row_for_each_stage_of_each_variant(tmp_path: Path) -> None:
    seen = rows(loaded(tmp_path, VARIANTS))
    assert list(seen)[:4] == [f"variants/one/{room}" for room in ("tasks", "rm", "calibration", "policy/untrained")]
    assert len(seen) == 2 * 3 + 6 + 6 + 1


def test_status_says_what_a_paid_judge_has_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paid: Any = ["judge.kind=openai", "judge.model=m", "judge.max_cost=5", "judge.price={input: 10, output: 100}"]
    found = loaded(tmp_path, *paid)
    show_status(found)
    assert "The judge m has cost nothing of at most $5.00 for 0 replies." in capsys.readouterr().out
    with ReplyStore(found.folder / "judge" / "replies.sqlite") as store:
        store._pay("m at https://api.openai.com/v1", Tokens(100_000, 10_000))
    show_status(found)
    assert "The judge m has cost $2.00 of at most $5.00 for 1 replies." in capsys.readouterr().out
    shutil.rmtree(found.folder)
