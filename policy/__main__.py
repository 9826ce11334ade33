"""`python -m policy x.yaml policy.reward=rpr policy.rung=65`: make one cell of an experiment."""

import sys

from configs.command import room_command
from configs.loader import Experiment


def run_and_show(experiment: Experiment) -> None:
    """Make the cell and print it."""
    from policy.stage import run, show  # here, so that the process follows its parent before it loads anything large

    run(experiment)
    show(experiment)


if __name__ == "__main__":
    sys.exit(
        room_command("python -m policy", "Train one policy and answer the eval prompts.", run_and_show, sys.argv[1:])
    )
