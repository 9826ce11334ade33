"""Real files: rows read by a person, with both texts, the strength and the annotators written down here by hand.

In the Tulu file `raw` says which shown answer won and `shown_swapped` which answer was shown first, so a side is known
without `overall_preference`; the card's annotators say it in words ("@Response 1 is better").
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.preference.cleaning import clean_and_split
from tasks.preference.files import read_file

TULU = "preference/tulu_human_eval_hs3schema.jsonl"
PANDALM = "preference/pandalm_testset_hs3schema.jsonl"
HARMLESS = "preference/hh_rlhf_harmless_test.jsonl"
CARD = "helpsteer3/card_preference_rows.jsonl"
LLMBAR = "judge/llmbar_gpt4.jsonl"

CHECKED: list[tuple[str, int, str, str, float | None, list[float]]] = [
    # file, line, beginning of the chosen and of the rejected answer, strength, annotators above 0 for the chosen
    (TULU, 24, "Yes, the two questions are duplicates.", "no", 1.0, [2.0, -1.0]),
    (TULU, 32, "Sriracha Tuna Avocado Wraps", "Tuna Avocado Wraps", 1.0, [1.0, 0.0]),
    (TULU, 44, "Demure, somber, unassuming", "Doubting", 2.0, [2.0]),
    (TULU, 139, "a GiAnT sPiDeR", "A Giant Spider Blocks Your Path.", 2.0, [2.0]),
    (PANDALM, 37, 'The sound made by "好" is "hao".', "The sound of a bell.", 1.0, [1.0, 1.0, 1.0]),
    (PANDALM, 39, 'The sound made by "好" is "hao".', "This sound is a positive sound.", 1.0, [-1.0, 1.0, 1.0]),
    (PANDALM, 43, "No, Lucie and Lin do not have", "Yes, Lin and Lucie have", 1.0, [1.0, 1.0, 1.0]),
    (PANDALM, 47, "No, Lucie and Lin do not have", "Yes, they have a lot", 1.0, [1.0, 1.0, 1.0]),
    (HARMLESS, 8, "That’s good to hear.", "How did you come up with this?", None, []),
    (HARMLESS, 12, "Maybe she’s going to the after-party?", "Why do you want to have sex", None, []),
    (HARMLESS, 15, "You’re welcome! Good luck with your gardening", "You're welcome.", None, []),
    (CARD, 1, "Here's a JavaScript program that meets", "```javascript", 2.0, [1.0, 3.0, 2.0]),
    (CARD, 2, "Yes, you are correct.", "Sure! Here's the updated line", 2.0, [2.0, 2.0, 2.0]),
    (LLMBAR, 1, "My girlfriend's visa to stay in the UK", "My girlfriend is Malaysian", None, []),
    (LLMBAR, 101, "1. Get enough sleep", "Focus on whole, unprocessed foods.", None, []),
    (LLMBAR, 151, "PasswordG123%r!", "A secure password that is easy", None, []),
    (LLMBAR, 281, "A mnemonic for remembering the days", "Sure, here's a mnemonic for you", None, []),
]
TOTALS = {
    # readable rows, ties, dropped by reason
    TULU: (576, 180, {}),
    PANDALM: (560, 78, {"empty_response": 32, "wrong_type": 6}),  # six answers are the JSON boolean true
    HARMLESS: (954, 0, {"empty_response": 3, "prompts_differ": 1}),
    CARD: (2, 0, {}),
    LLMBAR: (281, 0, {}),
}


@pytest.mark.parametrize(("file", "line", "chosen", "rejected", "strength", "individual"), CHECKED)
def test_a_hand_checked_row_has_its_sides(
    shared_data: Path,
    file: str,
    line: int,
    chosen: str,
    rejected: str,
    strength: float | None,
    individual: list[float],
) -> None:
    row = dict(read_file(shared_data / file, None, 0.05).rows)[line]
    assert row.chosen.strip().startswith(chosen)
    assert row.rejected.strip().startswith(rejected)
    assert (row.strength, row.individual_for_chosen) == (strength, individual)


@pytest.mark.parametrize("file", TOTALS)
def test_rows_ties_and_drops_of_a_real_file(shared_data: Path, file: str) -> None:
    source = read_file(shared_data / file, None, 0.05)
    ties = sum(row.preference == 0 for _, row in source.rows)
    assert (len(source.rows), ties, dict(Counter(drop.reason for drop in source.dropped))) == TOTALS[file]


def test_contexts_of_several_turns_are_kept(shared_data: Path) -> None:
    card = dict(read_file(shared_data / CARD, None, 0.05).rows)
    assert [turn["role"] for turn in card[2].messages] == ["user", "assistant"] * 3 + ["user"]
    assert (card[2].domain, card[2].language) == ("code", "python")
    harmless = dict(read_file(shared_data / HARMLESS, None, 0.05).rows)
    assert harmless[201].messages[-1] == {"role": "user", "content": "help me hack her account please"}


def test_llmbar_subsets_are_domains(shared_data: Path) -> None:
    rows = [row for _, row in read_file(shared_data / LLMBAR, None, 0.05).rows]
    assert Counter(row.domain for row in rows) == {
        "LLMBar/Natural": 100,
        "LLMBar/Adversarial/Neighbor": 134,
        "LLMBar/Adversarial/GPTOut": 47,
    }
    assert sum(row.preference < 0 for row in rows) == 139


def test_another_configuration_of_helpsteer3_is_one_clear_error(shared_data: Path) -> None:
    sentence = r"card_other_config_rows.jsonl: rows of HelpSteer3's feedback or edit sets .*take its preference set"
    with pytest.raises(UserError, match=sentence) as caught:
        read_file(shared_data / "helpsteer3" / "card_other_config_rows.jsonl", None, 0.05)
    assert "\n" not in str(caught.value)


def test_kept_ties_of_a_real_file_are_pairs_without_a_side(shared_data: Path) -> None:
    source = read_file(shared_data / TULU, None, 0.05)
    dropped, kept = (clean_and_split([source], 0.4, None, 0, ties=ties) for ties in ("drop", "keep"))
    assert sum(drop.reason == "tie" for drop in dropped.dropped) == 180
    assert not any(pair.strength == 0 for pair in dropped.pairs)
    ties = [pair for pair in kept.pairs if pair.strength == 0]
    assert kept.facts["ties_kept"] == len(ties) > 160
    assert "tie" not in {drop.reason for drop in kept.dropped}
    first = {f"{source.file}:{line}": row.responses[0] for line, row in source.rows}
    assert all(pair.chosen == first[pair.source] for pair in ties)
