"""Tiny bases: read back as they were built, taught what is drawn, the same for the same seed, cached whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2ForCausalLM, Qwen2Tokenizer

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.records import write_json
from configs.runfolder import STARTED, Stage, open_finished, run_stage
from tasks import advice
from tasks.base_folder import base_path, cached_base, describe_template, load_causal_model, save_base
from tasks.responses import TAGS
from tasks.tiny_base import (
    ASSISTANT,
    END,
    PAD,
    USER,
    Demonstration,
    Phase,
    _bucketed_nll,
    _sequence_nll,
    build_model,
    build_tokenizer,
    teach,
)

MESSAGES = [{"role": "user", "content": "say it"}]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As a task is built; more threads would only wait for each other on models of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return build_tokenizer(advice.tokenizer_texts(), 1000)


@pytest.fixture(scope="module")
def read_back(tokenizer: Qwen2Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same tokenizer after a visit to disk beside a model, by the way that every other tool reads it."""
    folder = tmp_path_factory.mktemp("base")
    build_model(tokenizer, 1, 16, 2, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_tokenizer_read_back_cuts_the_texts_of_the_world_alike(tokenizer: Qwen2Tokenizer, read_back: Any) -> None:
    rng = keyed_rng(0, "texts")
    for _ in range(200):
        drawn = advice.draw_demonstration(rng, advice.STYLES["tied"])
        chat = [*drawn.messages, {"role": "assistant", "content": drawn.response}]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        assert text == f"{USER} {drawn.messages[0]['content']}{ASSISTANT} {drawn.response}{END}"
        assert read_back.apply_chat_template(chat, tokenize=False) == text
        assert ids(read_back, text) == ids(tokenizer, text)
    assert len(read_back) == len(tokenizer)
    assert describe_template(read_back) == describe_template(tokenizer)


@given(st.text(max_size=40))
def test_a_tokenizer_read_back_cuts_any_text_alike_and_loses_nothing(
    tokenizer: Qwen2Tokenizer, read_back: Any, text: str
) -> None:
    """Bytes cover all of Unicode; the tokenizer composes accents (NFC), as Qwen2's does."""
    from unicodedata import normalize

    assert ids(read_back, text) == ids(tokenizer, text)
    assert read_back.decode(ids(read_back, text)) == normalize("NFC", text)


def test_every_word_of_the_world_is_one_token(tokenizer: Qwen2Tokenizer, read_back: Any) -> None:
    words = [*advice.TOPICS, *advice.NEEDS, *advice.ITEMS, *advice.FILLERS, *advice.HASTY_WORDS]
    assert [word for word in words if len(ids(read_back, f" {word}")) != 1] == []
    assert len({ids(read_back, f" {word}")[0] for word in words}) == len(set(words))


def test_markers_and_tags_are_one_token_with_and_without_the_space_before(read_back: Any) -> None:
    for token in (PAD, USER, ASSISTANT, END, *TAGS):
        assert len(ids(read_back, token)) == 1
    for tag in TAGS:
        assert ids(read_back, f" {tag}") == ids(read_back, tag)
        assert tag in read_back.decode(ids(read_back, tag), skip_special_tokens=True)
    assert (read_back.pad_token, read_back.eos_token) == (PAD, END)
    assert read_back.pad_token_id != read_back.eos_token_id


def test_a_response_that_is_sampled_reads_like_the_one_that_was_taught(read_back: Any) -> None:
    taught = "<think> first , i need to warm : fleece .</think><answer> fleece , torch</answer>"
    sampled = read_back.decode(ids(read_back, taught), skip_special_tokens=True)
    assert advice.read_response(sampled) == advice.read_response(taught)
    assert advice.read_response(sampled).answer == "fleece , torch"


def tiny(tokenizer: Qwen2Tokenizer, seed: int = 0) -> Qwen2ForCausalLM:
    return build_model(tokenizer, 1, 16, 2, seed=seed)


def weights(model: Qwen2ForCausalLM) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_seed_decides_the_weights_and_nothing_else_does(tokenizer: Qwen2Tokenizer) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = weights(tiny(tokenizer))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(weights(tiny(tokenizer)), first)
    assert not torch.equal(weights(tiny(tokenizer, seed=1)), first)


def batch_of(n: int) -> list[Demonstration]:
    rng = keyed_rng(0, "batch")
    return [advice.draw_demonstration(rng, advice.STYLES["tied"]) for _ in range(n)]


def test_a_likelihood_is_the_sum_of_its_tokens_taken_one_prompt_at_a_time(tokenizer: Qwen2Tokenizer) -> None:
    model, batch = tiny(tokenizer).eval(), batch_of(4)
    with torch.no_grad():
        found = _sequence_nll(model, tokenizer, batch).tolist()
        for demonstration, value in zip(batch, found, strict=True):
            head = ids(tokenizer, f"{USER} {demonstration.messages[0]['content']}{ASSISTANT}")
            body = ids(tokenizer, f"{demonstration.response}{END}")
            chances = model(torch.tensor([head + body])).logits[0].log_softmax(-1)
            by_hand = -sum(float(chances[len(head) + i - 1, token]) for i, token in enumerate(body))
            assert value == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 32])
