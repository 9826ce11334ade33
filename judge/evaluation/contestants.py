"""Who is evaluated: the answers of a run's cells, or of any file with problem, answer and responses, each marked.

What a mark is and where it comes from is said in `tasks.mathematics.answer_files`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import UserError
from configs.records import read_json, read_jsonl
from configs.runfolder import MANIFEST, is_finished, open_finished
from tasks.mathematics.answer_files import OF_THE_RUN, Answer, FileFields, Mark, mark_all, read_given, sources_of
from tasks.pairing import ANSWERS_FILE, GREEDY_FILE, Identity, identities_beside, identity_of
from tasks.records import read_prompts

VERIFIABLE = ("arithmetic", "mathematics")
"""Tasks whose answers are right or wrong."""
NESTED = ("variants/*", "prompts/*")
"""Where the runs of variants and of prompts lie in a run."""
ON_TEST_SET = "on_the_test_set"
SAMPLED, GREEDY = "sampled", "greedy"


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
        identities: what tells each problem from others; one that is not there is known by its name alone.
        verdicts: where the marks come from, in words.
    """

    name: str
    source: str
    sampled: Mapping[str, Sequence[Answer]]
    greedy: Mapping[str, Answer] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    kept: str | None = None
    on_test_set: bool = False
    identities: Mapping[str, Identity] = field(default_factory=dict)
    verdicts: str = OF_THE_RUN

    @property
    def problems(self) -> list[str]:
        """Every problem that it answered."""
        return sorted({*self.sampled, *self.greedy})

    @property
    def identified(self) -> dict[str, Identity]:
        """The identity of every problem that it answered."""
        return {problem: self.identities.get(problem, Identity()) for problem in self.problems}


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
        identities={prompt.prompt_id: identity_of(prompt) for prompt in prompts},
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


def read_file(path: Path, name: str, fields: FileFields, greedy: bool, workers: int, seconds: float) -> Contestant:
    """The answers of a file, marked.

    Raises:
        UserError: a row cannot be used, or a problem has several greedy answers.
    """
    given = read_given(path, fields, identities_beside(path))
    sampled: dict[str, list[Answer]] = {}
    for one, answer in zip(given, mark_all(given, fields.answer_in, workers, seconds), strict=True):
        sampled.setdefault(one.problem, []).append(answer)
    several = next((problem for problem, answers in sampled.items() if len(answers) > 1), None)
    if greedy and several is not None:
        raise UserError(f"{path}: greedy=true, and the problem {several[:60]!r} has {len(sampled[several])} answers")
    return Contestant(
        name=name,
        source=str(path),
        sampled={} if greedy else sampled,
        greedy={problem: answers[0] for problem, answers in sampled.items()} if greedy else {},
        sets={one.problem: one.set for one in given},
        identities={one.problem: one.identity for one in given},
        verdicts=sources_of(given),
    )
