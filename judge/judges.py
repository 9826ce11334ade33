"""The judges there are. A judge decides questions that no rule has settled; one function and one row each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from configs.records import sha256_of_record
from judge.answers import Question
from judge.config import GOLD_MODEL, JudgeKind, JudgeTable
from judge.endpoint import Endpoint, Failure, ask_all
from judge.gold_endpoint import GoldJudge, by_margin, serve_gold
from judge.prompting import load_prompt, render, shown_texts
from judge.store import STORE_FILE, ChatRequest, Reply, ReplyStore
from judge.verdicts import Shown, Verdict, VerdictStatus, is_refusal, mapped, read_verdict
from tasks.records import Prompt, Task

Decide = Callable[[Sequence[Question], str], list[Verdict]]
"""Decide questions; the text names them on the progress bar. One verdict a question, in their order."""

VERDICT_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "reason": {"type": "string"},
                "verdict": {"type": "string", "enum": ["first", "second", "tie"]},
            },
            "required": ["reason", "verdict"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Court:
    """What a judge may need: its table, the folder of its store, the eval prompts, and the task where gold decides."""

    table: JudgeTable
    folder: Path
    prompts: Sequence[Prompt]
    load_task: Callable[[], Task]
    task_settings: object


def open_judge(court: Court) -> AbstractContextManager[Decide]:
    """The judge that the table names, with whatever it has to start and stop."""
    return JUDGES[court.table.kind](court)


@contextlib.contextmanager
def gold_directly(court: Court) -> Iterator[Decide]:
    """The world's gold, compared directly."""
    task = court.load_task()

    def decide(questions: Sequence[Question], what: str) -> list[Verdict]:
        del what  # nothing here takes long enough for a bar
        verdicts = []
        for question in questions:
            first = task.grade(question.pair.prompt, question.first.completion).gold
            second = task.grade(question.pair.prompt, question.second.completion).gold
            if first is None or second is None:
                verdicts.append(verdict_of(question, None, "no_gold"))
            else:
                verdicts.append(verdict_of(question, by_margin(first, second, court.table.margin), "ok"))
        return verdicts

    yield decide


@contextlib.contextmanager
def model_over_http(court: Court) -> Iterator[Decide]:
    """A model behind an OpenAI-compatible endpoint."""
    table = court.table
    key = table.api_key()
    with ReplyStore(court.folder / STORE_FILE) as store:
        yield _asking(table, _endpoint(table, table.base_url, key), table.model, table.base_url, store)


@contextlib.contextmanager
def gold_over_http(court: Court) -> Iterator[Decide]:
    """The world's gold behind a local endpoint, asked exactly as `openai` asks."""
    table = court.table
    # The address differs from run to run; what decides this judge's replies is the task and the margin.
    judged_by = f"gold of {sha256_of_record([court.task_settings, table.margin])}"
    judge = GoldJudge(court.load_task(), court.prompts, table.margin)
    with ReplyStore(court.folder / STORE_FILE) as store, serve_gold(judge, table.prompt) as local:
        yield _asking(table, _endpoint(table, local.base_url, local.api_key), GOLD_MODEL, judged_by, store)


def chat_request(question: Question, table: JudgeTable, model: str, judged_by: str) -> ChatRequest:
    """The request for one question."""
    prompt = render(load_prompt(table.prompt), shown_texts(question))
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": table.max_tokens,
    }
    if table.temperature is not None:
        body["temperature"] = table.temperature
    if table.structured:
        body["response_format"] = VERDICT_SCHEMA
    return ChatRequest(judged_by, body)


def read_outcome(question: Question, request: ChatRequest, outcome: Reply | Failure, table: JudgeTable) -> Verdict:
    """The verdict in a reply, or why there is none.

    A reply that was cut has no verdict even where its text so far names one, because the last one offered counts.
    """
    if isinstance(outcome, Failure):
        return verdict_of(
            question, None, "error" if outcome.passing else "rejected", request=request.key, error=outcome.error
        )
    verdict = read_verdict(outcome.content, table.prompt)
    status: VerdictStatus = "ok"
    if outcome.refusal or outcome.finish_reason == "content_filter":
        status = "refused"
    elif outcome.finish_reason == "length":
        status = "truncated"
    elif verdict is None:
        status = "refused" if is_refusal(outcome.content) else "unreadable"
    return verdict_of(
        question,
        verdict if status == "ok" else None,
        status,
        raw=outcome.refusal or outcome.content,
        model=outcome.model,
        usage=outcome.usage,
        request=request.key,
    )


def verdict_of(
    question: Question,
    verdict: Shown | None,
    status: VerdictStatus,
    *,
    raw: str | None = None,
    model: str | None = None,
    usage: dict[str, int] | None = None,
    request: str | None = None,
    error: str | None = None,
) -> Verdict:
    """The record of one question's verdict."""
    answer = question.pair.a
    return Verdict(
        question.pair.pair_id,
        answer.prompt_id,
        answer.sample,
        question.order,
        verdict,
        mapped(verdict, question.order),
        status,
        raw=raw,
        model=model,
        usage=usage,
        request=request,
        error=error,
    )


def _asking(table: JudgeTable, endpoint: Endpoint, model: str, judged_by: str, store: ReplyStore) -> Decide:
    def decide(questions: Sequence[Question], what: str) -> list[Verdict]:
        requests = [chat_request(question, table, model, judged_by) for question in questions]
        outcomes = ask_all(requests, endpoint, store, what)
        return [
            read_outcome(question, request, outcome, table)
            for question, request, outcome in zip(questions, requests, outcomes, strict=True)
        ]

    return decide


def _endpoint(table: JudgeTable, base_url: str, key: str) -> Endpoint:
    return Endpoint(
        base_url,
        key,
        concurrency=table.concurrency,
        requests_per_minute=table.requests_per_minute,
        timeout_s=table.timeout_s,
        max_retries=table.max_retries,
    )


JUDGES: dict[JudgeKind, Callable[[Court], AbstractContextManager[Decide]]] = {
    "gold": gold_directly,
    "openai": model_over_http,
    "gold_endpoint": gold_over_http,
}
