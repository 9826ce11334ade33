"""Commands that work on files instead of an experiment: `rewardladder <tool> PATH… key=value …`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from configs.errors import UserError
from configs.loader import read_words

if TYPE_CHECKING:
    from calibration.calibrator import Calibrator
    from tasks.records import Response

Words = Sequence[str]


class Tool(NamedTuple):
    """One tool: what it does, its arguments in words, and the function that takes them."""

    what: str
    arguments: str
    run: Callable[[Words], None]


def file_tool(module: str, table: str, name: str) -> Callable[[Words], None]:
    """A tool that is a module with a table of settings and `run(paths, table)`; imported when it is called."""

    def run(words: Words) -> None:
        tool = import_module(module)
        paths, settings = read_words(words, getattr(tool, table), name)
        tool.run(paths, settings)

    return run


def speed(words: Words) -> None:
    """Training and scoring speed beside TRL's."""
    import rm.benchmarks.speed as tool

    tool.run(words)


def serve(words: Words) -> None:
    """A rung behind HTTP, with calibrated rewards where its ladder was calibrated.

    The calibrator is the setting `calibrator=FOLDER`; without it, the one of the same run, if there is one.
    """
    import rm.serving.server as tool

    named = [word.partition("=")[2] for word in words if word.startswith("calibrator=")]
    paths, table = read_words([word for word in words if not word.startswith("calibrator=")], tool.ServeTable, "serve")
    calibrator = find_calibrator(paths, named[-1] if named else None)
    tool.run(paths, table, None if calibrator is None else partial(calibrated, calibrator))


def find_calibrator(paths: Sequence[str], named: str | None) -> Calibrator | None:
    """The calibrator of a served rung: the named folder's, or `../../calibration/<rung>/` beside the ladder.

    Raises:
        UserError: the folder holds no calibrator, or one of a rung with other units.
    """
    from calibration.calibrator import CALIBRATOR_FILE, Calibrator
    from rm.units import ScoreUnits

    if len(paths) != 1:
        return None  # the tool itself asks for one rung
    rung = Path(paths[0]).expanduser()
    folder = Path(named).expanduser() if named else rung.absolute().parent.parent / "calibration" / rung.name
    if not named and not (folder / CALIBRATOR_FILE).exists():
        return None
    calibrator = Calibrator.load(folder)
    calibrator.refuse_other_units(ScoreUnits.load(rung), str(rung))
    return calibrator


def calibrated(calibrator: Calibrator, logits: Sequence[float], texts: Sequence[str]) -> list[float]:
    """Calibrated rewards of answers; a text with reasoning tags is taken apart, another is all answer."""
    return [calibrator.reward(logit, read_answer(text)).reward for logit, text in zip(logits, texts, strict=True)]


def read_answer(text: str) -> Response:
    """`<think> … </think><answer> … </answer>` where any of these tags stands in the text; else all of it is answer."""
    from tasks.records import Response
    from tasks.responses import TAGS, read_tagged

    if any(tag in text for tag in TAGS):
        return read_tagged(text)
    return Response(think="", answer=text, well_formed=True)


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
    return f"usage: rewardladder {name} {tool.arguments}\n\n{tool.what}"


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
    "audit": Tool(
        "what preference files hold, and which rows they share: exact, swapped, near",
        "train.jsonl validation.jsonl [dataset=nvidia/HelpSteer3] [output=audit.json] [key=value …]",
        file_tool("tasks.preference.audit", "AuditTable", "audit"),
    ),
    "score": Tool(
        "score a file of conversations with one or more rungs; goes on where it stopped",
        "RUNG [RUNG …] conversations.jsonl output=scores.jsonl [batch_tokens=…] [max_length=…] [key=value …]",
        file_tool("rm.serving.scoring", "ScoreTable", "score"),
    ),
    "serve": Tool(
        "a rung behind HTTP: POST /score, POST /get_reward (OpenRLHF), GET /health",
        "RUNG port=8000 [host=127.0.0.1] [calibrator=FOLDER] [api_key_env=NAME] [policy=FOLDER] [key=value …]",
        serve,
    ),
    "benchmark": Tool(
        "score a rung on RewardBench 2, RM-Bench, JudgeBench, LLMBar or any pair file",
        "RUNG DATA [DATA …] [kind=auto] [output=figures.json] [items=items.jsonl] [key=value …]",
        file_tool("rm.benchmarks.accuracy", "BenchmarkTable", "benchmark"),
    ),
    "fit": Tool(
        "fit a map from logits to scores 0..1 and measure it on other prompts: NLL, Brier, ECE, AUC, diagram",
        "scores.jsonl [FILE …] kind=platt|…|all label=FIELD logit=FIELD [prompt=FIELD] [domain=FIELD] output=FOLDER",
        file_tool("calibration.fit", "FitTable", "fit"),
    ),
    "mine": Tool(
        "find the phrases that set one set of answers apart from another, and write them as a phrase set",
        "trained.jsonl base.jsonl field=FIELD [prompt=FIELD] [label=FIELD] output=phrases.yaml [key=value …]",
        file_tool("calibration.mining", "MineTable", "mine"),
    ),
    "rm check": Tool(
        "does a rung give the same logits alone, batched, padded, packed, saved and in bfloat16?",
        "RUNG [exact_bound=…] [bf16_bound=…] [key=value …]",
        file_tool("rm.check", "CheckTable", "rm check"),
    ),
    "speed": Tool(
        "how fast reward models train and score here, beside TRL's trainer and a padded pipeline",
        "[shape=tiny|3b|7b] [prompts=prompts.jsonl] [memory_gib=…] [output=figures.json] [key=value …]",
        speed,
    ),
}
