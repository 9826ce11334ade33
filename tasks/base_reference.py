"""A base model that stays where it is: a small file in the run folder that names it and knows its files again.

A copy of a 7 B model in every run folder would cost 15 GB. The reference holds the place of the model and a digest of
each of its files, and whoever follows it is refused when the model is gone or another one lies there.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.records import read_json, sha256_of_file, write_json

REFERENCE_FILE = "reference.json"
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Configuration, tokenizer, chat template, weights and their index; never a pickle."""
WHOLE_BYTES = 64 * 2**20
END_BYTES = 2**20
"""Of a larger file the size and the first and last MiB are hashed: a shard is known again in milliseconds."""


def locate_model(name: str) -> Path:
    """The folder of a local model, or of a hub's model in the local cache, fetched where it is not there.

    Raises:
        UserError: there is no such model, or it has no weights as safetensors.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=list(MODEL_FILES), ignore_patterns="*/*"))
        except (OSError, ValueError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"the model {name!r} cannot be loaded: no such folder, and on the hub: {first}") from None
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"the model {name!r} cannot be loaded: {folder} holds no weights as .safetensors")
    return folder.absolute()


def count_parameters(folder: Path) -> int:
    """The parameters in a folder's safetensors files, read from their headers alone.

    Raises:
        UserError: a file is cut or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as weights:
                total += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None
    return total


def write_reference(base: Path, name: str, folder: Path) -> None:
    """Write `reference.json` into a task's `base/`.

    Args:
        base: the folder to write into.
        name: what the user named, for people.
        folder: where the model lies, absolute.
    """
    base.mkdir(parents=True, exist_ok=True)
    files = {path.name: _digest(path) for path in _files(folder)}
    write_json(base / REFERENCE_FILE, {"name": name, "path": str(folder), "files": files})


def follow_reference(base: Path) -> Path:
    """The folder of the model that a task's `base/` holds or refers to.

    Raises:
        UserError: the model referred to is gone, or its files are not those that were referred to.
    """
    if not (base / REFERENCE_FILE).exists():
        return base
    reference = read_json(base / REFERENCE_FILE)
    folder = Path(reference["path"])
    advice = f"put the same model there again, or delete {base.parent} and name it anew as tasks.base"
    if not folder.is_dir():
        raise UserError(f"{base / REFERENCE_FILE}: the model {reference['name']!r} is no longer at {folder}; {advice}")
    for name, digest in reference["files"].items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing, though {base / REFERENCE_FILE} lists it; {advice}")
        if _digest(folder / name) != digest:
            raise UserError(f"{folder / name}: not the file that {base / REFERENCE_FILE} refers to; {advice}")
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})


def _digest(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return {"bytes": size, "sha256": sha256_of_file(path)}
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        digest.update(stream.read(END_BYTES))
        stream.seek(-END_BYTES, 2)
        digest.update(stream.read(END_BYTES))
    return {"bytes": size, "sha256_of_ends": digest.hexdigest()}
