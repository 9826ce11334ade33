"""Answers for the judge: every eval prompt answered by a policy, with noise that all policies share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.keyed import keyed_seed
from configs.records import write_jsonl
from policy.config import PolicyTable
from tasks.records import Prompt, Task
from tasks.sampling import sample

ANSWERS_FILE = "answers.jsonl"


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
) -> list[dict[str, Any]]:
    """Sample answers and grade them.

    The noise is keyed by the run's seed, the purpose, the prompt and the sample, not by the cell: two policies that
    are the same give the same answers, and a comparison of policies is paired.

    Returns:
        One row an answer: `prompt_id, sample, completion, answer, status, style, n_tokens, truncated, gold`.
    """
    asked = [(prompt, k) for prompt in prompts for k in range(n_samples)]
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
            }
        )
    return rows


def write_answers(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `answers.jsonl`."""
    write_jsonl(folder / ANSWERS_FILE, rows)


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean gold (None where it is not known), length, and shares of well-formed, truncated and each style."""
    golds = [row["gold"] for row in rows]
    styles = sorted({row["style"] for row in rows})
    return {
        "n": len(rows),
        "gold_mean": None if any(gold is None for gold in golds) else sum(golds) / len(rows),
        "length_mean": sum(row["n_tokens"] for row in rows) / len(rows),
        "well_formed_share": sum(row["status"] == "ok" for row in rows) / len(rows),
        "truncated_share": sum(row["truncated"] for row in rows) / len(rows),
        "style_shares": {style: sum(row["style"] == style for row in rows) / len(rows) for style in styles},
    }
