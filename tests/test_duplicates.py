"""Duplicates: what counts as one is defined by hand here, and a planted leak is found."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tasks.preference.duplicates import (
    Compared,
    Duplicate,
    chat_text,
    contradicts,
    conversation_key,
    find_duplicates,
    near_a_protected,
    one_word_apart,
)
from tasks.preference.near_texts import NEAR_JACCARD, jaccard, normal_form, shingles
from tasks.records import Message

WORDS = tuple(f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("lar", "nim", "t", "sk", "roz"))


def asked(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def prose(rng: np.random.Generator, words: int) -> str:
    return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=words))


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


def test_near_rows_do_not_chain() -> None:
    rng = np.random.default_rng(3)
    words, other = prose(rng, 100).split(" "), prose(rng, 30)
    chain = []
    for step in range(30):
        chain.append(Compared(asked("what then?"), (" ".join(words), other)))
        words[3 * step] = f"changed{step}"
    found = {duplicate.index: duplicate.of for duplicate in find_duplicates(chain)}
    assert found[1] == 0
    assert found.get(29) != 0


def test_one_word_in_a_short_part_is_near_only_where_the_other_parts_are_the_same() -> None:
    rows = [
        Compared(asked("Name a large town."), ("It is the capital Rome.", "I do not know.")),
        Compared(asked("Name a large town."), ("It is the city Rome.", "I do not know.")),
        Compared(asked("Name a big town."), ("I do not know.", "It is the capital Rome.")),
        Compared(asked("Name a big town."), ("It is the city Rome.", "I do not care.")),
    ]
    assert find_duplicates(rows) == [Duplicate(1, 0, False, False), Duplicate(2, 0, False, True)]


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ("one two three four", "one two THREE  five", True),
        ("one two three four", "one two three", False),  # three words are too few
        ("one two three four five", "one two three five", True),
        ("one two three four", "zero one two three four", True),
        ("one two three four", "one 2 three 4", False),
        ("one two three four", "one two three four", True),
        ("a a a a", "a a a a a a", False),
    ],
)
def test_one_word_apart(first: str, second: str, apart: bool) -> None:
    assert one_word_apart(first, second) is one_word_apart(second, first) is apart


def test_preferences_contradict_only_where_both_have_one() -> None:
    assert contradicts(-1, 2, False)
    assert not contradicts(-1, 2, True)
    assert contradicts(-1, -2, True)
    assert not contradicts(0, 2, False)


def test_thousands_of_rows_that_share_a_chat_or_both_answers_take_no_quadratic_time() -> None:
    """Neither part alone makes candidates; 4,000 rows of each kind would be 16 million comparisons."""
    rng = np.random.default_rng(8)
    template = prose(rng, 200)
    same_chat = [Compared(asked(template), (prose(rng, 12), prose(rng, 12))) for _ in range(4000)]
    same_answers = [Compared(asked(prose(rng, 12)), ("yes", "no")) for _ in range(4000)]
    began = time.process_time()
    assert find_duplicates([*same_chat, *same_answers]) == []
    assert time.process_time() - began < 30


def test_chats_that_share_a_long_template_take_no_quadratic_time() -> None:
    """Half of all shingles are shared by every two of 3,000 chats: nearly all are candidates, and passed over."""
    rng = np.random.default_rng(9)
    template = prose(rng, 200)
    chats = [f"{template} {prose(rng, 100)}" for _ in range(3000)]
    began = time.process_time()
    assert not any(near_a_protected(chats, [0, 0, 0, 0, 1] * 600))
    assert time.process_time() - began < 20


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
