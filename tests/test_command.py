"""Commands: what users can mend is one line and a status, bugs keep their traceback, nobody outlives the parent."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from configs.command import follow_parent, guarded, room_command
from configs.errors import UserError
from configs.loader import ROOMS, Experiment

ROOT = Path(__file__).parent.parent


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/points.csv")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("x.yaml: no"), 2, "error: x.yaml: no\n"),
        (UserError("two\nlines\n"), 2, "error: two lines\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from here\n"),
        (
            full_disk(),
            2,
            "error: No space left on device (runs/x/points.csv); mend it and run the same command again\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs"),
            2,
            "error: Permission denied (runs); mend it and run the same command again\n",
        ),
        (OSError(errno.EROFS, "Read-only file system"), 2, None),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, None),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str | None
) -> None:
    assert guarded(raising(error)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said is None or err == said


def test_a_disk_that_is_full_while_weights_are_saved_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert guarded(raising(error)) == 2
    assert capsys.readouterr().err == "error: No space left on device; mend it and run the same command again\n"


def test_a_path_of_a_user_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: print(Path("~no-such-user/rung").expanduser())) == 2
    assert "begins with ~NAME, and there is no user" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is needed")
def test_a_disk_that_is_full_in_the_middle_of_a_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert guarded(lambda: torch.save({"weights": torch.zeros(100_000)}, "/dev/full")) == 2
    err = capsys.readouterr().err
    assert "could not be written to its end, as if No space left on device; mend it" in err
    assert err.count("\n") == 1


def test_a_checkpoint_that_cannot_be_read_is_no_full_disk() -> None:
    cut = "[enforce fail at inline_container.cc:3] . PytorchStreamReader failed reading zip archive"
    with pytest.raises(RuntimeError):
        guarded(raising(RuntimeError(cut)))


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), AssertionError(), RuntimeError("x"), OSError(errno.EIO, "I/O"), SystemExit(3)]
)
def test_bugs_keep_their_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)):
        guarded(raising(error))


def test_work_that_is_done_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`rewardladder status x.yaml | head -1`"""
    program = (
        "import sys; from configs.command import guarded\n"
        "sys.exit(guarded(lambda: [print(i, flush=True) for i in range(200_000)]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.wait(timeout=30) == 1
        assert process.stderr.read() == b""


def test_a_room_command_reads_the_experiment_and_its_overrides(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("seed: 1")
    met: list[Experiment] = []
    status = room_command("python -m rm", "Train.", met.append, [str(tmp_path / "x.yaml"), "seed=2", "rm.a=3"])
    assert (status, met[0].seed, met[0].tables["rm"]) == (0, 2, {"a": 3})


def test_a_room_command_refuses_a_wrong_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    met: list[Experiment] = []
    assert room_command("python -m rm", "Train.", met.append, [str(tmp_path / "no.yaml")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/no.yaml: there is no such file\n"
    assert met == []
    with pytest.raises(SystemExit) as left:
        room_command("python -m rm", "Train.", met.append, [])
    assert left.value.code == 2


def test_no_pipe_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARDLADDER_PARENT_PIPE", raising=False)
    before = threading.active_count()
    follow_parent()
    assert threading.active_count() == before


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_follows_its_parent_before_it_loads_anything_large(room: str) -> None:
    """A parent that is killed while its child still imports would otherwise leave the child behind."""
    large = {"torch", "transformers", "numpy", "scipy", "pandas", "openai"}
    program = f"import sys, {room}.__main__; print(sorted({large!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


CHILD = """
import os, time
from configs.command import follow_parent
follow_parent()
assert "REWARDLADDER_PARENT_PIPE" not in os.environ, "a child of this child would follow a pipe that it has not"
print(os.getpid(), flush=True)
time.sleep(120)
"""
PARENT = """
import os, subprocess, sys, time
reading, writing = os.pipe()
environment = {**os.environ, "REWARDLADDER_PARENT_PIPE": str(reading)}
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environment, pass_fds=(reading,))
os.close(reading)
time.sleep(120)
"""


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked at through /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent(how: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert is_alive(child)
            os.kill(parent.pid, how)
            deadline = time.monotonic() + 10
            while is_alive(child) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not is_alive(child)
        finally:
            parent.kill()
            if is_alive(child):
                os.kill(child, signal.SIGKILL)
