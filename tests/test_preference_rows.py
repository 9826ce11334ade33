"""Rows of every known schema, sides worked by hand, and a table of broken ones."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.preference_rows import MALFORMED, REASONS, UNUSABLE, RowProblem, detect_schema, read_row

QUESTION = [{"role": "user", "content": "2+2?"}]
HS3: dict[str, Any] = {"context": QUESTION, "response1": "four", "response2": "five", "overall_preference": -2}
HH = {"chosen": "\n\nHuman: 2+2?\n\nAssistant: four", "rejected": "\n\nHuman: 2+2?\n\nAssistant: five"}
TEXT = {"prompt": "2+2?", "chosen": "four", "rejected": "five"}
CHAT = {
    "prompt": QUESTION,
    "chosen": [{"role": "assistant", "content": "four"}],
    "rejected": [{"role": "assistant", "content": "five"}],
}
IMPLICIT_CHAT = {side: [*QUESTION, *CHAT[side]] for side in ("chosen", "rejected")}
ULTRAFEEDBACK = {"prompt": "2+2?", **IMPLICIT_CHAT, "score_chosen": 9.0, "score_rejected": 2.0}


@pytest.mark.parametrize(
    ("record", "schema"),
    [
        (HS3, "helpsteer3"),
        (HH, "hh-rlhf"),
        (TEXT, "trl"),
        (CHAT, "trl"),
        (IMPLICIT_CHAT, "trl"),
        (ULTRAFEEDBACK, "trl"),
        ({"chosen": "a b", "rejected": "a c"}, "trl"),
        ({"prompt": "p", **HH}, "trl"),
        ({"context": QUESTION, "response1": "a", "response2": "b", "feedback1": "c"}, None),
        ({}, None),
    ],
)
def test_schema_from_columns(record: dict[str, Any], schema: str | None) -> None:
    assert detect_schema(record) == schema


@pytest.mark.parametrize("record", [HS3, HH, TEXT, CHAT, IMPLICIT_CHAT, ULTRAFEEDBACK])
def test_every_schema_says_the_same(record: dict[str, Any]) -> None:
    row = read_row(record, detect_schema(record) or "trl")
    assert (row.messages, row.chosen, row.rejected) == (QUESTION, "four", "five")


def test_helpsteer3_signs_strength_and_annotators() -> None:
    first = read_row({**HS3, "individual_preference": [{"score": -1}, {"score": -3}, {"score": None}]}, "helpsteer3")
    second = read_row({**HS3, "overall_preference": 3, "individual_preference": [3, 2]}, "helpsteer3")
    tie = read_row({**HS3, "overall_preference": 0, "domain": "code", "language": "python"}, "helpsteer3")
    assert (first.chosen, first.strength, first.individual) == ("four", 2.0, (-1.0, -3.0))
    assert (second.chosen, second.strength, second.individual) == ("five", 3.0, (3.0, 2.0))
    assert (tie.preference, tie.strength, tie.domain, tie.language) == (0.0, None, "code", "python")


def test_equal_responses_are_a_tie_where_people_say_so() -> None:
    assert read_row({**HS3, "response1": "five", "overall_preference": 0}, "helpsteer3").preference == 0.0


def test_hh_rlhf_keeps_all_turns() -> None:
    start = "\n\nHuman: hi\n\nAssistant: hello\nthere\n\nHuman: bye"
    row = read_row({"chosen": f"{start}\n\nAssistant: ciao ", "rejected": f"{start}\n\nAssistant: no"}, "hh-rlhf")
    assert row.messages == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello\nthere"},
        {"role": "user", "content": "bye"},
    ]
    assert (row.chosen, row.rejected, row.strength) == ("ciao", "no", None)


def test_an_implicit_text_prompt_is_cut_between_words() -> None:
    row = read_row({"chosen": "The sky is grey.", "rejected": "The sky is green."}, "trl")
    assert (row.messages[0]["content"], row.chosen, row.rejected) == ("The sky is", "grey.", "green.")


def test_a_system_turn_in_the_prompt_column_is_not_lost() -> None:
    system = {"role": "system", "content": "be brief"}
    row = read_row({**IMPLICIT_CHAT, "prompt": [system]}, "trl")
    assert row.messages == [system, *QUESTION]


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("helpsteer3", {k: v for k, v in HS3.items() if k != "response2"}, "missing_column"),
    ("helpsteer3", {**HS3, "response1": True}, "wrong_type"),
    ("helpsteer3", {**HS3, "response1": None}, "wrong_type"),
    ("helpsteer3", {**HS3, "context": "2+2?"}, "wrong_type"),
    ("helpsteer3", {**HS3, "context": []}, "wrong_type"),
    ("helpsteer3", {**HS3, "context": ["2+2?"]}, "wrong_type"),
    ("helpsteer3", {**HS3, "context": [{"role": "human", "content": "2+2?"}]}, "wrong_type"),
    ("helpsteer3", {**HS3, "overall_preference": "-2"}, "wrong_type"),
    ("helpsteer3", {**HS3, "overall_preference": True}, "wrong_type"),
    ("helpsteer3", {**HS3, "overall_preference": float("nan")}, "preference_out_of_range"),
    ("helpsteer3", {**HS3, "overall_preference": 7}, "preference_out_of_range"),
    ("helpsteer3", {**HS3, "overall_preference": None}, "no_preference"),
    ("helpsteer3", {**HS3, "response1": "a\ud800b"}, "not_unicode"),
    ("helpsteer3", {**HS3, "context": [{"role": "user", "content": "\udfff"}]}, "not_unicode"),
    ("helpsteer3", {**HS3, "response1": " \n"}, "empty_response"),
    ("helpsteer3", {**HS3, "response1": "five"}, "same_response"),
    ("helpsteer3", {**HS3, "context": [{"role": "user", "content": " "}]}, "empty_prompt"),
    ("helpsteer3", {**HS3, "context": [{"role": "assistant", "content": "I"}]}, "prompt_not_open"),
    ("hh-rlhf", {"chosen": HH["chosen"]}, "missing_column"),
    ("hh-rlhf", {**HH, "rejected": 5}, "wrong_type"),
    ("hh-rlhf", {**HH, "rejected": "five"}, "not_a_transcript"),
    ("hh-rlhf", {"chosen": "x\n\nAssistant: a", "rejected": "x\n\nAssistant: b"}, "not_a_transcript"),
    ("hh-rlhf", {**HH, "rejected": "\n\nHuman: 3+3?\n\nAssistant: five"}, "prompts_differ"),
    ("hh-rlhf", {**HH, "rejected": "\n\nHuman: 2+2?\n\nAssistant: "}, "empty_response"),
    ("trl", {"prompt": "p", "chosen": "a"}, "missing_column"),
    ("trl", {**TEXT, "chosen": ["a"]}, "wrong_type"),
    ("trl", {**TEXT, "prompt": 3}, "wrong_type"),
    ("trl", {"chosen": "four", "rejected": "five"}, "empty_prompt"),
    ("trl", {k: CHAT[k] for k in ("chosen", "rejected")}, "empty_prompt"),
    ("trl", {**CHAT, "chosen": [*CHAT["chosen"], *QUESTION]}, "prompts_differ"),
]


@pytest.mark.parametrize(("schema", "record", "reason"), BROKEN)
def test_broken_rows_have_a_reason(schema: Any, record: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowProblem) as caught:
        read_row(record, schema)
    assert caught.value.reason == reason
    assert reason in REASONS
    assert caught.value.detail


def test_a_reason_is_either_a_broken_file_or_an_unusable_row() -> None:
    assert not set(MALFORMED) & set(UNUSABLE)


def test_a_response_of_a_megabyte_is_read() -> None:
    row = read_row({**HS3, "response1": "x" * 2**20}, "helpsteer3")
    assert len(row.chosen) == 1048576


def test_a_number_too_large_for_a_float_is_counted_and_stops_nothing() -> None:
    from tasks.preference_rows import RowProblem, read_row

    row = {"context": [{"role": "user", "content": "q"}], "response1": "a", "response2": "b"}
    with pytest.raises(RowProblem, match=r"must be in -3\.\.3"):
        read_row({**row, "overall_preference": 10**400}, "helpsteer3")
    kept = read_row({**row, "overall_preference": 1, "individual_preference": [10**400, 2]}, "helpsteer3")
    assert kept.preference == 1