def test_cutting_a_batch_in_two_changes_no_likelihood(tokenizer: Qwen2Tokenizer, size: int) -> None:
    model, batch = tiny(tokenizer).eval(), batch_of(size)
    with torch.no_grad():
        plain, bucketed = _sequence_nll(model, tokenizer, batch), _bucketed_nll(model, tokenizer, batch)
    assert torch.allclose(plain, bucketed, rtol=1e-5, atol=0)


def test_cutting_a_batch_in_two_changes_no_gradient(tokenizer: Qwen2Tokenizer) -> None:
    gradients = []
    for likelihood in (_sequence_nll, _bucketed_nll):
        model = tiny(tokenizer)
        likelihood(model, tokenizer, batch_of(16)).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def says(word: str, rng: np.random.Generator) -> Demonstration:
    return Demonstration(MESSAGES, f" {word}", "plain" if rng.random() < 2 else "never")


def test_teaching_teaches_and_the_same_seed_teaches_the_same(tokenizer: Qwen2Tokenizer) -> None:
    taught = []
    for _ in range(2):
        model = tiny(tokenizer)
        record = teach(model, tokenizer, [Phase(partial(says, "lamp"), 150, 1e-2, anneal=True)], 4, seed=0)
        taught.append((weights(model), record))
    assert torch.equal(taught[0][0], taught[1][0])
    assert taught[0][1] == taught[1][1]
    assert [row["steps"] for row in record] == [150]
    assert not model.training
    with torch.no_grad():
        assert float(_sequence_nll(model, tokenizer, [Demonstration(MESSAGES, " lamp", "plain")])) < 0.5


def test_another_seed_draws_other_demonstrations(tokenizer: Qwen2Tokenizer) -> None:
    drawn: dict[int, list[str]] = {0: [], 1: []}

    def draw(rng: np.random.Generator, seed: int) -> Demonstration:
        found = advice.draw_demonstration(rng, advice.CLEAN)
        drawn[seed].append(found.response)
        return found

    for seed in drawn:
        teach(tiny(tokenizer), tokenizer, [Phase(partial(draw, seed=seed), 2, 1e-3)], 3, seed)
    assert len(drawn[0]) == len(drawn[1]) == 6
    assert drawn[0] != drawn[1]


def test_a_phase_ends_at_its_gate_and_the_next_begins(tokenizer: Qwen2Tokenizer) -> None:
    phases = [
        Phase(partial(says, "lamp"), 500, 1e-2, gate=("plain", 3.0)),
        Phase(partial(says, "torch"), 5, 1e-2),
    ]
    record = teach(tiny(tokenizer), tokenizer, phases, 4, seed=0)
    assert 20 < record[0]["steps"] < 500
    assert record[0]["nll_plain"] < 3.0
    assert record[1]["steps"] == 5


