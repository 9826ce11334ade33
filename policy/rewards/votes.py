"""Majority votes over answers: which answers are the same one, and which of them most samples give. Pure.

Paper B (arXiv 2506.10947, section 2.2) labels a prompt with the majority of 64 answers of the untrained model; TTRL
(arXiv 2504.16084) with the majority of the group in hand. Equality is not the texts' but the task's: 1/2 and 0.5 are
one answer. Since such an equality need not be transitive, the rule is fixed: texts are taken by falling number of
samples (then by first sample), and each joins the first class whose first text it equals. The class with the most
samples wins; of classes with equally many, the one that was sampled first. Its first text is the label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.records import Prompt, VerifiableTask

Equal = Callable[[str, str], bool | None]
"""Whether an answer equals a label; None where that cannot be found out, which counts as no."""


@dataclass(frozen=True)
class AnswerClass:
    """Answers that are the same one.

    Attributes:
        text: the first text of the class, which stands for it.
        votes: how many samples gave it.
        first: the number of the first sample that did.
        texts: every text of the class.
    """

    text: str
    votes: int
    first: int
    texts: tuple[str, ...] = ()


def answer_classes(answers: Sequence[str | None], equal: Equal) -> list[AnswerClass]:
    """The different answers, the winner first (module docstring).

    Args:
        answers: of the samples in their order; None for a sample without an answer, which has no vote.
        equal: called as equal(text of a class, other text).
    """
    texts = [answer for answer in answers if answer is not None]
    first = {text: answers.index(text) for text in dict.fromkeys(texts)}
    counted = sorted(Counter(texts).items(), key=lambda item: (-item[1], first[item[0]]))
    classes: list[AnswerClass] = []
    for text, votes in counted:
        for place, found in enumerate(classes):
            if equal(found.text, text):
                joined = (found.text, found.votes + votes, min(found.first, first[text]), (*found.texts, text))
                classes[place] = AnswerClass(*joined)
                break
        else:
            classes.append(AnswerClass(text, votes, first[text], (text,)))
    return sorted(classes, key=lambda found: (-found.votes, found.first))


def is_tie(classes: Sequence[AnswerClass]) -> bool:
    """Whether the winner of `answer_classes` has no more samples than the next."""
    return len(classes) > 1 and classes[0].votes == classes[1].votes


@dataclass(frozen=True)
class Label:
    """What the base's samples say of one prompt.

    Attributes:
        n_samples, n_answers: samples, and those with an answer.
        majority: the label; None where no sample has an answer. `votes` of it; `tie` where another has as many.
        majority_wrong: by the task's grader; None without a label, or where the grader cannot say.
        wrong: an answer that is surely wrong; `wrong_votes` of it, 0 where it is made up.
    """

    prompt_id: str
    n_samples: int
    n_answers: int
    majority: str | None
    votes: int
    tie: bool
    majority_wrong: bool | None
    wrong: str
    wrong_votes: int


def label_of(
    task: VerifiableTask, prompt: Prompt, answers: Sequence[str | None], majority_grade: float | None, seed: int
) -> Label:
    """The labels of one prompt.

    Args:
        answers: of the samples, None for one without.
        majority_grade: gold of the majority answer; None where it is not known.
        seed: keys a made-up wrong answer.
    """
    classes = answer_classes(answers, task.equal)
    wrong = next((found for found in classes if task.surely_wrong(prompt, found.text)), None)
    return Label(
        prompt_id=prompt.prompt_id,
        n_samples=len(answers),
        n_answers=sum(answer is not None for answer in answers),
        majority=classes[0].text if classes else None,
        votes=classes[0].votes if classes else 0,
        tie=is_tie(classes),
        majority_wrong=None if not classes or majority_grade is None else majority_grade != 1.0,
        wrong=wrong.text if wrong else task.wrong_answer(prompt, seed),
        wrong_votes=wrong.votes if wrong else 0,
    )
