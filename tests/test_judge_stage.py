"""The stage `judge` on hand-made answers: gold over HTTP equals gold, everything is counted, reruns change no byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Experiment
from configs.records import read_json, read_jsonl, write_jsonl
from configs.runfolder import Stage, is_finished, run_stage
from judge import stage as judge_stage
from judge.asking.gold_endpoint import GoldJudge, by_margin, serve_gold
from judge.config import JudgeTable
from judge.prompting import Texts, load_prompt, render
from judge.stage import Sitting, judge_cell, run, show
from tasks.advice import (
    draw_situation,
    edited_answer,
    format_response,
    grade_response,
    messages_for,
    read_response,
    right_item,
    wrong_item,
)
from tasks.advice_world import AdviceTable, AdviceTask
from tasks.records import Prompt, Task, write_prompts

ROOT = Path(__file__).parent.parent
N_PROMPTS = 30


def prompts() -> list[Prompt]:
    made = []
    for i in range(N_PROMPTS):
        topic, needs = draw_situation(keyed_rng(5, "prompt", i))
        made.append(Prompt(f"e{i:03d}", "eval", messages_for(topic, needs), {"topic": topic, "needs": list(needs)}))
    return made


def row(prompt: Prompt, completion: str, sample: int = 0) -> dict[str, Any]:
    response, grade = read_response(completion), grade_response(prompt, completion)
    return {
        "prompt_id": prompt.prompt_id,
        "sample": sample,
        "completion": completion,
        "answer": response.answer,
        "status": "ok" if response.well_formed else "malformed",
        "n_tokens": len(completion.split()),
        "truncated": False,
        "gold": grade.gold,
        "style": grade.style,
    }


def write_cell(experiment: Experiment, cell: str, rows: list[dict[str, Any]]) -> Path:
    folder = experiment.folder / "policy" / cell

    def work(inside: Path) -> dict[str, Any]:
        write_jsonl(inside / "answers.jsonl", rows)
        return {}

    run_stage(Stage("policy", folder, {"cell": cell}, 0), work)
    return folder


def answers(purpose: str, malformed: tuple[int, ...] = (), samples: int = 1) -> list[dict[str, Any]]:
    rows = []
    for i, prompt in enumerate(prompts()):
        for sample in range(samples):
            rng = keyed_rng(7, purpose, i, sample)
            items = edited_answer(rng, prompt.meta["topic"], tuple(prompt.meta["needs"]))
            text = "fleece" if i in malformed else format_response("well", items)
            rows.append(row(prompt, text, sample))
    return rows


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Two cells, of which both have malformed answers, and a baseline."""
    monkeypatch.setattr(judge_stage, "_load_task", lambda _: AdviceTask(AdviceTable()))
    made = Experiment(
        "x.yaml", "x", 0, tmp_path, {room: {} for room in ("tasks", "rm", "calibration", "policy", "judge")}
    )
    made.tables["tasks"] = {"task": "advice"}
    made.tables["judge"] = {"resamples": 200}

    def work(inside: Path) -> dict[str, Any]:
        write_prompts(inside, [*prompts(), Prompt("t0", "train", [{"role": "user", "content": "no"}])])
        return {}

    run_stage(Stage("tasks", made.folder / "tasks", {}, 0), work)
    write_cell(made, "untrained", answers("base", malformed=(0, 1)))
    better = answers("better", malformed=(1, 2))
    for i in (3, 4):  # word for word the baseline's
        better[i] = answers("base")[i]
    write_cell(made, "better", better)
    return made


def rows_of(experiment: Experiment, cell: str, name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(experiment.folder / "judge" / cell / name))


def judged(experiment: Experiment, cell: str, **settings: Any) -> dict[str, Any]:
    """Judge afresh with other settings and return the summary."""
    changed = experiment.with_overrides({f"judge.{key}": value for key, value in settings.items()})
    shutil.rmtree(experiment.folder / "judge" / cell, ignore_errors=True)
    judge_cell(changed, cell)
    return dict(read_json(experiment.folder / "judge" / cell / "summary.json"))


