"""Commands that work on files instead of an experiment: `rewardladder <tool> PATH… key=value …`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from configs.errors import UserError
from configs.loader import Table, is_a_file, read_words

if TYPE_CHECKING:
    from calibration.calibrator import Calibrator
    from rm.serving.file_rewards import RungRewards
    from tasks.records import Response

Words = Sequence[str]


@dataclass(frozen=True)
class FileTool:
    """A tool that is a module with a table of settings and `run(paths, table)`; imported when it is called.

    `room` is the room whose table it takes, where its settings may be written `room.key=value` as in an experiment.
    """

    module: str
    table: str
    name: str
    room: str | None = None

    def __call__(self, words: Words) -> None:
        """Run it."""
        tool = import_module(self.module)
        paths, settings = read_words([self._without_room(word) for word in words], getattr(tool, self.table), self.name)
        tool.run(paths, settings)

    def _without_room(self, word: str) -> str:
        is_ours = self.room is not None and word.startswith(f"{self.room}.") and "=" in word and not is_a_file(word)
        return word.removeprefix(f"{self.room}.") if is_ours else word


class Tool(NamedTuple):
    """One tool.

    Attributes:
        what: what it does.
        arguments: its arguments in words.
        run: takes them.
        table: where its settings are described, `module:class`; a `FileTool` knows it itself.
    """

    what: str
    arguments: str
    run: Callable[[Words], None]
    table: str = ""


def settings_of(tool: Tool) -> str:
    """The description of a tool's settings, and their values where none are given."""
    file_tool = tool.run if isinstance(tool.run, FileTool) else None
    module, _, name = (f"{file_tool.module}:{file_tool.table}" if file_tool else tool.table).partition(":")
    table: type[Table] = getattr(import_module(module), name)
    described = inspect.cleandoc(table.__doc__ or "").partition("Attributes:")[2].strip("\n")
    given = [
        f"{field}={'' if value.is_required() else value.get_default(call_default_factory=True)}"
        for field, value in table.model_fields.items()
    ]
    return f"settings:\n{described}\n\nwhere none is given: {', '.join(given)}"


def speed(words: Words) -> None:
    """Training and scoring speed beside TRL's."""
    import rm.benchmarks.speed as tool

    tool.run(words)


def rehearse(words: Words) -> None:
    """A few steps of every stage of a recipe on random weights."""
    import curve.rehearsal.command as tool

    tool.run(words)


def serve(words: Words) -> None:
    """A rung behind HTTP, with calibrated rewards where its ladder was calibrated.

    The calibrator is the setting `calibrator=FOLDER`; without it, the one of the same run, if there is one.
    """
    import rm.serving.server as tool

    named = [word.partition("=")[2] for word in words if word.startswith("calibrator=")]
    paths, table = read_words([word for word in words if not word.startswith("calibrator=")], tool.ServeTable, "serve")
    calibrator = find_calibrator(paths, named[-1] if named else None)
    if calibrator is None:
        return tool.run(paths, table)
    from policy.adapters.served import ServedReward

    rewarding = ServedReward(Path(paths[0]), calibrator, table.response_format)
    return tool.run(paths, table, partial(calibrated, calibrator), rewarding)


def cells(words: Words) -> None:
    """One command a line for what of a sweep is missing."""
    import curve.sweep.cells_command as tool

    tool.run_words(words)


def score(words: Words) -> None:
    """Rungs over a file; with `calibrator=run`, or `calibrator=FOLDER` for one rung, rewards beside the scores."""
    import rm.serving.scoring as tool

    named = [word.partition("=")[2] for word in words if word.startswith("calibrator=")]
    paths, table = read_words([word for word in words if not word.startswith("calibrator=")], tool.ScoreTable, "score")
    tool.run(paths, table, partial(rewards_of_rung, named[-1]) if named else None)


def rewards_of_rung(named: str, rung: Path) -> RungRewards:
    """The calibrated rewards of a rung, by a folder, or by `run`: the calibrator of the rung's own run.

    Raises:
        UserError: there is none, or it is of another rung.
    """
    from rm.serving.file_rewards import RungRewards

    calibrator = find_calibrator([str(rung)], None if named == "run" else named)
    if calibrator is None:
        raise UserError(f"calibrator=run: the run of {rung} holds no calibrator of it; calibrate it, or name a folder")
    return RungRewards(calibrator.sha256, partial(calibrated, calibrator))


def find_calibrator(paths: Sequence[str], named: str | None) -> Calibrator | None:
    """The calibrator of a served rung: the named folder's, or `../../calibration/<rung>/` beside the ladder.

    Raises:
        UserError: the folder holds no calibrator, or one of another rung.
    """
    from calibration.calibrator import CALIBRATOR_FILE, Calibrator

    if len(paths) != 1:
        return None  # the tool itself asks for one rung
    if named == "":
        raise UserError("calibrator= is empty; name a folder with a calibration.json")
    rung = Path(paths[0]).expanduser()
    folder = Path(named).expanduser() if named else rung.absolute().parent.parent / "calibration" / rung.name
    if not named and not (folder / CALIBRATOR_FILE).exists():
        return None
    calibrator = Calibrator.load(folder)
    calibrator.refuse_other_rung(rung)
    return calibrator


