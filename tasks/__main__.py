"""`python -m tasks x.yaml`: build the task of an experiment."""

import sys

from configs.command import room_command
from configs.loader import Experiment


def run_and_show(experiment: Experiment) -> None:
    """Build the task and print its table."""
    from tasks.stage import run, show  # here, so that the process follows its parent before it loads anything large

    run(experiment)
    show(experiment)


if __name__ == "__main__":
    sys.exit(room_command("python -m tasks", "Build the task of an experiment.", run_and_show, sys.argv[1:]))