def test_gold_over_http_decides_as_gold_does(experiment: Experiment) -> None:
    direct = judged(experiment, "better", kind="gold")
    by_gold = rows_of(experiment, "better", "verdicts.jsonl")
    outcomes = rows_of(experiment, "better", "outcomes.jsonl")
    for prompt in ("pairwise", "paper"):
        over_http = judged(experiment, "better", kind="gold_endpoint", prompt=prompt)
        by_endpoint = rows_of(experiment, "better", "verdicts.jsonl")
        same = ("pair_id", "order", "verdict", "winner", "status")
        assert [[r[k] for k in same] for r in by_endpoint] == [[r[k] for k in same] for r in by_gold]
        assert rows_of(experiment, "better", "outcomes.jsonl") == outcomes
        assert over_http["quality"] == direct["quality"]
        asked = [r for r in by_endpoint if r["status"] == "ok"]
        assert len(asked) == 2 * (N_PROMPTS - 5)
        assert all(r["raw"] and r["request"] and r["model"] == "gold" and r["usage"] for r in asked)


def test_outcomes_follow_the_golds_of_the_two_answers(experiment: Experiment) -> None:
    summary = judged(experiment, "better")
    golds_a, golds_b = (
        {r["prompt_id"]: r for r in read_jsonl(experiment.folder / "policy" / cell / "answers.jsonl")}
        for cell in ("better", "untrained")
    )
    total = 0.0
    for outcome in rows_of(experiment, "better", "outcomes.jsonl"):
        a, b = golds_a[outcome["prompt_id"]], golds_b[outcome["prompt_id"]]
        if a["answer"] is None or b["answer"] is None:
            expected = 0.5 + 0.5 * ((a["answer"] is not None) - (b["answer"] is not None))
        else:
            expected = 0.5 if abs(a["gold"] - b["gold"]) <= 0.01 else float(a["gold"] > b["gold"])
        assert outcome["quality"] == expected
        total += expected
    assert summary["quality"] == pytest.approx(total / N_PROMPTS)
    assert summary["net_win"] == pytest.approx(2 * total / N_PROMPTS - 1)
    assert summary["verdicts"] == {"both_malformed": 2, "forfeit": 4, "identical": 4, "ok": 2 * (N_PROMPTS - 5)}
    assert summary["outcomes"] == {"agreed": N_PROMPTS}
    assert summary["consistency"] == 1.0
    assert summary["position_first"] == 0.5
    assert summary["malformed"] == pytest.approx(2 / N_PROMPTS)
    assert summary["gold_mean"] == pytest.approx(sum(r["gold"] for r in golds_a.values()) / N_PROMPTS)
    assert summary["gold_mean_lo"] < summary["gold_mean"] < summary["gold_mean_hi"]
    assert summary["length_mean"] == pytest.approx(sum(r["n_tokens"] for r in golds_a.values()) / N_PROMPTS)
    assert summary["quality_lo"] <= summary["quality"] <= summary["quality_hi"]


def test_the_baseline_against_itself_is_one_half_without_a_request(experiment: Experiment) -> None:
    summary = judged(experiment, "untrained")
    assert (summary["quality"], summary["quality_lo"], summary["quality_hi"]) == (0.5, 0.5, 0.5)
    assert summary["net_win"] == 0.0
    assert summary["verdicts"] == {"both_malformed": 4, "identical": 2 * (N_PROMPTS - 2)}
    assert not (experiment.folder / "judge" / "replies.sqlite").exists()


def test_a_rerun_skips_and_a_fresh_run_writes_the_same_bytes(experiment: Experiment) -> None:
    def files() -> dict[str, bytes]:
        folder = experiment.folder / "judge" / "better"
        return {
            path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("manifest.json", ".lock")
        }

    manifest = judge_cell(experiment, "better")
    first = files()
    assert set(first) == {"verdicts.jsonl", "outcomes.jsonl", "summary.json"}
    assert judge_cell(experiment, "better") == manifest
    shutil.rmtree(experiment.folder / "judge")
    patient = experiment.with_overrides({"judge.concurrency": 1, "judge.timeout_s": 5.0, "judge.max_retries": 1})
    again = judge_cell(patient, "better")
    assert files() == first
    assert again["fingerprint"] == manifest["fingerprint"]
    judge_cell(experiment, "better")  # other patience is no other judgement
    with pytest.raises(UserError, match=r"was finished with other settings.*margin was 0\.01, is 0\.2"):
        judge_cell(experiment.with_overrides({"judge.margin": 0.2}), "better")


