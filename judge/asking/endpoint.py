"""Asks an OpenAI-compatible endpoint: many requests in flight, patient with failures that pass, each paid once.

A reply is stored the moment it comes, so an interruption loses only what is in flight. A failure that may pass (429,
5xx, lost connections, time-outs, replies that are no chat completion) is tried again, after the seconds the endpoint
asks for with `Retry-After` or else after a doubling wait; a 429 holds all requests back. A failure that
will not pass ends the run when it concerns every request (a wrong key), and is recorded when it concerns one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from configs.errors import UserError
from configs.terminal import progress_bar
from judge.asking.budget import Price, Tokens, counted, dollars, in_words, most, usual
from judge.asking.rate_limit import Pace, retry_after_s, wait_s
from judge.asking.replies import (
    Failure,
    LastingFailure,
    PassingFailure,
    one_line,
    read_reply,
    said_in_error,
    without_key,
)
from judge.asking.store import IN_BATCHES, ChatRequest, Claim, Cost, Reply, ReplyStore

LONGEST_RETRY_AFTER_S = 900.0
"""An endpoint that asks for more is treated as failing; the next run asks again."""
BREAKER = 20
"""So many requests given up in a row, without a reply between them, end the run."""
BREAKER_TRIES, BREAKER_S = 2, 60.0
"""So many failed tries for each request in flight, and so many seconds, without a reply end the run too."""
PASSING_STATUS = (408, 409, 425, 429)
POLL_S = 0.1
"""Seconds between two looks at what another process on the same store is asking."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask. The key stands in no text that this class or its errors produce."""

    base_url: str
    api_key: str = field(repr=False)
    concurrency: int = 32
    requests_per_minute: float | None = None
    timeout_s: float = 120.0
    max_retries: int = 6
    tokens_per_minute: float | None = None
    price: Price | None = None
    max_cost: float | None = None
    batch: bool = False
    poll_s: float = 30.0
    model: str = ""
    other_price: Price | None = None
    """Of the same model asked the other way, in batches or live; the cap is of both together."""

    @property
    def account(self) -> str:
        """Who is paid, as it stands in the store's ledger."""
        return f"{self.model} at {self.base_url}" + (IN_BATCHES if self.batch else "")

    @property
    def other(self) -> tuple[str, Price] | None:
        """The account and price of the other way to ask; None where there is no price."""
        account = replace(self, batch=not self.batch).account
        return None if self.other_price is None else (account, self.other_price)

    def cost(self, request: ChatRequest) -> Cost:
        """The most that a request can cost here."""
        return Cost(self.account, most(request.body), self.price, self.max_cost, self.other)

    def spent(self, store: ReplyStore) -> tuple[float, float] | None:
        """Dollars paid in all runs, live and in batches; None where the price is not known."""
        if self.price is None:
            return None
        here = self.price.of(store.spent(self.account))
        there = self.other[1].of(store.spent(self.other[0])) if self.other else 0.0
        return (there, here) if self.batch else (here, there)


Named = tuple[str, ChatRequest]
"""A request and its key."""


def ask_all(
    requests: Sequence[ChatRequest], endpoint: Endpoint, store: ReplyStore, what: str = "asking the judge"
) -> list[Reply | Failure]:
    """Answer every request, from the store or from the endpoint; equal requests are asked once.

    Returns:
        One reply or failure a request, in their order.

    Raises:
        UserError: the endpoint refuses the key or does not know the model, or everything fails.
    """
    answered = _answers(requests, endpoint, store, what)
    failures = [outcome for outcome in answered.values() if isinstance(outcome, Failure)]
    if failures and len(failures) == len(answered):
        raise UserError(gave_up(endpoint, len(failures), failures[-1]))
    return [answered[request.key] for request in requests]


def ask_one(
    request: ChatRequest, endpoint: Endpoint, store: ReplyStore, what: str = "first request"
) -> Reply | Failure:
    """Answer one request, whose failure says nothing of the others."""
    return _answers([request], endpoint, store, what)[request.key]


def _answers(
    requests: Sequence[ChatRequest], endpoint: Endpoint, store: ReplyStore, what: str
) -> dict[str, Reply | Failure]:
    unique = {request.key: request for request in requests}
    answered: dict[str, Reply | Failure] = {}
    for key in unique:
        reply = store.get(key)
        if reply is not None:
            answered[key] = reply
    missing = {key: request for key, request in unique.items() if key not in answered}
    if missing and endpoint.batch:
        from judge.asking.batch_api import ask_in_batches  # which asks this module what an endpoint is

        answered.update(ask_in_batches(missing, endpoint, store, what))
    elif missing:
        refuse_open_batches(store)
        largest = max(sum(astuple(usual(request.body))) for request in missing.values())
        answered.update(asyncio.run(_Asking(endpoint, store, bool(answered), largest).ask(missing, what)))
    return answered


