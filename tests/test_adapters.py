"""One core for other trainers: the rewards of our own callable, foreign calibrators refused, dead servers one line."""

from __future__ import annotations

import asyncio
import inspect
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json, write_json
from curve.cli import main
from policy.adapters.batching import RewardBatcher
from policy.adapters.core import CompletionReward, Rewarded, Sample
from policy.adapters.label import label_of, meta_of_label
from policy.adapters.opened import opened_reward
from policy.adapters.opening import open_reward
from policy.adapters.prompts_export import row_of
from policy.adapters.reading import TextReader
from policy.adapters.settings import adapter_table
from policy.adapters.verl_reward import compute_score
from policy.config import PolicyTable
from policy.rewards.noise import Judged, add_noise, paper_a
from policy.rewards.table import RewardSettings
from rm.answer_form import AnswerForm
from tasks.records import Grade, Prompt
from tests.adapter_samples import completion, material, rewards_of_trl
from tests.clients import ROOT, calibrated_server

KEY = "sk-secret-0123456789"
GRAPH = {
    "name": "gated",
    "parts": {
        "quality": {"kind": "score", "rung": 60},
        "whole": {"kind": "logit", "rung": 60, "reads": "whole"},
        "reasoning": {"kind": "rpr"},
        "luck": {"kind": "random", "rate": 0.3},
        "truth": {"kind": "gold"},
    },
    "terms": [
        {"part": "quality"},
        {"part": "reasoning", "weight": 0.5, "gates": [{"part": "quality", "below": 0.75}]},
        {"part": "luck", "weight": 0.1},
    ],
}


@pytest.fixture(scope="module")
def address(small: Experiment) -> Iterator[str]:
    with calibrated_server(small.folder / "rm" / "rung-60") as (found, _):
        yield found


def opened(**settings: Any) -> CompletionReward:
    return open_reward(adapter_table(settings, "a test"))


def samples_of(prompts: list[Prompt], texts: list[str], keyed: bool = False) -> list[Sample]:
    """As a trainer hands them over: a row of the export, and a completion."""
    seen: dict[str, int] = {}
    found = []
    for prompt, text in zip(prompts, texts, strict=True):
        row = row_of(prompt, 0, "advice")
        draw = {"sample": seen.get(prompt.prompt_id, 0), "step": 0} if keyed else {}
        seen[prompt.prompt_id] = seen.get(prompt.prompt_id, 0) + 1
        truth = row["reward_model"]["ground_truth"]
        found.append(Sample(row["prompt"], text, truth, {**row["extra_info"], **draw}))
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"reward": "rpr", "rung": "60"},
        {"reward": "raw", "rung": "60"},
        {"reward": "constant", "rung": "60"},
        {"reward": "random_phrases", "rung": "60"},
        {"reward": "rpr_only"},
        {"reward": "gold"},
        {"reward": "random", "random_rate": 0.3},
        {"reward": "format"},
        {"reward": "graph", "graph": GRAPH},
    ],
    ids=lambda changes: changes["reward"],
)
def test_a_core_from_a_run_gives_the_rewards_of_our_own_callable(
    small: Experiment, tmp_path: Path, changes: dict[str, Any]
) -> None:
    prompts, texts = material(small)
    expected, rows = rewards_of_trl(small, changes, prompts, texts, tmp_path)
    policy = {key: changes[key] for key in ("random_rate", "graph") if key in changes}
    rung = {"rung": changes["rung"]} if "rung" in changes else {}
    core = opened(run=str(small.folder), reward=changes["reward"], policy=policy, **rung)
    found = core.rewards(samples_of(prompts, texts, keyed=True))
    assert [one.reward for one in found] == pytest.approx(expected, abs=1e-6)
    assert [one.parts["gold"] for one in found] == [row["gold"] for row in rows]
    if "rung" in changes:
        assert [one.parts["rung_logit"] for one in found] == pytest.approx([row["logit"] for row in rows], abs=1e-6)
        malformed = [one for one in found if not one.parts["well_formed"]]
        assert len(malformed) > 60 and {one.parts["rung_score"] for one in malformed} == {None}
    assert len({tuple(one.parts) for one in found}) == 1, "a trainer needs the same names for every completion"


