"""Asks an OpenAI-compatible endpoint: many requests in flight, patient with failures that pass, each paid once.

A reply is stored the moment it comes, so an interruption loses only what is in flight. A failure that may pass (429,
5xx, lost connections, time-outs, replies that are no chat completion) is tried again, after the seconds the endpoint
asks for with `Retry-After` or else after a doubling wait; a 429 holds all requests back, not only its own. A failure
that will not pass ends the run when it concerns every request (a wrong key), and is recorded when it concerns one.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from configs.errors import UserError
from configs.keyed import keyed_uniform
from configs.terminal import progress_bar
from judge.store import ChatRequest, Reply, ReplyStore

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
LONGEST_RETRY_AFTER_S = 900.0
"""An endpoint that asks for more is treated as failing; the next run asks again."""
BREAKER = 20
"""So many failures in a row, without a reply between them, end the run."""
ERROR_LENGTH = 300
SHORTEST_SECRET = 8
PASSING_STATUS = (408, 409, 425, 429)
POLL_S = 0.1
"""Seconds between two looks at requests that another process on the same store is asking."""
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


@dataclass(frozen=True)
class Failure:
    """Why a request has no reply, in one line. `passing` failures are worth another run."""

    error: str
    passing: bool


Named = tuple[str, ChatRequest]
"""A request and its key."""


class PassingFailure(Exception):
    """A failure that may pass, and after how many seconds the endpoint wants to be asked again."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class LastingFailure(Exception):
    """A failure of this one request that asking again, at least in this run, will not mend."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


def ask_all(
    requests: Sequence[ChatRequest], endpoint: Endpoint, store: ReplyStore, what: str = "asking the judge"
) -> list[Reply | Failure]:
    """Answer every request, from the store or from the endpoint; equal requests are asked once.

    Returns:
        One reply or failure a request, in their order.

    Raises:
        UserError: the endpoint refuses the key or does not know the model, or everything fails.
    """
    unique = {request.key: request for request in requests}
    answered: dict[str, Reply | Failure] = {}
    for key in unique:
        reply = store.get(key)
        if reply is not None:
            answered[key] = reply
    missing = {key: request for key, request in unique.items() if key not in answered}
    if missing:
        answered.update(asyncio.run(_Asking(endpoint, store, bool(answered)).ask(missing, what)))
    failures = [outcome for outcome in answered.values() if isinstance(outcome, Failure)]
    if failures and len(failures) == len(answered):
        raise UserError(gave_up(endpoint, len(failures), failures[-1]))
    return [answered[request.key] for request in requests]


def gave_up(endpoint: Endpoint, times: int, last: Failure) -> str:
    """The sentence for an endpoint that answers nothing."""
    return (
        f"judge: {endpoint.base_url} failed {times} times in a row, the last time with: {last.error}; see that it is "
        "reachable and run the same command again, the replies so far are kept"
    )


def read_reply(completion: Any) -> Reply:
    """A chat completion, as parsed from JSON, as a record.

    Raises:
        PassingFailure: it is not a chat completion (an error page, no choices, content that is no text).
    """
    try:
        choice = completion["choices"][0]
        message = choice["message"]
        content, refusal, finish_reason = message.get("content"), message.get("refusal"), choice.get("finish_reason")
        usage = completion.get("usage") or {}
        tokens = {
            name: int(usage[name]) for name in ("prompt_tokens", "completion_tokens") if usage.get(name) is not None
        }
        model, fingerprint = completion.get("model"), completion.get("system_fingerprint")
    except (ValueError, TypeError, LookupError, AttributeError):
        raise PassingFailure("the reply is no chat completion") from None
    if not all(isinstance(text, (str, type(None))) for text in (content, refusal, finish_reason, model, fingerprint)):
        raise PassingFailure("the reply is no chat completion of text")
    if content is None and not refusal and finish_reason not in ("length", "content_filter"):
        raise PassingFailure("the reply has no content")
    return Reply(
        _storable(content) or "",
        _storable(refusal),
        finish_reason,
        _storable(model),
        _storable(fingerprint),
        tokens or None,
    )


def without_key(reply: Reply, key: str) -> Reply:
    """The reply without the key, which an endpoint that echoes the request's headers puts into its words.

    A key shorter than `SHORTEST_SECRET` is a placeholder for an endpoint that wants none, and may be part of a word.
    """
    if len(key) < SHORTEST_SECRET:
        return reply
    clean: dict[str, Any] = {
        name: value.replace(key, "[key]") if isinstance(value, str) else value for name, value in asdict(reply).items()
    }
    return Reply(**clean)


class _Asking:
    """One run of requests against one endpoint."""

    def __init__(self, endpoint: Endpoint, store: ReplyStore, any_reply: bool) -> None:
        self.endpoint = endpoint
        self.store = store
        self.any_reply = any_reply
        self.held_until = 0.0
        self.failed_in_a_row = 0
        self.answered: dict[str, Reply | Failure] = {}
        self.asked_elsewhere: list[Named] = []
        self.limiter = _limiter(endpoint.requests_per_minute)

    async def ask(self, missing: dict[str, ChatRequest], what: str) -> dict[str, Reply | Failure]:
        left = list(missing.items())
        loopback = urlsplit(self.endpoint.base_url).hostname in LOOPBACK
        http = openai.DefaultAsyncHttpxClient(
            trust_env=not loopback,  # a proxy from the environment would be asked for 127.0.0.1 too
            timeout=self.endpoint.timeout_s,
        )
        with progress_bar(len(missing), what) as bar:
            async with openai.AsyncOpenAI(
                base_url=self.endpoint.base_url, api_key=self.endpoint.api_key, max_retries=0, http_client=http
            ) as client:
                while left:
                    self.asked_elsewhere = []
                    await self._work_together(client, left, bar)
                    if len(self.asked_elsewhere) == len(left):
                        await asyncio.sleep(POLL_S)
                    left = self.asked_elsewhere
        return self.answered

    async def _work_together(self, client: openai.AsyncOpenAI, left: list[Named], bar: Any) -> None:
        waiting = iter(left)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.endpoint.concurrency, len(left))):
                    group.create_task(self._work(client, waiting, bar))
        except BaseExceptionGroup as errors:
            for_users, rest = errors.split(UserError)
            if rest is not None or for_users is None:
                raise
            raise for_users.exceptions[0] from None

    async def _work(self, client: openai.AsyncOpenAI, waiting: Iterator[Named], bar: Any) -> None:
        for key, request in waiting:
            if not self.store.claim(key):
                self.asked_elsewhere.append((key, request))
                continue
            try:
                # Looked up under the claim: another process may have got the reply a moment ago.
                self.answered[key] = self.store.get(key) or await self._answer(client, key, request)
            finally:
                self.store.release(key)
            bar.update()

    async def _answer(self, client: openai.AsyncOpenAI, key: str, request: ChatRequest) -> Reply | Failure:
        tries = self.endpoint.max_retries + 1
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(tries),
                wait=lambda state: _wait_s(state, key),
                retry=retry_if_exception_type(PassingFailure),
                reraise=True,
            ):
                with attempt:
                    reply = await self._ask_once(client, request)
        except PassingFailure as error:
            return self._failed(Failure(f"{error} ({tries} tries)", passing=True))
        except LastingFailure as error:
            return self._failed(Failure(str(error), error.passing))
        self.failed_in_a_row, self.any_reply = 0, True
        return self.store.put(key, request, reply)

    async def _ask_once(self, client: openai.AsyncOpenAI, request: ChatRequest) -> Reply:
        while (left := self.held_until - time.monotonic()) > 0:
            await asyncio.sleep(left)
        if self.limiter is not None:
            await self.limiter.acquire()
        try:
            # The generic request: the typed one walks through all messages, at an eighth of the time of a request.
            completion = await client.post("/chat/completions", body=request.body, cast_to=object)
            if isinstance(completion, str):  # what came was not called JSON
                completion = json.loads(completion)
        except openai.APIStatusError as error:
            raise self._judged(error) from None
        except openai.APIConnectionError as error:
            cause = f": {error.__cause__}" if error.__cause__ else ""
            raise PassingFailure(self._clean(f"{type(error).__name__}{cause}")) from None
        except (ValueError, RecursionError):
            raise PassingFailure("the reply is no JSON") from None
        return without_key(read_reply(completion), self.endpoint.api_key)

    def _judged(self, error: openai.APIStatusError) -> Exception:
        """What a status means: it may pass, it concerns this request, or it concerns all of them."""
        status = error.status_code
        line = self._clean(f"HTTP {status}: {error.message}")
        where = f"judge: {self.endpoint.base_url}"
        if status == 401 or (status == 403 and not self.any_reply):  # later, 403 is moderation of one text
            return UserError(f"{where} refuses the key ({line}); look at the variable that judge.api_key_env names")
        if status == 404:
            return UserError(f"{where} knows no such address or model ({line}); look at judge.base_url and judge.model")
        if error.code == "insufficient_quota":
            return UserError(f"{where} says that the quota is used up ({line}); the replies so far are kept")
        if status in PASSING_STATUS or status >= 500:
            retry_after = _retry_after_s(error.response.headers)
            if retry_after is not None and retry_after > LONGEST_RETRY_AFTER_S:
                return LastingFailure(f"{line}; asked to wait {retry_after:.0f} s", passing=True)
            if retry_after is not None:
                self.held_until = max(self.held_until, time.monotonic() + retry_after)
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
        """One short line without the key, which some endpoints repeat in their errors."""
        line = " ".join(text.split()).replace(self.endpoint.api_key, "[key]")
        return line if len(line) <= ERROR_LENGTH else f"{line[:ERROR_LENGTH]}…"


def _limiter(requests_per_minute: float | None) -> AsyncLimiter | None:
    """A leaky bucket of one second's requests: a bucket of a minute's would begin with a storm."""
    if requests_per_minute is None:
        return None
    burst = max(1.0, requests_per_minute / 60)
    return AsyncLimiter(burst, burst * 60 / requests_per_minute)


def _wait_s(state: RetryCallState, key: str) -> float:
    """Seconds before the next try: what the endpoint asked for, else doubling, with jitter keyed by the request."""
    error = state.outcome.exception() if state.outcome is not None else None
    jitter = keyed_uniform(0, "retry", key, state.attempt_number)
    if isinstance(error, PassingFailure) and error.retry_after is not None:
        return error.retry_after * (1 + 0.1 * jitter)
    return float(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (state.attempt_number - 1)) * (0.5 + jitter))


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
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


def _storable(text: str | None) -> str | None:
    """The text without lone surrogates, which JSON can carry and UTF-8 cannot."""
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
