"""Who is evaluated: the answers of a run's cells, or of any file with problem, answer and responses, each marked.

A mark is one of five and nothing else: `right`; `wrong`; `malformed`, where no answer was found; `unparsable` and
`timeout`, where the grader could not say. Only `right` counts as right in a rate; the others are counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from configs.errors import UserError
from configs.loader import Table
from configs.records import read_json, read_jsonl
from configs.runfolder import MANIFEST, is_finished, open_finished
from tasks.records import read_prompts

Mark = Literal["right", "wrong", "malformed", "unparsable", "timeout"]
MARKS: tuple[Mark, ...] = get_args(Mark)
VERIFIABLE = ("arithmetic", "mathematics")
"""Tasks whose answers are right or wrong."""
ANSWERS_FILE, GREEDY_FILE = "answers.jsonl", "greedy.jsonl"
NESTED = ("variants/*", "prompts/*")
"""Where the runs of variants and of prompts lie in a run."""
ON_TEST_SET = "on_the_test_set"
SAMPLED, GREEDY = "sampled", "greedy"


@dataclass(frozen=True)
class Answer:
    """One marked answer; `text` is what was taken from the response, None where that is `malformed`."""

    text: str | None
    mark: Mark


@dataclass(frozen=True)
class Contestant:
    """Answers of one policy to problems.

    Attributes:
        name: short, and no other contestant's.
        source: the cell or the file.
        sampled: by problem, its samples; empty where there are only greedy answers.
        greedy: by problem, the answer at temperature 0; empty where none was asked for.
        sets: the set that each problem is from.
        prompt: how problems were put: the prompt's name, and the opening where there is one.
        kept: which state of the training it is; None where nobody knows, as of a file.
        on_test_set: whether that state was chosen on the problems of this evaluation.
    """

    name: str
    source: str
    sampled: Mapping[str, Sequence[Answer]]
    greedy: Mapping[str, Answer] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    kept: str | None = None
    on_test_set: bool = False

    @property
    def problems(self) -> list[str]:
        """Every problem that it answered."""
        return sorted({*self.sampled, *self.greedy})


def cells_in(path: Path) -> list[Path]:
    """The finished policy cells of a folder: itself, those of a room or a run, of a run's variants and prompts."""
    if is_finished(path) and (path / ANSWERS_FILE).exists():
        return [path]
    rooms = [path, path / "policy", *(place / "policy" for nested in NESTED for place in sorted(path.glob(nested)))]
    inside = [cell for room in rooms if room.is_dir() for cell in sorted(room.iterdir())]
    cells = [cell for cell in inside if is_finished(cell) and (cell / ANSWERS_FILE).exists()]
    if not cells:
        raise UserError(f"{path}: there is no finished policy cell; name runs/NAME, runs/NAME/policy/CELL or a file")
    return sorted(cells, key=lambda cell: cell.name != "untrained")


def read_cell(cell: Path, name: str) -> Contestant:
    """The answers of a finished cell.

    Raises:
        UserError: it is unfinished or altered, or its task has no answers that are right or wrong.
    """
    summary = open_finished(cell)["summary"]
    task_folder = cell.absolute().parent.parent / "tasks"
    settings = read_json(task_folder / MANIFEST)["made_from"]["settings"]
    if settings.get("task") not in VERIFIABLE:
        raise UserError(
            f"{cell}: answers of the task {settings.get('task')} are neither right nor wrong, so there is nothing to "
            f"evaluate here; this is for {' and '.join(VERIFIABLE)}, and rewardladder judge for the others"
        )
    prompts = read_prompts(task_folder)
    greedy = _rows_of(cell / GREEDY_FILE) if (cell / GREEDY_FILE).exists() else {}
    kept = summary.get("kept")
    opening = settings.get("opening")
    return Contestant(
        name=name,
        source=str(cell),
        sampled=_rows_of(cell / ANSWERS_FILE),
        greedy={problem: answers[0] for problem, answers in greedy.items()},
        sets={prompt.prompt_id: str(prompt.meta.get("set", settings["task"])) for prompt in prompts},
        prompt=f"{settings.get('prompt', 'plain')}{f' + {opening!r}' if opening else ''}",
        kept=None if kept is None else f"{kept['rule']}, step {kept['step']}",
        on_test_set=kept is not None
        and kept["rule"] == "best_dev_gold"
        and any(prompt.meta.get(ON_TEST_SET) for prompt in prompts if prompt.split == "dev"),
    )


def _rows_of(path: Path) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        gold, status = row.get("gold"), row.get("grade", "ok")
        if row["status"] == "malformed":
            mark: Mark = "malformed"
        elif gold in (0.0, 1.0):
            mark = "right" if gold else "wrong"
        elif status in ("unparsable", "timeout"):
            mark = status
        else:
            raise UserError(
                f"{path}, row {number}: gold is {gold!r} and its grade {status!r}, so the answer is neither right nor "
                "wrong; make the cell again with this version"
            )
        found.setdefault(row["prompt_id"], []).append(Answer(row["answer"], mark))
    return found


def short_names(paths: Sequence[Path]) -> list[str]:
    """As many of a path's last folders as tell them apart; rooms and the folders of variants are left out."""
    parts = [
        [part for part in path.absolute().parts if part not in ("policy", "variants", "prompts")] for path in paths
    ]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        names = [name.removesuffix(".jsonl") for name in names]
        if len(set(names)) == len(names):
            return names
    raise UserError("evaluate: a cell or a file is named twice")


