"""Finished, unfinished, altered and killed stages: what a run folder promises, each promise tried out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.records import read_json, sha256_of_file, write_json
from configs.runfolder import (
    LOCK,
    MANIFEST,
    SCRATCH,
    STARTED,
    Stage,
    input_digest,
    is_finished,
    open_finished,
    run_stage,
)

ROOT = Path(__file__).parent.parent
ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""SHA-256 of the three bytes `abc`, from FIPS 180-2, appendix B.1."""


def writes_abc(folder: Path) -> dict[str, Any]:
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "a.txt").write_text("abc")
    (folder / "deep" / "b.txt").write_text("abc")
    return {"files": 2}


def refuses_to_work(folder: Path) -> dict[str, Any]:
    raise AssertionError("a finished stage was run again")


def stage_in(folder: Path, **changes: Any) -> Stage:
    return Stage(
        **({"room": "rm", "folder": folder / "s", "settings": {"a": 1, "b": {"c": [1.5]}}, "seed": 0} | changes)
    )


def bytes_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_manifest_says_what_was_made_from_what(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("abc")
    manifest = run_stage(stage_in(tmp_path, inputs={"data": tmp_path / "data.txt"}), writes_abc)
    assert manifest == read_json(tmp_path / "s" / MANIFEST)
    assert manifest["made_from"] == {
        "format": 1,
        "room": "rm",
        "settings": {"a": 1, "b": {"c": [1.5]}},
        "seed": 0,
        "inputs": {"data": ABC_SHA256},
    }
    assert manifest["outputs"] == {"a.txt": ABC_SHA256, "deep/b.txt": ABC_SHA256}
    assert manifest["summary"] == {"files": 2}
    assert manifest["seconds"] >= 0
    assert manifest["versions"]["python"] == sys.version.split()[0]
    assert manifest["versions"]["numpy"]
    assert set(manifest) == {
        "made_from", "fingerprint", "outputs", "summary", "seconds", "finished", "versions", "device",
    }  # fmt: skip
    assert not (tmp_path / "s" / STARTED).exists()
    assert is_finished(tmp_path / "s")


def test_a_second_run_skips_and_changes_no_byte(tmp_path: Path) -> None:
    first = run_stage(stage_in(tmp_path), writes_abc)
    before = bytes_in(tmp_path)
    assert run_stage(stage_in(tmp_path), refuses_to_work) == first
    assert bytes_in(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"a": 2, "b": {"c": [1.5]}}}, "a was 1, is 2"),
        ({"settings": {"a": 1, "b": {"c": [1.5, 2]}}}, "b.c was [1.5], is [1.5, 2]"),
        ({"settings": {"a": 1, "b": {"c": [1.5]}, "new": True}}, "new was None, is True"),
        ({"seed": 3}, "seed was 0, is 3"),
        ({"room": "policy"}, "room was 'rm', is 'policy'"),
        (
            {"settings": {"p": 1, "q": 2, "r": 3}},
            "a was 1, is None; b was {'c': [1.5]}, is None; p was None, is 1 and 2 more",
        ),
    ],
)
def test_a_finished_stage_is_not_overwritten_by_other_settings(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    run_stage(stage_in(tmp_path), writes_abc)
    before = bytes_in(tmp_path)
    folder = tmp_path / "s"
    assert refusal(lambda: run_stage(stage_in(tmp_path, **changes), refuses_to_work)) == (
        f"{folder}: was finished with other settings ({said}); give the run another name or delete {folder}"
    )
    assert bytes_in(tmp_path) == before


def test_an_input_that_changed_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("abc")
    run_stage(stage_in(tmp_path, inputs={"data": data}), writes_abc)
    data.write_text("abd")
    said = refusal(lambda: run_stage(stage_in(tmp_path, inputs={"data": data}), refuses_to_work))
    assert "was finished with other settings (its input data has changed since)" in said


def test_an_interrupted_stage_goes_on_from_what_it_left(tmp_path: Path) -> None:
    def breaks(folder: Path) -> dict[str, Any]:
        (folder / "a.txt").write_text("abc")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(stage_in(tmp_path), breaks)
    assert not is_finished(tmp_path / "s")
    found = []

    def goes_on(folder: Path) -> dict[str, Any]:
        found.append((folder / "a.txt").read_text())
        return {}

    assert run_stage(stage_in(tmp_path), goes_on)["outputs"] == {"a.txt": ABC_SHA256}
    assert found == ["abc"]


def test_a_begun_stage_is_not_finished_with_other_settings(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(stage_in(tmp_path), lambda folder: {"x": 1 / 0})
    said = refusal(lambda: run_stage(stage_in(tmp_path, seed=1), refuses_to_work))
    assert "was begun with other settings (seed was 0, is 1)" in said


def test_an_altered_or_missing_output_is_refused_by_name(tmp_path: Path) -> None:
    run_stage(stage_in(tmp_path), writes_abc)
    folder = tmp_path / "s"
    (folder / "deep" / "b.txt").write_text("abd")
    altered = f"{folder}/deep/b.txt: altered since it was finished"
    for look in (
        lambda: open_finished(folder),
        lambda: run_stage(stage_in(tmp_path), refuses_to_work),
        lambda: run_stage(stage_in(tmp_path / "next", inputs={"before": folder}), refuses_to_work),
    ):
        said = refusal(look)
        assert said.startswith(altered)
        assert said.endswith(f"delete {folder} to make it anew")
    (folder / "deep" / "b.txt").unlink()
    assert refusal(lambda: open_finished(folder)).startswith(f"{folder}/deep/b.txt: missing, though")
    (folder / "deep" / "b.txt").mkdir()
    assert refusal(lambda: open_finished(folder)).startswith(f"{folder}/deep/b.txt: missing, though")


def test_an_unfinished_or_absent_input_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(stage_in(tmp_path), lambda folder: {"x": 1 / 0})
    said = refusal(lambda: run_stage(stage_in(tmp_path / "next", inputs={"before": tmp_path / "s"}), refuses_to_work))
    assert said == f"{tmp_path}/s: not finished (there is no {MANIFEST}); run its command again to finish it"
    said = refusal(lambda: run_stage(stage_in(tmp_path / "next", inputs={"x": tmp_path / "no"}), refuses_to_work))
    assert said == f"{tmp_path}/no: there is no such file or stage"


@pytest.mark.parametrize("derived", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "{}",
        lambda text: text.replace('"fingerprint"', '"fingerprnt"'),
    ],
    ids=["half", "empty", "list", "null", "nothing in it", "without fingerprint"],
)
def test_a_damaged_manifest_is_one_line_with_what_to_do(
    tmp_path: Path, damage: Callable[[str], str], derived: bool
) -> None:
    run_stage(stage_in(tmp_path, derived=derived), writes_abc)
    manifest = tmp_path / "s" / MANIFEST
    manifest.write_text(damage(manifest.read_text()))
    for look in (
        lambda: run_stage(stage_in(tmp_path, derived=derived), refuses_to_work),
        lambda: open_finished(tmp_path / "s"),
    ):
        said = refusal(look)
        assert said.startswith(str(manifest))
        assert said.endswith(f"delete {tmp_path}/s to make it anew")


def test_altered_settings_in_a_manifest_are_found(tmp_path: Path) -> None:
    run_stage(stage_in(tmp_path), writes_abc)
    manifest = read_json(tmp_path / "s" / MANIFEST)
    manifest["made_from"]["settings"]["a"] = 5
    write_json(tmp_path / "s" / MANIFEST, manifest)
    assert "manifest.json: altered since it was finished" in refusal(lambda: open_finished(tmp_path / "s"))


def test_a_damaged_beginning_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(stage_in(tmp_path), lambda folder: {"x": 1 / 0})
    (tmp_path / "s" / STARTED).write_text('{"format": ')
    assert refusal(lambda: run_stage(stage_in(tmp_path), refuses_to_work)).endswith("to make it anew")


def test_a_stage_made_again_with_the_same_result_is_the_same_input(tmp_path: Path) -> None:
    run_stage(stage_in(tmp_path), writes_abc)
    first = input_digest(tmp_path / "s")
    manifest = read_json(tmp_path / "s" / MANIFEST)
    write_json(tmp_path / "s" / MANIFEST, manifest | {"seconds": 99.0, "finished": "2001-01-01T00:00:00+00:00"})
    assert input_digest(tmp_path / "s") == first
    run_stage(stage_in(tmp_path / "t", seed=1), writes_abc)
    assert input_digest(tmp_path / "t" / "s") != first


def test_a_derived_stage_is_made_anew_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_stage(stage_in(tmp_path, derived=True), writes_abc)
    (tmp_path / "s" / "old.txt").write_text("left over")

    def writes_other(folder: Path) -> dict[str, Any]:
        (folder / "c.txt").write_text("abc")
        return {}

    manifest = run_stage(stage_in(tmp_path, derived=True, seed=4), writes_other)
    assert manifest["outputs"] == {"c.txt": ABC_SHA256}
    assert capsys.readouterr().out == f"{tmp_path}/s: made anew, because seed was 0, is 4\n"
    before = bytes_in(tmp_path)
    run_stage(stage_in(tmp_path, derived=True, seed=4), refuses_to_work)
    assert bytes_in(tmp_path) == before


def test_an_altered_output_of_a_derived_stage_is_refused_like_any(tmp_path: Path) -> None:
    run_stage(stage_in(tmp_path, derived=True), writes_abc)
    (tmp_path / "s" / "a.txt").write_text("other")
    assert "altered" in refusal(lambda: run_stage(stage_in(tmp_path, derived=True), refuses_to_work))


def test_a_derived_stage_that_was_interrupted_is_made_anew_from_something_else(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(stage_in(tmp_path, derived=True), lambda folder: {"x": [(folder / "a").write_text("a"), 1 / 0]})
    assert set(run_stage(stage_in(tmp_path, derived=True, seed=1), writes_abc)["outputs"]) == {"a.txt", "deep/b.txt"}


def test_bookkeeping_logs_scratch_and_inner_stages_are_no_outputs(tmp_path: Path) -> None:
    def work(folder: Path) -> dict[str, Any]:
        writes_abc(folder)
        (folder / "cell.log").write_text("log")
        (folder / ".a.txt.1.part").write_text("half")
        (folder / SCRATCH / "checkpoint").mkdir(parents=True)
        (folder / SCRATCH / "checkpoint" / "weights").write_text("w")
        run_stage(stage_in(folder), writes_abc)
        (folder / "begun").mkdir()
        (folder / "begun" / STARTED).write_text("{}")
        (folder / "begun" / "half.txt").write_text("half")
        return {}

    manifest = run_stage(stage_in(tmp_path), work)
    assert set(manifest["outputs"]) == {"a.txt", "deep/b.txt"}
    assert not (tmp_path / "s" / SCRATCH).exists()
    assert (tmp_path / "s" / "cell.log").read_text() == "log"


def test_nan_finishes_no_stage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        run_stage(stage_in(tmp_path), lambda folder: {"accuracy": float("nan")})
    assert not is_finished(tmp_path / "s")
    with pytest.raises(ValueError, match="JSON compliant"):
        run_stage(stage_in(tmp_path / "t", settings={"rate": float("inf")}), writes_abc)
    assert not (tmp_path / "t" / "s" / STARTED).exists()


def test_texts_that_are_no_unicode_survive_in_settings(tmp_path: Path) -> None:
    settings = {"text": "lone \ud800 surrogate, é, \u2028"}
    run_stage(stage_in(tmp_path, settings=settings), writes_abc)
    assert run_stage(stage_in(tmp_path, settings=settings), refuses_to_work)["made_from"]["settings"] == settings


PROGRAM = """
import sys, time
from pathlib import Path
from configs.runfolder import Stage, run_stage
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
def work(inside):
    with (folder.parent / "works.txt").open("a") as stream:
        stream.write("x")
    (inside / "a.txt").write_text("half")
    print("at work", flush=True)
    time.sleep(seconds)
    (inside / "a.txt").write_text("abc")
    return {}
run_stage(Stage("rm", folder, {}, 0), work)
print("done", flush=True)
"""


@contextlib.contextmanager
def process(folder: Path, seconds: float) -> Any:
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        if started.stdout:
            started.stdout.close()


def test_a_second_process_waits_and_then_finds_it_finished(tmp_path: Path) -> None:
    with process(tmp_path / "s", 1.0) as first:
        assert first.stdout.readline() == "at work\n"
        with process(tmp_path / "s", 0.0) as second:
            assert second.stdout.readline() == f"{tmp_path}/s: another process is at work here; waiting for it\n"
            assert second.communicate(timeout=30)[0] == "done\n"
        assert first.communicate(timeout=30)[0] == "done\n"
    assert (tmp_path / "works.txt").read_text() == "x"
    assert open_finished(tmp_path / "s")["outputs"] == {"a.txt": ABC_SHA256}


def test_the_lock_of_a_killed_process_is_free_and_its_stage_goes_on(tmp_path: Path) -> None:
    with process(tmp_path / "s", 60.0) as first:
        assert first.stdout.readline() == "at work\n"
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert not is_finished(tmp_path / "s")
    began = time.monotonic()
    with process(tmp_path / "s", 0.0) as second:
        assert second.communicate(timeout=30)[0] == "at work\ndone\n"
    assert time.monotonic() - began < 20
    assert open_finished(tmp_path / "s")["outputs"] == {"a.txt": ABC_SHA256}


def test_a_kill_between_the_files_and_the_manifest_costs_only_the_work(tmp_path: Path) -> None:
    """The files are all there, and nothing says that they are whole: they are made again and hashed."""
    run_stage(stage_in(tmp_path), writes_abc)
    undisturbed = read_json(tmp_path / "s" / MANIFEST)
    folder = tmp_path / "s"
    write_json(folder / STARTED, undisturbed["made_from"])
    (folder / MANIFEST).unlink()
    (folder / f".{MANIFEST}.123.part").write_text(json.dumps(undisturbed)[:100])
    again = run_stage(stage_in(tmp_path), writes_abc)
    assert {**again, "seconds": 0, "finished": ""} == {**undisturbed, "seconds": 0, "finished": ""}


def test_a_kill_right_after_the_manifest_leaves_a_finished_stage(tmp_path: Path) -> None:
    """Its beginning is swept away: lying about, it would hide the folder from a stage that it is copied into."""
    manifest = run_stage(stage_in(tmp_path), writes_abc)
    write_json(tmp_path / "s" / STARTED, manifest["made_from"])
    assert run_stage(stage_in(tmp_path), refuses_to_work) == manifest
    assert not (tmp_path / "s" / STARTED).exists()
    assert sha256_of_file(tmp_path / "s" / "a.txt") == ABC_SHA256
