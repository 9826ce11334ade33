"""The paper's prompt as it is (arXiv 2505.22653, Figure 16 and `gpt_eval.py`), from a copy that the user brings.

The prompt is not shipped: its repository has no licence and the paper's is arXiv's own, neither of which allows copies.
`judge.prompt=original judge.prompt_file=gpt_eval.py` reads it from the script, as text and without running it, and asks
with it as the script does: the chat as Python prints it, both answers bare. It has no delimiters, so an answer can
pretend to be another part of it; the verdict stands in the reply's last 30 characters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from configs.errors import UserError
from tasks.records import Message

PUBLISHED_SHA256 = "b2db40c586b6d6c6213f0b3b58fa9939cf681e40a7d33aa4af10cffb3ee1cf52"
"""Of the 811 characters between the quotation marks in `gpt_eval.py`, as published in May 2025."""
PLACEHOLDERS = ("chat", "res1", "res2")
LAST_CHARACTERS = 30
_ASSIGNED = re.compile(r"^prompt\s*=\s*(\"\"\"|''')(.*?)\1", re.DOTALL | re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{(chat|res1|res2)\}")


def original_prompt(text: str, where: str) -> str:
    """The prompt in a file: what a script assigns to `prompt`, or else all of the text.

    Raises:
        UserError: a placeholder does not stand in it exactly once.
    """
    assigned = _ASSIGNED.search(text)
    template = assigned[2] if assigned else text
    for placeholder in PLACEHOLDERS:
        count = template.count(f"{{{placeholder}}}")
        if count != 1:
            raise UserError(
                f"{where}: {{{placeholder}}} must stand in the paper's prompt exactly once, found {count} times; name "
                "gpt_eval.py of its repository, or a text file with the prompt in it"
            )
    return template


def is_published(template: str) -> bool:
    """Whether a prompt is, to the character, the published one."""
    return hashlib.sha256(template.encode()).hexdigest() == PUBLISHED_SHA256


def render_original(template: str, messages: Sequence[Message], first: str, second: str) -> str:
    """The request of the script: placeholders replaced in one pass, the chat as Python prints a list of records."""
    chat = str([{"role": turn["role"], "content": turn["content"]} for turn in messages])
    replacements = {"chat": chat, "res1": first, "res2": second}
    return _PLACEHOLDER.sub(lambda match: replacements[match[1]], template)
