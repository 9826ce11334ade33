"""The formats of a response: `<think> … </think><answer> … </answer>` (arXiv 2505.22653), or any text."""

from __future__ import annotations

import re

from tasks.records import Message, Response

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


def read_plain(completion: str) -> Response:
    """The whole completion is the answer; only white space is no answer."""
    answer = completion.strip()
    return Response(think="", answer=answer or None, well_formed=bool(answer))


def with_instruction(messages: list[Message], instruction: str) -> list[Message]:
    """The chat with the instruction as a last paragraph of its last turn."""
    last = messages[-1]
    return [*messages[:-1], {**last, "content": f"{last['content']}\n\n{instruction}"}]
