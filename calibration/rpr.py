"""Reasoning pattern reward: which phrases a text holds, less what it repeats.

    RPR = max(0, min(1, #counted / normaliser) - repetition_n - #subtracted)

Paper A (arXiv 2505.22653, section 2.2) with what its published code does: each phrase counts once however often it
occurs (`counting: presence`), the divisor is 20, which is half the number of its phrases for mathematics, and the
repetition of the lower-cased text is

    repetition_n = #(different word n-grams that occur more than once) / #(all word n-grams)

so a text that says one thing many times over approaches 0 again from its highest value of 1/2: the numerator counts
different n-grams and the denominator all of them. Shorter texts than n words repeat nothing. Under
`counting: frequency` a phrase counts as often as it occurs without overlap, at most `cap` times.

Two ways of matching, both exact:

- `substring`: the phrase stands anywhere in the lower-cased text ("thus" in "enthusiasm" counts);
- `words`: the text is folded (NFKC, case, typographic apostrophes, runs of white space) and the phrase must not touch
  a letter, a digit, an underscore or a combining mark on either side. Scripts that write no blanks between words
  (Chinese, Japanese, Thai, Lao, Burmese, Khmer) need no such edge: a phrase in one of them is searched as a substring
  of the folded text, and a Latin phrase may touch their letters.

Two filters make long texts fast; neither changes a result. Texts are searched as UTF-8, and a phrase is searched only
where each run of four of its bytes occurs in the text, by a table of hashes. Windows of n words are compared by a hash
first, and the few that agree are compared as texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.folding import BLANK, folded, plain_blanks
from calibration.phrase_set import Matching, PhraseSet

SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Han
)
"""Letters of scripts that write no blanks between words, as the inside of a regular expression's set."""
_SPACELESS = re.compile(f"[{SPACELESS}]")
_MULTIPLIER = 0x9E3779B97F4A7C15
_GRAM = 4
_GRAM_MULTIPLIER = np.uint32(0x9E3779B1)
_GRAM_SHIFT = np.uint32(16)
_GRAM_SLOTS = 1 << 16
_SHORT = 1000
"""In a shorter text it costs less to search every phrase than to fill the table."""


_MANY_WORDS = 200_000
"""Where so many words stand in runs that may repeat, the runs are numbered instead of compared as texts."""


def rpr(text: str, phrase_set: PhraseSet) -> float:
    """The reasoning pattern reward of one text, in 0..1."""
    prepared = PREPARE[phrase_set.matching](text)
    raw = _encoded(prepared)
    found = _present(prepared, raw, phrase_set)
    if phrase_set.counting == "presence":
        counted = len(found)
    else:
        counted = sum(_occurrences(prepared, phrase, phrase_set) for phrase in found)
    value = min(1.0, counted / phrase_set.normaliser) - _repetition(raw, phrase_set.ngram)
    value -= sum(prepared.count(phrase) for phrase in phrase_set.subtracted)
    return max(0.0, value)


def rprs(texts: Sequence[str], phrase_set: PhraseSet) -> NDArray[np.float64]:
    """The reasoning pattern reward of each text, shape (len(texts),)."""
    return np.array([rpr(text, phrase_set) for text in texts], dtype=np.float64)


def phrases_in(text: str, phrase_set: PhraseSet) -> tuple[str, ...]:
    """The phrases that a text holds, each once, in the order of the set."""
    prepared = PREPARE[phrase_set.matching](text)
    return tuple(_present(prepared, _encoded(prepared), phrase_set))


def lowered(text: str) -> str:
    """The text as the paper's code searches it."""
    return text.lower()


def repetition(text: str, n: int) -> float:
    """Share of the word n-grams of `text` that are different ones occurring more than once, in 0..1/2.

    Words are what `str.split()` gives.
    """
    return _repetition(_encoded(text), n)


