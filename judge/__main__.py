"""`python -m judge x.yaml`: judge every finished policy cell of an experiment against the baseline."""

import sys

from configs.command import room_command
from configs.loader import Experiment


def run_and_show(experiment: Experiment) -> None:
    """Judge all cells and print their table."""
    from judge.stage import run, show  # here, so that the process follows its parent before it loads anything large

    run(experiment)
    show(experiment)


if __name__ == "__main__":
    sys.exit(room_command("python -m judge", "Judge the policies of an experiment.", run_and_show, sys.argv[1:]))
