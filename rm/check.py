"""`rewardladder rm check RUNG`: does the rung give the same logits however it is asked, and is it whole?

A reward model that scores by its neighbours, by padding or by where it was loaded ruins whatever is trained on it, in
silence. The rung's scorer (packed) is compared with itself in other batches and orders, with plain Transformers padded
on either side, with itself saved and loaded again, and with itself in other precisions. Differences are in units of the
spread (standard deviation) of the rung's logits over the texts asked, because only that has a meaning.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from configs.errors import UserError
from configs.loader import Table
from configs.records import read_jsonl
from configs.terminal import say, show_table
from rm.check_texts import SAMPLES
from tasks.records import Message

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rm.serving.loaded_rungs import LoadedRung

    Logits = NDArray[np.float64]

REFERENCE_LOGITS_FILE = "reference_logits.jsonl"
SMALL = 50_000_000
"""Weights up to which the body is also run in float64."""
LEAST_SPREAD = 1e-6


class CheckTable(Table):
    """Settings of the command `rm check`.

    Attributes:
        exact_bound: largest allowed difference between ways to ask in float32, in spreads.
        bf16_bound: the same between float32 and bfloat16, which has three digits.
        max_reference_answers: answers of the rung's reference set that are asked besides the built-in texts.
        batch_tokens: tokens that go through the model at once.
        cpu_threads: threads on a CPU.
    """

    exact_bound: float = Field(1e-3, gt=0)
    bf16_bound: float = Field(0.25, gt=0)
    max_reference_answers: int = Field(24, ge=0)
    batch_tokens: int = Field(16384, ge=64)
    cpu_threads: int = Field(1, ge=1, le=1024)


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        check: what was looked at.
        found: the largest difference in spreads, or what was found, in words.
        bound: what is allowed.
        passed: whether it is within it.
    """

    check: str
    found: float | str
    bound: float | str
    passed: bool


def run(paths: Sequence[str], table: CheckTable) -> None:
    """Check one rung and print the table.

    Raises:
        UserError: the rung cannot be loaded, or a check failed.
    """
    if len(paths) != 1:
        raise UserError(f"rm check needs one rung folder, found {len(paths)}")
    folder = Path(paths[0])
    findings, notes = check_rung(folder, table)
    rows = [(f.check, _shown(f.found), _shown(f.bound), "yes" if f.passed else "NO") for f in findings]
    show_table(f"rm check  ({folder})", ("check", "found", "bound", "passed"), rows)
    for note in notes:
        say(note)
    failed = [f for f in findings if not f.passed]
    if failed:
        listed = "; ".join(f"{f.check}: {_shown(f.found)}, allowed {_shown(f.bound)}" for f in failed)
        raise UserError(f"{folder}: {len(failed)} of {len(findings)} checks failed: {listed}")


def check_rung(folder: Path, table: CheckTable) -> tuple[list[Finding], list[str]]:
    """All findings of a rung, and notes in words.

    Raises:
        UserError: the rung cannot be loaded, or its context is too short for every text.
    """
    from rm.serving.loaded_rungs import load_rungs
    from tasks.torch_setup import prepare_torch

    prepare_torch(table.cpu_threads)
    rung = load_rungs([folder], table.batch_tokens)[0]
    findings = [*_of_the_template(rung), *_of_the_weights(rung)]
    rows, left_out = _rows(rung, table.max_reference_answers)
    if len(rows) < 2:
        raise UserError(
            f"{folder}: {left_out} texts are longer than its context of {rung.context} tokens; none is left"
        )
    packed = rung.logits(rows)
    spread = float(packed.std())
    whole = bool(np.isfinite(packed).all())
    findings.append(Finding("logits are finite numbers", "all" if whole else "not all", "all", whole))
    if not whole:
        return findings, []
    apart = spread > LEAST_SPREAD
    findings.append(Finding("logits differ between texts (spread)", f"{spread:.2e}", f"> {LEAST_SPREAD}", apart))
    if apart:
        findings += [
            Finding(name, difference := float(np.abs(logits - packed).max()) / spread, bound, difference <= bound)
            for name, logits, bound in _other_ways(rung, rows, table)
        ]
    lengths = sorted(map(len, rows))
    notes = [
        f"{len(rows)} texts of {lengths[0]} to {lengths[-1]} tokens"
        + (f" ({left_out} longer than the context left out)" if left_out else "")
        + f"; differences in spreads of the logits (1 spread = {spread:.4g} logits)."
    ]
    return findings, notes


def _rows(rung: LoadedRung, most_reference: int) -> tuple[list[list[int]], int]:
    """Token ids of the built-in texts and the rung's reference answers, and how many were too long."""
    asked: list[tuple[list[Message], str]] = [(chat, answer) for chat, answer in SAMPLES]
    reference = rung.folder / REFERENCE_LOGITS_FILE
    if reference.exists():
        texts = [str(row["completion"]) for row in read_jsonl(reference) if row.get("completion")]
        asked += [(SAMPLES[i % len(SAMPLES)][0][-1:], text) for i, text in enumerate(texts[:most_reference])]
    encoded = [rung.encode(chat, answer, as_is=True) for chat, answer in asked]
    rows = [row for row in encoded if len(row) <= rung.context]
    return rows, len(encoded) - len(rows)


