"""One thread that asks the core for many: what arrives within a few milliseconds goes to the rung together.

Trainers hand over one completion at a time, from many threads (OpenRLHF) or coroutines (verl).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from configs.errors import UserError
from configs.terminal import say
from policy.adapters.core import Rewarded, Sample

Ask = Callable[[Sequence[Sample]], list[Rewarded]]


class RewardBatcher:
    """A queue before the core, which only this object's thread asks.

    What fails is told to every completion of its batch and to all that wait: a server that is away would otherwise be
    waited for again and again. Completions that came later are tried anew.
    """

    def __init__(self, ask: Ask, most: int, wait_s: float) -> None:
        self._ask, self._most, self._wait_s = ask, most, wait_s
        self._waiting: list[tuple[float, Sample, Future[Rewarded]]] = []
        self._changed = threading.Condition()
        self.answered = self.missing = 0
        threading.Thread(target=self._work, name="rewards", daemon=True).start()

    def submit(self, sample: Sample) -> Future[Rewarded]:
        """The reward of one completion, when it is there; the future holds what was raised."""
        promise: Future[Rewarded] = Future()
        with self._changed:
            self._waiting.append((time.monotonic(), sample, promise))
            self._changed.notify()
        return promise

    def _work(self) -> None:
        while True:
            batch = self._next_batch()
            try:
                found = self._ask([sample for _, sample, _ in batch])
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait
                with self._changed:
                    batch += self._waiting
                    self._waiting = []
                say(
                    f"rewards: {error}" if isinstance(error, UserError) else f"rewards: {type(error).__name__}: {error}"
                )
                for _, _, promise in batch:
                    if promise.set_running_or_notify_cancel():
                        promise.set_exception(error)
                continue
            self._count(found)
            for (_, _, promise), one in zip(batch, found, strict=True):
                if promise.set_running_or_notify_cancel():
                    promise.set_result(one)

    def _count(self, found: Sequence[Rewarded]) -> None:
        before = self.missing
        self.answered += len(found)
        self.missing += sum(one.reward is None for one in found)
        if len(str(self.missing)) > len(str(before)) or (self.missing and not before):
            say(f"rewards: {self.missing:,} of {self.answered:,} completions had no reward and got missing_reward")

    def _next_batch(self) -> list[tuple[float, Sample, Future[Rewarded]]]:
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            until = self._waiting[0][0] + self._wait_s
            while len(self._waiting) < self._most and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            return batch
