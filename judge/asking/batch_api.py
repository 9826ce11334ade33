"""OpenAI's Batch API: requests handed in as a file, answered within a day at half the price.

Hand in, look now and then, collect. What was handed in is noted in the store before it leaves and again when it has a
name, so the same command, run after a kill at any moment, finds the batch and collects it instead of paying twice. A
batch that was handed in but not named yet is known by a word in its metadata.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types import Batch

from configs.errors import UserError
from configs.runfolder import locked
from configs.terminal import progress_bar, say
from judge.asking.budget import Tokens, counted
from judge.asking.endpoint import LOOPBACK, Endpoint, over_the_cap
from judge.asking.replies import Failure, PassingFailure, one_line, read_reply, without_key
from judge.asking.store import ChatRequest, Reply, ReplyStore

MOST_REQUESTS = 50_000
MOST_BYTES = 190 * 2**20
"""Limits of one batch; OpenAI's are 50,000 and 200 MB."""
NOTE = "rewardladder"
"""Key in a batch's metadata under which its own word stands."""
UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")
UNMENDED = (400, 403, 404, 413, 422)
"""Statuses of single requests that asking again would meet again."""


def ask_in_batches(
    missing: Mapping[str, ChatRequest], endpoint: Endpoint, store: ReplyStore, what: str
) -> dict[str, Reply | Failure]:
    """Answer requests that have no stored reply; returns when every batch has ended, within a day.

    Raises:
        UserError: the endpoint refuses, or does not answer, or the requests could cost more than the cap leaves.
    """
    with contextlib.ExitStack() as stack:
        folder = store.path.with_suffix(".batches")
        folder.mkdir(exist_ok=True)
        stack.enter_context(locked(folder))  # another process waits here, and then finds the replies
        loopback = urlsplit(endpoint.base_url).hostname in LOOPBACK
        client = stack.enter_context(
            openai.OpenAI(
                base_url=endpoint.base_url,
                api_key=endpoint.api_key,
                max_retries=endpoint.max_retries,
                http_client=openai.DefaultHttpxClient(trust_env=not loopback, timeout=endpoint.timeout_s),
            )
        )
        batches = _Batches(endpoint, store, client, dict(missing))
        try:
            return batches.answer(what)
        except openai.OpenAIError as error:
            line = one_line(f"{type(error).__name__}: {error}", endpoint.api_key)
            raise UserError(
                f"judge: the Batch API of {endpoint.base_url} failed ({line}); what was handed in goes on, run the "
                "same command again to collect it"
            ) from None


