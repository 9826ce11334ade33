"""The judge's client against a scripted endpoint: patient, never asking twice, never showing its key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from configs.errors import UserError
from judge.asking import rate_limit
from judge.asking.endpoint import Endpoint, ask_all
from judge.asking.rate_limit import retry_after_s
from judge.asking.replies import Failure, PassingFailure, read_reply
from judge.asking.store import ChatRequest, Reply, ReplyStore

KEY = "sk-very-secret-0123456789"
Script = Callable[[str, int], tuple[int, dict[str, str], bytes] | None]
"""(text of the prompt, how often it was asked before) -> status, headers and body; None closes the socket."""


def completion(content: str | None, **choice: object) -> bytes:
    body = {
        "id": "x",
        "model": "stub-1",
        "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    return json.dumps(body).encode()


def good(text: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, completion(f"reply to {text}")


class Stub:
    """A scripted endpoint that remembers what it was asked and what it answered well."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.at: list[tuple[float, str, int]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.url = ""


@contextmanager
def serving(script: Script) -> Iterator[Stub]:
    stub = Stub(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = body["messages"][0]["content"]
            with stub.lock:
                before = stub.asked[text]
                stub.asked[text] += 1
                stub.headers.append(dict(self.headers))
            answer = stub.script(text, before)
            with stub.lock:
                status = answer[0] if answer else 0
                stub.at.append((time.monotonic(), text, status))
                if answer and status == 200 and b"reply to" in answer[2] and answer[2].endswith(b"}"):
                    stub.paid[text] += 1
            if answer is None:
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(status)
            for name, value in {"content-type": "application/json", **answer[1]}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer[2])))
            self.end_headers()
            self.wfile.write(answer[2])

        def log_message(self, *_: object) -> None:
            """Silence."""

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """Clients that are killed leave broken pipes."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def request(text: str) -> ChatRequest:
    return ChatRequest(
        "stub", {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0.0, "max_tokens": 9}
    )


def reaching(stub: Stub, **settings: object) -> Endpoint:
    return Endpoint(stub.url, KEY, **{"timeout_s": 5.0, "max_retries": 6, "concurrency": 8, **settings})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "FIRST_WAIT_S", 0.01)


TROUBLES: dict[str, tuple[int, dict[str, str], bytes] | None] = {
    "limited": (429, {"retry-after": "0.3"}, b'{"error": {"message": "slow down"}}'),
    "broken": (500, {}, b"oops"),
    "page": (200, {"content-type": "text/html"}, b"<html>busy</html>"),
    "cut": (200, {}, completion("reply to nobody")[:-20]),
    "empty": (200, {}, b'{"choices": []}'),
    "deep": (200, {}, b"[" * 100_000),
    "deeper": (200, {"content-type": "text/plain"}, b'{"a":' * 100_000),
    "abyss": (500, {}, b"[" * 100_000),
    "schema": (200, {}, b'{"choices": [{"message": {"content": 7}}]}'),
    "silent": (200, {}, completion(None)),
    "closed": None,
    "overloaded": (503, {}, b""),
}


def test_troubles_pass_and_nothing_that_was_answered_is_asked_again(tmp_path: Path) -> None:
    def script(text: str, before: int) -> tuple[int, dict[str, str], bytes] | None:
        return TROUBLES[text.split()[0]] if before < 2 else good(text)

    texts = [f"{trouble} {i}" for trouble in TROUBLES for i in range(4)]
    with serving(script) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        replies = ask_all([request(text) for text in texts], reaching(stub), store)
        assert [reply.content for reply in replies if isinstance(reply, Reply)] == [f"reply to {t}" for t in texts]
        assert replies[0] == Reply(f"reply to {texts[0]}", None, "stop", "stub-1", None, replies[0].usage)  # type: ignore[union-attr]
        assert stub.asked == Counter(dict.fromkeys(texts, 3))
        assert stub.paid == Counter(dict.fromkeys(texts, 1))
        again = ask_all([request(text) for text in texts], reaching(stub), store)
        assert again == replies
        assert stub.asked.total() == 3 * len(texts)


def test_retry_after_holds_all_requests_back(tmp_path: Path) -> None:
    def script(text: str, before: int) -> tuple[int, dict[str, str], bytes]:
        limited = text == "0" and before == 0
        return (429, {"retry-after": "0.6"}, b"{}") if limited else good(text)

    with serving(script) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        ask_all([request(str(i)) for i in range(20)], reaching(stub, concurrency=2), store)
        (refused,) = [at for at, _, status in stub.at if status == 429]
        later = sorted(at for at, _, _ in stub.at if at > refused + 0.15)
        assert later[0] - refused >= 0.55
        assert len(later) >= 17


def test_equal_requests_are_asked_once(tmp_path: Path) -> None:
    with serving(lambda text, _: good(text)) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        replies = ask_all([request("same")] * 5 + [request("other")], reaching(stub), store)
        assert stub.asked == Counter({"same": 1, "other": 1})
        assert len(replies) == 6
        assert len(store) == 2


def test_an_endpoint_that_dies_keeps_what_was_paid_and_the_next_run_asks_only_the_rest(tmp_path: Path) -> None:
    dead = threading.Event()

    def script(text: str, before: int) -> tuple[int, dict[str, str], bytes]:
        if stub.paid.total() >= 25:
            dead.set()
        return (500, {}, b"gone") if dead.is_set() else good(text)

    requests = [request(str(i)) for i in range(60)]
    with serving(script) as stub:
        with ReplyStore(tmp_path / "s.sqlite") as store:
            with pytest.raises(UserError, match=r"failed 20 times in a row.*HTTP 500.*replies so far are kept"):
                ask_all(requests, reaching(stub, max_retries=1), store)
            kept = len(store)
            assert 25 <= kept < 60
        stub.script = lambda text, _: good(text)
        with ReplyStore(tmp_path / "s.sqlite") as store:
            assert all(isinstance(reply, Reply) for reply in ask_all(requests, reaching(stub), store))
        assert stub.paid == Counter({str(i): 1 for i in range(60)})


def test_one_request_that_is_refused_for_good_does_not_stop_the_others(tmp_path: Path) -> None:
    def script(text: str, _: int) -> tuple[int, dict[str, str], bytes]:
        return (400, {}, b'{"error": {"message": "too long"}}') if text == "long" else good(text)

    with serving(script) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        replies = ask_all([request("a"), request("long"), request("b")], reaching(stub), store)
        assert stub.asked["long"] == 1
        assert isinstance(replies[1], Failure)
        assert not replies[1].passing
        assert "HTTP 400" in replies[1].error and "too long" in replies[1].error
        # The one that is left does not end the next run either, though then it is all that is asked.
        assert ask_all([request("a"), request("long"), request("b")], reaching(stub), store) == replies


def test_a_text_that_is_forbidden_concerns_only_itself_once_the_key_is_known_to_work(tmp_path: Path) -> None:
    def script(text: str, _: int) -> tuple[int, dict[str, str], bytes]:
        return (403, {}, b'{"error": {"message": "flagged"}}') if text == "bad" else good(text)

    with serving(script) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        one_at_a_time = reaching(stub, concurrency=1)
        replies = ask_all([request("a"), request("bad"), request("b")], one_at_a_time, store)
        assert [isinstance(reply, Reply) for reply in replies] == [True, False, True]


def test_passing_failures_are_reported_as_such_and_asked_again_next_time(tmp_path: Path) -> None:
    def failing(text: str, _: int) -> tuple[int, dict[str, str], bytes]:
        return (502, {}, b"") if text == "x" else good(text)

    with serving(failing) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        _, failure = ask_all([request("a"), request("x")], reaching(stub, max_retries=2), store)
        assert isinstance(failure, Failure) and failure.passing
        assert failure.error.endswith("(3 tries)")
        assert stub.asked["x"] == 3
        stub.script = lambda text, _: good(text)
        assert isinstance(ask_all([request("x")], reaching(stub), store)[0], Reply)


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (401, f'{{"error": {{"message": "Incorrect key {KEY}"}}}}', "refuses the key"),
        (403, "{}", "refuses the key"),
        (404, '{"error": {"message": "no model m"}}', "knows no such address or model"),
        (429, '{"error": {"message": "pay", "code": "insufficient_quota"}}', "quota is used up"),
    ],
)
def test_what_concerns_every_request_ends_the_run_at_once(
    tmp_path: Path, status: int, body: str, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda *_: (status, {}, body.encode())) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        with pytest.raises(UserError, match=sentence) as caught:
            ask_all([request(str(i)) for i in range(50)], reaching(stub), store)
        assert stub.asked.total() <= 8
    assert KEY not in str(caught.value)
    assert KEY not in "".join(capfd.readouterr())


def test_the_key_goes_into_the_header_and_nowhere_else(tmp_path: Path) -> None:
    def script(text: str, before: int) -> tuple[int, dict[str, str], bytes]:
        return (400, {}, json.dumps({"error": {"message": f"bad {KEY}"}}).encode()) if text == "bad" else good(text)

    with serving(script) as stub:
        reached = reaching(stub)
        with ReplyStore(tmp_path / "s.sqlite") as store:
            _, failure = ask_all([request("a"), request("bad")], reached, store)
            files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in map(_lower, stub.headers))
    assert isinstance(failure, Failure) and "[key]" in failure.error
    assert KEY not in failure.error
    assert KEY not in repr(reached)
    assert KEY.encode() not in files


def test_a_key_that_the_endpoint_echoes_is_not_kept(tmp_path: Path) -> None:
    def script(text: str, before: int) -> tuple[int, dict[str, str], bytes]:
        said = completion(f"You sent Bearer {KEY}.", finish_reason=KEY, message={"content": f"{KEY}", "refusal": KEY})
        return 200, {}, said if text == "all" else completion(f"You sent Bearer {KEY}.")

    with serving(script) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        plain, everywhere = ask_all([request("plain"), request("all")], reaching(stub), store)
        assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert isinstance(plain, Reply) and plain.content == "You sent Bearer [key]."
        assert isinstance(everywhere, Reply) and KEY not in repr(everywhere)
        (short,) = ask_all([request("x")], Endpoint(stub.url, "e"), store)
        assert isinstance(short, Reply) and "Bearer" in short.content


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def test_an_endpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    nowhere = Endpoint("http://127.0.0.1:9/v1", KEY, max_retries=1)
    with (
        ReplyStore(tmp_path / "s.sqlite") as store,
        pytest.raises(UserError, match=r"127\.0\.0\.1:9/v1 failed 3 times"),
    ):
        ask_all([request(str(i)) for i in range(3)], nowhere, store)


def test_a_reply_that_does_not_come_in_time_is_asked_again(tmp_path: Path) -> None:
    def script(text: str, before: int) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.0 if before else 1.5)
        return good(text)

    with serving(script) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        (reply,) = ask_all([request("slow")], reaching(stub, timeout_s=0.4), store)
        assert isinstance(reply, Reply)
        assert stub.asked["slow"] == 2


def test_requests_per_minute_are_kept_without_a_storm(tmp_path: Path) -> None:
    with serving(lambda text, _: good(text)) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        began = time.monotonic()
        ask_all([request(str(i)) for i in range(60)], reaching(stub, requests_per_minute=1200.0), store)
        took = time.monotonic() - began
        times = sorted(at for at, _, _ in stub.at)
    assert took >= 2.4  # 10 at once, 50 at 20 a second
    assert took <= 4.5
    assert all(sum(start <= at < start + 1 for at in times) <= 32 for start in times)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_replies_keep_what_a_verdict_needs() -> None:
    assert read_reply(json.loads(completion("ok"))) == Reply(
        "ok", None, "stop", "stub-1", None, {"prompt_tokens": 3, "completion_tokens": 2}
    )
    assert read_reply(json.loads(completion(None, finish_reason="content_filter"))).content == ""
    assert read_reply(json.loads(completion("a\ud800b"))).content == "a\ufffdb"
    for body in ("", [], None, 3, {"choices": [{}]}, {"choices": [{"message": None}]}, {"choices": None}, "<html>"):
        with pytest.raises(PassingFailure):
            read_reply(body)


def test_the_first_stored_reply_counts_for_every_process(tmp_path: Path) -> None:
    one, other = (Reply(text, None, "stop", None, None, None) for text in ("one", "other"))
    with ReplyStore(tmp_path / "s.sqlite") as a, ReplyStore(tmp_path / "s.sqlite") as b:
        assert b.get("k") is None
        assert a.put("k", request("x"), one) == one
        assert b.put("k", request("x"), other) == one
        assert b.get("k") == one


OWNER = """
import sys, time
from pathlib import Path
from judge.asking.store import ReplyStore
store = ReplyStore(Path(sys.argv[1]))
print(store.claim("taken"), flush=True)
time.sleep(60)
"""


def test_a_request_is_claimed_by_one_living_process_at_a_time(tmp_path: Path) -> None:
    path, environment = tmp_path / "s.sqlite", {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with ReplyStore(path) as store:
        assert store.claim("mine") == store.claim("mine") == "mine"
        other = subprocess.Popen([sys.executable, "-c", OWNER, str(path)], env=environment, stdout=subprocess.PIPE)
        assert other.stdout is not None and other.stdout.readline() == b"mine\n"
        assert store.claim("taken") == "elsewhere"
        store.release("taken")  # another's claim is not mine to end
        assert store.claim("taken") == "elsewhere"
        other.kill()
        other.communicate()
        assert store.claim("taken") == "mine"
    assert [found.name for found in tmp_path.iterdir() if found.name.endswith(".lock") and found.name != ".lock"] == []


def test_json_under_another_name_is_read(tmp_path: Path) -> None:
    plain = {"content-type": "text/plain"}
    with serving(lambda text, _: (200, plain, completion(text))) as stub, ReplyStore(tmp_path / "s.sqlite") as store:
        (reply,) = ask_all([request("a")], reaching(stub), store)
        assert isinstance(reply, Reply) and reply.content == "a"


def test_a_store_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_text("this is no database, and long enough to be looked at" * 10)
    with pytest.raises(UserError, match="not usable as a store of replies"):
        ReplyStore(tmp_path / "s.sqlite")


def test_everything_that_determines_a_reply_is_in_its_key() -> None:
    body = request("x").body
    keys = {
        request("x").key,
        request("y").key,
        ChatRequest("elsewhere", body).key,
        ChatRequest("stub", {**body, "model": "n"}).key,
        ChatRequest("stub", {**body, "temperature": 1.0}).key,
        ChatRequest("stub", {**body, "max_tokens": 8}).key,
    }
    assert len(keys) == 6
    assert request("x").key == request("x").key
