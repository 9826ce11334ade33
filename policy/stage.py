"""The stage `policy`: makes one cell, `runs/<name>/policy/<cell>/`: a trained policy and its answers for the judge."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

import calibration.stage
import rm.stage
import tasks.stage
from calibration.config import CalibrationTable
from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from configs.runfolder import MANIFEST, SCRATCH, Stage, run_stage
from configs.terminal import say, show_table
from policy.alarm_callback import RollBack, read_alarms, summarise_alarms
from policy.answers import answer_prompts, summarise, write_answers
from policy.audit import read_metrics
from policy.checkpoints import Looks, best_state
from policy.config import PolicyTable, cell_name
from policy.prompt_lengths import within_length
from policy.rewards import REWARDS, RewardSettings
from policy.rungs import load_calibrator, open_calibrators, open_rungs
from policy.training import train_policy
from rm.backbone import four_bit_settings
from tasks.base_folder import base_path, load_causal_model
from tasks.records import Prompt, PromptSplit, read_prompts
from tasks.table import load_task
from tasks.torch_setup import prepare_torch

ROOM = "policy"
POLICY_FOLDER = "policy"
SPLITS: tuple[PromptSplit, ...] = ("train", "dev", "eval")


def cell_folder(experiment: Experiment) -> Path:
    """Where the experiment's cell lies."""
    table = experiment.table(ROOM, PolicyTable)
    return experiment.folder / ROOM / cell_name(table, experiment.seed)


def run(experiment: Experiment) -> dict[str, Any]:
    """Make the cell, or find it finished; what it needs is made first where it is missing. Returns the manifest."""
    table = experiment.table(ROOM, PolicyTable)
    tasks.stage.run(experiment)
    inputs = {"tasks": tasks.stage.folder_of(experiment)}
    settings = table.deciding()
    settings["seed"] = experiment.seed if table.seed is None else table.seed
    if table.rungs:
        rm.stage.run(experiment)
        for rung in table.rungs:
            rm.stage.rung_folder(experiment, rung)
        calibration.stage.run(experiment)
        inputs |= {"rm": rm.stage.folder_of(experiment), "calibration": calibration.stage.folder_of(experiment)}
    elif table.reward == "graph" or (table.reward in REWARDS and REWARDS[table.reward].rule is not None):
        settings |= {"calibration": experiment.table("calibration", CalibrationTable).model_dump(mode="json")}
    if table.reward == "untrained":
        settings = {name: settings[name] for name in sorted(settings) if name in _DECIDES_ANSWERS}
    stage = Stage(ROOM, cell_folder(experiment), settings, experiment.seed, inputs)
    return run_stage(stage, lambda folder: _make_cell(folder, experiment, table))


def show(experiment: Experiment) -> None:
    """Print what the cell did on the dev prompts, step by step."""
    folder = cell_folder(experiment)
    found = read_json(folder / MANIFEST)["summary"]
    show_table(
        f"policy: {folder.name}, answers to the eval prompts  ({folder})",
        ("answers", "mean gold", "mean length in tokens", "well formed", "cut by the limit"),
        [(found["n"], found["gold_mean"], found["length_mean"], found["well_formed_share"], found["truncated_share"])],
    )
    looks = [row for row in read_metrics(folder) if "dev/length_mean" in row]
    rows = [
        (row["step"], row.get("reward"), row.get("dev/gold_mean"), row["dev/length_mean"], row["dev/well_formed_share"])
        for row in looks
    ]
    if rows:
        columns = ("step", "reward", "dev gold", "dev length", "well formed")
        show_table(f"policy: {folder.name}, on the dev prompts while it trained", columns, rows)
    alarms = [
        (row["step"], row["alarm"], row["action"], row["what"], row["allowed"], row["advice"])
        for row in read_alarms(folder)
    ]
    if alarms:
        headings = ("step", "alarm", "action", "what was found", "what is allowed", "what to try")
        show_table(f"policy: {folder.name}, alarms", headings, alarms)


def _make_cell(folder: Path, experiment: Experiment, table: PolicyTable) -> dict[str, Any]:
    prepare_torch(table.cpu_threads)
    seed = experiment.seed if table.seed is None else table.seed
    task_folder = tasks.stage.folder_of(experiment)
    task = load_task(experiment)
    prompts: dict[str, list[Prompt]] = {split: read_prompts(task_folder, split) for split in SPLITS}
    max_new_tokens = table.max_completion_length or task.max_new_tokens
    if max_new_tokens is None:
        raise UserError(f"policy.max_completion_length is missing; the task {task.name} has no limit of its own")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = table.model_name_or_path or str(base_path(task_folder))

    def load() -> tuple[Any, Any]:
        dtype = torch.bfloat16 if table.bf16 else torch.float32
        if table.load_in_4bit and table.reward != "untrained":
            return load_causal_model(base, dtype=dtype, **four_bit_settings(dtype, ["lm_head"]))
        model, tokenizer = load_causal_model(base, dtype=dtype)
        return model.to(device), tokenizer

    model, tokenizer = load()
    prompts, too_long = within_length(prompts, tokenizer, table.max_prompt_length)
    for split in SPLITS:
        if not prompts[split]:
            left = f" of at most {table.max_prompt_length} tokens" if too_long[split] else ""
            raise UserError(f"{task_folder}: there are no {split} prompts{left}, so no policy can be made")
    summary: dict[str, Any] = {"reward": table.reward, "rung": table.rung, "prompts_too_long": too_long}
    if table.reward != "untrained":
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
                    model, tokenizer, task, prompts, settings, scorers, folder, folder / SCRATCH, experiment.seed
                )
            if trained is None:
                if table.sampler.engine == "vllm" or table.share_base:
                    raise UserError(
                        "policy: an alarm sent the cell back to its last good checkpoint, and this process holds a "
                        "sampler or a rung of the old weights; run the same command again, and it goes on from there"
                    )
                del model  # two would not fit
                model, tokenizer = load()
        model = trained
        summary["kept"] = best_state(read_metrics(folder), table.keep, Looks.of(table))._asdict() | {"rule": table.keep}
        summary["alarms"] = summarise_alarms(read_alarms(folder))
        model.save_pretrained(folder / POLICY_FOLDER)
        tokenizer.save_pretrained(folder / POLICY_FOLDER)
    rows = answer_prompts(
        model,
        tokenizer,
        task,
        prompts["eval"],
        table,
        max_new_tokens,
        experiment.seed,
        "eval answers",
        table.n_eval_samples,
    )
    write_answers(folder, rows)
    return summary | summarise(rows)


_DECIDES_ANSWERS = (
    "reward",
    "model_name_or_path",
    "max_completion_length",
    "n_eval_samples",
    "eval_temperature",
    "eval_top_p",
    "eval_top_k",
    "cpu_threads",
    "bf16",
)
