"""What a completion's text alone is paid for: paper B's rewards on words and on repetition (arXiv 2506.10947, 2.2)."""

from __future__ import annotations

import numpy as np

PYTHON = "python"
SHORTEST, LONGEST, TIMES = 10, 256, 10
"""Characters of a repeated string, and how often it must stand in a row."""


def contains(text: str, wanted: str) -> bool:
    """Whether `wanted` stands anywhere in the text, in letters of either case; the text need not be well formed."""
    return wanted.lower() in text.lower()


def repeats(text: str, shortest: int = SHORTEST, longest: int = LONGEST, times: int = TIMES) -> bool:
    """Whether some string of `shortest` to `longest` characters stands `times` or more times in a row.

    A string of L characters stands n times in a row where (n - 1) L characters in a row equal the one L further on. Of
    so many places in a row one is a multiple of (n - 1) L, so only the runs of equal places around those are measured.
    Linear in the text for each L.
    """
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    for length in range(shortest, min(longest, len(letters) // times) + 1):
        needed = (times - 1) * length
        same = letters[:-length] == letters[length:]
        marks = np.arange(needed - 1, len(same), needed)
        if same[marks].any() and _longest_run(same) >= needed:
            return True
    return False


def _longest_run(flags: np.ndarray) -> int:
    """The length of the longest run of True."""
    ends = np.flatnonzero(np.concatenate(([True], ~flags, [True])))
    return int(np.diff(ends).max()) - 1
