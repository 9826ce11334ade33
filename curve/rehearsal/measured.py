"""One stage of a rehearsal in a process of its own: `python -m curve.rehearsal.measured order.json`."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

import policy.answers
import policy.stage
import policy.training
import rm.ladder_work
import rm.stage
import rm.training
from configs.command import guarded
from configs.loader import Experiment
from configs.records import read_json, write_json
from curve.rehearsal.material import N_WORDS, single_token_words, write_base, write_random_pairs
from policy.audit import read_metrics
from policy.speed.clock import Timed, Watch
from rm.benchmarks.random_material import cap_gpu_memory
from rm.memory import GIB
from tasks.base_folder import load_tokenizer

POLL_SECONDS = 0.02
ALARMS = ("constant_reward", "no_spread", "all_truncated", "not_a_number", "repetition")


class MemoryMeter(threading.Thread):
    """The most of the GPU's memory that is taken at any look, by this process and what it starts, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self._taken()
        self.most = 0
        self.done = threading.Event()

    @staticmethod
    def _taken() -> int:
        if not torch.cuda.is_available():
            return 0
        free, total = torch.cuda.mem_get_info()
        return total - free

    def run(self) -> None:
        """Look until told to stop."""
        while not self.done.wait(POLL_SECONDS):
            self.most = max(self.most, self._taken() - self.before)


