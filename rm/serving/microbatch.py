"""One thread that scores for many: what arrives within a few milliseconds goes through the model together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Row = Sequence[int]


@dataclass
class Job:
    """The rows of one request, and the promise of their logits."""

    rows: list[Row]
    tokens: int
    promise: Future[list[float]] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class QueueFull(Exception):
    """More tokens wait than may wait, or the batcher is closed."""


class MicroBatcher:
    """A queue before `score`, which only this object's thread calls.

    A batch goes when it has `batch_tokens`, or `wait_s` after its first request came; what waits while a batch is
    scored goes with the next one at once. If a batch fails, its requests are tried one by one, so that a request that
    breaks the model fails alone.
    """

    def __init__(
        self, score: Callable[[list[Row]], NDArray[np.float64]], batch_tokens: int, wait_s: float, most_tokens: int
    ) -> None:
        self._score = score
        self._batch_tokens = batch_tokens
        self._wait_s = wait_s
        self._most_tokens = most_tokens
        self._jobs: deque[Job] = deque()
        self._tokens = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait, those being scored aside."""
        with self._changed:
            return sum(len(job.rows) for job in self._jobs)

    def submit(self, rows: list[Row]) -> Future[list[float]]:
        """The logits of rows, in their order, when they are scored; the future holds what the model raised.

        Raises:
            QueueFull: try again later.
        """
        job = Job(rows, sum(map(len, rows)))
        with self._changed:
            if self._closed or self._tokens + job.tokens > self._most_tokens:
                raise QueueFull
            self._jobs.append(job)
            self._tokens += job.tokens
            if len(self._jobs) == 1 or self._tokens >= self._batch_tokens:
                self._changed.notify()
        return job.promise

    def close(self) -> None:
        """Score what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while taken := self._next_batch():
            # From here on nobody can cancel; whoever did before, because its client left, is not scored.
            batch = [job for job in taken if job.promise.set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                self._score_together(batch)
            except Exception:  # noqa: BLE001 - whatever the model raises is told to the request that caused it
                for job in batch:
                    try:
                        self._score_together([job])
                    except Exception as error:  # noqa: BLE001
                        job.promise.set_exception(error)

    def _score_together(self, batch: list[Job]) -> None:
        logits = self._score([row for job in batch for row in job.rows]).tolist()
        start = 0
        for job in batch:
            job.promise.set_result(logits[start : start + len(job.rows)])
            start += len(job.rows)

    def _next_batch(self) -> list[Job]:
        """Wait for work; empty when closed and nothing waits."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return []
                self._changed.wait()
            until = self._jobs[0].arrived + self._wait_s
            while self._tokens < self._batch_tokens and not self._closed and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            batch: list[Job] = []
            tokens = 0
            while self._jobs and (not batch or tokens + self._jobs[0].tokens <= self._batch_tokens):
                job = self._jobs.popleft()
                batch.append(job)
                tokens += job.tokens
            self._tokens -= tokens
            return batch
