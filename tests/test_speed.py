"""The speed comparison in small: packed training beside TRL's trainer, loss by loss and gradient by gradient."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from configs.records import read_json
from curve.cli import main
from rm.benchmarks.random_material import SpeedTable, random_model, random_pairs
from rm.benchmarks.speed import compare
from rm.config import RMTable
from rm.losses import TrainingPair
from rm.packed.layout import packed_length
from rm.pair_trainer import pair_logits

SMALL = {"steps": 10, "pairs_per_step": 4, "trl_batch_sizes": [2], "trl_checkpointing": [False], "trl_trial_steps": 2}
SMALL |= {"response_tokens": 30, "score_pairs": 16, "learning_rate": 1e-3}


@pytest.fixture
def small(tmp_path: Path) -> SpeedTable:
    """Prompts of 5 to 400 tokens: a quarter of HelpSteer3's, as far apart from each other."""
    chats = [[{"role": "user", "content": "word " * n}] for n in (4, 12, 30, 55, 90, 160, 320)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": chat}) + "\n" for chat in chats))
    return SpeedTable.model_validate({**SMALL, "prompts": path})


def test_ten_steps_have_trls_losses_and_gradient_norms(small: SpeedTable) -> None:
    found = compare(small)
    ours, trl = found["ours"], found["trl"]
    assert len(ours["losses"]) == len(trl["losses"]) == 10
    assert len({round(loss, 4) for loss in ours["losses"]}) > 3, "the losses must move, or their equality says little"
    assert ours["losses"] == pytest.approx(trl["losses"], abs=1e-5)
    assert ours["gradient_norms"] == pytest.approx(trl["gradient_norms"], rel=1e-4)
    assert found["ratio"] > 1
    assert found["scoring"]["largest_difference"] < 1e-5 * max(1.0, found["scoring"]["spread_of_logits"])
    assert found["mean_tokens_a_pair"] < found["mean_tokens_a_pair_unshared"]


def test_gradients_of_packed_and_padded_pairs_agree(small: SpeedTable) -> None:
    model = random_model(small, RMTable.model_validate({"lora_r": 4}), "cpu")
    pairs = [TrainingPair(*pair) for pair in random_pairs(small, 8)]
    gradients = []
    for packed in (True, False):
        model.zero_grad()
        chosen, rejected = pair_logits(model, pairs, packed)
        torch.nn.functional.softplus(rejected - chosen).mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6, rtol=1e-4), name


def test_pairs_have_the_lengths_that_were_asked_for_and_are_the_same_again() -> None:
    table = SpeedTable.model_validate({"response_tokens": 450})
    pairs = random_pairs(table, 300)
    assert pairs == random_pairs(table, 300)
    prompts = [len(a) + len(b) - packed_length((a, b)) for a, b in pairs]
    responses = [len(side) - p for (a, b), p in zip(pairs, prompts, strict=True) for side in (a, b)]
    assert 400 < sum(responses) / len(responses) < 480  # the longest are drawn again
    assert max(len(side) for pair in pairs for side in pair) <= 4096


def test_the_command_prints_its_table_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["steps=3", "pairs_per_step=2", "trl_batch_sizes=[1]", "trl_trial_steps=2", "score_pairs=0"]
    assert main(["speed", *words, "response_tokens=8", f"output={tmp_path / 'speed.json'}"]) == 0
    assert "times TRL's pairs per second" in capsys.readouterr().out
    found = read_json(tmp_path / "speed.json")
    assert found["n_pairs"] == 6 and len(found["trl_trials"]) == 2
    assert main(["speed", "pairs_per_step=2", "trl_batch_sizes=[4]"]) == 2
    assert "must divide pairs_per_step (2)" in capsys.readouterr().err
    assert main(["speed", "shap=tiny"]) == 2
    assert "did you mean shape?" in capsys.readouterr().err