def test_verl_openrlhf_and_the_server_give_the_rewards_of_our_own_callable(
    small: Experiment, address: str, tmp_path: Path
) -> None:
    prompts, texts = material(small)
    expected, _ = rewards_of_trl(small, {"reward": "rpr", "rung": "60"}, prompts, texts, tmp_path)
    rows = [row_of(prompt, i, "advice") for i, prompt in enumerate(prompts)]

    async def ask(**settings: Any) -> list[dict[str, float]]:
        asked = (
            compute_score(row["data_source"], text, row["reward_model"]["ground_truth"], row["extra_info"], **settings)
            for row, text in zip(rows, texts, strict=True)
        )
        return await asyncio.gather(*asked)

    for settings in ({"run": str(small.folder), "rung": 60}, {"server": address}):
        found = asyncio.run(ask(**settings))
        assert np.abs(np.array([one["score"] for one in found]) - np.array(expected)).max() < 1e-6
        assert all(type(value) is float and np.isfinite(value) for one in found for value in one.values())
        assert len({tuple(one) for one in found}) == 1
        assert {"score", "missing", "well_formed", "rung_logit", "rung_score", "rpr", "bonus", "gold"} <= set(found[0])
        assert sum(one["missing"] for one in found) == 0
    file = {"rung_folder": str(small.folder / "rm" / "rung-60"), "response_format": "tagged", "server": address}
    own = asyncio.run(ask(**file))
    plain = [i for i, prompt in enumerate(texts) if "gold bars" not in prompt and "\u4f60" not in prompt]
    assert [own[i]["score"] for i in plain] == pytest.approx([expected[i] for i in plain], abs=1e-6)


def test_verls_contract_is_kept_without_verl() -> None:
    assert inspect.iscoroutinefunction(compute_score)
    names = list(inspect.signature(compute_score).parameters)
    assert names == ["data_source", "solution_str", "ground_truth", "extra_info", "reward_kwargs"]
    assert inspect.signature(compute_score).parameters["extra_info"].default is None
    with pytest.raises(UserError, match=r"no extra_info.messages.*export-prompts"):
        asyncio.run(compute_score("x", "y", "", {"index": 0}, server="http://127.0.0.1:1"))


def test_no_torch_is_needed_to_import_the_shells() -> None:
    program = (
        "import policy.adapters.verl_reward, policy.adapters.openrlhf_reward, policy.adapters.prompts_export, sys; "
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == ("False", "")


def test_a_foreign_calibrator_is_refused(small: Experiment, address: str, tmp_path: Path) -> None:
    rung, other = small.folder / "rm" / "rung-60", small.folder / "calibration" / "rung-55"
    with pytest.raises(UserError, match=r"rung-60: this rung has other score units than the calibrator of rung 55"):
        opened(rung_folder=str(rung), calibrator=str(other), response_format="tagged")
    with pytest.raises(UserError, match=r"the served rung is not the one in .*rung-55.*serve this one"):
        opened(run=str(small.folder), rung="55", server=address)
    shutil.copytree(small.folder / "calibration" / "rung-60", tmp_path / "altered")
    path = tmp_path / "altered" / "calibration.json"
    write_json(path, read_json(path) | {"rung_sha256": "0" * 64})
    with pytest.raises(UserError, match="altered since it was written"):
        opened(rung_folder=str(rung), calibrator=str(tmp_path / "altered"), response_format="tagged")


def test_a_server_that_is_away_or_dies_is_one_line_with_address_and_remedy(small: Experiment) -> None:
    away = {"server": "http://127.0.0.1:9", "patience_s": 0.2}
    row = row_of(material(small)[0][0], 0, "advice")
    asked = ("advice", completion(1), "", row["extra_info"])
    sentence = r"http://127.0.0.1:\d+: no answer within 0 s \(.*refused\); is `rewardladder serve` running there\?"
    with pytest.raises(UserError, match=sentence):
        asyncio.run(compute_score(*asked, **away))

    async def at_once(settings: dict[str, Any], most_s: float) -> list[Any]:
        calls = (compute_score(*asked, **settings) for _ in range(40))
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), most_s)

    found = asyncio.run(at_once({"server": "http://127.0.0.1:9", "patience_s": 0.5}, 10))
    assert {type(error) for error in found} == {UserError}, "the server is waited for once, not once a completion"
    with calibrated_server(small.folder / "rm" / "rung-60") as (place, process):
        settings = {"server": place, "patience_s": 0.4}
        assert np.isfinite(asyncio.run(compute_score(*asked, **settings))["score"])
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        found = asyncio.run(at_once(settings, 20))
        assert {str(error) for error in found} == {str(found[0])} and place in str(found[0])
        assert "is `rewardladder serve` running there?" in str(found[0])


