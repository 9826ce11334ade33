"""The stage `policy`: makes one cell, `runs/<name>/policy/<cell>/`: a trained policy and its answers for the judge."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import calibration.stage
import policy.rewards.labels
import rm.stage
import tasks.stage
from calibration.config import CalibrationTable
from calibration.resamples import Resamples
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Experiment
from configs.records import read_json, read_jsonl
from configs.runfolder import MANIFEST, SCRATCH, Stage, run_stage
from configs.terminal import interval, say, show_table
from policy.alarms.callback import RollBack, read_alarms, summarise_alarms
from policy.answers import ANSWERS_FILE, GREEDY_FILE, answer_prompts, summarise, write_answers
from policy.audit import read_metrics
from policy.checkpoints import Looks, best_state
from policy.config import PolicyTable, cell_name
from policy.processes import refuse_processes
from policy.rewards.label_matching import LabelMatcher
from policy.rewards.rungs import load_calibrator, open_calibrators, open_rungs
from policy.rewards.table import REWARDS, RewardSettings
from policy.rewards.votes import Label
from policy.rollouts.prompt_lengths import within_length
from policy.rollouts.train_prompts import choose_prompts
from policy.training import train_policy
from rm.backbone import four_bit_settings
from rm.measures import wilson
from rm.processes import MainAndOthers, is_main, n_processes, own_device
from tasks.base_folder import base_path, load_causal_model
from tasks.records import Prompt, PromptSplit, Task, VerifiableTask, read_prompts
from tasks.table import load_task
from tasks.torch_setup import prepare_torch

ROOM = "policy"
POLICY_FOLDER = "policy"
Z = 1.959963984540054
"""Half the width of a 95% interval in standard errors."""
SPLITS: tuple[PromptSplit, ...] = ("train", "dev", "eval")


def cell_folder(experiment: Experiment) -> Path:
    """Where the experiment's cell lies."""
    table = experiment.table(ROOM, PolicyTable)
    return experiment.folder / ROOM / cell_name(table, experiment.seed)


def run(experiment: Experiment) -> dict[str, Any]:
    """Make the cell, or find it finished; what it needs is made first where it is missing. Returns the manifest.

    Under `accelerate launch` every process calls this (`policy.processes`).
    """
    table = experiment.table(ROOM, PolicyTable)
    refuse_processes(table)
    if table.label_kinds and not isinstance(task := load_task(experiment), VerifiableTask):
        raise policy.rewards.labels.no_labels_for(task, table)
    if table.rungs:
        rm.stage.run(experiment)  # every process trains
    step = MainAndOthers()
    if is_main():
        step.lead(lambda: _lead(experiment, table, step))
    else:
        step.follow(lambda: _make_cell(cell_folder(experiment), experiment, table, step))
    manifest: dict[str, Any] = read_json(cell_folder(experiment) / MANIFEST)
    return manifest


def _lead(experiment: Experiment, table: PolicyTable, step: MainAndOthers) -> dict[str, Any]:
    """What the main process does: everything the cell needs, and the stage itself."""
    tasks.stage.run(experiment)
    inputs = {"tasks": tasks.stage.folder_of(experiment)}
    settings = table.deciding()
    settings["seed"] = experiment.seed if table.seed is None else table.seed
    if table.rungs:
        for rung in table.rungs:
            rm.stage.rung_folder(experiment, rung)
        calibration.stage.run(experiment)
        inputs |= {"rm": rm.stage.folder_of(experiment), "calibration": calibration.stage.folder_of(experiment)}
    elif table.reward == "graph" or (table.reward in REWARDS and REWARDS[table.reward].rule is not None):
        settings |= {"calibration": experiment.table("calibration", CalibrationTable).model_dump(mode="json")}
    if table.offline_labels(table.label_kinds):
        policy.rewards.labels.run(experiment, table)
        inputs |= {"labels": policy.rewards.labels.labels_folder(experiment, table)}
    if table.reward == "untrained":
        settings = {name: settings[name] for name in sorted(settings) if name in _DECIDES_ANSWERS}
    stage = Stage(ROOM, cell_folder(experiment), settings, experiment.seed, inputs)
    return run_stage(stage, lambda folder: _make_cell(folder, experiment, table, step))