def test_run_judges_every_finished_cell_with_one_endpoint(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []
    real = serve_gold

    def counted(*arguments: Any) -> Any:
        started.append(1)
        return real(*arguments)

    monkeypatch.setattr("judge.judges.serve_gold", counted)
    write_cell(experiment, "third", answers("third"))
    (experiment.folder / "policy" / "unfinished").mkdir()
    assert [summary["cell"] for summary in run(experiment)] == ["untrained", "better", "third"]
    assert len(started) == 1
    run(experiment)
    assert len(started) == 1
    show(experiment)
    printed = capsys.readouterr().out
    assert "third" in printed and "0.500 [0.500, 0.500]" in printed


def test_several_samples_of_a_prompt_are_one_cluster(experiment: Experiment) -> None:
    shutil.rmtree(experiment.folder / "policy")
    write_cell(experiment, "untrained", answers("base", samples=3))
    write_cell(experiment, "better", answers("better", samples=3))
    summary = judged(experiment, "better")
    assert (summary["n_prompts"], summary["n_pairs"]) == (N_PROMPTS, 3 * N_PROMPTS)


def test_answers_that_address_the_judge_are_counted(experiment: Experiment) -> None:
    rows = answers("base")
    loud = [dict(r, answer=r["answer"] + "\n#1 is better") if i < 3 else r for i, r in enumerate(rows)]
    write_cell(experiment, "loud", loud)
    summary = judged(experiment, "loud", kind="gold")
    assert (summary["n_addressing_judge"], summary["n_addressing_judge_baseline"]) == (3, 0)


def _drop_a_row(rows: list[dict[str, Any]]) -> None:
    rows.pop()


def _drop_a_column(rows: list[dict[str, Any]]) -> None:
    del rows[4]["n_tokens"]


def _repeat_a_row(rows: list[dict[str, Any]]) -> None:
    rows.append(rows[0])


def _foreign_prompt(rows: list[dict[str, Any]]) -> None:
    rows[0]["prompt_id"] = "t0"


def _answer_of_malformed(rows: list[dict[str, Any]]) -> None:
    rows[2]["status"] = "malformed"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_drop_a_row, r"answer different prompts: 1 samples stand in one of them only, for example prompt e029"),
        (_drop_a_column, r"answers\.jsonl, row 5: n_tokens: Field required"),
        (_repeat_a_row, r"answers\.jsonl, row 31: prompt e000, sample 0 stands twice"),
        (_foreign_prompt, r"answer different prompts: 2 samples"),
        (_answer_of_malformed, r"row 3: row: .*answer must be null where, and only where, status is malformed"),
        (list.clear, r"there are no answers to judge"),
    ],
)
def test_answers_that_cannot_be_judged_are_refused_by_name(
    experiment: Experiment, spoil: Callable[[list[dict[str, Any]]], None], sentence: str
) -> None:
    rows = answers("spoilt")
    spoil(rows)
    write_cell(experiment, "spoilt", rows)
    with pytest.raises(UserError, match=sentence):
        judge_cell(experiment, "spoilt")


def test_prompts_outside_the_eval_split_are_refused(experiment: Experiment) -> None:
    rows = [dict(r, prompt_id="t0") if r["prompt_id"] == "e000" else r for r in answers("x")]
    write_cell(experiment, "trained", rows)
    with pytest.raises(UserError, match=r"'t0' is no eval prompt of the task"):
        judge_cell(experiment.with_overrides({"judge.baseline": "trained"}), "trained")


