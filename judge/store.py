"""Replies on disk, so that nothing is asked or paid twice.

One SQLite file, append-only: a row is the hash of everything that determines a reply, the request and the reply.
SQLite rather than JSON Lines, because several processes may share it at once: in WAL mode an insert is atomic, readers
never wait, and a process that is killed loses nothing that was committed. The file must lie on a local disk, for WAL
needs shared memory. Its lines are readable: `sqlite3 replies.sqlite "select reply from replies"`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from configs.errors import UserError
from configs.records import canonical_json, sha256_of_record
from configs.runfolder import locked

STORE_FILE = "replies.sqlite"
BUSY_TIMEOUT_S = 60.0
CLAIM_S = 600.0
"""A claim ends with its process; one whose process number was given to another ends after so many seconds."""


@dataclass(frozen=True)
class ChatRequest:
    """One request.

    Attributes:
        judged_by: who answers: the endpoint's address, or what decides the answers of a program behind one.
        body: the chat request (model, messages, parameters).
    """

    judged_by: str
    body: dict[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        """What is hashed and stored."""
        return {"judged_by": self.judged_by, "body": self.body}

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that determines the reply."""
        return sha256_of_record(self.record)


@dataclass(frozen=True)
class Reply:
    """What came back, as far as a verdict, an audit or a bill needs it."""

    content: str
    refusal: str | None
    finish_reason: str | None
    model: str | None
    fingerprint: str | None
    usage: dict[str, int] | None


class ReplyStore:
    """The replies of one run; open it in each process and thread that needs it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with locked(path.parent):  # the change to WAL fails, rather than waits, where another process makes it too
                self._database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=NORMAL")
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS replies "
                    "(key TEXT PRIMARY KEY, request TEXT NOT NULL, reply TEXT NOT NULL)"
                )
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS claims "
                    "(key TEXT PRIMARY KEY, pid INTEGER NOT NULL, until REAL NOT NULL)"
                )
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None

    def get(self, key: str) -> Reply | None:
        """The stored reply, or None where nothing was ever answered.

        Raises:
            UserError: the file is damaged; so do all other methods.
        """
        row = self._one("SELECT reply FROM replies WHERE key = ?", (key,))
        if row is None:
            return None
        try:
            return _as_reply(json.loads(row[0]))
        except (TypeError, ValueError, RecursionError):
            raise self._damaged(f"the reply of {key[:12]} is no reply") from None

    def put(self, key: str, request: ChatRequest, reply: Reply) -> Reply:
        """Keep a reply and return the one that counts: the first that any process stored."""
        record = (key, canonical_json(request.record), canonical_json(asdict(reply)))
        self._execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", record)
        return self.get(key) or reply

    def claim(self, key: str) -> bool:
        """Reserve a request for this process; False while another one that is alive is asking it.

        Two processes that judge the same pairs at once would otherwise pay for each of them twice.
        """
        now, mine = time.time(), os.getpid()
        row = self._one("SELECT pid FROM claims WHERE key = ?", (key,))
        if row is not None and not isinstance(row[0], int):
            raise self._damaged(f"the claim of {key[:12]} names no process")
        free_of = row[0] if row is not None and not _alive(row[0]) else mine
        claimed = self._execute(
            "INSERT INTO claims VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET pid = excluded.pid, "
            "until = excluded.until WHERE claims.until < ? OR claims.pid IN (?, ?)",
            (key, mine, now + CLAIM_S, now, mine, free_of),
        )
        return claimed.rowcount == 1

    def release(self, key: str) -> None:
        """End this process's reservation of a request."""
        self._execute("DELETE FROM claims WHERE key = ? AND pid = ?", (key, os.getpid()))

    def __len__(self) -> int:
        row = self._one("SELECT count(*) FROM replies", ())
        return int(row[0]) if row is not None else 0

    def _one(self, question: str, values: tuple[Any, ...]) -> Any:
        try:
            return self._execute(question, values).fetchone()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None

    def _execute(self, question: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._database.execute(question, values)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise UserError(  # no space, no right, locked for too long
                    f"{self.path}: the store of replies cannot be used ({error}); mend it and run the same command"
                ) from None
            raise self._damaged(error) from None

    def _damaged(self, what: object) -> UserError:
        return UserError(f"{self.path}: not usable as a store of replies ({what}); move it away and ask again")

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._database.close()


def _as_reply(record: Any) -> Reply:
    """The reply in a row.

    Raises:
        TypeError: it has other fields or types than this tool writes.
    """
    reply = Reply(**record)
    texts = (reply.refusal, reply.finish_reason, reply.model, reply.fingerprint)
    if not isinstance(reply.content, str) or not all(isinstance(text, (str, type(None))) for text in texts):
        raise TypeError("a text is needed")
    if not isinstance(reply.usage, (dict, type(None))):
        raise TypeError("a table of numbers is needed")
    return reply


def _alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
