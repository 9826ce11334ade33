"""The base model of a task on disk, and the cache that spares teaching the same tiny base twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from configs.errors import UserError
from configs.records import sha256_of_record
from configs.runfolder import MANIFEST, Stage, run_stage
from tasks.base_reference import follow_reference
from tasks.records import BASE_FOLDER

CACHE_VARIABLE = "REWARDLADDER_CACHE"
VARIANTS_FOLDER, PROMPTS_FOLDER = "variants", "prompts"
"""Variants of a run, and runs under other prompts, lie in folders of these names inside it."""
RECIPE_VERSION = 1
"""Raise it when teaching changes, so that a base of an older recipe is not taken from the cache."""


@dataclass(frozen=True)
class TaughtBase:
    """A base model with its tokenizer and what teaching reported."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    summary: dict[str, Any]
    folder: Path


def cached_base(
    run_folder: Path, recipe: dict[str, Any], teach: Callable[[], tuple[Any, Any, dict[str, Any]]]
) -> TaughtBase:
    """Teach a base, or take it from the cache when the same recipe was taught before.

    Args:
        run_folder: the experiment's folder; the cache is `.cache/` beside it (of a variant, beside the whole run), or
            the folder named by the environment variable REWARDLADDER_CACHE.
        recipe: everything that decides the base, as plain JSON.
        teach: returns (model, tokenizer, summary).
    """
    cache = Path(os.environ.get(CACHE_VARIABLE) or _cache_of(run_folder))
    recipe = {"recipe_version": RECIPE_VERSION, **recipe}

    def work(folder: Path) -> dict[str, Any]:
        model, tokenizer, summary = teach()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return summary

    folder = cache / f"base-{sha256_of_record(recipe)[:16]}"
    manifest = run_stage(Stage("tasks", folder, recipe, seed=0), work)
    model, tokenizer = load_causal_model(str(folder))
    return TaughtBase(model, tokenizer, manifest["summary"], folder)


def _cache_of(run_folder: Path) -> Path:
    """Beside the run; a variant lies two folders deeper, `runs/x/variants/y`, and shares the bases of all runs."""
    beside = run_folder.parent
    return (beside.parent.parent if beside.name in (VARIANTS_FOLDER, PROMPTS_FOLDER) else beside) / ".cache"


def save_base(folder: Path, base: TaughtBase) -> None:
    """Copy a taught base into a task's folder, so that the run stands alone."""
    target = folder / BASE_FOLDER
    target.mkdir(exist_ok=True)
    for path in sorted(base.folder.iterdir()):
        if path.is_file() and path.name != MANIFEST and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer; where it has no token for padding, the end token pads.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise UserError(f"the model {name_or_path!r} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(name_or_path: str) -> PreTrainedConfig:
    """Load a model's configuration; no code of its own is run.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"the model {name_or_path!r} cannot be loaded: {str(error).strip().splitlines()[0]}") from None


def load_causal_model(name_or_path: str, **settings: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal model and its tokenizer from a folder or, where there is one, a model hub.

    Raises:
        UserError: it cannot be loaded (the folder is incomplete, or the hub is not reachable).
    """
    tokenizer = load_tokenizer(name_or_path)
    try:
        model = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=settings.pop("dtype", "float32"), **settings)
    except (OSError, ValueError) as error:
        raise UserError(f"the model {name_or_path!r} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    return model, tokenizer


def describe_template(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The hash of a tokenizer's chat template; a reward model is scored with the template it was trained with."""
    template = tokenizer.chat_template
    return {"chat_template_sha256": sha256_of_record(template if isinstance(template, str) else json.dumps(template))}


def base_path(task_folder: Path) -> Path:
    """Where the base model of a finished task lies: in its own folder, or where a reference in it says.

    Raises:
        UserError: the task has no base, or the model it refers to is gone or another one.
    """
    path = task_folder / BASE_FOLDER
    if not path.exists():
        raise UserError(f"{task_folder}: holds no base model; name one as rm.model_name_or_path")
    return follow_reference(path)
