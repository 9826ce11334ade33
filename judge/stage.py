"""The stage `judge`: every finished policy cell against the baseline, in `runs/<name>/judge/<cell>/`.

`verdicts.jsonl` holds one row a pair and order, `outcomes.jsonl` one row a pair of answers, `summary.json` the rates.
Nothing in them depends on the clock, on the order in which replies came, or on how fast they were asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json, write_json, write_jsonl
from configs.runfolder import Stage, is_finished, open_finished, run_stage
from configs.terminal import say
from judge.answers import DifferentPrompts, Pair, Question, count_unpaired, pair_answers, settle
from judge.config import JudgeTable, NothingAsked
from judge.evaluation.command import evaluate_judged, show_judged
from judge.judges import Court, Decide, open_judge, verdict_of
from judge.prompting import load_prompt
from judge.summaries import refuse_unreadable, show_summaries, summarise
from judge.verdicts import ORDERS, Verdict, combine, shown
from rm.rung_digest import rung_digest
from tasks.records import Task, read_prompts

ROOM = "judge"
VERDICTS_FILE = "verdicts.jsonl"
OUTCOMES_FILE = "outcomes.jsonl"
SUMMARY_FILE = "summary.json"


class Sitting:
    """One judge for as long as a process needs it; it is opened at the first pair that needs one.

    Args:
        experiment: the experiment.
        cells: what will be judged. An endpoint that costs is asked about all of them together, so that the preview is
            of all of them, and a batch holds them all.
        store: the folder of what was asked before; the judge's room where it is not given. Experiments that share it
            ask nothing twice, and a cap on money is of all of them.
    """

    def __init__(self, experiment: Experiment, cells: Sequence[str] = (), store: Path | None = None) -> None:
        self.experiment = experiment
        self.cells = cells
        self.store = store or experiment.folder / ROOM
        self.table = experiment.table("judge", JudgeTable)
        self._stack = ExitStack()
        self._decide: Decide | None = None

    def decide(self, questions: Sequence[Question], what: str) -> list[Verdict]:
        """The verdicts on questions that no rule has settled."""
        if not questions:
            return []
        if self._decide is None:
            warning = self.table.alias_warning()
            if warning:
                say(warning)
            court = Court(
                self.table,
                self.store,
                read_prompts(self.experiment.folder / "tasks", "eval"),
                partial(_load_task, self.experiment),
                self.experiment.tables["tasks"],
            )
            self._decide = self._stack.enter_context(open_judge(court))
            if self.table.kind in ("openai", "people"):
                together = [question for cell in self.cells for question in self._questions(cell)]
                if len(together) > len(questions):
                    self._decide(together, f"judging {len(self.cells)} cells")
        return self._decide(questions, what)

    def _questions(self, cell: str) -> list[Question]:
        """What a judge has to look at for a cell; nothing where it is judged already, or cannot be."""
        folders = folders_of(self.experiment, cell, self.table.baseline)
        if is_finished(self.experiment.folder / ROOM / cell) or not all(map(is_finished, folders.values())):
            return []
        try:
            pairs = pair_answers(folders["cell"], folders["baseline"], read_prompts(folders["tasks"], "eval"))
        except DifferentPrompts:
            return []  # said when it is this cell's turn
        return [Question(pair, order) for pair in pairs if settle(pair) is None for order in ORDERS]

    def __enter__(self) -> Sitting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()


def judge_cell(experiment: Experiment, cell: str, sitting: Sitting | None = None) -> dict[str, Any]:
    """Judge one policy cell against the baseline, or find it finished; returns the manifest.

    Args:
        experiment: the experiment, of which the tables `judge` and `tasks` are read.
        cell: a folder of `runs/<name>/policy/`; the baseline itself is allowed.
        sitting: a judge that is already at work, to be shared by several cells.

    Raises:
        UserError: an input is missing, unfinished or altered, the judge cannot be reached, or requests failed that the
            next run may get answered; what was answered is kept.
    """
    if sitting is None:
        with Sitting(experiment) as own:
            return judge_cell(experiment, cell, own)
    table = sitting.table
    folders = folders_of(experiment, cell, table.baseline)
    require_baseline(experiment, table.baseline)
    for folder in folders.values():
        open_finished(folder)
    settings = {**table.deciding(), "cell": cell}
    if "prompt" in settings:
        settings["prompt_text"] = load_prompt(table.prompt, table.prompt_file)
    if table.rung is not None:
        settings["rung_digest"] = rung_digest(Path(table.rung).expanduser())
    stage = Stage(ROOM, experiment.folder / ROOM / cell, settings, experiment.seed, folders)

    def work(inside: Path) -> dict[str, Any]:
        prompts = read_prompts(folders["tasks"], "eval")
        pairs = pair_answers(folders["cell"], folders["baseline"], prompts)
        n_unpaired = count_unpaired(folders["cell"], folders["baseline"])
        written = write_judgement(inside, cell, table, experiment.seed, pairs, sitting.decide, n_unpaired)
        evaluate_judged(inside, folders, experiment.tables["tasks"].get("task"), experiment.seed, table.resamples)
        return written

    return run_stage(stage, work)


def write_judgement(
    inside: Path,
    cell: str,
    table: JudgeTable,
    seed: int,
    pairs: Sequence[Pair],
    decide: Decide,
    n_unpaired: int = 0,
) -> dict[str, Any]:
    """Judge pairs and write the three files of a judgement; returns what its manifest says of it.

    Raises:
        UserError: requests failed that the next run may get answered; the files are there, with the others. Or no
            reply holds a verdict; then nothing is written, so that other settings may be tried on the stored replies.
    """
    verdicts = judge_pairs(pairs, decide, f"judging {cell}")
    refuse_unreadable(cell, table, verdicts)
    outcomes = [combine(verdicts[i], verdicts[i + 1], table.disagreement) for i in range(0, len(verdicts), len(ORDERS))]
    summary = summarise(cell, table, seed, pairs, verdicts, outcomes, n_unpaired)
    write_jsonl(inside / VERDICTS_FILE, (asdict(verdict) for verdict in verdicts))
    write_jsonl(inside / OUTCOMES_FILE, ({**asdict(o), "quality": o.quality} for o in outcomes))
    write_json(inside / SUMMARY_FILE, summary)
    failed = [verdict for verdict in verdicts if verdict.status == "error"]
    if failed:
        raise UserError(
            f"{inside}: {len(failed)} of {len(verdicts)} verdicts are missing, the last for {failed[-1].error}; "
            "the others are kept, run the same command again to ask for the missing ones"
        )
    return {"quality": summary["quality"], "n_prompts": summary["n_prompts"]}


def folders_of(experiment: Experiment, cell: str, baseline: str) -> dict[str, Path]:
    """What a cell's judgement is made from."""
    policy = experiment.folder / "policy"
    return {"tasks": experiment.folder / "tasks", "cell": policy / cell, "baseline": policy / baseline}


