"""`rm check`: a whole rung passes every check, and each way to break one fails with exit status 2 and one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import rm.serving.loaded_rungs
from configs.command import guarded
from configs.errors import UserError
from configs.records import read_json, write_json, write_jsonl
from rm.backbone import load_reward_model
from rm.check import CheckTable, check_rung, padded_logits, run
from tests.tiny_rungs import ROOT, make_base, make_rung

TABLE = CheckTable(exact_bound=1e-4)
EXACT = (
    "alone = batched",
    "rows in another order",
    "small batches = one batch",
    "padded right, plain Transformers = packed",
    "padded left, plain Transformers = packed",
    "saved = loaded again",
    "float32 = float64",
)


@pytest.fixture(scope="module")
def rungs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rungs")
    base = make_base(folder)
    make_rung(folder / "lora", base, 1)
    make_rung(folder / "full", base, 2, lora_r=0)
    return folder


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_whole_rung_passes_and_the_differences_are_printed(
    rungs: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    findings, notes = check_rung(rungs / name, TABLE)
    found = {finding.check: finding for finding in findings}
    assert all(finding.passed for finding in findings)
    assert all(float(found[check].found) < 1e-4 for check in EXACT)
    assert 1e-4 < float(found["float32 = bfloat16"].found) < 0.25, "bfloat16 was run"
    assert ("adapters are trained" in found) == (name == "lora")
    assert "19 texts of" in notes[0], "one of the built-in texts is longer than this context"
    assert guarded(lambda: run([str(rungs / name)], TABLE)) == 0
    assert "padded left, plain Transformers = packed" in capsys.readouterr().out


def test_the_rungs_own_reference_answers_are_asked_too(rungs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(rungs / "lora", tmp_path / "lora"))
    write_jsonl(
        folder / "reference_logits.jsonl", [{"completion": f"a fox {i}"} for i in range(9)] + [{"completion": ""}]
    )
    _, notes = check_rung(folder, TABLE.model_copy(update={"max_reference_answers": 7}))
    assert "26 texts of" in notes[0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_written_independently_and_does_not_matter(rungs: Path, side: str) -> None:
    model = load_reward_model(rungs / "full", torch.float32, "cpu")
    rows = [[5, 6, 7], [9], [5, 6, 7, 8, 9, 10, 11], [3] * 40]
    alone = [model(input_ids=torch.tensor([row])).logits[0, 0].item() for row in rows]
    assert padded_logits(model, rows, side, most_rows=3) == pytest.approx(alone, abs=1e-5)


def altered(path: Path, change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> None:
    """Rewrite a file of weights; None leaves one out."""
    changed = {name: change(name, weight) for name, weight in load_file(path).items()}
    save_file({name: weight for name, weight in changed.items() if weight is not None}, path)


def break_adapters(folder: Path) -> None:
    altered(folder / "adapter_model.safetensors", lambda n, w: torch.zeros_like(w) if "lora_B" in n else w)


def break_head(folder: Path) -> None:
    altered(folder / "adapter_model.safetensors", lambda n, w: torch.zeros_like(w) if "score" in n else w)


def leave_out_head(folder: Path) -> None:
    altered(folder / "adapter_model.safetensors", lambda n, w: None if "score" in n else w)


def cut_weights(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def break_numbers(folder: Path) -> None:
    altered(folder / "adapter_model.safetensors", lambda n, w: w * float("nan") if "lora_A" in n else w)


def break_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + " ")


def break_units(folder: Path) -> None:
    write_json(folder / "units.json", read_json(folder / "units.json") | {"scale": 0.0})


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (break_adapters, "adapters are trained: 14 of 14 are zero, allowed not all"),
        (break_head, r"head is not zero \(norm\): 0, allowed > 0; logits differ between texts"),
        (leave_out_head, "its weights hold no head"),
        (cut_weights, "not a whole safetensors file"),
        (break_numbers, "weights are finite numbers: not all, allowed all; logits are finite numbers"),
        (break_template, "chat template is the one in card.json: another"),
        (break_units, "a scale above 0, found 0.0, 0.0"),
    ],
)
def test_a_broken_rung_fails_with_one_line(
    rungs: Path, tmp_path: Path, harm: Callable[[Path], None], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(rungs / "lora", tmp_path / "lora"))
    harm(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        run([str(folder)], TABLE)
    assert "\n" not in str(caught.value)
    assert guarded(lambda: run([str(folder)], TABLE)) == 2
    assert capsys.readouterr().err.count("error: ") == 1


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (lambda logits, rows: logits + 0.01 * len(rows), "alone = batched"),
        (lambda logits, rows: logits + 0.01 * np.arange(len(rows)), "rows in another order"),
        (lambda logits, rows: logits + 0.001 * max(map(len, rows)), "padded left, plain Transformers = packed"),
    ],
)
def test_a_scorer_that_looks_at_the_neighbours_is_found(
    rungs: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Any, Any], Any], check: str
) -> None:
    right = rm.serving.loaded_rungs.score_ids

    def score_ids(model: Any, rows: Any, *settings: Any) -> Any:
        return wrong(right(model, rows, *settings), rows)

    monkeypatch.setattr(rm.serving.loaded_rungs, "score_ids", score_ids)
    findings, _ = check_rung(rungs / "lora", TABLE)
    assert check in [finding.check for finding in findings if not finding.passed]


def test_the_commands_are_known_without_torch() -> None:
    program = (
        "import rm.check, rm.serving.scoring, rm.serving.server, sys; "
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == ("False False", "")
