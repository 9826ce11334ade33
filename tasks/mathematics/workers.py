"""math-verify in processes that can be killed, so that no expression can hang a training run.

    with AnswerChecker(workers=2, seconds=3.0) as checker:
        checker.check(Question(gold="\\\\frac{1}{2}", pred="0.5")).verdict      # right
        checker.check(Question(gold="5", pred="9^{9^{9^{9}}}")).verdict         # timeout, after 3 s at most
        checker.counts                                                          # what was said so far

Each worker is a plain subprocess with pipes: nothing is forked from a process that holds threads, nothing is pickled,
and any thread may ask. A worker over its time is killed, the answer counted as `timeout`, and another worker is started
for the next one; so is one that died, by its limit of memory or otherwise.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from configs.errors import UserError
from tasks.mathematics.equality import TIMEOUT, UNPARSABLE, Comparison, Question, compare_texts

DEFAULT_SECONDS = 3.0
START_SECONDS = 120.0
"""Within which a worker must have imported sympy; generous, because all processes of a run may start at once."""
MEMORY_MIB = 4096
"""Address space of a worker; sympy alone maps about half a GiB."""
LONGEST_ANSWER = 100_000
"""Characters. No answer of a mathematics set has more than a few hundred; what is longer is not parsed."""
HOUSE = Path(__file__).parent.parent.parent


class AnswerChecker:
    """A pool of workers.

    Attributes:
        counts: how often each verdict was given, and `workers_killed`, `workers_died`.
    """

    def __init__(self, workers: int = 1, seconds: float = DEFAULT_SECONDS, memory_mib: int = MEMORY_MIB) -> None:
        """Args: how many comparisons at a time, the limit of each in seconds, the memory of each worker in MiB."""
        self.counts: Counter[str] = Counter()
        self.seconds = seconds
        self._workers = workers
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        self._all = [_Worker(seconds, memory_mib) for _ in range(workers)]
        self._count_lock = threading.Lock()
        for worker in self._all:
            self._free.put(worker)
        atexit.register(self.close)

    def __enter__(self) -> AnswerChecker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self, question: Question) -> Comparison:
        """One comparison; never takes much longer than its limit, a worker's start apart."""
        found, ended = compare_texts(question), None
        if found is None and max(len(question.gold), len(question.pred)) > LONGEST_ANSWER:
            found = UNPARSABLE
        if found is None:
            worker = self._free.get()
            try:
                found, ended = worker.ask(question)
            finally:
                self._free.put(worker)
        with self._count_lock:
            self.counts[found.verdict] += 1
            if ended:
                self.counts[ended] += 1
        return found

    def check_all(self, questions: Sequence[Question]) -> list[Comparison]:
        """Many comparisons, as many at a time as there are workers, in the order of the questions."""
        with ThreadPoolExecutor(self._workers) as threads:
            return list(threads.map(self.check, questions))

    def close(self) -> None:
        """End the workers; a later question starts them again."""
        for worker in self._all:
            worker.end()


class _Worker:
    """One subprocess, started when it is needed."""

    def __init__(self, seconds: float, memory_mib: int) -> None:
        self.seconds, self.memory_mib = seconds, memory_mib
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0
        self.ready = False
        self.answered = 0

    def ask(self, question: Question) -> tuple[Comparison, str | None]:
        """The comparison, and how the worker ended if it did: `workers_killed` or `workers_died`."""
        line = json.dumps(question.as_record()).encode() + b"\n"
        reply = b""
        for _ in range(2):
            process = self._running()
            first = self.answered == 0
            try:
                assert process.stdin is not None
                process.stdin.write(line)
                process.stdin.flush()
                reply = self._read_line(process, self.seconds)
            except TimeoutError:
                self.end()
                self._start()  # another one imports sympy while the caller goes on
                return TIMEOUT, "workers_killed"
            except BrokenPipeError:
                reply = b""
            if reply:
                self.answered += 1
                equal, status = json.loads(reply)
                return Comparison(equal, status), None
            self.end()
            if first:
                break  # a fresh worker died of this question; an old one may have been ended from outside
        return TIMEOUT, "workers_died"

    def end(self) -> None:
        """Kill the subprocess, if this process has one."""
        process, self.process, self.answered, self.ready = self.process, None, 0, False
        if process is None or self.owner != os.getpid():
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _running(self) -> subprocess.Popen[bytes]:
        """The subprocess; another one where it has ended, or where it belongs to the process that forked this one."""
        process = self.process
        if process is None or self.owner != os.getpid() or process.poll() is not None:
            self.end()
            process = self._start()
        if not self.ready:
            try:
                self.ready = self._read_line(process, START_SECONDS) == b"ready\n"
            except TimeoutError:
                self.ready = False
        if not self.ready:
            self.end()
            raise UserError(
                "the process that checks answers did not start; `python -c 'import math_verify'` says why, "
                f"and it may use {self.memory_mib} MiB of address space"
            )
        return process

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [str(HOUSE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tasks.mathematics.worker", str(self.seconds), str(self.memory_mib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        self.owner = os.getpid()
        return self.process

    def _read_line(self, process: subprocess.Popen[bytes], seconds: float) -> bytes:
        """One line of the subprocess; empty where it ended. TimeoutError after `seconds`."""
        assert process.stdout is not None
        end, line = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    return b""
                line += piece
        return line


@cache
def shared_checker(seconds: float = DEFAULT_SECONDS) -> AnswerChecker:
    """The checker of this process, one for each time limit; tasks grade by it."""
    return AnswerChecker(workers=1, seconds=seconds)
