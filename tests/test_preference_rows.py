"""Rows of every known schema, sides worked by hand, and a table of broken ones."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.preference.fields import MALFORMED, REASONS, UNUSABLE, RowProblem
from tasks.preference.rows import detect_schema, read_row

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
RAW_ULTRAFEEDBACK = {
    "instruction": "2+2?",
    "completions": [
        {"response": "three", "overall_score": 5.0},
        {"response": "five", "overall_score": 1},
        {"response": "four", "overall_score": 8.5},
        {"response": "unscored", "overall_score": None},
    ],
}
LLMBAR = {"input": "2+2?", "output_1": "five", "output_2": "four", "label": 2}
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
        (RAW_ULTRAFEEDBACK, "ultrafeedback"),
        (LLMBAR, "llmbar"),
        ({"chosen": "a b", "rejected": "a c"}, "trl"),
        ({"prompt": "p", **HH}, "trl"),
        ({"context": QUESTION, "response1": "a", "response2": "b", "feedback1": "c"}, None),
        ({}, None),
    ],
)
def test_schema_from_columns(record: dict[str, Any], schema: str | None) -> None:
    assert detect_schema(record) == schema


@pytest.mark.parametrize("record", [HS3, HH, TEXT, CHAT, IMPLICIT_CHAT, ULTRAFEEDBACK, RAW_ULTRAFEEDBACK, LLMBAR])
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


def test_annotators_are_turned_to_the_chosen_side() -> None:
    # HelpSteer3: below 0 the first response is better.
    first = read_row({**HS3, "individual_preference": [-1, -3, 1, 0]}, "helpsteer3")
    second = read_row({**HS3, "overall_preference": 3, "individual_preference": [3, -1]}, "helpsteer3")
    tie = read_row({**HS3, "overall_preference": 0, "individual_preference": [-1, 1]}, "helpsteer3")
    assert first.individual_for_chosen == [1.0, 3.0, -1.0, 0.0]
    assert second.individual_for_chosen == [3.0, -1.0]
    assert (tie.chosen, tie.individual_for_chosen) == ("four", [1.0, -1.0])


def test_scores_become_a_margin_and_never_a_strength() -> None:
    binarized = read_row(ULTRAFEEDBACK, "trl")
    assert (binarized.margin, binarized.strength, binarized.preference) == (7.0, None, -1.0)
    equal = read_row({**ULTRAFEEDBACK, "score_rejected": 9.0}, "trl")
    assert (equal.margin, equal.preference) == (0.0, 0.0)
    unscored = read_row({**ULTRAFEEDBACK, "score_rejected": None}, "trl")
    assert (unscored.margin, unscored.preference) == (None, -1.0)
    assert read_row({**TEXT, "margin": 0.5}, "trl").margin == 0.5
    assert read_row({**TEXT, "margin": float("nan")}, "trl").margin is None


def test_ultrafeedback_sets_the_best_against_the_worst_in_the_order_of_the_file() -> None:
    row = read_row(RAW_ULTRAFEEDBACK, "ultrafeedback")
    assert (row.responses, row.preference, row.margin, row.strength) == (("five", "four"), 1.0, 7.5, None)
    same = [{"response": text, "overall_score": 4} for text in ("one", "two", "three")]
    tie = read_row({**RAW_ULTRAFEEDBACK, "completions": same}, "ultrafeedback")
    assert (tie.responses, tie.preference, tie.margin) == (("one", "two"), 0.0, 0.0)


def test_llmbar_labels_name_the_better_output() -> None:
    assert read_row({**LLMBAR, "label": 1, "subset": "Natural"}, "llmbar").chosen == "five"
    assert read_row({**LLMBAR, "subset": "Natural"}, "llmbar").domain == "Natural"


def test_domain_and_language_are_kept_for_any_schema() -> None:
    row = read_row({**TEXT, "domain": "code", "language": "python"}, "trl")
    assert (row.domain, row.language) == ("code", "python")


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
    ("trl", {**ULTRAFEEDBACK, "score_chosen": 1.0}, "scores_contradict"),
    ("trl", {**ULTRAFEEDBACK, "score_chosen": "9"}, "wrong_type"),
    ("trl", {**ULTRAFEEDBACK, "score_chosen": float("inf")}, "preference_out_of_range"),
    ("ultrafeedback", {"instruction": "2+2?"}, "missing_column"),
    ("ultrafeedback", {**RAW_ULTRAFEEDBACK, "completions": "four"}, "wrong_type"),
    ("ultrafeedback", {**RAW_ULTRAFEEDBACK, "completions": ["four"]}, "wrong_type"),
    ("ultrafeedback", {**RAW_ULTRAFEEDBACK, "completions": [{"overall_score": 3}]}, "missing_column"),
    (
        "ultrafeedback",
        {**RAW_ULTRAFEEDBACK, "completions": RAW_ULTRAFEEDBACK["completions"][2:]},
        "too_few_completions",
    ),
    ("llmbar", {**LLMBAR, "label": 3}, "preference_out_of_range"),
    ("llmbar", {**LLMBAR, "label": "2"}, "wrong_type"),
    ("llmbar", {**LLMBAR, "label": None}, "no_preference"),
    ("llmbar", {k: v for k, v in LLMBAR.items() if k != "output_1"}, "missing_column"),
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
    row = {"context": [{"role": "user", "content": "q"}], "response1": "a", "response2": "b"}
    with pytest.raises(RowProblem, match=r"must be in -3\.\.3"):
        read_row({**row, "overall_preference": 10**400}, "helpsteer3")
    kept = read_row({**row, "overall_preference": 1, "individual_preference": [10**400, 2]}, "helpsteer3")
    assert kept.preference == 1
