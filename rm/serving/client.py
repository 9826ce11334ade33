"""A rung that is served elsewhere (`rewardladder serve`), asked as if it were here.

A batch goes out in requests of bounded size, one after another; a busy or restarting server is asked again for
`patience_s` seconds. An answer is taken only from the rung that the caller means: name and score units must agree.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from rm.units import ScoreUnits
from tasks.records import Message

REQUEST_CHARACTERS = 1 << 20
REQUEST_CONVERSATIONS = 256
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class ServedRung:
    """Gives the logits of a served rung; the counterpart of `rm.scorer.RungScorer`.

    Args:
        address: of the server, for example `http://127.0.0.1:8000`.
        rung: the name that the server has to answer for.
        units: the score units that it has to use; None takes any.
        api_key_env: name of the environment variable with the server's key.
        timeout_s: how long one request may take.
        patience_s: how long a server that is away or busy is asked again.

    Raises:
        UserError: the variable with the key is not set.
    """

    def __init__(
        self,
        address: str,
        rung: str,
        units: ScoreUnits | None = None,
        api_key_env: str | None = None,
        timeout_s: float = 300.0,
        patience_s: float = 120.0,
    ) -> None:
        self.address, self.rung, self.units = address.rstrip("/"), rung, units
        self.timeout_s, self.patience_s = timeout_s, patience_s
        self._headers = {"Content-Type": "application/json"}
        if api_key_env is not None:
            if not os.environ.get(api_key_env):
                raise UserError(f"the key of {self.address}: the environment variable {api_key_env} is not set")
            self._headers["Authorization"] = f"Bearer {os.environ[api_key_env]}"

    def logits(self, chats: Sequence[Sequence[Message]], answers: Sequence[str]) -> NDArray[np.float64]:
        """Raw logits of answers to chats, shape (N,).

        Raises:
            UserError: the server cannot be reached, refuses, or is another rung.
        """
        found: list[float] = []
        for conversations in _requests(chats, answers):
            record = self._ask("score", {"conversations": conversations, "as_is": True})
            logits = record.get("logits")
            if not isinstance(logits, list) or len(logits) != len(conversations):
                raise UserError(f"{self.address}: {len(conversations)} answers were sent and not as many logits came")
            self._demand_rung(record)
            found += map(float, logits)
        return np.array(found, dtype=np.float64)

    def description(self) -> dict[str, Any]:
        """What the server says of its rung: name, digest, calibrator, task (GET /calibration).

        Raises:
            UserError: the server cannot be reached or refuses.
        """
        return self._ask("calibration")

    def _demand_rung(self, record: dict[str, Any]) -> None:
        if record.get("rung") != self.rung:
            raise UserError(f"{self.address}: serves rung {record.get('rung')!r}, and {self.rung!r} is wanted")
        if self.units is None:
            return
        try:
            units = ScoreUnits(**record["units"])
        except (KeyError, TypeError, UserError):
            units = None
        if units != self.units:
            raise UserError(
                f"{self.address}: the served rung {self.rung} has other score units than the one of this run; "
                "serve this run's rung"
            )

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        pause, started = FIRST_PAUSE_S, time.monotonic()
        while True:
            try:
                request = urllib.request.Request(f"{self.address}/{path}", data, self._headers)  # noqa: S310
                with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:  # noqa: S310
                    record = json.loads(answer.read())
                if not isinstance(record, dict):
                    raise UserError(f"{self.address}: the answer is no object; is a RewardLadder server there?")
                return record
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise UserError(f"{self.address}: refused with {error.code}: {_reason(error)}") from None
                problem = f"{error.code}: {_reason(error)}"
            except (OSError, ValueError) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            if time.monotonic() - started + pause > self.patience_s:
                raise UserError(
                    f"{self.address}: no answer within {self.patience_s:.0f} s ({problem}); is `rewardladder serve` "
                    "running there?"
                )
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _requests(chats: Sequence[Sequence[Message]], answers: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Conversations in pieces of bounded size, in order."""
    piece: list[dict[str, Any]] = []
    size = 0
    for chat, answer in zip(chats, answers, strict=True):
        characters = len(answer) + sum(len(turn["content"]) for turn in chat)
        if piece and (size + characters > REQUEST_CHARACTERS or len(piece) == REQUEST_CONVERSATIONS):
            yield piece
            piece, size = [], 0
        piece.append({"messages": [*chat, {"role": "assistant", "content": answer}]})
        size += characters
    if piece:
        yield piece


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)
