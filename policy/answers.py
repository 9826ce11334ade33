"""Answers for the judge: every eval prompt answered by a policy, with noise that all policies share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.keyed import keyed_seed
from configs.records import write_jsonl
from policy.config import PolicyTable
from rm.processes import gathered, is_main, n_processes, process_index, sharding
from tasks.records import Message, Prompt, Task
from tasks.sampling import Sampled, sample

ANSWERS_FILE = "answers.jsonl"
GREEDY_FILE = "greedy.jsonl"
"""One answer a prompt at temperature 0, where `policy.eval_greedy` asks for them."""


def answer_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    prompts: Sequence[Prompt],
    table: PolicyTable,
    max_new_tokens: int,
    seed: int,
    purpose: str,
    n_samples: int,
    heard: Callable[[list[list[Message]], list[Sampled]], None] | None = None,
) -> list[dict[str, Any]]:
    """Sample answers and grade them.

    The noise is keyed by the run's seed, the purpose, the prompt and the sample, not by the cell: two policies that
    are the same give the same answers, and a comparison of policies is paired. Several processes share the prompts,
    and each returns all rows; weights that are cut up between them can only answer together, so then all answer all.
    `heard` is given this process's share as it was sampled: chats and completions.

    Returns:
        One row an answer: `prompt_id, sample, completion, answer, status, style, n_tokens, truncated, gold, grade`;
        `status` says whether the format was kept, `grade` how the grader fared (`tasks.records.GradeStatus`).
    """
    everything = [(prompt, k) for prompt in prompts for k in range(n_samples)]
    step = 1 if sharding() else n_processes()
    asked = everything[process_index() % step :: step]
    sampled = sample(
        model,
        tokenizer,
        [prompt.asked for prompt, _ in asked],
        [keyed_seed(seed, purpose, prompt.prompt_id, k) for prompt, k in asked],
        max_new_tokens,
        temperature=table.eval_temperature,
        top_p=table.eval_top_p,
        top_k=table.eval_top_k,
        batch_size=table.generation_batch_size,
        what=purpose,
    )
    if heard is not None:
        heard([prompt.asked for prompt, _ in asked], sampled)
    rows = []
    for (prompt, k), completion in zip(asked, sampled, strict=True):
        response, grade = task.read(completion.text), task.grade(prompt, completion.text)
        rows.append(
            {
                "prompt_id": prompt.prompt_id,
                "sample": k,
                "completion": completion.text,
                "answer": response.answer,
                "status": "ok" if response.well_formed else "malformed",
                "style": grade.style,
                "n_tokens": completion.n_tokens,
                "truncated": completion.truncated,
                "gold": grade.gold,
                "grade": grade.status,
            }
        )
    if step == 1:
        return rows
    shares = gathered([rows])
    return [shares[i % step][i // step] for i in range(len(everything))]


def write_answers(folder: Path, rows: Sequence[dict[str, Any]], name: str = ANSWERS_FILE) -> None:
    """Write `answers.jsonl`, or another file of answers; of several processes the main one does."""
    if is_main():
        write_jsonl(folder / name, rows)


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean gold of the answers that have it (None where none has), length, shares of well-formed, truncated, styles."""
    known = [row["gold"] for row in rows if row["gold"] is not None]
    styles = sorted({row["style"] for row in rows})
    return {
        "n": len(rows),
        "gold_mean": sum(known) / len(known) if known else None,
        "gold_unknown": len(rows) - len(known),
        "length_mean": sum(row["n_tokens"] for row in rows) / len(rows),
        "well_formed_share": sum(row["status"] == "ok" for row in rows) / len(rows),
        "truncated_share": sum(row["truncated"] for row in rows) / len(rows),
        "style_shares": {style: sum(row["style"] == style for row in rows) / len(rows) for style in styles},
    }
