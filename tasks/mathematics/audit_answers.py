"""How often the checker of answers errs, by a second opinion: `rewardladder audit-answers FILE… output=audit`.

A line holds a reference and an answer (`gold`, `pred`), or a reference (`answer`, `gt`, …) and a completion (`response`
or `completion`) whose answer is looked for. Both checkers judge every line: math-verify in processes that are killed at
their limit, and `second_checker`, which shares no code with it. Counted are right, wrong, unparsable, timeout and no
answer, by pairs of verdicts. Where a line has a verdict of its own (`equal`, `reviewed_equal`, `score`, `is_correct`),
false negatives and false positives of both checkers are estimated against it; that verdict may be a machine's.
Disagreements go to `<output>.jsonl`, one a line, to be read by a person.

    rewardladder audit-answers pairs.jsonl output=audit workers=2
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from configs.errors import UserError
from configs.loader import Table
from configs.records import place_to_write, read_jsonl, write_json, write_jsonl
from configs.terminal import interval, say, show_table
from tasks.mathematics.equality import CHOICES, Question
from tasks.mathematics.extraction import extract_answer, reference_answer
from tasks.mathematics.second_checker import second_opinion
from tasks.mathematics.workers import DEFAULT_SECONDS, AnswerChecker
from tasks.strategy.transitions import Share, share

GOLD_FIELDS = ("gold_raw", "gold", "answer", "final_answer", "ground_truth", "gt")
PRED_FIELDS = ("pred",)
TEXT_FIELDS = ("response", "completion")
LABEL_FIELDS = ("reviewed_equal", "equal", "score", "is_correct")
NO_ANSWER = "no answer"


class AuditAnswersTable(Table):
    """Settings of the audit.

    Attributes:
        workers: comparisons at a time.
        seconds: limit of each comparison by math-verify.
        gold, pred, text, label: fields of a line; found among the usual ones where not given.
        shown: so many disagreements are printed.
        output: a place without ending: `<output>.json` for the counts, `<output>.jsonl` for the disagreements.
    """

    workers: int = Field(1, ge=1, le=64)
    seconds: float = Field(DEFAULT_SECONDS, gt=0, le=60)
    gold: str | None = None
    pred: str | None = None
    text: str | None = None
    label: str | None = None
    shown: int = Field(10, ge=0, le=1000)
    output: str | None = None


@dataclass(frozen=True)
class Line:
    """One line to be judged; `label` is its own verdict where it has one."""

    file: str
    line: int
    gold: str
    pred: str | None
    label: bool | None


@dataclass(frozen=True)
class Judged:
    """A line with both verdicts."""

    line: Line
    first: str
    second: str

    @property
    def agree(self) -> bool:
        """Whether both say right, or neither does, and neither failed."""
        return self.first == self.second


def run(paths: Sequence[str], table: AuditAnswersTable) -> None:
    """Audit files and print the report.

    Raises:
        UserError: a file cannot be read or has no such fields.
    """
    output = place_to_write(table.output, "output") if table.output else None
    if not paths:
        raise UserError("audit-answers: nothing to work on; name files of answers")
    lines = [line for path in paths for line in read_lines(Path(path), table)]
    with AnswerChecker(table.workers, table.seconds) as checker:
        judged = judge(lines, checker)
        killed = {name: checker.counts[name] for name in ("workers_killed", "workers_died")}
    pairs = Counter((one.first, one.second) for one in judged)
    errors = {name: error_rates(judged, name) for name in ("first", "second")}
    disagreements = [one for one in judged if not one.agree]
    _show(judged, pairs, errors, disagreements[: table.shown])
    if output:
        report = {
            "n": len(judged),
            "verdicts": [{"first": a, "second": b, "n": n} for (a, b), n in pairs.most_common()],
            "against_labels": {
                name: {kind: asdict(value) for kind, value in rates.items()} for name, rates in errors.items()
            },
            **killed,
        }
        write_json(output.with_name(f"{output.name}.json"), report)
        rows = [{**asdict(one.line), "first": one.first, "second": one.second} for one in disagreements]
        write_jsonl(output.with_name(f"{output.name}.jsonl"), rows)
        say(f"wrote {output}.json, {output}.jsonl ({len(rows)} disagreements)")


def read_lines(path: Path, table: AuditAnswersTable) -> list[Line]:
    """The lines of a file.

    Raises:
        UserError: a line has no reference, or neither an answer nor a completion.
    """
    found = []
    for number, row in enumerate(read_jsonl(path), start=1):
        gold = reference_answer(_first(row, table.gold, GOLD_FIELDS))
        if gold is None:
            raise UserError(
                f"{path}, line {number}: no reference answer in {table.gold or ', '.join(GOLD_FIELDS)}; "
                f"name the field with gold=FIELD (there are {', '.join(row)})"
            )
        text = _first(row, table.text, TEXT_FIELDS) if table.pred is None else None
        pred = extract_answer(text) if isinstance(text, str) else reference_answer(_first(row, table.pred, PRED_FIELDS))
        if text is None and pred is None:
            wanted = table.pred or table.text or ", ".join(PRED_FIELDS + TEXT_FIELDS)
            raise UserError(
                f"{path}, line {number}: no answer in {wanted}; name the field with pred=FIELD or text=FIELD "
                f"(there are {', '.join(row)})"
            )
        label = _first(row, table.label, LABEL_FIELDS)
        label = label[0] if isinstance(label, list) and len(label) == 1 else label
        found.append(
            Line(str(path), number, gold, pred, bool(label) if isinstance(label, bool | int | float) else None)
        )
    if not found:
        raise UserError(f"{path}: holds no answers")
    return found


def judge(lines: Sequence[Line], checker: AnswerChecker) -> list[Judged]:
    """Both verdicts of every line; `no answer` where there is none to judge."""
    asked = [line for line in lines if line.pred is not None]
    firsts = iter(checker.check_all([Question(line.gold, line.pred or "") for line in asked]))
    return [
        Judged(line, NO_ANSWER, NO_ANSWER)
        if line.pred is None
        else Judged(line, next(firsts).verdict, _second(line.gold, line.pred))
        for line in lines
    ]


def error_rates(judged: Sequence[Judged], which: str) -> dict[str, Share]:
    """False negatives among the lines labelled equal, false positives among those labelled unequal.

    Unparsable answers, timeouts and missing ones count as not right, because they are not rewarded.
    """
    right = {
        label: [getattr(one, which) == "right" for one in judged if one.line.label is label] for label in (True, False)
    }
    return {
        "false_negatives": share(len(right[True]) - sum(right[True]), len(right[True])),
        "false_positives": share(sum(right[False]), len(right[False])),
    }


def _second(gold: str, pred: str) -> str:
    if len(gold) == 1 and gold in CHOICES and pred.strip(" ().$")[:1] == gold:
        return "right"
    return second_opinion(gold, pred).verdict


def _first(row: dict[str, Any], named: str | None, usual: Sequence[str]) -> Any:
    return next((row[name] for name in ([named] if named else usual) if row.get(name) is not None), None)


def _show(
    judged: Sequence[Judged],
    pairs: Counter[tuple[str, str]],
    errors: dict[str, dict[str, Share]],
    disagreements: Sequence[Judged],
) -> None:
    shares = [(both, n, share(n, len(judged))) for both, n in pairs.most_common()]
    show_table(
        f"Verdicts on {len(judged)} answers",
        ("math-verify", "second opinion", "n", "share [95%]"),
        [(a, b, n, interval(of.value, of.lo, of.hi)) for (a, b), n, of in shares],
    )
    if any(one.line.label is not None for one in judged):
        show_table(
            "Against the labels of the files",
            ("checker", "error", "of", "rate"),
            [
                (name, kind.replace("_", " "), rate.n, interval(rate.value, rate.lo, rate.hi))
                for name, rates in errors.items()
                for kind, rate in rates.items()
            ],
        )
    for one in disagreements:
        say(
            f"{one.line.file}, line {one.line.line}: {one.line.gold!r} and {one.line.pred!r}: {one.first}, {one.second}"
        )
