"""`rewardladder doctor` on data and models of a hub: cached, to be fetched, or not to be had, and never a long wait."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest

import curve.doctor_hub
from configs.loader import load_experiment
from curve.cli import main
from curve.doctor import Check, examine
from curve.doctor_hub import forget, hub_refusal

RECIPE = Path(__file__).parent.parent / "configs" / "helpsteer3-qwen2.5-3b-24gb.yaml"
DATASET = "the dataset nvidia/HelpSteer3 (preference)"
MODEL = {"model_type": "qwen2", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Empty caches, and a hub that nobody serves."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))
        place_hub(monkeypatch, unserved.getsockname()[1])
        forget()
        yield tmp_path
    forget()


def place_hub(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def looks(*overrides: str) -> dict[str, Check]:
    checks = examine(load_experiment(RECIPE, ["judge.kind=gold", *overrides]))
    return {check.what: check for check in checks}


class Hub(BaseHTTPRequestHandler):
    """A hub that has one model and answers with `status` for all else; it keeps the paths that were asked."""

    status = 404
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = json.dumps({"id": "x/y"} | MODEL).encode()
        self.send_response(200 if "Qwen" in self.path else self.status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        if self.status in (401, 404):
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("OneHub", (Hub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place_hub(monkeypatch, server.server_port)
    yield handler
    server.shutdown()
    server.server_close()


def test_a_dataset_of_the_hub_is_not_called_own_data(caches: Path) -> None:
    data = looks()["data"]
    assert not data.well
    assert data.found.startswith(f"{DATASET} is not in the cache, and http://127.0.0.1:")
    assert data.found.endswith("say tasks.files='[FOLDER]' tasks.dataset=null tasks.dataset_config=null")
    assert len(data.found.splitlines()) == 1


def test_without_a_network_the_doctor_asks_once_and_says_nothing_of_retries(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    assert main(["doctor", str(RECIPE), "judge.kind=gold"]) == 2
    captured = capfd.readouterr()
    assert sum(waits) < 1  # the hub's client waits 23 s between its retries
    assert "Retry" not in captured.out + captured.err and "thrown while" not in captured.out + captured.err
    assert captured.err.strip() == "error: 4 of 9 checks failed: data, models, memory (rm), memory (policy)"
    assert "not known while Qwen/Qwen2.5-3B-Instruct cannot be read (see models)" in captured.out


def test_a_hub_that_never_answers_costs_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve.doctor_hub, "ASK_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place_hub(monkeypatch, silent.getsockname()[1])
        assert hub_refusal("model", "a/b").endswith("does not answer")
        began = time.monotonic()
        assert hub_refusal("dataset", "c/d").endswith("does not answer")
        assert time.monotonic() - began < 0.1


def test_a_dataset_in_the_cache_is_found_there(caches: Path) -> None:
    rows = caches / "rows.jsonl"
    rows.write_text('{"context": "a"}\n')
    made = datasets.load_dataset("json", data_files=str(rows), cache_dir=str(caches / "made"), split="train")
    arrow = Path(made.cache_files[0]["filename"])
    place = caches / "datasets" / "nvidia___help_steer3" / "preference" / "0.0.0"
    place.mkdir(parents=True)
    kept = arrow.parent.rename(place / ("b" * 40))
    info = json.loads((kept / "dataset_info.json").read_text())
    (kept / "dataset_info.json").write_text(json.dumps(info | {"config_name": "preference"}))
    found = looks()["data"]
    assert found.well and found.found == f"{DATASET} of the hub is in the cache"
    assert not looks("tasks.dataset_config=edit")["data"].well


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_model_whose_weights_are_all_in_the_cache_is_not_asked_for(
    caches: Path, hub: type[Hub], is_whole: bool
) -> None:
    hub.status = 200
    folder = caches / "hub" / "models--Qwen--Qwen2.5-3B-Instruct"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text(json.dumps(MODEL))
    shards = {"x": "model-1.safetensors", "y": "model-2.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for shard in list(shards.values())[: 2 if is_whole else 1]:
        (snapshot / shard).write_bytes(b"")
    models = looks()["models"]
    assert models.well and ("fetched" in models.found) == (not is_whole)
    assert any("Qwen" in path for path in hub.asked) == (not is_whole)


def test_what_the_hub_has_is_said_to_be_fetched_and_its_configuration_is_asked_once(hub: type[Hub]) -> None:
    hub.status = 200
    checks = looks()
    assert checks["data"].found == f"{DATASET} is taken from the hub, which has it; it is fetched at the first run"
    assert checks["models"].well, checks["models"].found
    assert checks["models"].found.endswith("; its weights are fetched from the hub at the first run")
    assert checks["memory (rm)"].well and checks["memory (policy)"].well, checks
    assert len([path for path in hub.asked if path.startswith("/api/models/")]) == 1
    assert len([path for path in hub.asked if path.endswith("config.json")]) <= 3


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "has no dataset of this name"), (401, "has no dataset of this name"), (503, "answers with status 503")],
)
def test_what_the_hub_refuses_is_one_sentence(hub: type[Hub], status: int, said: str) -> None:
    hub.status = status
    data = looks()["data"]
    assert not data.well and said in data.found
    assert re.search(r"; fetch its files elsewhere and say tasks\.files=", data.found)


def test_a_name_that_no_hub_could_have_is_said_to_be_one() -> None:
    assert hub_refusal("model", "a/b/c/d") == "it is neither a folder here nor a name that a hub could have"


def test_a_mistake_in_the_calibration_is_found_before_a_run() -> None:
    settings = looks("calibration.alhpa=0.1")["settings"]
    assert not settings.well and "calibration.alhpa is not a key; did you mean calibration.alpha?" in settings.found
