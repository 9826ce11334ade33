"""Texts that are nearly the same: shingles, sketches, and an index that finds a near text without comparing with all.

Two texts are near when, after compatibility folding (NFKC), case folding and removal of all white space, the Jaccard
similarity of their sets of 9-character shingles is at least 0.8 (Broder 1997): one changed word in about 150
characters. The similarity is computed exactly; sketches only find whom to compare with. A sketch holds 128 MinHash
values; two texts of similarity J agree in each with chance J. Candidates agree in all 4 values of one of 12 bands
(Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4): chance 1 - (1 - J^4)^12, which is 0.998 at 0.8, 1 - 2e-9
at 0.95, and 1e-7 for two unrelated texts that share a hundredth of their shingles. A candidate that agrees in fewer
than 90 of 128 values is passed over; at a similarity of 0.8 that loses 3 in 1,000, and it spares nearly all comparisons
of texts that share a long template. So of all near texts at least 0.99 are found, and nothing else is ever called near.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SHINGLE_LENGTH = 9
"""Shorter runs are shared by unrelated texts of one language so often that nearly all would have to be compared."""
NEAR_JACCARD = 0.8
SKETCH_SIZE = 128
BANDS = 12
BAND_ROWS = 4
"""The bands use the first 48 values of a sketch; all of them count in the agreement."""
LEAST_AGREEMENT = 90
"""Of `SKETCH_SIZE`: 102 are expected at a similarity of 0.8, with a standard deviation of 4.5."""
BLOCK = 2048
"""Shingles sketched at once: a table of 128 rows that stays in the processor's cache."""
CACHED_TEXTS = 2048
LONGEST_CACHED = 20_000
"""Characters; shingles of longer texts are computed again whenever they are compared, to bound the memory."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]
Sketch = NDArray[np.uint32]


def normal_form(text: str) -> str:
    """Compatibility-folded, case-folded and without white space, so that a changed space changes nothing."""
    return "".join(folded_words(text))


def folded_words(text: str) -> list[str]:
    """The words of a text after compatibility and case folding."""
    return (text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()).split()


def shingles(form: str) -> Hashes:
    """The sorted distinct hashes of all runs of 9 characters, shape (S,); one hash for a shorter text."""
    codes = np.frombuffer(form.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    width = min(SHINGLE_LENGTH, len(codes))
    if not width:
        return np.zeros(0, dtype=np.uint64)
    hashes = np.zeros(len(codes) - width + 1, dtype=np.uint64)
    for offset in range(width):
        hashes *= _MULTIPLIER
        hashes += codes[offset : offset + len(hashes)]
        hashes += np.uint64(1)
    hashes = _mixed(hashes)
    hashes.sort()
    return hashes[np.concatenate(([True], hashes[1:] != hashes[:-1]))]


def jaccard(first: Hashes, second: Hashes) -> float:
    """|A and B| / |A or B| of two sorted sets; 1 for two empty ones."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


def sketch_of(hashes: Hashes) -> Sketch:
    """128 MinHash values of a set of shingles, shape (128,): the smallest product with each of 128 odd multipliers.

    The high 32 bits of a hash stand for the shingle. The sketch of a union of sets is the elementwise minimum of their
    sketches.
    """
    short = (hashes >> np.uint64(32)).astype(np.uint32)
    least = np.full(SKETCH_SIZE, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(short), BLOCK):
        products = short[None, start : start + BLOCK] * _ROWS_OF_SKETCH[:, None]
        np.minimum(least, products.min(axis=1), out=least)
    return least


def bands_of(sketch: Sketch) -> Sketch:
    """The bands of a sketch, shape (12, 4)."""
    return sketch[: BANDS * BAND_ROWS].reshape(BANDS, BAND_ROWS)


def band_keys(bands: Sketch) -> list[int]:
    """One key for each band, shape (bands, values); the place of a band enters its key."""
    keys = np.arange(1, len(bands) + 1, dtype=np.uint64) * _MULTIPLIER
    for column in range(bands.shape[1]):
        keys = _mixed((keys + bands[:, column]) * _MULTIPLIER)
    return keys.tolist()


class Texts:
    """Distinct texts, by number. Texts of one normal form are one; only forms, sizes and sketches are kept."""

    def __init__(self, threshold: float = NEAR_JACCARD) -> None:
        self.threshold = threshold
        self.forms: list[str] = []
        self.sizes: list[int] = []
        self._sketches = np.empty((1024, SKETCH_SIZE), dtype=np.uint32)
        self._number_of: dict[bytes, int] = {}
        self._cached = lru_cache(CACHED_TEXTS)(self._shingles)

    def add(self, text: str) -> int:
        """The number of this text's normal form, from 0 in the order of first appearance."""
        form = normal_form(text)
        digest = hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        number = self._number_of.setdefault(digest, len(self.forms))
        if number == len(self.forms):
            hashes = shingles(form)
            self.forms.append(form)
            self.sizes.append(len(hashes))
            if number == len(self._sketches):
                self._sketches = np.concatenate([self._sketches, np.empty_like(self._sketches)])
            self._sketches[number] = sketch_of(hashes)
        return number

    def sketch(self, number: int) -> Sketch:
        """The sketch of a text, shape (128,)."""
        return self._sketches[number]

    def alike(self, number: int, others: Sequence[int]) -> list[int]:
        """Those of other texts whose sketches agree enough with this one's, the most alike first."""
        agreement = np.count_nonzero(self._sketches[list(others)] == self._sketches[number], axis=1)
        order = np.argsort(-agreement, kind="stable")
        return [others[place] for place in order if agreement[place] >= LEAST_AGREEMENT]

    def similarity(self, first: int, second: int) -> float:
        """The exact Jaccard similarity where it reaches the threshold; 0 where it is known not to."""
        if first == second:
            return 1.0
        smaller, larger = sorted((self.sizes[first], self.sizes[second]))
        if smaller < self.threshold * larger:
            return 0.0
        if not self.alike(first, [second]):
            return 0.0
        found = jaccard(self._hashes(first), self._hashes(second))
        return found if found >= self.threshold else 0.0

    def _hashes(self, number: int) -> Hashes:
        return self._cached(number) if len(self.forms[number]) <= LONGEST_CACHED else self._shingles(number)

    def _shingles(self, number: int) -> Hashes:
        return shingles(self.forms[number])


class NearIndex:
    """Texts that can be asked for one that is near to another."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.buckets: dict[int, list[int]] = {}
        self.members: set[int] = set()

    def add(self, number: int) -> None:
        """Make a text findable."""
        if number not in self.members:
            self.members.add(number)
            for key in self._keys(number):
                self.buckets.setdefault(key, []).append(number)

    def find(self, number: int) -> int | None:
        """A member that is near this text: itself where it is one; None where there is none."""
        if number in self.members:
            return number
        candidates = sorted({other for key in self._keys(number) for other in self.buckets.get(key, ())})
        alike = self.texts.alike(number, candidates) if candidates else []
        return next((other for other in alike if self.texts.similarity(number, other)), None)

    def _keys(self, number: int) -> list[int]:
        return band_keys(bands_of(self.texts.sketch(number)))


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit made to depend on every other (the finisher of SplitMix64, Steele et al. 2014)."""
    hashes ^= hashes >> np.uint64(31)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(29)
    return hashes


_ROWS_OF_SKETCH: Sketch = (_mixed(np.arange(1, SKETCH_SIZE + 1, dtype=np.uint64) * _MULTIPLIER) | np.uint64(1)).astype(
    np.uint32
)
