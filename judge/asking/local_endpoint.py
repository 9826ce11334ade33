"""A scripted endpoint on this machine, cheap enough to measure clients with: HTTP/1.1 over asyncio and no more.

It is for measuring (judge/speed.py) and for tests; it reads well-formed requests of clients it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from configs.errors import UserError

START_TIMEOUT_S = 30.0
END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """What is sent back, and after how many seconds; infinitely many for never."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0


@dataclass(frozen=True)
class Call:
    """One request: method, path, headers (names in lower case) and body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Script = Callable[[Call], Answer | None]
"""What to answer; None closes the socket without a word."""


def completion(content: str | None, model: str = "stub-1", **choice: Any) -> bytes:
    """A chat completion with one choice, as JSON."""
    record = {
        "id": "x",
        "object": "chat.completion",
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop", **choice}
        ],
        "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320},
    }
    return json.dumps(record).encode()


@contextlib.contextmanager
def serving(script: Script) -> Iterator[str]:
    """Serve on a free port of 127.0.0.1 in a thread; yields the base URL, `http://127.0.0.1:PORT/v1`."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def serve() -> None:
        server = await loop.create_server(lambda: _Connection(script, loop), sock=listening)
        started.set()
        async with server:
            await server.serve_forever()

    def work() -> None:
        with contextlib.suppress(asyncio.CancelledError, RuntimeError):
            loop.run_until_complete(serve())

    thread = threading.Thread(target=work, name="local endpoint", daemon=True)
    thread.start()
    if not started.wait(START_TIMEOUT_S):
        raise UserError("the local endpoint did not start on 127.0.0.1")
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(START_TIMEOUT_S)
        listening.close()


class _Connection(asyncio.Protocol):
    """One client's connection, of which the requests are answered in turn."""

    def __init__(self, script: Script, loop: asyncio.AbstractEventLoop) -> None:
        self.script, self.loop = script, loop
        self.buffer = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (call := self._next()) is not None:
            answer = self.script(call)
            if answer is None:
                self.transport.abort()
                return
            if answer.after_s == 0.0:
                self.transport.write(_written(answer))
            elif answer.after_s != float("inf"):
                self.loop.call_later(answer.after_s, self.transport.write, _written(answer))

    def _next(self) -> Call | None:
        """Take one whole request off the buffer."""
        end = self.buffer.find(END_OF_HEAD)
        if end < 0:
            return None
        first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        start = end + len(END_OF_HEAD)
        stop = start + int(headers.get("content-length", 0))
        if len(self.buffer) < stop:
            return None
        method, path, _ = first.split(" ", 2)
        body, self.buffer = self.buffer[start:stop], self.buffer[stop:]
        return Call(method, path, headers, body)


def _written(answer: Answer) -> bytes:
    headers = {"content-type": "application/json", **answer.headers, "content-length": str(len(answer.body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} X\r\n{lines}\r\n".encode() + answer.body
