"""`rewardladder status`: what of an experiment is finished, at work, failed or missing, and how long the rest takes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json
from configs.runfolder import LOCK, MANIFEST, STARTED
from configs.terminal import say, show_table
from curve.config import CurveTable
from curve.sweep.cells import Cell, expand
from curve.sweep.variants import variants_of
from curve.sweep.workers import LOG_FILE
from judge.config import JudgeTable

METRICS_FILE = "metrics.jsonl"
"""As `policy.audit.METRICS_FILE`, whose module needs pyarrow and torch."""
TAIL_BYTES = 1 << 14


@dataclass(frozen=True)
class Look:
    """What is known of one stage.

    Attributes:
        stage: the room; `inside` is its folder inside the run.
        state: `finished`, `running`, `failed`, `begun` (stopped half-way), `missing` or `damaged`.
        steps: of a trained cell: optimizer steps done.
        seconds, at: of a finished stage: how long the last go took, and when it ended.
        reason: why it failed.
        cell: the cell that it is.
    """

    stage: str
    inside: str
    state: str
    steps: int | None = None
    seconds: float | None = None
    at: str | None = None
    reason: str = ""
    cell: Cell | None = None

    @property
    def trained(self) -> bool:
        """Whether it is a cell that is trained."""
        return self.cell is not None and self.cell.table.reward != "untrained"

    @property
    def share_left(self) -> float:
        """The part of its steps that is still to be made."""
        if self.state == "finished" or self.cell is None:
            return 0.0
        return 1.0 - min((self.steps or 0) / self.cell.table.max_steps, 1.0)


def looks_of(experiment: Experiment) -> list[Look]:
    """Every stage of the whole experiment, in the order in which they are made."""
    cells = expand(experiment) if experiment.tables["curve"] else []
    looks = []
    for label, run in variants_of(experiment).items() if cells else [(None, experiment)]:
        own = [cell for cell in cells if cell.variant == label]
        places: list[tuple[str, Path, Cell | None]] = [("tasks", run.folder / "tasks", None)]
        if (label is None and experiment.tables["rm"]) or any(cell.table.rungs for cell in own):
            places.append(("rm", run.folder / "rm", None))
        if any(cell.table.rungs for cell in own):
            places.append(("calibrate", run.folder / "calibration", None))
        places += [("policy", cell.folder, cell) for cell in own]
        places += [("judge", cell.judged, None) for cell in own]
        looks += [look_at(stage, place, experiment.folder, cell) for stage, place, cell in places]
    return [*looks, look_at("curve", experiment.folder / "curve", experiment.folder)] if cells else looks


def look_at(stage: str, folder: Path, run_folder: Path, cell: Cell | None = None) -> Look:
    """What one folder says of its stage."""
    inside = folder.relative_to(run_folder).as_posix()
    steps = _last_step(folder) if cell is not None else None
    if (folder / MANIFEST).exists():
        manifest = _read_manifest(folder)
        if manifest is None:
            return Look(stage, inside, "damaged", cell=cell)
        return Look(stage, inside, "finished", steps, manifest.get("seconds"), manifest.get("finished"), cell=cell)
    if _is_held(folder):
        return Look(stage, inside, "running", steps, cell=cell)
    reason = _error_in(folder / LOG_FILE) if cell is not None else ""
    state = "failed" if reason else "begun" if (folder / STARTED).exists() else "missing"
    return Look(stage, inside, state, steps, reason=reason, cell=cell)


def show_status(experiment: Experiment) -> None:
    """Print one row a stage, then what failed, how long the rest may take, and what the judge has cost."""
    looks = looks_of(experiment)
    rows = [
        (
            look.stage,
            look.inside,
            look.state,
            f"{look.steps or 0} of {look.cell.table.max_steps}" if look.trained and look.cell else None,
            look.seconds,
            look.at,
        )
        for look in looks
    ]
    show_table(
        f"status of {experiment.name}  ({experiment.folder})",
        ("stage", "folder", "state", "steps", "seconds", "at"),
        rows,
    )
    done = sum(look.state == "finished" for look in looks)
    say(f"{done} of {len(looks)} stages are finished.")
    damaged = [look.inside for look in looks if look.state == "damaged"]
    if damaged:
        say(
            f"damaged: the {MANIFEST} of {', '.join(damaged)} is none of this tool's; delete the folder to make it anew"
        )
    for look in looks:
        if look.state == "failed":
            say(f"{look.inside}: failed ({look.reason}); the next run tries it again")
    for line in (*time_left(experiment, looks), *spend(experiment)):
        say(line)


def time_left(experiment: Experiment, looks: Sequence[Look]) -> Iterator[str]:
    """How long the unfinished cells will take, by the median of the finished ones of the same algorithm."""
    cells = [look for look in looks if look.trained]
    left = [look for look in cells if look.state != "finished"]
    seconds = {
        look.cell.label: (look.cell.table.algorithm, look.seconds) for look in cells if look.cell and look.seconds
    }
    if not left:
        return
    if not seconds:
        yield f"{len(left)} cells are to be trained; none is finished yet, so nothing says how long they take."
        return
    every = [value for _, value in seconds.values()]
    ahead = 0.0
    for look in left:
        same = [value for algorithm, value in seconds.values() if look.cell and algorithm == look.cell.table.algorithm]
        ahead += look.share_left * statistics.median(same or every)
    workers = min(experiment.table("curve", CurveTable).workers, len(left))
    yield (
        f"About {duration(ahead / workers)} are left for {len(left)} cells, {workers} at a time, by the "
        f"{len(seconds)} finished ones; preparing and judging come on top."
    )


def spend(experiment: Experiment) -> Iterator[str]:
    """What a judge that is paid has cost so far."""
    table = experiment.table("judge", JudgeTable)
    store = experiment.folder / "judge" / "replies.sqlite"
    if table.kind != "openai":
        return
    from judge.asking.budget import dollars, price_of
    from judge.asking.endpoint import Endpoint
    from judge.asking.store import ReplyStore

    account = Endpoint(table.base_url, "", model=table.model, batch=table.batch).account
    n, price, cap = 0, price_of(table), "" if table.max_cost is None else f" of at most {dollars(table.max_cost)}"
    paid = "nothing"
    if store.exists():
        with ReplyStore(store) as replies:
            n, tokens = replies.n_paid(account), replies.spent(account)
        paid = (
            f"{tokens.prompt:,} + {tokens.reply:,} tokens, price unknown"
            if price is None
            else dollars(price.of(tokens))
        )
    yield f"The judge {table.model} has cost {paid}{cap} for {n} replies."


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _is_held(folder: Path) -> bool:
    """Whether a process is at work in the folder: it holds the lock. The look itself takes it for an instant."""
    if not (folder / LOCK).exists():
        return False
    with (folder / LOCK).open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _last_step(folder: Path) -> int | None:
    """The last step in the metrics of a cell; a last line that is being written is passed over."""
    for line in reversed(_tail(folder / METRICS_FILE).splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return int(json.loads(line)["step"])
    return None


def _error_in(log: Path) -> str:
    """The error that a cell's log ends with; empty where it ends otherwise."""
    lines = [_printable(line.strip()) for line in _tail(log).splitlines() if line.strip()]
    if not lines:
        return ""
    if lines[-1].startswith("error:"):
        return lines[-1].removeprefix("error:").strip()
    return lines[-1] if any(line.startswith("Traceback (most recent call last)") for line in lines) else ""


def _printable(line: str) -> str:
    """A line of a log without the signs that would move or colour a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _tail(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return stream.read().decode(errors="replace")


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage; None where it was cut or edited into something else."""
    try:
        manifest = read_json(folder / MANIFEST)
    except UserError:
        return None
    if not isinstance(manifest, dict):
        return None
    seconds, at = manifest.get("seconds", 0.0), manifest.get("finished", "")
    is_duration = type(seconds) in (int, float) and math.isfinite(seconds) and seconds >= 0
    return manifest if is_duration and isinstance(at, str) else None
