"""When the next request may leave: limits on requests and tokens, and the pauses that an endpoint asks for."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Mapping

from aiolimiter import AsyncLimiter

from configs.keyed import keyed_uniform

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
BURST_S = 0.5
"""A limit's bucket holds this many seconds of requests: a bucket of a minute's would begin with a storm."""


class Pace:
    """One run's turns: spread over time by the limits, and all held back where the endpoint says 429.

    Args:
        requests_per_minute, tokens_per_minute: the endpoint's limits; None for none.
        largest: tokens of the largest request, which the bucket of tokens has to hold.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None, largest: int = 1) -> None:
        self.held_until = 0.0
        self._requests = _bucket(requests_per_minute, 1.0)
        self._tokens = _bucket(tokens_per_minute, float(max(1, largest)))

    async def turn(self, tokens: int) -> None:
        """Wait until a request of so many tokens may leave."""
        while True:
            await self._while_held()
            if self._tokens is not None:
                await self._tokens.acquire(min(float(tokens), self._tokens.max_rate))
            if self._requests is not None:
                await self._requests.acquire()
            if self.held_until <= time.monotonic():
                return

    def hold(self, seconds: float) -> None:
        """Let nothing leave for so long."""
        self.held_until = max(self.held_until, time.monotonic() + seconds)

    async def _while_held(self) -> None:
        while (left := self.held_until - time.monotonic()) > 0:
            await asyncio.sleep(left)


def wait_s(attempt: int, retry_after: float | None, key: str) -> float:
    """Seconds before the next try: what the endpoint asked for, else doubling, with jitter keyed by the request.

    Args:
        attempt: how many tries there were.
        retry_after: what the endpoint asked for, in seconds.
        key: the request's key.
    """
    jitter = keyed_uniform(0, "retry", key, attempt)
    if retry_after is not None:
        return retry_after * (1 + 0.1 * jitter)
    return float(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)) * (0.5 + jitter))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a `Retry-After` header (a number or a date, or milliseconds in `retry-after-ms`); None without one."""
    milliseconds, text = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        if text is None:
            return None
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text or "").timestamp() - time.time())
    except ValueError:
        return None


def _bucket(per_minute: float | None, least: float) -> AsyncLimiter | None:
    if per_minute is None:
        return None
    burst = max(least, per_minute / 60 * BURST_S)
    return AsyncLimiter(burst, burst * 60 / per_minute)
