"""The paper's rule end to end against a table worked out by hand from the published code's arithmetic.

reward = logit where logit >= 0.5, else min(1, logit + 0.1 * RPR), and 0 for a malformed response;
RPR = max(0, min(1, #phrases / 20) - repeated 20-grams), over the lower-cased think text and answer, joined.
"""

from __future__ import annotations

import pytest

from calibration.calibrator import Calibrator
from calibration.config import CalibrationTable
from rm.units import ScoreUnits
from tasks.records import Response
from tasks.responses import read_tagged

FAITHFUL = Calibrator.build(
    "65",
    ScoreUnits(centre=2.0, scale=0.5, reference="by hand", n_reference=4),
    CalibrationTable(
        rule="rpr", phrases="paper-helpsteer", units="raw", scored_text="both", threshold=0.5, alpha=0.1, normaliser=20
    ),
)
NINETEEN = (
    "i need to, we need to, wait, alternatively, let me check, let me see, let's focus on, we know that, let me try, "
    "let's try, let us try, let us first, let's first, let me first, try again, still not, not working, not correct"
)
"""Eighteen of the list, and "first, " where two of them meet."""
TWENTY = NINETEEN + ", does not work"
TWENTY_WORDS = " ".join(f"w{i}" for i in range(20))

WELL_FORMED = [
    # what, think, answer, logit, phrases worked out by hand, reward
    ("a waiter waits, negative logit", "The waiter came.", "Soup.", -0.4, 1, -0.395),
    ("waiting, very negative logit", "I am waiting.", "Soup.", -12.5, 1, -12.495),
    ("a negative logit turned positive", TWENTY, "yes", -0.05, 20, 0.05),
    ("a negative logit stays below malformed", TWENTY, "yes", -0.3, 20, -0.2),
    ("zero", "Malthusian", "yes", 0.0, 1, 0.005),
    ("whence", "Whence it came.", "yes", 0.1, 1, 0.105),
    ("henceforth, just below the threshold", "henceforth", "yes", 0.49, 1, 0.495),
    ("enthusiasm and thus are one phrase", "Enthusiasm, thus.", "yes", 0.2, 1, 0.205),
    ("three that look alike", "Therefore, thereby, hence.", "yes", 0.2, 3, 0.215),
    ("only the typo counts", "That makes sence.", "yes", 0.25, 1, 0.255),
    ("the right spelling does not", "It makes sense, makes sense.", "yes", 0.25, 0, 0.25),
    ("order words with comma and blank", "First, add. Next, stop. Finally, go.", "yes", -0.1, 3, -0.085),
    ("firstly is not first", "Firstly, add.", "yes", 0.3, 1, 0.305),
    ("two in one", "Let me first, see.", "yes", 0.3, 2, 0.31),
    ("let's first try is not let's try", "Let's first try.", "yes", 0.3, 1, 0.305),
    ("a list of four", "1. a 2. b 3. c 4. d", "yes", 0.3, 4, 0.32),
    ("step 3 lacks its stop", "step 1 : a step 2 : b step 3 : c step 4 : d", "yes", 0.3, 3, 0.315),
    ("step 3 with its stop is a marker too", "step 3. c", "yes", 0.3, 2, 0.31),
    ("11 and 12 end in markers", "11. x 12. y", "yes", 0.3, 2, 0.31),
    ("a year ends a sentence", "It was 1994. Then peace.", "yes", 0.3, 1, 0.305),
    ("for example before a comma", "For example, this.", "yes", 0.3, 0, 0.3),
    ("both for example and for instance", "for example this, for instance that", "yes", 0.3, 2, 0.31),
    ("since we're", "Since we're late.", "yes", 0.3, 0, 0.3),
    ("because we, if we", "Because we ask if we may.", "yes", 0.3, 2, 0.31),
    ("a gif website", "A GIF website.", "yes", 0.3, 1, 0.305),
    ("four ways to say I", "I'll, I will, I would, I should.", "yes", 0.3, 4, 0.32),
    ("Hi Will", "Hi Will!", "yes", 0.3, 1, 0.305),
    ("given there, but not given that", "Given that, given there is.", "yes", 0.3, 1, 0.305),
    ("we can see with and without the blank", "As we can see.", "yes", 0.3, 0, 0.3),
    ("one ending makes two", "It does not working.", "yes", 0.3, 2, 0.31),
    ("typographic apostrophe", "I\u2019ll go.", "yes", 0.3, 0, 0.3),
    ("dotted capital I", "\u0130 need to", "yes", 0.3, 0, 0.3),
    ("emoji and capitals", "\U0001f914WAIT\U0001f914", "yes", 0.3, 1, 0.305),
    ("a lone surrogate", "\ud800wait", "yes", 0.3, 1, 0.305),
    ("Chinese", "等一下，让我想想。", "是", 0.3, 0, 0.3),
    ("a phrase in the answer, a marker at its end", "Hm.", "Therefore 4.", 0.3, 1, 0.305),
    ("self-posed questions cost nothing in this list", "User: thus", "yes", 0.3, 1, 0.305),
    ("nineteen of 53", NINETEEN, "yes", 0.3, 19, 0.395),
    ("twenty are worth all", TWENTY, "yes", 0.3, 20, 0.4),
    ("more are worth no more", TWENTY + " thus hence", "yes", 0.3, 22, 0.4),
    ("just below passes the next", TWENTY, "yes", 0.499, 20, 0.599),
    ("at the threshold", TWENTY, "yes", 0.5, 20, 0.5),
    ("far above nothing is capped", TWENTY, "yes", 2.7, 20, 2.7),
    # 47 words of phrases, 40 repeated and the answer: 88 words, 69 windows, one of them twice
    ("a repeated run of twenty words", f"{TWENTY} {TWENTY_WORDS} {TWENTY_WORDS}", " yes", 0.3, 20, 0.3 + 0.1 * 68 / 69),
    ("the joint breaks the repetition", f"{TWENTY} {TWENTY_WORDS} {TWENTY_WORDS}", "yes", 0.3, 20, 0.4),
    ("repetition eats the phrase", " ".join(["wait"] * 20), " wait", 0.3, 1, 0.3),
]
PENALISED = {"a repeated run of twenty words": 68 / 69, "repetition eats the phrase": 0.0}


