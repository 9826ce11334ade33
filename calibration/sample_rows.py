"""Read what a policy cell kept of its training: `completions.parquet`, its manifest, and the run's calibrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calibration.calibrator import CALIBRATOR_FILE, Calibrator
from calibration.labelled_logits import LARGEST_LOGIT
from calibration.resamples import Mask
from configs.errors import UserError
from configs.records import read_json
from configs.runfolder import MANIFEST
from rm.measures import Floats
from tasks.records import GradeStatus

COMPLETIONS_FILE = "completions.parquet"
SUMMARY_FILE = "summary.json"
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("prompt_id", pa.string()),
        ("status", pa.string()),
        ("n_tokens", pa.int64()),
        ("gold", pa.float64()),
        ("score", pa.float64()),
        ("rpr", pa.float64()),
        ("bonus", pa.float64()),
        ("reward", pa.float64()),
    ]
)
"""The columns that are read; a cell holds more."""
ALWAYS = ("step", "prompt_id", "status", "n_tokens")
"""Those that no row may lack."""
MALFORMED = "malformed"
STATUSES: tuple[str, ...] = get_args(GradeStatus)


@dataclass(frozen=True)
class SampleRows:
    """The completions of one cell, shape (N,); NaN where something is not known.

    Attributes:
        name: of the cell; `reward_name` and `rung` from its manifest, None where there is none.
        prompts: of each; `groups` name prompt and step, whose completions were compared with each other.
        before: the score; of a malformed completion its reward, and without a reward model the reward.
        score: None where the cell has no reward model.
        threshold, gold_good: None where the cell has no reward model, or nothing says.
        left_out: rows that cannot be compared, by reason.
    """

    name: str
    reward_name: str | None
    rung: str | None
    prompts: list[str]
    groups: list[str]
    steps: np.ndarray[Any, np.dtype[np.int64]]
    well: Mask
    before: Floats
    score: Floats | None
    reward: Floats
    bonus: Floats
    rpr: Floats | None
    gold: Floats
    length: Floats
    threshold: float | None
    gold_good: float | None
    left_out: dict[str, int]

    def column(self, name: str) -> Floats | None:
        """One of reward, gold, score, rpr and length; None where the cell has none, gold included."""
        found: Floats | None = getattr(self, name)
        return None if found is None or not np.isfinite(found).any() else found


def read_cell(path: Path, threshold: float | None, gold_good: float | None) -> SampleRows:
    """Read a cell folder, or a parquet file with the same columns.

    Args:
        threshold, gold_good: in the place of those of the run's calibrator, `../../calibration/<rung>/`.

    Raises:
        UserError: there are no completions, they cannot be read, or nothing says what the threshold is.
    """
    file = path / COMPLETIONS_FILE if path.is_dir() else path
    table = _read_table(file)
    columns = {
        name: table.column(name).to_numpy() for name in table.column_names if SCHEMA.field(name).type != "string"
    }
    values = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    for name in ("gold", "score", "rpr", "bonus", "reward"):
        _refuse_infinite(file, name, table.column(name), values[name])
    _refuse_strange(file, table)
    status = table.column("status").to_pylist()
    well = np.array([word != MALFORMED for word in status], dtype=bool)
    has_scores = bool(np.isfinite(values["score"]).any())
    no_reward = ~np.isfinite(values["reward"])
    no_score = well & ~np.isfinite(values["score"]) & ~no_reward & has_scores
    kept = np.flatnonzero(~no_reward & ~no_score)
    if len(kept) == 0:
        raise UserError(f"{file}: none of {table.num_rows} rows has a reward; there is nothing to report on")
    name, reward_name, rung = _named(path)
    if has_scores:
        threshold, gold_good = _bounds(path, rung, threshold, gold_good)
    prompts = _taken(table.column("prompt_id").to_pylist(), kept)
    steps = table.column("step").to_numpy()[kept]
    reward, score = values["reward"][kept], values["score"][kept]
    rprs = values["rpr"][kept]
    return SampleRows(
        name=name,
        reward_name=reward_name,
        rung=rung,
        prompts=prompts,
        groups=[f"{prompt}\0{step}" for prompt, step in zip(prompts, steps.tolist(), strict=True)],
        steps=steps,
        well=well[kept],
        before=np.where(np.isfinite(score), score, reward),
        score=score if has_scores else None,
        reward=reward,
        bonus=np.nan_to_num(values["bonus"][kept]),
        rpr=rprs if np.isfinite(rprs).any() else None,
        gold=values["gold"][kept],
        length=values["n_tokens"][kept],
        threshold=threshold if has_scores else None,
        gold_good=gold_good if has_scores else None,
        left_out={"rows without a reward": int(no_reward.sum()), "rows without a score": int(no_score.sum())},
    )


def _read_table(file: Path) -> pa.Table:
    """The needed columns, in the needed types, of a file that has rows."""
    if not file.is_file():
        raise UserError(
            f"{file}: there is no such file; a cell that was trained to its end has one (untrained has none)"
        )
    try:
        found = pq.ParquetFile(file)
        missing = [name for name in SCHEMA.names if name not in found.schema_arrow.names]
        if missing:
            raise UserError(
                f"{file}: no column {', '.join(missing)}; the completions of a cell have {', '.join(SCHEMA.names)}"
            )
        table = found.read(columns=SCHEMA.names).select(SCHEMA.names).cast(SCHEMA)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: not readable as completions ({reason}); it may have been cut or edited") from None
    if table.num_rows == 0:
        raise UserError(f"{file}: there is no row in it")
    for name in ALWAYS:
        if table.column(name).null_count:
            row = table.column(name).to_pylist().index(None) + 1
            raise UserError(f"{file}, row {row}: {name} is missing; every completion has one")
    return table


def _refuse_infinite(file: Path, name: str, column: pa.ChunkedArray, values: Floats) -> None:
    """NaN and infinities are no missing values: those are null. Squares of what is far beyond logits overflow."""
    wrong = ~(np.abs(values) <= LARGEST_LOGIT) & ~np.asarray(column.is_null().to_numpy(), dtype=bool)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{file}, row {row + 1}: {name} is {values[row]}; a finite number or null is needed, "
            f"at most {LARGEST_LOGIT:g} from 0"
        )


def _refuse_strange(file: Path, table: pa.Table) -> None:
    """A status that no completion has, or a number of tokens below 0."""
    for row, status in enumerate(table.column("status").to_pylist(), start=1):
        if status not in STATUSES:
            raise UserError(f"{file}, row {row}: status is {status!r}; it is one of {', '.join(STATUSES)}")
    below = np.flatnonzero(table.column("n_tokens").to_numpy() < 0)
    if len(below):
        raise UserError(f"{file}, row {int(below[0]) + 1}: n_tokens is below 0")


def _named(path: Path) -> tuple[str, str | None, str | None]:
    """Name of the cell, and its reward and rung where its manifest says."""
    manifest = path / MANIFEST
    if not path.is_dir() or not manifest.exists():
        return path.name, None, None
    try:
        settings = read_json(manifest)["made_from"]["settings"]
        return path.name, str(settings["reward"]), None if settings["rung"] is None else str(settings["rung"])
    except (KeyError, TypeError):
        raise UserError(f"{manifest}: not the manifest of a policy cell (it has no reward and rung)") from None


def _bounds(path: Path, rung: str | None, threshold: float | None, gold_good: float | None) -> tuple[float, float]:
    """Threshold and gold_good as given, else those of the calibrator of the cell's rung in the same run."""
    if threshold is not None and gold_good is not None:
        return threshold, gold_good
    folder = path.absolute().parent.parent / "calibration"
    if rung is None or not (folder / SUMMARY_FILE).exists():
        raise UserError(
            f"{path}: nothing says what its threshold is (no manifest, or no finished calibration in {folder}); give "
            "threshold=0.5 gold_good=0.5, or what it was"
        )
    try:
        folders = {str(row["rung"]): str(row["folder"]) for row in read_json(folder / SUMMARY_FILE)["rungs"]}
        inside = folder / folders[rung]
    except (KeyError, TypeError):
        raise UserError(f"{folder / SUMMARY_FILE}: no rung {rung!r}; give threshold=0.5 gold_good=0.5") from None
    if not (inside / CALIBRATOR_FILE).exists():
        raise UserError(f"{inside / CALIBRATOR_FILE}: there is no such file; give threshold=0.5 gold_good=0.5")
    settings = Calibrator.load(inside).settings
    return (
        settings.threshold if threshold is None else threshold,
        settings.gold_good if gold_good is None else gold_good,
    )


def _taken(names: Sequence[str], rows: np.ndarray[Any, np.dtype[np.intp]]) -> list[str]:
    return [names[i] for i in rows.tolist()]
