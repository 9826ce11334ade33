"""The judges there are. A judge decides questions that no rule has settled; one function and one row each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.records import sha256_of_record
from judge.answers import Question
from judge.answers import verdict_of as verdict_of
from judge.asking.budget import price_of
from judge.asking.endpoint import Endpoint
from judge.asking.gold_endpoint import GoldJudge, by_margin, serve_gold
from judge.asking.questions import Asking
from judge.asking.store import STORE_FILE, ReplyStore
from judge.config import GOLD_MODEL, NO_KEY, JudgeKind, JudgeTable
from judge.people.ratings import PEOPLE_FOLDER, RatedPairs
from judge.verdicts import Verdict
from tasks.records import Prompt, Task

Decide = Callable[[Sequence[Question], str], list[Verdict]]
"""Decide questions; the text names them on the progress bar. One verdict a question, in their order."""


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
    key = table.api_key() if table.ask else NO_KEY
    with ReplyStore(court.folder / STORE_FILE) as store:
        endpoint = Endpoint(
            table.base_url,
            key,
            concurrency=table.concurrency,
            requests_per_minute=table.requests_per_minute,
            timeout_s=table.timeout_s,
            max_retries=table.max_retries,
            tokens_per_minute=table.tokens_per_minute,
            price=price_of(table),
            max_cost=table.max_cost,
            batch=table.batch,
            poll_s=table.poll_s,
            model=table.model,
            other_price=price_of(table.model_copy(update={"batch": not table.batch})),
        )
        yield Asking(table, endpoint, table.base_url, store, announced=True).decide


@contextlib.contextmanager
def gold_over_http(court: Court) -> Iterator[Decide]:
    """The world's gold behind a local endpoint, asked exactly as `openai` asks."""
    table = court.table
    # The address differs from run to run; what decides this judge's replies is the task and the margin.
    judged_by = f"gold of {sha256_of_record([court.task_settings, table.margin])}"
    judge = GoldJudge(court.load_task(), court.prompts, table.margin)
    with ReplyStore(court.folder / STORE_FILE) as store, serve_gold(judge, table.prompt) as local:
        endpoint = Endpoint(
            local.base_url,
            local.api_key,
            concurrency=table.concurrency,
            timeout_s=table.timeout_s,
            max_retries=table.max_retries,
            model=GOLD_MODEL,
        )
        yield Asking(table, endpoint, judged_by, store, announced=False).decide


@contextlib.contextmanager
def rung_scores(court: Court) -> Iterator[Decide]:
    """A reward model's scores, compared; it reads the conversation and each answer by itself, so order is nothing."""
    from judge.rung_judge import RungJudge  # needs torch, which no other judge does

    if court.table.rung is None:
        raise UserError("judge.rung: name the folder of the reward model that judges")
    yield RungJudge(Path(court.table.rung).expanduser(), court.table.margin).decide


@contextlib.contextmanager
def people(court: Court) -> Iterator[Decide]:
    """People who rated the pairs blind, in a spreadsheet or on the local page."""
    yield RatedPairs(court.folder / PEOPLE_FOLDER, court.table.min_raters).decide


JUDGES: dict[JudgeKind, Callable[[Court], AbstractContextManager[Decide]]] = {
    "gold": gold_directly,
    "openai": model_over_http,
    "gold_endpoint": gold_over_http,
    "rung": rung_scores,
    "people": people,
}
