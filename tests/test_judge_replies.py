"""From replies to verdicts: every way in which a reply can have none has its own status, and none of them is a tie."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.loader import load_experiment
from judge.__main__ import run_and_show
from judge.answers import Answer, Pair, Question
from judge.asking.gold_endpoint import GoldJudge
from judge.asking.questions import chat_request, read_outcome, verdict_schema
from judge.asking.replies import Failure
from judge.asking.store import ChatRequest, Reply, ReplyStore
from judge.config import JudgeTable
from judge.judges import Court, open_judge
from tasks.arithmetic import messages_for
from tasks.arithmetic_world import ArithmeticTable, ArithmeticTask
from tasks.records import Grade, Prompt

GOOD = '{"reason": "r", "verdict": "first"}'


def answer(text: str, completion: str | None = None) -> Answer:
    return Answer(
        prompt_id="p", sample=0, completion=completion or text, answer=text, status="ok", n_tokens=1, truncated=False
    )


def question(order: str = "AB") -> Question:
    prompt = Prompt("p", "eval", messages_for((3, 5, 9)), {"terms": [3, 5, 9]})
    pair = Pair("p#0", prompt, answer("17", "The answer is 17."), answer("16", "The answer is 16."))
    return Question(pair, order)  # type: ignore[arg-type]


class Arithmetic(ArithmeticTask):
    """The arithmetic world, whose gold can be forgotten."""

    known = True

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        return super().grade(prompt, completion) if self.known else Grade(None, "no_gold", "")


@pytest.mark.parametrize(
    ("content", "refusal", "finish_reason", "status", "winner"),
    [
        (GOOD, None, "stop", "ok", "b"),
        (GOOD, None, None, "ok", "b"),
        ('{"verdict": "tie"}', None, "stop", "ok", "tie"),
        ("Both are good.", None, "stop", "unreadable", None),
        ("", None, "stop", "unreadable", None),
        (GOOD, None, "length", "truncated", None),
        ("", None, "length", "truncated", None),
        (GOOD, None, "content_filter", "refused", None),
        ("", "I can't judge that", "stop", "refused", None),
        ("I'm sorry, but I can't compare these.", None, "stop", "refused", None),
        ("I'm sorry for the delay. " + GOOD, None, "stop", "ok", "b"),
    ],
)
def test_statuses_of_replies(
    content: str, refusal: str | None, finish_reason: str | None, status: str, winner: str | None
) -> None:
    asked, table = question("BA"), JudgeTable()
    request = chat_request(asked, table, "m", "here")
    verdict = read_outcome(asked, request, Reply(content, refusal, finish_reason, "m-1", None, None), table)
    assert (verdict.status, verdict.winner) == (status, winner)
    assert (verdict.verdict is None) == (winner is None)
    assert verdict.raw == (refusal or content)
    assert verdict.request == request.key


@pytest.mark.parametrize(("passing", "status"), [(True, "error"), (False, "rejected")])
def test_failures_have_no_verdict_and_say_why(passing: bool, status: str) -> None:
    asked, table = question(), JudgeTable()
    verdict = read_outcome(asked, chat_request(asked, table, "m", "here"), Failure("HTTP 418", passing), table)
    assert (verdict.status, verdict.verdict, verdict.winner, verdict.error) == (status, None, None, "HTTP 418")


def test_a_request_holds_what_the_table_says_and_no_more() -> None:
    plain = chat_request(question(), JudgeTable(temperature=None, max_tokens=7, structured=False), "m", "here").body
    assert set(plain) == {"model", "messages", "max_tokens"}
    assert plain["max_tokens"] == 7
    full = chat_request(question(), JudgeTable(structured=True), "m", "here").body
    assert full["temperature"] == 0.0
    assert full["response_format"] == verdict_schema(["first", "second", "tie"])
    assert chat_request(question(), JudgeTable(), "m", "here").body == full
    assert "response_format" not in chat_request(question(), JudgeTable(prompt="paper"), "m", "here").body
    ab, ba = (chat_request(question(order), JudgeTable(), "m", "here") for order in ("AB", "BA"))
    assert ab.key != ba.key
    text = ab.body["messages"][0]["content"]
    assert text.index("\n17\n") < text.index("\n16\n")
    assert "The answer is" not in text  # a judge sees answers, not completions


def test_answers_of_the_arithmetic_world_are_graded_from_the_answer_alone() -> None:
    asked = question()
    judge = GoldJudge(Arithmetic(ArithmeticTable()), [asked.pair.prompt], 0.0)
    assert judge.decide(asked.pair.prompt.messages, "17", "16")[0] == "first"
    assert judge.decide(asked.pair.prompt.messages, "16", "17")[0] == "second"
    assert judge.decide(asked.pair.prompt.messages, "16", "15")[0] == "tie"
    with pytest.raises(LookupError, match="cannot hold"):
        judge.decide(asked.pair.prompt.messages, "seventeen", "17")


def test_without_gold_the_gold_judge_says_so(tmp_path: Path) -> None:
    task = Arithmetic(ArithmeticTable())
    task.known = False
    court = Court(JudgeTable(kind="gold"), tmp_path, [], lambda: task, {})
    with open_judge(court) as decide:
        (verdict,) = decide([question()], "t")
    assert (verdict.status, verdict.verdict) == ("no_gold", None)


REQUEST = ChatRequest("here", {"model": "m"})


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("replies", (REQUEST.key, "{}", "{}")),
        ("replies", (REQUEST.key, "{}", "[" * 100_000)),
        ("replies", (REQUEST.key, "{}", b"\xff\x00")),
        ("replies", (REQUEST.key, "{}", 7)),
        ("replies", (REQUEST.key, "{}", '{"content": 1, "refusal": null, "finish_reason": null}')),
        ("reserved", (REQUEST.key, "../nobody", "", 0, 0)),
    ],
)
def test_a_damaged_row_of_the_store_is_one_line(tmp_path: Path, table: str, row: tuple[Any, ...]) -> None:
    path = tmp_path / "replies.sqlite"
    with ReplyStore(path):
        pass
    with sqlite3.connect(path) as database:
        database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    database.close()
    with ReplyStore(path) as store, pytest.raises(UserError, match=r"replies\.sqlite: not usable .* move it away"):
        if table == "replies":
            store.get(REQUEST.key)
        else:
            store.claim(REQUEST.key)


def test_a_damaged_or_foreign_store_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE replies (key TEXT PRIMARY KEY, other TEXT)")
    database.close()
    with ReplyStore(path) as store:
        for use in (lambda: store.get("k"), lambda: store.put("k", REQUEST, Reply("", None, None, None, None, None))):
            with pytest.raises(UserError, match=r"not usable as a store of replies .* move it away and ask again"):
                use()
    path.unlink()
    with ReplyStore(path) as store:
        for i in range(2000):
            store.put(f"{i}", REQUEST, Reply("x" * 500, None, None, None, None, None))
    content = bytearray(path.read_bytes())
    content[8192:-4096] = b"\xa5" * len(content[8192:-4096])
    path.write_bytes(content)
    with ReplyStore(path) as store, pytest.raises(UserError, match=r"malformed.*move it away and ask again"):
        for i in range(2000):
            store.get(f"{i}")


def test_the_command_judges_an_experiment_with_the_task_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from configs.runfolder import Stage, run_stage
    from tasks.records import write_prompts
    from tests.test_judge_stage import answers, prompts, write_cell

    path = tmp_path / "tiny.yaml"
    path.write_text(f"runs_dir: {tmp_path}\ntasks: {{task: advice}}\njudge: {{resamples: 200}}\n")
    experiment = load_experiment(path)

    def work(inside: Path) -> dict[str, Any]:
        write_prompts(inside, prompts())
        return {}

    run_stage(Stage("tasks", experiment.folder / "tasks", {}, 0), work)
    write_cell(experiment, "untrained", answers("base"))
    write_cell(experiment, "other", answers("other"))
    run_and_show(experiment)
    assert "judge: gold_endpoint against untrained" in capsys.readouterr().out
