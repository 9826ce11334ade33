"""OpenRLHF's reward, as a file and over HTTP, by a caller written after OpenRLHF 0.11.0's (utils/agent.py).

What that caller does: it loads the file and calls `reward_func(queries, prompts, labels)` from threads with lists of
one, or posts {"query", "prompts", "labels"}; a query is the decoded prompt and response with every special token; what
is raised is logged and swallowed. The real caller runs in tests/test_verl.py.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import tasks.stage
from configs.errors import UserError
from configs.loader import Experiment
from policy.adapters import openrlhf_reward
from policy.adapters.label import label_of
from tests.adapter_samples import material, rewards_of_trl
from tests.clients import calibrated_server


class Caller:
    """Queries, prompts and labels of completions, and what OpenRLHF would do with them."""

    def __init__(self, experiment: Experiment) -> None:
        self.folder = tasks.stage.folder_of(experiment) / "base"
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
        self.prompts, self.texts = material(experiment)
        self.asked = [
            self.tokenizer.apply_chat_template(p.asked, tokenize=False, add_generation_prompt=True)
            for p in self.prompts
        ]
        self.queries = [self.query(p, text) for p, text in zip(self.asked, self.texts, strict=True)]
        self.labels = [label_of(prompt) for prompt in self.prompts]

    def query(self, prompt: str, text: str) -> str:
        """The prompt's and the response's tokens, decoded with every special token."""
        ids = [*self._ids(prompt), *self._ids(text), self.tokenizer.eos_token_id]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text=text, add_special_tokens=False)["input_ids"])

    def by_file(self) -> list[dict[str, Any]]:
        """Loaded by path, called in threads with lists of one."""
        spec = importlib.util.spec_from_file_location("reward_func", str(openrlhf_reward.__file__))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        async def all_of_them() -> list[dict[str, Any]]:
            rows = zip(self.queries, self.asked, self.labels, strict=True)
            return await asyncio.gather(*(asyncio.to_thread(module.reward_func, [q], [p], [a]) for q, p, a in rows))

        return asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def caller(small: Experiment) -> Caller:
    return Caller(small)


@pytest.fixture(scope="module")
def address(small: Experiment) -> Iterator[str]:
    with calibrated_server(small.folder / "rm" / "rung-60") as (found, _):
        yield found


@pytest.fixture(scope="module")
def expected(small: Experiment, caller: Caller, tmp_path_factory: pytest.TempPathFactory) -> list[float | None]:
    folder = tmp_path_factory.mktemp("expected")
    return rewards_of_trl(small, {"reward": "rpr", "rung": "60"}, caller.prompts, caller.texts, folder)[0]


def post(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"{address}/get_reward", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def test_the_file_gives_the_rewards_of_our_own_callable(
    caller: Caller, address: str, expected: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "reward.yaml"
    settings.write_text(f"server: {address}\ntokenizer: {caller.folder}\n")
    monkeypatch.setenv("REWARDLADDER_REWARD", str(settings))
    found = caller.by_file()
    assert [float(one["rewards"][0]) for one in found] == pytest.approx(expected, abs=1e-6)
    for one in found:
        assert one["rewards"].shape == one["scores"].shape == (1,) and 0 <= float(one["scores"][0]) <= 1
        assert (
            set(one["extra_logs"]) == set(found[0]["extra_logs"]) >= {"well_formed", "missing", "rpr", "bonus", "gold"}
        )
        assert all(torch.isfinite(value).all() for value in one["extra_logs"].values())


def test_the_endpoint_gives_the_rewards_of_our_own_callable(
    caller: Caller, address: str, expected: list[float]
) -> None:
    singly = [
        post(address, {"query": [q], "prompts": [p], "labels": [label]})
        for q, p, label in list(zip(caller.queries, caller.asked, caller.labels, strict=True))[:40]
    ]
    assert [one["rewards"][0] for one in singly] == pytest.approx(expected[:40], abs=1e-6)
    body = {"query": caller.queries, "prompts": caller.asked}
    for labels in (
        {"labels": caller.labels},
        {"labels": [""] * len(caller.queries)},
        {},
    ):  # the chats are the same here
        found = post(address, body | labels)
        assert found["rewards"] == pytest.approx(expected, abs=1e-6)
        assert all(0 <= score <= 1 for score in found["scores"])
        assert {len(values) for values in found["extra_logs"].values()} == {len(caller.queries)}
    assert found["extra_logs"]["well_formed"].count(0.0) > 60


def test_the_chat_of_the_label_is_read_in_the_place_of_the_prompts(caller: Caller, address: str) -> None:
    with_instruction = caller.tokenizer.apply_chat_template(
        [{"role": "user", "content": caller.prompts[1].messages[0]["content"] + " use tags"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    query = caller.query(with_instruction, caller.texts[1])
    labelled = post(address, {"query": [query], "prompts": [with_instruction], "labels": [caller.labels[1]]})
    plain = post(address, {"query": [caller.queries[1]], "prompts": [caller.asked[1]], "labels": [""]})
    other = post(address, {"query": [query], "prompts": [with_instruction], "labels": [""]})
    logits = [one["extra_logs"]["rung_logit"][0] for one in (labelled, plain, other)]
    assert logits[0] == pytest.approx(logits[1], abs=1e-6) and abs(logits[0] - logits[2]) > 1e-3


def test_special_tokens_inside_a_response_are_left_out_as_decoding_leaves_them_out(
    caller: Caller, address: str
) -> None:
    marker = caller.tokenizer.eos_token
    cut = caller.texts[1][:20] + marker + caller.texts[1][20:]
    found = [
        post(address, {"query": [caller.query(caller.asked[1], text)], "prompts": [caller.asked[1]], "labels": [""]})
        for text in (caller.texts[1], cut)
    ]
    assert found[0] == found[1]


def test_what_is_wrong_is_printed_because_openrlhf_swallows_it(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = ([caller.queries[0]], [caller.asked[0]], [caller.labels[0]])
    monkeypatch.delenv("REWARDLADDER_REWARD", raising=False)
    with pytest.raises(UserError, match="REWARDLADDER_REWARD is not set"):
        openrlhf_reward.reward_func(*first)
    settings = tmp_path / "reward.yaml"
    settings.write_text(f"server: http://127.0.0.1:9\npatience_s: 0.1\ntokenizer: {caller.folder}\n")
    monkeypatch.setenv("REWARDLADDER_REWARD", str(settings))
    with pytest.raises(UserError, match=r"127.0.0.1:9: no answer"):
        openrlhf_reward.reward_func(*first)
    said = capsys.readouterr().out
    assert "rewards: REWARDLADDER_REWARD is not set" in said
    assert "rewards: http://127.0.0.1:9: no answer" in said and "is `rewardladder serve` running there?" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": []}, "labels must be a list of 1, one for each query"),
        ({"labels": ['{"messages":[{"role']}, "was its column shortened?"),
        ({"labels": ['{"messages":[{"role":"nobody","content":"x"}]}']}, "a prompt cannot be read"),
        ({"query": ["something else"]}, "does not begin with its prompt"),
    ],
)
def test_a_request_that_cannot_be_read_is_one_line(
    caller: Caller, address: str, changes: dict[str, Any], sentence: str
) -> None:
    body = {"query": [caller.queries[0]], "prompts": [caller.asked[0]], "labels": [caller.labels[0]]}
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(address, body | changes)
    message = json.loads(caught.value.read())["error"]["message"]
    assert caught.value.code == 422 and sentence in message and "\n" not in message
