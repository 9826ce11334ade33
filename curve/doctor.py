"""`rewardladder doctor`: before a run, is everything there and will it fit?

Every check that fails says what to do. Memory is predicted (curve.doctor_memory).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import NamedTuple

from calibration.config import CalibrationTable
from configs.errors import UserError
from configs.loader import Experiment
from configs.terminal import say, show_table
from curve.doctor_hub import forget, from_the_cache, has_dataset, has_weights, hub_refusal, is_hub_name, quiet
from curve.doctor_memory import gpu_bytes_here, policy_look, reward_model_look
from curve.sweep.cells import expand
from judge.config import JudgeTable
from rm.config import RMTable
from tasks.table import load_task, task_table

LEAST_FREE_BYTES = 2 * 2**30
ENDPOINT_TIMEOUT_S = 10.0


class Check(NamedTuple):
    """One look: what was looked at, whether it is well, and what was found or what to do."""

    what: str
    well: bool
    found: str


def examine(experiment: Experiment) -> list[Check]:
    """All checks of an experiment."""
    forget()
    checks = []
    for what, look in _LOOKS.items():
        try:
            well, found = look(experiment)
        except UserError as error:
            well, found = False, str(error)
        checks.append(Check(what, well, found))
    return checks


def show_doctor(experiment: Experiment) -> None:
    """Print the checks.

    Raises:
        UserError: one of them failed.
    """
    checks = examine(experiment)
    show_table(
        f"doctor: {experiment.source}",
        ("check", "well", "found"),
        [(check.what, "yes" if check.well else "NO", check.found) for check in checks],
    )
    ill = [check for check in checks if not check.well]
    if ill:
        raise UserError(f"{len(ill)} of {len(checks)} checks failed: {', '.join(check.what for check in ill)}")
    say("Everything that can be known before a run is well.")


def _settings(experiment: Experiment) -> tuple[bool, str]:
    task_table(experiment)
    experiment.table("rm", RMTable)
    experiment.table("calibration", CalibrationTable)
    experiment.table("judge", JudgeTable)
    if not experiment.tables["curve"]:
        return True, "all tables are valid; there is no sweep"
    return True, f"all tables are valid; the sweep has {len(expand(experiment))} cells"


def _device(experiment: Experiment) -> tuple[bool, str]:
    import torch

    if not torch.cuda.is_available():
        return True, f"no GPU; {os.cpu_count()} CPU cores (enough for the offline worlds)"
    free, total = torch.cuda.mem_get_info()
    return True, f"{torch.cuda.get_device_name(0)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"


def _disk(experiment: Experiment) -> tuple[bool, str]:
    place = experiment.runs_dir.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return free > LEAST_FREE_BYTES, f"{free / 2**30:.1f} GiB free at {place}" + (
        "" if free > LEAST_FREE_BYTES else f"; at least {LEAST_FREE_BYTES / 2**30:.0f} GiB are needed"
    )


def _data(experiment: Experiment) -> tuple[bool, str]:
    named = load_task(experiment).input_files()
    missing = [str(path) for path in named.values() if not path.exists()]
    if missing:
        return False, f"not there: {', '.join(missing)}"
    given = experiment.tables["tasks"]
    if given.get("dataset"):
        return _dataset(str(given["dataset"]), given.get("dataset_config"))
    return True, f"{len(named)} data files are there" if named else "the task makes its own data"


def _dataset(name: str, config: str | None) -> tuple[bool, str]:
    what = f"{name} ({config})" if config else name
    if not is_hub_name(name):
        return True, f"the dataset is the folder {name}"
    if has_dataset(name, config):
        return True, f"the dataset {what} of the hub is in the cache"
    refusal = hub_refusal("dataset", name)
    if not refusal:
        return True, f"the dataset {what} is taken from the hub, which has it; it is fetched at the first run"
    return False, (
        f"the dataset {what} is not in the cache, and {refusal}; fetch its files elsewhere and say "
        f"tasks.files='[FOLDER]' tasks.dataset=null{' tasks.dataset_config=null' if config else ''}"
    )


def _models(experiment: Experiment) -> tuple[bool, str]:
    wanted = _named_models(experiment)
    if not wanted:
        return True, "the task teaches its own base"
    found, well = [], True
    for name in wanted:
        size, problem = _parameters(name)
        if problem:
            well = False
            found.append(f"{name}: {problem}")
        else:
            to_fetch = is_hub_name(name) and not has_weights(name)
            fetched = "; its weights are fetched from the hub at the first run" if to_fetch else ""
            found.append(f"{name}: {size / 1e9:.2f} B parameters{fetched}")
    return well, "; ".join(found)


def _named_models(experiment: Experiment) -> list[str]:
    named = [experiment.tables[room].get("model_name_or_path") for room in ("rm", "policy")]
    named.append(experiment.tables["tasks"].get("base"))
    return sorted({str(name) for name in named if name and name != "taught"})


def _memory(look: Callable[[Experiment, float | None], tuple[bool, str]]) -> Callable[[Experiment], tuple[bool, str]]:
    def of(experiment: Experiment) -> tuple[bool, str]:
        of_hub = [name for name in _named_models(experiment) if is_hub_name(name)]
        if not of_hub:
            return look(experiment, gpu_bytes_here())
        try:
            with from_the_cache():  # the look at the models has fetched the configurations that are to be had
                return look(experiment, gpu_bytes_here())
        except UserError:
            refused = [name for name in of_hub if not has_weights(name) and hub_refusal("model", name)]
            if not refused:
                raise
            return False, f"not known while {' and '.join(refused)} cannot be read (see models)"

    return of


def _endpoint(experiment: Experiment) -> tuple[bool, str]:
    table = experiment.table("judge", JudgeTable)
    if table.kind != "openai":
        return True, f"the judge is {table.kind}; no endpoint is needed"
    import openai

    client = openai.OpenAI(base_url=table.base_url, api_key=table.api_key(), timeout=ENDPOINT_TIMEOUT_S, max_retries=0)
    try:
        names = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        return False, f"{table.base_url} does not answer ({type(error).__name__}); look at judge.base_url and the key"
    if names and table.model not in names:
        return False, f"{table.base_url} has no model {table.model!r}; it has {', '.join(names[:5])}"
    return True, f"{table.base_url} answers and has {table.model}"


def _extras(experiment: Experiment) -> tuple[bool, str]:
    there = [name for name in ("vllm", "bitsandbytes", "ray") if importlib.util.find_spec(name)]
    return True, f"optional packages installed: {', '.join(there) or 'none'}"


def _parameters(name: str) -> tuple[int, str]:
    """Parameters of a model from its configuration alone, and what is wrong where it cannot be read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    cached = not is_hub_name(name) or has_weights(name)
    refusal = "" if cached else hub_refusal("model", name)
    if refusal:
        return 0, f"not in the cache, and {refusal}; fetch the model elsewhere and give its folder instead of the name"
    try:
        with from_the_cache() if cached else quiet():
            config = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        return 0, str(error).strip().splitlines()[0]
    return sum(parameter.numel() for parameter in model.parameters()), ""


_LOOKS: dict[str, Callable[[Experiment], tuple[bool, str]]] = {
    "settings": _settings,
    "device": _device,
    "disk": _disk,
    "data": _data,
    "models": _models,
    "memory (rm)": _memory(reward_model_look),
    "memory (policy)": _memory(policy_look),
    "judge": _endpoint,
    "extras": _extras,
}
