"""A reward model as judge: the answer with the higher score wins, within the margin it is a tie.

It reads what the judge is shown, the conversation and an answer without its reasoning, each answer by itself; so the
order means nothing and both orders agree. It should be none of the models that the policies climbed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from configs.records import canonical_json
from judge.answers import Question, verdict_of
from judge.asking.gold_endpoint import by_margin
from judge.prompting import shown_texts
from judge.verdicts import Verdict
from rm.answer_form import AnswerForm
from rm.scorer import RungScorer
from rm.units import ScoreUnits
from tasks.records import Message

BATCH_TOKENS = 8192


class RungJudge:
    """Compares answers by the scores (0..1) of one reward model.

    Args:
        folder: the reward model's folder, with its score units.
        margin: a difference of at most this is a tie, in score units.

    Raises:
        UserError: the folder holds no reward model with units.
    """

    def __init__(self, folder: Path, margin: float) -> None:
        self.units = ScoreUnits.load(folder)
        self.scorer = RungScorer(folder, BATCH_TOKENS, "cuda" if torch.cuda.is_available() else "cpu")
        self.margin, self.form = margin, AnswerForm.of_rung(folder)

    def decide(self, questions: Sequence[Question], what: str) -> list[Verdict]:
        """One verdict a question, in their order; equal answers are scored once."""
        del what  # the model scores in batches of its own
        shown: dict[tuple[str, str], tuple[list[Message], str]] = {}
        keys = []
        for question in questions:
            texts = shown_texts(question)
            chat = canonical_json(texts.messages)
            keys.append(((chat, texts.first), (chat, texts.second)))
            for key in keys[-1]:
                shown[key] = (texts.messages, key[1])
        if not shown:
            return []
        chats, answers = zip(*shown.values(), strict=True)
        read = [self.form.shown(answer) for answer in answers]
        logits = np.asarray(self.scorer.logits(chats, read), dtype=np.float64)
        scores = dict(zip(shown, map(float, self.units.scores(logits)), strict=True))
        return [
            verdict_of(
                question,
                by_margin(scores[first], scores[second], self.margin),
                "ok",
                raw=f"scores {scores[first]:.6f} and {scores[second]:.6f}",
                model=self.scorer.folder.name,
            )
            for question, (first, second) in zip(questions, keys, strict=True)
        ]
