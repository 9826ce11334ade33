"""Cells side by side: as many as there are workers, failures told and the others go on, nobody left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curve.sweep.workers import Job, run_side_by_side

ROOT = Path(__file__).parent.parent


def job(folder: Path, name: str, program: str, threads: int = 1) -> Job:
    return Job(name, [sys.executable, "-c", program], folder / name / "cell.log", threads)


SPAN = "import sys, time; began = time.time(); time.sleep(0.4); print(began, time.time())"


def most_at_once(logs: list[Path]) -> int:
    """The largest number of overlapping spans `began ended`, each read from a log."""
    spans = [tuple(map(float, log.read_text().split())) for log in logs]
    return max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_run_at_once_as_there_are_workers(tmp_path: Path, workers: int) -> None:
    jobs = [job(tmp_path, f"c{i}", SPAN) for i in range(4)]
    assert run_side_by_side(jobs, workers) == {}
    assert most_at_once([each.log for each in jobs]) == workers


def test_a_failure_is_told_with_its_last_line_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [
        job(tmp_path, "bad", "import sys; print('busy'); print('error: rm.x: no', file=sys.stderr); sys.exit(2)"),
        job(tmp_path, "silent", "import sys; sys.exit(3)"),
        job(tmp_path, "good", "print('fine')"),
        job(tmp_path, "bar", r"import sys; print('10%\r20%\rerror: half', end='\n\n'); sys.exit(1)"),
        job(tmp_path, "bytes", r"import sys; sys.stdout.buffer.write(b'\xff bad'); sys.exit(1)"),
    ]
    failed = run_side_by_side(jobs, 2)
    assert failed == {
        "bad": "error: rm.x: no",
        "silent": "ended with status 3",
        "bar": "error: half",
        "bytes": "\ufffd bad",
    }
    assert (tmp_path / "good" / "cell.log").read_text() == "fine\n"
    assert f"bad: failed (error: rm.x: no); its log is {tmp_path}/bad/cell.log\n" in capsys.readouterr().out


def test_a_cell_that_the_system_killed_says_so(tmp_path: Path) -> None:
    program = "import os, signal; print('training 63%', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    assert run_side_by_side([job(tmp_path, "c", program)], 1) == {"c": "killed by SIGKILL"}


def test_a_reason_is_never_taken_from_an_earlier_run(tmp_path: Path) -> None:
    log = tmp_path / "c" / "cell.log"
    log.parent.mkdir()
    log.write_text("error: of yesterday\n")
    assert run_side_by_side([job(tmp_path, "c", "import sys; sys.exit(3)")], 1) == {"c": "ended with status 3"}
    assert log.read_text() == "error: of yesterday\n"


def test_no_jobs_no_failures() -> None:
    assert run_side_by_side([], 2) == {}


def test_a_cell_gets_its_threads_its_gpu_and_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONUNBUFFERED")
    program = f"import json, os, sys; print(json.dumps([os.environ[n] for n in {names!r}] + [sys.stdin.read()]))"
    jobs = [job(tmp_path, f"c{i}", f"import time; time.sleep(0.5)\n{program}", threads=i + 1) for i in range(2)]
    assert run_side_by_side(jobs, 2) == {}
    found = [json.loads(each.log.read_text()) for each in jobs]
    assert found == [["1", "4", "1", ""], ["2", "6", "1", ""]]


def test_no_gpu_is_handed_out_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run_side_by_side([job(tmp_path, "c", "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))")], 1) == {}
    assert (tmp_path / "c" / "cell.log").read_text() == "''\n"


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: object, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


FOLLOWER = (
    "import os, time; from configs.command import follow_parent; follow_parent(); print(os.getpid()); time.sleep(120)"
)


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked at through /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_cells_end_with_the_run_however_it_ends(tmp_path: Path, how: signal.Signals) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom curve.sweep.workers import Job, run_side_by_side\n"
        f"folder, command = Path({str(tmp_path)!r}), [sys.executable, '-c', {FOLLOWER!r}]\n"
        "jobs = [Job(name, command, folder / name / 'cell.log', 1) for name in 'ab']\n"
        "run_side_by_side(jobs, 2)"
    )
    logs = [tmp_path / name / "cell.log" for name in "ab"]
    run = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    children: list[int] = []
    try:
        assert wait_for(lambda: all(log.exists() and log.read_text().endswith("\n") for log in logs), 30)
        children = [int(log.read_text()) for log in logs]
        assert all(map(is_alive, children))
        os.kill(run.pid, how)
        run.wait(timeout=10)
        assert wait_for(lambda: not any(map(is_alive, children)))
    finally:
        run.kill()
        run.wait()
        for child in filter(is_alive, children):
            os.kill(child, signal.SIGKILL)


def test_a_command_that_does_not_exist_stops_the_others(tmp_path: Path) -> None:
    sleeper = job(tmp_path, "a", "import os, time; print(os.getpid()); time.sleep(120)")
    began = time.monotonic()
    with pytest.raises(FileNotFoundError):
        run_side_by_side([sleeper, Job("b", [str(tmp_path / "no such program")], tmp_path / "b" / "cell.log", 1)], 2)
    assert time.monotonic() - began < 10