class FileFields(Table):
    """Fields of a file of answers; found among the usual ones where not given.

    Attributes:
        text: the response, or a list of them.
        answer: the reference answer.
        right: a stored verdict that is believed; without it a response is checked where there is a reference.
        key: what tells problems apart.
        answer_in: where an answer counts, `anywhere` or only in a `box`, as `tasks.answer_in`.
    """

    text: str | None = None
    answer: str | None = None
    right: str | None = None
    key: str | None = None
    answer_in: Literal["anywhere", "box"] = "anywhere"


TEXT_FIELDS = ("responses", "response", "completions", "completion", "output")
REFERENCE_FIELDS = ("answer", "ground_truth", "gt", "final_answer", "target")
RIGHT_FIELDS = ("gold", "score", "is_correct", "correct")
KEY_FIELDS = ("prompt_id", "unique_id", "problem_id", "idx", "id", "problem", "question", "prompt")
SET_FIELDS = ("set", "dataset", "data_source")


@dataclass(frozen=True)
class Given:
    """One response of a file before it is marked."""

    problem: str
    set: str
    text: str
    reference: str | None
    right: bool | None


def read_given(path: Path, fields: FileFields) -> list[Given]:
    """The responses of a file; a row holds one, or a list of them.

    Raises:
        UserError: a row lacks a response, a key, or both a reference and a verdict; or a problem has two references.
    """
    from tasks.mathematics.extraction import reference_answer

    found: list[Given] = []
    references: dict[str, str | None] = {}
    for line, row in enumerate(read_jsonl(path), start=1):
        where = f"{path}, line {line}"
        texts = _named(row, fields.text, TEXT_FIELDS, "text", where)
        texts = texts if isinstance(texts, list) else [texts]
        if not texts:
            raise UserError(f"{where}: an empty list of responses; a problem without one is left out by its whole row")
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{where}: a response must be a text")
        key = str(_named(row, fields.key, KEY_FIELDS, "key", where))
        rights = row.get(fields.right) if fields.right else _first(row, RIGHT_FIELDS)
        listed = rights if isinstance(rights, list) else [rights] * len(texts)
        reference = reference_answer(row.get(fields.answer) if fields.answer else _first(row, REFERENCE_FIELDS))
        if len(listed) != len(texts):
            raise UserError(f"{where}: {len(texts)} responses and {len(listed)} verdicts")
        if fields.right and any(not isinstance(value, bool | int | float) for value in listed):
            raise UserError(f"{where}: {fields.right} must say whether the response is right, found {rights!r}")
        beyond = next((value for value in listed if isinstance(value, int | float) and not 0 <= value <= 1), None)
        if beyond is not None and (fields.right or reference is None):
            raise UserError(f"{where}: a verdict is true, false or from 0 to 1, found {beyond}")
        first = references.setdefault(key, reference)
        if first != reference and not _agree(first, reference):
            raise UserError(
                f"{where}: the problem {key[:60]!r} has the reference {reference!r}, and before {first!r}; name the "
                "field that tells problems apart, key=FIELD"
            )
        for text, value in zip(texts, listed, strict=True):
            right = None if not isinstance(value, bool | int | float) else value >= 0.5
            if reference is None and right is None:
                raise UserError(
                    f"{where}: neither a reference answer nor a verdict; name the field, answer=FIELD or right=FIELD "
                    f"(there are {', '.join(row)})"
                )
            reference = None if fields.right else reference
            found.append(Given(key, str(_first(row, SET_FIELDS) or path.stem), text, reference, right))
    if not found:
        raise UserError(f"{path}: holds no answers")
    return found


def _agree(one: str | None, other: str | None) -> bool:
    from tasks.mathematics.second_checker import second_opinion

    return one is None or other is None or second_opinion(one, other).equal is True


def mark_all(given: Sequence[Given], answer_in: str, workers: int, seconds: float) -> list[Answer]:
    """Every response marked, in its order: checked against its reference, or as its file says where it has none."""
    from tasks.mathematics.equality import Question
    from tasks.mathematics.extraction import find_answer
    from tasks.mathematics.workers import AnswerChecker

    places = [find_answer(one.text) for one in given]
    texts = [p.answer if p and (answer_in == "anywhere" or p.place == "box") else None for p in places]
    asked = {
        place: Question(gold=one.reference, pred=text)
        for place, (one, text) in enumerate(zip(given, texts, strict=True))
        if one.reference is not None and text is not None
    }
    with AnswerChecker(workers, seconds) as checker:
        checked = dict(zip(asked, checker.check_all(list(asked.values())), strict=True))
    answers = []
    for place, (one, text) in enumerate(zip(given, texts, strict=True)):
        mark: Mark
        if place in checked:
            mark = checked[place].verdict
        elif one.reference is None and one.right:
            mark = "right"
        else:
            mark = "malformed" if text is None else "wrong"
        answers.append(Answer(text, mark))
    return answers


def read_file(path: Path, name: str, fields: FileFields, greedy: bool, workers: int, seconds: float) -> Contestant:
    """The answers of a file, marked.

    Raises:
        UserError: a row cannot be used, or a problem has several greedy answers.
    """
    given = read_given(path, fields)
    sampled: dict[str, list[Answer]] = {}
    for one, answer in zip(given, mark_all(given, fields.answer_in, workers, seconds), strict=True):
        sampled.setdefault(one.problem, []).append(answer)
    sets = {one.problem: one.set for one in given}
    if not greedy:
        return Contestant(name, str(path), sampled, sets=sets)
    several = next((problem for problem, answers in sampled.items() if len(answers) > 1), None)
    if several is not None:
        raise UserError(f"{path}: greedy=true, and the problem {several[:60]!r} has {len(sampled[several])} answers")
    return Contestant(name, str(path), {}, {problem: answers[0] for problem, answers in sampled.items()}, sets)


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
