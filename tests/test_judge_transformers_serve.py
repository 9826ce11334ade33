"""The judge's client against a real server: `transformers serve` with a tiny model that is built here.

The model knows nothing, so its replies are unreadable or cut; what is tested is that every request is a request that a
server takes, every reply is read and kept, and that what the model says is never made a verdict.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import UserError
from judge.answers import Answer, Pair, Question
from judge.asking.store import STORE_FILE, ReplyStore
from judge.config import JudgeTable
from judge.judges import Court, open_judge
from tasks.records import Prompt
from tests.tiny_rungs import make_base, sentence

NEEDED = ("fastapi", "uvicorn", "openai")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
START_TIMEOUT_S = 180.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"transformers[serving] is not installed: {', '.join(MISSING)} is missing"
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Base URL and model name of a server of its own process."""
    folder = tmp_path_factory.mktemp("serve")
    model = make_base(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = folder / "hf"
    (home / "hub").mkdir(parents=True)  # without it `GET /v1/models` is a 500
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [*command, "--port", str(port)], env={**os.environ, **offline}, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            try:
                opener.open(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(model)
    finally:
        process.kill()
        process.wait()
        log.close()


def questions(n: int) -> list[Question]:
    def answer(text: str) -> Answer:
        return Answer(prompt_id="p", sample=0, completion=text, answer=text, status="ok", n_tokens=1, truncated=False)

    asked = []
    for i in range(n):
        turns = [{"role": "user", "content": sentence(i, 6)}]
        if i % 2:
            turns += [{"role": "assistant", "content": "fox"}, {"role": "user", "content": "why ?"}]
        pair = Pair(
            f"p{i}#0", Prompt(f"p{i}", "eval", turns), answer(sentence(2 * i, 8)), answer(sentence(2 * i + 1, 8))
        )
        asked += [Question(pair, "AB"), Question(pair, "BA")]
    return asked


def test_a_real_server_is_asked_once_for_each_order(server: tuple[str, str], tmp_path: Path) -> None:
    url, model = server
    table = JudgeTable(
        kind="openai", base_url=url, api_key_env=None, model=model, max_tokens=8, concurrency=4, timeout_s=60.0
    )
    asked = questions(6)
    with open_judge(Court(table, tmp_path, [], lambda: pytest.fail("no task"), {})) as decide:
        verdicts = decide(asked, "t")
        assert decide(asked, "t") == verdicts
    assert [verdict.order for verdict in verdicts] == ["AB", "BA"] * 6
    assert {verdict.status for verdict in verdicts} <= {"unreadable", "truncated"}
    assert all(verdict.winner is None and verdict.request for verdict in verdicts)
    assert all(verdict.usage and verdict.usage["prompt_tokens"] > 0 for verdict in verdicts)
    with ReplyStore(tmp_path / STORE_FILE) as store:
        assert len(store) == store.n_paid(f"{model} at {url}") == len(asked)


def test_another_model_than_the_served_one_is_refused_in_one_line(server: tuple[str, str], tmp_path: Path) -> None:
    url, _ = server
    table = JudgeTable(kind="openai", base_url=url, api_key_env=None, model="another/model", max_retries=0)
    with (
        open_judge(Court(table, tmp_path, [], lambda: pytest.fail("no task"), {})) as decide,
        pytest.raises(UserError, match=r"failed 4 times in a row, the last time with: HTTP 4\d\d"),
    ):
        decide(questions(2), "t")
