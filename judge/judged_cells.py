"""Reads judged cells of a run back: outcomes, verdicts, and the answers behind them. Nothing is asked or changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import UserError
from configs.records import read_json, read_jsonl
from configs.runfolder import is_finished, open_finished
from judge.answers import PAIRS_FILE, Pair, pair_answers, read_pairs
from judge.verdicts import Outcome, Verdict
from tasks.records import read_prompts

RecordT = TypeVar("RecordT", Outcome, Verdict)


@dataclass(frozen=True)
class JudgedCell:
    """One finished cell of the judge's room.

    Attributes:
        name: of the cell; `baseline`: of the cell it was compared with; `judge`: who judged.
        folder: `runs/<name>/judge/<cell>`, or the output of `judge answers`.
        outcomes: one a pair of answers.
    """

    name: str
    baseline: str
    judge: str
    folder: Path
    outcomes: list[Outcome]

    @property
    def ordered(self) -> bool:
        """Whether each order was read by itself; people rate a pair in one."""
        return not self.judge.startswith("people ")

    def verdicts(self) -> list[Verdict]:
        """Every verdict, both orders of a pair one after the other."""
        return _records(self.folder / "verdicts.jsonl", Verdict)

    def pairs(self) -> list[Pair]:
        """The answers of both cells with their prompts.

        Raises:
            UserError: the answers are not where the run had them, or do not belong together.
        """
        if (self.folder / PAIRS_FILE).is_file():
            return read_pairs(self.folder / PAIRS_FILE)
        run = self.folder.absolute().parent.parent
        folders = {part: run / part for part in ("tasks", f"policy/{self.name}", f"policy/{self.baseline}")}
        if not any(map(is_finished, folders.values())):
            raise UserError(
                f"{self.folder}: neither answers beside it ({PAIRS_FILE}) nor a run around it; a folder of `judge "
                "answers` that an earlier version made lacks them: delete it and run its command again, which asks "
                "nothing, for the replies lie beside it"
            )
        for folder in folders.values():
            open_finished(folder)
        task, cell, baseline = folders.values()
        return pair_answers(cell, baseline, read_prompts(task, "eval"))


def read_judged_cell(folder: Path) -> JudgedCell:
    """A finished cell.

    Raises:
        UserError: it is not finished, or altered.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; name runs/NAME/judge/CELL")
    open_finished(folder)
    summary: dict[str, Any] = read_json(folder / "summary.json")
    models = summary.get("models_reported") or [summary.get("model")]
    judge = f"{summary.get('judge')} ({', '.join(str(model) for model in models)})"
    outcomes = _records(folder / "outcomes.jsonl", Outcome)
    return JudgedCell(folder.absolute().name, str(summary["baseline"]), judge, folder, outcomes)


def read_judged_cells(paths: Sequence[str], command: str) -> list[JudgedCell]:
    """The cells of some folders: of cells, of judges' rooms or of runs; each cell once.

    Raises:
        UserError: a folder holds none, two cells have one name, or they were compared with different baselines.
    """
    cells: dict[str, JudgedCell] = {}
    for name in paths:
        folder = Path(name).expanduser()
        room = folder / "judge" if (folder / "judge").is_dir() else folder
        inside = sorted(path for path in room.iterdir() if path.is_dir()) if room.is_dir() else []
        found = [room] if is_finished(room) else [path for path in inside if is_finished(path)]
        if not found:
            raise UserError(f"{command}: {folder} holds no judged cell; name runs/NAME or runs/NAME/judge/CELL")
        for place in found:
            cell = read_judged_cell(place)
            if cell.name in cells and cells[cell.name].folder.absolute() != cell.folder.absolute():
                raise UserError(f"{command}: two cells are called {cell.name}; compare the cells of one run")
            cells[cell.name] = cell
    baselines = {cell.baseline for cell in cells.values()}
    if len(baselines) > 1:
        raise UserError(
            f"{command}: the cells were compared with different baselines ({', '.join(sorted(baselines))}); judge them "
            "against one"
        )
    return list(cells.values())


def _records(path: Path, kind: type[RecordT]) -> list[RecordT]:
    """Rows as records; columns that a record does not have (`quality`, which follows from the others) are left."""
    names = {field.name for field in fields(kind)}
    try:
        return [kind(**{key: value for key, value in row.items() if key in names}) for row in read_jsonl(path)]
    except TypeError as error:
        raise UserError(f"{path}: not rows of this tool ({error}); judge the cell again") from None
