"""The work of the stage `rm`: train the members of a route, choose the rungs among all of them, write each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json, write_json
from configs.runfolder import MANIFEST, SCRATCH
from rm.alarms import head_weights, refuse_still_losses, refuse_untrained_head
from rm.answer_form import FIELD, PLACE
from rm.backbone import build_reward_model
from rm.config import RMTable
from rm.ladder import Evaluation, reached
from rm.measures import length_accuracy
from rm.pairs import SPLITS, EncodedPairs, encode_pairs
from rm.processes import MainAndOthers, is_main, own_device, wait_for_all
from rm.reference import ReferenceSet, reference_set
from rm.routes import Candidate, Member, lowest_layers, members, nearest_candidates
from rm.rung import write_rung
from rm.scorer import encode_answer
from rm.targets import training_pairs
from rm.training import train_ladder, weights_in_place
from tasks.base_folder import base_path, load_tokenizer
from tasks.records import Task, read_pairs
from tasks.torch_setup import prepare_torch

LADDER_FILE = "ladder.json"
MEASURED_ON = "measurement pairs, of prompts that neither training nor selection saw; ties are not counted"


@dataclass(frozen=True)
class Prepared:
    """A member before its training: backbone, tokenizer, and the pairs in its tokens."""

    member: Member
    base: str
    tokenizer: PreTrainedTokenizerBase
    pairs: EncodedPairs


@dataclass(frozen=True)
class Trained:
    """A member after its training."""

    prepared: Prepared
    evaluations: list[Evaluation]
    losses: list[float]
    targets: dict[str, Any]
    weights_of: Callable[[int], dict[str, torch.Tensor]]


def refuse_4bit(table: RMTable) -> None:
    """Stop before any work where 4-bit weights are asked for and cannot be had.

    Raises:
        UserError: there is no GPU, or bitsandbytes is not installed.
    """
    if not table.load_in_4bit:
        return
    if not torch.cuda.is_available():
        raise UserError("rm.load_in_4bit: 4-bit weights need a GPU, and none is here; set rm.load_in_4bit: false")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("rm.load_in_4bit: the package bitsandbytes is not installed; pip install bitsandbytes")


def make_ladder(
    folder: Path, task_folder: Path, task: Task, table: RMTable, experiment: Experiment, step: MainAndOthers
) -> dict[str, Any]:
    """Train every member and, in the main process, choose and write the rungs. Returns the stage's summary."""
    prepare_torch(table.cpu_threads)
    seed = experiment.seed if table.seed is None else table.seed
    prepared = [_prepare(member, folder, task_folder, task) for member in members(table)]
    reference = ReferenceSet([], "")
    if is_main():
        selection = prepared[0].pairs.pairs["selection"]
        reference = reference_set(task, task_folder, selection, table.n_reference_samples, experiment.seed)
        if not any(answer.answer is not None for answer in reference.answers):
            raise UserError(f"{task_folder}: every reference answer is malformed, so no score units can be measured")
        step.start()
    trained, model = [], None
    for one in prepared:
        model = None  # the one before must be gone before the next is built
        done, model = _train(one, folder / SCRATCH / one.member.folder_name, seed)
        trained.append(done)
    wait_for_all()
    if not is_main():
        return {}
    cards = _write_rungs(folder, table, seed, task, reference, trained, model if len(trained) == 1 else None)
    dropped = prepared[0].pairs.dropped
    ladder = _ladder(table, seed, task_folder, trained, cards)
    write_json(folder / LADDER_FILE, ladder)
    return {"rungs": [f"{rung['rung']}: {rung['accuracy']:.3f}" for rung in ladder["rungs"]], "dropped": dropped}


def _prepare(member: Member, folder: Path, task_folder: Path, task: Task) -> Prepared:
    base = member.table.model_name_or_path or str(base_path(task_folder))
    tokenizer, config = load_tokenizer(base), _config_of(base)
    if member.keep_layers is not None:
        place = folder / f"base-{member.keep_layers}-layers"
        if is_main():
            lowest_layers(base, member.keep_layers, place)
        base = str(place)
    pairs = encode_pairs(read_pairs(task_folder), task, tokenizer, config, member.table)
    return Prepared(member, base, tokenizer, pairs)


def _config_of(base: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"rm.model_name_or_path: {base!r} cannot be loaded: {first}") from None


def _train(one: Prepared, scratch: Path, seed: int) -> tuple[Trained, nn.Module]:
    table = one.member.table
    targets, facts = training_pairs(one.pairs.pairs["train"], one.pairs.ids["train"], table, seed)
    watched = one.pairs.ids["selection"][: table.n_selection_pairs]
    model = _on_device(build_reward_model(one.base, table, one.tokenizer, seed), table)
    before = head_weights(model)
    try:
        done = train_ladder(model, one.tokenizer, targets, watched, table, seed, scratch)
        refuse_still_losses(done.losses)
        refuse_untrained_head(before, head_weights(model))
    except UserError as error:
        if one.member.value is None:
            raise
        raise UserError(
            f"rm.route_values, {table.route} {one.member.value}: {error}; or leave this value out"
        ) from None
    return Trained(one, done.evaluations, done.losses, facts, done.weights_of), model


