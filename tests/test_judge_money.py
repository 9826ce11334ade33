"""Money: said before the first request, never guessed, and a cap that holds whatever fails, dies or works beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from judge.answers import Answer, Pair, Question
from judge.asking.budget import Price, Tokens, counted, dollars, most, preview, price_of, usual
from judge.asking.endpoint import Endpoint, ask_all
from judge.asking.local_endpoint import Answer as Sent
from judge.asking.local_endpoint import Call, completion, serving
from judge.asking.questions import Asking
from judge.asking.replies import Failure
from judge.asking.store import ChatRequest, Cost, Reply, ReplyStore
from judge.config import JudgeTable, PriceTable
from judge.judges import Court, open_judge
from tasks.records import Prompt

ROOT = Path(__file__).parent.parent
GPT = "gpt-4o-2024-11-20"


def request(i: int) -> ChatRequest:
    return ChatRequest("s", {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": f"{i:04d}"}]})


def test_prices_are_of_a_model_at_its_own_host_and_unknown_elsewhere() -> None:
    assert price_of(JudgeTable(kind="openai", model=GPT)) == Price(2.5, 10.0)
    assert price_of(JudgeTable(kind="openai", model=GPT, batch=True)) == Price(1.25, 5.0)
    assert price_of(JudgeTable(kind="openai", model="gpt-4o")) is None
    assert price_of(JudgeTable(kind="openai", model=GPT, base_url="https://example.org/v1")) is None
    own = JudgeTable(kind="openai", model="mine", price=PriceTable(input=1, output=2))
    assert price_of(own) == Price(1.0, 2.0)
    assert Price(2.5, 10.0).of(Tokens(2_000_000, 100_000)) == pytest.approx(6.0)


def test_estimates_are_bounds_of_what_an_endpoint_counts() -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "é" * 400}], "max_tokens": 70}
    assert usual(body) == Tokens(216, 70)
    assert most(body) == Tokens(816, 70)
    assert most({"messages": [], "max_completion_tokens": 9}).reply == 9
    assert counted({"prompt_tokens": 3, "completion_tokens": 4}, Tokens(9, 9)) == Tokens(3, 4)
    assert counted(None, Tokens(9, 9)) == counted({"prompt_tokens": 3}, Tokens(9, 9)) == Tokens(9, 9)


def test_the_preview_says_requests_tokens_and_money() -> None:
    bodies = [request(i).body for i in range(10)]
    line = preview(bodies, 5, Price(100.0, 1000.0), (1.0, 0.0)).line("m", 2.0)
    assert line == (
        "judge: 10 requests to m (5 replies are stored), about 170 tokens of prompts and at most 500 of replies; "
        "about $0.02 for the prompts, at most $0.52 in all, after $1.00 spent before; the cap is $2.00"
    )
    assert preview(bodies, 0, None, None).line("m", None).endswith("the price is not known (judge.price says it)")
    both = preview(bodies, 0, Price(1.0, 1.0), (0.6, 0.4)).line("m", None)
    assert both.endswith("after $1.00 ($0.40 in batches) spent before")
    assert [dollars(x) for x in (0, 0.004321, 0.5, 1234.5)] == ["$0.00", "$0.0043", "$0.50", "$1,234.50"]


def questions(n: int) -> list[Question]:
    def answer(text: str) -> Answer:
        return Answer(prompt_id="p", sample=0, completion=text, answer=text, status="ok", n_tokens=1, truncated=False)

    prompts = [Prompt(f"p{i}", "eval", [{"role": "user", "content": f"q{i}"}]) for i in range(n)]
    return [
        Question(Pair(f"{p.prompt_id}#0", p, answer("x"), answer("y")), order)  # type: ignore[arg-type]
        for p in prompts
        for order in ("AB", "BA")
    ]


def test_nothing_is_asked_before_the_preview_and_nothing_without_leave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Call] = []

    def script(call: Call) -> Sent:
        if not calls:
            assert "judge: 6 requests to m-1" in capsys.readouterr().out
        calls.append(call)
        return Sent(completion('{"verdict": "first"}'))

    with serving(script) as url:

        def decide(**settings: Any) -> list[Any]:
            table = JudgeTable(kind="openai", base_url=url, api_key_env=None, model="m-1", **settings)
            with open_judge(Court(table, tmp_path, [], lambda: pytest.fail("no task"), {})) as judge:
                return judge(questions(3), "t")

        with pytest.raises(UserError, match="nothing was asked"):
            decide(ask=False)
        with pytest.raises(UserError, match=r"judge\.max_cost needs a price.*judge\.price='\{input"):
            decide(max_cost=1.0)
        with pytest.raises(UserError, match="the prompts alone cost about"):
            decide(max_cost=0.0001, price=PriceTable(input=1.0, output=1.0))
        assert calls == []
        capsys.readouterr()
        assert len(decide(max_cost=1.0, price=PriceTable(input=1.0, output=1.0))) == 6
        assert len(calls) == 6
        assert len(decide(ask=False)) == 6  # read again from the store
        assert len(calls) == 6 and "requests to" not in capsys.readouterr().out


def honest(_: Call | None = None) -> Sent:
    """A reply that counts for fewer tokens than its request could: 15 and 45 of at most 20 and 50."""
    usage = (b'"prompt_tokens": 300, "completion_tokens": 20', b'"prompt_tokens": 15, "completion_tokens": 45')
    return Sent(completion("x").replace(*usage), after_s=0.005)


def test_the_cap_ends_the_run_with_all_that_it_allows(tmp_path: Path) -> None:
    price = Price(1000.0, 1000.0)  # $0.07 at most beforehand, $0.06 as counted
    with serving(honest) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        endpoint = Endpoint(url, "k", concurrency=1, price=price, max_cost=0.5, model="m")
        for _ in range(2):  # the second asks nothing
            with pytest.raises(UserError, match=r"\$0\.48 are spent, .* raise the cap and run the same command again"):
                ask_all([request(i) for i in range(50)], endpoint, store)
            assert len(store) == store.n_paid(endpoint.account) == 8  # a ninth could pass 0.50


def test_usage_within_its_estimate_never_passes_the_cap_with_many_in_flight(tmp_path: Path) -> None:
    with serving(honest) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        endpoint = Endpoint(url, "k", concurrency=16, price=Price(1000.0, 1000.0), max_cost=1.0, model="m")
        with pytest.raises(UserError, match="leaves"):
            ask_all([request(i) for i in range(100)], endpoint, store)
        spent = endpoint.price.of(store.spent(endpoint.account))  # type: ignore[union-attr]
        assert 0.9 < spent <= 1.0 and spent == pytest.approx(len(store) * 0.06)


def test_replies_that_cannot_be_kept_count_as_paid(tmp_path: Path) -> None:
    script = iter([Sent(b"{"), Sent(b"oops", 500), Sent(completion("x"))])
    with serving(lambda _: next(script)) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        endpoint = Endpoint(url, "k", price=Price(1.0, 1.0), max_cost=1.0, model="m")
        ask_all([request(0)], endpoint, store)
        assert store.spent(endpoint.account, lost=False) == Tokens(300, 20)
        assert store.spent(endpoint.account) == Tokens(300, 20) + most(request(0).body)  # the half reply, not the 500
        assert store.n_paid(endpoint.account) == 1
        assert store.reserved(endpoint.account) == Tokens()


def test_a_try_after_a_lost_one_has_to_fit_as_well(tmp_path: Path) -> None:
    tries: list[int] = []

    def script(_: Call) -> Sent:
        tries.append(1)
        return Sent(b"{")

    with serving(script) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        bound = Price(1000.0, 1000.0).of(most(request(0).body))
        endpoint = Endpoint(url, "k", price=Price(1000.0, 1000.0), max_cost=2.5 * bound, model="m")
        with pytest.raises(UserError, match="a further try could cost more"):
            ask_all([request(0)], endpoint, store)
    assert len(tries) == 2


OWNER = """
import sys, time
from pathlib import Path
from judge.asking.budget import Price, Tokens
from judge.asking.store import Cost, ReplyStore
store = ReplyStore(Path(sys.argv[1]))
print(store.claim("theirs", Cost("a", Tokens(60, 0), Price(1e6, 0), 100.0)), flush=True)
time.sleep(60)
"""


def test_what_others_have_in_flight_counts_and_what_died_in_flight_too(tmp_path: Path) -> None:
    path, environment = tmp_path / "s.sqlite", {**os.environ, "PYTHONPATH": str(ROOT)}
    cost = Cost("a", Tokens(60, 0), Price(1e6, 0.0), 100.0)
    with ReplyStore(path) as store:
        other = subprocess.Popen([sys.executable, "-c", OWNER, str(path)], env=environment, stdout=subprocess.PIPE)
        assert other.stdout is not None and other.stdout.readline() == b"mine\n"
        assert store.claim("ours", cost) == "over the cap"
        assert store.claim("ours", Cost("another account", Tokens(60, 0), Price(1e6, 0.0), 100.0)) == "mine"
        store.release("ours")
        other.send_signal(signal.SIGKILL)
        other.communicate()
        assert store.claim("ours", cost) == "over the cap"  # it may have been paid for
        assert store.reserved("a") == Tokens() and store.spent("a") == Tokens(60, 0)
        assert store.claim("theirs", Cost("a", Tokens(40, 0), Price(1e6, 0.0), 100.0)) == "mine"


def test_an_endpoint_that_hangs_is_given_up_before_every_try_has_timed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from judge.asking import endpoint as endpoint_module
    from judge.asking import rate_limit

    monkeypatch.setattr(endpoint_module, "BREAKER_S", 0.5)
    monkeypatch.setattr(rate_limit, "FIRST_WAIT_S", 0.01)
    hang = Sent(b"", after_s=float("inf"))
    with serving(lambda _: hang) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"failed \d+ tries in .* without a reply between them"):
            ask_all(
                [request(i) for i in range(100)],
                Endpoint(url, "k", concurrency=4, timeout_s=0.3, max_retries=20),
                store,
            )
        assert time.monotonic() - began < 10


def test_a_reply_that_dribbles_is_cut_off_in_time(tmp_path: Path) -> None:
    slow = Sent(completion("x"), after_s=30.0)
    with serving(lambda _: slow) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        endpoint = Endpoint(url, "k", timeout_s=0.3, max_retries=0)
        with pytest.raises(UserError, match=r"no reply within 0\.3 s"):
            ask_all([request(0)], endpoint, store)


def test_a_schema_that_is_refused_is_left_out_and_found_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies: list[bytes] = []

    def script(call: Call) -> Sent:
        bodies.append(call.body)
        if b"response_format" in call.body:
            return Sent(b'{"error": {"message": "response_format is not supported"}}', 400)
        return Sent(completion('Well.\n{"verdict": "second"}'))

    with serving(script) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        endpoint = Endpoint(url, "k", model="m")

        def decide(**settings: Any) -> list[Any]:
            return Asking(JudgeTable(kind="openai", **settings), endpoint, "s", store, False).decide(questions(4), "t")

        assert {v.verdict for v in decide()} == {"second"}
        assert sum(b"response_format" in body for body in bodies) == 1 and len(bodies) == 9
        assert "takes no JSON schema" in capsys.readouterr().out
        assert {v.verdict for v in decide()} == {"second"} and len(bodies) == 9
        with pytest.raises(UserError, match="response_format is not supported"):
            decide(structured=True)


def test_repeats_are_drawn_apart_and_their_majority_counts(tmp_path: Path) -> None:
    said = iter(["first", "second", "second", "tie", "first", "nothing"])
    with (
        serving(lambda _: Sent(completion(f'{{"verdict": "{next(said)}"}}'))) as url,
        ReplyStore(tmp_path / "s.sqlite") as store,
    ):
        table = JudgeTable(kind="openai", repeats=3, temperature=0.7, structured=False)
        one_at_a_time = Endpoint(url, "k", concurrency=1, model="m")
        ab, ba = Asking(table, one_at_a_time, "s", store, False).decide(questions(1), "t")
        assert len(store) == 6
    assert (ab.winner, ab.repeats, ab.status) == ("b", ["a", "b", "b"], "ok")
    assert ab.raw == '{"verdict": "second"}' and ab.usage == {"prompt_tokens": 900, "completion_tokens": 60}
    assert (ba.winner, ba.repeats, ba.status) == ("tie", ["tie", "b", None], "ok")


def test_an_order_of_which_a_repeat_failed_is_asked_again(tmp_path: Path) -> None:
    broken = Sent(b"", 500)
    said = iter([Sent(completion('{"verdict": "first"}')), broken])
    with serving(lambda _: next(said, broken)) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        table = JudgeTable(kind="openai", repeats=2, temperature=None, structured=False)
        endpoint = Endpoint(url, "k", concurrency=1, max_retries=0, model="m")
        (verdict,) = Asking(table, endpoint, "s", store, False).decide(questions(1)[:1], "t")
    assert (verdict.status, verdict.winner, verdict.verdict) == ("error", None, None)


def test_replies_and_failures_are_told_apart() -> None:
    assert not isinstance(Failure("x", True), Reply)
