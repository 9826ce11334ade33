"""A served rung asked as if it were here: the same logits, another rung refused, a dead server one line."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

import rm.serving.client
from configs.errors import UserError
from rm.scorer import RungScorer
from rm.serving.client import ServedRung
from rm.units import ScoreUnits
from tests.clients import conversation, served
from tests.tiny_rungs import make_base, make_rung

CASES = [conversation(i) for i in range(40)]
CHATS, ANSWERS = zip(*CASES, strict=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("asked")
    return make_rung(made / "rung-60", make_base(made), 1, centre=0.2)


def test_a_served_rung_gives_the_local_logits_and_only_the_wanted_one_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rm.serving.client, "REQUEST_CONVERSATIONS", 7)
    units = ScoreUnits.load(folder)
    with served(folder) as (address, process):
        served_rung = ServedRung(address, "rung-60", units, patience_s=30)
        here = RungScorer(folder, 16384).logits(CHATS, ANSWERS)
        assert np.abs(served_rung.logits(CHATS, ANSWERS) - here).max() < 1e-5
        assert served_rung.logits([], []).shape == (0,)
        with pytest.raises(UserError, match="serves rung 'rung-60', and '80' is wanted"):
            ServedRung(address, "80").logits(CHATS[:1], ANSWERS[:1])
        other = ScoreUnits(units.centre + 1, units.scale, units.reference, units.n_reference)
        with pytest.raises(UserError, match="other score units"):
            ServedRung(address, "rung-60", other).logits(CHATS[:1], ANSWERS[:1])
        with pytest.raises(UserError, match=r"refused with 422: conversation 0"):
            served_rung.logits([CHATS[0]], ["word " * 20_000])
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        with pytest.raises(UserError, match=r"no answer within 1 s .* is `rewardladder serve`"):
            ServedRung(address, "rung-60", patience_s=1).logits(CHATS[:1], ANSWERS[:1])


def test_a_busy_server_is_asked_again() -> None:
    replies = iter(
        [(503, b'{"error": {"message": "busy"}}'), (200, b"half a re"), (200, b'{"rung": "a", "logits": [2]}')]
    )
    with fake(lambda: next(replies)) as address:
        assert ServedRung(address, "a", patience_s=20).logits([[]], ["x"]).tolist() == [2.0]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"[]", "is no object"),
        (b'{"rung": "a", "logits": [1, 2]}', "1 answers were sent and not as many logits came"),
        (b'{"rung": "a"}', "not as many logits"),
    ],
)
def test_another_kind_of_answer_is_one_line(reply: bytes, message: str) -> None:
    with fake(lambda: (200, reply)) as address, pytest.raises(UserError, match=message):
        ServedRung(address, "a").logits([[]], ["x"])


def test_a_key_that_is_not_set_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
        ServedRung("http://127.0.0.1:1", "a", api_key_env="NO_SUCH_KEY")


class fake:
    """A server that gives what a function says."""

    def __init__(self, reply: Callable[[], tuple[int, bytes]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                status, body = reply()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
