"""JSON and JSON Lines on disk: no NaN, written whole or not at all, errors that name the line."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from configs.errors import UserError

READ_BLOCK_BYTES = 1 << 20


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by rename, so that a reader sees the old file or the new one and never a half."""
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def canonical_json(record: Any) -> str:
    """The one text of a record: sorted keys, no spaces, no NaN; what hashes are taken of."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write_json(path: Path, record: Any) -> None:
    """Write one indented JSON record. NaN and infinities raise ValueError: missing is null."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8", "surrogatepass"))


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write one JSON record a line and return how many there were. ASCII only, so that every text survives."""
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
    write_bytes(path, "".join(lines).encode())
    return len(lines)


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); it may have been cut or edited") from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON Lines file; blank lines are passed over.

    Raises:
        UserError: the file is missing, or a line is not a JSON object (the line number is given).
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    with stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8", "surrogatepass"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not readable as JSON ({error})") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}, line {number}: a JSON object is needed, found {type(record).__name__}")
            yield record


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(READ_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_record(record: Any) -> str:
    """The SHA-256 of a record's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(record).encode("utf-8", "surrogatepass")).hexdigest()


def place_to_write(path: str | Path, key: str) -> Path:
    """Where a result is to go, tried before the work that makes it.

    Raises:
        UserError: its folder is missing or takes no file of this name, or the place is a folder.
    """
    place = Path(path).expanduser()
    if not place.parent.is_dir():
        raise UserError(f"{key}: there is no folder {place.parent} to write into; make it first")
    if place.is_dir():
        raise UserError(f"{key}: {place} is a folder; name a file")
    trial = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UserError(f"{key}: {place} cannot be written ({error.strerror or error}); name another place") from None
    return place


def make_folder(folder: Path, key: str = "") -> None:
    """Make a folder and those above it.

    Args:
        folder: where it is to be.
        key: what the user named it by, for the message.

    Raises:
        UserError: there can be none, as in /proc; a lacking right or a file in the way is the system's own error.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        where = f"{key}: " if key else ""
        raise UserError(f"{where}{folder} cannot be made ({error.strerror}); name another folder") from None
