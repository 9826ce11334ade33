"""The Batch API: handed in once, found again after any kill, collected whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import UserError
from judge.asking import batch_api
from judge.asking.budget import Price
from judge.asking.endpoint import Endpoint, ask_all
from judge.asking.local_endpoint import Answer, Call, completion, serving
from judge.asking.replies import Failure
from judge.asking.store import ChatRequest, Reply, ReplyStore
from tests.batch_endpoint import BatchEndpoint

ROOT = Path(__file__).parent.parent


def request(text: str) -> ChatRequest:
    return ChatRequest("stub", {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": text}]})


REQUESTS = [request(str(i)) for i in range(20)]


def reaching(url: str) -> Endpoint:
    return Endpoint(url, "sk-0123456789", batch=True, poll_s=0.05, max_retries=2, model="m", price=Price(1.0, 4.0))


def test_a_batch_is_handed_in_waited_for_and_collected(tmp_path: Path) -> None:
    fake = BatchEndpoint()
    with serving(fake) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        endpoint = reaching(url)
        replies = ask_all([*REQUESTS, REQUESTS[0]], endpoint, store)
        assert [r.content for r in replies if isinstance(r, Reply)] == [f"reply to {i}" for i in [*range(20), 0]]
        assert "POST /v1/chat/completions" not in fake.calls
        assert fake.calls.count("POST /v1/batches") == 1 and set(fake.paid.values()) == {1}
        assert store.open_batches() == {} and store.batched() == {}
        assert store.n_paid(endpoint.account) == 20 and store.spent(endpoint.account).prompt == 20 * 300
        calls = len(fake.calls)
        assert ask_all(REQUESTS, endpoint, store) == replies[:20]
        assert len(fake.calls) == calls


def test_a_batch_whose_name_was_lost_is_found_by_its_word(tmp_path: Path) -> None:
    fake = BatchEndpoint()
    fake.lose_create = 1
    with serving(fake) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        with pytest.raises(UserError, match=r"Batch API .* failed .*run the same command again to collect it"):
            ask_all(REQUESTS, reaching(url), store)
        assert list(store.open_batches().values()) == [None]
        replies = ask_all(REQUESTS, reaching(url), store)
        assert all(isinstance(reply, Reply) for reply in replies)
        assert len(fake.batches) == 1 and set(fake.paid.values()) == {1}


def test_a_batch_that_never_arrived_is_handed_in_again(tmp_path: Path) -> None:
    fake = BatchEndpoint()
    with serving(fake) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        store.note_batch("feedfeedfeedfeed", {r.key: (r, reaching(url).cost(r).tokens) for r in REQUESTS})
        assert all(isinstance(reply, Reply) for reply in ask_all(REQUESTS, reaching(url), store))
        assert len(fake.batches) == 1


CLIENT = """
import sys
from pathlib import Path
from judge.asking.store import ReplyStore
from judge.asking.endpoint import ask_all
from tests.test_judge_batches import REQUESTS, reaching
with ReplyStore(Path(sys.argv[2])) as store:
    ask_all(REQUESTS, reaching(sys.argv[1]), store)