def calibrated(calibrator: Calibrator, logits: Sequence[float], texts: Sequence[str]) -> list[float]:
    """Calibrated rewards of answers; a text with reasoning tags is taken apart, another is all answer."""
    return [calibrator.reward(logit, read_answer(text)).reward for logit, text in zip(logits, texts, strict=True)]


def read_answer(text: str) -> Response:
    """`<think> … </think><answer> … </answer>` where any of these tags stands in the text; else all of it is answer."""
    from policy.adapters.reading import read_any

    return read_any(text)


def tool_of(arguments: Words) -> tuple[str, Words] | None:
    """The tool that a command line names, and what it gives it; None where it names none."""
    for name in TOOLS:
        parts = name.split()
        if list(arguments[: len(parts)]) == parts:
            return name, arguments[len(parts) :]
    return None


def help_of(name: str) -> str:
    """What a tool does, its arguments and its settings."""
    tool = TOOLS[name]
    return f"usage: rewardladder {name} {tool.arguments}\n\n{tool.what}\n\n{settings_of(tool)}"


def run_tool(name: str, words: Words) -> None:
    """Run a tool, or print its help.

    Raises:
        UserError: what the tool refuses, or words that look like options.
    """
    if any(word in ("-h", "--help") for word in words):
        print(help_of(name))
        return
    if not words and not TOOLS[name].arguments.startswith("["):
        raise UserError(f"{name}: nothing to work on; write rewardladder {name} {TOOLS[name].arguments}")
    option = next((word for word in words if word.startswith("--")), None)
    if option:
        raise UserError(f"{name}: {option!r} is no setting; settings are written key=value, see rewardladder {name} -h")
    TOOLS[name].run(words)