class _Batches:
    """The batches of one run."""

    def __init__(
        self,
        endpoint: Endpoint,
        store: ReplyStore,
        client: openai.OpenAI,
        missing: dict[str, ChatRequest],
    ) -> None:
        self.endpoint, self.store, self.client = endpoint, store, client
        self.missing = missing
        self.under_way: dict[str, ChatRequest] = {}
        self.answered: dict[str, Reply | Failure] = {}

    def answer(self, what: str) -> dict[str, Reply | Failure]:
        self._look_in_the_store()
        names = self._found_again()
        left = {key: r for key, r in self.missing.items() if key not in self.answered and key not in self.under_way}
        names += [self._hand_in(part) for part in parts(left)]
        self._wait(names, what)
        self._look_in_the_store()
        nothing = Failure("the batch ended without a reply to this request", passing=True)
        return {key: self.answered.get(key, nothing) for key in self.missing}

    def _look_in_the_store(self) -> None:
        for key in self.missing:
            if (reply := self.store.get(key)) is not None:
                self.answered[key] = reply

    def _found_again(self) -> list[tuple[str, str]]:
        """Our word and the endpoint's name of the batches that earlier runs handed in."""
        noted = self.store.open_batches()
        if None in noted.values():
            for batch in self.client.batches.list(limit=100):
                nonce = (batch.metadata or {}).get(NOTE)
                if nonce in noted and noted[nonce] is None:
                    self.store.name_batch(nonce, batch.id)
                    noted[nonce] = batch.id
        for nonce in [nonce for nonce, name in noted.items() if name is None]:
            self.store.forget_batch(nonce)  # it never arrived
        found = [(nonce, name) for nonce, name in noted.items() if name is not None]
        if found:
            say(f"judge: collecting {len(found)} batches that were handed in before")
        self.under_way = self.store.batched()
        return found

    def _hand_in(self, part: dict[str, ChatRequest]) -> tuple[str, str]:
        costs = {key: self.endpoint.cost(request).tokens for key, request in part.items()}
        any_of_them = self.endpoint.cost(next(iter(part.values())))
        if self.store.over_the_cap(any_of_them, sum(costs.values(), Tokens())):
            raise UserError(over_the_cap(self.endpoint, self.store))
        nonce = secrets.token_hex(8)
        content = "".join(_line(key, request) for key, request in part.items()).encode()
        uploaded = self.client.files.create(file=(f"{nonce}.jsonl", content), purpose="batch")
        self.store.note_batch(nonce, {key: (request, costs[key]) for key, request in part.items()})
        # Not tried again by the client: a second batch of the same requests would be paid for as well.
        batch = self.client.with_options(max_retries=0).batches.create(
            input_file_id=uploaded.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={NOTE: nonce},
        )
        self.store.name_batch(nonce, batch.id)
        self.under_way |= part
        say(f"judge: handed in batch {batch.id} with {len(part):,} requests; Ctrl-C leaves it under way")
        return nonce, batch.id

    def _wait(self, names: list[tuple[str, str]], what: str) -> None:
        waiting = dict(names)
        done: dict[str, int] = {}
        with progress_bar(len(self.missing) - len(self.answered), f"{what}, in batches") as bar:
            while waiting:
                for nonce, name in list(waiting.items()):
                    batch = self.client.batches.retrieve(name)
                    counts = batch.request_counts
                    done[nonce] = (counts.completed + counts.failed) if counts else 0
                    if batch.status not in UNDER_WAY:
                        self._collect(nonce, batch)
                        del waiting[nonce]
                bar.update(sum(done.values()) - bar.n)
                if waiting:
                    time.sleep(self.endpoint.poll_s)

    def _collect(self, nonce: str, batch: Batch) -> None:
        """Keep all replies of an ended batch, and then forget it."""
        if batch.status == "failed":
            self.store.forget_batch(nonce)
            errors = batch.errors.data if batch.errors and batch.errors.data else []
            said = "; ".join(str(error.message) for error in errors[:3]) or "no reason given"
            line = one_line(said, self.endpoint.api_key)
            raise UserError(f"judge: {self.endpoint.base_url} refused batch {batch.id}: {line}")
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                for record in _records(self.client.files.content(file).text):
                    self._keep(record)
        self.store.forget_batch(nonce)

    def _keep(self, record: dict[str, Any]) -> None:
        key, response, error = record.get("custom_id"), record.get("response") or {}, record.get("error")
        request = self.under_way.get(key) if isinstance(key, str) else None
        if request is None or not isinstance(key, str):
            return
        status = response.get("status_code")
        if status == 200:
            most = self.endpoint.cost(request).tokens
            try:
                reply = without_key(read_reply(response.get("body")), self.endpoint.api_key)
            except PassingFailure as failure:
                self.store.lose(self.endpoint.account, most)
                self.answered[key] = Failure(str(failure), passing=True)
                return
            paid = counted(reply.usage, most)
            self.answered[key] = self.store.put(key, request, reply, self.endpoint.account, paid)
            return
        said = error or (response.get("body") or {}).get("error") or "no reason given"
        line = one_line(f"HTTP {status}: {json.dumps(said)}", self.endpoint.api_key)
        self.answered[key] = Failure(line, passing=status not in UNMENDED)


def parts(requests: Mapping[str, ChatRequest]) -> Iterator[dict[str, ChatRequest]]:
    """Requests in portions that one batch can hold."""
    part: dict[str, ChatRequest] = {}
    size = 0
    for key, request in requests.items():
        length = len(_line(key, request))
        if part and (len(part) == MOST_REQUESTS or size + length > MOST_BYTES):
            yield part
            part, size = {}, 0
        part[key] = request
        size += length
    if part:
        yield part


def _line(key: str, request: ChatRequest) -> str:
    """One line of a batch's file; ASCII, so that characters are bytes."""
    record = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": request.body}
    return json.dumps(record) + "\n"


def _records(text: str) -> Iterator[dict[str, Any]]:
    """The records of a result file; a line that is none is a request without a reply."""
    for line in text.split("\n"):
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record
