"""The reward-model ladder on a small world: rungs that reload, scores that do not depend on batches, exact resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rm.stage
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json, read_jsonl
from rm.backbone import Float32Head
from rm.config import RMTable
from rm.measures import pair_accuracy
from rm.rung import PAIR_LOGITS_FILE, REFERENCE_LOGITS_FILE
from rm.scorer import RungScorer, encode_answer
from rm.units import ScoreUnits
from tasks.records import read_pairs
from tasks.table import load_task
from tests.conftest import ROOT, SMALL_ADVICE, small_experiment


def pairs_of(experiment: Experiment) -> tuple[list[list[dict[str, str]]], list[str]]:
    task = load_task(experiment)
    pairs = read_pairs(experiment.folder / "tasks", "measurement")[:40]
    return [pair.messages for pair in pairs], [task.present(pair.chosen) for pair in pairs]


def test_the_ladder_says_what_it_measured(small: Experiment) -> None:
    folder = small.folder / "rm"
    ladder = read_json(folder / "ladder.json")
    assert [rung["rung"] for rung in ladder["rungs"]] == ["55", "60"]
    for rung in ladder["rungs"]:
        rows = [r for r in read_jsonl(folder / rung["folder"] / PAIR_LOGITS_FILE) if r["split"] == "measurement"]
        differences = np.array([row["logit_chosen"] - row["logit_rejected"] for row in rows])
        counted = pair_accuracy(differences)
        assert (rung["accuracy"], rung["n_pairs"]) == (counted["estimate"], counted["n"]) == (counted["estimate"], 150)
        assert rung["accuracy_lo"] < rung["accuracy"] < rung["accuracy_hi"]
        card = read_json(folder / rung["folder"] / "card.json")
        assert card["largest_difference_after_reload"] < 1e-6
        assert card["chat_template_sha256"]
    assert ladder["evaluations"][0]["step"] == 3
    assert ladder["length_baseline"]["n"] == 150


def test_units_put_a_typical_untrained_answer_at_one_half(small: Experiment) -> None:
    folder = small.folder / "rm" / "rung-60"
    units = ScoreUnits.load(folder)
    logits = [row["logit"] for row in read_jsonl(folder / REFERENCE_LOGITS_FILE) if row["logit"] is not None]
    assert float(np.median(units.scores(np.array(logits)))) == pytest.approx(0.5, abs=1e-9)
    assert units.n_reference == len(logits)


def test_a_score_does_not_depend_on_the_batch_or_the_order(small: Experiment) -> None:
    chats, answers = pairs_of(small)
    folder = small.folder / "rm" / "rung-60"
    together = RungScorer(folder, batch_tokens=100_000).logits(chats, answers)
    alone = RungScorer(folder, batch_tokens=1).logits(chats, answers)
    turned = RungScorer(folder, batch_tokens=200).logits(chats[::-1], answers[::-1])[::-1]
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - turned).max() < 1e-5


def test_plain_transformers_load_a_rung_and_score_the_same(small: Experiment) -> None:
    chats, answers = pairs_of(small)
    folder = small.folder / "rm" / "rung-60"
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = RungScorer(folder, batch_tokens=1000).logits(chats[:5], answers[:5])
    for chat, answer, logit in zip(chats, answers, ours, strict=False):
        ids = torch.tensor([encode_answer(tokenizer, chat, answer)])
        assert float(model(input_ids=ids).logits[0, 0]) == pytest.approx(logit, abs=1e-5)


def test_a_lora_rung_is_a_plain_peft_folder_with_its_head(tmp_path: Path) -> None:
    experiment = small_experiment(
        tmp_path / "runs", "name=lora", "rm.lora_r=4", "rm.extra_layers=0", "rm.max_steps=12", "rm.learning_rate=5e-3"
    )
    rm.stage.run(experiment)
    folder = experiment.folder / "rm" / "rung-55"
    assert (folder / "adapter_model.safetensors").exists()
    base = experiment.folder / "tasks" / "base"
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype="float32")
    model = PeftModel.from_pretrained(plain, folder).eval()
    chats, answers = pairs_of(experiment)
    ours = RungScorer(folder, batch_tokens=1000).logits(chats[:5], answers[:5])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for chat, answer, logit in zip(chats, answers, ours, strict=False):
        ids = torch.tensor([encode_answer(tokenizer, chat, answer)])
        assert float(model(input_ids=ids).logits[0, 0]) == pytest.approx(logit, abs=1e-5)


def test_the_head_stays_in_float32() -> None:
    head = Float32Head(8, 1, bias=False)
    hidden = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(hidden)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, hidden.float() @ head.weight.T)


def test_training_is_refused_where_it_would_mislead(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"150 selection|longer than 8 tokens; raise it"):
        rm.stage.run(small_experiment(tmp_path / "runs", "name=short", "rm.max_length=8"))
    still = small_experiment(tmp_path / "runs", "name=still", "rm.learning_rate=1e-9", "rm.ladder=[90]")
    with pytest.raises(UserError, match="nothing was learned in 24 steps"):
        rm.stage.run(still)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rm.ladder=[45]", "targets are accuracies in percent between 51 and 99"),
        ("rm.ladder=[65, 60]", "targets must rise"),
        ("rm.lora_r=8", "extra_layers needs lora_r: 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        small_experiment(tmp_path, override).table("rm", RMTable)


def test_an_unknown_rung_is_named_with_those_there_are(small: Experiment) -> None:
    with pytest.raises(UserError, match="there is no rung '90'; the rungs are 55, 60"):
        rm.stage.rung_folder(small, "90")


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_ladder(small: Experiment, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rm", "configs/demo.yaml", *SMALL_ADVICE, f"runs_dir={tmp_path / 'runs'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scratch = tmp_path / "runs" / "demo" / "rm" / "scratch"
    deadline = time.monotonic() + 300
    while not list(scratch.glob("checkpoint-*/complete.json")) and time.monotonic() < deadline:
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "runs" / "demo" / "rm" / "manifest.json").exists()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert read_json(tmp_path / "runs" / "demo" / "rm" / "ladder.json") == read_json(
        small.folder / "rm" / "ladder.json"
    )


def test_what_bf16_trains_reloads_with_the_logits_it_had_and_whole_weights_stay_float32(tmp_path: Path) -> None:
    lora = ("rm.lora_r=4", "rm.extra_layers=0", "rm.learning_rate=5e-3")
    for name, overrides, body in (("full", (), "float32"), ("lora", lora, "bfloat16")):
        experiment = small_experiment(
            tmp_path / "runs", f"name={name}", "rm.bf16=true", "rm.max_steps=8", "rm.ladder=[55]", *overrides
        )
        rm.stage.run(experiment)
        card = read_json(experiment.folder / "rm" / "rung-55" / "card.json")
        assert (card["body_dtype"], card["largest_difference_after_reload"]) == (body, pytest.approx(0, abs=1e-6))


@pytest.mark.slow
def test_two_processes_train_as_one_does_on_twice_the_pairs(small: Experiment, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "rm"]
    settings = [*SMALL_ADVICE, f"runs_dir={tmp_path / 'runs'}", "rm.per_device_train_batch_size=24"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, "configs/demo.yaml", *settings],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.count("rm: the ladder") == 1
    two, one = (read_json(runs / "rm" / "ladder.json") for runs in (tmp_path / "runs" / "demo", small.folder))
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert [look["step"] for look in two["evaluations"]] == [look["step"] for look in one["evaluations"]]
    assert [rung["step"] for rung in two["rungs"]] == [rung["step"] for rung in one["rungs"]]
