"""What is kept of training: every completion with every part of its reward, and one line of metrics a step.

Both survive a kill: a step's rows are one file written by rename, and metrics beyond the checkpoint that a run goes on
from are cut off, because the same steps will be made again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.records import read_jsonl, write_jsonl
from policy.rewards.table import Parts, Rollout
from rm.processes import gathered, is_main

COMPLETIONS_FILE = "completions.parquet"
METRICS_FILE = "metrics.jsonl"
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("prompt_id", pa.string()),
        ("sample", pa.int32()),
        ("completion", pa.string()),
        ("answer", pa.string()),
        ("status", pa.string()),
        ("style", pa.string()),
        ("n_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("gold", pa.float64()),
        ("logit", pa.float64()),
        ("score", pa.float64()),
        ("rpr", pa.float64()),
        ("bonus", pa.float64()),
        ("true_reward", pa.float64()),
        ("reward", pa.float64()),
        ("flipped", pa.bool_()),
        ("label", pa.string()),
        ("parts", pa.map_(pa.string(), pa.float64())),
        ("advantage", pa.float64()),
    ]
)
NOT_METRICS = ("step_time", "total_flos", "train_runtime", "epoch", "num_tokens")
"""TRL's log entries that differ between runs of the same thing, or that say nothing here."""


@dataclass
class Audit:
    """Collects one rollout at a time and writes it when the advantages are known."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, rollouts: Sequence[Rollout], parts: Sequence[Parts]) -> None:
        """Keep a rollout's completions with the parts of their rewards."""
        self.rows = [
            {
                "step": rollout.step,
                "prompt_id": rollout.prompt.prompt_id,
                "sample": rollout.sample,
                "completion": rollout.completion,
                "answer": rollout.response.answer,
                "status": rollout.grade.status,
                "style": rollout.grade.style,
                "n_tokens": rollout.n_tokens,
                "truncated": rollout.truncated,
                "gold": rollout.grade.gold,
                "logit": rollout.logit,
                "score": part.score,
                "rpr": part.rpr,
                "bonus": part.bonus,
                "true_reward": part.true,
                "reward": part.reward,
                "flipped": part.flipped,
                "label": part.label,
                "parts": list(part.parts.items()),
            }
            for rollout, part in zip(rollouts, parts, strict=True)
        ]

    def write(self, advantages: Sequence[float]) -> None:
        """Write the rollout, of all processes, with its advantages as one part file."""
        rows = gathered([{**row, "advantage": value} for row, value in zip(self.rows, advantages, strict=True)])
        if not is_main():
            return
        path = self.folder / f"step-{rows[0]['step']:06d}.parquet"
        part = path.with_suffix(".part")
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), part)
        part.replace(path)

    def merge(self, path: Path, steps: int) -> None:
        """Join the part files of steps below `steps` into one table, in the order of the steps."""
        parts = [self.folder / f"step-{step:06d}.parquet" for step in range(steps)]
        tables = [pq.read_table(part, schema=SCHEMA) for part in parts if part.exists()]
        pq.write_table(pa.concat_tables(tables), path)


class Metrics:
    """`metrics.jsonl`: one record a step, from TRL's log and our own figures; no times, so that reruns are equal.

    Of several processes each has all rows, and the main one writes them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def take_up(self, step: int) -> None:
        """Keep the records of an interrupted run up to `step`, which its checkpoint was made after."""
        if self.path.exists():
            whole = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            self.rows = [row for line in whole if (row := json.loads(line))["step"] <= step]
            if is_main():
                write_jsonl(self.path, self.rows)

    def add(self, step: int, values: dict[str, Any]) -> None:
        """Add a step's figures; those of the same step are joined."""
        kept = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
            if not name.startswith(NOT_METRICS)
        }
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1] |= kept
            if is_main():
                write_jsonl(self.path, self.rows)
            return
        self.rows.append({"step": step, **kept})
        if not is_main():
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(self.rows[-1], allow_nan=False) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a finished cell; empty for the untrained one."""
    path = folder / METRICS_FILE
    return list(read_jsonl(path)) if path.exists() else []
