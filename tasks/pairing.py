"""Which problems of two sets of answers are the same one: by the text of the problem, never by its number alone.

A number (`idx`, `prompt_id`) says where a problem stands in its file, and another file has other problems there. So
problems are paired by a digest of their text, whatever prompt or opening surrounds it; ids are names. Where one side
holds no texts, ids pair, unless the two reference answers differ.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.errors import UserError
from tasks.records import PROMPTS_FILE, Prompt, read_prompts

ANSWERS_FILE, GREEDY_FILE = "answers.jsonl", "greedy.jsonl"
"""Of a cell of a run."""


@dataclass(frozen=True)
class Identity:
    """What tells one problem from another: a digest of its text, its reference answer; None where not known."""

    digest: str | None = None
    reference: str | None = None


@dataclass(frozen=True)
class Pairs:
    """The problems that two sets of answers share.

    Attributes:
        names: the name of each shared problem among the first, with its name among the second.
        by: `text`, or `id` where one of the two holds no texts.
        only_first, only_second: problems that have no partner.
        refused: ids that both have with reference answers that differ; counted in `only_first` and `only_second`, too.
    """

    names: dict[str, str]
    by: Literal["text", "id"]
    only_first: int
    only_second: int
    refused: int


def unpaired(first: str, second: str, shared: int, by: str, only: tuple[int, int], refused: int) -> list[str]:
    """What a reader must know of problems without a partner, a line each; the arguments are those of `Pairs`."""
    lines = []
    if any(only):
        lines.append(
            f"{first} and {second}: {shared} in both, paired by {by}; without a partner are {only[0]} of {first} and "
            f"{only[1]} of {second}"
        )
    if refused:
        lines.append(
            f"{first} and {second}: {refused} ids have different reference answers in the two, so they name different "
            "problems and are not compared"
        )
    return lines


def digest_of(text: str) -> str:
    """A digest of a problem's text without white space, case and the instruction that some files put behind it."""
    from tasks.mathematics.problems import INSTRUCTION

    bare = text.strip().removesuffix(INSTRUCTION)
    return hashlib.sha256("".join(bare.split()).lower().encode("utf-8", "surrogatepass")).hexdigest()[:32]


def statement_in(value: Any) -> str | None:
    """The problem that a field holds: a text, or the last turn of a chat's user; None where it is neither."""
    if isinstance(value, list):
        value = next(
            (t.get("content") for t in reversed(value) if isinstance(t, dict) and t.get("role") == "user"), None
        )
    return value if isinstance(value, str) and value.strip() else None


def identity_of(prompt: Prompt) -> Identity:
    """That of a run's prompt: of its problem alone, without the words of `tasks.prompt` and `tasks.opening`."""
    text = statement_in(prompt.meta.get("problem")) or statement_in(prompt.messages)
    reference = prompt.meta.get("answer")
    return Identity(None if text is None else digest_of(text), reference if isinstance(reference, str) else None)


def identities_beside(path: Path) -> dict[str, Identity]:
    """By `prompt_id`, the problems of the run in which a cell's file of answers lies; none where it lies in no run."""
    tasks = path.absolute().parent.parent.parent / "tasks"
    if path.name not in (ANSWERS_FILE, GREEDY_FILE) or not (tasks / PROMPTS_FILE).is_file():
        return {}
    return {prompt.prompt_id: identity_of(prompt) for prompt in read_prompts(tasks)}


def pair(first: Mapping[str, Identity], second: Mapping[str, Identity], names: tuple[str, str], tool: str) -> Pairs:
    """The problems that both have, in the order of the first.

    A text that stands several times on a side pairs in the order of the side, as often as both have it.

    Args:
        first, second: identities by name.
        names: of the two, for messages.
        tool: which is asked, for messages.

    Raises:
        UserError: no problem is in both.
    """
    by_text = all(one.digest is not None for side in (first, second) for one in side.values())
    refused = 0
    if by_text:
        places = {place: name for name, place in _places(second).items()}
        found = {name: places[place] for name, place in _places(first).items() if place in places}
    else:
        shared = {name: name for name in first if name in second}
        found = {name: name for name in shared if same_reference(first[name].reference, second[name].reference)}
        refused = len(shared) - len(found)
    if not found:
        how = "their texts" if by_text else "their ids, because one of the two holds no text of its problems"
        also = f" ({refused} ids are the same, with other reference answers)" if refused else ""
        raise UserError(
            f"{tool}: {names[0]} and {names[1]} share no problem, by {how}{also}; name answers to the same problems, "
            "or each by itself"
        )
    return Pairs(found, "text" if by_text else "id", len(first) - len(found), len(second) - len(found), refused)


def same_reference(one: str | None, other: str | None) -> bool:
    """Whether two reference answers may be of one problem: equal by the second checker, or one is not known."""
    if one is None or other is None or one == other:
        return True
    from tasks.mathematics.second_checker import second_opinion

    return second_opinion(one, other).equal is True


def _places(side: Mapping[str, Identity]) -> dict[str, tuple[str | None, int]]:
    """By name, the digest and how often it came before."""
    seen: Counter[str | None] = Counter()
    found = {}
    for name, one in side.items():
        found[name] = (one.digest, seen[one.digest])
        seen[one.digest] += 1
    return found