def judge_pairs(pairs: Sequence[Pair], decide: Decide, what: str) -> list[Verdict]:
    """Verdicts on all pairs, both orders of a pair one after the other; only what needs a judge is asked."""
    verdicts: dict[tuple[str, str], Verdict] = {}
    questions = []
    for pair in pairs:
        settled = settle(pair)
        for order in ORDERS:
            question = Question(pair, order)
            if settled is None:
                questions.append(question)
            else:
                status, winner = settled
                verdicts[pair.pair_id, order] = verdict_of(question, shown(winner, order), status)
    for verdict in decide(questions, what) if questions else []:
        verdicts[verdict.pair_id, verdict.order] = verdict
    return [verdicts[pair.pair_id, order] for pair in pairs for order in ORDERS]


def require_baseline(experiment: Experiment, baseline: str) -> None:
    """Refuse to judge before the baseline is made.

    Raises:
        UserError: it is not finished; which command makes it.
    """
    folder = experiment.folder / "policy" / baseline
    if not is_finished(folder):
        command = f"rewardladder policy {experiment.source}"
        how = f"`{command} policy.reward=untrained`" if baseline == "untrained" else f"`{command} …` with its settings"
        raise UserError(
            f"{folder}: the baseline that every cell is compared with is not made; make it with {how}, or name another "
            "finished cell in judge.baseline"
        )


def finished_cells(experiment: Experiment) -> list[str]:
    """The finished cells of the policy room, the baseline first."""
    baseline = experiment.table("judge", JudgeTable).baseline
    folder = experiment.folder / "policy"
    cells = sorted(path.name for path in folder.iterdir() if is_finished(path)) if folder.is_dir() else []
    return sorted(cells, key=lambda cell: cell != baseline)


def run(experiment: Experiment) -> list[dict[str, Any]]:
    """Judge every finished cell with one judge; returns their summaries, the baseline first.

    With `judge.ask=false` it says what would be asked, and returns the summaries of what is judged already.

    Raises:
        UserError: there is nothing to judge, the judge fails, or, when all others are judged and shown, cells did not
            answer the baseline's prompts.
    """
    cells = finished_cells(experiment)
    if not cells:
        raise UserError(
            f"{experiment.folder / 'policy'}: there is no finished cell to judge; run `rewardladder policy "
            f"{experiment.source}` first"
        )
    baseline = experiment.table("judge", JudgeTable).baseline
    require_baseline(experiment, baseline)
    left_out: dict[str, str] = {}
    with Sitting(experiment, cells) as sitting:
        # The baseline last: it needs no judge, and finished, it would bind the settings of one that cannot be read.
        for cell in sorted(cells, key=lambda cell: cell == baseline):
            try:
                judge_cell(experiment, cell, sitting)
            except DifferentPrompts as error:
                left_out[cell] = str(error)
            except NothingAsked as preview:
                say(str(preview))
                break
    if left_out:
        show(experiment)
        raise UserError(
            f"judge: {len(left_out)} of {len(cells)} cells are not judged, the others are: "
            + "; ".join(left_out.values())
        )
    folders = [experiment.folder / ROOM / cell for cell in cells]
    return [read_json(folder / SUMMARY_FILE) for folder in folders if is_finished(folder)]


def show(experiment: Experiment) -> None:
    """Print one row a judged cell."""
    folder = experiment.folder / ROOM
    summaries = [
        read_json(folder / cell / SUMMARY_FILE) for cell in finished_cells(experiment) if is_finished(folder / cell)
    ]
    if not summaries:
        return
    table = experiment.table("judge", JudgeTable)
    show_summaries(f"judge: {table.kind} against {table.baseline}  ({folder})", summaries)
    show_judged([folder / summary["cell"] for summary in summaries])


def _load_task(experiment: Experiment) -> Task:
    """The task, imported only where gold decides: a task may need torch, a judge of other answers must not."""
    from tasks.table import load_task

    return load_task(experiment)
