"""What a judgement must not hide: replies that say nothing, orders that decide, lone answers, a missing baseline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.command import guarded
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from configs.runfolder import Stage, is_finished, run_stage
from judge.asking.local_endpoint import Answer as Sent
from judge.asking.local_endpoint import Call, completion, serving
from judge.config import JudgeTable
from judge.stage import run, show
from judge.summaries import FEW, example_without_verdict, refuse_unreadable
from judge.verdicts import Verdict
from tests.test_judge_stage import answers, experiment, rows_of, write_cell  # noqa: F401 - a fixture


def asked_at(experiment: Experiment, url: str, **settings: Any) -> Experiment:  # noqa: F811
    own = {"kind": "openai", "base_url": url, "api_key_env": None, "model": "m-1", **settings}
    return experiment.with_overrides({f"judge.{key}": value for key, value in own.items()})


def test_a_judge_that_says_nothing_readable_finishes_nothing_and_its_replies_may_be_read_again(
    experiment: Experiment,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[Call] = []

    def script(call: Call) -> Sent:
        calls.append(call)
        return Sent(completion("[[A]]\n#1 is better"))

    (tmp_path / "p.txt").write_text("{conversation} {response_1} {response_2} [[A]] or [[B]]?")
    with serving(script) as url:
        own = {"prompt_file": str(tmp_path / "p.txt"), "structured": False}
        assert guarded(lambda: run(asked_at(experiment, url, **own)) and None) == 2
        said = capsys.readouterr().err
        assert "not one of" in said and "unreadable" in said and r"'[[A]]\n#1 is better'" in said
        assert not is_finished(experiment.folder / "judge" / "better")
        n = len(calls)
        run(asked_at(experiment, url, **own, prompt="paper"))  # the same words, read by another grammar
        assert len(calls) == n > 0
    assert is_finished(experiment.folder / "judge" / "better")
    show(asked_at(experiment, url))
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: better: the judge names the same winner in both orders for only 0.000 of" in shown
    assert "what is shown first wins 1.000" in shown


def verdict(i: int, status: Any, raw: str = "x") -> Verdict:
    return Verdict(f"p{i}#0", f"p{i}", 0, "AB", None, None, status, raw=raw)


def test_a_few_refusals_beside_settled_pairs_are_missing_and_no_error() -> None:
    few = [verdict(0, "refused"), verdict(1, "forfeit")]
    refuse_unreadable("cell", JudgeTable(), few)
    with pytest.raises(UserError, match="not one of 1 replies"):
        refuse_unreadable("cell", JudgeTable(), few[:1])
    with pytest.raises(UserError, match=f"not one of {FEW} replies"):
        refuse_unreadable("cell", JudgeTable(), [*few[1:], *(verdict(i, "refused") for i in range(FEW))])
    refuse_unreadable("cell", JudgeTable(), [verdict(0, "refused"), verdict(1, "ok")])
    found = example_without_verdict([verdict(0, "unreadable", "y" * 500)])
    assert found is not None and len(found["reply"]) == 121 and found["status"] == "unreadable"


def test_some_unreadable_replies_are_counted_with_an_example_and_conflicts_stand_apart_from_ties(
    experiment: Experiment,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[Call] = []

    def script(call: Call) -> Sent:
        calls.append(call)
        return Sent(completion("[[A]]" if len(calls) == 3 else json.dumps({"reason": "", "verdict": "first"})))

    with serving(script) as url:
        run(asked_at(experiment, url, concurrency=1))
    show(asked_at(experiment, url))
    summary = read_json(experiment.folder / "judge" / "better" / "summary.json")
    assert summary["n_missing"] == 1 and summary["without_verdict"] == {"status": "unreadable", "reply": "[[A]]"}
    printed = capsys.readouterr().out
    assert "1 unreadable; one that is unreadable: '[[A]]'" in printed
    ties = summary["verdicts"]["both_malformed"] // 2 + summary["verdicts"]["identical"] // 2
    n, conflicts = summary["n_pairs"], summary["outcomes"]["conflict"]
    assert summary["tie"] == pytest.approx((ties + conflicts) / n)
    assert f"{ties / n:.2f} [" in printed and f"{conflicts / n:.2f} [" in printed


def test_the_missing_baseline_is_named_with_the_command_that_makes_it(experiment: Experiment) -> None:  # noqa: F811
    shutil.rmtree(experiment.folder / "policy" / "untrained")
    with pytest.raises(UserError, match=r"baseline .* `rewardladder policy x\.yaml policy\.reward=untrained`"):
        run(experiment)


def test_the_preview_needs_no_key_and_is_no_error(
    experiment: Experiment,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    looking = experiment.with_overrides({"judge.kind": "openai", "judge.ask": False})

    def work() -> None:
        run(looking)
        show(looking)

    assert guarded(work) == 0
    said = capsys.readouterr()
    assert "requests to gpt-4o-2024-11-20" in said.out and "nothing was asked" in said.out and said.err == ""
    assert not is_finished(experiment.folder / "judge" / "better")


def test_common_samples_are_judged_and_the_rest_is_counted(
    experiment: Experiment,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_cell(experiment, "twice", answers("twice", samples=2))
    run(experiment)
    show(experiment)
    summary = read_json(experiment.folder / "judge" / "twice" / "summary.json")
    assert (summary["n_pairs"], summary["n_unpaired"]) == (30, 30)
    assert "30 answers stand in the cell or in untrained only and are left out" in capsys.readouterr().out


def test_a_cell_with_other_prompts_is_left_out_and_the_others_are_judged_and_shown(
    experiment: Experiment,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_cell(experiment, "a-few", answers("few")[:20])
    with pytest.raises(UserError, match=r"1 of 3 cells are not judged.*a-few .* answer different prompts: 10 samples"):
        run(experiment)
    assert is_finished(experiment.folder / "judge" / "better")
    assert "better" in capsys.readouterr().out


def test_ratings_by_people_say_nothing_of_the_order(experiment: Experiment) -> None:  # noqa: F811
    changed = experiment.with_overrides({"judge.kind": "people"})
    with pytest.raises(UserError, match="have fewer than 1 ratings"):
        run(changed)
    folder = experiment.folder / "judge" / "people"
    codes = [line.split(",")[0] for line in (folder / "sheet.csv").read_text("utf-8-sig").splitlines()]
    rated = [code for code in codes if len(code) == 16 and code.isalnum()]
    (folder / "ratings-ann.csv").write_text("pair,rating\n" + "".join(f"{code},1\n" for code in rated))
    summary = run(changed)[1]
    assert (summary["consistency"], summary["position_first"], summary["n_both_orders"]) == (None, None, 0)
    assert summary["n_missing"] == 0 and rows_of(changed, "better", "outcomes.jsonl")[5]["status"] == "agreed"


def test_long_settings_are_cut_where_they_differ(tmp_path: Path) -> None:
    words = "the whole prompt " * 60
    run_stage(Stage("judge", tmp_path / "s", {"prompt_text": words + "one"}, 0), lambda _: {})
    with pytest.raises(UserError, match=r"prompt_text was ….*one', is ….*other'\)") as refused:
        run_stage(Stage("judge", tmp_path / "s", {"prompt_text": words + "other"}, 0), lambda _: {})
    assert len(str(refused.value)) < 450 + len(str(tmp_path))
