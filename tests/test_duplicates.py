"""Duplicates: what counts as one is defined by hand here, and a planted leak is found."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.duplicates import (
    NEAR_JACCARD,
    Compared,
    Duplicate,
    NearIndex,
    chat_text,
    conversation_key,
    find_duplicates,
    jaccard,
    near_a_protected,
    near_groups,
    normal_form,
    shingles,
)
from tasks.records import Message

WORDS = tuple(f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("lar", "nim", "t", "sk", "roz"))


def asked(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


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


def test_exact_duplicates_with_and_without_swapped_sides() -> None:
    rows = [
        Compared(asked("q"), ("left answer", "right answer")),
        Compared(asked("q"), ("right answer", "left answer")),
        Compared(asked("q"), ("left answer", "right answer")),
        Compared(asked("another question"), ("left answer", "right answer")),
    ]
    assert find_duplicates(rows) == [Duplicate(1, 0, True, True), Duplicate(2, 0, True, False)]


def test_a_changed_space_is_near_and_its_exact_copy_points_to_the_kept_row() -> None:
    rows = [
        Compared(asked("q"), ("the left", "the right")),
        Compared(asked("q"), ("the  right", "the left")),
        Compared(asked("q"), ("the left", "the  right")),
    ]
    assert find_duplicates(rows) == [Duplicate(1, 0, False, True), Duplicate(2, 0, True, False)]


def test_rows_that_share_one_answer_are_not_duplicates() -> None:
    rows = [Compared(asked("q"), ("same", answer)) for answer in ("first", "second")]
    assert find_duplicates(rows) == []


def test_a_planted_leak_is_found_exactly_and_nearly() -> None:
    rng = np.random.default_rng(1)
    rows = [Compared(asked(prose(rng, 20)), (prose(rng, 60), prose(rng, 60))) for _ in range(300)]
    planted = []
    for i in range(200):
        a, b = rows[i].responses
        if i % 2:
            a, b = b, a
        if i >= 100:  # one word changed, or one space
            words = a.split(" ")
            words[30] = "zebra" if i % 3 else f" {words[30]}"
            a = " ".join(words)
        planted.append(Compared(rows[i].messages, (a, b)))
    found = find_duplicates([*rows, *planted])
    assert sum(duplicate.exact for duplicate in found) == 100
    assert all(duplicate.of == duplicate.index - 300 for duplicate in found)
    assert all(duplicate.swapped == bool(duplicate.of % 2) for duplicate in found)
    near = [duplicate for duplicate in found if not duplicate.exact]
    assert len(near) >= 95


def test_candidates_are_found_as_often_as_the_docstring_says() -> None:
    rng = np.random.default_rng(2)
    index, wanted = NearIndex(), {}
    for name in range(400):
        words = prose(rng, 80).split(" ")
        index.add(name, normal_form(" ".join(words)))
        words[int(rng.integers(80))] = prose(rng, 1)
        changed = " ".join(words)
        if jaccard(shingles(normal_form(changed)), shingles(index.forms[name])) >= NEAR_JACCARD:
            wanted[name] = changed
    missed = sum(index.find(normal_form(changed)) != name for name, changed in wanted.items())
    assert len(wanted) > 300
    assert missed <= 0.02 * len(wanted)


def test_groups_do_not_chain() -> None:
    rng = np.random.default_rng(3)
    words = prose(rng, 100).split(" ")
    chain = []
    for step in range(30):
        chain.append(" ".join(words))
        words[3 * step] = f"changed{step}"
    groups = near_groups(chain)
    assert groups[0] == groups[1] == 0
    assert groups[29] != 0


def test_empty_and_short_texts_have_groups() -> None:
    assert near_groups(["", " ", "a", "A", "b"]) == [0, 0, 2, 2, 4]


def test_the_less_protected_of_two_near_chats_gives_way() -> None:
    rng = np.random.default_rng(4)
    text = prose(rng, 60)
    near = text.replace(text.split(" ")[10], "other", 1)
    assert near_a_protected([text, near, prose(rng, 60)], [0, 2, 0]) == [True, False, False]
    assert near_a_protected([text, near, text], [1, 1, 0]) == [False, False, True]


def test_a_text_gives_way_to_any_protected_text_not_only_to_the_first_of_a_group() -> None:
    words = prose(np.random.default_rng(5), 60).split(" ")
    first, second, third = list(words), list(words), list(words)
    second[5:7] = ["alpha", "bravo"]
    third[5:7], third[50:52] = ["alpha", "bravo"], ["gamma", "delta"]
    texts = [" ".join(text) for text in (first, second, third)]
    sets = [shingles(normal_form(text)) for text in texts]
    assert jaccard(sets[0], sets[1]) >= NEAR_JACCARD
    assert jaccard(sets[1], sets[2]) >= NEAR_JACCARD
    assert jaccard(sets[0], sets[2]) < NEAR_JACCARD
    assert near_a_protected(texts, [2, 2, 0]) == [False, False, True]


def test_a_conversation_is_known_by_its_first_user_turn() -> None:
    deeper = [*asked("How are you?"), {"role": "assistant", "content": "well"}, *asked("And now?")]
    assert conversation_key(deeper) == conversation_key(asked("how  are you?"))
    assert conversation_key(deeper) != conversation_key(asked("And now?"))
    assert conversation_key([{"role": "system", "content": "be brief"}, *deeper]) == conversation_key(deeper)


def test_a_chat_as_text_keeps_roles_apart() -> None:
    assert chat_text(asked("a")) != chat_text([{"role": "system", "content": "a"}])


def test_a_long_text_is_no_trouble() -> None:
    long = prose(np.random.default_rng(6), 200_000)
    assert len(long) > 2**20 - 2**18
    assert near_groups([long, long + "."]) == [0, 0]
