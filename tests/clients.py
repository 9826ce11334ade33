"""Many clients of a reward-model server at once: what each sent, what it got, and how long it waited.

`python -m tests.clients RUNG seconds=60 clients=200` starts a server, loads it, ends it by SIGTERM under load and
prints requests a second, p50 and p99, wrong and lost answers.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from tests.tiny_rungs import sentence

ROOT = Path(__file__).parent.parent
PROGRAM = (
    "import sys; from configs.command import guarded; from rm.serving.server import ServeTable, run; "
    "table = ServeTable.model_validate(dict(argument.split('=', 1) for argument in sys.argv[2:])); "
    "sys.exit(guarded(lambda: run([sys.argv[1]], table)))"
)
START_TIMEOUT_S = 60.0


@dataclass
class Tally:
    """What came of the requests.

    Attributes:
        seconds: of each answered request, from before it was sent to its answer.
        wrong: answers that differ from the expected logit by more than the tolerance, and other statuses than 200.
        lost: requests without any answer although they were sent before the end was signalled.
        refused: requests after the signal that got 503 or no connection.
        largest: the largest difference from an expected logit.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    refused: int = 0
    largest: float = 0.0


@contextmanager
def served(rung: Path, *settings: str, environment: dict[str, str] | None = None) -> Iterator[tuple[str, Any]]:
    """A server of its own process on a free port: (address, process)."""
    with _started([sys.executable, "-c", PROGRAM, str(rung), "port=0", *settings], environment) as found:
        yield found


@contextmanager
def calibrated_server(rung: Path, *settings: str) -> Iterator[tuple[str, Any]]:
    """The same by `rewardladder serve`, which finds the calibrator of the rung's run."""
    program = "import sys; from curve.cli import main; sys.exit(main(sys.argv[1:]))"
    with _started([sys.executable, "-c", program, "serve", str(rung), "port=0", *settings], None) as found:
        yield found


@contextmanager
def _started(command: list[str], environment: dict[str, str] | None) -> Iterator[tuple[str, Any]]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(environment or {})}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if found := re.search(r"at (http://\S+)", line):
                break
        else:
            raise AssertionError(f"the server did not start: {seen}")
        wait_until_listening(found[1], process)
        yield found[1], process
    finally:
        process.kill()
        process.wait()


def wait_until_listening(address: str, process: Any) -> None:
    """Until the server accepts connections."""
    host, port = address.removeprefix("http://").split(":")
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)


async def load(
    address: str,
    bodies: list[dict[str, Any]],
    expected: list[list[float]],
    path: str,
    logits_of: Callable[[dict[str, Any]], list[float]],
    clients: int,
    seconds: float,
    end: Callable[[], None],
    tolerance: float = 1e-5,
) -> Tally:
    """`clients` clients ask without pause for `seconds`, then `end` is called under load; until refused they go on."""
    tally = Tally()
    signalled: list[float] = []
    limit = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0)

    async def client(number: int, session: aiohttp.ClientSession) -> None:
        asked = number
        while True:
            case = asked % len(bodies)
            asked += clients
            began = time.monotonic()
            try:
                async with session.post(address + path, json=bodies[case]) as response:
                    content = await response.json()
                    status = response.status
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if signalled and began >= signalled[0]:
                    tally.refused += 1
                else:
                    tally.lost.append(f"{type(error).__name__}: {error}")
                return
            if status == 503 and signalled:
                tally.refused += 1
                return
            if status != 200:
                tally.wrong.append(f"{status}: {content}")
                return
            tally.seconds.append(time.monotonic() - began)
            difference = float(np.abs(np.array(logits_of(content)) - expected[case]).max())
            tally.largest = max(tally.largest, difference)
            if not difference <= tolerance:
                tally.wrong.append(f"case {case} differs by {difference}")

    async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
        running = [asyncio.create_task(client(i, session)) for i in range(clients)]
        await asyncio.sleep(seconds)
        signalled.append(time.monotonic())
        end()
        await asyncio.gather(*running)
    return tally


def raw(address: str, head: str, body: bytes = b"", patience: float = 10.0) -> bytes:
    """All that a server says to bytes that no well-bred client sends; without patience the client leaves at once."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=patience or None) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        return b"".join(iter(lambda: connection.recv(65536), b"")) if patience else b""


def conversation(seed: int) -> tuple[list[dict[str, str]], str]:
    """A chat of one turn, or of three, and an answer."""
    turns = [{"role": "user", "content": sentence(3 * seed)}]
    if seed % 3 == 0:
        turns += [{"role": "assistant", "content": sentence(7 * seed)}, {"role": "user", "content": sentence(5 * seed)}]
    return turns, sentence(3 * seed + 1)


def main(rung: Path, seconds: float, clients: int) -> None:
    """Load a server of `rung` and print what came of it."""
    from rm.scorer import RungScorer

    chats, answers = zip(*(conversation(i) for i in range(500)), strict=True)
    expected = [[x] for x in RungScorer(rung, 16384).logits(chats, answers)]
    bodies = [{"conversations": [{"prompt": c, "response": a}]} for c, a in zip(chats, answers, strict=True)]
    with served(rung) as (address, process):
        began = time.monotonic()
        tally = asyncio.run(
            load(
                address,
                bodies,
                expected,
                "/score",
                lambda found: found["logits"],
                clients,
                seconds,
                lambda: process.send_signal(signal.SIGTERM),
            )
        )
        status = process.wait(60)
        took = time.monotonic() - began
        print(process.stdout.read())
    p50, p99 = np.quantile(tally.seconds, [0.5, 0.99]) * 1000
    print(
        f"{clients} clients, {seconds:g} s: {len(tally.seconds)} answers, {len(tally.seconds) / seconds:.0f} a second, "
        f"p50 {p50:.0f} ms, p99 {p99:.0f} ms; wrong {len(tally.wrong)}, lost {len(tally.lost)}, refused while draining "
        f"{tally.refused}; largest difference {tally.largest:.1e}; exit status {status} after {took:.1f} s"
    )
    for problem in [*tally.wrong, *tally.lost][:5]:
        print(problem)


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[2:])
    main(Path(sys.argv[1]), float(given.get("seconds", 60)), int(given.get("clients", 200)))
