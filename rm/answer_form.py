"""The form in which a rung reads answers: how its task presents one, kept in the rung's card.

A world's rung is trained on `<think></think><answer> torch , scarf</answer>`, one of people's preferences on the
answer as it is. Whoever hands a response to a rung outside its run (files, the server, benchmarks, a judge) has it read
here: a response with reasoning tags is taken apart, and its answer, or else the whole text, is put into the form. So a
rung gives the same logit everywhere, and reasoning is not scored, as in the policy's rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.records import read_json
from rm.rung_digest import CARD_FILE
from tasks.responses import TAGS, read_tagged

FIELD = "answer_form"
PLACE = "{answer}"


@dataclass(frozen=True)
class AnswerForm:
    """A text with one `{answer}` in it."""

    template: str = PLACE

    def __post_init__(self) -> None:
        if self.template.count(PLACE) != 1:
            raise UserError(f"a rung's {FIELD} holds {PLACE} once, found {self.template!r}")

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> AnswerForm:
        """From a rung's card; older cards and rungs of other makers have none, and read answers as they are.

        Raises:
            UserError: the card's form is no text with one `{answer}`.
        """
        found = card.get(FIELD, PLACE)
        if not isinstance(found, str):
            raise UserError(f"a rung's {FIELD} is a text with {PLACE} in it, found {found!r}")
        return cls(found)

    @classmethod
    def of_rung(cls, folder: Path) -> AnswerForm:
        """From a rung's folder."""
        path = folder / CARD_FILE
        card = read_json(path) if path.exists() else {}
        return cls.of_card(card if isinstance(card, dict) else {})

    def with_answer(self, answer: str) -> str:
        """The turn that holds just this answer."""
        return self.template.replace(PLACE, answer)

    def shown(self, text: str) -> str:
        """What the rung reads of a response.

        A response whose tags are broken has no answer that could be taken out, and is shown as it is.
        """
        if any(tag in text for tag in TAGS):
            answer = read_tagged(text).answer
            return text if answer is None else self.with_answer(answer)
        return self.with_answer(text)
