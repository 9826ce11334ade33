"""The other way round through a chat template: from templated text back to messages, and an answer cut out of it.

Trainers of policies send whole texts: OpenRLHF's `query` is a templated prompt and the response, with every special
token kept. The rung has a template of its own, which must be written exactly once, so the turns are taken out of the
text first. What was read is written again with the template and must give the same text; nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from tasks.preference.fields import RowProblem
from tasks.records import Message

SYSTEM, FIRST, REPLY, SECOND = "zqSystemqz", "zqFirstqz", "zqReplyqz", "zqSecondqz"
"""Texts that stand for contents while the template's own words are found."""


@dataclass(frozen=True)
class ChatForm:
    """What a tokenizer's chat template writes around contents.

    Attributes:
        tokenizer: a Transformers tokenizer with a chat template.
        layouts: the words around (system,) user, assistant, user and at the end, where an answer is awaited: five
            words with a system turn, four without; a template that refuses one of the two has only the other.
        glue: what stands between the words that ask for an answer and the answer, for example one space.
        closing: what stands after an answer.
        specials: special tokens, longest first.
    """

    tokenizer: Any
    layouts: tuple[tuple[str, ...], ...]
    glue: str
    closing: str
    specials: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> ChatForm:
        """Find them by rendering chats of known words."""
        turns = [_turn("user", FIRST), _turn("assistant", REPLY), _turn("user", SECOND)]
        found = [
            _between(_render(tokenizer, chat, True), [turn["content"] for turn in chat])
            for chat in ([_turn("system", SYSTEM), *turns], turns)
        ]
        asked = _render(tokenizer, turns[:1], True) or ""
        head, _, closing = (_render(tokenizer, turns[:2], False) or "").partition(REPLY)
        glue = head.removeprefix(asked) if head.startswith(asked) else ""
        specials = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        layouts = tuple(layout for layout in found if layout)
        return cls(tokenizer, layouts, glue, closing, tuple(sorted(specials, key=lambda s: (-len(s), s))))

    def turns_of(self, prompt: str) -> list[Message]:
        """The turns of a prompt: of a templated one as the template reads back, of any other one turn of the user.

        Raises:
            RowProblem: the prompt holds special tokens, and is not what the template writes.
        """
        for layout in self.layouts:
            turns = _read(prompt, layout)
            # A marker inside a content would be spelled out in ordinary tokens: not what the policy read.
            if not turns or any(special in turn["content"] for special in self.specials for turn in turns):
                continue
            if _render(self.tokenizer, turns, True) == prompt:
                return turns
        marker = next((special for special in self.specials if special in prompt), None)
        if marker:
            raise RowProblem(
                "other_template",
                f"it holds {marker!r} and is not what the chat template writes; name the folder of the policy's "
                "tokenizer as policy=… when the server is started",
            )
        return [_turn("user", prompt)]

    def answer_of(self, query: str, prompt: str) -> str:
        """The response in a query, without the prompt before it and the special tokens around it.

        Raises:
            RowProblem: the query does not begin with the prompt, special tokens before it aside.
        """
        bare_query, bare_prompt = self._without_first_specials(query), self._without_first_specials(prompt)
        if not bare_query.startswith(bare_prompt):
            raise RowProblem("other_prompt", "it does not begin with its prompt")
        answer = bare_query[len(bare_prompt) :]
        if self.glue and any(special in prompt for special in self.specials):
            answer = answer.removeprefix(self.glue)
        return self._without_last_specials(answer.removesuffix(self.closing) if self.closing else answer)

    def without_specials(self, text: str) -> str:
        """A text without the special tokens inside it, as decoding leaves them out."""
        return re.sub("|".join(map(re.escape, self.specials)), "", text) if self.specials else text

    def _without_first_specials(self, text: str) -> str:
        if not self.specials:
            return text
        found = re.match(f"(?:{'|'.join(map(re.escape, self.specials))})*+", text)
        return text[found.end() :] if found else text

    def _without_last_specials(self, text: str) -> str:
        """White space goes only where a special token followed or preceded it at the end."""
        kept = end = len(text)
        while True:  # by index: a copy for each token would take minutes for a body full of them
            while end and text[end - 1].isspace():
                end -= 1
            found = next((special for special in self.specials if text.endswith(special, 0, end)), None)
            if found is None:
                return text[:kept]
            kept = end = end - len(found)


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _render(tokenizer: Any, chat: list[Message], asks: bool) -> str | None:
    """The templated text; None where the template refuses the chat."""
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=asks))
    except TemplateError:
        return None


def _between(text: str | None, words: list[str]) -> tuple[str, ...]:
    """What stands before, between and after words that each occur once; empty where they do not."""
    if text is None or any(text.count(word) != 1 for word in words):
        return ()
    pieces = []
    for word in words:
        piece, _, text = text.partition(word)
        pieces.append(piece)
    return (*pieces, text)


def _read(prompt: str, layout: tuple[str, ...]) -> list[Message] | None:
    """Turns by a layout; None where the prompt does not have its beginning and end."""
    before, *after_system, to_reply, to_user, end = layout
    if not (prompt.startswith(before) and prompt.endswith(end) and len(prompt) >= len(before) + len(end)):
        return None
    rest = prompt[len(before) : len(prompt) - len(end)]
    turns = []
    if after_system:
        system, found, rest = rest.partition(after_system[0])
        if not found:
            return None
        turns.append(_turn("system", system))
    roles, separators = ("user", "assistant"), (to_reply, to_user)
    number = start = 0
    while True:
        separator = separators[number % 2]
        stop = rest.find(separator, start) if separator else -1
        turns.append(_turn(roles[number % 2], rest[start:] if stop < 0 else rest[start:stop]))
        if stop < 0:
            return turns
        start = stop + len(separator)
        number += 1