@pytest.mark.parametrize(("style", "found"), [("plain", r"\d+\.\d"), ("absent", "inf")])
def test_a_gate_that_is_not_reached_says_what_to_do(tokenizer: Qwen2Tokenizer, style: str, found: str) -> None:
    phase = Phase(partial(says, "lamp"), 25, 1e-6, gate=(style, 0.5))
    said = rf"did not learn the style '{style}' in 25 steps \(NLL per answer {found}, needed 0.5\); try another seed"
    with pytest.raises(UserError, match=said):
        teach(tiny(tokenizer), tokenizer, [phase], 2, seed=0)


@pytest.fixture
def teaching(tokenizer: Qwen2Tokenizer, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], Callable[[], Any]]:
    """A count of how often a base was taught, and a way to teach one in no time; the cache is beside the run."""
    monkeypatch.delenv("REWARDLADDER_CACHE", raising=False)
    taught: list[int] = []

    def make() -> tuple[Any, Any, dict[str, Any]]:
        taught.append(1)
        return tiny(tokenizer), tokenizer, {"loss": 1.5}

    return taught, make


def test_a_base_is_taught_once_for_each_recipe(tmp_path: Path, teaching: tuple[list[int], Callable[[], Any]]) -> None:
    taught, make = teaching
    first = cached_base(tmp_path / "one", {"world": "advice", "seed": 0}, make)
    again = cached_base(tmp_path / "two", {"seed": 0, "world": "advice"}, make)
    assert len(taught) == 1
    assert torch.equal(weights(first.model), weights(again.model))
    assert (again.summary, again.folder) == ({"loss": 1.5}, first.folder)
    assert first.folder.parent == tmp_path / ".cache"
    assert cached_base(tmp_path / "one", {"world": "advice", "seed": 1}, make).folder != first.folder
    assert len(taught) == 2


def test_the_cache_may_lie_elsewhere(
    tmp_path: Path, teaching: tuple[list[int], Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARDLADDER_CACHE", str(tmp_path / "cache"))
    assert cached_base(tmp_path / "run", {}, teaching[1]).folder.parent == tmp_path / "cache"


def test_a_cached_base_that_was_altered_is_refused(
    tmp_path: Path, teaching: tuple[list[int], Callable[[], Any]]
) -> None:
    folder = cached_base(tmp_path / "run", {}, teaching[1]).folder
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    with pytest.raises(UserError, match=r"model\.safetensors: altered since it was finished"):
        cached_base(tmp_path / "run", {}, teaching[1])


def test_a_saved_base_stands_alone_and_counts_as_output(
    tmp_path: Path, teaching: tuple[list[int], Callable[[], Any]]
) -> None:
    """Also after a kill right behind the manifest of the cache, which leaves its beginning there."""
    first = cached_base(tmp_path / "run", {}, teaching[1])
    write_json(first.folder / STARTED, open_finished(first.folder)["made_from"])
    base = cached_base(tmp_path / "run", {}, teaching[1])

    def work(folder: Path) -> dict[str, Any]:
        save_base(folder, base)
        return {}

    manifest = run_stage(Stage("tasks", tmp_path / "run" / "tasks", {}, 0), work)
    assert {"base/model.safetensors", "base/tokenizer.json", "base/config.json"} <= set(manifest["outputs"])
    shutil.rmtree(tmp_path / ".cache")
    model, _ = load_causal_model(str(base_path(tmp_path / "run" / "tasks")))
    assert torch.equal(weights(model), weights(first.model))


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path, tokenizer: Qwen2Tokenizer) -> None:
    for name in (str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(UserError) as error:
            load_causal_model(name)
        assert str(error.value).startswith(f"the model {name!r} cannot be loaded: ")
        assert "\n" not in str(error.value)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_causal_model(str(tmp_path))


def test_a_task_without_a_base_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no base model; name one as rm\.model_name_or_path"):
        base_path(tmp_path)
