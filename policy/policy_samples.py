"""Several answers a prompt with reward and gold, read from what a cell left behind, for looks at policy samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_jsonl
from configs.runfolder import MANIFEST, open_finished
from rm.measures import Floats

COMPLETIONS_FILE = "completions.parquet"
ANSWERS_FILE = "answers.jsonl"
BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Samples:
    """Answers of one policy, or of a stretch of training.

    Attributes:
        groups: of each answer, what it competes within: a prompt, at one step.
        prompts: of each answer, the prompt; prompts are resampled whole.
        rewards: by which answers are ranked, shape (N,); -inf for an answer that no reward model could read.
        golds: the truth, shape (N,).
        dropped: rows left out, by reason.
    """

    groups: list[str]
    prompts: list[str]
    rewards: Floats
    golds: Floats
    dropped: dict[str, int]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a cell's answers, of its completions in training, or of a file of either kind.

    Raises:
        UserError: no such file, or a damaged or unfinished cell.
    """
    if path.is_dir():
        open_finished(path)
        path = path / (COMPLETIONS_FILE if (path / COMPLETIONS_FILE).exists() else ANSWERS_FILE)
    if path.suffix != ".parquet":
        return list(read_jsonl(path))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as parquet ({str(error).splitlines()[0]})") from None
    return rows


def samples_of(rows: Iterable[Mapping[str, Any]], ranking: Sequence[float | None], where: str) -> Samples:
    """Rows with their ranking as samples; rows without gold or without reward are left out and counted.

    Raises:
        UserError: rows without a prompt, or nothing is left.
    """
    groups, prompts, rewards, golds = [], [], [], []
    dropped: Counter[str] = Counter()
    for row, reward in zip(rows, ranking, strict=True):
        if "prompt_id" not in row:
            raise UserError(f"{where}: rows need prompt_id, sample and gold, found {', '.join(map(str, row))}")
        gold = row.get("gold")
        if gold is None or reward is None or math.isnan(reward):
            dropped["no gold" if gold is None else "no reward"] += 1
            continue
        prompt = str(row["prompt_id"])
        groups.append(f"{row.get('step', 0)} {prompt}")
        prompts.append(prompt)
        rewards.append(float(reward))
        golds.append(float(gold))
    if not groups:
        raise UserError(
            f"{where}: no row has both gold and a reward ({dict(dropped)}); name a rung to score them, rung=FOLDER"
        )
    return Samples(groups, prompts, np.array(rewards), np.array(golds), dict(dropped))


def rung_rewards(
    rows: Sequence[Mapping[str, Any]], rung: Path, run_folder: Path, calibrator_folder: Path | None
) -> list[float | None]:
    """What a rung gives each answer: its logit, or the calibrated reward; -inf for a malformed answer's logit.

    Args:
        rows: with `prompt_id` and `completion`.
        rung: the rung's folder.
        run_folder: the run whose task asked the prompts, `runs/<name>`.
        calibrator_folder: of the same rung, where calibrated rewards are wanted.

    Raises:
        UserError: the run has no finished task, a prompt is not of it, or the calibrator is of another rung.
    """
    from calibration.calibrator import Calibrator
    from policy.rewards.table import logits_of
    from rm.scorer import RungScorer
    from tasks.records import read_prompts
    from tasks.table import load_task
    from tasks.torch_setup import prepare_torch

    calibrator = None if calibrator_folder is None else Calibrator.load(calibrator_folder)
    if calibrator is not None:
        calibrator.refuse_other_rung(rung)
    folder = run_folder / "tasks"
    settings = open_finished(folder)["made_from"]["settings"]
    experiment = Experiment(str(folder / MANIFEST), run_folder.name, 0, run_folder.parent, {"tasks": settings})
    task, prompts = load_task(experiment), {prompt.prompt_id: prompt for prompt in read_prompts(folder)}
    unknown = next((row["prompt_id"] for row in rows if row["prompt_id"] not in prompts), None)
    if unknown is not None:
        raise UserError(f"prompt {unknown!r} is not one of {folder}; name the run of these answers, run=FOLDER")
    prepare_torch(1)
    responses = [task.read(row["completion"]) for row in rows]
    asked, texts = [prompts[row["prompt_id"]] for row in rows], [row["completion"] for row in rows]
    logits = logits_of(RungScorer(rung, BATCH_TOKENS), task, asked, responses, texts)
    if calibrator is None:
        return [-math.inf if logit is None else logit for logit in logits]
    return [calibrator.reward(logit, response).reward for logit, response in zip(logits, responses, strict=True)]