def stands_alone(text: str, phrase: str) -> bool:
    """Whether `phrase` stands somewhere in `text` as whole words (module docstring)."""
    return next(places(text, phrase), None) is not None


class _Plan(NamedTuple):
    """What is prepared once for a list of phrases.

    Attributes:
        needles: the phrases in UTF-8.
        short: positions of phrases too short for the table, which are always searched.
        long: positions of the others, shape (L,).
        slots: the slots of the table that all grams of the long phrases hash to, one phrase after the other.
        starts: where each long phrase begins in `slots`, shape (L,).
    """

    needles: tuple[bytes, ...]
    short: tuple[int, ...]
    long: NDArray[np.intp]
    slots: NDArray[np.intp]
    starts: NDArray[np.intp]


@lru_cache(maxsize=64)
def _plan(phrases: tuple[str, ...]) -> _Plan:
    needles = tuple(_encoded(phrase) for phrase in phrases)
    long = [place for place, needle in enumerate(needles) if len(needle) >= _GRAM]
    slots = [_gram_slots(needles[place]) for place in long]
    sizes = [0, *(len(part) for part in slots)]
    return _Plan(
        needles,
        tuple(place for place, needle in enumerate(needles) if len(needle) < _GRAM),
        np.array(long, dtype=np.intp),
        np.concatenate(slots) if slots else np.zeros(0, dtype=np.intp),
        np.cumsum(sizes[:-1]).astype(np.intp),
    )


def _gram_slots(raw: bytes) -> NDArray[np.intp]:
    """The slot of each run of `_GRAM` bytes, shape (len(raw) - _GRAM + 1,)."""
    grams = np.ndarray((len(raw) - _GRAM + 1,), dtype="<u4", buffer=raw, strides=(1,))
    return (grams * _GRAM_MULTIPLIER >> _GRAM_SHIFT).astype(np.intp)


def _present(prepared: str, raw: bytes, phrase_set: PhraseSet) -> list[str]:
    phrases = phrase_set.phrases
    plan = _plan(phrases)
    candidates: Sequence[int] = range(len(phrases))
    if len(raw) >= _SHORT and len(plan.long):
        seen = np.zeros(_GRAM_SLOTS, dtype=np.bool_)
        seen[_gram_slots(raw)] = True
        possible = plan.long[np.logical_and.reduceat(seen[plan.slots], plan.starts)]
        candidates = sorted([*plan.short, *possible.tolist()]) if plan.short else possible.tolist()
    needles = plan.needles
    found = [phrases[place] for place in candidates if needles[place] in raw]
    if phrase_set.matching == "words":
        return [phrase for phrase in found if stands_alone(prepared, phrase)]
    return found


def _occurrences(prepared: str, phrase: str, phrase_set: PhraseSet) -> int:
    """How often a phrase counts under `counting: frequency`, up to the cap."""
    by_words = phrase_set.matching == "words"
    number = sum(1 for _ in places(prepared, phrase)) if by_words else prepared.count(phrase)
    return number if phrase_set.cap is None else min(number, phrase_set.cap)


def places(text: str, phrase: str) -> Iterator[int]:
    """Where `phrase` stands in `text` as whole words, from left to right and without overlap."""
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        before, after = text[start - 1 : start] if start else "", text[end : end + 1]
        alone = not (_continues(before, phrase[0]) or _is_joined(after, phrase[-1]))
        if alone:
            yield start
        start = text.find(phrase, end if alone else start + 1)


@lru_cache(maxsize=4096)
def _continues(before: str, first: str) -> bool:
    """Whether the character before a phrase belongs to its first word; `2.1.` holds no list marker `1.`."""
    if first.isdigit() and before in (".", ","):
        return True
    return (first.isalnum() or first == "_") and _is_joined(before, first)