def _of_the_template(rung: LoadedRung) -> Iterator[Finding]:
    from tasks.base_folder import describe_template

    tokenizer = rung.scorer.tokenizer
    chat, answer = SAMPLES[0]
    try:
        ids = rung.encode(chat, answer)
        first = 0 if tokenizer.bos_token_id is None else ids[:2].count(tokenizer.bos_token_id)
        found = f"{first} times"
    except UserError as error:
        first, found = 2, str(error)
    yield Finding("template writes the first token (BOS) once", found, "0 or 1 times", first <= 1)
    stored = rung.card.get("chat_template_sha256")
    if stored is not None:
        same = describe_template(tokenizer)["chat_template_sha256"] == stored
        yield Finding("chat template is the one in card.json", "the same" if same else "another", "the same", same)


def _of_the_weights(rung: LoadedRung) -> Iterator[Finding]:
    """Trained at all? A fresh adapter's second matrices (LoRA's B) are zero, and then nothing was learned."""
    import torch

    model, units = rung.scorer.model, rung.units
    named = {name: p for name, p in model.named_parameters() if rung.adapter is None or "original_module" not in name}
    head = [p for name, p in named.items() if ".score." in f".{name}"]
    finite = all(bool(torch.isfinite(p).all()) for p in named.values())
    yield Finding("weights are finite numbers", "all" if finite else "not all", "all", finite)
    norm = math.sqrt(sum(float(p.detach().float().square().sum()) for p in head))
    yield Finding("head is not zero (norm)", f"{norm:.3g}", "> 0", norm > 0)
    second = [p for name, p in named.items() if "lora_B" in name or "lora_embedding_B" in name]
    if second:
        zero = sum(not bool(p.any()) for p in second)
        yield Finding("adapters are trained", f"{zero} of {len(second)} are zero", "not all", zero < len(second))
    text = f"centre {units.centre:.4g}, scale {units.scale:.4g}"
    yield Finding("units are finite, scale above 0", text, "finite", True)  # they would not have loaded otherwise


def _other_ways(rung: LoadedRung, rows: Sequence[list[int]], table: CheckTable) -> Iterator[tuple[str, Logits, float]]:
    """Logits of the same rows in the same order, each found in another way, with the bound on the difference."""
    import torch

    from rm.backbone import load_reward_model

    exact, device = table.exact_bound, str(next(rung.scorer.model.parameters()).device)
    yield "alone = batched", np.concatenate([rung.logits([row]) for row in rows]), exact
    yield "rows in another order", rung.logits(rows[::-1])[::-1], exact
    yield "small batches = one batch", _in_small_batches(rung, rows), exact
    for side in ("right", "left"):
        yield f"padded {side}, plain Transformers = packed", padded_logits(rung.scorer.model, rows, side), exact
    with tempfile.TemporaryDirectory() as place:
        rung.scorer.model.save_pretrained(place)
        if rung.adapter is not None:
            rung.scorer.model.config.save_pretrained(place)
        again = load_reward_model(Path(place), torch.float32, device)
        yield "saved = loaded again", padded_logits(again, rows, "right"), exact
        del again
    halved = load_reward_model(rung.folder, torch.bfloat16, device)
    yield "float32 = bfloat16", _score(halved, rows, table), table.bf16_bound
    del halved
    if sum(p.numel() for p in rung.scorer.model.parameters()) <= SMALL:
        doubled = load_reward_model(rung.folder, torch.float64, device)
        yield "float32 = float64", padded_logits(doubled, rows, "right"), exact


def _score(model: Any, rows: Sequence[list[int]], table: CheckTable) -> Logits:
    from rm.scorer import score_ids

    return score_ids(model, rows, table.batch_tokens)


def _in_small_batches(rung: LoadedRung, rows: Sequence[list[int]]) -> Logits:
    from rm.scorer import score_ids

    return score_ids(rung.scorer.model, rows, 2 * max(map(len, rows)))


def padded_logits(model: Any, rows: Sequence[list[int]], side: str, most_rows: int = 8) -> Logits:
    """Logits by a padded forward of plain Transformers, whatever `rm.scorer` does.

    Args:
        model: a reward model of Transformers, with or without PEFT's wrapper.
        rows: token ids, none empty.
        side: `right` or `left`; on the left, positions are counted from the first real token.
        most_rows: rows of a batch.

    Returns:
        Shape (N,).
    """
    import torch

    from rm.backbone import trunk_and_head

    trunk, head = trunk_and_head(model)
    device = next(trunk.parameters()).device
    logits: list[float] = []
    for start in range(0, len(rows), most_rows):
        batch = [torch.tensor(row) for row in rows[start : start + most_rows]]
        padded = torch.nn.utils.rnn.pad_sequence
        ids_BT = padded(batch, batch_first=True, padding_side=side).to(device)
        mask_BT = padded([torch.ones_like(row) for row in batch], batch_first=True, padding_side=side).to(device)
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            hidden_BTH = trunk(
                input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, use_cache=False
            ).last_hidden_state
            last_B = mask_BT.shape[1] - 1 - mask_BT.flip(1).argmax(1)
            last_BH = hidden_BTH[torch.arange(len(batch), device=device), last_B]
            logits += head(last_BH).squeeze(-1).double().tolist()
    return np.array(logits)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1e}"
