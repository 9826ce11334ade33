"""Runs cells side by side, each in a process of its own, and goes on when one of them fails.

A cell's process ends when this one does, however it ends: it holds the reading end of a pipe that nobody writes to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.command import PARENT_PIPE_VARIABLE
from configs.terminal import progress_bar, say

POLL_SECONDS = 0.1
LOG_FILE = "cell.log"


@dataclass(frozen=True)
class Job:
    """One process: its name, its command, its log, and how many threads it may use."""

    name: str
    command: Sequence[str]
    log: Path
    threads: int


def run_side_by_side(jobs: Sequence[Job], workers: int, what: str = "cells") -> dict[str, str]:
    """Run all jobs, at most `workers` at a time, each with its own GPU where there are as many.

    Args:
        jobs: what to run.
        workers: processes at a time.
        what: what the jobs are, on the progress bar.

    Returns:
        The failed ones: name -> the signal that killed it, or the last line of its log.
    """
    reading, writing = os.pipe()
    waiting = list(jobs)
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    begins: dict[str, int] = {}
    failed: dict[str, str] = {}
    bar = progress_bar(len(jobs), what)
    try:
        while waiting or running:
            for slot in range(workers):
                if waiting and slot not in running:
                    job = waiting.pop(0)
                    begins[job.name] = job.log.stat().st_size if job.log.exists() else 0
                    running[slot] = (job, _start(job, slot, reading))
                    bar.set_postfix_str(", ".join(other.name for other, _ in running.values()))
            time.sleep(POLL_SECONDS)
            for slot, (job, process) in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[slot]
                bar.update()
                if status != 0:
                    failed[job.name] = reason_of(job.log, status, begins[job.name])
                    say(f"{job.name}: failed ({failed[job.name]}); its log is {job.log}")
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
        os.close(reading)
        os.close(writing)
        bar.close()
    return failed


def reason_of(log: Path, status: int, begin: int) -> str:
    """Why a process failed: the signal that ended it, or the last line that it wrote after `begin` bytes of its log."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return _last_line(log, begin) or f"ended with status {status}"


def _start(job: Job, slot: int, parent_pipe: int) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job.threads),
        PARENT_PIPE_VARIABLE: str(parent_pipe),
        "PYTHONUNBUFFERED": "1",
        # the rooms must be ours, whatever lies in the working directory
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent.parent), *_given_paths()]),
    }
    gpus = _gpus()
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    with job.log.open("ab") as log:
        return subprocess.Popen(
            list(job.command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=(parent_pipe,),
        )


def _given_paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    torch = sys.modules.get("torch")
    return [str(i) for i in range(torch.cuda.device_count())] if torch is not None else []


def _last_line(log: Path, begin: int) -> str:
    """The last line after `begin` bytes; what stands before was written by an earlier run."""
    text = log.read_bytes()[begin:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
