"""RPR is fast on long answers and equal to a plain reference on random texts of every length."""

from __future__ import annotations

import re
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from calibration.folding import folded
from calibration.phrase_set import PhraseSet, load_phrase_set
from calibration.rpr import phrases_in, repetition, rpr
from calibration.rpr_speed import SpeedTable, made_answers, megabytes_a_second, run

HELPSTEER = load_phrase_set("paper-helpsteer")
CORRECTED = load_phrase_set("corrected-helpsteer")
FREQUENT = CORRECTED.changed("n", 5, cap=3)
SENTENCE = "the bridge of sand is old and nobody knew why it moved so far"
ODD = (
    *("waiter", "enthusiasm", "whence", "hi\u00a0will", "e\u0301", "wait\u0301", "\u0130", "\u1e9e", "\ufb01rst"),
    *("\uff37ait", "我们wait一下", "让我想想，", "等一下。", "\uff57ait", "รอก่อนwait", "お待ち下さい", "\U0001f600"),
    *("\U0001f468\u200d\U0001f469", "\ud800", "\udfff", "\x00", "\x1c", "\x85", "\u2028", "\u3000", "\u200b", "Ⅳ", "…"),
    *("_", "1.5", "11.", "2.1.", "let\u2019s", "first\u02bc", "don't", "step\t1", "3.", "4.\n\n", "user:"),
)
BLANKS = (" ", " ", " ", " ", "", "\n", "  ", "\n\n", "\t", "\u00a0", "\u3000", "\x1f", "\u2003 ")


def plain_rpr(text: str, phrase_set: PhraseSet) -> float:
    """The definition, character by character and window by window."""
    if phrase_set.matching == "substring":
        text = text.lower()
        places = {phrase: [i for i in range(len(text)) if text.startswith(phrase, i)] for phrase in phrase_set.phrases}
    else:
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = " ".join("".join("'" if c in "\u2018\u2019\u02bc" else c for c in text).split())
        places = {
            phrase: [i for i in range(len(text)) if text.startswith(phrase, i) and whole(text, i, i + len(phrase))]
            for phrase in phrase_set.phrases
        }
    counted = 0
    for phrase, starts in places.items():
        number, free = 0, 0
        for start in starts:
            if start >= free:
                number, free = number + 1, start + len(phrase)
        counted += min(number, phrase_set.cap or 1)
    words, n = text.split(), phrase_set.ngram
    windows = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    seen: dict[tuple[str, ...], int] = {}
    for window in windows:
        seen[window] = seen.get(window, 0) + 1
    repeated = sum(number > 1 for number in seen.values()) / len(windows) if windows else 0.0
    return max(0.0, min(1.0, counted / phrase_set.normaliser) - repeated)


def whole(text: str, start: int, end: int) -> bool:
    def joins(beside: str, edge: str) -> bool:
        if beside == "" or not (beside.isalnum() or beside == "_" or unicodedata.category(beside).startswith("M")):
            return False
        return not (spaceless(beside) or spaceless(edge))

    before, after = text[:start][-1:], text[end : end + 1]
    if text[start].isdigit() and before in (".", ",") and before:
        return False
    if (text[start].isalnum() or text[start] == "_") and joins(before, text[start]):
        return False
    return not joins(after, text[end - 1])


def spaceless(character: str) -> bool:
    if 0x0E00 <= ord(character) <= 0x0EFF:
        return True
    return unicodedata.name(character, "").startswith(("CJK ", "HIRAGANA", "KATAKANA", "THAI", "LAO"))


def random_text(rng: np.random.Generator) -> str:
    pieces = [*HELPSTEER.phrases, *ODD, *SENTENCE.split()]
    size = int(rng.choice([0, 3, 30, 200, 600]))
    parts = [pieces[rng.integers(len(pieces))] + BLANKS[rng.integers(len(BLANKS))] for _ in range(size)]
    if size and rng.random() < 0.5:
        start = int(rng.integers(size))
        parts += parts[start : start + int(rng.integers(80))] * int(rng.integers(1, 4))
    text = "".join(parts)
    if rng.random() < 0.3:
        text = text.encode("ascii", "ignore").decode()
    return text.upper() if rng.random() < 0.1 else text


def test_equals_the_definition_on_1000_random_texts_short_and_long() -> None:
    rng = np.random.default_rng(4)
    texts = [random_text(rng) for _ in range(1000)]
    assert sum(len(text) > 1000 for text in texts) > 300
    assert sum(text.isascii() and len(text) > 1000 for text in texts) > 80
    for number, text in enumerate(texts):
        phrase_set = (HELPSTEER, CORRECTED, FREQUENT)[number % 3]
        assert rpr(text, phrase_set) == pytest.approx(plain_rpr(text, phrase_set), abs=1e-12), repr(text)


def test_every_character_that_splits_words_is_a_blank() -> None:
    blanks = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    words = [f"w{i}" for i in range(5)] * 2
    for blank in blanks:
        assert repetition(blank.join(words), 5) == 1 / 6, f"U+{ord(blank):04X}"
        assert repetition(f"{blank}{blank} ".join(words), 5) == 1 / 6
        assert folded(f"a{blank}{blank}b{blank}") == "a b"


def test_a_long_text_of_one_word_and_a_text_without_blanks() -> None:
    assert repetition("wait " * 200_000, 20) == 1 / (200_000 - 19)
    assert rpr("x" * 300_000 + "wait", HELPSTEER) == 0.05
    assert rpr("\ud800" * 5000 + "等", CORRECTED) == 0.0


def words_a_second(texts: list[str]) -> float:
    """MB a CPU second of plain Python over the same texts: how fast this machine is at this moment."""
    began, size = time.process_time(), 0
    for text in texts:
        seen: dict[str, int] = {}
        for word in text.lower().split():
            seen[word] = seen.get(word, 0) + 1
        size += len(text.encode())
    return size / 1e6 / (time.process_time() - began)


@pytest.mark.parametrize(("language", "name", "bound", "yardstick"), [
    ("english", "paper-helpsteer", 20.0, 42.0),
    ("chinese", "paper-helpsteer", 16.0, 240.0),
    ("english", "corrected-helpsteer", 14.0, 42.0),
    ("chinese", "corrected-helpsteer", 12.0, 240.0),
])  # fmt: skip
def test_long_answers_are_measured_fast_in_cpu_seconds(
    language: str, name: str, bound: float, yardstick: float
) -> None:
    """The bound holds on an idle core, which counts words at `yardstick` MB a second; a slower one is allowed less.

    Caches and hyper-threads shared with other processes are not CPU seconds of ours, so both are measured in turns.
    """
    phrase_set = load_phrase_set(name)
    texts = made_answers(language, 4000, 250, phrase_set.phrases)
    assert len(phrase_set.phrases) == 53
    assert 3900 < np.mean([len(text.encode()) for text in texts]) < 4500
    assert np.mean([len(phrases_in(text, phrase_set)) for text in texts]) > 4
    turns = [(words_a_second(texts), megabytes_a_second(texts, phrase_set)) for _ in range(5)]
    assert max(found / min(1.0, counted / yardstick) for counted, found in turns) >= bound, turns


def test_the_command_prints_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run([], SpeedTable(answers=5))
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("paper-helpsteer", "chinese", "MB per CPU second"))
    path = tmp_path / "mine.jsonl"
    path.write_text('{"response": "wait, let me check"}\n', encoding="utf-8")
    run([str(path)], SpeedTable(phrases=("paper-math",)))
    assert re.search(r"paper-math .* 40 .* mine\.jsonl .* 1 ", capsys.readouterr().out)
