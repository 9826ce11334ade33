"""What an endpoint sends back, taken apart: a reply that can be kept, or why there is none."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from judge.asking.store import Reply

SHORTEST_SECRET = 8
ERROR_LENGTH = 300


@dataclass(frozen=True)
class Failure:
    """Why a request has no reply, in one line. `passing` failures are worth another run."""

    error: str
    passing: bool


class PassingFailure(Exception):
    """A failure that may pass, and after how many seconds the endpoint wants to be asked again."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class LastingFailure(Exception):
    """A failure of this one request that asking again, at least in this run, will not mend."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


def read_reply(completion: Any) -> Reply:
    """A chat completion, as parsed from JSON, as a record.

    Raises:
        PassingFailure: it is not a chat completion (an error page, no choices, content that is no text).
    """
    try:
        choice = completion["choices"][0]
        message = choice["message"]
        content, refusal, finish_reason = message.get("content"), message.get("refusal"), choice.get("finish_reason")
        usage = completion.get("usage") or {}
        tokens = {
            name: int(usage[name]) for name in ("prompt_tokens", "completion_tokens") if usage.get(name) is not None
        }
        model, fingerprint = completion.get("model"), completion.get("system_fingerprint")
    except (ValueError, TypeError, LookupError, AttributeError):
        raise PassingFailure("the reply is no chat completion") from None
    if not all(isinstance(text, (str, type(None))) for text in (content, refusal, finish_reason, model, fingerprint)):
        raise PassingFailure("the reply is no chat completion of text")
    if content is None and not refusal and finish_reason not in ("length", "content_filter"):
        raise PassingFailure("the reply has no content")
    return Reply(
        _storable(content) or "",
        _storable(refusal),
        finish_reason,
        _storable(model),
        _storable(fingerprint),
        tokens or None,
    )


def without_key(reply: Reply, key: str) -> Reply:
    """The reply without the key, which an endpoint that echoes the request's headers puts into its words.

    A key shorter than `SHORTEST_SECRET` is a placeholder for an endpoint that wants none, and may be part of a word.
    """
    if len(key) < SHORTEST_SECRET:
        return reply
    clean: dict[str, Any] = {
        name: value.replace(key, "[key]") if isinstance(value, str) else value for name, value in asdict(reply).items()
    }
    return Reply(**clean)


def said_in_error(content: bytes) -> tuple[str, str | None]:
    """What an endpoint says with a status that is no 200: its message and its code, or the text as it is."""
    try:
        error = json.loads(content)["error"]
        message, code = error["message"], error.get("code")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return content[:ERROR_LENGTH].decode("utf-8", "replace") or "no message", None
    return str(message), code if isinstance(code, str) else None


def one_line(text: str, key: str) -> str:
    """One short line without the key, which some endpoints repeat in their errors."""
    line = " ".join(text.split())
    if len(key) >= SHORTEST_SECRET:
        line = line.replace(key, "[key]")
    return line if len(line) <= ERROR_LENGTH else f"{line[:ERROR_LENGTH]}…"


def _storable(text: str | None) -> str | None:
    """The text without lone surrogates, which JSON can carry and UTF-8 cannot."""
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
