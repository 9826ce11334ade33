"""Files of answers, as every tool reads them: a problem, a reference or a verdict, one or more responses a row.

One rule says where a verdict comes from, for every tool: a response is checked against the row's reference answer. A
verdict that the file stores is believed where `right=FIELD` names it, or where there is no reference. Rows that a cell
of a run wrote have the run's grades, and their `answer` is the response's own.

A mark is one of five and nothing else: `right`; `wrong`; `malformed`, where no answer was found; `unparsable` and
`timeout`, where the grader could not say. Only `right` counts as right in a rate; the others are counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from configs.errors import UserError
from configs.loader import Table
from configs.records import read_jsonl
from tasks.pairing import Identity, digest_of, same_reference, statement_in

Mark = Literal["right", "wrong", "malformed", "unparsable", "timeout"]
MARKS: tuple[Mark, ...] = get_args(Mark)
CHECKED, OF_THE_RUN, UNKNOWN = "checked", "of the run", "unknown"
"""Where a verdict comes from; a stored one is `stored in FIELD`."""

TEXT_FIELDS = ("responses", "response", "completions", "completion", "output", "answer_text")
REFERENCE_FIELDS = ("answer", "ground_truth", "gt", "final_answer", "target")
RIGHT_FIELDS = ("gold", "score", "is_correct", "correct")
KEY_FIELDS = ("prompt_id", "unique_id", "problem_id", "idx", "id", "problem", "question", "prompt")
STATEMENT_FIELDS = ("problem", "question", "prompt")
SET_FIELDS = ("set", "dataset", "data_source")
OF_A_CELL = frozenset({"prompt_id", "sample", "completion", "answer", "status"})
"""Columns by which a row is known as one that a cell of a run wrote."""
GOOD_FROM = 0.5


class FileFields(Table):
    """Fields of a file of answers; found among the usual ones where not given.

    Attributes:
        text: the response, or a list of them.
        answer: the reference answer.
        right: a stored verdict that is believed; without it a response is checked where there is a reference.
        key: a name for the problem, by which the responses of a file belong together.
        answer_in: where an answer counts, `anywhere` or only in a `box`, as `tasks.answer_in`.
    """

    text: str | None = None
    answer: str | None = None
    right: str | None = None
    key: str | None = None
    answer_in: Literal["anywhere", "box"] = "anywhere"


@dataclass(frozen=True)
class Answer:
    """One marked answer; `text` is what was taken from the response, None where that is `malformed`."""

    text: str | None
    mark: Mark


@dataclass(frozen=True)
class Given:
    """One response of a file before it is marked.

    Attributes:
        problem: the name of its problem.
        identity: what tells the problem from others.
        set: which set the problem is from.
        sample: which of the problem's responses it is; None where the row does not say.
        text: the response.
        reference: to check against; None where the verdict is known otherwise.
        mark: where nothing is checked; None where nothing is known, too.
        source: where the verdict comes from (`CHECKED` and others).
        style: the task's own word for how it was reached.
        taken: of a cell's row, the answer that the run took from the response; None where it took none.
    """

    problem: str
    identity: Identity
    set: str
    sample: int | None
    text: str
    reference: str | None
    mark: Mark | None
    source: str
    style: str | None
    taken: str | None


def read_given(path: Path, fields: FileFields, known: Mapping[str, Identity], unmarked: bool = False) -> list[Given]:
    """The responses of a file; a row holds one, or a list of them.

    Args:
        path: JSON Lines.
        fields: where given, the names of its columns.
        known: identities of problems that the file only names; those of a cell's run.
        unmarked: whether a response may have neither a reference nor a verdict.

    Raises:
        UserError: a row lacks a response, a key, or both a reference and a verdict; or a name has two problems.
    """
    found: list[Given] = []
    identities: dict[str, Identity] = {}
    for line, row in enumerate(read_jsonl(path), start=1):
        where = f"{path}, line {line}"
        texts = _texts(row, fields, where)
        key = str(_named(row, fields.key, KEY_FIELDS, "key", where))
        identity = known.get(key) or _identity(row, fields)
        before = identities.setdefault(key, identity)
        if before.digest != identity.digest or not same_reference(before.reference, identity.reference):
            what = "text" if before.digest != identity.digest else "reference"
            shown = "" if what == "text" else f" {identity.reference!r}, and before {before.reference!r}"
            raise UserError(
                f"{where}: the problem {key[:60]!r} has {'another' if what == 'text' else 'the'} {what}{shown}; name "
                "the field that tells problems apart, key=FIELD"
            )
        name = str(_first(row, SET_FIELDS) or path.stem)
        sample = row["sample"] if isinstance(row.get("sample"), int) else None
        for place, (text, verdict) in enumerate(zip(texts, _verdicts(row, fields, len(texts), where), strict=True)):
            if verdict.source == UNKNOWN and not unmarked:
                raise UserError(
                    f"{where}: neither a reference answer nor a verdict; name the field, answer=FIELD or right=FIELD "
                    f"(there are {', '.join(row)})"
                )
            found.append(
                Given(
                    problem=key,
                    identity=identity,
                    set=name,
                    sample=place if len(texts) > 1 else sample,
                    text=text,
                    reference=verdict.reference,
                    mark=verdict.mark,
                    source=verdict.source,
                    style=row["style"] if isinstance(row.get("style"), str) else None,
                    taken=row["answer"] if verdict.source == OF_THE_RUN else None,
                )
            )
    if not found:
        raise UserError(f"{path}: holds no answers")
    return found


def mark_all(given: Sequence[Given], answer_in: str, workers: int, seconds: float) -> list[Answer]:
    """Every response marked, in its order: checked against its reference, or as its file says where it has none."""
    texts = [_taken(one, answer_in) for one in given]
    checked = _checked(given, texts, workers, seconds)
    answers = []
    for place, (one, text) in enumerate(zip(given, texts, strict=True)):
        mark: Mark
        if place in checked:
            mark = checked[place]
        elif one.mark == "right" or (one.mark is not None and text is not None):
            mark = one.mark
        else:
            mark = "malformed" if text is None else "wrong"
        answers.append(Answer(text, mark))
    return answers


def sources_of(given: Sequence[Given]) -> str:
    """Where the verdicts come from, with counts where there are several sources."""
    counted = Counter(one.source for one in given)
    return (
        next(iter(counted), UNKNOWN)
        if len(counted) < 2
        else ", ".join(f"{n} {source}" for source, n in counted.items())
    )


@dataclass(frozen=True)
class _Verdict:
    reference: str | None
    mark: Mark | None
    source: str


def _verdicts(row: Mapping[str, Any], fields: FileFields, n: int, where: str) -> list[_Verdict]:
    """That of each response of a row, by the rule of this module."""
    own = row.keys() >= OF_A_CELL
    reference = None if own and not fields.answer else _reference(row, fields)
    column = fields.right or next((name for name in RIGHT_FIELDS if row.get(name) is not None), None)
    stored = row.get(column) if column else None
    listed = stored if isinstance(stored, list) else [stored] * n
    if len(listed) != n:
        raise UserError(f"{where}: {n} responses and {len(listed)} verdicts")
    if fields.right and any(not isinstance(value, bool | int | float) for value in listed):
        raise UserError(f"{where}: {fields.right} must say whether the response is right, found {stored!r}")
    if reference is not None and not fields.right:
        return [_Verdict(reference, None, CHECKED)] * n
    beyond = next((value for value in listed if isinstance(value, int | float) and not 0 <= value <= 1), None)
    if beyond is not None:
        raise UserError(f"{where}: a verdict is true, false or from 0 to 1, found {beyond}")
    source = OF_THE_RUN if own and column in (None, "gold") else f"stored in {column}"
    if own and stored is None and row.get("grade") in ("unparsable", "timeout"):
        return [_Verdict(None, row["grade"], source)] * n
    return [
        _Verdict(None, "right" if value >= GOOD_FROM else "wrong", source)
        if isinstance(value, bool | int | float)
        else _Verdict(None, None, UNKNOWN)
        for value in listed
    ]


def _taken(one: Given, answer_in: str) -> str | None:
    from tasks.mathematics.extraction import find_answer

    if one.source == OF_THE_RUN:
        return one.taken
    found = find_answer(one.text)
    return found.answer if found and (answer_in == "anywhere" or found.place == "box") else None


def _checked(given: Sequence[Given], texts: Sequence[str | None], workers: int, seconds: float) -> dict[int, Mark]:
    from tasks.mathematics.equality import Question
    from tasks.mathematics.workers import AnswerChecker

    asked = {
        place: Question(gold=one.reference, pred=text)
        for place, (one, text) in enumerate(zip(given, texts, strict=True))
        if one.reference is not None and text is not None
    }
    if not asked:
        return {}
    with AnswerChecker(workers, seconds) as checker:
        found = checker.check_all(list(asked.values()))
    return {place: one.verdict for place, one in zip(asked, found, strict=True)}


def _texts(row: Mapping[str, Any], fields: FileFields, where: str) -> list[str]:
    texts = _named(row, fields.text, TEXT_FIELDS, "text", where)
    texts = texts if isinstance(texts, list) else [texts]
    if not texts:
        raise UserError(f"{where}: an empty list of responses; a problem without one is left out by its whole row")
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{where}: a response must be a text, found {type(text).__name__}")
    return texts


def _identity(row: Mapping[str, Any], fields: FileFields) -> Identity:
    text = next((found for name in STATEMENT_FIELDS if (found := statement_in(row.get(name)))), None)
    reference = None if row.keys() >= OF_A_CELL else _reference(row, fields)
    return Identity(None if text is None else digest_of(text), reference)


def _reference(row: Mapping[str, Any], fields: FileFields) -> str | None:
    from tasks.mathematics.extraction import reference_answer

    return reference_answer(row.get(fields.answer) if fields.answer else _first(row, REFERENCE_FIELDS))


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _named(row: Mapping[str, Any], named: str | None, usual: Sequence[str], setting: str, where: str) -> Any:
    value = _first(row, [named] if named else usual)
    if value is None:
        raise UserError(
            f"{where}: no {named or ' or '.join(usual)}; name the field with {setting}=FIELD (there are "
            f"{', '.join(row) or 'none'})"
        )
    return value
