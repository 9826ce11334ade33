"""How a completion is read where no run says it: with reasoning tags, as one text, or whichever of the two it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from rm.answer_form import AnswerForm
from tasks.records import Grade, Prompt, Response
from tasks.responses import TAGS, read_plain, read_tagged


class Reader(Protocol):
    """What an adapter needs of a task (`tasks.records.Task`)."""

    def read(self, completion: str) -> Response:
        """Take a completion apart."""

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """Grade one completion of one prompt."""

    def present(self, answer: str) -> str:
        """The assistant turn by which a reward model is shown an answer."""


@dataclass(frozen=True)
class TextReader:
    """A reader without a task: it knows no gold."""

    response_format: Literal["tagged", "plain", "any"]
    form: AnswerForm

    def read(self, completion: str) -> Response:
        """The completion taken apart."""
        return {"tagged": read_tagged, "plain": read_plain, "any": read_any}[self.response_format](completion)

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """No gold."""
        return Grade(gold=None, status="no_gold", style="free")

    def present(self, answer: str) -> str:
        """The rung's own form."""
        return self.form.with_answer(answer)


def read_any(text: str) -> Response:
    """`<think> … </think><answer> … </answer>` where any of these tags stands in the text; else all of it is answer."""
    if any(tag in text for tag in TAGS):
        return read_tagged(text)
    return Response(think="", answer=text, well_formed=True)
