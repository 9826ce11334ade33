"""Exact and near duplicates among preference rows, and prompts that a split must not share with another.

Two rows are exact duplicates when the chat and the unordered pair of answers are the same texts: a copy with its sides
swapped is a copy. They are near duplicates when the chat and both answers are near. Two texts are near when, after
compatibility folding (NFKC), case folding and removal of all white space, the Jaccard similarity of their sets of
9-character shingles is at least 0.8 (Broder 1997): one changed word in about 150 characters. The similarity is
computed exactly; a bottom-8 sketch only finds candidates, and at a similarity of 0.8 misses about one in 500.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.records import Message

SHINGLE_LENGTH = 9
"""Shorter runs are shared by unrelated texts of one language so often that nearly all would have to be compared."""
NEAR_JACCARD = 0.8
SKETCH_SIZE = 8
SKETCH_MATCHES = 3
"""So many of the smallest shingle hashes must agree before two texts are compared: a stock phrase alone does not."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Compared:
    """What makes a preference row the same as another: its chat and its two answers, in any order."""

    messages: list[Message]
    responses: tuple[str, str]


@dataclass(frozen=True)
class Duplicate:
    """Row `index` repeats row `of`, which comes first and is kept. `swapped`: its sides stand the other way round."""

    index: int
    of: int
    exact: bool
    swapped: bool


class NearIndex:
    """Texts that can be asked for one that is near to another.

    Shingles of a member are computed again when it is a candidate: kept for all texts they would not fit in memory.
    """

    def __init__(self, threshold: float = NEAR_JACCARD) -> None:
        self.threshold = threshold
        self.forms: dict[int, str] = {}
        self.sizes: dict[int, int] = {}
        self.buckets: dict[int, list[int]] = {}

    def add(self, name: int, form: str) -> None:
        """Make a text of this normal form findable under `name`."""
        own = shingles(form)
        self.forms[name], self.sizes[name] = form, len(own)
        for smallest in own[:SKETCH_SIZE].tolist():
            self.buckets.setdefault(smallest, []).append(name)

    def find(self, form: str) -> int | None:
        """The smallest name of a text that is near one of this normal form, None where there is none."""
        own = shingles(form)
        if not len(own):
            return next((name for name in sorted(self.sizes) if not self.sizes[name]), None)
        sketch = own[:SKETCH_SIZE].tolist()
        matches = Counter(name for smallest in sketch for name in self.buckets.get(smallest, ()))
        needed = min(SKETCH_MATCHES, len(sketch))
        for name in sorted(name for name, count in matches.items() if count >= needed):
            smaller, larger = sorted((self.sizes[name], len(own)))
            if smaller >= self.threshold * larger and jaccard(own, shingles(self.forms[name])) >= self.threshold:
                return name
        return None


def find_duplicates(rows: Sequence[Compared]) -> list[Duplicate]:
    """All rows that repeat an earlier one, in order; an exact copy is never called near."""
    chats = [chat_text(row.messages) for row in rows]
    chat_groups = near_groups(chats)
    answer_groups = near_groups([text for row in rows for text in row.responses])
    kept_of: dict[tuple[str, ...], tuple[int, Duplicate | None]] = {}
    near: dict[tuple[int, ...], int] = {}
    found = []
    for i, (row, chat) in enumerate(zip(rows, chats, strict=True)):
        sides = answer_groups[2 * i : 2 * i + 2]
        exact_key, near_key = (chat, *sorted(row.responses)), (chat_groups[i], *sorted(sides))
        duplicate = None
        if exact_key in kept_of:
            twin, twin_repeats = kept_of[exact_key]
            swapped = rows[twin].responses != row.responses
            if twin_repeats is None:
                duplicate = Duplicate(i, twin, True, swapped)
            else:
                duplicate = Duplicate(i, twin_repeats.of, True, swapped != twin_repeats.swapped)
        elif near_key in near:
            first = near[near_key]
            duplicate = Duplicate(i, first, False, answer_groups[2 * first : 2 * first + 2] != sides)
        else:
            near[near_key] = i
        kept_of.setdefault(exact_key, (i, duplicate))
        if duplicate:
            found.append(duplicate)
    return found


def near_groups(texts: Sequence[str], threshold: float = NEAR_JACCARD) -> list[int]:
    """The group of each text: the index of the first text that it is near to, its own where there is none.

    Groups are formed around their first member, in order, so that no chain of small changes joins different texts.
    """
    index = NearIndex(threshold)
    group_of: dict[bytes, int] = {}
    groups = []
    for i, text in enumerate(texts):
        form = normal_form(text)
        digest = _digest(form)
        if digest not in group_of:
            leader = index.find(form)
            if leader is None:
                index.add(i, form)
            group_of[digest] = i if leader is None else leader
        groups.append(group_of[digest])
    return groups


def near_a_protected(texts: Sequence[str], ranks: Sequence[int], threshold: float = NEAR_JACCARD) -> list[bool]:
    """Whether each text is near one of a higher rank, and so gives way to it.

    Args:
        texts: chats, N of them.
        ranks: N; for example 0 for training, 1 for selection, 2 for measurement.
    """
    index = NearIndex(threshold)
    gives_way = [False] * len(texts)
    for rank in sorted(set(ranks), reverse=True):
        level: dict[str, list[int]] = {}
        for i in (i for i in range(len(texts)) if ranks[i] == rank):
            level.setdefault(normal_form(texts[i]), []).append(i)
        for form, same in level.items():
            found = index.find(form) is not None
            for i in same:
                gives_way[i] = found
        for form, same in level.items():
            index.add(same[0], form)
    return gives_way


def normal_form(text: str) -> str:
    """Compatibility-folded, case-folded and without white space, so that a changed space changes nothing."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def chat_text(messages: Sequence[Message]) -> str:
    """A chat as one text."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def conversation_key(messages: Sequence[Message]) -> str:
    """What makes two chats the same conversation: the normal form of the first user turn.

    Preference sets hold one conversation at several depths (the second row's chat contains the first row's answer), so
    the whole chat would be too fine a key for prompt-disjoint splits.
    """
    first = next((message["content"] for message in messages if message["role"] == "user"), chat_text(messages))
    return _digest(normal_form(first)).hex()


def shingles(form: str) -> Hashes:
    """The sorted distinct hashes of all runs of 9 characters, shape (S,); one hash for a shorter text."""
    codes = np.frombuffer(form.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    width = min(SHINGLE_LENGTH, len(codes))
    if not width:
        return np.zeros(0, dtype=np.uint64)
    hashes = np.zeros(len(codes) - width + 1, dtype=np.uint64)
    for offset in range(width):
        hashes = hashes * _MULTIPLIER + codes[offset : offset + len(hashes)] + np.uint64(1)
    hashes ^= hashes >> np.uint64(31)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(29)
    hashes.sort()
    return hashes[np.concatenate(([True], hashes[1:] != hashes[:-1]))]


def jaccard(first: Hashes, second: Hashes) -> float:
    """|A and B| / |A or B| of two sorted sets; 1 for two empty ones."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
