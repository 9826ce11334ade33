"""The digest by which records are bound to a rung: of everything that decides its logits and scores."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.records import read_json, sha256_of_file, sha256_of_record

ADAPTER_CONFIG = "adapter_config.json"
CARD_FILE = "card.json"
WEIGHT_SUFFIXES = (".json", ".safetensors", ".bin", ".jinja")


def rung_digest(folder: Path) -> str:
    """The digest of weights, tokenizer, template and units in a rung's folder, and of its base where that is a folder.

    Raises:
        UserError: the folder does not exist or holds no rung.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such rung folder")
    if not ((folder / ADAPTER_CONFIG).exists() or (folder / "config.json").exists()):
        raise UserError(f"{folder}: no rung (neither {ADAPTER_CONFIG} nor config.json is there)")
    found: dict[str, Any] = {"rung": _files_digest(folder)}
    if (folder / ADAPTER_CONFIG).exists():
        adapter = read_json(folder / ADAPTER_CONFIG)
        base = str(adapter.get("base_model_name_or_path") if isinstance(adapter, dict) else None)
        found["base"] = _files_digest(Path(base)) if Path(base).is_dir() else base
    return sha256_of_record(found)


def _files_digest(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in WEIGHT_SUFFIXES and path.name != CARD_FILE:
            stat = path.stat()
            found[path.name] = _file_digest(path, stat.st_size, stat.st_mtime_ns)
    return found


@lru_cache(maxsize=4096)
def _file_digest(path: Path, size: int, changed_ns: int) -> str:
    """A file's SHA-256, once a process as long as it does not change: the rungs of a ladder share a large base."""
    return sha256_of_file(path)
