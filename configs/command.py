"""A room's command: `rewardladder <room> x.yaml key=value …`, equally `python -m <room> x.yaml key=value …`."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from configs.errors import UserError
from configs.loader import Experiment, load_experiment

PARENT_PIPE_VARIABLE = "REWARDLADDER_PARENT_PIPE"
"""Number of a pipe's reading end whose writing end only the parent holds; see `follow_parent`."""
MENDABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)
"""Errors of the file system that a user can mend: no space, no right, or something else where a folder should be."""
CUT_CHECKPOINT = re.compile(r"inline_container\.cc.*(unexpected pos|PytorchStreamWriter)", re.DOTALL)
"""What torch says, as RuntimeError, when the file of a checkpoint does not take all bytes; it keeps no error number."""
NO_HOME = "Could not determine home directory."
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """The only arguments any command has: an experiment and overrides."""
    parser.add_argument("experiment", type=Path, help="a YAML file, for example configs/demo.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="room.key=value", help="settings that replace those of the file"
    )


def room_command(prog: str, what: str, run: Callable[[Experiment], None], arguments: Sequence[str]) -> int:
    """Parse `arguments`, run one room on the experiment and return the exit status."""
    follow_parent()
    parser = argparse.ArgumentParser(prog=prog, description=what)
    add_experiment_arguments(parser)
    parsed = parser.parse_args(arguments)
    return guarded(lambda: run(load_experiment(parsed.experiment, parsed.overrides)))


def follow_parent() -> None:
    """End this process when its parent ends, even by SIGKILL, where the parent asked for it with a pipe."""
    named = os.environ.pop(PARENT_PIPE_VARIABLE, None)
    if named is None:
        return

    def wait_for_the_end() -> None:
        os.read(int(named), 1)
        os._exit(EXIT_INTERRUPTED)

    threading.Thread(target=wait_for_the_end, name="follow parent", daemon=True).start()


def guarded(work: Callable[[], None]) -> int:
    """Run `work` and turn what users can mend into one line and an exit status; bugs keep their traceback."""
    try:
        work()
    except UserError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _ask_to_mend(f"{error.strerror}{where}")
    except Exception as error:
        if os.strerror(errno.ENOSPC) in str(error):  # safetensors wraps a full disk in an exception of its own
            return _ask_to_mend(os.strerror(errno.ENOSPC))
        if isinstance(error, RuntimeError) and CUT_CHECKPOINT.search(str(error)):
            return _ask_to_mend(f"a checkpoint could not be written to its end, as if {os.strerror(errno.ENOSPC)}")
        if isinstance(error, RuntimeError) and str(error) == NO_HOME:  # Path.expanduser
            return _ask_to_mend("a path begins with ~NAME, and there is no user of that name")
        raise
    return 0


def _ask_to_mend(what: str) -> int:
    print(f"error: {what}; mend it and run the same command again", file=sys.stderr)
    return EXIT_USER_ERROR
