"""`python -m rm x.yaml`: train the reward-model ladder of an experiment."""

import sys

from configs.command import room_command
from configs.loader import Experiment


def run_and_show(experiment: Experiment) -> None:
    """Train the ladder and print it."""
    from rm.stage import run, show  # here, so that the process follows its parent before it loads anything large

    run(experiment)
    show(experiment)


if __name__ == "__main__":
    sys.exit(room_command("python -m rm", "Train the reward-model ladder.", run_and_show, sys.argv[1:]))
