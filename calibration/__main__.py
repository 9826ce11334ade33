"""`python -m calibration x.yaml`: calibrate the reward models of an experiment and report before and after."""

import sys

from configs.command import room_command
from configs.loader import Experiment


def run_and_show(experiment: Experiment) -> None:
    """Train the ladder where it is missing, calibrate it and print before and after."""
    # Here, so that the process follows its parent before it loads anything large.
    from calibration.stage import RM_ROOM, run, show
    from configs.runfolder import is_finished

    if not is_finished(experiment.folder / RM_ROOM):
        import rm.stage  # only here: the rest of this room runs without torch

        rm.stage.run(experiment)
    run(experiment)
    show(experiment)


if __name__ == "__main__":
    sys.exit(room_command("python -m calibration", "Calibrate the reward models.", run_and_show, sys.argv[1:]))
