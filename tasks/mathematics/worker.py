"""The process that compares answers: `python -m tasks.mathematics.worker SECONDS MEMORY_MIB`, started by `workers`.

One JSON record a line in, one out. It ends when its input ends. Against a parent that died in the midst of a long
comparison it carries its own alarm, whose default action ends the process even inside compiled code.
"""

from __future__ import annotations

import json
import resource
import signal
import sys

from tasks.mathematics.equality import TIMEOUT, UNPARSABLE, Question, compare_by_math_verify

ALARM_FACTOR = 2.0
"""The parent kills at the limit; the alarm is for the case that there is no parent any more."""


def main(seconds: float, memory_mib: int) -> None:
    """Answer questions until the input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing that a library prints may stand between the answers
    ceiling = memory_mib << 20
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    compare_by_math_verify(Question("\\frac{1}{2}", "0.5"))  # all that is imported or cached once
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, ALARM_FACTOR * seconds)
        try:
            found = compare_by_math_verify(Question(**json.loads(line)))
        except MemoryError:
            found = TIMEOUT
        except Exception:  # noqa: BLE001 - whatever the parser raises, this answer cannot be read
            found = UNPARSABLE
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps([found.equal, found.status]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
