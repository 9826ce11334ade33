"""Reasoning pattern reward: which phrases a text holds, less what it repeats.

    RPR = max(0, min(1, #present / normaliser) - repetition_n - #subtracted)

Paper A (arXiv 2505.22653, section 2.2) with what its published code does: each phrase counts once however often it
occurs, the divisor is half the number of phrases, and the repetition of the lower-cased text is

    repetition_n = #(different word n-grams that occur more than once) / #(all word n-grams)

so a text that says one thing many times over approaches 0 again from its highest value of 1/2: the numerator counts
different n-grams and the denominator all of them. Shorter texts than n words repeat nothing.

Two ways of matching, both exact:

- `substring`: the phrase stands anywhere in the lower-cased text ("thus" in "enthusiasm" counts);
- `words`: the text is folded (NFKC, case, typographic apostrophes, runs of white space) and the phrase must not touch
  a letter, a digit or an underscore on either side. Scripts that write no blanks between words need no such edge.

Searching each phrase by itself is several times faster than one regular expression over all of them, which would have
to look ahead at every character because phrases overlap ("let me first, ").
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from calibration.phrase_set import Matching, PhraseSet

_APOSTROPHES = ("\u2018", "\u2019", "\u02bc")
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # kana and Han
)
_MULTIPLIER = 0x9E3779B97F4A7C15


def rpr(text: str, phrase_set: PhraseSet) -> float:
    """The reasoning pattern reward of one text, in 0..1."""
    prepared = PREPARE[phrase_set.matching](text)
    count = len(_present(prepared, phrase_set))
    value = min(1.0, count / phrase_set.normaliser) - repetition(prepared, phrase_set.ngram)
    value -= sum(prepared.count(phrase) for phrase in phrase_set.subtracted)
    return max(0.0, value)


def rprs(texts: Sequence[str], phrase_set: PhraseSet) -> NDArray[np.float64]:
    """The reasoning pattern reward of each text, shape (len(texts),)."""
    return np.array([rpr(text, phrase_set) for text in texts], dtype=np.float64)


def phrases_in(text: str, phrase_set: PhraseSet) -> tuple[str, ...]:
    """The phrases that a text holds, each once, in the order of the set."""
    return tuple(_present(PREPARE[phrase_set.matching](text), phrase_set))


def lowered(text: str) -> str:
    """The text as the paper's code searches it."""
    return text.lower()


def folded(text: str) -> str:
    """Compatible characters, cases, apostrophes and white space made one (NFKC, case folding, single blanks)."""
    if text.isascii():
        return " ".join(text.lower().split())
    composed = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    for apostrophe in _APOSTROPHES:
        composed = composed.replace(apostrophe, "'")
    return " ".join(composed.split())


def repetition(text: str, n: int) -> float:
    """Share of the word n-grams of `text` that are different ones occurring more than once, in 0..1/2.

    Windows are compared by a hash first. Equal windows have equal hashes, so a text without two equal hashes repeats
    nothing; the few others are counted word for word, and the result is exact.
    """
    words = text.split()
    total = len(words) - n + 1
    if total < 2:
        return 0.0
    hashes = _window_hashes(words, n)
    ordered = np.sort(hashes)
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return 0.0
    shared = np.isin(hashes, ordered[1:][equal])
    counts = Counter(tuple(words[i : i + n]) for i in np.flatnonzero(shared))
    return sum(count > 1 for count in counts.values()) / total


def _window_hashes(words: list[str], n: int) -> NDArray[np.uint64]:
    """A hash of each run of n words, shape (len(words) - n + 1,): sum of hash(word_j) * multiplier^j modulo 2^64.

    Runs of doubled width come from two neighbours, so n costs its number of binary digits and not n.
    """
    doubled = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
    window, done, width = doubled[:0], 0, 1
    while True:
        if n & width:
            if done:
                size = len(words) - done - width + 1
                window = window[:size] + _power(done) * doubled[done : done + size]
            else:
                window = doubled
            done += width
        if done == n:
            return window
        doubled = doubled[:-width] + _power(width) * doubled[width:]
        width *= 2


@lru_cache(maxsize=256)
def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_MULTIPLIER, exponent, 1 << 64))


def _present(prepared: str, phrase_set: PhraseSet) -> list[str]:
    found = [phrase for phrase in phrase_set.phrases if phrase in prepared]
    if phrase_set.matching == "words":
        return [phrase for phrase in found if stands_alone(prepared, phrase)]
    return found


def stands_alone(text: str, phrase: str) -> bool:
    """Whether `phrase` stands somewhere in `text` as whole words (module docstring)."""
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        before, after = text[start - 1 : start] if start else "", text[end : end + 1]
        if not (_continues(before, phrase[0]) or _is_joined(after, phrase[-1])):
            return True
        start = text.find(phrase, start + 1)
    return False


def _continues(before: str, first: str) -> bool:
    """Whether the character before a phrase belongs to its first word; `2.1.` holds no list marker `1.`."""
    if first.isdigit() and before in (".", ","):
        return True
    return (first.isalnum() or first == "_") and _is_joined(before, first)


def _is_joined(beside: str, edge: str) -> bool:
    if not (beside.isalnum() or beside == "_"):
        return False
    return not (_SPACELESS.match(beside) or _SPACELESS.match(edge))


PREPARE: dict[Matching, Callable[[str], str]] = {"substring": lowered, "words": folded}
