"""The world's gold behind `/v1/chat/completions`, on this machine, for as long as a run needs it.

It gets nothing but what a model would get: the rendered prompt. It takes the conversation and both answers out of it,
looks the conversation up, grades the answers and replies in the words a model would use. The path that is tested on an
offline world is thereby the path that a user of GPT-4o takes.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from configs.errors import UserError
from configs.records import canonical_json
from judge.config import GOLD_MODEL, PromptName
from judge.prompting import read_rendered
from judge.verdicts import Shown, write_verdict
from tasks.records import Prompt, Task

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class LocalEndpoint:
    """Where the endpoint listens, and the key it wants, which is new each time."""

    base_url: str
    api_key: str


class GoldJudge:
    """Decides by the task's grader which of two answers is better."""

    def __init__(self, task: Task, prompts: Sequence[Prompt], margin: float) -> None:
        self.task = task
        self.margin = margin
        self.by_messages = {canonical_json(prompt.messages): prompt for prompt in prompts}
        self._golds: dict[tuple[str, str], float] = {}

    def decide(self, messages: list[dict[str, str]], first: str, second: str) -> tuple[Shown, str]:
        """The verdict on two answers in the order shown, and its reason in words.

        Raises:
            LookupError: the conversation is none of the task's, or an answer cannot be graded.
        """
        prompt = self.by_messages.get(canonical_json(messages))
        if prompt is None:
            raise LookupError("the conversation is no prompt of the task")
        gold_first, gold_second = self._gold(prompt, first), self._gold(prompt, second)
        reason = f"The first response is worth {gold_first:.4f}, the second {gold_second:.4f}."
        return by_margin(gold_first, gold_second, self.margin), reason

    def _gold(self, prompt: Prompt, answer: str) -> float:
        key = (prompt.prompt_id, answer)
        if key not in self._golds:
            completion = self.task.present(answer)
            if self.task.read(completion).answer != answer:
                raise LookupError("the task's format cannot hold this answer")
            gold = self.task.grade(prompt, completion).gold
            if gold is None:
                raise LookupError(f"the task knows no gold for an answer to {prompt.prompt_id}")
            self._golds[key] = gold
        return self._golds[key]


def by_margin(gold_first: float, gold_second: float, margin: float) -> Shown:
    """`first` or `second` where the golds (0..1) differ by more than `margin`, else `tie`."""
    difference = gold_first - gold_second
    if abs(difference) <= margin:
        return "tie"
    return "first" if difference > 0 else "second"


@contextlib.contextmanager
def serve_gold(judge: GoldJudge, prompt: PromptName) -> Iterator[LocalEndpoint]:
    """Serve a gold judge on a free port of 127.0.0.1 in a thread, and stop it at the end."""
    key = secrets.token_urlsafe(16)
    app = _application(lambda body: _complete(judge, prompt, body), key)
    with serve_app(app, "the gold endpoint did not start on 127.0.0.1; use judge.kind=gold instead") as port:
        yield LocalEndpoint(f"http://127.0.0.1:{port}/v1", key)


@contextlib.contextmanager
def serve_app(app: Starlette, failed: str) -> Iterator[int]:
    """Serve an application on a free port of 127.0.0.1 in a thread, and stop it at the end; yields the port."""
    # The protocol is named because asyncio switches Nagle's algorithm off only for sockets that say TCP; with it, every
    # reply waits 40 ms for an acknowledgement.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="local server", daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise UserError(f"judge: {failed}")
            time.sleep(0.01)
        yield int(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(STOP_TIMEOUT_S)
        listening.close()


def _application(complete: Callable[[dict[str, Any]], dict[str, Any]], key: str) -> Starlette:
    """`POST /v1/chat/completions` and `GET /v1/models`, for requests with the key."""

    async def chat(request: Request) -> Response:
        if not secrets.compare_digest(request.headers.get("authorization", ""), f"Bearer {key}"):
            return _json({"error": {"message": "wrong key", "type": "authentication_error"}}, 401)
        try:
            return _json(complete(json.loads(await request.body())), 200)
        except (LookupError, TypeError, ValueError) as error:
            return _json({"error": {"message": str(error), "type": "invalid_request_error"}}, 400)

    async def models(_: Request) -> Response:
        return _json({"object": "list", "data": [{"id": GOLD_MODEL, "object": "model"}]}, 200)

    return Starlette(
        routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/models", models, methods=["GET"])]
    )


def _complete(judge: GoldJudge, prompt: PromptName, body: dict[str, Any]) -> dict[str, Any]:
    """The chat completion to one request; nothing in it depends on the time or on earlier requests."""
    rendered = body["messages"][-1]["content"]
    texts = read_rendered(rendered)
    if texts is None:
        raise LookupError("the last message is no prompt of the judge")
    verdict, reason = judge.decide(texts.messages, texts.first, texts.second)
    content = write_verdict(verdict, reason, prompt)
    asked, said = len(rendered.split()), len(content.split())
    return {
        "id": "chatcmpl-gold",
        "object": "chat.completion",
        "created": 0,
        "model": GOLD_MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }


def _json(record: dict[str, Any], status: int) -> Response:
    return Response(json.dumps(record), status, media_type="application/json")
