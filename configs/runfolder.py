"""Finished stages on disk: a folder with a manifest that was written last.

A stage writes files into its folder and, when all of them are there, `manifest.json` by rename: the resolved
settings, seed, versions, device, seconds, the digest of every input and the SHA-256 of every output. From this follow
the rules that every room keeps:

- no manifest means not finished; the same command goes on where it was;
- a finished stage is skipped when its settings and inputs are the same, and never overwritten when they are not;
- a stage that reads another checks its hashes first and refuses an altered or unfinished input by name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.records import make_folder, read_json, sha256_of_file, sha256_of_record, write_json

MANIFEST = "manifest.json"
STARTED = "started.json"
LOCK = ".lock"
SCRATCH = "scratch"
"""A folder of this name inside a stage holds checkpoints; it is no output and is removed at the end."""
LONGEST_SHOWN = 80
"""Characters of a setting that an error shows."""
FORMAT = 1
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")


@dataclass(frozen=True)
class Stage:
    """What a stage is made from: everything that decides its outputs.

    Attributes:
        room: the room that runs it, as in `rewardladder <room>`.
        folder: where its files lie.
        settings: the resolved settings that decide its outputs, as plain JSON.
        seed: the seed of its randomness.
        inputs: name -> folder of a finished stage, or a plain file.
        derived: whether the stage only gathers what others made, in seconds. Such a stage is made anew when its
            settings or inputs have changed, and says so; any other refuses.
    """

    room: str
    folder: Path
    settings: dict[str, Any]
    seed: int
    inputs: dict[str, Path] = field(default_factory=dict)
    derived: bool = False


def run_stage(stage: Stage, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Finish a stage: skip it where it is finished, otherwise call `work(folder)` and write the manifest.

    Args:
        stage: what is to be made, from what.
        work: writes the files and returns a summary for people, which goes into the manifest. It finds what an
            interrupted run left in the folder and may go on from there.

    Returns:
        The manifest.

    Raises:
        UserError: the folder holds work made with other settings or inputs, or an input is altered or unfinished.
    """
    make_folder(stage.folder)
    with locked(stage.folder):
        made_from = {
            "format": FORMAT,
            "room": stage.room,
            "settings": stage.settings,
            "seed": stage.seed,
            "inputs": {name: input_digest(path) for name, path in sorted(stage.inputs.items())},
        }
        if stage.derived:
            _clear_outdated(stage.folder, made_from)
        if (stage.folder / MANIFEST).exists():
            manifest = open_finished(stage.folder)
            _refuse_other_settings(stage.folder, manifest["made_from"], made_from, "was finished")
            (stage.folder / STARTED).unlink(missing_ok=True)  # left where a kill hit between manifest and unlink
            return manifest
        if (stage.folder / STARTED).exists():
            _refuse_other_settings(stage.folder, _read_own(stage.folder, STARTED), made_from, "was begun")
        else:
            write_json(stage.folder / STARTED, made_from)
        for part in stage.folder.rglob("*.part"):
            part.unlink(missing_ok=True)  # half-written by a run that was killed; nobody else writes under this lock
        began = time.monotonic()
        try:
            summary = work(stage.folder)
        except UserError:
            if not _outputs_of(stage.folder) and not (stage.folder / SCRATCH).exists():
                (stage.folder / STARTED).unlink()  # nothing was made, so other settings may be tried
            raise
        _remove_tree(stage.folder / SCRATCH)
        outputs = {name: sha256_of_file(stage.folder / name) for name in _outputs_of(stage.folder)}
        manifest = {
            "made_from": made_from,
            "fingerprint": sha256_of_record(made_from),
            "outputs": outputs,
            "summary": summary,
            "seconds": round(time.monotonic() - began, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "device": device(),
        }
        write_json(stage.folder / MANIFEST, manifest)
        (stage.folder / STARTED).unlink()
        return manifest


def is_finished(folder: Path) -> bool:
    """Whether the stage has its manifest; its hashes are not looked at."""
    return (folder / MANIFEST).exists()


def open_finished(folder: Path) -> dict[str, Any]:
    """Read a stage's manifest and check every output against its hash.

    Raises:
        UserError: the stage is not finished, or one of its files is missing or altered.
    """
    if not is_finished(folder):
        raise UserError(f"{folder}: not finished (there is no {MANIFEST}); run its command again to finish it")
    manifest = _read_own(folder, MANIFEST)
    try:
        outputs = manifest["outputs"]
        for name, digest in outputs.items():
            path = folder / name
            if not path.is_file():
                raise UserError(
                    f"{path}: missing, though {folder / MANIFEST} lists it; delete {folder} to make it anew"
                )
            if sha256_of_file(path) != digest:
                raise UserError(
                    f"{path}: altered since it was finished (its SHA-256 is not the one in {MANIFEST}); "
                    f"delete {folder} to make it anew"
                )
        if sha256_of_record(manifest["made_from"]) != manifest["fingerprint"]:
            raise UserError(f"{folder / MANIFEST}: altered since it was finished; delete {folder} to make it anew")
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / MANIFEST}: not a manifest of this tool; delete {folder} to make it anew") from None
    return manifest