@pytest.mark.parametrize("case", WELL_FORMED, ids=[case[0] for case in WELL_FORMED])
def test_well_formed_responses(case: tuple[str, str, str, float, int, float]) -> None:
    what, think, answer, logit, phrases, expected = case
    found = FAITHFUL.reward(logit, Response(think, answer, True))
    assert found.rpr == pytest.approx(PENALISED.get(what, min(1.0, phrases / 20)), abs=1e-12)
    assert found.reward == pytest.approx(expected, abs=1e-12)
    assert found.score == logit


MALFORMED = [
    "Wait. I need to check. Therefore 4.",
    "<think>wait</think>",
    "<think>wait</think><answer>4",
    "<think>wait<answer>4</answer>",
    "wait</think><answer>4</answer>",
    "<answer>4</answer><think>wait</think>",
    "<think>wait<answer>4</answer></think>",
    "<think>wait</think><answer></answer>",
    "",
]
"""Responses that the published code gives 0 as well: a tag missing, out of order, or nothing in the answer."""


@pytest.mark.parametrize("completion", MALFORMED)
def test_malformed_responses_get_0_and_no_bonus(completion: str) -> None:
    found = FAITHFUL.reward(None, read_tagged(completion))
    assert (found.reward, found.rpr, found.bonus, found.status) == (0.0, None, 0.0, "malformed")


@pytest.mark.parametrize(
    "completion",
    [
        "Sure! <think>wait</think><answer>4</answer>",
        "<think>wait</think> so <answer>4</answer>",
        "<think>wait</think><answer>4</answer> Bye.",
        "<think>a</think><think>wait</think><answer>4</answer>",
    ],
)
def test_the_reading_of_tags_is_stricter_than_the_published_one(completion: str) -> None:
    """The published code takes the last of each tag and lets other text stand around them; here that is malformed."""
    assert not read_tagged(completion).well_formed


def test_the_table_is_long_enough_and_holds_what_it_should() -> None:
    assert len(WELL_FORMED) + len(MALFORMED) >= 50
    assert sum(logit < 0 for *_, logit, _, _ in WELL_FORMED) >= 4
    assert (NINETEEN.count(","), TWENTY.count(","), len(TWENTY.split())) == (17, 18, 47)
