"""The stage `rm`: trains one reward model and keeps its ladder in `runs/<name>/rm/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

import tasks.stage
from configs.errors import UserError
from configs.keyed import keyed_seed
from configs.loader import Experiment
from configs.records import read_json, write_json
from configs.runfolder import MANIFEST, SCRATCH, Stage, run_stage
from configs.terminal import interval, say, show_table
from rm.backbone import build_reward_model
from rm.config import RMTable
from rm.ladder import nearest_steps, reached
from rm.measures import length_accuracy
from rm.rung import ReferenceAnswer, write_rung
from rm.scorer import encode_answer
from rm.training import train_ladder, weights_in_place
from tasks.base_folder import base_path, load_causal_model, load_tokenizer
from tasks.records import PreferencePair, Prompt, Task, read_pairs, read_prompts
from tasks.sampling import sample
from tasks.table import load_task
from tasks.torch_setup import prepare_torch

ROOM = "rm"
LADDER_FILE = "ladder.json"
SPLITS = ("train", "selection", "measurement")

Encoded = list[tuple[list[int], list[int]]]


def folder_of(experiment: Experiment) -> Path:
    """Where the ladder lies."""
    return experiment.folder / ROOM


def run(experiment: Experiment) -> dict[str, Any]:
    """Train the ladder, or find it finished; the task is built first where it is missing. Returns the manifest."""
    table = experiment.table(ROOM, RMTable)
    tasks.stage.run(experiment)
    task_folder = tasks.stage.folder_of(experiment)
    settings = table.model_dump(mode="json", exclude={"eval_batch_tokens", "save_steps"})
    stage = Stage(ROOM, folder_of(experiment), settings, experiment.seed, {"tasks": task_folder})
    return run_stage(stage, lambda folder: _make_ladder(folder, task_folder, load_task(experiment), table, experiment))


def show(experiment: Experiment) -> None:
    """Print the ladder."""
    folder = folder_of(experiment)
    ladder = read_json(folder / LADDER_FILE)
    rows = [
        (
            rung["rung"],
            rung["step"],
            interval(rung["accuracy"], rung["accuracy_lo"], rung["accuracy_hi"]),
            rung["n_pairs"],
            rung["on_policy_accuracy"],
            rung["ece"],
            rung["nll"],
            rung["score_spread_per_prompt"],
        )
        for rung in ladder["rungs"]
    ]
    show_table(
        f"rm: the ladder  ({folder})",
        ("rung", "step", "accuracy [95%]", "pairs", "on-policy", "ECE", "NLL", "spread per prompt"),
        rows,
    )
    length = ladder["length_baseline"]
    say(
        f"Preferring the longer answer: {interval(length['estimate'], length['lo'], length['hi'])} on the same "
        f"{length['n']} pairs. Targets that no checkpoint came near on the selection pairs: "
        f"{', '.join(map(str, ladder['targets_missed'])) or 'none'}; the accuracy above is of pairs that had no say."
    )


def rung_folder(experiment: Experiment, rung: str) -> Path:
    """The folder of a rung of a finished ladder.

    Raises:
        UserError: the ladder has no such rung.
    """
    folder = folder_of(experiment)
    names = [entry["rung"] for entry in read_json(folder / LADDER_FILE)["rungs"]]
    if rung not in names:
        raise UserError(f"{folder}: there is no rung {rung!r}; the rungs are {', '.join(names)}")
    return folder / f"rung-{rung}"


def _make_ladder(folder: Path, task_folder: Path, task: Task, table: RMTable, experiment: Experiment) -> dict[str, Any]:
    prepare_torch(table.cpu_threads)
    seed = experiment.seed if table.seed is None else table.seed
    base = table.model_name_or_path or str(base_path(task_folder))
    tokenizer = load_tokenizer(base)
    pairs, encoded, dropped = _encode_pairs(read_pairs(task_folder), task, tokenizer, table)
    reference, reference_name = _reference_answers(task, task_folder, pairs, table, experiment.seed)
    reference_ids = [
        encode_answer(tokenizer, a.messages, task.present(a.answer)) for a in reference if a.answer is not None
    ]
    if not reference_ids:
        raise UserError(f"{task_folder}: every reference answer is malformed, so no score units can be measured")

    model = build_reward_model(base, table, tokenizer, seed).to("cuda" if torch.cuda.is_available() else "cpu")
    watched = encoded["selection"][: table.n_selection_pairs]
    trained = train_ladder(model, tokenizer, encoded["train"], watched, table, seed, folder / SCRATCH)

    rungs = []
    for target, evaluation in nearest_steps(trained.evaluations, table.ladder).items():
        facts = {
            "rung": str(target),
            "target": target,
            "step": evaluation["step"],
            "selection_accuracy": evaluation["accuracy"],
            "reached": reached(evaluation, target, table.ladder_tolerance),
            "measured_on": "measurement pairs, of prompts that neither training nor selection saw",
        }
        with weights_in_place(model, trained.weights_of(evaluation["step"])):
            card = write_rung(
                folder / f"rung-{target}",
                model,
                tokenizer,
                {split: encoded[split] for split in ("selection", "measurement")},
                pairs,
                reference,
                reference_name,
                reference_ids,
                facts,
                table.eval_batch_tokens,
            )
        rungs.append(_ladder_row(card))
    ladder = {
        "route": "early_stop",
        "rm_seed": seed,
        "backbone": base if table.model_name_or_path else "the task's own base",
        "rungs": rungs,
        "targets_missed": [rung["target"] for rung in rungs if not rung["reached"]],
        "length_baseline": length_accuracy(
            [pair.chosen for pair in pairs["measurement"]], [pair.rejected for pair in pairs["measurement"]]
        ),
        "n_pairs": {split: len(pairs[split]) for split in SPLITS},
        "dropped": read_json(task_folder / MANIFEST)["summary"].get("dropped", {}) | dropped,
        "evaluations": trained.evaluations,
        "losses": trained.losses,
    }
    write_json(folder / LADDER_FILE, ladder)
    return {"rungs": [f"{rung['rung']}: {rung['accuracy']:.3f}" for rung in rungs], "dropped": dropped}


def _ladder_row(card: dict[str, Any]) -> dict[str, Any]:
    accuracy, on_policy = card["accuracy"], card["on_policy_accuracy"]
    return {
        "rung": card["rung"],
        "folder": f"rung-{card['rung']}",
        "target": card["target"],
        "reached": card["reached"],
        "step": card["step"],
        "accuracy": accuracy["estimate"],
        "accuracy_lo": accuracy["lo"],
        "accuracy_hi": accuracy["hi"],
        "n_pairs": accuracy["n"],
        "selection_accuracy": card["selection_accuracy"],
        "on_policy_accuracy": on_policy["estimate"] if on_policy else None,
        "ece": card["ece"],
        "nll": card["nll"],
        "score_spread_per_prompt": card["score_spread_per_prompt"],
    }


def _encode_pairs(
    pairs: list[PreferencePair], task: Task, tokenizer: PreTrainedTokenizerBase, table: RMTable
) -> tuple[dict[str, list[PreferencePair]], dict[str, Encoded], dict[str, int]]:
    """Tokenise every pair; a pair with a side over `max_length` is dropped and counted, never cut."""
    kept: dict[str, list[PreferencePair]] = {split: [] for split in SPLITS}
    encoded: dict[str, Encoded] = {split: [] for split in SPLITS}
    dropped = {f"{split}_over_max_length": 0 for split in SPLITS}
    for pair in pairs:
        sides = tuple(
            encode_answer(tokenizer, pair.messages, task.present(text)) for text in (pair.chosen, pair.rejected)
        )
        if max(map(len, sides)) > table.max_length:
            dropped[f"{pair.split}_over_max_length"] += 1
            continue
        kept[pair.split].append(pair)
        encoded[pair.split].append((sides[0], sides[1]))
    total = len(kept["train"]) + dropped["train_over_max_length"]
    if dropped["train_over_max_length"] > table.max_dropped_share * total:
        raise UserError(
            f"rm.max_length: {dropped['train_over_max_length']} of {total} training pairs are longer than "
            f"{table.max_length} tokens; raise it, or raise rm.max_dropped_share ({table.max_dropped_share})"
        )
    for split in SPLITS:
        if len(kept[split]) < 2:
            raise UserError(f"tasks: {len(kept[split])} {split} pairs are left; at least 2 are needed")
    return kept, encoded, dropped


def _reference_answers(
    task: Task, task_folder: Path, pairs: dict[str, list[PreferencePair]], table: RMTable, seed: int
) -> tuple[list[ReferenceAnswer], str]:
    """Answers of the untrained policy to the dev prompts; without a policy, the answers of the selection pairs."""
    dev = read_prompts(task_folder, "dev")
    if not dev or task.max_new_tokens is None:
        return _answers_of_pairs(pairs["selection"]), "the answers of the selection pairs"
    model, tokenizer = load_causal_model(str(base_path(task_folder)))
    asked: list[tuple[Prompt, int]] = [(prompt, k) for prompt in dev for k in range(table.n_reference_samples)]
    sampled = sample(
        model,
        tokenizer,
        [prompt.messages for prompt, _ in asked],
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
    return answers, "answers of the untrained policy to the dev prompts"


def _answers_of_pairs(pairs: list[PreferencePair]) -> list[ReferenceAnswer]:
    return [
        ReferenceAnswer(pair.prompt_id, 2 * i + k, pair.messages, text, "", text, gold)
        for i, pair in enumerate(pairs)
        for k, (text, gold) in enumerate(((pair.chosen, pair.gold_chosen), (pair.rejected, pair.gold_rejected)))
    ]
