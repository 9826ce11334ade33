"""The endpoints of the reward-model server (rm.serving.server): a body in, checked; rows to the batcher; JSON out."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from configs.errors import UserError
from configs.terminal import say
from rm.answer_form import FIELD
from rm.rung_digest import rung_digest
from rm.serving.chat_form import ChatForm
from rm.serving.conversations import Answer, demand_text, read_answers
from rm.serving.file_rewards import Calibrate
from rm.serving.gate import Gate, Refused
from rm.serving.microbatch import MicroBatcher, QueueFull
from rm.serving.rewarding import Asked, Rewarding
from tasks.base_folder import describe_template
from tasks.preference.fields import RowProblem
from tasks.records import Message

if TYPE_CHECKING:
    from rm.serving.loaded_rungs import LoadedRung
    from rm.serving.server import ServeTable

READ_AND_FORGET = 8
"""A body of up to this many times the limit is read to its end, so that the client can read why it was refused."""


class Endpoints:
    """The endpoints around one rung."""

    def __init__(
        self,
        rung: LoadedRung,
        limits: ServeTable,
        policy_tokenizer: Any,
        calibrate: Calibrate | None,
        api_key: str | None,
        version: str | None,
        rewarding: Rewarding | None = None,
    ) -> None:
        self.rung = rung
        self.limits = limits
        self.form = ChatForm.of(policy_tokenizer)
        self.calibrate = calibrate
        self.rewarding = rewarding
        self.version = version
        self.max_length = limits.max_length or rung.context
        self.gate = Gate(limits.max_requests, limits.max_bodies)
        self.batcher = MicroBatcher(rung.logits, limits.batch_tokens, limits.wait_ms / 1000, limits.max_queue_tokens)
        self.template = describe_template(rung.scorer.tokenizer)
        self._key = None if api_key is None else f"Bearer {api_key}".encode()
        # Tokenizers are not safe to call from several threads, and a long text must not hold up the event loop.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encoding")

    def application(self) -> Starlette:
        """The ASGI application."""
        app = Starlette(
            routes=[
                Route("/score", self.score, methods=["POST"]),
                Route("/get_reward", self.get_reward, methods=["POST"]),
                Route("/calibration", self.calibration, methods=["GET"]),
                Route("/health", self.health, methods=["GET"]),
            ],
            exception_handlers={Refused: self._refuse, HTTPException: self._refuse_http, Exception: _fail},
        )
        app.router.redirect_slashes = False
        app.state.gate, app.state.batcher = self.gate, self.batcher
        return app

    async def score(self, request: Request) -> Response:
        """The plain protocol."""
        logits, rewards = await self._answer(request, self._read_conversations)
        return _json(
            {
                "rung": self.rung.name,
                "logits": logits,
                "scores": [self.rung.units.score(logit) for logit in logits],
                "rewards": rewards,
                "units": asdict(self.rung.units),
            }
        )

    async def get_reward(self, request: Request) -> Response:
        """OpenRLHF's protocol: the reward is the calibrated one, or the score where nothing calibrates."""
        if self.rewarding is not None:
            found = await self._rewarded(request, self.rewarding)
            return _json(
                {
                    "rewards": [one["score"] for one in found],
                    "scores": [one.get("rung_score", one["score"]) for one in found],
                    "extra_logs": {name: [one[name] for one in found] for name in found[0] if name != "score"},
                }
            )
        logits, rewards = await self._answer(request, self._read_queries)
        scores = [self.rung.units.score(logit) for logit in logits]
        return _json({"rewards": rewards or scores, "scores": scores, "extra_logs": {"logit": logits}})

    async def calibration(self, request: Request) -> Response:
        """What is served and how it is calibrated, for adapters that compute rewards from the logits themselves."""
        self._demand_key(request)
        loop = asyncio.get_running_loop()
        record = {
            "rung": self.rung.name,
            "rung_sha256": await loop.run_in_executor(self._encoder, rung_digest, self.rung.folder),
            FIELD: self.rung.form.template,
        }
        return _json({**record, **(self.rewarding.description if self.rewarding else {"calibrator": None})})

    async def health(self, _: Request) -> Response:
        """Whether requests are taken, and what answers them."""
        ok = not self.gate.draining
        record = {
            "ok": ok,
            "status": "ok" if ok else "draining",
            "rung": self.rung.name,
            "accuracy": self.rung.card.get("accuracy"),
            **self.template,
            "calibrated": self.calibrate is not None,
            "max_length": self.max_length,
            "queue": self.batcher.waiting,
            "requests": self.gate.inside,
            "version": self.version,
        }
        return _json(record, 200 if ok else 503)

    async def _answer(
        self, request: Request, read: Callable[[Any], list[Answer]]
    ) -> tuple[list[float], list[float] | None]:
        self._demand_key(request)
        body = await self._body(request)
        with self.gate.entered():
            loop = asyncio.get_running_loop()
            answers, rows = await loop.run_in_executor(self._encoder, self._prepare, body, read)
            logits = await self._logits(rows)
            rewards = None
            if self.calibrate is not None:
                texts = [answer.text for answer in answers]
                rewards = list(await loop.run_in_executor(self._encoder, self.calibrate, logits, texts))
                if len(rewards) != len(logits) or not all(map(math.isfinite, rewards)):
                    raise Refused(500, "not_finite", f"the calibration of rung {self.rung.name} gave no number")
            self.gate.answered += 1
            return logits, rewards

    async def _rewarded(self, request: Request, rewarding: Rewarding) -> list[dict[str, float]]:
        self._demand_key(request)
        body = await self._body(request)
        with self.gate.entered():
            loop = asyncio.get_running_loop()
            asked, rows = await loop.run_in_executor(self._encoder, self._prepare_asked, body, rewarding)
            scored = iter(await self._logits([row for row in rows if row is not None]))
            logits = [None if row is None else next(scored) for row in rows]
            try:
                found = await loop.run_in_executor(self._encoder, rewarding.rewards, asked, logits)
            except UserError as error:
                raise Refused(422, "no_reward", str(error)) from None
            self.gate.answered += 1
            return found

    async def _logits(self, rows: list[Sequence[int]]) -> list[float]:
        if not rows:
            return []
        try:
            logits = await asyncio.wrap_future(self.batcher.submit(rows))
        except QueueFull:
            raise Refused(503, "busy", "the queue of the model is full; try again") from None
        if not all(map(math.isfinite, logits)):
            raise Refused(500, "not_finite", f"rung {self.rung.name} gave a logit that is no number")
        return logits

    def _demand_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")
        if self._key is not None and not secrets.compare_digest(given, self._key):
            raise Refused(401, "wrong_key", "send the key as Authorization: Bearer …")

    async def _body(self, request: Request) -> bytes:
        most = self.limits.max_body_bytes
        too_large = Refused(413, "body_too_large", f"a body may have {most:,} bytes; send fewer conversations at once")
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > READ_AND_FORGET * most:
            raise too_large
        pieces, size = [], 0
        try:
            async with self.gate.received(self.limits.body_timeout_s):
                async for piece in request.stream():
                    size += len(piece)
                    if size > READ_AND_FORGET * most:
                        raise too_large
                    if size <= most:
                        pieces.append(piece)
        except ClientDisconnect:
            raise Refused(400, "disconnected", "the client left before its body was whole") from None
        if size > most:
            raise too_large
        return b"".join(pieces)

    def _prepare(self, body: bytes, read: Callable[[Any], list[Answer]]) -> tuple[list[Answer], list[Sequence[int]]]:
        """Read, check and tokenise a body; runs in the thread of the tokenizer."""
        record = _record_of(body)
        answers, as_is = read(record), record.get("as_is", False)
        if not isinstance(as_is, bool):
            raise Refused(422, "wrong_type", f"as_is must be true or false, found {_kind(as_is)}")
        rows = [self._row(number, answer.chat, answer.text, as_is) for number, answer in enumerate(answers)]
        self._demand_room(rows)
        return answers, rows

    def _prepare_asked(self, body: bytes, rewarding: Rewarding) -> tuple[list[Asked], list[Sequence[int] | None]]:
        """Read, check and tokenise OpenRLHF's body for a policy's reward: no row where the rung has nothing to read."""
        try:
            asked = self._read_asked(_record_of(body), rewarding)
            shown = [rewarding.shown(one) for one in asked]
        except UserError as error:
            raise Refused(422, "wrong_label", str(error)) from None
        rows = [None if text is None else self._row(i, chat, text, True) for i, (chat, text) in enumerate(shown)]
        self._demand_room([row for row in rows if row is not None])
        return asked, rows

    def _row(self, number: int, chat: Sequence[Message], text: str, as_is: bool) -> Sequence[int]:
        try:
            if self.rung.surely_longer(chat, text, self.max_length):
                raise Refused(
                    422, "too_long", f"conversation {number}: more text than {self.max_length} tokens can hold"
                )
            row = self.rung.encode(chat, text, as_is)
        except (ValueError, UserError) as error:
            raise Refused(422, "wrong_chat", f"conversation {number}: {error}") from None
        if len(row) > self.max_length:
            detail = f"conversation {number}: {len(row)} tokens, at most {self.max_length} are read"
            raise Refused(422, "too_long", detail)
        return row

    def _demand_room(self, rows: Sequence[Sequence[int]]) -> None:
        tokens = sum(map(len, rows))
        if tokens > self.limits.max_queue_tokens:
            most = self.limits.max_queue_tokens
            raise Refused(413, "too_many_tokens", f"{tokens} tokens, at most {most} may wait; send fewer conversations")

    def _read_conversations(self, record: dict[str, Any]) -> list[Answer]:
        answers: list[Answer] = []
        for number, row in enumerate(self._list(record, "conversations")):
            if not isinstance(row, dict):
                raise Refused(422, "wrong_type", f"conversation {number}: an object is needed, found {_kind(row)}")
            try:
                read = read_answers(row)
            except RowProblem as problem:
                raise Refused(422, problem.reason, f"conversation {number}: {problem.detail}") from None
            if len(read) != 1:
                raise Refused(422, "two_answers", f"conversation {number}: a pair; send each answer by itself")
            answers += read
        return answers

    def _read_queries(self, record: dict[str, Any]) -> list[Answer]:
        """Labels are not read: a reward model knows no labels."""
        return [Answer(asked.chat, asked.text) for asked in self._read_asked(record, None)]

    def _read_asked(self, record: dict[str, Any], rewarding: Rewarding | None) -> list[Asked]:
        """The chats are those that labels carry, or those of the prompts."""
        queries, prompts = self._list(record, "query"), self._list(record, "prompts")
        if len(queries) != len(prompts):
            raise Refused(422, "lengths_differ", f"{len(queries)} query and {len(prompts)} prompts; each needs its own")
        labels = None if rewarding is None else record.get("labels")
        labels = [None] * len(queries) if labels is None else labels
        if not isinstance(labels, list) or len(labels) != len(queries):
            raise Refused(422, "lengths_differ", f"labels must be a list of {len(queries)}, one for each query")
        found: list[Asked] = []
        for number, (query, prompt, label) in enumerate(zip(queries, prompts, labels, strict=True)):
            place = f"prompts[{number}]"
            try:
                chat = None if rewarding is None else rewarding.chat_of(label)
                chat = self.form.turns_of(demand_text(prompt, place)) if chat is None else chat
                place = f"query[{number}]"
                text = self.form.answer_of(demand_text(query, place), demand_text(prompt, f"prompts[{number}]"))
                found.append(Asked(chat, text if rewarding is None else self.form.without_specials(text), label))
            except RowProblem as problem:
                where = "" if problem.detail.startswith(place) else f"{place}: "
                raise Refused(422, problem.reason, f"{where}{problem.detail}") from None
        return found

    def _list(self, record: dict[str, Any], key: str) -> list[Any]:
        if not isinstance(record.get(key), list) or not record[key]:
            found = "nothing" if key not in record else "an empty list" if record[key] == [] else _kind(record[key])
            raise Refused(422, "wrong_type", f"{key} must be a list that is not empty, found {found}")
        if len(record[key]) > self.limits.max_conversations:
            most = self.limits.max_conversations
            raise Refused(413, "too_many", f"{len(record[key])} {key}, at most {most} in a request")
        return list(record[key])

    async def _refuse(self, _: Request, refused: Exception) -> Response:
        assert isinstance(refused, Refused)
        self.gate.refused += 1
        headers = {"Retry-After": "1"} if refused.status == 503 else {}
        if refused.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.gate.draining or refused.code in ("body_too_large", "too_slow"):
            headers["Connection"] = "close"
        return _json({"error": {"code": refused.code, "message": refused.message}}, refused.status, headers)

    async def _refuse_http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        self.gate.refused += 1
        messages = {
            404: "there are POST /score, POST /get_reward, GET /calibration and GET /health",
            405: f"this address takes {(error.headers or {}).get('Allow', 'another method')}",
        }
        code = {404: "unknown_path", 405: "wrong_method"}.get(error.status_code, "refused")
        message = messages.get(error.status_code, str(error.detail))
        return _json({"error": {"code": code, "message": message}}, error.status_code, dict(error.headers or {}))


async def _fail(_: Request, error: Exception) -> Response:
    """What nobody foresaw; the server logs the traceback, the client gets one line."""
    say(f"a request failed: {type(error).__name__}")
    return _json({"error": {"code": "failed", "message": "the rung could not score this; see the server's log"}}, 500)


def _record_of(body: bytes) -> dict[str, Any]:
    try:
        record = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "bad_json", f"the body is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise Refused(422, "wrong_type", f"the body must be an object, found {type(record).__name__}")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), type(value).__name__)


def _json(record: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(record, allow_nan=False), status, headers, media_type="application/json")