class TimedCell(Timed):
    """`Timed` with the seconds of scoring, watched from its first step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watch = Watch()
        self.watch.trainer = self
        self.add_callback(self.watch)  # type: ignore[attr-defined]
        TimedCell.last = self

    last: Any = None

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        return self._within("scoring", lambda: super(TimedCell, self)._calculate_rewards(*args, **kwargs))  # type: ignore[misc]


def rehearsed(order: dict[str, Any]) -> Experiment:
    """The recipe in small: its own settings, but random weights, random pairs and few of everything."""
    tables, settings = order["tables"], order["settings"]
    folder = Path(order["folder"])
    base = str(folder / "base")
    policy_table = dict(tables["policy"])
    sampler = dict(policy_table.get("sampler") or {})
    if settings["memory_gib"] and torch.cuda.is_available() and sampler.get("vllm_gpu_memory_utilization"):
        total = torch.cuda.get_device_properties(0).total_memory
        sampler["vllm_gpu_memory_utilization"] *= settings["memory_gib"] * GIB / total
    rung = str(policy_table.get("rung") or "75")
    policy_table |= {
        "max_steps": settings["policy_steps"],
        "warmup_steps": 0,
        "critic_warmup_steps": 0,
        "dev_every": 0,
        "save_steps": settings["policy_steps"],
        "rung_server": None,
        "alarms": dict.fromkeys(ALARMS, "off"),
    }
    if sampler:
        policy_table["sampler"] = sampler
    if settings["prompts_per_step"]:
        policy_table["prompts_per_step"] = settings["prompts_per_step"]
    if policy_table.get("model_name_or_path"):
        policy_table["model_name_or_path"] = base
    if tables["policy"].get("rung_server"):
        policy_table |= {"reward": "length", "rung": None}
    task_table = {
        name: value for name, value in tables["tasks"].items() if name not in ("dataset", "dataset_config", "files")
    }
    task_table |= {"files": [str(folder / "pairs.jsonl")], "base": base, "response_format": "plain"}
    task_table |= {"n_dev_prompts": 2, "n_eval_prompts": settings["answers"], "max_pairs": None}
    task_table |= {"held_out_share": 0.2}
    rm_table = {
        **tables["rm"],
        "model_name_or_path": base if tables["rm"].get("model_name_or_path") else None,
        "max_steps": settings["rm_steps"],
        "warmup_steps": 0,
        "ladder": [int(rung)],
        "dense_evaluation_steps": 0,
        "evaluation_every": settings["rm_steps"],
        "n_selection_pairs": None,
        "save_steps": settings["rm_steps"],
        "n_reference_samples": 1,
    }
    small = {
        "tasks": task_table,
        "rm": rm_table,
        "calibration": tables["calibration"] | {"scored_text": "answer"},
        "policy": policy_table,
        "judge": {},
        "curve": {},
    }
    return Experiment("rehearsal", "rehearsal", 0, folder / "runs", small)


def material(order: dict[str, Any]) -> dict[str, Any]:
    """The base and the pairs."""
    folder, tables = Path(order["folder"]), order["tables"]
    named = tables["rm"].get("model_name_or_path") or tables["tasks"].get("base")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not (folder / "base" / "config.json").exists():
        write_base(folder / "base", order["settings"]["shape"], named, device)
    words = single_token_words(load_tokenizer(str(folder / "base")), N_WORDS)
    prompt_tokens = tables["policy"].get("max_prompt_length") or 512
    write_random_pairs(
        folder / "pairs.jsonl",
        order["settings"]["n_pairs"],
        prompt_tokens,
        tables["rm"].get("max_length") or 1024,
        words,
    )
    return {"base": str(folder / "base")}


def reward_model(order: dict[str, Any]) -> dict[str, Any]:
    """The ladder."""
    ends: list[float] = []
    real = rm.training.LadderCallback.on_step_end

    def on_step_end(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        return real(self, *args, **kwargs)

    # Random pairs teach nothing, which a training in earnest refuses.
    vars(rm.training)["_refuse_chance"] = vars(rm.ladder_work)["refuse_still_losses"] = lambda *_: None
    rm.training.LadderCallback.on_step_end = on_step_end  # type: ignore[method-assign]
    began = time.perf_counter()
    rm.stage.run(rehearsed(order))
    spans = [end - start for start, end in itertools.pairwise(ends)]
    return {
        "step_seconds": sum(spans) / len(spans) if spans else None,
        "n_timed": len(spans),
        "whole_seconds": time.perf_counter() - began,
    }


class TimedAnswers:
    """`policy.answers.answer_prompts` with its seconds, and shorter answers where the rehearsal asks for them."""

    def __init__(self, most_tokens: int | None) -> None:
        self.most_tokens = most_tokens
        self.seconds, self.tokens = 0.0, 0
        self.real = policy.answers.answer_prompts

    def __call__(
        self, model: Any, tokenizer: Any, task: Any, prompts: Any, table: Any, limit: int, *rest: Any
    ) -> list[dict[str, Any]]:
        """Answer and note how long the longest answer took."""
        began = time.perf_counter()
        rows = self.real(model, tokenizer, task, prompts, table, min(limit, self.most_tokens or limit), *rest)
        self.seconds = time.perf_counter() - began
        self.tokens = max(row["n_tokens"] for row in rows)
        return rows


def policy_cell(order: dict[str, Any]) -> dict[str, Any]:
    """One cell."""
    experiment = rehearsed(order)
    trainers = policy.training.TRAINERS
    for name, trainer in list(trainers.items()):
        trainers[name] = type(f"Timed{trainer.__name__}", (TimedCell, trainer), {})
    answers = TimedAnswers(order["settings"]["answer_tokens"])
    vars(policy.stage)["answer_prompts"] = answers
    began = time.perf_counter()
    policy.stage.run(experiment)
    whole = time.perf_counter() - began
    metrics = read_metrics(policy.stage.cell_folder(experiment))
    watch, asked = TimedCell.last.watch, experiment.tables["policy"]
    skipped = min(1, len(watch.ends) - 1)
    timed = len(watch.ends) - skipped
    first = watch.parts[skipped - 1] if skipped else {}
    begin = watch.ends[skipped - 1] if skipped else began
    seconds = {name: (watch.parts[-1][name] - first.get(name, 0.0)) / timed for name in watch.parts[-1]}
    step = (watch.ends[-1] - begin) / timed
    parts = {"rollout": seconds["rollout"], "scoring": seconds.get("scoring", 0.0), "logps": seconds.get("logps", 0.0)}
    parts["update"] = seconds["training_step"] - seconds["prepare"]
    parts["other"] = step - sum(parts.values())
    return {
        "step_seconds": step,
        "n_timed": timed,
        "seconds_by_part": parts,
        "whole_seconds": whole,
        "answer_seconds_per_token": answers.seconds / max(1, answers.tokens),
        "answers_at_once": order["settings"]["answers"],
        "prompts_per_step": asked.get("prompts_per_step"),
        "mean_tokens": TimedCell.last.completion_tokens / _completions(TimedCell.last, len(watch.ends)),
        "logs": watch.logs,
        "sampler_difference": [row.get("sampling/sampling_logp_difference/mean") for row in metrics],
    }


def _completions(trainer: Any, steps: int) -> int:
    args = trainer.args
    return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * steps)


STAGES = {"material": material, "rm": reward_model, "policy": policy_cell}


def main() -> None:
    """Run the stage of the order and write the answer."""
    order = read_json(Path(sys.argv[1]))
    on_gpu = torch.cuda.is_available()
    cap_gpu_memory(order["settings"]["memory_gib"])
    meter = MemoryMeter()
    meter.start()
    found = STAGES[order["stage"]](order)
    meter.done.set()
    found["device"] = torch.cuda.get_device_name() if on_gpu else "cpu"
    found["device_gib"] = meter.most / GIB if on_gpu else None
    found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB if on_gpu else None
    found["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB if on_gpu else None
    found["gpu_gib"] = torch.cuda.get_device_properties(0).total_memory / GIB if on_gpu else None
    write_json(Path(order["answer"]), found)


if __name__ == "__main__":
    sys.exit(guarded(main))
