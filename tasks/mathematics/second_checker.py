"""A second opinion on answers, independent of math-verify and sympy: normal forms, then values at random points.

Two formulas are equal if they agree at keyed random points of their variables; sets and lists are compared without
order, tuples and intervals with it, and equations up to a factor. It exists to find the errors of the first checker
(and has its own): see `audit_answers`. It never takes long: formulas are evaluated in floating point, within limits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from configs.keyed import keyed_rng
from tasks.mathematics.equality import RIGHT, UNPARSABLE, WRONG, Comparison, squeezed
from tasks.mathematics.latex_value import Formula, Number, Unreadable

TOLERANCE = 1e-6
"""Relative; a reference with n decimals is met by what rounds to it only if it differs by no more."""
POINTS = 6
LEAST_POINTS = 2
"""So many points must have a value on both sides."""
LONGEST = 2000
MOST_PARTS = 60

_DROPPED = re.compile(
    r"(?<!\\)\\(?:left|right|big|Big|bigg|Bigg|displaystyle|limits|quad|qquad|,|!|;|:|\s)|~|\^\s*\{?\s*\\circ\s*\}?"
    r"|\\(?:degree|%|\$)|%|\$"
)
_UNIT = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|rm|operatorname)\s*\{([^{}]*)\}(?:\s*\^\s*\{?[0-9]\}?)?")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:(?:,|\{,\}|\\,|\\ )[0-9]{3})+(?![0-9]|,[0-9])")
_SCIENTIFIC = re.compile(r"(?<![0-9A-Za-z.\\])([0-9]+(?:\.[0-9]+)?)[eE]([-+]?[0-9]{1,3})(?![0-9A-Za-z])")
_MIXED = re.compile(r"(?<![0-9.^_{}])([0-9]+)\s*\\frac\s*(\{[0-9]+\}|[0-9])\s*(\{[0-9]+\}|[0-9])")
_NAMED = re.compile(r"^\s*(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?\s*(?:\([A-Za-z]\))?\s*(?:=|\\in(?![a-z])|:)\s*(?=.)")
_WORDS = re.compile(r"(?=.*[A-Za-z]{3})[A-Za-z][A-Za-z .'-]*")
_MATRIX = re.compile(r"\\begin\{([pbv]?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_OPEN, _CLOSE = ("(", "[", "{", "\\{"), (")", "]", "}", "\\}")


def second_opinion(gold: str, pred: str) -> Comparison:
    """Whether an answer equals the reference; `unparsable` where either cannot be read and the texts differ.

    An answer of words that differ is `wrong`, not unparsable.
    """
    if max(len(gold), len(pred)) > LONGEST:
        return RIGHT if squeezed(gold) == squeezed(pred) else UNPARSABLE
    one, other = normal_form(gold), normal_form(pred)
    if squeezed(one) == squeezed(other):
        return RIGHT
    if _WORDS.fullmatch(one):
        return RIGHT if squeezed(one).lower() == squeezed(other).lower() else WRONG
    try:
        return RIGHT if _equal(one, other) else WRONG
    except (Unreadable, RecursionError):
        return UNPARSABLE


def normal_form(text: str) -> str:
    """The text without what does not change an answer: layout, units, degree and currency signs, a name before `=`."""
    text = text.strip().removesuffix(".").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    boxed = re.fullmatch(r"\\boxed\s*\{(.*)\}", text.strip("$ "), re.DOTALL)
    text = boxed[1] if boxed else text
    text = _THOUSANDS.sub(lambda match: re.sub(r"[^0-9]", "", match[0]), text)
    only_words = _UNIT.sub(r"\1", text).strip(" ()$")
    if "\\" in text and (_WORDS.fullmatch(only_words) or (len(only_words) == 1 and only_words.isalpha())):
        return only_words
    text = _DROPPED.sub(" ", _UNIT.sub(" ", text))
    for written, meant in (
        ("\\leq", "\\le"),
        ("\\geq", "\\ge"),
        ("\\lbrace", "\\{"),
        ("\\rbrace", "\\}"),
        ("−", "-"),
        ("×", "\\times "),
    ):
        text = text.replace(written, meant)
    for written, meant in (("\\infty", "\\hbar_{inf}"), ("∞", "\\hbar_{inf}"), ("π", "\\pi "), ("\\vert", "|")):
        text = text.replace(written, meant)
    text = re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", text)
    text = re.sub(r"(?<![\\A-Za-z])(sqrt|sin|cos|tan|ln|log|exp)(?=\s*[({])", r"\\\1", text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text).replace("**", "^")
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    if "\\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # a backslash that was escaped once too often
    text = _SCIENTIFIC.sub(r"\1*10^{\2}", text)
    text = _MIXED.sub(r"(\1+\\frac\2\3)", text)
    named = _NAMED.match(text)
    if named and text.count("=") + len(re.findall(r"\\in(?![a-z])", text)) <= 1:
        text = text[named.end() :]
    return " ".join(text.split())


def _equal(one: str, other: str) -> bool:
    """Whether two normal forms are equal.

    Raises:
        Unreadable: either cannot be read.
    """
    for split in (r"\\cup|∪", r"\\cap"):
        parts, others = re.split(split, one), re.split(split, other)
        if len(parts) > 1 or len(others) > 1:
            return _same_members(parts, others)
    matrices = _MATRIX.fullmatch(one.strip()), _MATRIX.fullmatch(other.strip())
    if any(matrices):
        return all(matrices) and _same_table(matrices[0][2], matrices[1][2])  # type: ignore[index]
    if "\\pm" in one or "\\pm" in other:
        return _same_members(_both_signs(one), _both_signs(other))
    found, others_found = _members(one), _members(other)
    if found is not None or others_found is not None:
        return _equal_groups(found or ("", [one], ""), others_found or ("", [other], ""))
    sides, other_sides = one.split("="), other.split("=")
    if len(sides) == len(other_sides) == 2:
        return _same_value(f"{sides[0]}-({sides[1]})", f"{other_sides[0]}-({other_sides[1]})", up_to_factor=True)
    if len(sides) > 1 or len(other_sides) > 1:
        return _same_value(sides[-1], other_sides[-1])
    return _same_value(one, other)


def _equal_groups(one: tuple[str, list[str], str], other: tuple[str, list[str], str]) -> bool:
    """Two groups of members: `{}` and bare lists have no order, brackets have one and must be the same."""
    (opening, members, closing), (other_opening, other_members, other_closing) = one, other
    loose = {"", "\\{", "{"}
    if opening in loose and other_opening in loose:
        return _same_members(members, other_members)
    if (opening, closing) != (other_opening, other_closing) or len(members) != len(other_members):
        return False
    return all(_equal(a, b) for a, b in zip(members, other_members, strict=True))


def _same_members(one: Sequence[str], other: Sequence[str]) -> bool:
    if len(one) != len(other) or len(one) > MOST_PARTS:
        return False
    left = [part.strip() for part in other]
    for part in one:
        match = next((candidate for candidate in left if _equal(part.strip(), candidate)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same_table(one: str, other: str) -> bool:
    rows, others = (
        [[cell.strip() for cell in row.split("&")] for row in re.split(r"\\\\", body) if row.strip()]
        for body in (one, other)
    )
    if [len(row) for row in rows] != [len(row) for row in others]:
        return False
    pairs = zip((c for row in rows for c in row), (c for row in others for c in row), strict=True)
    return all(_equal(a, b) for a, b in pairs)


def _members(text: str) -> tuple[str, list[str], str] | None:
    """The brackets around a text and what its commas separate; None where there is no comma outside of brackets."""
    text = text.strip()
    opening = next((mark for mark in ("\\{", "(", "[") if text.startswith(mark)), "")
    closing = next((mark for mark in ("\\}", ")", "]") if text.endswith(mark)), "")
    inside = text[len(opening) : len(text) - len(closing)] if opening and closing else ""
    if opening and closing and _balanced_inside(inside):
        parts = _split(inside)
        if len(parts) > 1 or opening == "\\{":
            return opening, parts, closing
        return None
    parts = _split(text)
    return ("", parts, "") if len(parts) > 1 else None


def _balanced_inside(inside: str) -> bool:
    """Whether the first bracket of `(…)` is closed by its last, of which this is the inside."""
    depth = 0
    for mark in re.findall(r"\\[{}]|[()\[\]{}]", inside):
        depth += 1 if mark in _OPEN else -1
        if depth < 0:
            return False
    return depth == 0


def _split(text: str) -> list[str]:
    """The pieces between commas, semicolons and `and` outside of brackets."""
    pieces, piece, depth = [], "", 0
    for mark in re.findall(r"\\[{}]|\\[a-zA-Z]+|\band\b|\bor\b|.", text, re.DOTALL):
        depth += mark in _OPEN
        depth -= mark in _CLOSE
        if depth == 0 and mark in (",", ";", "and", "or"):
            pieces.append(piece)
            piece = ""
        else:
            piece += mark
    return [part.strip() for part in [*pieces, piece] if part.strip()]


def _both_signs(text: str) -> list[str]:
    """The members of a list, those with a plus-minus sign twice."""
    found = _members(text)
    parts = found[1] if found else [text]
    return [part.replace("\\pm", sign) for part in parts for sign in ("+-" if "\\pm" in part else " ")]


def _same_value(one: str, other: str, up_to_factor: bool = False) -> bool:
    """Whether two formulas agree at random points; up to one common factor for the two sides of equations.

    Raises:
        Unreadable: either is no formula, or both have no value at most of the points.
    """
    first, second = Formula(one), Formula(other)
    names = sorted({*first.variables, *second.variables})
    ratios = []
    for trial in range(POINTS if names else 1):
        rng = keyed_rng(0, "second opinion", trial)
        drawn = rng.uniform(0.3, 2.7, len(names))
        point: dict[str, Number] = {name: complex(value) for name, value in zip(names, drawn, strict=True)}
        try:
            a, b = first.at(point), second.at(point)
            apart, size = abs(a - b), max(abs(a), abs(b))
        except (ArithmeticError, ValueError) as error:
            if isinstance(error, Unreadable):
                raise
            continue
        if not up_to_factor and apart > TOLERANCE * size:
            return False
        ratios.append(a / b if b else None)
    if len(ratios) < (LEAST_POINTS if names else 1):
        raise Unreadable("no value at the points tried")
    if up_to_factor:
        known = [ratio for ratio in ratios if ratio]
        return len(known) == len(ratios) and all(abs(r - known[0]) <= TOLERANCE * abs(known[0]) for r in known)
    return True
