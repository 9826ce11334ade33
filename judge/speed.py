"""How fast the judge's client asks: `python -m judge.speed [requests=4000] [key=value …]`.

A scripted endpoint in a process of its own answers at once, or after `latency_ms`; what is measured is this side:
requests made, sent, read, stored and committed. Wall time depends on who shares the machine, CPU seconds hardly do.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from pydantic import Field

from configs.command import guarded
from configs.errors import UserError
from configs.loader import Table, read_words
from configs.terminal import say
from judge.asking.endpoint import Endpoint, ask_all
from judge.asking.local_endpoint import Answer, Call, completion, serving
from judge.asking.store import ChatRequest, ReplyStore

REPLY = '{"reason": "The first does what was asked, the second leaves half of it out.", "verdict": "first"}'


class SpeedTable(Table):
    """Settings of the measurement.

    Attributes:
        requests: how many.
        concurrency: in flight at once.
        characters: length of each prompt; two answers of 400 words and a conversation are about 6,000.
        latency_ms: how long the endpoint takes for each.
        requests_per_minute: the client's limit; null for none.
    """

    requests: int = Field(default=4000, ge=1)
    concurrency: int = Field(default=32, ge=1, le=1024)
    characters: int = Field(default=6000, ge=1)
    latency_ms: float = Field(default=0.0, ge=0.0)
    requests_per_minute: float | None = Field(default=None, gt=0.0)


def measure(table: SpeedTable) -> tuple[float, float]:
    """Wall seconds and CPU seconds of this process for all requests."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, table.latency_ms), daemon=True)
    server.start()
    try:
        url = ours.recv()
        text = ("word " * (table.characters // 5 + 1))[: table.characters]
        requests = [
            ChatRequest("speed", {"model": "m", "messages": [{"role": "user", "content": f"{i} {text}"}]})
            for i in range(table.requests)
        ]
        endpoint = Endpoint(
            url, "none", concurrency=table.concurrency, requests_per_minute=table.requests_per_minute, model="m"
        )
        with tempfile.TemporaryDirectory() as folder, ReplyStore(Path(folder) / "replies.sqlite") as store:
            wall, cpu = time.perf_counter(), time.process_time()
            ask_all(requests, endpoint, store, "measuring")
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if len(store) != table.requests:
                raise UserError(f"judge.speed: {len(store)} of {table.requests} replies were kept")
    finally:
        server.terminate()
        server.join()
    return wall, cpu


def run(paths: Sequence[str], table: SpeedTable) -> None:
    """Measure and print one line."""
    if paths:
        raise UserError(f"judge.speed: {paths[0]!r} is no setting; write key=value")
    wall, cpu = measure(table)
    say(
        f"{table.requests} requests of {table.characters} characters, {table.concurrency} in flight: "
        f"{table.requests / wall:.0f} a second, {table.requests / cpu:.0f} a CPU second"
    )


def _serve(pipe: Connection, latency_ms: float) -> None:
    answer = Answer(completion(REPLY), after_s=latency_ms / 1000)

    def script(_: Call) -> Answer:
        return answer

    with serving(script) as url:
        pipe.send(url)
        time.sleep(3600)


if __name__ == "__main__":
    words, settings = read_words(sys.argv[1:], SpeedTable, "judge.speed")
    sys.exit(guarded(lambda: run(words, settings)))