def refuse_open_batches(store: ReplyStore) -> None:
    """A request in an open batch is being paid for; asking it here too would pay for it twice."""
    if store.open_batches():
        raise UserError(
            f"judge: {len(store.batched()):,} requests are in batches that were handed in and not collected; run the "
            "same command with judge.batch=true to collect them"
        )


def gave_up(endpoint: Endpoint, times: int, last: Failure) -> str:
    """The sentence for an endpoint that answers nothing."""
    return (
        f"judge: {endpoint.base_url} failed {times} times in a row, the last time with: {last.error}; see that it is "
        "reachable and run the same command again, the replies so far are kept"
    )


class _Asking:
    """One run of requests against one endpoint."""

    def __init__(self, endpoint: Endpoint, store: ReplyStore, any_reply: bool, largest: int) -> None:
        self.endpoint = endpoint
        self.address = f"{endpoint.base_url.rstrip('/')}/chat/completions"
        self.store = store
        self.any_reply = any_reply
        self.failed_in_a_row = 0
        self.tries_in_a_row = 0
        self.last_reply_at = time.monotonic()
        self.answered: dict[str, Reply | Failure] = {}
        self.asked_elsewhere: list[Named] = []
        self.pace = Pace(endpoint.requests_per_minute, endpoint.tokens_per_minute, largest)

    async def ask(self, missing: dict[str, ChatRequest], what: str) -> dict[str, Reply | Failure]:
        left = list(missing.items())
        with progress_bar(len(missing), what) as bar:
            async with _session(self.endpoint) as session:
                while left:
                    self.asked_elsewhere = []
                    await self._work_together(session, left, bar)
                    if len(self.asked_elsewhere) == len(left):
                        await asyncio.sleep(POLL_S)
                    left = self.asked_elsewhere
        return self.answered

    async def _work_together(self, session: aiohttp.ClientSession, left: list[Named], bar: Any) -> None:
        waiting = iter(left)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.endpoint.concurrency, len(left))):
                    group.create_task(self._work(session, waiting, bar))
        except BaseExceptionGroup as errors:
            for_users, rest = errors.split(UserError)
            if rest is not None or for_users is None:
                raise
            raise for_users.exceptions[0] from None

    async def _work(self, session: aiohttp.ClientSession, waiting: Iterator[Named], bar: Any) -> None:
        for key, request in waiting:
            claim = await self._claim(key, self.endpoint.cost(request))
            if claim != "mine":
                self.asked_elsewhere.append((key, request))
                continue
            lost = True  # where this task is cancelled with its request in flight
            try:
                # Looked up under the claim: another process may have got the reply a moment ago.
                self.answered[key] = self.store.get(key) or await self._answer(session, key, request)
                lost = False
            except UserError:
                lost = False  # the endpoint refused, or the store did
                raise
            finally:
                self.store.release(key, lost and self.any_reply)
            self._show(bar)

    async def _claim(self, key: str, cost: Cost) -> Claim:
        """Reserve a request; near the cap, wait until what is in flight has shown what it costs."""
        while (claim := self.store.claim(key, cost)) == "over the cap":
            if self.store.reserved(cost.account) == Tokens() or cost.price is None or cost.cap is None:
                raise UserError(over_the_cap(self.endpoint, self.store))
            await asyncio.sleep(POLL_S)
        return claim

    async def _answer(self, session: aiohttp.ClientSession, key: str, request: ChatRequest) -> Reply | Failure:
        tries = self.endpoint.max_retries + 1
        cost = self.endpoint.cost(request)
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(tries),
                wait=lambda state: _wait_s(state, key),
                retry=retry_if_exception_type(PassingFailure),
                reraise=True,
            ):
                with attempt:
                    reply = await self._ask_once(session, key, request)
        except PassingFailure as error:
            return self._failed(Failure(f"{error} ({tries} tries)", passing=True))
        except LastingFailure as error:
            return self._failed(Failure(str(error), error.passing))
        self.failed_in_a_row, self.tries_in_a_row, self.any_reply = 0, 0, True
        self.last_reply_at = time.monotonic()
        return self.store.put(key, request, reply, cost.account, counted(reply.usage, cost.tokens))

    async def _ask_once(self, session: aiohttp.ClientSession, key: str, request: ChatRequest) -> Reply:
        usually = usual(request.body)
        await self.pace.turn(usually.prompt + usually.reply)
        try:
            async with session.post(self.address, data=json.dumps(request.body).encode()) as response:
                content = await response.read()
            if response.status == 200:
                return without_key(read_reply(json.loads(content)), self.endpoint.api_key)
        except (PassingFailure, aiohttp.ClientError, OSError, ValueError, RecursionError, TimeoutError) as error:
            self._stumbled()
            if not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
                self.store.count_lost(key)  # it may have been sent, and paid for
                self._stay_under_the_cap(self.endpoint.cost(request))
            raise PassingFailure(self._clean(_in_words(error, self.endpoint.timeout_s))) from None
        raise self._judged(response.status, content, response.headers)

    def _stay_under_the_cap(self, cost: Cost) -> None:
        """A lost try leaves its reservation for the next one, which has to fit as well."""
        if self.store.over_the_cap(cost, Tokens()):
            raise LastingFailure("a further try could cost more than judge.max_cost leaves", passing=True)

    def _stumbled(self) -> None:
        """Count a try that failed; when nothing else has happened for long enough, the endpoint is gone."""
        self.tries_in_a_row += 1
        silent_s = time.monotonic() - self.last_reply_at
        if self.tries_in_a_row >= BREAKER_TRIES * self.endpoint.concurrency and silent_s >= BREAKER_S:
            raise UserError(
                f"judge: {self.endpoint.base_url} failed {self.tries_in_a_row} tries in {silent_s:.0f} s without a "
                "reply between them; see that it is reachable and run the same command again, replies so far are kept"
            )

    def _show(self, bar: Any) -> None:
        """Move the bar; it shows the rate, the time left and what was spent."""
        spent = self.endpoint.spent(self.store)
        if spent is not None:
            bar.set_postfix_str(f"{dollars(sum(spent))} spent", refresh=False)
        bar.update()

    def _judged(self, status: int, content: bytes, headers: Mapping[str, str]) -> Exception:
        """What a status means: it may pass, it concerns this request, or it concerns all of them."""
        message, code = said_in_error(content)
        line = self._clean(f"HTTP {status}: {message}")
        where = f"judge: {self.endpoint.base_url}"
        if status == 401 or (status == 403 and not self.any_reply):  # later, 403 is moderation of one text
            return UserError(f"{where} refuses the key ({line}); look at the variable that judge.api_key_env names")
        if status == 404:
            return UserError(f"{where} knows no such address or model ({line}); look at judge.base_url and judge.model")
        if code == "insufficient_quota":
            return UserError(f"{where} says that the quota is used up ({line}); the replies so far are kept")
        if status in PASSING_STATUS or status >= 500:
            if status != 429:
                self._stumbled()
            retry_after = retry_after_s(headers)
            if retry_after is not None and retry_after > LONGEST_RETRY_AFTER_S:
                return LastingFailure(f"{line}; asked to wait {retry_after:.0f} s", passing=True)
            if retry_after is not None:
                self.pace.hold(retry_after)
            return PassingFailure(line, retry_after)
        return LastingFailure(line)

    def _failed(self, failure: Failure) -> Failure:
        """Count a failure; a row of them ends the run, unless they are the few requests that nothing will mend."""
        if failure.passing or not self.any_reply:
            self.failed_in_a_row += 1
        if self.failed_in_a_row >= BREAKER:
            raise UserError(gave_up(self.endpoint, self.failed_in_a_row, failure))
        return failure

    def _clean(self, text: str) -> str:
        return one_line(text, self.endpoint.api_key)


