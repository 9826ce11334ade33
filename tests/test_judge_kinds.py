"""Judges other than an endpoint, graded verdicts, and the stage with them: a rung, people, all cells asked together."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from judge.answers import Answer, Pair, Question
from judge.asking.endpoint import Endpoint
from judge.asking.local_endpoint import Answer as Sent
from judge.asking.local_endpoint import Call, completion, serving
from judge.asking.questions import Asking, read_outcome
from judge.asking.replies import Failure
from judge.asking.store import ChatRequest, Reply, ReplyStore
from judge.config import JudgeTable
from judge.judges import Court, open_judge
from judge.original_prompt import is_published, render_original
from judge.people.ratings import SHEET_FILE
from judge.prompting import load_prompt, read_rendered, render
from judge.stage import Sitting, judge_cell, run
from judge.verdicts import Verdict, combine, majority, read_strength, read_verdict
from tasks.records import Prompt
from tests.test_judge_stage import answers, experiment, rows_of, write_cell  # noqa: F401 - a fixture
from tests.tiny_rungs import make_base, make_rung, sentence


def answer(text: str) -> Answer:
    return Answer(prompt_id="p", sample=0, completion=text, answer=text, status="ok", n_tokens=1, truncated=False)


def questions(n: int) -> list[Question]:
    asked = []
    for i in range(n):
        prompt = Prompt(f"p{i}", "eval", [{"role": "user", "content": sentence(i)}])
        pair = Pair(f"p{i}#0", prompt, answer(sentence(100 + i)), answer(sentence(200 + i)))
        asked += [Question(pair, "AB"), Question(pair, "BA")]
    return asked


def test_a_rung_prefers_the_answer_it_scores_higher_in_both_orders(tmp_path: Path) -> None:
    import numpy as np

    from rm.scorer import RungScorer
    from rm.units import ScoreUnits

    rung = make_rung(tmp_path / "rung", make_base(tmp_path), seed=1, lora_r=0)
    asked = questions(8)
    chats = [question.pair.prompt.messages for question in asked[::2]]
    scorer, units = RungScorer(rung, 4096), ScoreUnits.load(rung)
    a, b = (
        units.scores(np.asarray(scorer.logits(chats, [getattr(q.pair, side).answer for q in asked[::2]])))
        for side in "ab"
    )
    for margin in (0.0, float(np.median(abs(a - b)))):
        table = JudgeTable(kind="rung", rung=str(rung), margin=margin)
        with open_judge(Court(table, tmp_path, [], lambda: pytest.fail("no task"), {})) as decide:
            verdicts = decide(asked, "t")
            assert decide([], "t") == []
        differences = a - b
        expected = ["tie" if abs(d) <= margin + 1e-9 and margin else "a" if d > 0 else "b" for d in differences]
        agreeing = [v.winner for v in verdicts[::2]]
        assert agreeing == [v.winner for v in verdicts[1::2]]
        assert sum(x != y for x, y in zip(agreeing, expected, strict=True)) <= (1 if margin else 0)  # one at the margin
        assert {v.model for v in verdicts} == {"rung"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "rung"}, "rung, the folder of a reward model, is needed with kind rung"),
        ({"kind": "gold", "rung": "x"}, "is needed with kind rung and only there"),
        ({"repeats": 3}, "repeats differ only where the judge draws"),
        ({"batch": True}, "gold_endpoint has no Batch API"),
        ({"price": {"input": -1, "output": 0}}, "judge.price.input"),
        ({"max_cost": 0}, "judge.max_cost"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Experiment("x.yaml", "x", 0, Path("runs"), {"judge": settings}).table("judge", JudgeTable)


@pytest.mark.parametrize(
    ("text", "verdict", "strength"),
    [
        ('{"verdict": "first much better"}', "first", 2),
        ('{"verdict": "First Much Better"}', "first", 2),
        ('{"verdict": "second"}', "second", 1),
        ('{"verdict": "tie"}', "tie", 0),
        ("Verdict: second much better", "second", 2),
        ('{"verdict": "first"} {"verdict": "second much better"}', "second", 2),
        ('{"verdict": "much better"}', None, None),
    ],
)
def test_graded_verdicts_have_five_levels(text: str, verdict: str | None, strength: int | None) -> None:
    assert (read_verdict(text, "graded"), read_strength(text, "graded")) == (verdict, strength)
    assert read_strength(text, "pairwise") is None
    assert read_verdict('{"verdict": "first much better"}', "pairwise") is None


def graded(order: str, said: str) -> Verdict:
    question = Question(questions(1)[0].pair, order)  # type: ignore[arg-type]
    reply = Reply(f'{{"verdict": "{said}"}}', None, "stop", None, None, None)
    return read_outcome(question, ChatRequest("s", {}), reply, JudgeTable(kind="openai", prompt="graded"))


@pytest.mark.parametrize(
    ("ab", "ba", "status", "win", "level"),
    [
        ("first much better", "second", "agreed", 1.0, 1.5),
        ("second much better", "first much better", "agreed", 0.0, -2.0),
        ("first much better", "first", "conflict", 0.0, 0.5),
        ("tie", "first", "differs", 0.0, -0.5),
        ("tie", "tie", "agreed", 0.0, 0.0),
    ],
)
def test_levels_are_of_the_cell_and_the_mean_of_both_orders(
    ab: str, ba: str, status: str, win: float, level: float
) -> None:
    outcome = combine(graded("AB", ab), graded("BA", ba))
    assert (outcome.status, outcome.win, outcome.level) == (status, win, level)


def test_a_failure_has_no_level() -> None:
    question = questions(1)[0]
    verdict = read_outcome(question, ChatRequest("s", {}), Failure("x", True), JudgeTable(prompt="graded"))
    assert verdict.level is None and combine(verdict, graded("BA", "first")).level is None


@pytest.mark.parametrize(
    ("winners", "winner"),
    [
        (["a"], "a"),
        (["a", "a", "b"], "a"),
        (["a", "b"], "tie"),
        (["a", "b", "tie"], "tie"),
        (["tie", "tie", "b"], "tie"),
        ([None, "b"], "b"),
        ([None, None], None),
        ([], None),
    ],
)
def test_majorities(winners: list[Any], winner: str | None) -> None:
    assert majority(winners) == winner


def test_a_prompt_of_ones_own_takes_the_place_of_ours(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("Which? {conversation} {response_1} {response_2} {key}")
    assert load_prompt("pairwise", str(own)).startswith("Which?")
    own.write_bytes(b"\xff\xfe")
    load_prompt.cache_clear()
    with pytest.raises(UserError, match="not readable as a prompt in UTF-8"):
        load_prompt("pairwise", str(own))
    with pytest.raises(UserError, match="there is no such prompt file"):
        load_prompt("pairwise", str(tmp_path / "none.txt"))


def test_all_cells_are_previewed_and_asked_together(
    experiment: Experiment,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_cell(experiment, "third", answers("third"))
    asked: list[Call] = []

    def script(call: Call) -> Sent:
        asked.append(call)
        return Sent(completion('{"verdict": "tie"}'))

    with serving(script) as url:
        settings = {"judge.kind": "openai", "judge.base_url": url, "judge.api_key_env": None, "judge.model": "m-1"}
        changed = experiment.with_overrides(settings)
        summaries = run(changed)
        printed = capsys.readouterr().out
        assert printed.count("requests to m-1") == 1
        assert f"judge: {len(asked):,} requests to m-1" in printed
        assert [summary["cell"] for summary in summaries] == ["untrained", "better", "third"]
        assert summaries[2]["tie"] == pytest.approx(1 - summaries[2]["win"] - summaries[2]["lose"])
        n = len(asked)
        with Sitting(changed, ["better", "third"]) as sitting:
            judge_cell(changed, "better", sitting)
        assert len(asked) == n


def test_people_judge_cells_of_an_experiment(experiment: Experiment) -> None:  # noqa: F811
    write_cell(experiment, "third", answers("third"))
    changed = experiment.with_overrides({"judge.kind": "people"})
    with pytest.raises(UserError, match=r"sheet\.csv: \d+ of \d+ pairs have fewer than 1 ratings"):
        run(changed)
    folder = experiment.folder / "judge" / "people"
    with (folder / SHEET_FILE).open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) > 30  # of both cells
    assert b"better" not in (folder / SHEET_FILE).read_bytes() and b"third" not in (folder / SHEET_FILE).read_bytes()
    (folder / "ratings-ann.csv").write_text("pair,rating\n" + "".join(f"{row['pair']},tie\n" for row in rows))
    summaries = run(changed)
    assert [summary["model"] for summary in summaries] == ["people"] * 3
    assert set(summaries[1]["verdicts"]) == {"both_malformed", "forfeit", "identical", "ok"}
    assert all(row["winner"] == "tie" for row in rows_of(changed, "third", "verdicts.jsonl") if row["status"] == "ok")
    assert read_json(folder / "agreement.json")["raters"].keys() == {"ann"}


def test_the_speed_command_measures(capsys: pytest.CaptureFixture[str]) -> None:
    from judge.speed import SpeedTable
    from judge.speed import run as measure

    measure([], SpeedTable(requests=200, characters=600))
    assert "200 requests of 600 characters, 32 in flight" in capsys.readouterr().out
    with pytest.raises(UserError, match="is no setting"):
        measure(["x"], SpeedTable())


def test_a_rendered_question_reads_back_under_every_prompt() -> None:
    from judge.prompting import shown_texts

    for name in ("pairwise", "graded", "paper"):
        texts = shown_texts(questions(1)[0])
        assert read_rendered(render(load_prompt(name), texts)) == texts  # type: ignore[arg-type]


SCRIPT = '''import asyncio
prompt = """Chat: {chat}
One: {res1}
Two: {res2}
"""

base_url =
'''


def test_the_papers_own_prompt_is_read_from_a_copy_and_asked_as_its_script_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script is no Python that could be run: after `base_url =` there is nothing."""
    (tmp_path / "gpt_eval.py").write_text(SCRIPT)
    (tmp_path / "prompt.txt").write_text("{res2} {res1} {chat}")
    (tmp_path / "half.txt").write_text("{res2} {res1}")
    asked: list[str] = []

    def script(call: Call) -> Sent:
        asked.append(json.loads(call.body)["messages"][0]["content"])
        return Sent(completion("The second is thin. Therefore, **#1 is better**."))

    with serving(script) as url, ReplyStore(tmp_path / "s.sqlite") as store:
        table = JudgeTable(kind="openai", prompt="original", prompt_file=str(tmp_path / "gpt_eval.py"))
        verdicts = Asking(table, Endpoint(url, "k", model="m"), "s", store, False).decide(questions(1), "t")
    assert "gpt_eval.py is not the prompt that was published" in capsys.readouterr().out
    shown = questions(1)[0]
    turn = shown.pair.prompt.messages[0]
    chat = f"[{{'role': 'user', 'content': {turn['content']!r}}}]"
    assert sorted(asked) == sorted(
        f"Chat: {chat}\nOne: {one}\nTwo: {two}\n"
        for one, two in ((shown.pair.a.answer, shown.pair.b.answer), (shown.pair.b.answer, shown.pair.a.answer))
    )
    assert [(v.status, v.winner) for v in verdicts] == [("ok", "a"), ("ok", "b")]
    assert not is_published("{chat}{res1}{res2}")
    assert load_prompt("original", str(tmp_path / "prompt.txt")) == "{res2} {res1} {chat}"
    with pytest.raises(UserError, match=r"\{chat\} must stand in the paper's prompt exactly once, found 0 times"):
        load_prompt("original", str(tmp_path / "half.txt"))
    with pytest.raises(ValueError, match=r"prompt original is the paper's own, which is not shipped"):
        JudgeTable(kind="openai", prompt="original")
    assert render_original("{chat}|{res1}|{res2}", [], "{res2}", "{chat}") == "[]|{res2}|{chat}", "in one pass"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Both help, but #2 is better.", "second"),
        ("Overall, I would call it a TIE.", "tie"),
        ("Not a tie: #1 is better", "first"),
        ("#1 is better. That is because it covers much more of what was asked.", None),
        ("It names more of the entities", None),
        ("", None),
    ],
)
def test_a_verdict_of_the_papers_own_prompt_stands_at_the_end(reply: str, verdict: str | None) -> None:
    assert read_verdict(reply, "original") == verdict
