"""The judge against an endpoint that fails three times in ten, and kills: nothing is lost, nothing is paid twice.

2,000 pairs in both orders; what each request gets is a schedule of its text, how often it was tried and a seed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from configs.keyed import keyed_uniform
from judge.asking.local_endpoint import Answer, Call, completion, serving
from judge.asking.store import ReplyStore

N_PAIRS = 2000
CONCURRENCY = 48
KILLS = 3
TIMEOUT_S = 8.0
ROOT = Path(__file__).parent.parent
CLIENT = """
import sys, json
from dataclasses import asdict
from pathlib import Path
from judge.asking import rate_limit
from judge.answers import Answer, Pair, Question
from judge.asking.questions import Asking
from judge.config import JudgeTable
from judge.asking.endpoint import Endpoint
from judge.asking.store import ReplyStore
from tasks.records import Prompt
rate_limit.FIRST_WAIT_S = 0.01
url, path, out, n = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
def answer(text):
    return Answer(prompt_id="p", sample=0, completion=text, answer=text, status="ok", n_tokens=1, truncated=False)
questions = []
for i in range(n):
    prompt = Prompt(f"p{i}", "eval", [{"role": "user", "content": f"question {i}"}])
    pair = Pair(f"p{i}#0", prompt, answer(f"left {i}"), answer(f"right {i}"))
    questions += [Question(pair, "AB"), Question(pair, "BA")]
table = JudgeTable(kind="openai", model="stub-1", structured=False)
endpoint = Endpoint(url, "sk-0123456789", concurrency=int(sys.argv[5]), timeout_s=float(sys.argv[6]), max_retries=20,
                    model="stub-1")
with ReplyStore(path) as store:
    verdicts = Asking(table, endpoint, "stub", store, announced=False).decide(questions, "t")
