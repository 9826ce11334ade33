"""How fast reward models train and score here, beside TRL's RewardTrainer and a padded pipeline, in one run.

    rewardladder speed                                   in small, on a CPU: seconds
    rewardladder speed shape=7b prompts=prompts.jsonl    Qwen2.5-7B's shape with random weights, on one GPU: 9 minutes

Both trainers start from the same weights and see the same pairs in the same steps, so their losses must agree. TRL is
given every setting of `trl_batch_sizes`, with and without gradient checkpointing; the fastest that fits is compared.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PrinterCallback, TrainerCallback
from trl import RewardConfig, RewardTrainer

from configs.errors import UserError
from configs.loader import read_words
from configs.records import write_json
from configs.terminal import say, show_table
from rm.benchmarks.random_material import SHAPES, Pair, SpeedTable, cap_gpu_memory, random_model, random_pairs
from rm.config import RMTable
from rm.losses import TrainingPair
from rm.packed.layout import packed_length
from rm.pair_trainer import PairTrainer
from rm.scorer import score_ids
from tasks.tiny_base import build_tokenizer

FLOAT32_ROWS = 64
"""So many of the shorter rows are scored in float32 as well, as the measure of both."""
WARM_UP_STEPS = 2
"""Steps that are not timed: kernels are compiled and memory is found in them."""


Trained = dict[str, Any]


class StepClock(TrainerCallback):
    """When each step ended, and its loss and gradient norm."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.gradient_norms: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """After the optimizer's step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def on_log(self, *args: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Once a step."""
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])
            self.gradient_norms.append(float(logs["grad_norm"]))


