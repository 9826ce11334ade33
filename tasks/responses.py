"""The format of a reasoned response: `<think> … </think><answer> … </answer>` (paper A, section 2.5 of its rules)."""

from __future__ import annotations

import re

from tasks.records import Response

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_REASONED = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)


def read_tagged(completion: str) -> Response:
    """Take `<think> a </think><answer> b </answer>` apart.

    Well formed means: exactly these four tags, in this order, nothing before, between or after but white space, and
    an answer that is not empty. Nothing is clipped or guessed: otherwise `answer` is None.
    """
    match = _REASONED.fullmatch(completion)
    if match is None or any(completion.count(tag) != 1 for tag in TAGS) or not match[2].strip():
        return Response(think=completion, answer=None, well_formed=False)
    return Response(think=match[1].strip(), answer=match[2].strip(), well_formed=True)
