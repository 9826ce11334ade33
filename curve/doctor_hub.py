"""What `rewardladder doctor` says of models and datasets of a hub: in the cache, to be fetched, or not to be had.

The cache is looked at first; what is not in it is asked of the hub in one request of a few seconds, and a hub that does
not answer is not asked again. Answers are remembered until `forget`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]

ASK_SECONDS = 5.0
"""The longest wait for the hub, name resolution included."""
LIBRARIES = ("huggingface_hub", "datasets", "transformers")
_silence: list[str] = []
"""How the hub kept silent, once it did."""


def forget() -> None:
    """Look and ask anew from here on."""
    _silence.clear()
    for remembered in (_ask, has_dataset, has_weights):
        remembered.cache_clear()


def is_hub_name(name: str) -> bool:
    """Whether a name is looked for on the hub: it is no folder here, and is not written as a path."""
    return not name.startswith(("/", ".", "~")) and not Path(name).is_dir()


@cache
def has_weights(name: str) -> bool:
    """Whether all weights of a hub's model are in the cache."""
    from huggingface_hub import try_to_load_from_cache

    with contextlib.suppress(OSError, ValueError, KeyError):
        index = try_to_load_from_cache(name, "model.safetensors.index.json")
        if not isinstance(index, str):
            return isinstance(try_to_load_from_cache(name, "model.safetensors"), str)
        shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
        return all((Path(index).parent / shard).is_file() for shard in shards)
    return False


@cache
def has_dataset(name: str, config: str | None) -> bool:
    """Whether a hub's dataset would be loaded from the cache where the hub cannot be reached."""
    import datasets

    with from_the_cache(), contextlib.suppress(OSError, ValueError, KeyError, datasets.exceptions.DatasetsError):
        datasets.load_dataset_builder(name, config)
        return True
    return False


def hub_refusal(kind: Kind, name: str) -> str:
    """Why the hub does not give something, as the end of a sentence; empty where it would give it."""
    return _silence[0] if _silence else _ask(kind, name)


@cache
def _ask(kind: Kind, name: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    api = HfApi()
    answer: Future[object] = Future()

    def ask() -> None:
        try:
            look = api.model_info if kind == "model" else api.dataset_info
            answer.set_result(look(name, timeout=ASK_SECONDS))
        except Exception as error:  # noqa: BLE001 - handed over whole, and read below
            answer.set_exception(error)

    threading.Thread(target=ask, name="ask the hub", daemon=True).start()  # no time-out reaches name resolution
    try:
        problem = answer.exception(timeout=ASK_SECONDS)
    except TimeoutError as error:
        problem = error
    match problem:
        case None:
            return ""
        case HFValidationError():
            return "it is neither a folder here nor a name that a hub could have"
        case GatedRepoError():
            return f"{api.endpoint} gives it only to accounts that were let in (ask there, then run `hf auth login`)"
        case RepositoryNotFoundError():
            return f"{api.endpoint} has no {kind} of this name, or a private one (run `hf auth login`)"
        case HfHubHTTPError():
            return f"{api.endpoint} answers with status {problem.response.status_code}"
        case OfflineModeIsEnabled():
            said = "HF_HUB_OFFLINE forbids to ask the hub"
        case _:
            said = f"{api.endpoint} does not answer"
    _silence.append(said)
    return said


@contextlib.contextmanager
def from_the_cache() -> Iterator[None]:
    """Within it the hub's libraries read their caches alone, at once and in silence."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        with quiet():
            yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it the hub's libraries do not speak of retries and caches."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