def show(experiment: Experiment) -> None:
    """Print what the cell did on the dev prompts, step by step."""
    folder = cell_folder(experiment)
    answers = list(read_jsonl(folder / ANSWERS_FILE))
    show_table(
        f"policy: {folder.name}, answers to the eval prompts, 95% intervals by prompt  ({folder})",
        ("answers", "prompts", "mean gold", "mean length in tokens", "well formed", "cut by the limit"),
        [_answers_row(answers, experiment.seed)],
    )
    rows = [
        (row["step"], row.get("reward"), row.get("dev/n"), *_dev_figures(row))
        for row in read_metrics(folder)
        if "dev/length_mean" in row
    ]
    if rows:
        columns = ("step", "reward", "dev prompts", "dev gold [95%]", "dev length", "well formed [95%]")
        show_table(f"policy: {folder.name}, on the dev prompts while it trained", columns, rows)
    alarms = [
        (row["step"], row["alarm"], row["action"], row["what"], row["allowed"], row["advice"])
        for row in read_alarms(folder)
    ]
    if alarms:
        headings = ("step", "alarm", "action", "what was found", "what is allowed", "what to try")
        show_table(f"policy: {folder.name}, alarms", headings, alarms)


def _answers_row(answers: Sequence[dict[str, Any]], seed: int) -> tuple[Any, ...]:
    """What the answers are worth: counts, then means with intervals over resampled prompts."""
    owners = [row["prompt_id"] for row in answers]
    known = [row for row in answers if row["gold"] is not None]
    resamples = Resamples(owners, keyed_rng(seed, "policy table"))
    found = [
        resamples.mean(np.array([row["gold"] for row in known], dtype=np.float64), [row["prompt_id"] for row in known]),
        resamples.mean(np.array([row["n_tokens"] for row in answers], dtype=np.float64), owners),
        resamples.share(np.array([row["status"] == "ok" for row in answers]), owners),
        resamples.share(np.array([row["truncated"] for row in answers]), owners),
    ]
    digits = (3, 1, 3, 3)
    shown = [interval(f["estimate"], f["lo"], f["hi"], places) for f, places in zip(found, digits, strict=True)]
    return len(answers), len(set(owners)), *shown


def _dev_figures(row: dict[str, Any]) -> tuple[str, float, str]:
    """Gold of one answer a dev prompt by its standard error, mean length, and the well-formed share by Wilson."""
    gold, error, n = row.get("dev/gold_mean"), row.get("dev/gold_se"), row.get("dev/n")
    half = None if error is None else Z * error
    ends = (None, None) if gold is None or half is None else (max(0.0, gold - half), min(1.0, gold + half))
    share = row["dev/well_formed_share"]
    formed = wilson(share * n, n) if n else {"lo": None, "hi": None}
    return interval(gold, *ends), row["dev/length_mean"], interval(share, formed["lo"], formed["hi"])


