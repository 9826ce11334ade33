"""RPR: the phrase sets, the faithful rule on texts worked out by hand, and both matchings against plain references."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from calibration.folding import folded
from calibration.phrase_set import PhraseSet, known_sets, load_phrase_set, read_phrase_set
from calibration.rpr import phrases_in, repetition, rpr, rprs
from configs.errors import UserError

HELPSTEER = load_phrase_set("paper-helpsteer")
MATH = load_phrase_set("paper-math")
CORRECTED = load_phrase_set("corrected-helpsteer")
ADVICE = load_phrase_set("advice")
TWENTY = " ".join(f"w{i}" for i in range(20))
TWENTY_PHRASES = (
    "i need to, we need to, wait, alternatively, let me check, let me see, let's focus on, we know that, let me try, "
    "let's try, let us try, let us first, let's first, let me first, try again, still not, not working, not correct, "
    "does not work, doesn't work"
)

FAITHFUL = [
    ("nothing", "", 0.0),
    ("no phrase", "The sky is blue.", 0.0),
    ("one phrase", "Wait, that is odd.", 0.05),
    ("any case", "WAIT", 0.05),
    ("presence, not frequency", "wait wait wait", 0.05),
    ("waiter holds wait", "The waiter came.", 0.05),
    ("enthusiasm holds thus", "Great enthusiasm!", 0.05),
    ("whence holds hence", "whence it came", 0.05),
    ("hi will holds i will", "Hi Will!", 0.05),
    ("gif web holds if we", "a GIF website", 0.05),
    ("the misspelt phrase never fires on correct text", "That makes sense.", 0.0),
    ("it fires on its typo", "That makes sence.", 0.05),
    ("first with comma and blank", "First, add.", 0.05),
    ("first without the blank", "First,add.", 0.0),
    ("first before a line break", "First,\nadd.", 0.0),
    ("firstly holds no first", "Firstly, add.", 0.05),
    ("overlapping phrases both count", "Let me first, add.", 0.10),
    ("two that share words", "We need to wait.", 0.10),
    ("i need to within wi need to", "Levi need to go", 0.05),
    ("trailing blank: example with comma", "For example, add.", 0.0),
    ("trailing blank: example without comma", "For example add.", 0.05),
    ("given there", "Given there is one", 0.05),
    ("a list of four", "1. a 2. b 3. c 4. d", 0.20),
    ("eleven holds one", "11. eleventh", 0.05),
    ("a number that ends a sentence", "It is 2. So be it.", 0.05),
    ("marker at the end of the text", "It is 2.", 0.0),
    ("steps: 1, 2, 4 and 3 with its stop, which is a marker too", "step 1 a step 2 b step 3. c step 4 d", 0.25),
    ("step 3 without stop", "step 3 c", 0.0),
    ("step 1 before a colon", "Step 1: a", 0.0),
    ("typographic apostrophe", "I\u2019ll go", 0.0),
    ("plain apostrophe", "I'll go", 0.05),
    ("full-width letters", "\uff57\uff41\uff49\uff54", 0.0),
    ("capital dotted I becomes two characters", "\u0130 need to", 0.0),
    ("combining accent leaves the letters in place", "wait\u0301", 0.05),
    ("Chinese around it", "我们wait一下", 0.05),
    ("no-break space is no blank", "so\u00a0that", 0.0),
    ("twenty phrases are worth 1", TWENTY_PHRASES, 1.0),
    ("more than twenty are capped", TWENTY_PHRASES + " thus therefore hence so that thereby", 1.0),
    ("twenty words twice: 1 of 21 windows", f"{TWENTY} {TWENTY}", 0.0),
    # 49 words of phrases, 2 more, 40 repeated ones: 91 words, 72 windows
    ("the cap comes before the repetition", f"{TWENTY_PHRASES} thus therefore {TWENTY} {TWENTY}", 1.0 - 1 / 72),
    ("one word 21 times: 1 of 2 windows", " ".join(["wait"] * 21), 0.0),
    ("case does not hide a repetition", f"wait {TWENTY} {TWENTY.upper()}", 0.05 - 1 / 22),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in FAITHFUL], ids=[case[0] for case in FAITHFUL])
def test_faithful_rpr_of_texts_worked_out_by_hand(text: str, expected: float) -> None:
    assert len(FAITHFUL) >= 30
    assert rpr(text, HELPSTEER) == pytest.approx(expected, abs=1e-12)


CORRECTED_CASES = [
    ("wait is a word", "Wait, that is odd.", ("wait",)),
    ("waiter is not", "The waiter came with enthusiasm; whence? Hi Will, a GIF website.", ()),
    ("the typo is mended", "That makes sense.", ("makes sense",)),
    ("line break after the comma", "First,\nadd.", ("first,",)),
    ("bold type around it", "**First,** add.", ("first,",)),
    ("comma after example", "For example, add.", ("for example",)),
    ("typographic apostrophe", "I\u2019ll go; let\u2019s try.", ("let's try", "i'll")),
    ("full-width letters", "\uff37\uff21\uff29\uff34", ("wait",)),
    ("no-break space and double blank", "so\u00a0that  as   a result", ("as a result", "so that")),
    ("Chinese writes no blanks", "我们wait一下", ("wait",)),
    ("a list", "1. a\n2) b\n3. c", ("1.", "3.")),
    ("no marker in decimals", "1.5 and 11. and 2.3.", ()),
    ("step before a colon", "Step 1: a. Step 3. b", ("step 1", "step 3", "3.")),
    ("underscore joins", "wait_for(x)", ()),
    ("second occurrence stands alone", "waiter, wait", ("wait",)),
]


@pytest.mark.parametrize(("text", "expected"), [c[1:] for c in CORRECTED_CASES], ids=[c[0] for c in CORRECTED_CASES])
def test_corrected_matching_finds_whole_words(text: str, expected: tuple[str, ...]) -> None:
    assert sorted(phrases_in(text, CORRECTED)) == sorted(expected)
    assert rpr(text, CORRECTED) == pytest.approx(len(expected) / 20)


def test_the_papers_lists_have_40_and_53_phrases_of_which_13_differ() -> None:
    assert len(MATH.phrases) == 40
    assert len(HELPSTEER.phrases) == 53
    assert HELPSTEER.phrases[:40] == MATH.phrases
    assert "makes sence" in MATH.phrases
    assert "makes sense" in CORRECTED.phrases
    assert (MATH.normaliser, HELPSTEER.normaliser, CORRECTED.normaliser) == (20, 20, 20)
    assert len(CORRECTED.phrases) == 53


def test_self_posed_questions_cost_1_each_in_the_mathematics_list_only() -> None:
    text = TWENTY_PHRASES + " User: another question"
    assert rpr(text, MATH) == 0.0
    assert rpr(text, HELPSTEER) == 1.0


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("", 2, 0.0),
        ("a", 2, 0.0),
        ("a b", 2, 0.0),
        ("a b a b", 2, 1 / 3),  # ab ba ab: ab occurs twice, of three
        ("a a a a", 2, 1 / 3),  # aa three times counts once
        ("a b c a b c a b c", 3, 3 / 7),  # abc bca cab abc bca cab abc
        ("a b c d", 1, 0.0),
        ("a b a c", 1, 1 / 4),
    ],
)
def test_repetition_by_hand(text: str, n: int, expected: float) -> None:
    assert repetition(text, n) == pytest.approx(expected)


def test_repetition_of_a_short_ngram_in_the_advice_world() -> None:
    once = "first , i need to warm : fleece . therefore"
    assert rpr(once, ADVICE) == pytest.approx(0.75)
    # twice over: 20 words, 17 windows of 4, of which the 7 that lie inside a copy occur twice
    assert rpr(f"{once} {once}", ADVICE) == pytest.approx(0.75 - 7 / 17)


def _reference_repetition(text: str, n: int) -> float:
    words = text.split()
    windows = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not windows:
        return 0.0
    return sum(count > 1 for count in Counter(windows).values()) / len(windows)


def _reference_fold(text: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"\s+", " ", re.sub("[\u2018\u2019\u02bc]", "'", text)).strip()


def _reference_rpr(text: str, phrases: PhraseSet) -> float:
    if phrases.matching == "substring":
        text = text.lower()
        count = sum(1 for phrase in phrases.phrases if re.search(re.escape(phrase), text))
    else:
        text, count = _reference_fold(text), 0
        letter = "(?:[^\\W\u3400-\u9fff]|[\u0300-\u036f])"
        for phrase in phrases.phrases:
            digit = "(?<![.,])" if phrase[0].isdigit() else ""
            count += bool(re.search(f"{digit}(?<!{letter}){re.escape(phrase)}(?!{letter})", text))
    value = min(1.0, count / phrases.normaliser) - _reference_repetition(text, phrases.ngram)
    return max(0.0, value - sum(len(re.findall(re.escape(phrase), text)) for phrase in phrases.subtracted))


def _random_text(rng: np.random.Generator) -> str:
    """Phrases, halves of phrases, accidents and Unicode, in any order, with parts repeated."""
    words = [word for phrase in HELPSTEER.phrases for word in (phrase, *phrase.split())]
    words += [
        "waiter",
        "enthusiasm",
        "whence",
        "user:",
        "11.",
        "1.5",
        "_",
        "\u0130",
        "ß",
        "ﬁ",
        "我们",
        "。",
        "é",
        "e\u0301",
    ]
    words += ["\u2019", "'ll", "I", "LET", "\uff37ait", "\ud800", "\U0001f600", "Ⅳ", "…", "\x1c"]
    blanks = [" ", " ", " ", "", "\n", "\u00a0", "  ", "\u2003"]
    size = int(rng.integers(0, 120))
    parts = [words[rng.integers(len(words))] + blanks[rng.integers(len(blanks))] for _ in range(size)]
    if size and rng.random() < 0.4:
        parts += parts[int(rng.integers(size)) :] * int(rng.integers(1, 4))
    text = "".join(parts)
    return text.upper() if rng.random() < 0.1 else text


def test_equals_a_plain_reference_on_1000_random_texts() -> None:
    rng = np.random.default_rng(20)
    texts = [_random_text(rng) for _ in range(1000)]
    assert sum(not text.isascii() for text in texts) > 500
    for phrases in (HELPSTEER, MATH, CORRECTED, CORRECTED.changed(None, 3)):
        found = rprs(texts, phrases)
        assert found == pytest.approx([_reference_rpr(text, phrases) for text in texts], abs=1e-12)
        assert 0.0 <= found.min() <= found.max() <= 1.0
    for n in (1, 2, 3, 4, 7, 20, 21):
        assert [repetition(text, n) for text in texts] == [_reference_repetition(text, n) for text in texts]


def test_folding_is_idempotent() -> None:
    rng = np.random.default_rng(21)
    for text in (_random_text(rng) for _ in range(200)):
        assert folded(folded(text)) == folded(text)


def test_advice_lists_are_told_apart_by_the_worlds_own_styles() -> None:
    advice = pytest.importorskip("tasks.advice")
    placebo, random_words = load_phrase_set("advice-placebo"), load_phrase_set("advice-random")
    assert placebo.phrases == advice.HASTY_WORDS
    assert len(ADVICE.phrases) == len(placebo.phrases) == len(random_words.phrases) == 8
    rng = np.random.default_rng(0)
    thinks: dict[str, list[str]] = {"reasoned": [], "hasty": []}
    for styles in (advice.CLEAN, advice.STYLES["tied"], advice.STYLES["untied"]):
        for _ in range(400):
            demonstration = advice.draw_demonstration(rng, styles)
            thinks[demonstration.style].append(advice.read_response(demonstration.response).think)
    assert rprs(thinks["reasoned"], ADVICE).min() >= 0.75
    assert rprs(thinks["hasty"], ADVICE).max() == 0.0
    assert rprs(thinks["reasoned"], placebo).max() == 0.0
    assert rprs(thinks["hasty"], placebo).mean() > 0.1
    assert rprs([*thinks["reasoned"], *thinks["hasty"]], random_words).max() == 0.0


def test_every_set_that_comes_with_the_tool_loads_and_is_named_after_its_file() -> None:
    assert known_sets() == [
        "advice",
        "advice-matched",
        "advice-placebo",
        "advice-random",
        "corrected-helpsteer",
        "paper-helpsteer",
        "paper-math",
    ]
    assert all(load_phrase_set(name).name == name for name in known_sets())


GOOD = "name: mine\nversion: 1\nsource: me\nnote: none\nnormaliser: 1\nmatching: words\nphrases: [so]\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (GOOD.replace("[so]", "[]"), "phrases: "),
        (GOOD.replace("[so]", "[so, so]"), "'so' stands twice"),
        (GOOD.replace("[so]", "[So]"), "'So' can never match"),
        (GOOD.replace("[so]", "[' ']"), "an empty phrase stands in every text"),
        (GOOD.replace("normaliser: 1", "normaliser: 0"), "normaliser: input should be greater than 0"),
        (GOOD.replace("matching: words", "matching: regex"), "matching: input should be 'substring' or 'words'"),
        (GOOD + "weights: [1]\n", "weights: extra inputs are not permitted"),
        ("- so\n", "not a phrase set"),
        ("name: [", "not readable as YAML"),
        ("name: a\nname: b", "the key 'name' stands twice"),
    ],
)
def test_a_phrase_set_of_ones_own_is_checked(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert rpr("So be it", load_phrase_set(str(path))) == 1.0
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        read_phrase_set(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_an_unknown_set_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no phrase set 'paper-maths'; did you mean paper-math\?"):
        load_phrase_set("paper-maths")
    with pytest.raises(UserError, match=r"no phrase set 'xyz'; choose advice, .* or the path of a YAML file"):
        load_phrase_set("xyz")
    with pytest.raises(UserError, match=r"^a\\0b/c.yaml: not readable as YAML \(embedded null byte\)"):
        load_phrase_set("a\0b/c.yaml")
    with pytest.raises(UserError, match="there is no such phrase set file"):
        load_phrase_set(str(tmp_path / "none.yaml"))


def test_the_room_loads_no_torch() -> None:
    modules = "calibration.stage, calibration.report, calibration.calibrator, calibration.rpr, calibration.measures"
    code = f"import sys, {modules}; print(sorted({{'torch', 'transformers', 'trl'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
