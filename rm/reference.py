"""The reference answers, on which a rung's score units are measured: what the untrained policy says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.keyed import keyed_seed
from tasks.base_folder import base_path, load_causal_model
from tasks.records import PreferencePair, Prompt, Task, read_prompts
from tasks.sampling import sample


@dataclass(frozen=True)
class ReferenceAnswer:
    """One answer of the reference set: from the untrained policy, or from the pairs where there is no policy.

    `answer` is None where the completion is malformed; it then has no logit.
    """

    prompt_id: str
    sample: int
    messages: list[dict[str, str]]
    completion: str
    think: str
    answer: str | None
    gold: float | None


@dataclass(frozen=True)
class ReferenceSet:
    """Reference answers, and what they are, in words."""

    answers: list[ReferenceAnswer]
    name: str


def reference_set(
    task: Task, task_folder: Path, selection: Sequence[PreferencePair], n_samples: int, seed: int
) -> ReferenceSet:
    """Answers of the untrained policy to the dev prompts; without a policy, the answers of the selection pairs."""
    dev = read_prompts(task_folder, "dev")
    if not dev or task.max_new_tokens is None:
        return ReferenceSet(_answers_of_pairs(selection), "the answers of the selection pairs")
    model, tokenizer = load_causal_model(str(base_path(task_folder)))
    asked: list[tuple[Prompt, int]] = [(prompt, k) for prompt in dev for k in range(n_samples)]
    sampled = sample(
        model,
        tokenizer,
        [prompt.asked for prompt, _ in asked],
        [keyed_seed(seed, "reference answers", prompt.prompt_id, k) for prompt, k in asked],
        task.max_new_tokens,
        what="sampling reference answers",
    )
    answers = []
    for (prompt, k), completion in zip(asked, sampled, strict=True):
        response = task.read(completion.text)
        gold = task.grade(prompt, completion.text).gold
        answers.append(
            ReferenceAnswer(
                prompt.prompt_id, k, prompt.messages, completion.text, response.think, response.answer, gold
            )
        )
    return ReferenceSet(answers, "answers of the untrained policy to the dev prompts")


def _answers_of_pairs(pairs: Sequence[PreferencePair]) -> list[ReferenceAnswer]:
    return [
        ReferenceAnswer(pair.prompt_id, 2 * i + k, pair.messages, text, "", text, gold)
        for i, pair in enumerate(pairs)
        for k, (text, gold) in enumerate(((pair.chosen, pair.gold_chosen), (pair.rejected, pair.gold_rejected)))
    ]
