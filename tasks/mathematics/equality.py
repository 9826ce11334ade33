"""Whether an answer equals the reference, by math-verify; without a time limit, hence only inside `worker`.

Two answers are equal if their texts are, or if they are the same whole number, or if math-verify says so. math-verify's
own time limit is a signal, which works in the main thread only, so it is switched off here and `workers` sets another.
"""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "unparsable", "timeout"]
Verdict = Literal["right", "wrong", "unparsable", "timeout"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "unparsable", "timeout")

_NUMERAL = re.compile(r"[-+]?(?:[0-9]{1,3}(?:[ ,][0-9]{3})+|[0-9]+)(?:\.[0-9]+)?%?")
_WHOLE = re.compile(r"[-+]?[0-9]{1,15}")
_SCIENTIFIC = re.compile(r"(?<![0-9A-Za-z.\\])([-+]?[0-9]+(?:\.[0-9]+)?)[eE]([-+]?[0-9]{1,3})(?![0-9A-Za-z])")
CHOICES = "ABCDEFGHIJ"
_CHOICE = re.compile(rf"[\s$(]*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{{)?[\s(]*([{CHOICES}])(?![A-Za-z0-9_^])")
"""A choice: `B`, `(B) 45`, `\\textbf{(B)}`."""
SMALL = 1e-2
"""Below it `precision` decimals are too few: 3e-19 and 4e-19 have the same six."""
SMALL_TOLERANCE = 1e-4
"""Relative, for such references."""


@dataclass(frozen=True)
class Comparison:
    """Whether two answers are equal.

    Attributes:
        equal: None where `status` says that it could not be found out.
        status: `unparsable`: the reference is an expression and the answer cannot be read as one; `timeout`: the
            comparison was ended at its limit of time or memory.
    """

    equal: bool | None
    status: Status

    @property
    def verdict(self) -> Verdict:
        """The comparison in one word."""
        return ("right" if self.equal else "wrong") if self.status == "ok" else self.status


RIGHT, WRONG = Comparison(True, "ok"), Comparison(False, "ok")
UNPARSABLE, TIMEOUT = Comparison(None, "unparsable"), Comparison(None, "timeout")


@dataclass(frozen=True)
class Question:
    """One comparison. math-verify is not symmetric, hence the names.

    Attributes:
        gold: the reference answer.
        pred: the answer under judgement.
        precision: decimals to which numbers must agree.
        strict: whether the names of variables matter and sets differ from tuples.
        set_relations: whether `-2 <= x <= 7` is the interval `[-2, 7]`.
    """

    gold: str
    pred: str
    precision: int = 6
    strict: bool = True
    set_relations: bool = True

    def as_record(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def compare_texts(question: Question) -> Comparison | None:
    """What can be said without math-verify: equal texts, whole numbers, choices by letter; None for all else."""
    gold, pred = squeezed(question.gold), squeezed(question.pred)
    if gold == pred:
        return RIGHT
    chosen = _CHOICE.match(question.pred) if len(gold) == 1 and gold in CHOICES else None
    if chosen:
        return RIGHT if chosen[1] == gold else WRONG
    if _WHOLE.fullmatch(gold) and _WHOLE.fullmatch(pred):
        return RIGHT if int(gold) == int(pred) else WRONG
    return None


def compare_by_math_verify(question: Question) -> Comparison:
    """The verdict of math-verify; may take for ever."""
    # Its warning that time limits are off is this module's docstring.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from math_verify import verify

    gold_forms, pred_forms = _parsed(question.gold), _parsed(question.pred)
    equal = verify(
        gold_forms,
        pred_forms,
        float_rounding=question.precision,
        strict=question.strict,
        allow_set_relation_comp=question.set_relations,
        timeout_seconds=None,
    )
    if equal and not _small_numbers_agree(gold_forms, pred_forms):
        return WRONG
    if not equal and (not pred_forms or (_has_expression(gold_forms) and not _has_expression(pred_forms))):
        return UNPARSABLE
    return RIGHT if equal else WRONG


def squeezed(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def _parsed(text: str) -> list[Any]:
    """math-verify's readings of an answer: expressions, and the text where it has none.

    Bare LaTeX is put between dollars, or only the numbers in it would be found. A numeral is not, because `1 000` is
    one number in a text and a product in a formula. `1,22` is a list of two numbers, as competitions write it. A
    dollar sign before an amount is dropped. `3e-5` is a power of ten, not a product with e.
    """
    from math_verify import parse

    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text.replace("\\$", "").strip())
    bare = all(mark not in text for mark in ("$", "\\boxed", "\\(", "\\["))
    return list(parse(f"${text}$" if bare and not _NUMERAL.fullmatch(text) else text, parsing_timeout=None))


def _small_numbers_agree(gold_forms: list[Any], pred_forms: list[Any]) -> bool:
    """False where the reference is a number so small that math-verify's rounding makes it 0, and no form is near it."""
    golds, preds = _numbers(gold_forms), _numbers(pred_forms)
    small = [gold for gold in golds if 0 < abs(gold) < SMALL]
    return not small or not preds or any(abs(a - b) <= SMALL_TOLERANCE * abs(a) for a in small for b in preds)


def _numbers(forms: list[Any]) -> list[complex]:
    values = []
    for form in forms:
        if getattr(form, "is_number", False):
            try:
                values.append(complex(form.evalf(15)))
            except (TypeError, ValueError, OverflowError):
                continue
    return values


def _has_expression(forms: list[Any]) -> bool:
    return any(not isinstance(form, str) for form in forms)