"""


def test_a_kill_while_waiting_loses_nothing_and_others_may_hand_in_more(tmp_path: Path) -> None:
    fake = BatchEndpoint(polls=10**9)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with serving(fake) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, url, str(tmp_path / "s.sqlite")], env=environment, stderr=subprocess.DEVNULL
        )
        while not fake.looks and client.poll() is None:
            time.sleep(0.02)
        client.kill()
        client.wait()
        with pytest.raises(UserError, match=r"20 requests are in batches .* judge\.batch=true"):
            ask_all(REQUESTS, replace(reaching(url), batch=False), store)
        fake.polls = 1
        # Another cell's requests are asked first; what was under way is kept for whoever asks for it.
        others = [request("other"), REQUESTS[3]]
        assert all(isinstance(reply, Reply) for reply in ask_all(others, reaching(url), store))
        assert len(store) == 21
        calls = len(fake.calls)
        assert all(isinstance(reply, Reply) for reply in ask_all(REQUESTS, reaching(url), store))
        assert len(fake.calls) == calls and set(fake.paid.values()) == {1}


def test_failures_inside_a_batch_are_failures_of_their_requests(tmp_path: Path) -> None:
    fake = BatchEndpoint()
    well = fake.outcome

    def outcome(text: str) -> object:
        cut = json.loads(completion("x"))
        del cut["choices"]
        odd = {"1": (400, {"error": {"message": "sk-0123456789 too long"}}), "2": (500, {}), "3": None, "4": (200, cut)}
        return odd.get(text, well(text))

    fake.outcome = outcome  # type: ignore[method-assign,assignment]
    fake.ends_as = "expired"
    with serving(fake) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        endpoint = reaching(url)
        outcomes = ask_all(REQUESTS, endpoint, store)
        failures = {i: one for i, one in enumerate(outcomes) if isinstance(one, Failure)}
        assert {i: one.passing for i, one in failures.items()} == {1: False, 2: True, 3: True, 4: True}
        assert "[key] too long" in failures[1].error and "without a reply" in failures[3].error
        assert store.spent(endpoint.account, lost=False) != store.spent(endpoint.account)
        fake.outcome, fake.ends_as = well, "completed"  # type: ignore[method-assign]
        assert all(isinstance(one, Reply) for one in ask_all(REQUESTS, endpoint, store))
        assert set(fake.paid.values()) <= {1, 2} and fake.paid["0"] == 1


def test_a_batch_that_is_refused_says_why_and_is_forgotten(tmp_path: Path) -> None:
    fake = BatchEndpoint()
    fake.ends_as, fake.errors = "failed", [{"code": "x", "message": "no such model m"}]
    with serving(fake) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        with pytest.raises(UserError, match="refused batch batch-0: no such model m"):
            ask_all(REQUESTS, reaching(url), store)
        assert store.open_batches() == {}


def test_the_cap_holds_before_a_batch_is_handed_in(tmp_path: Path) -> None:
    fake = BatchEndpoint()
    with serving(fake) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        with pytest.raises(UserError, match=r"could cost more than judge\.max_cost"):
            ask_all(REQUESTS, replace(reaching(url), max_cost=0.001), store)
        assert fake.batches == {}


def test_a_wrong_key_is_one_line_without_the_key(tmp_path: Path) -> None:
    with serving(BatchEndpoint()) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        with pytest.raises(UserError, match=r"Batch API of .* failed") as caught:
            ask_all(REQUESTS, replace(reaching(url), api_key="sk-9999999999"), store)
        assert "sk-9999999999" not in str(caught.value)


def test_portions_hold_what_a_batch_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 8)
    by_key = {one.key: one for one in REQUESTS}
    assert [len(part) for part in batch_api.parts(by_key)] == [8, 8, 4]
    monkeypatch.setattr(batch_api, "MOST_BYTES", 700)
    portions = list(batch_api.parts(by_key))
    assert sum(len(part) for part in portions) == 20 and all(1 <= len(part) <= 3 for part in portions)


def test_live_requests_and_batches_have_one_cap_and_each_its_price(tmp_path: Path) -> None:
    """Four requests in a batch cost half of what four live ones cost; the cap is of both together."""
    fake = BatchEndpoint()

    def either(call: Call) -> Answer | None:
        return Answer(completion("x")) if call.path.endswith("/chat/completions") else fake(call)

    with serving(either) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        batches = replace(reaching(url), price=Price(500.0, 500.0), other_price=Price(1000.0, 1000.0), max_cost=100.0)
        ask_all(REQUESTS[:4], batches, store)
        paid = batches.spent(store)
        assert paid is not None and paid[0] == 0.0 and paid[1] == pytest.approx(4 * 0.16)
        live = replace(batches, batch=False, price=batches.other_price, other_price=batches.price, concurrency=1)
        assert live.spent(store) == paid
        with pytest.raises(UserError, match=r"\$0\.64 are spent, and the next request could cost more"):
            ask_all(REQUESTS[4:5], replace(live, max_cost=0.64 + 0.01), store)
        ask_all(REQUESTS[4:5], live, store)
        again = live.spent(store)
        assert again is not None and again[1] == paid[1] and again[0] > 0 and batches.spent(store) == again
        with pytest.raises(UserError, match=r"\(\$0\.64 in batches\) are spent, and the next request"):
            ask_all(REQUESTS[5:9], replace(batches, max_cost=sum(again) + 0.01), store)
