"""Runs in verl's own environment (`make test-verl`): the adapters called by the real verl 0.9 and OpenRLHF 0.11.

    python tests/verl_caller.py job.json

A job names the prompts' parquet, completions, the policy's tokenizer, and calls: of verl (hydra overrides, by which the
real configuration is composed, and `RewardLoopWorker`, the real caller), and of OpenRLHF (what `--reward.remote_url`
names, and the real `SingleTurnAgentExecutor`, loaded without the rest of its package, which needs GPUs). Each call's
rewards and parts, or its error, are written to the job's `output`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import time
import types
from functools import cache
from pathlib import Path
from typing import Any


def compose(overrides: list[str]) -> Any:
    """verl's own configuration with overrides, as `verl.trainer.main_ppo` makes it."""
    import verl
    from hydra import compose as compose_config
    from hydra import initialize_config_dir

    folder = Path(verl.__file__).parent / "trainer" / "config"
    with initialize_config_dir(config_dir=str(folder), version_base=None):
        return compose_config("ppo_trainer", overrides=overrides)


def call_verl(job: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Rewards of all completions by verl's worker, from rows as verl's dataset reads them."""
    import torch
    from transformers import AutoTokenizer
    from verl import DataProto
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
    from verl.utils.ray_utils import get_event_loop

    config = compose([*overrides, f"actor_rollout_ref.model.path={job['tokenizer']}", "data.dataloader_num_workers=0"])
    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"])
    dataset = RLHFDataset(job["parquet"], tokenizer, config.data)
    items = [dataset[index] for index in job["rows"]]
    ids = [[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id] for text in job["completions"]]
    width = max(map(len, ids))
    rows = collate_fn(items)
    rows["responses"] = torch.tensor([one + [tokenizer.pad_token_id] * (width - len(one)) for one in ids])
    rows["attention_mask"] = torch.tensor([[1] * 4 + [1] * len(one) + [0] * (width - len(one)) for one in ids])
    tensors = {key: value for key, value in rows.items() if isinstance(value, torch.Tensor)}
    others = {key: value for key, value in rows.items() if key not in tensors}
    sizes = {len(value) for value in tensors.values()}
    assert sizes == {len(ids)}, f"rows of other sizes: {sizes}"
    data = DataProto.from_dict(tensors=tensors, non_tensors=others)
    loop = get_event_loop()
    worker = RewardLoopWorker(config)
    began = time.monotonic()
    found = loop.run_until_complete(worker.compute_score_batch(data))
    return {
        "rewards": [one["reward_score"] for one in found],
        "parts": [one["reward_extra_info"] for one in found],
        "decoded": [tokenizer.decode(one, skip_special_tokens=True) for one in ids],
        "seconds": time.monotonic() - began,
    }


@cache
def load_openrlhf() -> Any:
    """OpenRLHF's module of rollout executors, without what its package imports besides, and its folder."""
    place = importlib.util.find_spec("openrlhf")
    assert place is not None and place.submodule_search_locations
    folder = Path(next(iter(place.submodule_search_locations)))
    for name in ("openrlhf", "openrlhf.utils", "openrlhf.datasets"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    return importlib.import_module("openrlhf.utils.agent"), folder


def call_openrlhf(job: dict[str, Any], remote_url: str) -> dict[str, Any]:
    """Rewards of all completions by OpenRLHF's executor, with an engine that generates the given completions."""
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    agent, _ = load_openrlhf()
    preprocess = importlib.import_module("openrlhf.datasets.prompts_dataset").preprocess_data
    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"])
    rows = pq.read_table(job["parquet"]).to_pylist()
    executor = agent.SingleTurnAgentExecutor([remote_url])

    class Engine:
        def __init__(self, text: str) -> None:
            self.text = text

        async def generate(self, prompt_token_ids: list[int], *_: Any, **__: Any) -> Any:
            tokens = [*tokenizer.encode(self.text, add_special_tokens=False), tokenizer.eos_token_id]
            output = types.SimpleNamespace(token_ids=tokens, finish_reason="stop", logprobs=None)
            return types.SimpleNamespace(outputs=[output])

    sampling = types.SimpleNamespace(max_tokens=400, logprobs=None)

    async def one(index: int, text: str) -> Any:
        prompt, label = preprocess(rows[index], None, "prompt", "label", tokenizer.apply_chat_template)
        return await executor.execute(prompt, label, sampling, 4096, tokenizer, Engine(text))

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(one(i, text) for i, text in zip(job["rows"], job["completions"], strict=True)))

    began = time.monotonic()
    found = asyncio.run(all_of_them())
    return {
        "rewards": [_number(one["reward"]) for one in found],
        "scores": [_number(one["scores"]) for one in found],
        "parts": [{name: _number(value) for name, value in one["extra_logs"].items()} for one in found],
        "seconds": time.monotonic() - began,
    }


def unknown_options(words: list[str]) -> list[str]:
    """The options of a launch that the real OpenRLHF has not."""
    _, folder = load_openrlhf()
    source = (folder / "cli" / "train_ppo_ray.py").read_text()
    known = set(re.findall(r'"(--[A-Za-z_.]+)"', source))
    named = re.findall(r'f"--\{prefix\}(\.[A-Za-z_.]+)"', source)
    known |= {f"--{prefix}{name}" for prefix in ("actor", "critic") for name in named}
    return [word for word in words if word.startswith("--") and word not in known]


def _number(value: Any) -> float | None:
    """The number in what OpenRLHF keeps: a tensor, or a list of one."""
    if value is None:
        return None
    return float(value[0]) if isinstance(value, list) else float(value.flatten()[0])


def main(path: Path) -> None:
    """Do all calls of a job, one after another."""
    job = json.loads(path.read_text())
    results: dict[str, Any] = {"versions": {}}
    for package in ("verl", "openrlhf", "transformers", "peft", "ray", "torch"):
        results["versions"][package] = importlib.metadata.version(package)
    for name, call in job["calls"].items():
        os.environ.update(call.get("environment", {}))
        try:
            if "compose" in call:
                config = compose(call["compose"])
                found: Any = {"trained": config.data.train_files, "critic": config.critic.optim.lr}
                found["settings"] = config.reward.custom_reward_function.reward_kwargs.settings
            elif "options" in call:
                found = {"unknown": unknown_options(call["options"])}
            elif "overrides" in call:
                found = call_verl(job, call["overrides"])
            else:
                found = call_openrlhf(job, call["remote_url"])
        except Exception as error:  # noqa: BLE001 - the test looks at it
            found = {"error": f"{type(error).__name__}: {error}"}
        results[name] = found
    Path(job["output"]).write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
