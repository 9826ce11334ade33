"""Exact and near duplicates among preference rows, and prompts that a split must not share with another.

Two rows are exact duplicates when the chat and the unordered pair of answers are the same texts: a copy with its sides
swapped is a copy. They are near duplicates when the chat and both answers are near (`near_texts`), or when two of
these three parts have the same normal form and the third, of at least four words, differs in one word; so one changed
word is found in short texts too, where it is a large part of the shingles.

How near rows are found: two rows with the same chat that share one answer are always compared, and so are two rows with
the same answers whose chats begin with the same three or end with the same two words, as all do that differ in one.
Others are compared when one of 12 bands agrees, each of two MinHash values of the chat and two of the joined answers:
chance 1 - (1 - Jc^2 Ja^2)^12, which is 0.998 where both similarities are 0.8. A chat or answer shared by many rows
alone makes no candidates, so the time grows nearly linearly with the rows; only where thousands of rows share most of
their chat and most of their answers does it not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.preference.near_texts import BAND_ROWS, NearIndex, Texts, band_keys, bands_of, folded_words, normal_form
from tasks.records import Message

LEAST_WORDS = 4
"""In a shorter text one changed word is another text: "yes, it is" and "no, it is"."""


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


@dataclass(frozen=True)
class Prepared:
    """A row with the numbers of its three texts, and the keys of which two near rows share one."""

    row: Compared
    chat: int
    answers: tuple[int, int]
    keys: set[Hashable]


class RowIndex:
    """Rows that can be asked for one that is near to another."""

    def __init__(self, texts: Texts | None = None) -> None:
        self.texts = texts or Texts()
        self.rows: dict[int, Prepared] = {}
        self.buckets: dict[Hashable, list[int]] = {}

    def prepare(self, row: Compared) -> Prepared:
        """Number the texts of a row and sketch them."""
        chat = self.texts.add(chat_text(row.messages))
        first, second = (self.texts.add(response) for response in row.responses)
        both = np.minimum(self.texts.sketch(first), self.texts.sketch(second))
        halves = [bands_of(sketch)[:, : BAND_ROWS // 2] for sketch in (self.texts.sketch(chat), both)]
        keys: set[Hashable] = set(band_keys(np.concatenate(halves, axis=1)))
        keys.update((chat, answer) for answer in (first, second))
        words = folded_words(chat_text(row.messages))
        both_answers = frozenset((first, second))
        keys.update([(both_answers, "begins", *words[:3]), (both_answers, "ends", *words[-2:])])
        return Prepared(row, chat, (first, second), keys)

    def add(self, name: int, prepared: Prepared) -> None:
        """Make a row findable under `name`."""
        self.rows[name] = prepared
        for key in prepared.keys:
            self.buckets.setdefault(key, []).append(name)

    def find(self, prepared: Prepared) -> tuple[int, bool] | None:
        """The smallest name of a row that is near this one, and whether its sides are swapped; None for none."""
        candidates = {name for key in prepared.keys for name in self.buckets.get(key, ())}
        for name in sorted(candidates):
            swapped = self._how_near(self.rows[name], prepared)
            if swapped is not None:
                return name, swapped
        return None

    def _how_near(self, one: Prepared, other: Prepared) -> bool | None:
        """Whether the sides of two near rows are swapped, None where the rows are not near."""
        straight = self._closeness(one, other, other.answers, other.row.responses)
        turned = self._closeness(one, other, other.answers[::-1], other.row.responses[::-1])
        return turned > straight if max(straight, turned) else None

    def _closeness(self, one: Prepared, other: Prepared, answers: tuple[int, ...], responses: tuple[str, ...]) -> float:
        """The sum of the answers' similarities where the rows are near with the answers in this order, else 0."""
        parts = [(one.chat, other.chat), *zip(one.answers, answers, strict=True)]
        different = [place for place, (own, others) in enumerate(parts) if own != others]
        similar = [1.0 if own == others else self.texts.similarity(own, others) for own, others in parts]
        if all(similar):
            return similar[1] + similar[2]
        if len(different) != 1:
            return 0.0
        own_texts = (chat_text(one.row.messages), *one.row.responses)
        other_texts = (chat_text(other.row.messages), *responses)
        place = different[0]
        return 1.0 if one_word_apart(own_texts[place], other_texts[place]) else 0.0