def input_digest(path: Path) -> str:
    """The digest of an input: of a finished stage (what made it and what it holds) or of a plain file.

    Seconds and dates do not enter, so an input that was made again with the same result is the same input.
    """
    if path.is_dir():
        manifest = open_finished(path)
        return sha256_of_record({"fingerprint": manifest["fingerprint"], "outputs": manifest["outputs"]})
    if not path.exists():
        raise UserError(f"{path}: there is no such file or stage")
    return sha256_of_file(path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder alone; a second process waits. The system frees the lock of a process that was killed."""
    with (folder / LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process is at work here; waiting for it", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def device() -> str:
    """The processor, and the GPU where this process has loaded torch and sees one."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, {platform.machine()}"
    return f"CPU {platform.machine()}, {os.cpu_count()} cores"


def _outputs_of(folder: Path) -> list[str]:
    """Every file of a stage but its own bookkeeping, logs, and the folders of stages inside it."""
    names = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        inner = [folder.joinpath(*relative.parts[:depth]) for depth in range(1, len(relative.parts))]
        if any((parent / MANIFEST).exists() or (parent / STARTED).exists() for parent in inner):
            continue
        if path.is_file() and path.name not in (MANIFEST, STARTED, LOCK) and path.suffix not in (".log", ".part"):
            names.append(relative.as_posix())
    return names


def _read_own(folder: Path, name: str) -> dict[str, Any]:
    """Read the manifest of a finished stage or the start of a begun one."""
    try:
        record = read_json(folder / name)
    except UserError as error:
        raise UserError(f"{error}; delete {folder} to make it anew") from None
    if not isinstance(record, dict):
        raise UserError(f"{folder / name}: not a record of this tool; delete {folder} to make it anew")
    return record


def _clear_outdated(folder: Path, wanted: dict[str, Any]) -> None:
    """Empty a derived stage that was made from something else."""
    if (folder / MANIFEST).exists():
        found = _read_own(folder, MANIFEST).get("made_from")
    elif (folder / STARTED).exists():
        found = _read_own(folder, STARTED)
    else:
        return
    if found == wanted or not isinstance(found, dict):
        return  # what is no record of this tool is refused where it is opened
    print(f"{folder}: made anew, because {'; '.join(_differences(found, wanted)[:3])}", flush=True)
    for path in folder.iterdir():
        if path.is_dir():
            _remove_tree(path)
        elif path.name != LOCK:
            path.unlink()


def _refuse_other_settings(folder: Path, found: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
    if found == wanted:
        return
    differences = _differences(found, wanted)
    shown = "; ".join(differences[:3]) + (f" and {len(differences) - 3} more" if len(differences) > 3 else "")
    raise UserError(f"{folder}: {what} with other settings ({shown}); give the run another name or delete {folder}")


def _differences(found: Any, wanted: Any, place: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*found, *wanted})
            for line in _differences(found.get(key), wanted.get(key), f"{place}.{key}" if place else str(key))
        ]
    if found == wanted:
        return []
    if place.startswith("inputs."):
        return [f"its input {place.removeprefix('inputs.')} has changed since"]
    was, now = repr(found), repr(wanted)
    return [f"{place.removeprefix('settings.')} was {_part(was, now)}, is {_part(now, was)}"]


def _part(text: str, other: str) -> str:
    """The text, or of a long one the part around the first character in which it differs from the other."""
    if len(text) <= LONGEST_SHOWN:
        return text
    same = next((i for i, pair in enumerate(zip(text, other, strict=False)) if pair[0] != pair[1]), len(other))
    begin = max(0, min(same - LONGEST_SHOWN // 4, len(text) - LONGEST_SHOWN))
    end = begin + LONGEST_SHOWN
    return ("…" if begin else "") + text[begin:end] + ("…" if end < len(text) else "")


def _remove_tree(folder: Path) -> None:
    import shutil

    if folder.exists():
        shutil.rmtree(folder)
