"""The base of a preference set: taught on training texts, or a named causal model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from configs.errors import UserError
from tasks import base_reference
from tasks.base_folder import base_path, load_causal_model
from tasks.preference.base import TaughtTable, write_base
from tasks.records import PreferencePair
from tasks.tiny_base import build_model, build_tokenizer

TABLE = TaughtTable(
    vocab_size=600, layers=1, hidden=32, heads=2, steps=30, learning_rate=1e-2, batch_size=4, max_tokens=64
)


def pair(number: int, **changes: Any) -> PreferencePair:
    facts: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"how is number {number} ?"}],
        "chosen": "it is fine , thank you",
        "rejected": "it is fine",
    }
    return PreferencePair(f"pair-{number}", f"prompt-{number}", "train", **(facts | changes))


PAIRS = [pair(i) for i in range(20)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARDLADDER_CACHE", str(tmp_path / "cache"))


def test_the_taught_base_learns_its_texts(tmp_path: Path) -> None:
    summary = write_base(tmp_path, "taught", TABLE, PAIRS, 0)
    untaught = write_base(tmp_path, "taught", TABLE.model_copy(update={"steps": 1}), PAIRS, 0)
    assert summary["taught_chats"] == 40
    assert summary["phases"][0]["nll_text"] < untaught["phases"][0]["nll_text"] / 2


def test_chats_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    summary = write_base(tmp_path, "taught", TABLE, [*PAIRS, pair(99, chosen="x y " * 100, rejected="z" * 2**20)], 0)
    assert (summary["taught_chats"], summary["too_long_chats"]) == (40, 2)
    with pytest.raises(UserError, match="no training chat fits into 64 tokens"):
        write_base(tmp_path, "taught", TABLE, [pair(1, chosen="x y " * 100, rejected="z y " * 100)], 0)


def given_model(folder: Path) -> Any:
    tokenizer = build_tokenizer(["some words to learn"] * 3, 600)
    model = build_model(tokenizer, 1, 32, 2, seed=3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def test_a_named_folder_is_referred_to_and_never_copied(tmp_path: Path) -> None:
    model = given_model(tmp_path / "given")
    summary = write_base(tmp_path, str(tmp_path / "given"), TABLE, PAIRS, 0)
    assert [path.name for path in (tmp_path / "base").iterdir()] == ["reference.json"]
    assert base_path(tmp_path) == tmp_path / "given"
    kept, given = load_causal_model(str(base_path(tmp_path)))[0].state_dict(), model.state_dict()
    assert all(given[name].equal(kept[name]) for name in given)
    assert summary["parameters"] == model.num_parameters()


def test_a_model_that_is_gone_or_altered_since_is_refused(tmp_path: Path) -> None:
    given_model(tmp_path / "given")
    write_base(tmp_path, str(tmp_path / "given"), TABLE, PAIRS, 0)
    weights = tmp_path / "given" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"model.safetensors: not the file that .*reference.json refers to"):
        base_path(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"model.safetensors: missing"):
        base_path(tmp_path)
    (tmp_path / "given").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"no longer at .*given; put the same model there again"):
        base_path(tmp_path)


def test_the_ends_of_a_large_file_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_reference, "WHOLE_BYTES", 4096)
    monkeypatch.setattr(base_reference, "END_BYTES", 1024)
    given_model(tmp_path / "given")
    write_base(tmp_path, str(tmp_path / "given"), TABLE, PAIRS, 0)
    assert base_path(tmp_path) == tmp_path / "given"
    with (tmp_path / "given" / "model.safetensors").open("r+b") as stream:
        stream.seek(-10, 2)
        stream.write(b"0123456789")
    with pytest.raises(UserError, match="not the file"):
        base_path(tmp_path)


def test_weights_that_are_cut_or_only_a_pickle_are_refused(tmp_path: Path) -> None:
    given_model(tmp_path / "given")
    weights = tmp_path / "given" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model.safetensors: not a whole safetensors file"):
        write_base(tmp_path, str(tmp_path / "given"), TABLE, PAIRS, 0)
    weights.rename(tmp_path / "given" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no weights as .safetensors"):
        write_base(tmp_path, str(tmp_path / "given"), TABLE, PAIRS, 0)


def test_a_base_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"tasks.base: the model '.*nothing' cannot be loaded.*tasks.base: taught"
    ) as caught:
        write_base(tmp_path, str(tmp_path / "nothing"), TABLE, PAIRS, 0)
    assert "\n" not in str(caught.value)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["some words"] * 3, 600)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        is_decoder=True,
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match=r"tasks.base: .*BertModel, which cannot continue a text"):
        write_base(tmp_path, str(tmp_path / "bert"), TABLE, PAIRS, 0)


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["some words"] * 3, 600)
    build_model(tokenizer, 1, 32, 2, seed=3).save_pretrained(tmp_path / "given")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "given")
    with pytest.raises(UserError, match="has no chat template"):
        write_base(tmp_path, str(tmp_path / "given"), TABLE, PAIRS, 0)


def test_another_seed_is_another_base(tmp_path: Path) -> None:
    written = []
    for seed in (0, 0, 1):
        write_base(tmp_path, "taught", TABLE, PAIRS, seed)
        written.append((tmp_path / "base" / "model.safetensors").read_bytes())
    assert written[0] == written[1] != written[2]
    assert os.environ["REWARDLADDER_CACHE"].startswith(str(tmp_path))