out.write_text(json.dumps([[v.pair_id, v.order, v.verdict, v.status] for v in verdicts]))
"""

FAULTS = {
    "limited": (0.06, Answer(b'{"error": {"message": "slow"}}', 429, {"retry-after": "0.02"})),
    "broken": (0.06, Answer(b"oops", 500)),
    "silent": (0.005, Answer(b"", after_s=float("inf"))),
    "cut": (0.05, Answer(completion('{"verdict": "first"}')[:-30])),
    "empty": (0.045, Answer(b'{"choices": []}')),
    "closed": (0.06, None),
}
"""Shares of tries that fail; with the refusals and wrong schemas below, which are replies, 30% of requests."""
REFUSED, OTHER_SCHEMA = 0.01, 0.01


class Schedule:
    """The endpoint: what it does to a try, and what it answered well and so was paid for."""

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.in_flight_at_kill = 0

    def __call__(self, call: Call) -> Answer | None:
        text = json.loads(call.body)["messages"][0]["content"]
        name = text[text.index("question ") :].split("\n")[0]
        name += " AB" if text.index("\nleft ") < text.index("\nright ") else " BA"
        draw, low = keyed_uniform(7, "fault", name, self.tries[name]), 0.0
        self.tries[name] += 1
        for fault, (share, answer) in FAULTS.items():
            if low <= draw < low + share:
                self.faults[fault] += 1
                return answer
            low += share
        self.paid[name] += 1
        content, refusal, _ = said(name)
        return Answer(completion(None, message={"content": content, "refusal": refusal}))


def said(name: str) -> tuple[str | None, str | None, tuple[str | None, str]]:
    """What the judge says of a question in one order: content, refusal, and the verdict and status that it means."""
    draw = keyed_uniform(7, "verdict", name)
    if draw < REFUSED:
        return None, "I will not compare these.", (None, "refused")
    if draw < REFUSED + OTHER_SCHEMA:
        return '{"winner": "A", "score": 7}', None, (None, "unreadable")
    verdict = ("first", "second", "tie")[int(draw * 3000) % 3]
    return json.dumps({"reason": "r", "verdict": verdict}), None, (verdict, "ok")


def test_2000_pairs_survive_faults_kills_and_company(tmp_path: Path) -> None:
    schedule, store_path = Schedule(), tmp_path / "replies.sqlite"
    outs = [tmp_path / f"{i}.json" for i in range(KILLS + 2)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    with serving(schedule) as url:

        def start(out: Path) -> subprocess.Popen[bytes]:
            words = (url, str(store_path), str(out), str(N_PAIRS), str(CONCURRENCY), str(TIMEOUT_S))
            return subprocess.Popen([sys.executable, "-c", CLIENT, *words], env=environment, stderr=subprocess.DEVNULL)

        for kill in range(KILLS):
            process = start(outs[kill])
            while len(schedule.paid) < 700 * (kill + 1) and process.poll() is None:
                time.sleep(0.01)
            assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        both = [start(out) for out in outs[KILLS:]]
        assert [process.wait(timeout=300) for process in both] == [0, 0]

    names = {f"question {i} {order}" for i in range(N_PAIRS) for order in ("AB", "BA")}
    expected = {name: said(name)[2] for name in names}
    first, second = (json.loads(out.read_text()) for out in outs[KILLS:])
    assert first == second
    found = {f"question {pair_id[1:-2]} {order}": (verdict, status) for pair_id, order, verdict, status in first}
    assert len(first) == 2 * N_PAIRS and found == expected
    # What was answered well was asked once, but for what was in flight at a kill.
    assert set(schedule.paid) == names
    assert schedule.paid.total() - len(names) <= KILLS * CONCURRENCY
    assert set(schedule.faults) == set(FAULTS)
    odd = sum(status != "ok" for _, status in expected.values())
    assert 0.27 <= (schedule.faults.total() + odd) / schedule.tries.total() <= 0.33
    with ReplyStore(store_path) as store:
        assert len(store) == len(names)
        assert store.n_paid(f"stub-1 at {url}") == len(names)


def test_an_undisturbed_run_asks_nothing_that_succeeded_again(tmp_path: Path) -> None:
    schedule = Schedule()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = (str(tmp_path / "s.sqlite"), str(tmp_path / "o.json"), "100", str(CONCURRENCY), "4")
    with serving(schedule) as url:
        for _ in range(2):  # the second finds everything
            subprocess.run([sys.executable, "-c", CLIENT, url, *words], env=environment, check=True, stderr=-3)
    assert len(schedule.paid) == 200 and set(schedule.paid.values()) == {1}


class Bucket:
    """An endpoint that lets `rate` requests a second through, with room for one second's, and counts the others."""

    def __init__(self, rate: float) -> None:
        self.rate, self.level, self.at = rate, 0.0, time.monotonic()
        self.refused, self.times, self.lock = 0, list[float](), threading.Lock()

    def __call__(self, call: Call) -> Answer:
        with self.lock:
            now = time.monotonic()
            self.level, self.at = max(0.0, self.level - (now - self.at) * self.rate), now
            if self.level + 1 > self.rate:
                self.refused += 1
                return Answer(b"{}", 429, {"retry-after": "1"})
            self.level += 1
            self.times.append(now)
            return Answer(completion('{"verdict": "first"}'))


def test_a_limit_of_600_a_minute_is_used_to_95_percent_without_a_storm(tmp_path: Path) -> None:
    from judge.asking.endpoint import Endpoint, ask_all
    from judge.asking.store import ChatRequest

    bucket = Bucket(10.0)
    requests = [ChatRequest("b", {"model": "m", "messages": [{"role": "user", "content": str(i)}]}) for i in range(85)]
    with serving(bucket) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        ask_all(requests, Endpoint(url, "k", concurrency=32, requests_per_minute=600.0), store)
    assert bucket.refused == 0
    at_once = 5  # half a second's come at the beginning
    a_minute = 60 * (len(bucket.times) - at_once) / (bucket.times[-1] - bucket.times[0])
    print(f"{a_minute:.1f} requests a minute of 600")
    assert 0.95 * 600 <= a_minute <= 1.01 * 600


def test_a_limit_on_tokens_is_kept(tmp_path: Path) -> None:
    from judge.asking.budget import usual
    from judge.asking.endpoint import Endpoint, ask_all
    from judge.asking.store import ChatRequest

    bodies = [
        {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": f"{i:03d}" + "x" * 397}]}
        for i in range(30)
    ]
    assert usual(bodies[0]).prompt == 116 and usual(bodies[0]).reply == 100
    bucket = Bucket(1e9)
    with serving(bucket) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        # 216 tokens a request and 2,160 a second: ten requests a second.
        endpoint = Endpoint(url, "k", concurrency=32, tokens_per_minute=2160.0 * 60)
        ask_all([ChatRequest("b", body) for body in bodies], endpoint, store)
    a_second = (len(bucket.times) - 1) / (bucket.times[-1] - bucket.times[0])
    assert 9.0 <= a_second <= 12.0  # half a second of it may come at once
