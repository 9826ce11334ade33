"""The command line: `rewardladder <command> x.yaml [room.key=value …]`."""

from __future__ import annotations

import argparse
import difflib
import io
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from configs.command import add_experiment_arguments, follow_parent, guarded
from configs.loader import Experiment, load_experiment
from curve.tools import TOOLS, run_tool, tool_of

if TYPE_CHECKING:
    from curve.sweep.cells import Cell


class Command(NamedTuple):
    """One command: what it does, and the function that does it."""

    what: str
    run: Callable[[Experiment], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 well, 2 something a user can mend, 130 stopped."""
    parser = argparse.ArgumentParser(
        prog="rewardladder",
        description="How accurate must a reward model be, and what can be done when it is not accurate enough?",
        epilog="Every command goes on where an earlier run stopped and skips what is finished. Commands on files: "
        + "; ".join(f"{name} ({tool.what})" for name, tool in TOOLS.items())
        + ". `rewardladder <command> -h` says more.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        beside = [f"rewardladder {tool} ({row.what})" for tool, row in TOOLS.items() if tool.startswith(f"{name} ")]
        more = f"{command.what}. On files: {'; '.join(beside)}" if beside else command.what
        own = commands.add_parser(name, help=command.what, description=more)
        add_experiment_arguments(own)
    given = list(sys.argv[1:] if arguments is None else arguments)
    tool = tool_of(given)
    unknown = next((word for word in given[:1] if not word.startswith("-") and word not in COMMANDS), None)
    if unknown is not None and tool is None:
        near = difflib.get_close_matches(unknown, [*COMMANDS, *TOOLS], 1)
        parser.error(f"{unknown!r} is no command" + (f"; did you mean {near[0]}?" if near else "; see rewardladder -h"))
    parsed = None if tool else parser.parse_args(given)
    follow_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign gets a question mark
    if parsed is None:
        assert tool is not None
        return guarded(lambda: run_tool(*tool))
    return guarded(lambda: COMMANDS[parsed.command].run(load_experiment(parsed.experiment, parsed.overrides)))


def check_ladder(experiment: Experiment) -> None:
    """Validate all that a calibrated ladder is made from, before the first stage starts."""
    from curve.sweep.check import check_ladder as check

    check(experiment)


def check_sweep(experiment: Experiment) -> list[Cell]:
    """Validate every room's table, of every variant, before the first stage starts; the cells of the sweep."""
    from curve.sweep.check import check_sweep as check

    return check(experiment)


def run_tasks(experiment: Experiment) -> None:
    """Build the task."""
    import tasks.stage

    tasks.stage.run(experiment)
    tasks.stage.show(experiment)


def run_rm(experiment: Experiment) -> None:
    """Train the ladder."""
    import rm.stage

    rm.stage.run(experiment)
    rm.stage.show(experiment)


def run_calibrate(experiment: Experiment) -> None:
    """Calibrate the ladder, which is trained first where it is missing."""
    check_ladder(experiment)
    import calibration.stage
    import rm.stage

    rm.stage.run(experiment)
    calibration.stage.run(experiment)
    calibration.stage.show(experiment)


def run_policy(experiment: Experiment) -> None:
    """Make one cell."""
    check_ladder(experiment)
    import policy.stage

    policy.stage.run(experiment)
    policy.stage.show(experiment)


def run_judge(experiment: Experiment) -> None:
    """Judge the finished cells."""
    import judge.stage

    judge.stage.run(experiment)
    judge.stage.show(experiment)


def run_curve(experiment: Experiment) -> None:
    """Make what is missing of the sweep and draw the curve."""
    check_sweep(experiment)
    from curve.__main__ import run_and_show

    run_and_show(experiment)


def run_all(experiment: Experiment) -> None:
    """Every stage, each with its table."""
    cells = check_sweep(experiment)
    if cells[0].variant is not None:  # variants are prepared side by side by the curve
        return run_curve(experiment)
    import rm.stage

    run_tasks(experiment)
    if any(cell.table.rungs for cell in cells):
        rm.stage.run(experiment)
        rm.stage.show(experiment)
        run_calibrate(experiment)
    return run_curve(experiment)


def run_status(experiment: Experiment) -> None:
    """Print what is finished."""
    from curve.sweep.status import show_status

    show_status(experiment)


def run_doctor(experiment: Experiment) -> None:
    """Print whether everything is there."""
    from curve.doctor import show_doctor

    show_doctor(experiment)


COMMANDS = {
    "run": Command("the whole experiment: every stage, then the curve", run_all),
    "tasks": Command("build the task: base model, prompts, preference pairs", run_tasks),
    "rm": Command("train the reward model and keep its ladder of accuracies", run_rm),
    "calibrate": Command("calibrate every rung and report before and after", run_calibrate),
    "policy": Command("train one policy on one reward and answer the eval prompts", run_policy),
    "judge": Command("compare every finished policy with the untrained one", run_judge),
    "curve": Command("run what is missing of the sweep and draw the curve", run_curve),
    "status": Command("what is finished and what is missing", run_status),
    "doctor": Command("is everything there, and will it fit?", run_doctor),
}