def over_the_cap(endpoint: Endpoint, store: ReplyStore) -> str:
    """The sentence for a cap that leaves no room for a further request."""
    spent = endpoint.spent(store)
    paid = f"{in_words(*spent)} are spent, and " if spent is not None else ""
    return (
        f"judge: {paid}the next request could cost more than judge.max_cost ({dollars(endpoint.max_cost or 0.0)}) "
        "leaves; the "
        "replies so far are kept, raise the cap and run the same command again"
    )


def _session(endpoint: Endpoint) -> aiohttp.ClientSession:
    """Connections for one run. The `openai` package would take three times the time of a request for its own work."""
    loopback = urlsplit(endpoint.base_url).hostname in LOOPBACK
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=endpoint.timeout_s),
        headers={"Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"},
        trust_env=not loopback,  # a proxy from the environment would be asked for 127.0.0.1 too
    )


def _in_words(error: BaseException, timeout_s: float) -> str:
    if isinstance(error, PassingFailure):
        return str(error)
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no reply within {timeout_s:g} s"
    if isinstance(error, aiohttp.ClientError | OSError):
        return f"no connection: {error or type(error).__name__}"
    return "the reply is no JSON"


def _wait_s(state: RetryCallState, key: str) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return wait_s(state.attempt_number, error.retry_after if isinstance(error, PassingFailure) else None, key)