TOOLS = {
    "cells": Tool(
        "one command a line for what of a sweep is missing, for xargs; or a script for SLURM",
        "x.yaml [room.key=value …] [sbatch=FILE] [gpus=0] [time=04:00:00] [at_once=N]",
        cells,
        "curve.sweep.cells_command:CellsTable",
    ),
    "audit": Tool(
        "what preference files hold, and which rows they share: exact, swapped, near",
        "train.jsonl validation.jsonl [dataset=nvidia/HelpSteer3] [output=audit.json] [key=value …]",
        FileTool("tasks.preference.audit", "AuditTable", "audit"),
    ),
    "score": Tool(
        "score a file of conversations with one or more rungs; goes on where it stopped",
        "RUNG [RUNG …] conversations.jsonl output=scores.jsonl [calibrator=run|FOLDER] [max_length=…] [key=value …]",
        score,
        "rm.serving.scoring:ScoreTable",
    ),
    "serve": Tool(
        "a rung behind HTTP: POST /score, POST /get_reward (OpenRLHF), GET /calibration, GET /health",
        "RUNG port=8000 [host=127.0.0.1] [calibrator=FOLDER] [api_key_env=NAME] [policy=FOLDER] [key=value …]",
        serve,
        "rm.serving.server:ServeTable",
    ),
    "benchmark": Tool(
        "score a rung on RewardBench 2, RM-Bench, JudgeBench, LLMBar or any pair file",
        "RUNG DATA [DATA …] [kind=auto] [output=figures.json] [items=items.jsonl] [key=value …]",
        FileTool("rm.benchmarks.accuracy", "BenchmarkTable", "benchmark"),
    ),
    "fit": Tool(
        "fit a map from logits to scores 0..1 and measure it on other prompts: NLL, Brier, ECE, AUC, diagram",
        "scores.jsonl [FILE …] kind=platt|…|all label=FIELD logit=FIELD [prompt=FIELD] [domain=FIELD] output=FOLDER",
        FileTool("calibration.fit", "FitTable", "fit"),
    ),
    "mine": Tool(
        "find the phrases that set one set of answers apart from another, and write them as a phrase set",
        "trained.jsonl base.jsonl field=FIELD [prompt=FIELD] [label=FIELD] output=phrases.yaml [key=value …]",
        FileTool("calibration.mining", "MineTable", "mine"),
    ),
    "samples": Tool(
        "what a reward did while a policy climbed it: order, rescues and spread by thirds of the training",
        "CELL [CELL …] [threshold=0.5] [gold_good=0.5] [output=samples.json] [seed=0]",
        FileTool("calibration.samples", "SamplesTable", "samples"),
    ),
    "rm check": Tool(
        "does a rung give the same logits alone, batched, padded, packed, saved and in bfloat16?",
        "RUNG [exact_bound=…] [bf16_bound=…] [key=value …]",
        FileTool("rm.check", "CheckTable", "rm check"),
    ),
    "judge validate": Tool(
        "how far a judge agrees with people, from stored texts or by asking it",
        "pairs.jsonl [FILE …] [judge.kind=openai judge.model=… store=FOLDER] [judges='[NAME]'] [report=page.html] "
        "[output=figures.json] [key=value …]",
        FileTool("judge.agreement.validate", "ValidateTable", "judge validate"),
    ),
    "judge answers": Tool(
        "let a judge compare any two files of answers to the same prompts",
        "A.jsonl B.jsonl output=FOLDER kind=openai model=… [max_cost=…] [key=value …]",
        FileTool("judge.answer_files", "AnswersTable", "judge answers", room="judge"),
    ),
    "judge compare": Tool(
        "all judged cells beside each other: equal length, ranking, Holm, equivalence",
        "RUN|CELL [CELL …] [margin=0.05] [style=true] [output=figures.json] [key=value …]",
        FileTool("judge.compare", "CompareTable", "judge compare"),
    ),
    "judge report": Tool(
        "a page of the most decisive, contested and order-inconsistent pairs",
        "runs/NAME/judge/CELL output=pairs.html [pairs=10]",
        FileTool("judge.report.page", "ReportTable", "judge report"),
    ),
    "audit-answers": Tool(
        "how often the checker of mathematics answers errs, by a second, independent one",
        "answers.jsonl [FILE …] [output=audit] [workers=2] [key=value …]",
        FileTool("tasks.mathematics.audit_answers", "AuditAnswersTable", "audit-answers"),
    ),
    "evaluate": Tool(
        "how often answers are right: greedy, avg@n, pass@k, maj@k with intervals, and differences by problem",
        "RUN|CELL|FILE [more …] [k=8] [greedy=true] [output=figures] [key=value …]",
        FileTool("judge.evaluation.command", "EvaluateTable", "evaluate"),
    ),
    "prompts": Tool(
        "the untrained base under every prompt and opening of its task",
        "x.yaml [prompts=[…]] [openings=[…]] [policy.n_eval_samples=4] [output=base] [key=value …]",
        FileTool("judge.evaluation.base_prompts", "PromptsTable", "prompts"),
    ),
    "strategy": Tool(
        "how answers are reached, by code or by language, before and after: shares, accuracies, transitions",
        "BEFORE [AFTER …] | counts.csv [by=style] [answers=greedy] [output=flows] [key=value …]",
        FileTool("tasks.strategy.report", "StrategyTable", "strategy"),
    ),
    "export": Tool(
        "a trained policy as a plain Transformers or PEFT folder, proven to give the same logits",
        "CELL output=FOLDER [merge=true|false] [dtype=…] [base=…]",
        FileTool("policy.export", "ExportTable", "export"),
    ),
    "export-prompts": Tool(
        "a run's prompts as parquet that verl and OpenRLHF train on",
        "RUN output=FOLDER [splits='[train, dev]'] [data_source=NAME]",
        FileTool("policy.adapters.prompts_export", "ExportPromptsTable", "export-prompts"),
    ),
    "best-of-n": Tool(
        "what a reward is worth on a policy's own answers: best-of-n curve, accuracy on pairs, spread",
        "CELL|FILE [rung=FOLDER] [calibrator=FOLDER] [n=[1,2,4,8]] [phases=3] [output=figures.json]",
        FileTool("policy.best_of_n", "BestOfNTable", "best-of-n"),
    ),
    "clipping-toy": Tool(
        "does clipping bias a policy whose rewards are coin flips, and which way? exact and simulated",
        "[probabilities=[0.85,0.1,0.05]] [epsilon=0.2] [updates=3] [same_groups=true] [output=toy] [key=value …]",
        FileTool("policy.clipping.toy", "ClippingToyTable", "clipping-toy"),
    ),
    "policy-speed": Tool(
        "how fast a policy's update is here, beside the same algorithm on TRL's padded path",
        "[algorithm=grpo|ppo] [shape=tiny|3b|7b] [rollout=replay|vllm] [output=figures.json] [key=value …]",
        FileTool("policy.speed.command", "PolicySpeedTable", "policy-speed"),
    ),
    "rehearse": Tool(
        "a few steps of every stage of a recipe on random weights of its shape: memory, seconds, hours",
        "RECIPE [shape=3b|7b] [memory_gib=24] [room.key=value …] [output=figures.json] [key=value …]",
        rehearse,
        "curve.rehearsal.command:RehearseTable",
    ),
    "rate": Tool(
        "a page on this machine on which a person rates pairs blind",
        "FOLDER rater=NAME [port=8001]",
        FileTool("judge.people.rating_page", "RateTable", "rate"),
    ),
    "plan": Tool(
        "how many prompts and seeds a difference of win rates takes to be seen",
        "[CELL …] [difference=0.05] [sd_seeds=…] [comparisons=…] [output=plan.json] [key=value …]",
        FileTool("judge.plan", "PlanTable", "plan"),
    ),
    "analyse": Tool(
        "figure, fits and claims again, from points alone; several files are one sweep",
        "points.csv [points.csv …] output=FOLDER [key=value …]",
        FileTool("curve.analysis.points_again", "AnalyseTable", "analyse"),
    ),
    "speed": Tool(
        "how fast reward models train and score here, beside TRL's trainer and a padded pipeline",
        "[shape=tiny|3b|7b] [prompts=prompts.jsonl] [memory_gib=…] [output=figures.json] [key=value …]",
        speed,
        "rm.benchmarks.random_material:SpeedTable",
    ),
}
