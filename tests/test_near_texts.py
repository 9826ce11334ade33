"""Near texts: the similarity against sets of strings, sketches against their promise, and the index."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.preference.near_texts import (
    BANDS,
    NEAR_JACCARD,
    NearIndex,
    Texts,
    band_keys,
    bands_of,
    jaccard,
    normal_form,
    shingles,
    sketch_of,
)

WORDS = tuple(f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("lar", "nim", "t", "sk", "roz"))


def prose(rng: np.random.Generator, words: int) -> str:
    return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=words))


def brute_shingles(text: str) -> set[str]:
    return {text[i : i + 9] for i in range(max(1, len(text) - 8))} if text else set()


def test_jaccard_of_shingles_worked_by_hand() -> None:
    # "abcdefghij" has abcdefghi, bcdefghij; "abcdefghik" has abcdefghi, bcdefghik: one of three is shared.
    assert jaccard(shingles("abcdefghij"), shingles("abcdefghik")) == pytest.approx(1 / 3)
    assert jaccard(shingles("abc"), shingles("abc")) == 1.0
    assert jaccard(shingles("abc"), shingles("abd")) == 0.0
    assert jaccard(shingles(""), shingles("")) == 1.0
    assert jaccard(shingles(""), shingles("abc")) == 0.0


def test_hashed_jaccard_equals_jaccard_of_string_sets() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        first = prose(rng, int(rng.integers(1, 40)))
        second = first[: int(rng.integers(len(first) + 1))] + prose(rng, int(rng.integers(0, 10)))
        a, b = brute_shingles(first), brute_shingles(second)
        assert jaccard(shingles(first), shingles(second)) == pytest.approx(len(a & b) / len(a | b))


def test_normal_form_ignores_white_space_case_and_compatibility_forms() -> None:
    assert normal_form("  Hello\tWORLD \n ﬁne") == "helloworldfine"
    assert normal_form("x-1") != normal_form("x+1")


def test_sketches_agree_as_often_as_the_sets_overlap() -> None:
    rng = np.random.default_rng(1)
    for share in (0.3, 0.6, 0.9):
        agreement = []
        for _ in range(200):
            hashes = np.unique(rng.integers(2**63, size=1000).astype(np.uint64))
            first, second = hashes[: int(1000 * (1 + share) / 2)], hashes[int(1000 * (1 - share) / 2) :]
            agreement.append(np.mean(sketch_of(first) == sketch_of(second)))
        # The middle `share` of the elements is in both sets. Three standard errors of 200 x 128 draws are 0.01.
        assert np.mean(agreement) == pytest.approx(share, abs=0.01)


def test_the_sketch_of_a_union_is_the_smaller_of_two_sketches() -> None:
    first, second = shingles("the quick brown fox jumps over"), shingles("over the lazy dog it went")
    union = sketch_of(np.union1d(first, second))
    assert np.array_equal(union, np.minimum(sketch_of(first), sketch_of(second)))


def test_a_sketch_in_blocks_equals_the_sketch_at_once() -> None:
    hashes = shingles(prose(np.random.default_rng(2), 3000))
    assert len(hashes) > 10_000
    halves = [sketch_of(hashes[:5000]), sketch_of(hashes[5000:])]
    assert np.array_equal(sketch_of(hashes), np.minimum(*halves))
    assert len(set(band_keys(bands_of(sketch_of(hashes))))) == BANDS


def test_near_texts_are_found_as_often_as_promised() -> None:
    """Of texts just above the threshold at least 0.99 are found; nothing below it ever is."""
    rng = np.random.default_rng(3)
    texts = Texts()
    index = NearIndex(texts)
    wanted, missed, wrong = 0, 0, 0
    for _ in range(1500):
        words = prose(rng, 120).split(" ")
        number = texts.add(" ".join(words))
        index.add(number)
        changed = list(words)
        for place in rng.choice(120, size=int(rng.integers(4, 9)), replace=False):
            changed[place] = prose(rng, 1)
        other = texts.add(" ".join(changed))
        similarity = jaccard(shingles(texts.forms[number]), shingles(texts.forms[other]))
        found = index.find(other)
        if similarity >= NEAR_JACCARD:
            wanted += 1
            missed += found != number
        else:
            wrong += found == number
    assert wanted > 400
    assert missed <= 0.01 * wanted
    assert wrong == 0


def test_empty_and_short_texts_are_near_only_to_themselves() -> None:
    texts = Texts()
    numbers = [texts.add(text) for text in ("", " ", "a", "A", "b")]
    assert numbers == [0, 0, 1, 1, 2]
    index = NearIndex(texts)
    index.add(0)
    index.add(1)
    assert [index.find(number) for number in (0, 1, 2)] == [0, 1, None]


def test_a_text_of_a_megabyte_is_no_trouble() -> None:
    long = prose(np.random.default_rng(6), 200_000)
    assert len(long) > 2**20 - 2**18
    texts = Texts()
    index = NearIndex(texts)
    index.add(texts.add(long))
    assert index.find(texts.add(long + ".")) == 0