def _on_device(model: nn.Module, table: RMTable) -> nn.Module:
    return model if table.load_in_4bit else model.to(own_device())  # 4-bit weights are made where they stay


def _write_rungs(
    folder: Path,
    table: RMTable,
    seed: int,
    task: Task,
    reference: ReferenceSet,
    trained: list[Trained],
    model: nn.Module | None,
) -> list[dict[str, Any]]:
    """Write the rungs, member by member, so that one model is in memory at a time; the cards in the ladder's order."""
    chosen = nearest_candidates([one.evaluations for one in trained], table.ladder)
    cards: dict[int, dict[str, Any]] = {}
    spread: float | None = None
    for i, one in enumerate(trained):
        prepared = one.prepared
        targets = [target for target, candidate in chosen.items() if candidate.member == i]
        if not targets:
            continue
        if model is None or len(trained) > 1:
            model = None
            model = build_reward_model(prepared.base, prepared.member.table, prepared.tokenizer, seed)
            model = _on_device(model, prepared.member.table)
        ids = [
            encode_answer(prepared.tokenizer, a.messages, task.present(a.answer))
            for a in reference.answers
            if a.answer is not None
        ]
        for target in sorted(targets, key=lambda target: (target != table.rescale_to, target)):
            candidate = chosen[target]
            with weights_in_place(model, one.weights_of(candidate.evaluation["step"])):
                cards[target] = write_rung(
                    folder / f"rung-{target}",
                    model,
                    prepared.tokenizer,
                    prepared.pairs,
                    reference,
                    ids,
                    _facts(target, candidate, one, table) | {FIELD: task.present(PLACE)},
                    table.eval_batch_tokens,
                    spread,
                )
            if target == table.rescale_to:
                spread = cards[target]["score_spread"]
    return [cards[target] for target in chosen]


def _facts(target: int, candidate: Candidate, one: Trained, table: RMTable) -> dict[str, Any]:
    return {
        "rung": str(target),
        "target": target,
        "step": candidate.evaluation["step"],
        "selection_accuracy": candidate.evaluation["accuracy"],
        "reached": reached(candidate.evaluation, target, table.ladder_tolerance),
        "measured_on": MEASURED_ON,
        "route": table.route,
        "route_value": table.rescale_to if table.route == "rescaled" else one.prepared.member.value,
        "backbone": _backbone(one.prepared),
        "loss": table.loss,
        "trained_on": one.targets,
    }


def _backbone(prepared: Prepared) -> str:
    name = prepared.member.table.model_name_or_path or "the task's own base"
    return name if prepared.member.keep_layers is None else f"{name}, lowest {prepared.member.keep_layers} layers"


def _ladder(
    table: RMTable, seed: int, task_folder: Path, trained: list[Trained], cards: list[dict[str, Any]]
) -> dict[str, Any]:
    """What `ladder.json` holds. Pairs, drops and the length baseline are of the first member's tokens."""
    first = trained[0].prepared.pairs
    rungs = [_ladder_row(card) for card in cards]
    measurement = first.pairs["measurement"]
    return {
        "route": table.route,
        "rm_seed": seed,
        "backbone": _backbone(trained[0].prepared),
        "rungs": rungs,
        "targets_missed": [rung["target"] for rung in rungs if not rung["reached"]],
        "length_baseline": length_accuracy([p.chosen for p in measurement], [p.rejected for p in measurement]),
        "n_pairs": {split: len(first.pairs[split]) for split in SPLITS},
        "dropped": read_json(task_folder / MANIFEST)["summary"].get("dropped", {}) | first.dropped,
        "evaluations": [
            look | ({} if one.prepared.member.value is None else {"route_value": one.prepared.member.value})
            for one in trained
            for look in one.evaluations
        ],
        "losses": trained[0].losses if len(trained) == 1 else None,
        "trainings": [
            {
                "route_value": one.prepared.member.value,
                "backbone": _backbone(one.prepared),
                "trained_on": one.targets,
                "dropped": one.prepared.pairs.dropped,
                "losses": one.losses if len(trained) > 1 else None,
            }
            for one in trained
        ],
    }


def _ladder_row(card: dict[str, Any]) -> dict[str, Any]:
    accuracy, on_policy = card["accuracy"], card["on_policy_accuracy"]
    return {
        "rung": card["rung"],
        "folder": f"rung-{card['rung']}",
        "target": card["target"],
        "reached": card["reached"],
        "step": card["step"],
        "route": card["route"],
        "route_value": card["route_value"],
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