@lru_cache(maxsize=4096)
def _is_joined(beside: str, edge: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    if not beside or not (beside.isalnum() or beside == "_" or unicodedata.category(beside)[0] == "M"):
        return False
    return not (_SPACELESS.match(beside) or _SPACELESS.match(edge))


def _encoded(text: str) -> bytes:
    """UTF-8 in which lone surrogates keep their code; equal texts have equal bytes and the other way round."""
    return text.encode("utf-8", "surrogatepass")


def _repetition(raw: bytes, n: int) -> float:
    """`repetition` of a text in UTF-8. Equal windows have equal hashes, so the result is exact."""
    raw = plain_blanks(raw).strip(b" ") + b" "
    characters = np.frombuffer(raw, dtype=np.uint8)
    blanks = np.flatnonzero(characters == BLANK)
    following = blanks + 1
    starts = np.concatenate(([0], following[:-1][following[:-1] != blanks[1:]]))
    total = len(starts) + 1 - n
    if total < 2:
        return 0.0
    hashes = _window_hashes(characters, blanks, starts, n)
    ordered = np.sort(hashes)
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return 0.0
    shared = np.flatnonzero(np.isin(hashes, ordered[1:][equal]))
    if len(shared) * n > _MANY_WORDS:
        return _repeated_runs(raw.split(), n) / total
    ends = np.append(starts[1:], len(raw))
    counts = Counter(tuple(raw[starts[place] : ends[place + n - 1]].split()) for place in shared)
    return sum(count > 1 for count in counts.values()) / total


def _repeated_runs(words: Sequence[bytes], n: int) -> int:
    """How many different runs of n words occur more than once; exact, in N log N log n steps for N words.

    Runs of each length get a number: a run of a + b words that of the pair of its first a and its last b words.
    """
    known: dict[bytes, int] = {}
    power = np.array([known.setdefault(word, len(known)) for word in words], dtype=np.int64)
    found, length, size = power[:0], 0, 1
    for bit in reversed(f"{n:b}"):
        if bit == "1":
            found, length = (_joined(found, power, length) if length else power), length + size
        if length < n:
            power, size = _joined(power, power, size), 2 * size
    return int((np.bincount(found) > 1).sum())


def _joined(first: NDArray[np.int64], second: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """A number for each pair of first[i] and second[i + shift]; equal pairs get equal ones."""
    later = second[shift:]
    number = min(len(first), len(later))
    pairs = first[:number] * (int(later.max()) + 1) + later[:number]
    return np.unique(pairs, return_inverse=True)[1].astype(np.int64)


def _window_hashes(
    characters: NDArray[np.uint8], blanks: NDArray[np.intp], starts: NDArray[np.intp], n: int
) -> NDArray[np.uint64]:
    """A hash of each run of n words that begin at `starts`, shape (len(starts) - n + 1,).

    That of a word is the sum of byte_j * m^j, that of a window the sum of word_i * m^i, both modulo 2^64 and from the
    left; m is odd and has an inverse, by which a sum from further left is moved to 0. Blanks count nothing.
    """
    powers, inverses = _powers(1 << len(characters).bit_length())
    weighted = characters * powers[: len(characters)]
    weighted[blanks] = 0
    words = np.add.reduceat(weighted, starts) * inverses[starts]
    sums = np.zeros(len(starts) + 1, dtype=np.uint64)
    np.cumsum(words * powers[: len(starts)], out=sums[1:])
    moved: NDArray[np.uint64] = (sums[n:] - sums[:-n]) * inverses[: len(starts) - n + 1]
    return moved


@lru_cache(maxsize=32)
def _powers(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """m^j and m^-j modulo 2^64 for 0 <= j < size."""
    inverse = pow(_MULTIPLIER, -1, 1 << 64)
    both = []
    for base in (_MULTIPLIER, inverse):
        factors = np.full(size, base, dtype=np.uint64)
        factors[0] = 1
        both.append(np.cumprod(factors))
    return both[0], both[1]


PREPARE: dict[Matching, Callable[[str], str]] = {"substring": lowered, "words": folded}
