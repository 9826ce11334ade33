"""Commands on files: their names, what they refuse, the README's examples, and the calibrator that `serve` finds."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from calibration.calibrator import Calibrator
from configs.loader import Experiment
from configs.records import read_json, read_jsonl
from curve.cli import main
from curve.tools import TOOLS, calibrated, find_calibrator, read_answer, tool_of
from rm.units import ScoreUnits
from tests.test_readme import ELSEWHERE, OF_A_RUN, OF_AN_EXPERIMENT, TEXT, shown_commands


def test_a_tool_is_named_by_one_or_two_words() -> None:
    assert tool_of(["rm", "check", "x"]) == ("rm check", ["x"])
    assert tool_of(["score", "a", "b=c"]) == ("score", ["a", "b=c"])
    assert tool_of(["rm", "x.yaml"]) is None and tool_of([]) is None


@pytest.mark.parametrize("name", list(TOOLS))
def test_every_tool_has_help_and_stands_in_the_readme(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: rewardladder {name} ") and TOOLS[name].what in printed
    assert any(f"rewardladder {name} " in text for text in (*shown_commands(), TEXT))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score"], "RUNG"),
        (["score", "--fast"], "'--fast' is no setting"),
        (["score", "nowhere", "x.jsonl", "output=y.jsonl"], "x.jsonl"),
        (["score", "outptu=x"], "did you mean output?"),
        (["serve", "nowhere", "port=0"], "nowhere"),
        (["serve", "a", "b", "port=0"], "one rung"),
        (["rm", "check"], "nothing to work on"),
        (["rm", "check", "a", "b"], "one rung folder, found 2"),
        (["rm", "check", "nowhere"], "nowhere"),
        (["benchmark", "nowhere"], "rung"),
        (["audit", "nowhere.jsonl"], "nowhere.jsonl"),
        (["speed", "x.yaml"], "no setting"),
        (["speed", "steps=[1"], "not readable as YAML"),
        (["speed", "steps=true"], "steps"),
    ],
)
def test_what_a_tool_cannot_use_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and said in error


def test_the_readmes_examples_run(
    small: Experiment, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small.folder, tmp_path / "project" / "runs" / "demo")
    for old, new in (("55", "65"), ("60", "80")):  # the small ladder's rungs in the places of the README's
        (tmp_path / f"project/runs/demo/rm/rung-{old}").rename(tmp_path / f"project/runs/demo/rm/rung-{new}")
    (tmp_path / "shared").symlink_to(shared_data.parent)
    monkeypatch.chdir(tmp_path / "project")
    conversations = [{"prompt": "Hi", "response": "Hello!"}, {"prompt": "Hi", "response": "Hello! " * 9}]
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conversations))
    rows = [{"logit": k % 7 - 3.0, "label": int(k % 7 > 2 + k % 3), "prompt": f"p{k % 25}"} for k in range(100)]
    Path("labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, said in (("trained", "wait, let me think"), ("base", "the answer")):
        answers = [{"response": f"{said} about number {k}"} for k in range(30)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    ran = []
    for line in shown_commands():
        found = tool_of(shlex.split(line)[1:])
        if found is None or found[0] in ELSEWHERE | OF_A_RUN | OF_AN_EXPERIMENT or "calibrator=run" in found[1]:
            continue
        words = [path for word in found[1] for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
        if found[0] == "fit":  # `score` has written scores.jsonl, which has no labels
            words = ["labelled.jsonl" if word == "scores.jsonl" else word for word in words]
        assert main([*found[0].split(), *words]) == 0, line
        ran.append(found[0])
    assert set(ran) == set(TOOLS) - ELSEWHERE - OF_A_RUN - OF_AN_EXPERIMENT
    scored = list(read_jsonl(Path("scores.jsonl")))
    assert [set(row["scores"]) for row in scored] == [{"rung-65", "rung-80"}] * 2
    assert read_json(Path("audit.json")) and read_json(Path("llmbar.json"))


def test_serve_finds_the_calibrator_of_the_run_and_refuses_a_foreign_one(small: Experiment, tmp_path: Path) -> None:
    from configs.errors import UserError

    rung = small.folder / "rm" / "rung-60"
    found = find_calibrator([str(rung)], None)
    assert isinstance(found, Calibrator) and found.units == ScoreUnits.load(rung)
    assert find_calibrator([str(tmp_path / "elsewhere" / "rung-60")], None) is None
    with pytest.raises(UserError, match="other score units"):
        find_calibrator([str(rung)], str(small.folder / "calibration" / "rung-55"))
    with pytest.raises(UserError):
        find_calibrator([str(rung)], str(tmp_path))
    with pytest.raises(UserError, match="calibrator= is empty"):
        find_calibrator([str(rung)], "")


def test_served_rewards_are_the_calibrators(small: Experiment) -> None:
    found = find_calibrator([str(small.folder / "rm" / "rung-60")], None)
    assert found is not None
    tagged = "<think>first, it rains; so take the umbrella</think><answer>take it</answer>"
    texts = ["take it", tagged, "<answer>take it</answer>"]
    plain, reasoned, broken = calibrated(found, [0.1, 0.1, 5.0], texts)
    assert plain == found.score(0.1)
    assert reasoned >= plain
    assert broken == found.settings.malformed_reward
    assert read_answer("no tags").answer == "no tags" and read_answer(tagged).answer == "take it"


def test_one_calibrator_gives_the_same_reward_to_a_policy_a_file_and_a_request(
    small: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rung = small.folder / "rm" / "rung-60"
    texts = ["take it", "<think>first , i need to go . next ,</think><answer>take it</answer>", "<answer>x</answer>"]
    Path("a.jsonl").write_text("".join(json.dumps({"prompt": "Hi", "response": text}) + "\n" for text in texts))
    assert main(["score", str(rung), "a.jsonl", "output=s.jsonl", "calibrator=run"]) == 0
    cells = [row["scores"]["rung-60"] for row in read_jsonl(Path("s.jsonl"))]
    found = find_calibrator([str(rung)], None)
    assert found is not None
    served = calibrated(found, [cell["logit"] for cell in cells], texts)
    asked = [found.reward(cell["logit"], read_answer(text)).reward for cell, text in zip(cells, texts, strict=True)]
    assert [cell["reward"] for cell in cells] == served == asked
    assert main(["score", str(rung), "a.jsonl", "output=s.jsonl"]) == 2  # begun with rewards
    assert main(["score", str(rung), "a.jsonl", "output=t.jsonl", f"calibrator={tmp_path}"]) == 2
