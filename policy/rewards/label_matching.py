"""Whether the answers of a rollout are their labels: labels made beforehand, or the majority of the group in hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from policy.rewards.verifiable_table import IncorrectLabels, LabelKind
from policy.rewards.votes import Label, answer_classes
from tasks.records import VerifiableTask


class Match(NamedTuple):
    """An answer beside its label.

    Attributes:
        label: None where the prompt, or the group, has none.
        value: 1 where the answer is the label, 0 where it is not or there is no answer; None without a label, and
            where the task cannot compare the two.
    """

    label: str | None
    value: float | None


class LabelMatcher:
    """Compares answers with labels; comparisons are remembered, because a group gives the same answer many times."""

    def __init__(
        self, task: VerifiableTask, labels: Mapping[str, Label], incorrect_labels: IncorrectLabels, num_generations: int
    ) -> None:
        self.task, self.labels, self.incorrect_labels = task, labels, incorrect_labels
        self.num_generations = num_generations
        self._remembered: dict[tuple[str, str], bool | None] = {}

    def matches(
        self, kind: LabelKind, prompt_ids: Sequence[str], samples: Sequence[int], answers: Sequence[str | None]
    ) -> list[Match]:
        """One match a completion, in the order of the batch.

        Args:
            kind: which label.
            prompt_ids, samples: of each completion; `num_generations` samples in a row are a group.
            answers: None for a malformed completion.
        """
        if len(self._remembered) > 100_000:
            self._remembered.clear()
        if kind == "majority_live":
            names = self._live(prompt_ids, samples, answers)
        else:
            names = [self._made(kind, prompt_id) for prompt_id in prompt_ids]
        return [Match(name, self._value(name, answer)) for name, answer in zip(names, answers, strict=True)]

    def _made(self, kind: LabelKind, prompt_id: str) -> str | None:
        label = self.labels[prompt_id]
        if kind == "majority":
            return label.majority
        if self.incorrect_labels == "truly_wrong":
            return label.wrong
        return label.majority if label.majority_wrong else None

    def _live(
        self, prompt_ids: Sequence[str], samples: Sequence[int], answers: Sequence[str | None]
    ) -> list[str | None]:
        """The majority of each completion's own group (TTRL, arXiv 2504.16084), votes in the order of the samples."""
        groups = [(name, sample // self.num_generations) for name, sample in zip(prompt_ids, samples, strict=True)]
        votes: dict[tuple[str, int], list[tuple[int, str | None]]] = {}
        for group, sample, answer in zip(groups, samples, answers, strict=True):
            votes.setdefault(group, []).append((sample, answer))
        winners = {}
        for group, cast in votes.items():
            classes = answer_classes([answer for _, answer in sorted(cast, key=lambda vote: vote[0])], self._equal)
            winners[group] = classes[0].text if classes else None
        return [winners[group] for group in groups]

    def _value(self, label: str | None, answer: str | None) -> float | None:
        if label is None:
            return None
        if answer is None:
            return 0.0
        equal = self._equal(label, answer)
        return None if equal is None else float(equal)

    def _equal(self, label: str, answer: str) -> bool | None:
        key = label, answer
        if key not in self._remembered:
            self._remembered[key] = self.task.equal(label, answer)
        return self._remembered[key]
