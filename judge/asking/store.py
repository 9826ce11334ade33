"""Replies on disk, so that nothing is asked or paid twice.

One SQLite file: a row is the hash of everything that determines a reply, the request and the reply. SQLite rather than
JSON Lines, because several processes may share it at once: in WAL mode an insert is atomic, readers never wait, and a
process that is killed loses nothing that was committed. The file must lie on a local disk, for WAL needs shared memory.
Its lines are readable: `sqlite3 replies.sqlite "select reply from replies"`.

A request in flight is reserved under the name of the process that asks it, which holds a lock on a file of that name
for as long as it lives; so a reservation ends with its process, however that ends. The reservation says what the
request can cost at most, and what is reserved counts against a cap on money like what was spent. A request whose
process died in flight may have been paid for, and is counted as if it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from configs.errors import UserError
from configs.records import canonical_json, make_folder, sha256_of_record
from configs.runfolder import locked
from judge.asking.budget import Price, Tokens

STORE_FILE = "replies.sqlite"
BUSY_TIMEOUT_S = 60.0
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, request TEXT NOT NULL, reply TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS reserved "
    "(key TEXT PRIMARY KEY, owner TEXT NOT NULL, account TEXT NOT NULL, "
    "prompt INTEGER NOT NULL, reply INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ledger "
    "(account TEXT PRIMARY KEY, requests INTEGER NOT NULL, prompt INTEGER NOT NULL, reply INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS batches (nonce TEXT PRIMARY KEY, name TEXT)",
    "CREATE TABLE IF NOT EXISTS batched (key TEXT PRIMARY KEY, nonce TEXT NOT NULL, request TEXT NOT NULL, "
    "prompt INTEGER NOT NULL, reply INTEGER NOT NULL)",
)
LOST = " (lost)"
"""Ending of the account of what may have been paid for without a reply that could be kept."""
IN_BATCHES = " in batches"
"""Ending of the account of what is asked through a Batch API, which has a price of its own."""
Claim = Literal["mine", "elsewhere", "over the cap"]


@dataclass(frozen=True)
class ChatRequest:
    """One request.

    Attributes:
        judged_by: who answers: the endpoint's address, or what decides the answers of a program behind one.
        body: the chat request (model, messages, parameters).
        repeat: 0, or the number of a further draw of the same request.
    """

    judged_by: str
    body: dict[str, Any]
    repeat: int = 0

    @property
    def record(self) -> dict[str, Any]:
        """What is hashed and stored."""
        record: dict[str, Any] = {"judged_by": self.judged_by, "body": self.body}
        return {**record, "repeat": self.repeat} if self.repeat else record

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


@dataclass(frozen=True)
class Cost:
    """What one request can cost at most, and the cap that all costs of its account have to stay under.

    Attributes:
        account: who is paid: endpoint and model.
        tokens: the most it can count for.
        price, cap: dollars; without both there is no cap.
        other: account and price of the other way to ask, live or in batches, under the same cap.
    """

    account: str
    tokens: Tokens
    price: Price | None = None
    cap: float | None = None
    other: tuple[str, Price] | None = None


FREE = Cost("", Tokens())


class ReplyStore:
    """The replies of one run; open it in each process and thread that needs it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path.parent)
        self.owner = secrets.token_hex(8)
        self._life: IO[bytes] | None = None
        try:
            with locked(path.parent):  # the change to WAL fails, rather than waits, where another process makes it too
                self._database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=NORMAL")
                for table in SCHEMA:
                    self._database.execute(table)
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

    def put(self, key: str, request: ChatRequest, reply: Reply, account: str = "", paid: Tokens | None = None) -> Reply:
        """Keep a reply and what it cost, and return the one that counts: the first that any process stored."""
        record = (key, canonical_json(request.record), canonical_json(asdict(reply)))
        with self._transaction():
            kept = self._execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", record).rowcount == 1
            if paid is not None and kept:
                self._pay(account, paid)
            self._execute("DELETE FROM reserved WHERE key = ? AND owner = ?", (key, self.owner))
        return reply if kept else self.get(key) or reply

    def claim(self, key: str, cost: Cost = FREE) -> Claim:
        """Reserve a request and its cost for this process; `elsewhere` while another one that is alive is asking it.

        Two processes would otherwise pay for each pair twice, and near the cap each find room that is there once.
        """
        self._live()
        values = (key, self.owner, cost.account, cost.tokens.prompt, cost.tokens.reply)
        insert = "INSERT OR IGNORE INTO reserved VALUES (?, ?, ?, ?, ?)"
        if cost.cap is None and self._execute(insert, values).rowcount == 1:
            return "mine"
        with self._transaction():
            row = self._one("SELECT owner FROM reserved WHERE key = ?", (key,))
            if row is not None and row[0] == self.owner:
                return "mine"
            if row is not None and self._lives(row[0]):
                return "elsewhere"
            if row is not None:
                self._bury(row[0])
            if self.over_the_cap(cost, cost.tokens):
                return "over the cap"
            self._execute(insert, values)
        return "mine"

    def release(self, key: str, lost: bool = False) -> None:
        """End this process's reservation of a request; a `lost` one may have been paid for."""
        with self._transaction() if lost else contextlib.nullcontext():
            if lost:
                self._count_lost("key = ? AND owner = ?", (key, self.owner))
            self._execute("DELETE FROM reserved WHERE key = ? AND owner = ?", (key, self.owner))

    def count_lost(self, key: str) -> None:
        """Count a request as paid for although its reply cannot be kept; the reservation stands for the next try."""
        with self._transaction():
            self._count_lost("key = ? AND owner = ?", (key, self.owner))

    def over_the_cap(self, cost: Cost, further: Tokens) -> bool:
        """Whether `further` tokens could pass the cap after all that is paid for, in flight and handed in."""
        accounts = [(cost.account, cost.price), cost.other or ("", None)]
        dollars = 0.0
        for account, price in accounts:
            ahead = self.reserved(account)  # first, for it moves what the dead had in flight to the ledger
            if account.endswith(IN_BATCHES):
                ahead += self.batched_tokens()
            dollars += price.of(self.spent(account) + ahead) if price else 0.0
        return bool(cost.price and cost.cap is not None and dollars + cost.price.of(further) > cost.cap)

    def spent(self, account: str, lost: bool = True) -> Tokens:
        """Tokens paid for in all runs; `lost` ones, which may have been, are counted at the most they can be."""
        accounts = (account, f"{account}{LOST}" if lost else account)
        return self._tokens("SELECT total(prompt), total(reply) FROM ledger WHERE account IN (?, ?)", accounts)

    def n_paid(self, account: str) -> int:
        """Requests that were paid for and answered, in all runs."""
        row = self._one("SELECT requests FROM ledger WHERE account = ?", (account,))
        return int(row[0]) if row else 0

    def reserved(self, account: str) -> Tokens:
        """Tokens that requests in flight can count for at most; those of processes that died are counted as lost."""
        for (owner,) in self._execute("SELECT DISTINCT owner FROM reserved", ()).fetchall():
            if owner != self.owner and not self._lives(owner):
                self._bury(owner)
        return self._tokens("SELECT total(prompt), total(reply) FROM reserved WHERE account = ?", (account,))

    def open_batches(self) -> dict[str, str | None]:
        """Batches handed in and not collected: our own word for each, and the endpoint's name or None."""
        return dict(self._execute("SELECT nonce, name FROM batches ORDER BY rowid", ()).fetchall())

    def batched(self) -> dict[str, ChatRequest]:
        """The requests in open batches, by their keys."""
        rows = self._execute("SELECT key, request FROM batched", ()).fetchall()
        return {key: ChatRequest(**json.loads(request)) for key, request in rows}

    def batched_tokens(self) -> Tokens:
        """The most that the requests in open batches can count for."""
        return self._tokens("SELECT total(prompt), total(reply) FROM batched", ())

    def note_batch(self, nonce: str, requests: dict[str, tuple[ChatRequest, Tokens]]) -> None:
        """Remember a batch that is about to be handed in."""
        with self._transaction():
            self._execute("INSERT INTO batches VALUES (?, NULL)", (nonce,))
            for key, (request, most) in requests.items():
                values = (key, nonce, canonical_json(request.record), most.prompt, most.reply)
                self._execute("INSERT INTO batched VALUES (?, ?, ?, ?, ?)", values)

    def name_batch(self, nonce: str, name: str) -> None:
        """Remember what the endpoint calls a batch."""
        self._execute("UPDATE batches SET name = ? WHERE nonce = ?", (name, nonce))

    def forget_batch(self, nonce: str) -> None:
        """The batch is collected, or never came to be."""
        with self._transaction():
            self._execute("DELETE FROM batches WHERE nonce = ?", (nonce,))
            self._execute("DELETE FROM batched WHERE nonce = ?", (nonce,))

    def lose(self, account: str, tokens: Tokens) -> None:
        """Count tokens as paid for without a reply that could be kept."""
        self._pay(f"{account}{LOST}", tokens)

    def __len__(self) -> int:
        row = self._one("SELECT count(*) FROM replies", ())
        return int(row[0]) if row is not None else 0

    def _pay(self, account: str, tokens: Tokens) -> None:
        self._execute(
            "INSERT INTO ledger VALUES (?, 1, ?, ?) ON CONFLICT (account) DO UPDATE SET requests = requests + 1, "
            "prompt = prompt + excluded.prompt, reply = reply + excluded.reply",
            (account, tokens.prompt, tokens.reply),
        )

    def _count_lost(self, which: str, values: tuple[Any, ...]) -> None:
        rows = self._execute(f"SELECT account, prompt, reply FROM reserved WHERE {which}", values).fetchall()  # noqa: S608
        for account, prompt, reply in rows:
            self._pay(f"{account}{LOST}", Tokens(prompt, reply))

    def _bury(self, owner: str) -> None:
        """What a dead process had in flight may have been paid for."""
        self._count_lost("owner = ?", (owner,))
        self._execute("DELETE FROM reserved WHERE owner = ?", (owner,))
        self._life_of(owner).unlink(missing_ok=True)

    def _life_of(self, owner: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{owner}.lock")

    def _live(self) -> None:
        if self._life is None:
            self._life = self._life_of(self.owner).open("wb")
            fcntl.flock(self._life, fcntl.LOCK_EX)

    def _lives(self, owner: Any) -> bool:
        """Whether the process of this name still holds its lock."""
        if not (isinstance(owner, str) and owner.isalnum()):
            raise self._damaged("a reservation names no process")
        try:
            with self._life_of(owner).open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute("BEGIN IMMEDIATE", ())
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK", ())
            raise
        self._execute("COMMIT", ())

    def _tokens(self, question: str, values: tuple[Any, ...]) -> Tokens:
        prompt, reply = self._one(question, values)
        return Tokens(int(prompt), int(reply))

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
        if self._life is not None:
            self._life_of(self.owner).unlink(missing_ok=True)
            self._life.close()


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
