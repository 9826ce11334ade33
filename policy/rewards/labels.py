"""Labels that the base makes itself: its majority answers and its wrong ones, sampled once and shared by all cells.

Paper B (arXiv 2506.10947, section 2.2): the majority of 64 answers of the untrained model to each training prompt, at
temperature 1, assigned once, offline. `incorrect` keeps the prompts whose majority label is wrong and pays for matching
it. One record of the samples serves both, in `runs/<name>/labels/base-k64/`; cells that start at once wait for the one
that makes it, and a run that was killed goes on after the last prompts it finished.

What the record says of a prompt (`labels.jsonl`): the majority by `votes`, null where no sample held an answer;
whether the task's grader calls it wrong, null where it cannot say; and a wrong answer: the most frequent one that is
surely wrong (for mathematics by both checkers, because a sixth of the paper's own incorrect labels are right, arXiv
2603.16140), and where the base gave none, a made-up one keyed by seed and prompt, with 0 votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tasks.stage
from configs.errors import UserError
from configs.keyed import keyed_seed
from configs.loader import Experiment
from configs.records import read_jsonl, write_jsonl
from configs.runfolder import SCRATCH, Stage, run_stage
from configs.terminal import progress, say
from policy.config import PolicyTable
from policy.rewards.votes import Label, answer_classes, label_of
from tasks.records import Prompt, Task, VerifiableTask, read_prompts
from tasks.table import load_task

FOLDER = "labels"
LABELS_FILE = "labels.jsonl"
CHUNK = 64
"""Prompts whose samples are written at once."""


def labels_folder(experiment: Experiment, table: PolicyTable) -> Path:
    """Where the labels of an experiment's settings lie."""
    own = table.labels
    warm = "" if own.temperature == 1 else f"-t{own.temperature:g}"
    return experiment.folder / FOLDER / ("given" if own.file else f"base-k{own.n_samples}{warm}")


def run(experiment: Experiment, table: PolicyTable) -> dict[str, Any]:
    """Make the labels, or find them finished; returns the manifest.

    Raises:
        UserError: the task's answers cannot be compared, or the file of samples is unusable.
    """
    task, own = load_task(experiment), table.labels
    if not isinstance(task, VerifiableTask):
        raise no_labels_for(task, table)
    inputs = {"tasks": tasks.stage.folder_of(experiment)}
    sampled_by = {name: getattr(table, name) for name in ("model_name_or_path", "max_completion_length", "bf16")}
    settings = own.model_dump(mode="json") | (sampled_by if own.file is None else {})
    if own.file is not None:
        inputs["file"] = Path(own.file).expanduser()
        settings = {"file": own.file}
    stage = Stage("policy", labels_folder(experiment, table), settings, experiment.seed, inputs)
    return run_stage(stage, lambda folder: _make(folder, experiment, table, task))


def no_labels_for(task: Task, table: PolicyTable) -> UserError:
    """The refusal of a task whose answers are neither right nor wrong."""
    return UserError(
        f"policy.reward {table.reward} compares answers with a label, and answers of the task {task.name} are neither "
        "right nor wrong; it is for arithmetic and mathematics"
    )


def read_labels(folder: Path) -> dict[str, Label]:
    """The labels by prompt."""
    return {row["prompt_id"]: Label(**row) for row in read_jsonl(folder / LABELS_FILE)}


def summarise(labels: Sequence[Label]) -> dict[str, int]:
    """Counts of prompts, for people."""
    return {
        "prompts": len(labels),
        "samples": sum(label.n_samples for label in labels),
        "without_label": sum(label.majority is None for label in labels),
        "ties": sum(label.tie for label in labels),
        "majority_right": sum(label.majority_wrong is False for label in labels),
        "majority_wrong": sum(label.majority_wrong is True for label in labels),
        "majority_unknown": sum(label.majority is not None and label.majority_wrong is None for label in labels),
        "wrong_answer_made_up": sum(label.wrong_votes == 0 for label in labels),
    }


def _make(folder: Path, experiment: Experiment, table: PolicyTable, task: Any) -> dict[str, Any]:
    prompts = read_prompts(tasks.stage.folder_of(experiment), "train")
    if table.labels.file is None:
        completions = _sampled(folder / SCRATCH, experiment, table, task, prompts)
    else:
        completions = _given(Path(table.labels.file).expanduser(), prompts)
    labels = []
    for prompt in progress(prompts, "labelling prompts"):
        answers = [task.read(text).answer for text in completions[prompt.prompt_id]]
        winner = next(iter(answer_classes(answers, task.equal)), None)
        grade = None if winner is None else task.grade(prompt, task.present(winner.text)).gold
        labels.append(label_of(task, prompt, answers, grade, experiment.seed))
    write_jsonl(folder / LABELS_FILE, (asdict(label) for label in labels))
    found = summarise(labels)
    say(f"labels: {', '.join(f'{name} {count}' for name, count in found.items())}  ({folder})")
    return found


def _sampled(
    scratch: Path, experiment: Experiment, table: PolicyTable, task: Task, prompts: Sequence[Prompt]
) -> dict[str, list[str]]:
    """The base's completions by prompt; a file for every few prompts, so that a kill loses little."""
    import torch

    from tasks.base_folder import base_path, load_causal_model
    from tasks.sampling import sample
    from tasks.torch_setup import prepare_torch

    limit, k = table.max_completion_length or task.max_new_tokens, table.labels.n_samples
    if limit is None:
        raise UserError(f"policy.max_completion_length is missing; the task {task.name} has no limit of its own")
    prepare_torch(table.cpu_threads)
    base = table.model_name_or_path or str(base_path(tasks.stage.folder_of(experiment)))
    model, tokenizer = load_causal_model(base, dtype=torch.bfloat16 if table.bf16 else torch.float32)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, list[str]] = {}
    for start in range(0, len(prompts), CHUNK):
        path = scratch / f"samples-{start:07d}.jsonl"
        if not path.exists():
            asked = [(prompt, sample_number) for prompt in prompts[start : start + CHUNK] for sample_number in range(k)]
            sampled = sample(
                model,
                tokenizer,
                [prompt.asked for prompt, _ in asked],
                [keyed_seed(experiment.seed, "label samples", prompt.prompt_id, number) for prompt, number in asked],
                limit,
                temperature=table.labels.temperature,
                batch_size=table.generation_batch_size,
                what=f"sampling for labels, prompts {start + 1} to {start + len(asked) // k} of {len(prompts)}",
            )
            rows = zip(asked, sampled, strict=True)
            write_jsonl(path, ({"prompt_id": p.prompt_id, "completion": got.text} for (p, _), got in rows))
        for row in read_jsonl(path):
            found.setdefault(row["prompt_id"], []).append(row["completion"])
    return found


def _given(path: Path, prompts: Sequence[Prompt]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {prompt.prompt_id: [] for prompt in prompts}
    others = 0
    for place, row in enumerate(read_jsonl(path), 1):
        name, text = row.get("prompt_id"), row.get("completion")
        if not isinstance(name, str) or not isinstance(text, str):
            raise UserError(
                f"{path}, line {place}: a sample needs prompt_id and completion, found {', '.join(map(str, row))}"
            )
        if name in found:
            found[name].append(text)
        else:
            others += 1
    if not any(found.values()):
        raise UserError(f"{path}: no sample is of a training prompt of this run; policy.labels.file names another file")
    without = sum(not texts for texts in found.values())
    say(f"labels: samples of other prompts left out: {others}; training prompts without a sample: {without}  ({path})")
    return found
