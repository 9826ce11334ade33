"""The answer that a completion gives, and the reference answer that a row of data gives.

In this order: the last balanced, not empty `\\boxed{…}` (of what follows the last `<answer>`, if there is one in it);
what stands between answer tags, closed or cut off by a stop string; a sentence `… answer is …`; what
follows the last `####` (GSM8K); the last number.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, NamedTuple

GSM8K_MARK = "####"
Place = Literal["box", "tag", "sentence", "mark", "number"]
"""Where an answer was found."""
LONGEST_TAGGED = 300
"""Characters. What a tag holds beyond it is prose, in which the answer is the last number."""

_BOX = re.compile(r"\\f?boxed\s*\{")
_OPEN_TAG, _CLOSED_TAG = re.compile(r"<answer>", re.IGNORECASE), re.compile(r"</answer>", re.IGNORECASE)
_SENTENCE = re.compile(r"answer is:?\s*", re.IGNORECASE)
_FORMULA = re.compile(r"\$+((?:\\.|[^$\\])+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=\S)\.?\s*I hope|\.(?=\s|$)|\n|(?<=\S)\.\$|<", re.IGNORECASE)
_NUMBER = re.compile(
    r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3}(?![0-9A-Za-z]))?|-?\.[0-9]+"
)
_PROSE = re.compile(r"(?<![A-Za-z])(?!sin|cos|tan|cot|sec|csc|log|exp|sqrt|arc|pi\b)[A-Za-z]{3,}")


class Found(NamedTuple):
    """An answer and where it stood."""

    answer: str
    place: Place


def extract_answer(completion: str) -> str | None:
    """The answer that a completion gives (module docstring); None if it gives none."""
    found = find_answer(completion)
    return None if found is None else found.answer


def find_answer(completion: str) -> Found | None:
    """The answer with its place."""
    tagged = _tagged(completion)
    boxed = (tagged is not None and last_boxed(tagged)) or last_boxed(completion)
    if boxed:
        return Found(boxed, "box")
    if tagged:
        answer = _without_prose(tagged)
        return Found(answer, "tag") if answer else None
    announced = _announced(completion)
    if announced:
        return Found(announced, "sentence")
    if GSM8K_MARK in completion:
        tail = completion.rpartition(GSM8K_MARK)[2].strip()
        if tail:
            return Found(tail.splitlines()[0].strip(), "mark")
    numbers = _NUMBER.findall(completion)
    return Found(numbers[-1], "number") if numbers else None


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{…}` whose braces balance and that is not empty; `\\{` and `\\}` do not count."""
    limit = len(text)
    for match in reversed(list(_BOX.finditer(text))):
        depth, at = 1, match.end()
        # An earlier box that is still open at a later one encloses it or was never closed; each character is read once
        # more at most, so that a completion of nothing but open boxes costs no quadratic time.
        while at < limit and depth:
            if text[at] == "\\":
                at += 1
            elif text[at] in "{}":
                depth += 1 if text[at] == "{" else -1
            at += 1
        inside = text[match.end() : at - 1].strip()
        if depth == 0 and inside:
            return inside
        limit = match.start() if depth else limit
    return None


def reference_answer(value: Any) -> str | None:
    """The answer column as text; None if there is none.

    `27.0` is 27, of a GSM8K solution it is what follows its `####`, of a list with one entry that entry, and dollar
    signs around the whole are left out.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    if GSM8K_MARK in text:
        text = text.rpartition(GSM8K_MARK)[2]
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1] and text[-2] != "\\":
        text = text[1:-1].strip()
    return text or None


def perturbed_answer(answer: str) -> str:
    """A wrong answer that looks like `answer`: its first digit is another, or it has a part more where it has none."""
    digit = re.search(r"[0-9]", answer)
    if digit is None:
        return f"{answer} + 1"
    return f"{answer[: digit.start()]}{(int(digit[0]) + 1) % 10}{answer[digit.end() :]}"


def _tagged(completion: str) -> str | None:
    """What stands after the last `<answer>` up to its end tag or, where a stop string cut that off, to the end."""
    opened = list(_OPEN_TAG.finditer(completion))
    if not opened:
        return None
    return _CLOSED_TAG.split(completion[opened[-1].end() :], maxsplit=1)[0].strip()


def _announced(completion: str) -> str | None:
    """What the last `answer is …` announces, up to the end of the sentence."""
    announcements = list(_SENTENCE.finditer(completion))
    if not announcements:
        return None
    rest = completion[announcements[-1].end() :]
    formula = _FORMULA.match(rest)
    if formula:
        return next(filter(None, formula.groups())).strip(" .") or None
    return _without_prose(_SENTENCE_END.split(rest, maxsplit=1)[0].strip().strip("*$ "))


def _without_prose(text: str) -> str | None:
    """A short text that is an answer as it stands; of prose the last number; None where there is neither."""
    if len(text) <= LONGEST_TAGGED and ("\\" in text or not _PROSE.search(text)):
        return text or None
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else text if text and len(text) <= LONGEST_TAGGED else None
