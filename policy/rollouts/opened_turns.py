"""Rollouts that go on with an opened turn: TRL 1.16 begins a new assistant's turn whatever the prompt ends in."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.openings import asked_text, opening_of


class OpenedTurns:
    """Beside TRL's trainer: prompts that end in an assistant's turn are tokenized without a new one (`tasks.openings`).

    Only `_tokenize_prompts(prompts) -> (prompt_ids, images, multimodal_fields)` is overridden, for such prompts alone.
    """

    processing_class: PreTrainedTokenizerBase

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        if not any(isinstance(prompt, list) and opening_of(prompt) for prompt in prompts):
            return super()._tokenize_prompts(prompts)  # type: ignore[misc]
        texts = [asked_text(self.processing_class, prompt) for prompt in prompts]
        return self.processing_class(texts, add_special_tokens=False)["input_ids"], None, {}
