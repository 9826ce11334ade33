"""Questions become requests, replies become verdicts: what every judge behind an endpoint has in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from configs.errors import UserError
from configs.terminal import say
from judge.answers import Question, verdict_of
from judge.asking.budget import dollars, preview
from judge.asking.endpoint import Endpoint, ask_all, ask_one
from judge.asking.replies import Failure
from judge.asking.store import ChatRequest, Reply, ReplyStore
from judge.config import JudgeTable, NothingAsked
from judge.original_prompt import is_published, render_original
from judge.prompting import load_prompt, render, shown_texts
from judge.verdicts import LEVELS, Verdict, VerdictStatus, is_refusal, majority, mapped, read_strength, read_verdict

NAMES_OF_SCHEMAS = ("response_format", "json_schema", "json schema", "structured", "guided")
"""Words by which endpoints refuse a JSON schema."""


class Asking:
    """A judge behind an endpoint.

    Args:
        table: the judge's settings.
        endpoint: where to ask.
        judged_by: what names the judge in the keys of the store.
        store: the replies so far.
        announced: whether what is asked and spent is shown, as it is where it costs.
    """

    def __init__(
        self, table: JudgeTable, endpoint: Endpoint, judged_by: str, store: ReplyStore, announced: bool
    ) -> None:
        self.table, self.endpoint, self.judged_by, self.store = table, endpoint, judged_by, store
        self.announced = announced
        if table.prompt == "original" and not is_published(load_prompt(table.prompt, table.prompt_file)):
            say(f"judge: {table.prompt_file} is not the prompt that was published; results with it are of its own kind")
        self.with_schema = table.asks_for_json
        self.schema_is_settled = table.structured is not None or not self.with_schema or table.batch

    def decide(self, questions: Sequence[Question], what: str) -> list[Verdict]:
        """One verdict a question, in their order."""
        if self.announced:
            self._announce(self._requests(questions))
        self._settle_schema(questions)
        requests = self._requests(questions)
        outcomes = ask_all(requests, self.endpoint, self.store, what)
        n = self.table.repeats
        verdicts = []
        for i, question in enumerate(questions):
            asked = zip(requests[i * n : (i + 1) * n], outcomes[i * n : (i + 1) * n], strict=True)
            verdicts.append(of_repeats([read_outcome(question, *one, self.table) for one in asked]))
        return verdicts

    def _requests(self, questions: Sequence[Question]) -> list[ChatRequest]:
        return [
            chat_request(question, self.table, self.endpoint.model, self.judged_by, self.with_schema, repeat)
            for question in questions
            for repeat in range(self.table.repeats)
        ]

    def _announce(self, requests: Sequence[ChatRequest]) -> None:
        """Say what is about to be asked and what it costs, before the first request.

        Raises:
            UserError: it costs more than the cap, or a cap is set without a price.
            NothingAsked: nothing is to be asked.
        """
        table, endpoint = self.table, self.endpoint
        unique = {request.key: request for request in requests}
        missing = [request for key, request in unique.items() if self._missing(key, request)]
        if not missing:
            return
        spent = endpoint.spent(self.store)
        ahead = preview((r.body for r in missing), len(unique) - len(missing), endpoint.price, spent)
        say(ahead.line(table.model, table.max_cost))
        if table.max_cost is not None and (endpoint.price is None or ahead.least is None or ahead.spent is None):
            raise UserError(
                f"judge: judge.max_cost needs a price, and that of {table.model} at {table.base_url} is not known; set "
                "judge.price to dollars per million tokens, for example judge.price='{input: 2.5, output: 10}'"
            )
        least, before = ahead.least or 0.0, sum(ahead.spent or ())
        if table.max_cost is not None and least + before > table.max_cost:
            raise UserError(
                f"judge: the prompts alone cost about {dollars(least)}, after {dollars(before)} spent before; "
                f"judge.max_cost is {dollars(table.max_cost)}, so nothing was asked"
            )
        if not table.ask:
            raise NothingAsked("judge: nothing was asked, as judge.ask=false says; leave it out to ask")

    def _missing(self, key: str, request: ChatRequest) -> bool:
        return self.store.get(key) is None and (self.schema_is_settled or self.store.get(plain(request).key) is None)

    def _settle_schema(self, questions: Sequence[Question]) -> None:
        """Find out with one request whether the endpoint takes a JSON schema, where the table leaves that open."""
        if self.schema_is_settled:
            return
        unanswered = next((r for r in self._requests(questions) if self.store.get(r.key) is None), None)
        if unanswered is None:
            return
        if self.store.get(plain(unanswered).key) is not None:
            self.with_schema = False
        else:
            outcome = ask_one(unanswered, self.endpoint, self.store)
            if isinstance(outcome, Failure) and refuses_schema(outcome):
                self.with_schema = False
                say("judge: the endpoint takes no JSON schema; verdicts are read from its words alone")
            elif isinstance(outcome, Failure):
                return  # about something else; the next question may tell
        self.schema_is_settled = True


def chat_request(
    question: Question,
    table: JudgeTable,
    model: str,
    judged_by: str,
    with_schema: bool | None = None,
    repeat: int = 0,
) -> ChatRequest:
    """The request for one question; with a JSON schema as the table says, where `with_schema` does not."""
    template, texts = load_prompt(table.prompt, table.prompt_file), shown_texts(question)
    prompt = render_original(template, *texts) if table.prompt == "original" else render(template, texts)
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        table.max_tokens_field: table.max_tokens,
    }
    if table.temperature is not None:
        body["temperature"] = table.temperature
    if table.asks_for_json if with_schema is None else with_schema:
        body["response_format"] = verdict_schema(LEVELS[table.prompt])
    return ChatRequest(judged_by, body, repeat)


def plain(request: ChatRequest) -> ChatRequest:
    """The same request without a JSON schema."""
    body = {name: value for name, value in request.body.items() if name != "response_format"}
    return replace(request, body=body)


def refuses_schema(failure: Failure) -> bool:
    """Whether an endpoint refused a request for its JSON schema."""
    return not failure.passing and any(name in failure.error.lower() for name in NAMES_OF_SCHEMAS)


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
    strength = read_strength(outcome.content, table.prompt) if status == "ok" else None
    sign = -1 if mapped(verdict, question.order) == "b" else 1
    return verdict_of(
        question,
        verdict if status == "ok" else None,
        status,
        raw=outcome.refusal or outcome.content,
        model=outcome.model,
        usage=outcome.usage,
        request=request.key,
        level=None if strength is None else float(sign * strength),
    )


def of_repeats(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several on the same question: the majority of those that have one, and the mean of their levels.

    The words kept are those of the first that says so. An order with a failure that may pass is asked again as a whole.
    """
    if len(verdicts) == 1:
        return verdicts[0]
    winners = [verdict.winner for verdict in verdicts]
    failed = next((verdict for verdict in verdicts if verdict.status == "error"), None)
    winner = None if failed else majority(winners)
    levels = [verdict.level for verdict in verdicts if verdict.level is not None]
    kept = failed or next((verdict for verdict in verdicts if verdict.winner == winner), None)
    if kept is None:  # a tie of those who named different winners
        kept = replace(next(v for v in verdicts if v.winner), verdict="tie", winner="tie")
    usage: Counter[str] = Counter()
    for verdict in verdicts:
        usage.update(verdict.usage or {})
    level = sum(levels) / len(levels) if levels and winner is not None else None
    return replace(kept, repeats=winners, level=level, usage=dict(usage) or None)


def verdict_schema(levels: Sequence[str]) -> dict[str, Any]:
    """What OpenAI calls structured output: a reason and one of the verdicts, in this order."""
    return {
        "type": "json_schema",
        "json_schema": {
            "name": "verdict",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {
                    "reason": {"type": "string"},
                    "verdict": {"type": "string", "enum": list(levels)},
                },
                "required": ["reason", "verdict"],
                "additionalProperties": False,
            },
        },
    }