def train(table: SpeedTable, pairs: Sequence[Pair], batch_size: int | None, checkpointing: bool, steps: int) -> Trained:
    """Train `steps` steps from the same weights: by TRL with `batch_size` pairs at once, or by us where it is None."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rm_table = RMTable.model_validate(
        {
            "lora_r": table.lora_r,
            "lora_alpha": 2 * table.lora_r,
            "batch_tokens": table.batch_tokens,
            "center_rewards_coefficient": 0,
        }
    )
    per_step = table.pairs_per_step
    clock = StepClock()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = RewardConfig(
            output_dir=scratch,
            learning_rate=table.learning_rate,
            lr_scheduler_type="constant",
            per_device_train_batch_size=batch_size or per_step,
            gradient_accumulation_steps=per_step // batch_size if batch_size else 1,
            gradient_checkpointing=checkpointing,
            max_steps=steps,
            max_length=None,
            remove_unused_columns=False,
            bf16=device == "cuda",
            seed=table.seed,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=device == "cpu",
        )
        model = random_model(table, rm_table, device)
        tokenizer = build_tokenizer(["TRL wants a tokenizer; the pairs are tokenised already"], 300)
        common = {"model": model, "args": arguments, "processing_class": tokenizer, "callbacks": [clock]}
        if batch_size:
            rows = Dataset.from_dict({"chosen_ids": [p[0] for p in pairs], "rejected_ids": [p[1] for p in pairs]})
            trainer: Any = RewardTrainer(train_dataset=rows, **common)
        else:
            trainer = PairTrainer(table=rm_table, pairs=[TrainingPair(*pair) for pair in pairs], **common)
        trainer.remove_callback(PrinterCallback)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    skipped = WARM_UP_STEPS if steps > 2 * WARM_UP_STEPS else 1
    seconds = clock.ends[-1] - clock.ends[skipped - 1]
    return {
        "pairs_per_second": (steps - skipped) * per_step / seconds,
        "losses": clock.losses,
        "gradient_norms": clock.gradient_norms,
        "gibibytes": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "setting": f"{batch_size} pairs" if batch_size else f"{table.batch_tokens:,} tokens",
        "gradient_checkpointing": checkpointing,
    }


def fastest_of_trl(table: SpeedTable, pairs: Sequence[Pair]) -> tuple[Trained, list[dict[str, Any]]]:
    """TRL at each setting in short, then the fastest that fits in full."""
    trials: list[dict[str, Any]] = []
    for checkpointing in table.trl_checkpointing:
        for batch_size in table.trl_batch_sizes:
            trial: dict[str, Any] = {"batch_size": batch_size, "gradient_checkpointing": checkpointing}
            try:
                found = train(table, pairs, batch_size, checkpointing, table.trl_trial_steps)
                trial |= {key: found[key] for key in ("pairs_per_second", "gibibytes")}
            except torch.cuda.OutOfMemoryError:
                trial |= {"pairs_per_second": None, "gibibytes": None}
            _free()
            trials.append(trial)
            say(f"TRL, {batch_size} pairs, checkpointing {checkpointing}: {trial['pairs_per_second']} pairs/s")
    fitting = [trial for trial in trials if trial["pairs_per_second"]]
    for best in sorted(fitting, key=lambda trial: -trial["pairs_per_second"]):
        try:
            return train(table, pairs, best["batch_size"], best["gradient_checkpointing"], table.steps), trials
        except torch.cuda.OutOfMemoryError:
            best["pairs_per_second"] = None  # it fitted the trial's pairs, not all
            _free()
    raise UserError("speed: TRL fits at no setting of trl_batch_sizes and trl_checkpointing")


def matrix_rate(device: str) -> float:
    """Measured FLOP/s of a large matrix product: bfloat16 on a GPU, float32 on a CPU."""
    size, kind = ((16384, 3584, 18944), torch.bfloat16) if device == "cuda" else ((512, 512, 512), torch.float32)
    left = torch.randn(size[0], size[1], device=device, dtype=kind)
    right = torch.randn(size[1], size[2], device=device, dtype=kind)
    return 2.0 * size[0] * size[1] * size[2] / _seconds_each(lambda: left @ right, 20)


@torch.inference_mode()
def score_padded(model: Any, rows: Sequence[Sequence[int]], batch_size: int) -> np.ndarray:
    """The usual pipeline: rows in their order, `batch_size` at once, padded on the right to the longest."""
    device = next(model.parameters()).device
    logits = []
    for start in range(0, len(rows), batch_size):
        batch = [torch.tensor(row) for row in rows[start : start + batch_size]]
        ids = nn.utils.rnn.pad_sequence(batch, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in batch], batch_first=True)
        logits.append(model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[:, 0].float().cpu())
    return torch.cat(logits).double().numpy()


def compare_scoring(table: SpeedTable, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Our scorer beside the padded pipeline on the same rows and weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = random_model(table, RMTable.model_validate({"lora_r": table.lora_r}), device).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # in the body's type, which is the padded pipeline's faster setting
            parameter.data = parameter.data.to(torch.bfloat16 if device == "cuda" else torch.float32)
    rows = [side for pair in pairs[: table.score_pairs] for side in pair]
    found: dict[str, Any] = {"rows": len(rows), "tokens": sum(map(len, rows))}
    logits = {}
    work: dict[str, Callable[[], np.ndarray]] = {
        "padded": lambda: score_padded(model, rows, 16),
        "packed": lambda: score_ids(model, rows, table.score_batch_tokens),
    }
    for name, scored in work.items():
        scored()
        _synchronize()
        start = time.perf_counter()
        logits[name] = scored()
        found[f"{name}_rows_per_second"] = len(rows) / (time.perf_counter() - start)
    found["ratio"] = found["packed_rows_per_second"] / found["padded_rows_per_second"]
    found["largest_difference"] = float(np.abs(logits["packed"] - logits["padded"]).max())
    found["spread_of_logits"] = float(logits["padded"].std())
    if device == "cuda":
        few = np.argsort([len(row) for row in rows])[:FLOAT32_ROWS]
        exact = score_padded(model.float(), [rows[i] for i in few], 4)
        for name in work:
            found[f"{name}_error_to_float32"] = float(np.sqrt(np.mean((logits[name][few] - exact) ** 2)))
    return found


def compare(table: SpeedTable) -> dict[str, Any]:
    """The whole comparison; see the module."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cap_gpu_memory(table.memory_gib)
    pairs = random_pairs(table, max(table.pairs_per_step * table.steps, table.score_pairs))
    distinct = [packed_length(pair) for pair in pairs[: table.pairs_per_step * table.steps]]
    rate = matrix_rate(device)
    ours = train(table, pairs, None, table.gradient_checkpointing, table.steps)
    _free()
    theirs, trials = fastest_of_trl(table, pairs)
    _free()
    shape = SHAPES[table.shape]
    kv = shape["hidden_size"] // shape["num_attention_heads"] * shape["num_key_value_heads"]
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    body = shape["num_hidden_layers"] * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner)
    for trained in (ours, theirs):
        trained["tokens_per_second"] = trained["pairs_per_second"] * float(np.mean(distinct))
        # Forward and the gradient of the inputs; frozen weights have no gradient of their own.
        trained["share_of_matrix_rate"] = 4 * body * trained["tokens_per_second"] / rate
    apart = np.abs(np.array(ours["losses"]) - np.array(theirs["losses"])) / np.abs(np.array(theirs["losses"]))
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "shape": table.shape,
        "n_pairs": len(distinct),
        "mean_tokens_a_pair": float(np.mean(distinct)),
        "mean_tokens_a_pair_unshared": float(np.mean([len(a) + len(b) for a, b in pairs[: len(distinct)]])),
        "matrix_flops": rate,
        "ours": ours,
        "trl": theirs,
        "trl_trials": trials,
        "ratio": ours["pairs_per_second"] / theirs["pairs_per_second"],
        "largest_relative_loss_difference": float(apart.max()),
        "scoring": compare_scoring(table, pairs) if table.score_pairs else None,
    }


