"""Which prompts are short enough for a policy: longer ones are left out whole and counted, never cut."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from tasks.openings import asked_text
from tasks.records import Prompt


def within_length(
    prompts: dict[str, list[Prompt]], tokenizer: PreTrainedTokenizerBase, most: int | None
) -> tuple[dict[str, list[Prompt]], dict[str, int]]:
    """The prompts of each split with at most `most` tokens in the policy's chat template; and how many were longer."""
    if most is None:
        return prompts, dict.fromkeys(prompts, 0)
    kept = {
        split: [prompt for prompt in of_split if _length(prompt, tokenizer) <= most]
        for split, of_split in prompts.items()
    }
    return kept, {split: len(prompts[split]) - len(kept[split]) for split in prompts}


def _length(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(tokenizer(asked_text(tokenizer, prompt.asked), add_special_tokens=False)["input_ids"])
