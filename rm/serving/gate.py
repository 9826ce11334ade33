"""The way into the server: how many bodies may be received, how many requests answered, and how it closes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

DRAIN_GRACE_S = 1.0
"""How long a draining server at least stays to tell clients 503, instead of breaking connections under them."""
DRAIN_BODY_S = 2.0
"""How long a draining server waits for bodies that are not whole."""


class Refused(Exception):
    """A request that is not answered, with the HTTP status and one line why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = " ".join(message.split())


class Gate:
    """Counts the bodies being received and the requests inside, and keeps new ones out when the server drains.

    A slow client holds no place inside: it enters when its body is whole.
    """

    def __init__(self, most: int, most_bodies: int = 1024) -> None:
        self.most = most
        self.most_bodies = most_bodies
        self.inside = self.receiving = self.answered = self.refused = 0
        self._clocks: set[asyncio.Timeout] = set()
        self._hurried = False
        self._draining_since: float | None = None

    @property
    def draining(self) -> bool:
        """Whether new requests are refused for good."""
        return self._draining_since is not None

    @property
    def drained(self) -> bool:
        """Whether the server may end."""
        since = self._draining_since
        return (
            since is not None and not self.inside and not self.receiving and time.monotonic() - since >= DRAIN_GRACE_S
        )

    def drain(self) -> None:
        """From now on, refuse."""
        if self._draining_since is None:
            self._draining_since = time.monotonic()

    def hurry(self) -> None:
        """Give bodies that are not whole at most `DRAIN_BODY_S` more; to be called in the event loop."""
        if self._hurried:
            return
        self._hurried = True
        until = asyncio.get_running_loop().time() + DRAIN_BODY_S
        for clock in self._clocks:
            when = clock.when()
            if not clock.expired() and (when is None or when > until):
                clock.reschedule(until)

    @asynccontextmanager
    async def received(self, seconds: float) -> AsyncIterator[None]:
        """Receive a body for at most `seconds`.

        Raises:
            Refused: the server drains, too many bodies are being received, or the time is over.
        """
        draining = Refused(503, "draining", "the server is about to end; ask another one")
        if self.draining:
            raise draining
        if self.receiving >= self.most_bodies:
            raise Refused(503, "busy", f"{self.most_bodies} bodies are being received; try again")
        self.receiving += 1
        try:
            async with asyncio.timeout(seconds) as clock:
                self._clocks.add(clock)
                try:
                    yield
                finally:
                    self._clocks.discard(clock)
        except TimeoutError:
            if self.draining:
                raise draining from None
            raise Refused(408, "too_slow", f"the body did not come in {seconds:g} s") from None
        finally:
            self.receiving -= 1

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold a place; also while the server drains, for a body whose receiving had begun.

        Raises:
            Refused: there is none.
        """
        if self.inside >= self.most:
            raise Refused(503, "busy", f"{self.most} requests are being answered; try again")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
