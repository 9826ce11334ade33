"""The reward-model server: 200 clients get the offline scores, bad requests one clear line, SIGTERM drains."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from transformers import AutoTokenizer

from configs.errors import UserError
from rm.scorer import RungScorer
from rm.serving.chat_form import ChatForm
from rm.serving.gate import Gate, Refused
from rm.serving.loaded_rungs import LoadedRung, load_rungs
from rm.serving.microbatch import MicroBatcher, QueueFull
from rm.serving.server import ServeTable, build_app, run
from tasks.preference.fields import RowProblem
from tests.clients import conversation, load, raw, served
from tests.tiny_rungs import CONTEXT, make_base, make_rung

CASES = [conversation(i) for i in range(60)]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen2.5 writes it: a system turn of its own where the chat has none."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served")
    return make_rung(made / "rung-60", make_base(made), 1, centre=0.2)


@pytest.fixture(scope="module")
def rung(folder: Path) -> LoadedRung:
    return load_rungs([folder], 4000)[0]


@pytest.fixture(scope="module")
def offline(folder: Path) -> list[float]:
    chats, answers = zip(*CASES, strict=True)
    return [float(x) for x in RungScorer(folder, 16384).logits(chats, answers)]


@pytest.fixture(scope="module")
def client(rung: LoadedRung) -> Iterator[TestClient]:
    limits = ServeTable(port=0, max_body_bytes=65536, max_conversations=64, max_queue_tokens=20_000)
    with TestClient(build_app(rung, limits), raise_server_exceptions=False) as made:
        yield made


def test_200_clients_get_the_offline_scores_and_sigterm_drains(folder: Path, offline: list[float]) -> None:
    bodies = [{"conversations": [{"prompt": chat, "response": answer}]} for chat, answer in CASES]
    with served(folder, "body_timeout_s=0.3") as (address, process):
        promised = "POST /score HTTP/1.1\nHost: localhost\nContent-Length: 500"
        slow = raw(address, promised, b'{"conv')
        assert b"408" in slow.splitlines()[0] and b'"too_slow"' in slow
        raw(address, promised, b'{"conv', patience=0)
        assert b"400" in raw(address, "NO SUCH THING").splitlines()[0]
        tally = asyncio.run(
            load(
                address,
                bodies,
                [[logit] for logit in offline],
                "/score",
                lambda found: found["logits"],
                clients=200,
                seconds=6,
                end=lambda: process.send_signal(signal.SIGTERM),
            )
        )
        assert process.wait(20) == 0
        said = process.stdout.read()
    assert (tally.wrong, tally.lost) == ([], [])
    assert len(tally.seconds) > 200
    assert tally.refused >= 1
    assert f"drained: {len(tally.seconds):,} requests answered" in said


def test_the_plain_protocol_gives_logits_scores_and_units(client: TestClient, offline: list[float]) -> None:
    turns, answer = CASES[3]
    forms = [{"messages": [*turns, {"role": "assistant", "content": answer}]}, {"prompt": turns, "response": answer}]
    found = client.post("/score", json={"conversations": forms}).json()
    assert found["logits"] == pytest.approx([offline[3]] * 2, abs=1e-5)
    assert found["scores"] == pytest.approx([1 / (1 + np.exp(-0.5 * (offline[3] - 0.2)))] * 2, abs=1e-5)
    assert (found["rung"], found["rewards"]) == ("rung-60", None)
    assert (found["units"]["centre"], found["units"]["scale"]) == (0.2, 0.5)
    empty = client.post("/score", json={"conversations": [{"prompt": "a", "response": ""}]})
    assert np.isfinite(empty.json()["logits"]).all()


@pytest.mark.parametrize("before", ["", "<|pad|><|pad|>"])
@pytest.mark.parametrize("after", ["", "<|end|>", "<|end|><|pad|><|pad|>"])
def test_openrlhf_gets_the_offline_score_of_the_response(
    client: TestClient, rung: LoadedRung, offline: list[float], before: str, after: str
) -> None:
    prompts = [
        rung.scorer.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c, _ in CASES
    ]
    queries = [f"{before}{prompt} {answer}{after}" for prompt, (_, answer) in zip(prompts, CASES, strict=True)]
    body = {"query": queries[:8], "prompts": prompts[:8], "labels": [None] * 8}
    found = client.post("/get_reward", json=body).json()
    assert found["extra_logs"]["logit"] == pytest.approx(offline[:8], abs=1e-5)
    assert found["rewards"] == found["scores"]
    plain = {"query": [f"{CASES[1][0][0]['content']}{CASES[1][1]}"], "prompts": [CASES[1][0][0]["content"]]}
    assert client.post("/get_reward", json=plain).json()["extra_logs"]["logit"] == pytest.approx([offline[1]], abs=1e-5)


def test_a_template_is_read_backwards_exactly(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    form = ChatForm.of(tokenizer)
    system, user = {"role": "system", "content": "Be long."}, {"role": "user", "content": "one\n\nfox "}
    reply = {"role": "assistant", "content": "<answer> two </answer>"}
    for chat in ([system, user], [system, user, reply, user], [user, reply, user, reply, user]):
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        read = form.turns_of(prompt)
        assert read[-len(chat) :] == chat
        assert read[: -len(chat)] in ([], [{"role": "system", "content": "Be brief."}])
        assert form.answer_of(f"{prompt} three \n<|im_end|>\n<|pad|>", prompt) == " three \n"
        assert form.answer_of(f"{prompt}three\n", prompt) == "three\n"
    assert form.turns_of("plain text\n") == [{"role": "user", "content": "plain text\n"}]
    with pytest.raises(RowProblem, match="is not what the chat template writes; name the folder of the policy's"):
        form.turns_of("<|im_start|>user\nhi<|im_end|>\n")
    with pytest.raises(RowProblem, match="does not begin with its prompt"):
        form.answer_of("something else", "plain")


def chats(*rows: Any) -> bytes:
    return json.dumps({"conversations": list(rows)}).encode()


def asked(query: Any, prompts: Any) -> bytes:
    return json.dumps({"query": query, "prompts": prompts, "labels": []}).encode()


BAD = {
    "no JSON": ("/score", b"{", 400, "bad_json"),
    "not UTF-8": ("/score", b'{"conversations": "\xff"}', 400, "bad_json"),
    "NaN": ("/score", b'{"conversations": [NaN]}', 400, "bad_json"),
    "too deep": ("/score", b"[" * 60_000, 400, "bad_json"),
    "empty body": ("/score", b"", 400, "bad_json"),
    "a list": ("/score", b"[]", 422, "wrong_type"),
    "no key": ("/score", b"{}", 422, "wrong_type"),
    "nothing asked": ("/score", chats(), 422, "wrong_type"),
    "a text asked": ("/score", chats("hello"), 422, "wrong_type"),
    "no response": ("/score", chats({"prompt": "a"}), 422, "missing_column"),
    "a number": ("/score", chats({"prompt": "a", "response": 1}), 422, "wrong_type"),
    "a surrogate": ("/score", chats({"prompt": "\ud800", "response": "b"}), 422, "not_unicode"),
    "empty prompt": ("/score", chats({"prompt": "", "response": "b"}), 422, "empty_prompt"),
    "a pair": ("/score", chats({"prompt": "a", "chosen": "b", "rejected": "c"}), 422, "two_answers"),
    "an unknown role": ("/score", chats({"messages": [{"role": "x", "content": ""}]}), 422, "wrong_type"),
    "too long": ("/score", chats({"prompt": "a", "response": "fox " * 2 * CONTEXT}), 422, "too_long"),
    "too many": ("/score", chats(*[{"prompt": "a", "response": "b"}] * 65), 413, "too_many"),
    "too many tokens": ("/score", chats(*[{"prompt": "a", "response": "fox" * 250}] * 64), 413, "too_many_tokens"),
    "a large body": ("/score", b" " * 65537, 413, "body_too_large"),
    "a huge body": ("/score", b" " * 1_000_000, 413, "body_too_large"),
    "fewer prompts": ("/get_reward", asked(["a", "b"], ["a"]), 422, "lengths_differ"),
    "no prompts": ("/get_reward", b'{"query": ["a"]}', 422, "wrong_type"),
    "prompts of numbers": ("/get_reward", asked(["a"], [1]), 422, "wrong_type"),
    "queries of nothing": ("/get_reward", asked([None], ["a"]), 422, "wrong_type"),
    "another prompt": ("/get_reward", asked(["b a"], ["a"]), 422, "other_prompt"),
    "another template": ("/get_reward", asked(["<|end|>a b"], ["a <|end|>"]), 422, "other_template"),
    "unknown path": ("/scores", b"{}", 404, "unknown_path"),
    "wrong method": ("/health", b"{}", 405, "wrong_method"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_one_clear_line(client: TestClient, name: str) -> None:
    path, body, status, code = BAD[name]
    response = client.post(path, content=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["message"] and "\n" not in error["message"]
    good = client.post("/score", content=chats({"prompt": "a", "response": "b"}))
    assert good.status_code == 200, "the server goes on"


def test_what_nobody_foresaw_is_one_line_and_the_server_goes_on(
    client: TestClient, rung: LoadedRung, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = chats({"prompt": "a", "response": "b"})
    with monkeypatch.context() as patched:
        patched.setattr("rm.serving.loaded_rungs.score_ids", lambda *anything: [][0])
        response = client.post("/score", content=body)
        assert (response.status_code, response.json()["error"]["code"]) == (500, "failed")
    with monkeypatch.context() as patched:
        patched.setattr("rm.serving.loaded_rungs.score_ids", lambda model, rows, *anything: np.full(len(rows), np.nan))
        response = client.post("/score", content=body)
        assert (response.status_code, response.json()["error"]["code"]) == (500, "not_finite")
    assert client.post("/score", content=body).status_code == 200


def test_health_says_what_answers(client: TestClient, rung: LoadedRung) -> None:
    found = client.get("/health").json()
    assert found["ok"] and found["rung"] == "rung-60" and found["queue"] == 0
    assert found["accuracy"] == {"estimate": 0.5, "lo": 0.2, "hi": 0.8, "n": 9}
    assert found["chat_template_sha256"] == rung.card["chat_template_sha256"]
    assert (found["max_length"], found["calibrated"]) == (CONTEXT, False)


def test_rewards_are_calibrated_where_a_calibrator_is_given(rung: LoadedRung) -> None:
    body = {"conversations": [{"prompt": "a", "response": text} for text in ("one", "three")]}
    table = ServeTable(port=0)

    def by_length(logits: Any, texts: Any) -> list[float]:
        return [len(text) / 10 for text in texts]

    with TestClient(build_app(rung, table, by_length)) as client:
        assert client.post("/score", json=body).json()["rewards"] == [0.3, 0.5]
        asked_ = client.post("/get_reward", json={"query": ["a one"], "prompts": ["a "], "labels": [""]}).json()
        assert asked_["rewards"] == [0.3]
        assert asked_["scores"] != [0.3]
    with TestClient(build_app(rung, table, lambda logits, texts: [float("nan")] * 2)) as client:
        response = client.post("/score", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (500, "not_finite")


def test_a_key_is_wanted_where_one_is_set(rung: LoadedRung) -> None:
    body = chats({"prompt": "a", "response": "b"})
    with TestClient(build_app(rung, ServeTable(port=0), api_key="zq7")) as client:
        for headers in ({}, {"Authorization": "Bearer zq8"}, {"Authorization": b"Bearer \xff"}):
            response = client.post("/score", content=body, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "wrong_key")
            assert "zq7" not in response.text
        assert client.post("/score", content=body, headers={"Authorization": "Bearer zq7"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_a_full_or_draining_server_says_503(rung: LoadedRung, monkeypatch: pytest.MonkeyPatch) -> None:
    body = chats({"prompt": "a", "response": "b"})
    app = build_app(rung, ServeTable(port=0, max_requests=1))
    with TestClient(app) as client:
        with app.state.gate.entered():
            response = client.post("/score", content=body)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "busy")
        assert client.post("/score", content=body).status_code == 200
        with monkeypatch.context() as patched:
            patched.setattr(app.state.batcher, "_most_tokens", 1)
            assert client.post("/score", content=body).json()["error"]["code"] == "busy"
        app.state.gate.drain()
        response = client.post("/score", content=body)
        assert (response.status_code, response.headers["connection"]) == (503, "close")
        assert response.json()["error"]["code"] == "draining"
        assert (client.get("/health").status_code, app.state.gate.drained) == (503, False)


def test_the_gate_is_drained_when_nobody_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(2)
    monkeypatch.setattr("rm.serving.gate.DRAIN_GRACE_S", 0.0)
    with gate.entered():
        gate.drain()
        assert not gate.drained
    assert gate.drained


def test_what_waits_is_scored_together_and_each_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    free = threading.Event()

    def lengths(rows: list[Any]) -> Any:
        free.wait(5)
        batches.append(len(rows))
        if [13] in rows:
            raise RuntimeError("no 13")
        return np.array([float(len(row)) for row in rows])

    batcher = MicroBatcher(lengths, batch_tokens=10, wait_s=0.0, most_tokens=20)
    first = batcher.submit([[1]])
    while batcher.waiting:
        time.sleep(0.001)
    later = [batcher.submit([[1] * n]) for n in (2, 3, 4, 5)]
    bad = batcher.submit([[13]])
    with pytest.raises(QueueFull):
        batcher.submit([[1] * 6])
    assert batcher.waiting == 5
    free.set()
    assert first.result(5) == [1.0]
    assert [promise.result(5) for promise in later] == [[2.0], [3.0], [4.0], [5.0]]
    with pytest.raises(RuntimeError, match="no 13"):
        bad.result(5)
    assert batches[:2] == [1, 3], "2, 3 and 4 tokens fit into 10; 5 more do not"
    batcher.close()
    with pytest.raises(QueueFull):
        batcher.submit([[1]])


def test_what_cannot_be_served_is_said_before_anyone_asks(
    folder: Path, rung: LoadedRung, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RM_KEY", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        attempts: dict[str, Callable[[], object]] = {
            "cannot listen there": lambda: run([str(folder)], ServeTable(port=taken.getsockname()[1])),
            "RM_KEY is not set": lambda: run([str(folder)], ServeTable(port=0, api_key_env="RM_KEY")),
            "needs one rung folder, found 2": lambda: run([str(folder)] * 2, ServeTable(port=0)),
            "more than the context of rung-60": lambda: build_app(rung, ServeTable(port=0, max_length=CONTEXT + 1)),
            "cannot be loaded": lambda: build_app(rung, ServeTable(port=0, policy=str(folder.parent))),
        }
        for sentence, attempt in attempts.items():
            with pytest.raises(UserError, match=sentence):
                attempt()


def test_a_pasted_key_is_not_shown() -> None:
    with pytest.raises(UserError, match="takes the NAME") as caught:
        run(["rung"], ServeTable(port=0, api_key_env="sk-proj-SECRET"))
    assert "SECRET" not in str(caught.value)


def test_a_body_of_special_tokens_is_read_in_linear_time(rung: LoadedRung) -> None:
    form = ChatForm.of(rung.scorer.tokenizer)
    began = time.monotonic()
    assert form.answer_of("<|end|>" * 200_000 + "a b" + "<|end|>" * 200_000, "a ") == "b"
    assert time.monotonic() - began < 5


def test_slow_bodies_hold_no_place_and_have_a_bound() -> None:
    async def receive() -> None:
        gate = Gate(1, most_bodies=1)
        async with gate.received(5):
            with gate.entered(), pytest.raises(Refused):
                async with gate.received(5):
                    pass

    asyncio.run(receive())
