"""Export: plain folders with the same logits, merged or not; damaged, unfinished and untrained cells are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import UserError
from configs.loader import read_words
from configs.records import read_json, write_json, write_jsonl
from configs.runfolder import Stage, run_stage
from policy.export import ExportTable, run
from tasks.tiny_base import build_model, build_tokenizer

TEXTS = [f"a cup of tea number {i} with some milk" for i in range(40)]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished cells with what the export reads, made in no time: full weights, an adapter, and no policy at all."""
    root = tmp_path_factory.mktemp("cells")
    tokenizer = build_tokenizer(TEXTS, 300)
    model = build_model(tokenizer, layers=2, hidden=32, heads=2, seed=0)
    base = root / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)

    def cell(name: str) -> Path:
        def work(folder: Path) -> dict[str, Any]:
            write_jsonl(folder / "answers.jsonl", [{"completion": text} for text in TEXTS])
            if name == "untrained":
                return {}
            own = AutoModelForCausalLM.from_pretrained(base)
            if name != "full":
                lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
                own = get_peft_model(own, lora)
                torch.manual_seed(0)
                with torch.no_grad():
                    for parameter_name, weight in own.named_parameters():
                        if "lora_B" in parameter_name:
                            weight.normal_(0, 0.1)
            own.save_pretrained(folder / "policy")
            tokenizer.save_pretrained(folder / "policy")
            return {}

        folder = root / name
        run_stage(Stage("policy", folder, {"reward": name}, 0), work)
        return folder

    return {name: cell(name) for name in ("full", "adapter", "untrained")} | {"base": base}


def export(cell: Path, **settings: Any) -> dict[str, Any]:
    run([str(cell)], ExportTable(**settings))
    return read_json(Path(settings["output"]) / "export.json")


def logits(model: Any, folder: Path) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(TEXTS[3])["input_ids"]])
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits


def test_a_merged_adapter_is_a_plain_model_with_the_same_logits(
    cells: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = export(cells["adapter"], output=str(tmp_path / "merged"), merge=True)
    folder = tmp_path / "merged"
    assert record["kind"] == "merged weights" and record["largest_difference"] <= record["bound"] == 1e-4
    assert not (folder / "adapter_config.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(folder)
    adapted = AutoPeftModelForCausalLM.from_pretrained(cells["adapter"] / "policy")
    base = AutoModelForCausalLM.from_pretrained(cells["base"])
    assert torch.allclose(logits(plain, folder), logits(adapted, folder), atol=1e-4)
    assert (logits(plain, folder) - logits(base, folder)).abs().max() > 0.01
    assert AutoTokenizer.from_pretrained(folder).chat_template is not None
    assert not list(folder.glob("*.bin")) and list(folder.glob("*.safetensors"))
    assert "allowed 0.0001" in capsys.readouterr().out


def test_an_adapter_stays_an_adapter_and_may_name_another_base(cells: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(cells["base"], tmp_path / "moved")
    record = export(cells["adapter"], output=str(tmp_path / "peft"), merge=False, base=str(tmp_path / "moved"))
    assert (record["kind"], record["largest_difference"]) == ("a LoRA adapter", 0.0)
    assert read_json(tmp_path / "peft" / "adapter_config.json")["base_model_name_or_path"] == str(tmp_path / "moved")
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "peft")
    export(cells["adapter"], output=str(tmp_path / "same"), merge=False)
    assert read_json(tmp_path / "same" / "adapter_config.json")["base_model_name_or_path"] == str(cells["base"])


def test_a_run_that_was_moved_is_exported_all_the_same(cells: dict[str, Path], tmp_path: Path) -> None:
    run_folder = tmp_path / "runs" / "moved"
    shutil.copytree(cells["adapter"], run_folder / "policy" / "cell")
    shutil.copytree(cells["base"], run_folder / "tasks" / "base")
    cell = run_folder / "policy" / "cell"
    config = read_json(cell / "policy" / "adapter_config.json")
    write_json(
        cell / "policy" / "adapter_config.json", config | {"base_model_name_or_path": "runs/elsewhere/tasks/base"}
    )
    (cell / "manifest.json").unlink()
    run_stage(Stage("policy", cell, {"reward": "adapter"}, 0), lambda folder: {})
    assert export(cell, output=str(tmp_path / "merged"))["kind"] == "merged weights"


def test_full_weights_are_copied_to_the_bit(cells: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    record = export(cells["full"], output=str(tmp_path / "empty"))
    assert (record["kind"], record["bound"], record["same_likeliest"]) == ("full weights", 0.0, 1.0)
    one, two = (path / "model.safetensors" for path in (cells["full"] / "policy", tmp_path / "empty"))
    assert one.read_bytes() == two.read_bytes()


def test_half_precision_has_its_own_bound_and_a_tighter_one_is_refused(cells: dict[str, Path], tmp_path: Path) -> None:
    record = export(cells["adapter"], output=str(tmp_path / "half"), dtype="bfloat16")
    assert 0 < record["largest_difference"] <= record["bound"] == 0.25
    with pytest.raises(UserError, match=r"differ by .* from the cell's, allowed is 1e-06; write a wider dtype"):
        export(cells["adapter"], output=str(tmp_path / "none"), dtype="bfloat16", bound=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half"]


def test_another_base_is_found_out(cells: dict[str, Path], tmp_path: Path) -> None:
    other = build_model(build_tokenizer(TEXTS, 300), layers=2, hidden=32, heads=2, seed=1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"logits of what was written differ by .* allowed is 0"):
        export(cells["adapter"], output=str(tmp_path / "x"), merge=False, base=str(tmp_path / "other"))
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_exported_is_refused(cells: dict[str, Path], tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    with pytest.raises(UserError, match="holds no trained policy"):
        export(cells["untrained"], output=output)
    with pytest.raises(UserError, match="there is no such folder"):
        export(tmp_path / "nowhere", output=output)
    with pytest.raises(UserError, match="exists already"):
        export(cells["full"], output=str(cells["base"]))
    with pytest.raises(UserError, match="base means nothing with merge=true"):
        export(cells["adapter"], output=output, base="x")
    with pytest.raises(UserError, match="dtype means nothing for a policy without an adapter"):
        export(cells["full"], output=output, dtype="float32")
    with pytest.raises(UserError, match="one cell's folder is needed"):
        run([], ExportTable(output=output))
    with pytest.raises(UserError, match="did you mean merge"):
        read_words(["merg=true", "output=x"], ExportTable, "export")
    for damage, message in (("alter", "altered since it was finished"), ("unfinish", "not finished")):
        copy = tmp_path / damage
        shutil.copytree(cells["full"], copy)
        if damage == "alter":
            write_json(copy / "policy" / "config.json", read_json(copy / "policy" / "config.json") | {"rope_theta": 1})
        else:
            (copy / "manifest.json").unlink()
        with pytest.raises(UserError, match=message):
            export(copy, output=output)
    assert not Path(output).exists()