def test_keys_reach_the_server_and_no_line(
    small: Experiment, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNG_KEY", KEY)
    with calibrated_server(small.folder / "rm" / "rung-60", "api_key_env=RUNG_KEY") as (place, _):
        core = opened(server=place, api_key_env="RUNG_KEY")
        prompts, texts = material(small)
        assert core.rewards(samples_of(prompts[:2], texts[:2]))[1].reward is not None
        with pytest.raises(UserError, match="refused with 401: send the key"):
            opened(server=place)
        monkeypatch.setenv("RUNG_KEY", KEY + "x")
        with pytest.raises(UserError, match="401") as caught:
            opened(server=place, api_key_env="RUNG_KEY")
    assert KEY not in str(caught.value)
    assert all(KEY not in text for text in capfd.readouterr())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "where the reward comes from is missing; give run, rung_folder or server"),
        ({"run": "nowhere", "rung": 65}, "no run with a finished stage tasks"),
        ({"run": "a", "rung_folder": "b"}, "remove one of the two"),
        ({"rnu": "a"}, "rnu is not a key; did you mean run?"),
        ({"server": f"http://name:{KEY}@example.org"}, "must look like http://127.0.0.1:8000"),
        ({"server": f"http://example.org/?key={KEY}"}, "must look like http://127.0.0.1:8000"),
        ({"server": "http://127.0.0.1:1", "api_key_env": KEY}, "takes the NAME"),
        ({"server": "http://127.0.0.1:1", "reward": "length"}, "'length' is not allowed"),
        ({"rung_folder": "nowhere", "response_format": "plain"}, "it has no calibrator"),
        ({"rung_folder": "nowhere"}, "none is named; choose tagged, plain or any"),
        ({"settings": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
    ],
)
def test_settings_that_mean_nothing_are_one_line(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        opened(**settings)
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_run_does_not_hold_is_named(small: Experiment) -> None:
    with pytest.raises(UserError, match="needs a rung, for example"):
        opened(run=str(small.folder))
    with pytest.raises(UserError, match="there is no rung 70; there are: 55, 60"):
        opened(run=str(small.folder), rung=70)


def test_parts_that_look_at_other_completions_are_refused(small: Experiment) -> None:
    graph = {**GRAPH, "parts": {**GRAPH["parts"], "long": {"kind": "length"}}}  # type: ignore[dict-item]
    with pytest.raises(UserError, match="part long is of kind length, which needs the tokens"):
        opened(run=str(small.folder), reward="graph", policy={"graph": graph})


def test_a_missing_reward_becomes_the_named_number_and_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    def ask(samples: Any) -> list[Rewarded]:
        return [Rewarded(None if s.completion == "?" else 1.0, {"gold": None, "no_gold": 1.0}) for s in samples]

    batcher = RewardBatcher(ask, 8, 0.01)
    found = [batcher.submit(Sample("a", text)) for text in ("?", "x", "?")]
    numbers = [promise.result(5).numbers(-0.5) for promise in found]
    assert [one["score"] for one in numbers] == [-0.5, 1.0, -0.5]
    assert [one["missing"] for one in numbers] == [1.0, 0.0, 1.0] and numbers[1]["gold"] == 0.0
    assert (batcher.missing, batcher.answered) == (2, 3)
    assert "had no reward and got missing_reward" in capsys.readouterr().out


def test_completions_that_arrive_together_go_to_the_rung_together_and_a_failure_is_told_to_all() -> None:
    sizes: list[int] = []

    def ask(samples: Any) -> list[Rewarded]:
        sizes.append(len(samples))
        if any(s.completion == "broken" for s in samples):
            raise UserError("a reason")
        return [Rewarded(float(s.completion), {}) for s in samples]

    batcher = RewardBatcher(ask, 16, 0.2)
    found = [batcher.submit(Sample("a", str(i))) for i in range(20)]
    assert [promise.result(5).reward for promise in found] == [float(i) for i in range(20)]
    assert sizes == [16, 4]
    failed = [batcher.submit(Sample("a", text)) for text in ("1", "broken", "2")]
    for promise in failed:
        with pytest.raises(UserError, match="a reason"):
            promise.result(5)
    assert batcher.submit(Sample("a", "3")).result(5).reward == 3.0


def test_draws_without_sample_and_step_belong_to_prompt_and_text(small: Experiment) -> None:
    core = opened(run=str(small.folder), reward="random", policy={"random_rate": 0.5})
    prompts, _ = material(small)
    texts = [f"text {i}" for i in range(len(prompts))]
    first = [one.reward for one in core.rewards(samples_of(prompts, texts))]
    turned = [one.reward for one in core.rewards(samples_of(prompts[::-1], texts[::-1]))]
    assert first == turned[::-1] and 0.35 < np.mean(np.array(first, dtype=float)) < 0.65


def test_flips_are_those_of_our_own_trainer_where_sample_and_step_are_told() -> None:
    class Checked(TextReader):
        def grade(self, prompt: Prompt, completion: str) -> Grade:
            return Grade(float(completion == prompt.meta["answer"]), "ok", "")

    table = PolicyTable.model_validate({"reward": "gold", "noise": paper_a(0.4).model_dump()})
    core = CompletionReward(RewardSettings(table, 7, 48, None), Checked("plain", AnswerForm()), graded=True)
    told = [{"prompt_id": f"p{i % 9}", "sample": i // 9, "step": i % 5} for i in range(90)]
    found = core.rewards([Sample("q", "57"[i % 2], "7", meta) for i, meta in enumerate(told)])
    judged = [Judged(str(m["prompt_id"]), int(m["sample"]), int(m["step"]), float(i % 2)) for i, m in enumerate(told)]
    given = add_noise(judged, table.noise, 7)
    assert [one.reward for one in found] == [one.reward for one in given]
    assert [one.parts["flipped"] for one in found] == [float(bool(one.flipped)) for one in given]
    assert [one.parts["gold"] for one in found] == [i % 2 for i in range(90)]
    with pytest.raises(UserError, match=r"its truth \(answer\) did not come along.*export-prompts"):
        core.rewards([Sample("q", "7")])


def test_the_export_has_verls_columns_and_keeps_the_chats_apart(small: Experiment, tmp_path: Path) -> None:
    assert main(["export-prompts", str(small.folder), f"output={tmp_path}"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev.parquet", "train.parquet"]
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert len(rows) == 300
    assert set(rows[0]) == {"data_source", "prompt", "ability", "reward_model", "extra_info", "label"}
    assert (rows[3]["extra_info"]["index"], rows[3]["extra_info"]["split"]) == (3, "train")
    prompt = Prompt(
        "p", "train", [{"role": "user", "content": "a"}], {"answer": "7"}, [{"role": "user", "content": "b"}]
    )
    row = row_of(prompt, 0, "mathematics")
    assert row["prompt"][0]["content"] == "b" and row["extra_info"]["messages"][0]["content"] == "a"
    assert row["reward_model"] == {"style": "rule", "ground_truth": "7"}
    label = label_of(prompt)
    assert meta_of_label(label) == {"prompt_id": "p", "messages": prompt.messages, "meta": {"answer": "7"}}
    assert meta_of_label("7") == {} and json.loads(label)
    with pytest.raises(UserError, match="was its column shortened"):
        meta_of_label(label[:30])
    opening = Prompt("p", "train", prompt.messages, {}, [{"role": "assistant", "content": "Let's"}])
    with pytest.raises(UserError, match="forced opening"):
        row_of(opening, 0, "mathematics")
    assert main(["export-prompts", str(tmp_path), f"output={tmp_path}"]) == 2


def test_settings_open_a_reward_once(small: Experiment) -> None:
    settings = {"run": str(small.folder), "reward": "format"}
    assert opened_reward(settings, "a") is opened_reward(dict(settings), "b")