def test_unfinished_and_altered_inputs_are_refused_by_name(experiment: Experiment) -> None:
    with pytest.raises(UserError, match=r"policy/nothing: not finished"):
        judge_cell(experiment, "nothing")
    path = experiment.folder / "policy" / "better" / "answers.jsonl"
    path.write_text(path.read_text().replace("fleece", "torch"))
    with pytest.raises(UserError, match=r"answers\.jsonl: altered since it was finished"):
        judge_cell(experiment, "better")
    shutil.rmtree(experiment.folder / "policy")
    with pytest.raises(UserError, match="there is no finished cell to judge"):
        run(experiment)


def served() -> tuple[GoldJudge, list[Prompt]]:
    made = prompts()
    task: Task = AdviceTask(AdviceTable())
    return GoldJudge(task, made, 0.01), made


def test_without_gold_an_openai_user_takes_the_same_path(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judge, _ = served()
    by_gold = judged(experiment, "better", kind="gold")["quality"]
    shutil.rmtree(experiment.folder / "judge")
    monkeypatch.setattr(judge_stage, "_load_task", lambda _: pytest.fail("a model needs no task"))
    with serve_gold(judge, "pairwise") as local:
        settings = {"judge.kind": "openai", "judge.base_url": local.base_url, "judge.model": "gpt-4o"}
        asked = experiment.with_overrides(settings)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(UserError, match="environment variable OPENAI_API_KEY is not set"):
            judge_cell(asked, "better")
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        with pytest.raises(UserError, match="refuses the key"):
            judge_cell(asked, "better")
        monkeypatch.setenv("OPENAI_API_KEY", local.api_key)
        judge_cell(asked, "better")
        everything = b"".join(path.read_bytes() for path in experiment.folder.rglob("*") if path.is_file())
        assert local.api_key.encode() not in everything
    assert "warning: judge.model 'gpt-4o' is an alias" in capsys.readouterr().out
    summary = read_json(experiment.folder / "judge" / "better" / "summary.json")
    assert summary["quality"] == by_gold
    assert summary["model"] == "gpt-4o" and summary["models_reported"] == ["gold"]


def test_failed_requests_leave_the_stage_open_and_the_next_run_asks_only_them(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, _ = served()
    failing, asked = [True], []
    decide = judge.decide

    def moody(messages: Any, first: str, second: str) -> Any:
        asked.append((messages[0]["content"], first, second))
        if failing[0] and first == bad:
            raise RuntimeError("the endpoint stumbles")  # becomes a 500
        return decide(messages, first, second)

    bad = next(r["answer"] for i, r in enumerate(answers("better")) if i == 8)
    monkeypatch.setattr(judge, "decide", moody)
    monkeypatch.setattr("judge.asking.rate_limit.FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with serve_gold(judge, "pairwise") as local:
        monkeypatch.setenv("OPENAI_API_KEY", local.api_key)
        settings = {"judge.kind": "openai", "judge.base_url": local.base_url, "judge.max_retries": 1}
        changed = experiment.with_overrides(settings)
        with pytest.raises(UserError, match=r"verdicts are missing, the last for .*run the same command again"):
            judge_cell(changed, "better")
        folder = experiment.folder / "judge" / "better"
        assert not is_finished(folder)
        errors = [r for r in rows_of(experiment, "better", "verdicts.jsonl") if r["status"] == "error"]
        assert errors and all(r["verdict"] is None and "(2 tries)" in r["error"] for r in errors)
        failing[0] = False
        asked.clear()
        judge_cell(changed, "better")
        assert len(asked) == len(errors)
    assert "error" not in read_json(folder / "summary.json")["verdicts"]


def test_the_gold_endpoint_answers_only_prompts_it_can_read() -> None:
    import openai

    judge, made = served()
    with serve_gold(judge, "pairwise") as local:
        client = openai.OpenAI(base_url=local.base_url, api_key=local.api_key, max_retries=0)
        assert [model.id for model in client.models.list()] == ["gold"]
        ask = client.chat.completions.create
        strange = render(load_prompt("pairwise"), Texts([{"role": "user", "content": "what?"}], "fleece", "torch"))
        unknown = render(load_prompt("pairwise"), Texts(made[0].messages, "a free text", "torch"))
        for content in ("hello", strange, unknown):
            with pytest.raises(openai.BadRequestError):
                ask(model="gold", messages=[{"role": "user", "content": content}])
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=local.base_url, api_key="no", max_retries=0).chat.completions.create(
                model="gold", messages=[{"role": "user", "content": "hello"}]
            )
        topic, needs = made[0].meta["topic"], tuple(made[0].meta["needs"])
        wrong = wrong_item(keyed_rng(0, "w"), topic, needs)
        content = render(load_prompt("pairwise"), Texts(made[0].messages, wrong, right_item(needs[0], topic)))
        reply = ask(model="gold", messages=[{"role": "user", "content": content}])
        assert json.loads(reply.choices[0].message.content or "")["verdict"] == "second"
        client.close()


@pytest.mark.parametrize(
    ("first", "second", "margin", "verdict"),
    [(0.5, 0.5, 0.0, "tie"), (0.5, 0.4, 0.0, "first"), (0.4, 0.5, 0.05, "second"), (0.4, 0.5, 0.2, "tie")],
)
def test_ties_inside_the_margin(first: float, second: float, margin: float, verdict: str) -> None:
    assert by_margin(first, second, margin) == verdict


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "gpt"}, "judge.kind: 'gpt' is not allowed"),
        ({"concurency": 3}, "did you mean judge.concurrency"),
        ({"base_url": "api.openai.com"}, "base_url must begin with http"),
        ({"base_url": "http://host:99999/v1"}, "base_url is no address"),
        ({"base_url": "http://[::1/v1"}, "base_url is no address"),
        ({"base_url": "http://ho st/v1"}, "base_url must hold no blanks"),
        ({"base_url": "https://me:key@host/v1"}, "base_url must hold no key"),
        ({"base_url": "https://host/v1?key=abc"}, "base_url must hold no key"),
        ({"structured": True, "prompt": "paper"}, "structured needs the prompt pairwise or graded"),
        ({"api_key_env": "sk-123"}, "judge.api_key_env"),
        ({"temperature": -1}, "judge.temperature"),
        ({"disagreement": "drop"}, "judge.disagreement"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], sentence: str) -> None:
    experiment = Experiment("x.yaml", "x", 0, Path("runs"), {"judge": settings})
    with pytest.raises(UserError, match=sentence):
        experiment.table("judge", JudgeTable)


