"""What a rehearsal's figures say of the whole recipe: predicted memory beside measured, hours, tokens and money."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from configs.loader import Experiment
from curve.doctor_memory import needs_of_cell, reward_model_phases, shape_of
from curve.sweep.cells import expand
from judge.asking.budget import Tokens, dollars, price_of
from judge.config import JudgeTable
from policy.config import PolicyTable
from rm.config import RMTable
from rm.memory import GIB

if TYPE_CHECKING:
    from curve.rehearsal.command import RehearseTable

JUDGE_PROMPT_TOKENS = 350
"""Of the judge's own instructions, about."""
ORDERS = 2


def forecast(recipe: Experiment, table: RehearseTable, measured: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures by stage, and sentences.

    Args:
        measured: by stage, what `curve.rehearsal.measured` wrote.
    """
    base = measured["material"]["base"]
    gpu_gib = measured["policy"]["gpu_gib"]
    gpu_bytes = (table.memory_gib or gpu_gib) * GIB if gpu_gib else None
    rm_table, cell = recipe.table("rm", RMTable), recipe.table("policy", PolicyTable)
    shape = shape_of(base)
    own = [room for room in ("rm", "policy") if recipe.tables[room].get("model_name_or_path")]
    named = recipe.with_overrides({"tasks.base": base} | {f"{room}.model_name_or_path": base for room in own})
    needs = needs_of_cell(named, cell, shape, gpu_bytes)
    cells = len(expand(recipe)) if recipe.tables["curve"] else 1
    rm_hours = _rm_hours(rm_table, measured["rm"])
    scale = cell.prompts_per_step / measured["policy"]["prompts_per_step"]
    cell_hours = measured["policy"]["step_seconds"] * scale * cell.max_steps / 3600
    found: dict[str, Any] = {
        "recipe": recipe.source,
        "device": measured["policy"]["device"],
        "memory_gib": table.memory_gib,
        "rm": measured["rm"]
        | {"predicted_gib": max(reward_model_phases(rm_table, shape).values()) / GIB, "hours": rm_hours},
        "policy": measured["policy"]
        | {"predicted_gib": needs.peak / GIB, "largest_phase": needs.largest_phase, "hours": cell_hours * cells},
        "cells": cells,
    }
    answer_hours = _answer_seconds(recipe, cell, measured["policy"]) / 3600
    found["policy"]["answer_hours"] = answer_hours
    found["sentences"] = [
        f"Reward models: {rm_hours:.1f} h for {rm_table.max_steps} steps, without evaluations. Policies: "
        f"{cell_hours:.1f} h a cell of {cell.max_steps} steps, {cells * cell_hours:.0f} h for {cells} cells one after "
        f"another; answers of {measured['policy']['mean_tokens']:.0f} tokens. Looks at the dev prompts and the "
        f"answers to the eval prompts take {answer_hours:.1f} h more a cell, where answers run to the limit.",
        *_judge_sentences(recipe, cell, cells),
    ]
    if table.shape == "tiny" or not gpu_gib:
        found["sentences"].append(
            "These are figures of a stand-in, not of the recipe: its model is larger, and a GPU is another machine."
        )
    return found


def _rm_hours(table: RMTable, measured: dict[str, Any]) -> float:
    return float(measured["step_seconds"] * table.max_steps / 3600)


def _answer_seconds(recipe: Experiment, cell: PolicyTable, measured: dict[str, Any]) -> float:
    """Of one cell: batches answer together, and each takes as long as its longest answer."""
    tasks = recipe.tables["tasks"]
    looks = cell.max_steps // cell.dev_every + 1 if cell.dev_every else 0
    batches = looks * math.ceil((tasks.get("n_dev_prompts") or 0) / cell.generation_batch_size)
    batches += math.ceil((tasks.get("n_eval_prompts") or 0) * cell.n_eval_samples / cell.generation_batch_size)
    seconds: float = measured["answer_seconds_per_token"] * (cell.max_completion_length or 0) * batches
    return seconds


def _judge_sentences(recipe: Experiment, cell: PolicyTable, cells: int) -> list[str]:
    judge = recipe.table("judge", JudgeTable)
    if judge.kind != "openai":
        return []
    prompts = recipe.tables["tasks"].get("n_eval_prompts")
    if prompts is None:
        return ["Judge: tasks.n_eval_prompts is not given, so what it costs is known when the task is built."]
    answer, question = cell.max_completion_length or 0, cell.max_prompt_length or 0
    requests = prompts * ORDERS * cells
    tokens = Tokens(requests * (JUDGE_PROMPT_TOKENS + question + 2 * answer), requests * judge.max_tokens)
    price = price_of(judge)
    said = (
        f"Judge: {requests:,} requests ({prompts} prompts, {ORDERS} orders, {cells} cells), at most {tokens.prompt:,} "
        f"tokens of prompts and {tokens.reply:,} of replies"
    )
    return [said + ("; the price is not known." if price is None else f", at most {dollars(price.of(tokens))}.")]
