"""`python -m curve x.yaml`: run the sweep of an experiment and draw the curve."""

import sys

from configs.command import room_command
from configs.errors import UserError
from configs.loader import Experiment


def run_and_show(experiment: Experiment) -> None:
    """Make what is missing, draw the curve and print it."""
    from curve.stage import run, show  # here, so that the process follows its parent before it loads anything large

    failure = run(experiment)
    show(experiment)
    if failure:
        raise UserError(failure)


if __name__ == "__main__":
    sys.exit(room_command("python -m curve", "Run the sweep and draw the curve.", run_and_show, sys.argv[1:]))
