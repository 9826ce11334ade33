"""The untrained base under several prompts: `rewardladder prompts x.yaml`, so that a gain by RL has a prompt beside it.

Paper B (arXiv 2506.10947, Tables 3 and 5) moves Qwen2.5-Math-7B from 49 to 69 on MATH-500 by a prompt of placeholder
text, and from 49 to 64 by an opening, "Let's solve this using Python.": gains as large as those of spurious rewards.

Every prompt of the task, and the experiment's own prompt with every opening, is a run of its own in
`runs/<name>/prompts/`, with one cell `untrained`. The first row is the experiment's own prompt; the others are
compared with it, problem by problem. `rewardladder evaluate runs/<name>` reads them beside trained cells.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Experiment, Table, load_experiment
from configs.records import place_to_write, read_jsonl, write_bytes, write_json
from configs.terminal import interval, say, show_table
from judge.evaluation.command import evaluate_cells
from judge.evaluation.contestants import VERIFIABLE
from judge.evaluation.tables import as_csv, show
from judge.statistics import cluster_bootstrap, widened_where_all_agree
from tasks.openings import OpeningText
from tasks.pairing import ANSWERS_FILE

OPENINGS = {"arithmetic": ["python:"], "mathematics": ["Let's solve this using Python."]}
NOT_OF_A_BASE = ("reward", "rung", "arm", "graph", "noise")
"""Keys of the policy that an untrained one does not read."""


class PromptsTable(Table):
    """Settings of the comparison.

    Attributes:
        prompts: the prompts, names or files; all that the task has where not given.
        openings: words that begin every response, each tried with the experiment's own prompt; where not given, those
            of paper B in the task's words.
        tasks, policy: keys of these tables in the place of the experiment's, for example `policy.n_eval_samples=8`.
        name, runs_dir, seed: in the place of the experiment's.
        resamples: of the bootstrap over problems.
        output: a place without ending, for `<output>.json` and `<output>.csv`.
    """

    prompts: list[str] | None = None
    openings: list[OpeningText] | None = None
    tasks: dict[str, Any] = Field(default_factory=dict)
    policy: dict[str, Any] = Field(default_factory=dict)
    name: str | None = None
    runs_dir: str | None = None
    seed: int | None = Field(None, ge=0)
    resamples: int = Field(2000, ge=100, le=100_000)
    output: str | None = None


def run(paths: Sequence[str], table: PromptsTable) -> None:
    """Answer the eval prompts in each form with the untrained base, and print the tables.

    Raises:
        UserError: no single experiment is named, or its task has no prompts to choose from.
    """
    import policy.stage

    output = place_to_write(table.output, "output") if table.output else None
    if len(paths) != 1:
        raise UserError(f"prompts: one experiment is needed, found {len(paths)}; write rewardladder prompts x.yaml")
    given = {key: getattr(table, key) for key in ("name", "runs_dir", "seed") if getattr(table, key) is not None}
    experiment = load_experiment(Path(paths[0]), [f"{key}={value}" for key, value in given.items()])
    experiment = experiment.with_overrides(
        {f"tasks.{key}": value for key, value in table.tasks.items()}
        | {f"policy.{key}": value for key, value in table.policy.items()}
    )
    cells = {}
    for form in forms_of(experiment, table.prompts, table.openings):
        policy.stage.run(form)
        cells[form.name] = policy.stage.cell_folder(form)
    report = evaluate_cells(cells, experiment.seed, table.resamples)
    shares = [_code_share(cell, experiment.seed, table.resamples) for cell in cells.values()]
    for row, found in zip(report["contestants"], shares, strict=True):
        row["code_share"] = found
    show(report)
    show_table(
        "How many of the answers are code",
        ("contestant", "answers", "share of code"),
        [
            (row["name"], row["code_share"]["n"], interval(*(row["code_share"][key] for key in ("value", "lo", "hi"))))
            for row in report["contestants"]
        ],
    )
    if output:
        write_json(output.with_name(f"{output.name}.json"), report)
        write_bytes(output.with_name(f"{output.name}.csv"), as_csv(report).encode())
        say(f"wrote {output}.json, {output}.csv")


def forms_of(experiment: Experiment, prompts: Sequence[str] | None, openings: Sequence[str] | None) -> list[Experiment]:
    """One experiment a prompt and a opening, the experiment's own form first.

    Raises:
        UserError: the task is not verifiable.
    """
    task = experiment.tables["tasks"].get("task")
    if task not in VERIFIABLE:
        raise UserError(f"{experiment.source}: prompts: the task {task} has one prompt; this is for {VERIFIABLE}")
    own = experiment.tables["tasks"].get("prompt", "plain" if task == "arithmetic" else "boxed")
    own_opening = experiment.tables["tasks"].get("opening", "")
    forms = [(own, own_opening)]
    forms += [(prompt, own_opening) for prompt in (_prompts_of(task) if prompts is None else prompts)]
    forms += [(own, opening) for opening in (OPENINGS[task] if openings is None else openings)]
    return [_form(experiment, prompt, opening) for prompt, opening in dict.fromkeys(forms)]


def _form(experiment: Experiment, prompt: str, opening: str) -> Experiment:
    tables = dict(experiment.tables)
    tables["tasks"] = {**tables["tasks"], "prompt": prompt, "opening": opening}
    tables["policy"] = {key: value for key, value in tables["policy"].items() if key not in NOT_OF_A_BASE}
    label = Path(prompt).stem + (f"-opened-{_slug(opening)}" if opening else "")
    return Experiment(
        f"{experiment.source}, prompt {label}", label, experiment.seed, experiment.folder / "prompts", tables
    )


def _slug(text: str) -> str:
    """A short folder name of a text, different for different texts."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()
    return words if text == f"{words}:" else f"{words[:24]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _prompts_of(task: str) -> list[str]:
    if task == "arithmetic":
        from tasks.arithmetic import PROMPTS

        return list(PROMPTS)
    from tasks.mathematics.prompting import prompt_names

    return prompt_names()


def _code_share(cell: Path, seed: int, resamples: int) -> dict[str, Any]:
    from tasks.strategy.classifier import classify

    rows = list(read_jsonl(cell / ANSWERS_FILE))
    code = [float(classify(row["completion"]).is_code) for row in rows]
    problems = [row["prompt_id"] for row in rows]
    (found,) = cluster_bootstrap([code], problems, keyed_rng(seed, "evaluation"), resamples)
    found = widened_where_all_agree(found, len(set(problems)))
    return {"n": len(rows), "value": found.value, "lo": found.lo, "hi": found.hi}
