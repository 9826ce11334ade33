"""Several processes of one training, as `accelerate launch --num_processes 2 -m rm x.yaml` starts them.

The main process owns the run folder: it builds the task, takes the lock, writes rungs and the manifest. The others
wait until it says what to do, train beside it, and write nothing. A plain run has one process, and nothing here talks
to anyone.

    main      build the task -> lock -> prepare -> start() -> train -> write rungs, manifest -> finish()
    others    follow() ------------------------------> train -> wait -------------------------> finish()
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

LONGEST_WAIT = timedelta(days=2)
"""The others wait while the main process downloads a model or samples answers; the launcher ends them if it dies."""
WORK, NOTHING, FAILED = "work", "nothing", "failed"


def are_several() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return not are_several() or bool(_state().is_main_process)


def own_device() -> torch.device:
    """The device of this process: its own GPU of several, the first GPU, or the CPU."""
    if are_several():
        return torch.device(_state().device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait_for_all() -> None:
    """Go on when every process is here; of one process nothing."""
    if are_several():
        _state().wait_for_everyone()


class MainAndOthers:
    """How the processes of one stage keep step. Of one process every method does nothing but its own work."""

    def __init__(self) -> None:
        self.told = False

    def start(self) -> None:
        """Main: everything is prepared, train with me."""
        self._tell(WORK)

    def lead(self, work: Callable[[], object]) -> None:
        """Main: do the stage's work, and let the others go whether it trained, found it finished or failed."""
        try:
            work()
        except BaseException:
            if not self.told:
                self._tell(FAILED)
            raise
        if not self.told:
            self._tell(NOTHING)
        wait_for_all()

    def follow(self, train: Callable[[], object]) -> None:
        """Others: wait for `start`, train, wait for the end.

        Raises:
            SystemExit: the main process failed; it says why.
        """
        heard: list[str] = [""]
        _state()
        broadcast_object_list(heard, from_process=0)
        if heard[0] == FAILED:
            raise SystemExit(1)
        if heard[0] == WORK:
            train()
        wait_for_all()

    def _tell(self, word: str) -> None:
        self.told = True
        if are_several():
            _state()
            broadcast_object_list([word], from_process=0)


def _state() -> PartialState:
    """The process group; made once, with a timeout that outlasts the main process's preparations."""
    wanted = {} if torch.cuda.is_available() else {"cpu": True}
    return PartialState(timeout=LONGEST_WAIT, **wanted)
