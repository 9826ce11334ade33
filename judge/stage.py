"""The stage `judge`: every finished policy cell against the baseline, in `runs/<name>/judge/<cell>/`.

`verdicts.jsonl` holds one row a pair and order, `outcomes.jsonl` one row a pair of answers, `summary.json` the rates.
Nothing in them depends on the clock, on the order in which replies came, or on how fast they were asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Experiment
from configs.records import read_json, write_json, write_jsonl
from configs.runfolder import Stage, is_finished, open_finished, run_stage
from configs.terminal import interval, say, show_table
from judge.answers import Pair, Question, pair_answers, settle
from judge.config import GOLD_MODEL, JudgeTable
from judge.equal_length import equal_length_record
from judge.evaluation.command import evaluate_judged, show_judged
from judge.judges import Court, Decide, open_judge, verdict_of
from judge.prompting import count_attempts, load_prompt
from judge.statistics import Estimate, cluster_bootstrap, compare, order_effects
from judge.verdicts import ORDERS, Outcome, Verdict, combine, shown
from rm.rung_digest import rung_digest
from tasks.records import Task, read_prompts

ROOM = "judge"
VERDICTS_FILE = "verdicts.jsonl"
OUTCOMES_FILE = "outcomes.jsonl"
SUMMARY_FILE = "summary.json"
DIGITS = 12
"""Results are rounded to so many decimals, so that another BLAS writes the same bytes."""


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
        pairs = pair_answers(folders["cell"], folders["baseline"], read_prompts(folders["tasks"], "eval"))
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
        evaluate_judged(inside, folders, experiment.tables["tasks"].get("task"), experiment.seed, table.resamples)
        return write_judgement(inside, cell, table, experiment.seed, pairs, sitting.decide)

    return run_stage(stage, work)


def write_judgement(
    inside: Path, cell: str, table: JudgeTable, seed: int, pairs: Sequence[Pair], decide: Decide
) -> dict[str, Any]:
    """Judge pairs and write the three files of a judgement; returns what its manifest says of it.

    Raises:
        UserError: requests failed that the next run may get answered; the files are there, with the others.
    """
    verdicts = judge_pairs(pairs, decide, f"judging {cell}")
    outcomes = [combine(verdicts[i], verdicts[i + 1], table.disagreement) for i in range(0, len(verdicts), len(ORDERS))]
    summary = summarise(cell, table, seed, pairs, verdicts, outcomes)
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


def summarise(
    cell: str,
    table: JudgeTable,
    seed: int,
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
    outcomes: Sequence[Outcome],
) -> dict[str, Any]:
    """The record of `summary.json`. The generators are keyed without the cell, so cells share their resamples."""
    comparison = compare(outcomes, keyed_rng(seed, "judge bootstrap"), table.resamples)
    orders = order_effects(verdicts, keyed_rng(seed, "judge bootstrap", "orders"), table.resamples)
    columns: list[list[float | None]] = [
        [pair.a.gold for pair in pairs],
        [pair.b.gold for pair in pairs],
        [None if pair.a.gold is None or pair.b.gold is None else pair.a.gold - pair.b.gold for pair in pairs],
        [pair.a.n_tokens for pair in pairs],
        [pair.b.n_tokens for pair in pairs],
    ]
    clusters = [pair.prompt.prompt_id for pair in pairs]
    gold, gold_baseline, gold_gain, length, length_baseline = cluster_bootstrap(
        columns, clusters, keyed_rng(seed, "judge bootstrap"), table.resamples
    )
    length_record = equal_length_record(pairs, outcomes, keyed_rng(seed, "judge bootstrap"), table.resamples)
    usage: Counter[str] = Counter()
    for verdict in {verdict.request: verdict for verdict in verdicts if verdict.request}.values():
        usage.update(verdict.usage or {})
    return {
        "cell": cell,
        "baseline": table.baseline,
        "judge": table.kind,
        "model": model_of(table),
        "models_reported": sorted({verdict.model for verdict in verdicts if verdict.model}),
        **_flat("quality", comparison.quality),
        "n_prompts": comparison.n_prompts,
        "n_pairs": comparison.n_pairs,
        "n_missing": comparison.n_missing,
        **_flat("net_win", comparison.net_win),
        "equal_length": _rounded_all(length_record),
        **_flat("win", comparison.win),
        **_flat("tie", comparison.tie),
        **_flat("lose", comparison.lose),
        "consistency": _rounded(orders.consistency),
        "n_both_orders": orders.n_both,
        "n_conflicts": orders.n_conflicts,
        "position_first": _rounded(orders.first_share),
        "position_first_lo": _rounded(orders.first_lo),
        "position_first_hi": _rounded(orders.first_hi),
        "n_decisive": orders.n_decisive,
        "verdicts": dict(sorted(Counter(verdict.status for verdict in verdicts).items())),
        "outcomes": dict(sorted(Counter(outcome.status for outcome in outcomes).items())),
        **_flat("gold_mean", gold),
        **_flat("gold_mean_baseline", gold_baseline),
        **_flat("gold_gain", gold_gain),
        "n_without_gold": sum(pair.a.gold is None for pair in pairs),
        **_flat("length_mean", length),
        **_flat("length_mean_baseline", length_baseline),
        "malformed": _share([pair.a.answer is None for pair in pairs]),
        "malformed_baseline": _share([pair.b.answer is None for pair in pairs]),
        "truncated": _share([pair.a.truncated for pair in pairs]),
        "truncated_baseline": _share([pair.b.truncated for pair in pairs]),
        "n_addressing_judge": count_attempts([pair.a.answer for pair in pairs]),
        "n_addressing_judge_baseline": count_attempts([pair.b.answer for pair in pairs]),
        "tokens": dict(sorted(usage.items())),
    }


def model_of(table: JudgeTable) -> str:
    """Who judges, in one word."""
    if table.kind == "rung" and table.rung is not None:
        return Path(table.rung).name
    return {"openai": table.model, "people": "people"}.get(table.kind, GOLD_MODEL)


def finished_cells(experiment: Experiment) -> list[str]:
    """The finished cells of the policy room, the baseline first."""
    baseline = experiment.table("judge", JudgeTable).baseline
    folder = experiment.folder / "policy"
    cells = sorted(path.name for path in folder.iterdir() if is_finished(path)) if folder.is_dir() else []
    return sorted(cells, key=lambda cell: cell != baseline)


def run(experiment: Experiment) -> list[dict[str, Any]]:
    """Judge every finished cell with one judge; returns their summaries, the baseline first."""
    cells = finished_cells(experiment)
    if not cells:
        raise UserError(
            f"{experiment.folder / 'policy'}: there is no finished cell to judge; run `rewardladder policy "
            f"{experiment.source}` first"
        )
    with Sitting(experiment, cells) as sitting:
        for cell in cells:
            judge_cell(experiment, cell, sitting)
    return [read_json(experiment.folder / ROOM / cell / SUMMARY_FILE) for cell in cells]


def show(experiment: Experiment) -> None:
    """Print one row a judged cell."""
    folder = experiment.folder / ROOM
    summaries = [
        read_json(folder / cell / SUMMARY_FILE) for cell in finished_cells(experiment) if is_finished(folder / cell)
    ]
    table = experiment.table("judge", JudgeTable)
    show_summaries(f"judge: {table.kind} against {table.baseline}  ({folder})", summaries)
    show_judged([folder / summary["cell"] for summary in summaries])


def show_summaries(title: str, summaries: Sequence[dict[str, Any]]) -> None:
    """Print one row a summary."""
    rows = [
        (
            summary["cell"],
            interval(summary["quality"], summary["quality_lo"], summary["quality_hi"]),
            _at_equal_length(summary),
            "/".join("–" if summary[rate] is None else f"{summary[rate]:.2f}" for rate in ("win", "tie", "lose")),
            summary["gold_mean"],
            summary["consistency"],
            summary["malformed"],
            summary["n_pairs"],
            summary["n_missing"] or None,
        )
        for summary in summaries
    ]
    columns = (
        "cell",
        "win rate, ties half",
        "at equal length",
        "win / tie / lose",
        "gold",
        "consistent",
        "malformed",
        "prompts",
        "missing",
    )
    show_table(title, columns, rows)


def _at_equal_length(summary: dict[str, Any]) -> str:
    found = summary.get("equal_length")  # which judgements of earlier versions lack
    return interval(found["quality"], found["quality_lo"], found["quality_hi"]) if found else "–"


def _load_task(experiment: Experiment) -> Task:
    """The task, imported only where gold decides: a task may need torch, a judge of other answers must not."""
    from tasks.table import load_task

    return load_task(experiment)


def _flat(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {
        name: _rounded(estimate.value),
        f"{name}_lo": _rounded(estimate.lo),
        f"{name}_hi": _rounded(estimate.hi),
    }


def _share(flags: Sequence[bool]) -> float | None:
    return _rounded(sum(flags) / len(flags)) if flags else None


def _rounded_all(record: dict[str, Any]) -> dict[str, Any]:
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in record.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