def _make_cell(folder: Path, experiment: Experiment, table: PolicyTable, step: MainAndOthers) -> dict[str, Any]:
    prepare_torch(table.cpu_threads)
    if is_main():
        step.start()
    seed = experiment.seed if table.seed is None else table.seed
    task_folder = tasks.stage.folder_of(experiment)
    task = load_task(experiment)
    prompts: dict[str, list[Prompt]] = {split: read_prompts(task_folder, split) for split in SPLITS}
    max_new_tokens = table.max_completion_length or task.max_new_tokens
    if max_new_tokens is None:
        raise UserError(f"policy.max_completion_length is missing; the task {task.name} has no limit of its own")
    device = str(own_device())
    base = table.model_name_or_path or str(base_path(task_folder))

    def load() -> tuple[Any, Any]:
        dtype = torch.bfloat16 if table.bf16 and table.base_is_fixed else torch.float32
        if table.load_in_4bit and table.reward != "untrained":
            return load_causal_model(base, dtype=dtype, **four_bit_settings(dtype, ["lm_head"]))
        model, tokenizer = load_causal_model(base, dtype=dtype)
        return model.to(device), tokenizer

    model, tokenizer = load()
    prompts, too_long = within_length(prompts, tokenizer, table.max_prompt_length)
    for split in SPLITS if table.reward != "untrained" else ("eval",):
        if not prompts[split]:
            left = f" of at most {table.max_prompt_length} tokens" if too_long[split] else ""
            raise UserError(f"{task_folder}: there are no {split} prompts{left}, so no policy can be made")
    summary: dict[str, Any] = {"reward": table.reward, "rung": table.rung, "prompts_too_long": too_long}
    if table.reward != "untrained":
        labels = _labels(experiment, table)
        prompts["train"], counts = choose_prompts(prompts["train"], table, seed, labels)
        if counts["used"] < counts["all"]:
            summary["train_prompts"] = counts
            if is_main():
                say(f"policy: training prompts: {', '.join(f'{name} {n}' for name, n in counts.items())}")
        matcher = _matcher(task, table, labels)
        calibrator = load_calibrator(experiment, table)
        is_affine = calibrator is not None and calibrator.is_affine
        if is_affine and table.algorithm == "grpo" and table.scale_rewards == "group":
            say(calibration.stage.AFFINE_NOTE)
        calibrators = open_calibrators(experiment, table)
        settings = RewardSettings(table, seed, max_new_tokens, calibrator, calibrators)
        scorers = open_rungs(experiment, table, model, device)
        trained = None
        while trained is None:
            with contextlib.suppress(RollBack):
                trained = train_policy(
                    model,
                    tokenizer,
                    task,
                    prompts,
                    settings,
                    scorers,
                    folder,
                    folder / SCRATCH,
                    experiment.seed,
                    matcher,
                )
            if trained is None:
                if table.sampler.engine == "vllm" or table.share_base:
                    raise UserError(
                        "policy: an alarm sent the cell back to its last good checkpoint, and this process holds a "
                        "sampler or a rung of the old weights; run the same command again, and it goes on from there"
                    )
                del model  # two would not fit
                model, tokenizer = load()
        model = trained.model
        summary["kept"] = best_state(read_metrics(folder), table.keep, Looks.of(table))._asdict() | {"rule": table.keep}
        summary["alarms"] = summarise_alarms(read_alarms(folder))
        if is_main():
            model.save_pretrained(folder / POLICY_FOLDER, state_dict=trained.weights)
            tokenizer.save_pretrained(folder / POLICY_FOLDER)
    asked = (model, tokenizer, task, prompts["eval"])
    if table.eval_greedy:
        greedy = table.model_copy(update={"eval_temperature": 0.0})
        found = answer_prompts(*asked, greedy, max_new_tokens, experiment.seed, "greedy answers", 1)
        write_answers(folder, found, GREEDY_FILE)
    rows = answer_prompts(*asked, table, max_new_tokens, experiment.seed, "eval answers", table.n_eval_samples)
    write_answers(folder, rows)
    if n_processes() > 1:
        summary["processes"] = n_processes()
    return summary | summarise(rows)


def _labels(experiment: Experiment, table: PolicyTable) -> dict[str, Label]:
    if not table.offline_labels(table.label_kinds):
        return {}
    return policy.rewards.labels.read_labels(policy.rewards.labels.labels_folder(experiment, table))


def _matcher(task: Task, table: PolicyTable, labels: dict[str, Label]) -> LabelMatcher | None:
    """What compares answers with labels; None where the reward reads none."""
    if not table.label_kinds or not isinstance(task, VerifiableTask):
        return None
    return LabelMatcher(task, labels, table.incorrect_labels, table.num_generations)


_DECIDES_ANSWERS = (
    "reward",
    "model_name_or_path",
    "max_completion_length",
    "n_eval_samples",
    "eval_greedy",
    "eval_temperature",
    "eval_top_p",
    "eval_top_k",
    "cpu_threads",
    "bf16",
)
