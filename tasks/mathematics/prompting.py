"""How a problem is put to a policy: prompt files with a placeholder, replaced in one pass.

A prompt file is YAML with `source` (where the words are from), `system` (or null) and `user`. `{problem}` stands in
exactly one of the two, once; all other braces are text. The files here:

| name | words |
|---|---|
| `qwen-math` | Qwen2.5-Math's system prompt and the bare problem |
| `boxed` | the same instruction after the problem; for models without a system turn |
| `orz` | paper A: Open-Reasoner-Zero's conversation, which ends in an opened `<think>` |
| `r1` | paper B, for base models: the R1 conversation without a word on boxes |
| `none` | the problem alone |
| `spurious` | paper B: LaTeX's `lipsum` placeholder text before the problem |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from configs.errors import UserError
from configs.loader import parse_yaml
from tasks.records import Message

PROMPTS = Path(__file__).parent / "prompts"
PLACEHOLDER = "{problem}"
_PLACEHOLDER = re.compile(re.escape(PLACEHOLDER))
_KEYS = {"source", "system", "user"}


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt file: its name, where its words are from, and the two turns."""

    name: str
    source: str
    system: str | None
    user: str

    def render(self, problem: str) -> list[Message]:
        """The chat that puts a problem; what looks like a placeholder in the problem stays as it is."""
        turns = [("system", self.system), ("user", self.user)]
        return [{"role": role, "content": _PLACEHOLDER.sub(lambda _: problem, text)} for role, text in turns if text]


def prompt_names() -> list[str]:
    """The prompts that come with the project."""
    return sorted(path.stem for path in PROMPTS.glob("*.yaml"))


def load_prompt(name: str) -> PromptTemplate:
    """A prompt by the name of one of the files here, or by the path of another.

    Raises:
        UserError: there is no such prompt, or the file is not one.
    """
    own = PROMPTS / f"{name}.yaml"
    path = own if name in prompt_names() else Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"tasks.prompt: there is no prompt {name!r}; choose {', '.join(prompt_names())}, or name a file"
        )
    try:
        fields = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: not readable as YAML ({next(iter(str(error).splitlines()), '')})") from None
    if not isinstance(fields, dict) or "user" not in fields or not set(fields) <= _KEYS:
        raise UserError(f"{path}: a prompt file has the keys user, and where it needs them system and source")
    system, user, source = fields.get("system"), fields["user"], fields.get("source", "")
    if not isinstance(user, str) or not isinstance(system, str | None) or not isinstance(source, str):
        raise UserError(f"{path}: system and user must be texts")
    count = (system or "").count(PLACEHOLDER) + user.count(PLACEHOLDER)
    if count != 1:
        raise UserError(f"{path}: {PLACEHOLDER} must stand in the prompt exactly once, found {count} times")
    return PromptTemplate(path.stem, source, system, user)