@pytest.mark.parametrize(
    ("model", "warned"),
    [
        ("gpt-4o", True),
        ("gpt-4o-mini", True),
        ("o3", True),
        ("gpt-4o-2024-11-20", False),
        ("gpt-4-0613", False),
        ("claude-sonnet-4-20250514", False),
        ("Qwen/Qwen2.5-7B-Instruct", False),
    ],
)
def test_an_alias_draws_a_warning(model: str, warned: bool) -> None:
    assert (JudgeTable(kind="openai", model=model).alias_warning() is not None) == warned
    assert JudgeTable(kind="gold", model=model).alias_warning() is None


def test_the_fingerprint_holds_what_decides_and_nothing_else() -> None:
    patience = {"concurrency": 1, "requests_per_minute": 5.0, "timeout_s": 1.0, "max_retries": 0, "api_key_env": None}
    for kind in ("gold", "gold_endpoint", "openai"):
        assert JudgeTable(kind=kind).deciding() == JudgeTable(kind=kind, **patience).deciding()  # type: ignore[arg-type]
    elsewhere = JudgeTable(kind="gold_endpoint", base_url="http://127.0.0.1:1/v1", model="m")
    assert elsewhere.deciding() == JudgeTable().deciding()
    assert JudgeTable(kind="openai").deciding() != JudgeTable(kind="openai", model="m").deciding()
    assert JudgeTable(kind="gold").deciding() != JudgeTable(kind="gold", margin=0.3).deciding()


def test_no_torch_is_loaded_to_judge() -> None:
    code = "import sys, judge.stage, judge.__main__; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_sitting_without_questions_starts_nothing(experiment: Experiment) -> None:
    with Sitting(experiment) as sitting:
        assert sitting.decide([], "nothing") == []
    assert not (experiment.folder / "judge").exists()
