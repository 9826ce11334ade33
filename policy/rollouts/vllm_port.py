"""A port of its own for every colocated vLLM."""

from __future__ import annotations

import os
import socket

VARIABLE = "MASTER_PORT"


def take_own_port() -> None:
    """Name a free port for vLLM's process group, unless the environment names one.

    TRL names the first of four ports that is free when it looks, half a minute before vLLM listens there: two cells
    that start together, each on a GPU of its own, get the same, and the second dies.
    """
    if not os.environ.get(VARIABLE):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ[VARIABLE] = str(probe.getsockname()[1])
