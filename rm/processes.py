"""Several processes of one training, as `accelerate launch --config_file configs/accelerate/ddp.yaml -m rm x.yaml`.

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
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=2)
"""The others wait while the main process downloads a model or samples answers; the launcher ends them if it dies."""
DDP = "configs/accelerate/ddp.yaml"
"""What to launch with where the model must be whole in every process."""
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


def n_processes() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(_state().num_processes) if are_several() else 1


def process_index() -> int:
    """Which of them this one is, from 0."""
    return int(_state().process_index) if are_several() else 0


def gathered(items: list[T]) -> list[T]:
    """The items of all processes, in the order of the processes, on every one of them."""
    found: list[T] = gather_object(items) if are_several() else items
    return found


def sharding() -> str | None:
    """What the launcher was told to cut the model up with, FSDP or DeepSpeed; None where every process holds it all."""
    names = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
    return next((name for key, name in names.items() if are_several() and os.environ.get(key) == "true"), None)


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