def show(found: dict[str, Any]) -> None:
    """Print the comparison."""
    rows = [
        (
            name,
            trained["setting"] + (", checkpointing" if trained["gradient_checkpointing"] else ""),
            trained["pairs_per_second"],
            round(trained["tokens_per_second"]),
            f"{100 * trained['share_of_matrix_rate']:.0f}%",
            trained["gibibytes"],
        )
        for name, trained in (("packed (ours)", found["ours"]), ("TRL, its best", found["trl"]))
    ]
    show_table(
        f"training, {found['shape']}, {found['n_pairs']} pairs of {found['mean_tokens_a_pair']:.0f} distinct tokens, "
        f"{found['device']} ({found['matrix_flops'] / 1e12:.1f} TFLOP/s measured)",
        ("trainer", "setting", "pairs/s", "distinct tokens/s", "of matrix rate", "GiB"),
        rows,
    )
    say(
        f"{found['ratio']:.2f} times TRL's pairs per second; losses of the same steps differ by at most "
        f"{100 * found['largest_relative_loss_difference']:.4f}%."
    )
    scoring = found["scoring"]
    if scoring:
        say(
            f"scoring {scoring['rows']} rows: {scoring['packed_rows_per_second']:.1f} rows/s packed, "
            f"{scoring['padded_rows_per_second']:.1f} padded in batches of 16: {scoring['ratio']:.2f} times; logits "
            f"differ by at most {scoring['largest_difference']:.2e}, their spread is {scoring['spread_of_logits']:.2e}."
        )
        if "packed_error_to_float32" in scoring:
            say(
                f"error to float32 (root mean square): {scoring['packed_error_to_float32']:.2e} packed, "
                f"{scoring['padded_error_to_float32']:.2e} padded."
            )


def _seconds_each(work: Callable[[], object], times: int) -> float:
    for _ in range(3):
        work()
    _synchronize()
    start = time.perf_counter()
    for _ in range(times):
        work()
    _synchronize()
    return (time.perf_counter() - start) / times


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run(arguments: Sequence[str]) -> None:
    """Compare, print, and write the figures where asked to."""
    paths, table = read_words(arguments, SpeedTable, "speed")
    if paths:
        raise UserError(f"speed: {paths[0]!r} is no setting; write key=value, for example shape=7b")
    found = compare(table)
    show(found)
    if table.output:
        write_json(table.output, found)