def find_duplicates(rows: Sequence[Compared], texts: Texts | None = None) -> list[Duplicate]:
    """All rows that repeat an earlier one, in order; an exact copy is never called near.

    A near duplicate is near a row that is kept, so that no chain of small changes joins different rows.

    Args:
        rows: N of them.
        texts: where the texts of other rows are already sketched, so that nothing is computed twice.
    """
    index = RowIndex(texts)
    first_of: dict[bytes, tuple[int, Duplicate | None]] = {}
    found = []
    for i, row in enumerate(rows):
        key = exact_key(row)
        duplicate = None
        if key in first_of:
            twin, repeats = first_of[key]
            swapped = rows[twin].responses != row.responses
            if repeats is None:
                duplicate = Duplicate(i, twin, True, swapped)
            else:
                duplicate = Duplicate(i, repeats.of, True, swapped != repeats.swapped)
        else:
            prepared = index.prepare(row)
            near = index.find(prepared)
            if near is None:
                index.add(i, prepared)
            else:
                duplicate = Duplicate(i, near[0], False, near[1])
            first_of[key] = (i, duplicate)
        if duplicate:
            found.append(duplicate)
    return found


def near_a_protected(texts: Sequence[str], ranks: Sequence[int]) -> list[bool]:
    """Whether each text is near one of a higher rank, and so gives way to it.

    Args:
        texts: chats, N of them.
        ranks: N; for example 0 for training, 1 for selection, 2 for measurement.
    """
    known = Texts()
    numbers = [known.add(text) for text in texts]
    index = NearIndex(known)
    gives_way = [False] * len(texts)
    for rank in sorted(set(ranks), reverse=True):
        level = [i for i in range(len(texts)) if ranks[i] == rank]
        near = {number: index.find(number) is not None for number in {numbers[i] for i in level}}
        for i in level:
            gives_way[i] = near[numbers[i]]
        for i in level:
            index.add(numbers[i])
    return gives_way


def one_word_apart(first: str, second: str) -> bool:
    """Whether two texts of at least four words differ in one word, changed, left out or put in."""
    one, other = folded_words(first), folded_words(second)
    shorter, longer = sorted((len(one), len(other)))
    if shorter < LEAST_WORDS or longer - shorter > 1:
        return False
    same_start = 0
    while same_start < shorter and one[same_start] == other[same_start]:
        same_start += 1
    same_end = 0
    while same_end < shorter - same_start and one[-1 - same_end] == other[-1 - same_end]:
        same_end += 1
    return same_start + same_end >= longer - 1


def contradicts(first: float, second: float, swapped: bool) -> bool:
    """Whether the preferences of a row and its duplicate name different answers; a tie contradicts nothing."""
    return first * second * (-1 if swapped else 1) < 0


def exact_key(row: Compared) -> bytes:
    """What exact duplicates share: the digest of the chat and of the two answers in sorted order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in (chat_text(row.messages), *sorted(row.responses)):
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()


def chat_text(messages: Sequence[Message]) -> str:
    """A chat as one text."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def conversation_key(messages: Sequence[Message]) -> str:
    """What makes two chats the same conversation: the normal form of the first user turn.

    Preference sets hold one conversation at several depths (the second row's chat contains the first row's answer), so
    the whole chat would be too fine a key for prompt-disjoint splits.
    """
    first = next((message["content"] for message in messages if message["role"] == "user"), chat_text(messages))
    return hashlib.blake2b(normal_form(first).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
