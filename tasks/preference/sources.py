"""Where preference rows lie: files, globs, folders, and the published split that a file belongs to.

A folder stands for the files in it: its own, or, as in a downloaded snapshot of a hub's dataset, those of its only
subfolder that holds any, or of `preference/` (HelpSteer3 keeps other kinds of rows beside it).
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from configs.errors import UserError

PublishedSplit = Literal["train", "validation", "test"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
PREFERENCE_FOLDER = "preference"
SPLIT_WORDS: dict[str, PublishedSplit] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
}
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_WORDS)})(?![a-z])")


def resolve_files(patterns: Sequence[str], where: str = "tasks.files") -> list[Path]:
    """The files that paths, globs and folders name, each once, in the order of the patterns and sorted within one.

    Args:
        patterns: what the user wrote.
        where: the key that holds them, for the message.

    Raises:
        UserError: a pattern matches nothing, a file is of no known format, or a folder holds several sets.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        expanded = os.path.expanduser(pattern)  # noqa: PTH111 - globs are texts
        matches = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))  # noqa: PTH110, PTH207
        if not matches:
            raise UserError(f"{where}: {pattern!r} matches no file; name .jsonl, .jsonl.gz or .parquet files")
        for path in map(Path, matches):
            if path.is_dir():
                found.update(dict.fromkeys(_files_of_folder(path, where)))
            elif path.name.endswith(SUFFIXES):
                found[path] = None
            else:
                raise UserError(f"{where}: {path} is not a {', '.join(SUFFIXES)} file")
    return list(found)


def _files_of_folder(folder: Path, where: str) -> list[Path]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.name.endswith(SUFFIXES)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    parents = sorted({path.parent for path in files})
    if not files:
        raise UserError(f"{where}: the folder {folder} holds no {', '.join(SUFFIXES)} file")
    if folder in parents:
        chosen = folder
    elif len(parents) == 1:
        chosen = parents[0]
    elif folder / PREFERENCE_FOLDER in parents:
        chosen = folder / PREFERENCE_FOLDER
    else:
        names = ", ".join(path.relative_to(folder).as_posix() for path in parents[:8])
        raise UserError(
            f"{where}: {folder} holds several sets ({names}); name one of these folders, or files by a glob"
        )
    return [path for path in files if path.parent == chosen]


def published_split(name: str) -> PublishedSplit | None:
    """The split that a file's or a hub split's name says, else that its folder is called by; None where neither does.

    `train-00000-of-00002.parquet`, `data/test_prefs.jsonl`, `HelpSteer3:validation` and `val/part-0.jsonl` say it;
    `latest.jsonl` does not, and a name that says two of them says nothing.
    """
    *_, folder, file = ("", *re.split(r"[/\\:]", name.lower()))
    said = {SPLIT_WORDS[word] for word in SPLIT_WORD.findall(file)}
    if said:
        return said.pop() if len(said) == 1 else None
    return SPLIT_WORDS.get(folder)


def published_splits(names: Sequence[str], held_out: Sequence[str], where: str) -> dict[str, PublishedSplit]:
    """The published split of every source.

    Args:
        names: all sources.
        held_out: those that the user named as held out; where there are any, all others train.
        where: for the message.

    Raises:
        UserError: a name does not say its split, or no source trains, or none is held out.
    """
    splits: dict[str, PublishedSplit] = {}
    for name in names:
        said = published_split(name)
        if held_out:
            splits[name] = "train" if name not in held_out else "test" if said == "test" else "validation"
        elif said is None:
            raise UserError(
                f"{where}: the name {name} does not say which published split it is (train, validation or test); "
                f"name the held-out files as tasks.held_out_files, or write tasks.splits: by_prompt"
            )
        else:
            splits[name] = said
    for needed, kinds in (("train", {"train"}), ("validation or test", {"validation", "test"})):
        if not kinds & set(splits.values()):
            raise UserError(f"{where}: no {needed} file among {', '.join(names)}; published splits need both sides")
    return splits
