"""Every command that the README and the pages in docs show works as written, on experiments made small."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from configs.records import read_json
from curve.cli import COMMANDS, main
from curve.tools import tool_of
from tests.conftest import ROOT, SMALL_ADVICE

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
SWEEP = "curve.sweep=[{reward: [raw, rpr], rung: [60]}]"
ELSEWHERE = {"serve", "rate", "judge answers", "prompts", "rehearse"}
"""Tools that run on, ask an endpoint, teach a base or want a GPU; they have tests of their own."""
OF_AN_EXPERIMENT = {"cells"}
"""Tools that read an experiment, as the stages do."""
OF_A_RUN = {"samples", "export", "best-of-n", "judge compare", "judge report", "plan", "analyse"}
"""Tools that look at what a whole run left."""


def shown_commands() -> list[str]:
    """The lines of the pages' shell blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line.partition("  #")[0].split("   #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_every_command_of_the_tool_is_shown() -> None:
    shown = {words[1] for line in shown_commands() if (words := shlex.split(line))[0] == "rewardladder"}
    assert set(COMMANDS) - {"run"} <= shown
    assert "`rewardladder run configs/demo.yaml`" in README


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make (\w+)", README))
    assert {"demo", "test", "check"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_experiment_is_listed() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"`{path.name}`" in TEXT, f"{path.name} stands on no page"


def test_linked_files_are_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    assert all(f"docs/{page.name}" in README for page in PAGES[1:])


def test_the_stage_examples_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ran = 0
    for line in shown_commands():
        words = shlex.split(line)
        if words[0] != "rewardladder" or "configs/demo.yaml" not in words:
            continue
        # the README's rung 65 is rung 60 of the small ladder
        given = [word.replace("policy.rung=65", "policy.rung=60") for word in words[1:]]
        given = [word.replace("sbatch=", f"sbatch={tmp_path}/") for word in given]
        # and in 24 steps nothing is learned from labels with much noise
        given = [word.replace("[0, 0.2, 0.35, 0.45]", "[0, 0.05]") for word in given]
        assert main([*given, *SMALL_ADVICE, SWEEP, f"runs_dir={tmp_path}"]) == 0, line
        ran += 1
    assert ran > 10
    assert (tmp_path / "demo" / "curve" / "report.html").exists()
    (tmp_path / "runs").symlink_to(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    conversations = [{"prompt": "advice for camping", "response": "fleece"}]
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conversations))
    used = set()
    for line in shown_commands():
        tool = tool_of(shlex.split(line)[1:])
        if tool is None or not (tool[0] in OF_A_RUN or "calibrator=run" in tool[1]):
            continue
        words = [re.sub(r"rung-?(65|80)", lambda found: found[0][:-2] + "60", word) for word in tool[1]]
        words = [word.replace("gold-grpo-s0", "rpr-rung60-grpo-s0") for word in words]
        given = [path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
        assert main([*tool[0].split(), *given]) == 0, line
        used.add(tool[0])
    assert used == OF_A_RUN | {"score"}


def test_the_mistyped_key_is_answered_as_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    block = re.search(r"```console\n\$ rewardladder (.*)\n(error: .*)\n```", README)
    assert block is not None
    assert main(shlex.split(block[1])) == 2
    assert capsys.readouterr().err.strip() == block[2]


def test_human_pairs_train_and_report_as_described(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "rewardladder rm configs/human-pairs.yaml" in shown_commands()
    monkeypatch.chdir(ROOT)
    files = sorted(str(path) for path in (shared_data / "preference").glob("*.jsonl"))
    small = ["tasks.max_pairs=240", "tasks.taught.steps=4", "tasks.taught.vocab_size=600", "rm.max_steps=16"]
    small += [
        "rm.learning_rate=2e-3",
        "rm.per_device_train_batch_size=8",
        "rm.max_length=300",
        "rm.max_dropped_share=1",
    ]
    small += ["rm.evaluation_every=8", "rm.dense_evaluation_steps=0", "rm.cpu_threads=1", f"tasks.files={files}"]
    assert main(["rm", "configs/human-pairs.yaml", f"runs_dir={tmp_path}", *small]) == 0
    folder = tmp_path / "human-pairs"
    ladder = read_json(folder / "rm" / "ladder.json")
    assert ladder["rungs"][0]["accuracy_lo"] <= ladder["rungs"][0]["accuracy"] <= ladder["rungs"][0]["accuracy_hi"]
    assert ladder["length_baseline"]["n"] == ladder["rungs"][0]["n_pairs"] > 20
    assert set(ladder["dropped"]) >= {"train_over_max_length", "tie", "exact_duplicate", "empty_response"}
    assert ladder["dropped"]["tie"] > 0
    assert shutil.disk_usage(tmp_path).free > 0
