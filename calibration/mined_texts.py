"""The two sets of texts that phrases are mined from: files of answers, in one of three ways.

- two files: all texts of the first against all of the second;
- one file and `label`: rows whose label says good against the others;
- one file and `inside`: of every text what stands between `<TAG>` and `</TAG>` against the rest of the same texts;
- two files and `inside`: what stands there in the first file against all of the second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError

GOOD = frozenset({"true", "1", "1.0", "yes", "good", "chosen", "correct"})
BAD = frozenset({"false", "0", "0.0", "-1", "no", "bad", "rejected", "incorrect", "wrong"})


@dataclass(frozen=True)
class Document:
    """One text and the prompt it answers; without a prompt field each row is a prompt of its own."""

    text: str
    prompt: str


@dataclass(frozen=True)
class Corpus:
    """What is compared.

    Attributes:
        first: the texts whose phrases are wanted.
        second: the texts they are compared with.
        what: the two in words.
        unread: rows that could not be used, by reason.
    """

    first: list[Document]
    second: list[Document]
    what: tuple[str, str]
    unread: dict[str, int]


def read_corpus(
    paths: Sequence[str],
    field: str,
    second_field: str | None,
    label: str | None,
    inside: str | None,
    prompt: str | None,
) -> Corpus:
    """Read the two sets.

    Raises:
        UserError: a file cannot be read, the number of files does not fit the settings, or a set is empty.
    """
    if len(paths) not in (1, 2) or (label and (inside or len(paths) == 2)) or not (label or inside or len(paths) == 2):
        raise UserError(
            f"mine: found {len(paths)} files; give two files (trained, then base), or one file with label=FIELD (good "
            "rows against bad ones) or inside=TAG (what stands in <TAG> against the rest), not label with either"
        )
    if inside and not re.fullmatch(r"[\w-]+", inside):
        raise UserError(f"mine: inside {inside!r} is no tag; write its bare name, for example inside=think")
    unread: dict[str, int] = {}
    first: list[Document] = []
    second: list[Document] = []
    names = [Path(path).name for path in paths]
    if label:
        for row, document in _documents(Path(paths[0]), field, prompt, unread, [label]):
            side = _side(row[label])
            if side is None:
                _count(unread, f"label {label} is neither good nor bad")
            else:
                (first if side else second).append(document)
        what = (f"{names[0]} with {label} good", f"{names[0]} with {label} bad")
    elif inside:
        part = re.compile(f"<{inside}>(.*?)</{inside}>", re.DOTALL | re.IGNORECASE)
        for _, document in _documents(Path(paths[0]), field, prompt, unread, []):
            if not part.search(document.text):
                _count(unread, f"no <{inside}>…</{inside}>")
                continue
            first.append(Document("\n".join(part.findall(document.text)), document.prompt))
            if len(paths) == 1:
                second.append(Document(part.sub("\n", document.text), document.prompt))
        what = (f"{names[0]} inside <{inside}>", f"{names[0]} outside it")
        if len(paths) == 2:
            second = [document for _, document in _documents(Path(paths[1]), second_field or field, None, unread, [])]
            what = (what[0], names[1])
    else:
        first = [document for _, document in _documents(Path(paths[0]), field, prompt, unread, [])]
        second = [document for _, document in _documents(Path(paths[1]), second_field or field, None, unread, [])]
        what = (names[0], names[1])
    for side_name, documents in zip(what, (first, second), strict=True):
        if not documents:
            reasons = "; ".join(f"{reason} ({number})" for reason, number in unread.items()) or "the file holds no row"
            raise UserError(f"mine: no text in {side_name}: {reasons}")
    return Corpus(first, second, what, unread)


def read_documents(path: Path, field: str) -> list[Document]:
    """The texts of one file.

    Raises:
        UserError: the file cannot be read or holds no text.
    """
    documents = [document for _, document in _documents(path, field, None, {}, [])]
    if not documents:
        raise UserError(f"{path}: no row has a text in {field!r}")
    return documents


def _count(unread: dict[str, int], reason: str) -> None:
    unread[reason] = unread.get(reason, 0) + 1


def _side(label: Any) -> bool | None:
    word = str(label).strip().lower()
    return True if word in GOOD else False if word in BAD else None


def _documents(
    path: Path, field: str, prompt: str | None, unread: dict[str, int], needed: Sequence[str]
) -> Iterator[tuple[dict[str, Any], Document]]:
    """Usable rows with their texts. A field that no row has is an error, one that some rows lack is counted."""
    keys = [field, *([prompt] if prompt else []), *needed]
    seen: set[str] = set()
    rows = 0
    for number, row in enumerate(_rows(path, unread), start=1):
        rows += 1
        seen |= row.keys()
        missing = [key for key in keys if row.get(key) is None]
        if missing:
            _count(unread, f"{path.name}: no {missing[0]}")
            continue
        text = _text(row[field])
        if text is None or not text.strip():
            _count(unread, f"{path.name}: {field} is {'empty' if text is not None else 'no text'}")
            continue
        name = json.dumps(row[prompt], ensure_ascii=True, sort_keys=True, default=str) if prompt else str(number)
        yield row, Document(text, name)
    absent = [key for key in keys if key not in seen]
    if rows and absent:
        raise UserError(f"{path}: no row has the field {absent[0]!r}; there are {', '.join(sorted(seen))[:200]}")


def _text(value: Any) -> str | None:
    """A text, the texts of a list, or what the assistant says in a list of messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        said = [part.get("content") for part in value if part.get("role") == "assistant"]
        return "\n".join(said) if said and all(isinstance(part, str) for part in said) else None
    return None


def _rows(path: Path, unread: dict[str, int]) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: cannot be mined; give a .jsonl or a .parquet file")
    try:
        with path.open("rb") as stream:
            for line in stream:
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8-sig", "surrogatepass"))
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict):
                    yield row
                else:
                    _count(unread, f"{path.name}: not a JSON object")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{path}: not a whole parquet file ({first}); fetch it again") from None
