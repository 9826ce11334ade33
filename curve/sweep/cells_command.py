"""`rewardladder cells x.yaml [room.key=value …]`: one command a line for what of a sweep is missing.

First come the lines that make tasks, ladders and calibrations, then one line a cell. Every line may be run again and by
several machines at once: a finished part is skipped, and of two that make the same one the second waits. They are for
the folder in which they were printed.

    rewardladder cells x.yaml | xargs -d '\\n' -P 8 -I LINE sh -c LINE
    rewardladder cells x.yaml sbatch=sweep.sbatch && bash sweep.sbatch       # arrays of SLURM
    rewardladder curve x.yaml                                                # then: judges, gathers and draws
"""

from __future__ import annotations

import re
import shlex
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from configs.errors import UserError
from configs.loader import TOP_KEYS, Experiment, Table, is_a_file, load_experiment, read_words
from configs.records import make_folder, place_to_write, write_bytes
from configs.runfolder import is_finished
from curve.sweep.cells import expand
from curve.sweep.preparation import described, is_ready, rooms_before
from curve.sweep.variants import variants_of
from rm.config import RMTable

MOST_TASKS = 1000
"""Tasks that SLURM takes in one array where a cluster has not raised MaxArraySize."""
SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --output={logs}/%A_%a.log
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --requeue
{gpus}# What is missing of {name}. Hand it in with: bash {file}
# Partition and account: further lines above, or SBATCH_PARTITION and SBATCH_ACCOUNT. A task that is repeated skips what
# is finished and goes on where a cell stopped; `rewardladder cells` writes this file anew for what is left.
set -euo pipefail
cd {folder}
if [ -z "${{SLURM_ARRAY_TASK_ID:-}}" ]; then
  after=()
  if [ {n_before} -gt 0 ]; then
    before=$(sbatch --parsable --array=1-{n_before} {file} {before})
    after=(--dependency="afterany:${{before%%;*}}")
  fi
  if [ {n_cells} -gt 0 ]; then
    sbatch --parsable --array=1-{n_cells}{at_once} ${{after[@]+"${{after[@]}}"}} {file} {cells}
  fi
  exit
fi
eval "$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" "$1")"
"""


class CellsTable(Table):
    """Settings of `rewardladder cells`.

    Attributes:
        sbatch: a script for SLURM to write, with its lines beside it, in the place of printing them.
        gpus: GPUs a task asks for.
        time: the longest a task may take, as SLURM writes it.
        at_once: most cells at work at the same time.
    """

    sbatch: str | None = Field(None, min_length=1)
    gpus: int = Field(0, ge=0)
    time: str = Field("04:00:00", pattern=r"^[0-9:-]+$")
    at_once: int | None = Field(None, ge=1)


class Lines(NamedTuple):
    """Shell commands: those that prepare, those that make a cell each, and the most threads that one of them uses."""

    before: list[str]
    cells: list[str]
    threads: int


def run_words(words: Sequence[str]) -> None:
    """Read an experiment, its overrides and the settings of the command from the command line, and run it."""
    own = [word for word in words if _is_setting(word)]
    others = [word for word in words if word not in own]
    _, table = read_words(own, CellsTable, "cells")
    if not others or _is_override(others[0]):
        raise UserError("cells: name an experiment, for example rewardladder cells configs/curve.yaml")
    experiment = load_experiment(Path(others[0]), others[1:])
    lines = missing_lines(experiment)
    if table.sbatch is not None:
        write_sbatch(experiment, lines, table)
    else:
        for line in (*lines.before, *lines.cells):
            print(line)
    print(_summary(experiment, lines), file=sys.stderr)


def missing_lines(experiment: Experiment) -> Lines:
    """A command for every part of the sweep that is not finished."""
    before, threads = [], 1
    for run in variants_of(experiment).values():
        if not is_ready(run):
            command = "calibrate" if len(rooms_before(run)) > 1 else "tasks"
            own = run.table("rm", RMTable).cpu_threads
            before.append(_line(own, command, str(described(run))))
            threads = max(threads, own)
    cells = []
    for cell in expand(experiment):
        if not is_finished(cell.folder):
            cells.append(_line(cell.table.cpu_threads, "policy", str(described(cell.run)), *cell.words))
            threads = max(threads, cell.table.cpu_threads)
    return Lines(before, cells, threads)


def write_sbatch(experiment: Experiment, lines: Lines, table: CellsTable) -> None:
    """Write the script and, beside it, `<name>.preparation.lines` and `<name>.cells.lines`.

    Raises:
        UserError: it cannot be written there.
    """
    file = place_to_write(str(table.sbatch), "sbatch").absolute()
    if not str(file).isprintable():
        raise UserError(f"sbatch: {str(file)!r} would break the script's lines; name another file")
    places = {kind: file.with_suffix(f".{kind}.lines") for kind in ("preparation", "cells")}
    logs = (experiment.folder / "slurm").absolute()
    if "\\" in str(logs):
        raise UserError(f"runs_dir: SLURM writes no logs into {str(logs)!r}, for its backslash; choose another folder")
    make_folder(logs)
    for kind, some in (("preparation", lines.before), ("cells", lines.cells)):
        write_bytes(places[kind], "".join(f"{line}\n" for line in some).encode())
    text = SCRIPT.format(
        name=shlex.quote(experiment.name),
        logs=_as_pattern(str(logs)),
        cpus=lines.threads,
        time=table.time,
        gpus=f"#SBATCH --gres=gpu:{table.gpus}\n" if table.gpus else "",
        folder=shlex.quote(str(Path.cwd())),
        file=shlex.quote(str(file)),
        before=shlex.quote(str(places["preparation"])),
        cells=shlex.quote(str(places["cells"])),
        n_before=len(lines.before),
        n_cells=len(lines.cells),
        at_once="" if table.at_once is None else f"%{table.at_once}",
    )
    write_bytes(file, text.encode())
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    print(f"{file}: hand it in with `bash {shlex.quote(str(table.sbatch))}`")
    if len(lines.cells) > MOST_TASKS:
        print(f"{len(lines.cells)} cells are more than most clusters take in one array (MaxArraySize); ask for it")


def _as_pattern(path: str) -> str:
    """A path in `#SBATCH --output=`: `%` begins a pattern there, and white space, quotes and `#` end or open a word."""
    return re.sub(r"([ '\"#])", r"\\\1", path.replace("%", "%%"))


def _line(threads: int, *words: str) -> str:
    beside = Path(sys.executable).with_name("rewardladder")
    program = str(beside) if beside.exists() else "rewardladder"
    return f"OMP_NUM_THREADS={threads} {shlex.join([program, *words])}"


def _is_override(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and key.replace(".", "_").isidentifier() and not is_a_file(word)


def _is_setting(word: str) -> bool:
    key = word.partition("=")[0]
    return _is_override(word) and "." not in key and key not in TOP_KEYS


def _summary(experiment: Experiment, lines: Lines) -> str:
    if not lines.before and not lines.cells:
        return f"Every cell of {experiment.name} is finished; `rewardladder curve` judges and draws."
    return (
        f"{len(lines.before)} to prepare, {len(lines.cells)} cells to make; run them in {Path.cwd()}, "
        "then `rewardladder curve` judges and draws."
    )
