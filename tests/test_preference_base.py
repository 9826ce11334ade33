"""The base of a preference set: taught on training texts, or a named causal model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from configs.errors import UserError
from tasks.base_folder import load_causal_model
from tasks.preference_base import TaughtTable, write_base
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


def test_a_named_folder_is_copied_with_equal_weights(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["some words to learn"] * 3, 600)
    model = build_model(tokenizer, 1, 32, 2, seed=3)
    model.save_pretrained(tmp_path / "given")
    tokenizer.save_pretrained(tmp_path / "given")
    summary = write_base(tmp_path, str(tmp_path / "given"), TABLE, PAIRS, 0)
    copied, _ = load_causal_model(str(tmp_path / "base"))
    given, kept = model.state_dict(), copied.state_dict()
    assert all(given[name].equal(kept[name]) for name in given)
    assert summary["parameters"] == model.num_parameters()


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
