"""The label of a prompt, as a text that survives any trainer: which prompt it is, its chat, and what grades it."""

from __future__ import annotations

import json
from typing import Any

from configs.errors import UserError
from configs.records import canonical_json
from tasks.records import Prompt

KEYS = ("prompt_id", "messages", "meta")


def label_of(prompt: Prompt) -> str:
    """A prompt's label."""
    return canonical_json({"prompt_id": prompt.prompt_id, "messages": prompt.messages, "meta": prompt.meta})


def meta_of_label(label: Any) -> dict[str, Any]:
    """What a label says (`policy.adapters.core.Sample.meta`); nothing where it is another kind of label.

    Raises:
        UserError: it begins as one of ours and cannot be read.
    """
    if not isinstance(label, str) or not label.startswith('{"messages":'):
        return {}
    try:
        found = json.loads(label)
    except ValueError:
        raise UserError(f"the label {label[:40]!r}… is cut; was its column shortened?") from None
    return {key: found[key] for key in KEYS if key in found}
