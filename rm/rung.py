"""A rung on disk: weights that plain Transformers and PEFT load, its units, its measured accuracy, its card.

rung-65/
  adapter_config.json + adapter_model.safetensors   (or config.json + model.safetensors in full)
  tokenizer files, chat template
  units.json              centre and scale of the score (rm.units)
  card.json               accuracy with interval and everything else that was measured, and on what
  pair_logits.jsonl       logits of every selection and measurement pair
  reference_logits.jsonl  logits of the untrained policy's answers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.records import write_json, write_jsonl
from rm.measures import (
    Floats,
    brier,
    expected_calibration_error,
    group_spread,
    grouped_differences,
    length_accuracy,
    negative_log_likelihood,
    pair_accuracy,
    platt_scale,
    sigmoid,
)
from rm.scorer import RungScorer, score_ids
from rm.units import ScoreUnits
from tasks.base_folder import describe_template
from tasks.records import PreferencePair

CARD_FILE = "card.json"
PAIR_LOGITS_FILE = "pair_logits.jsonl"
REFERENCE_LOGITS_FILE = "reference_logits.jsonl"
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
RELOAD_TOLERANCE = 1e-5
"""A rung that was saved and loaded again must give the logits it had, up to this, relative to their spread."""


@dataclass(frozen=True)
class ReferenceAnswer:
    """One answer of the reference set: from the untrained policy, or from the pairs where there is no policy.

    `answer` is None where the completion is malformed; it then has no logit.
    """

    prompt_id: str
    sample: int
    messages: list[dict[str, str]]
    completion: str
    think: str
    answer: str | None
    gold: float | None


def write_rung(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: dict[str, list[tuple[list[int], list[int]]]],
    pairs: dict[str, list[PreferencePair]],
    reference: Sequence[ReferenceAnswer],
    reference_name: str,
    reference_ids: Sequence[list[int]],
    facts: dict[str, Any],
    batch_tokens: int,
) -> dict[str, Any]:
    """Save a rung, load it again, demand the same logits, and measure it.

    Args:
        folder: the rung's folder.
        model: the reward model with the rung's weights in place.
        tokenizer: its tokenizer.
        encoded: token ids of (chosen, rejected) of the splits `selection` and `measurement`.
        pairs: the pairs in the same order.
        reference: answers on which the units are measured.
        reference_name: what they are, in words.
        reference_ids: token ids of those reference answers that have an answer.
        facts: what is known already (rung, target, step, …); it goes into the card.
        batch_tokens: see `score_ids`.

    Returns:
        The card.

    Raises:
        RuntimeError: the reloaded rung scores differently; the rung cannot be trusted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    model.save_pretrained(folder)
    if hasattr(model, "peft_config"):
        model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    logits = {
        split: score_ids(model, [row for pair in rows for row in pair], batch_tokens).reshape(-1, 2)
        for split, rows in encoded.items()
    }
    reference_logits = score_ids(model, list(reference_ids), batch_tokens)
    largest_difference = _reload_difference(folder, encoded["measurement"], logits["measurement"], batch_tokens)

    write_jsonl(folder / PAIR_LOGITS_FILE, _pair_rows(pairs, logits))
    known = iter(reference_logits.tolist())
    all_logits = [None if answer.answer is None else next(known) for answer in reference]
    write_jsonl(folder / REFERENCE_LOGITS_FILE, _reference_rows(reference, all_logits))

    selection = logits["selection"][:, 0] - logits["selection"][:, 1]
    units = ScoreUnits(
        centre=float(np.median(reference_logits)),
        scale=platt_scale(selection),
        reference=reference_name,
        n_reference=len(reference_logits),
    )
    units.save(folder)
    card = {
        **facts,
        **_measured(pairs["measurement"], logits["measurement"], units),
        **_on_reference(reference, all_logits, units),
        "units": asdict(units),
        "largest_difference_after_reload": largest_difference,
        **describe_template(tokenizer),
    }
    write_json(folder / CARD_FILE, card)
    return card


def _reload_difference(
    folder: Path, encoded: list[tuple[list[int], list[int]]], before: Floats, batch_tokens: int
) -> float:
    rows = [row for pair in encoded for row in pair]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    after = score_ids(RungScorer(folder, batch_tokens, device).model, rows, batch_tokens).reshape(-1, 2)
    difference = float(np.abs(after - before).max())
    allowed = RELOAD_TOLERANCE * max(1.0, float(before.std()))
    if difference > allowed:
        raise RuntimeError(
            f"{folder}: loaded again, the rung's logits differ by {difference:.2e} (allowed {allowed:.2e})"
        )
    return difference


def _pair_rows(pairs: dict[str, list[PreferencePair]], logits: dict[str, Floats]) -> list[dict[str, Any]]:
    return [
        {
            "pair_id": pair.pair_id,
            "prompt_id": pair.prompt_id,
            "split": split,
            "logit_chosen": float(chosen),
            "logit_rejected": float(rejected),
            "gold_chosen": pair.gold_chosen,
            "gold_rejected": pair.gold_rejected,
        }
        for split in ("selection", "measurement")
        for pair, (chosen, rejected) in zip(pairs[split], logits[split], strict=True)
    ]


def _reference_rows(reference: Sequence[ReferenceAnswer], logits: Sequence[float | None]) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": answer.prompt_id,
            "sample": answer.sample,
            "completion": answer.completion,
            "think": answer.think,
            "answer": answer.answer,
            "well_formed": answer.answer is not None,
            "logit": logit,
            "gold": answer.gold,
        }
        for answer, logit in zip(reference, logits, strict=True)
    ]


def _measured(pairs: list[PreferencePair], logits: Floats, units: ScoreUnits) -> dict[str, Any]:
    """What the measurement half says; calibration figures are of sigmoid(scale * difference)."""
    differences = logits[:, 0] - logits[:, 1]
    return {
        "accuracy": pair_accuracy(differences),
        "ties": int((differences == 0).sum()),
        "length_baseline": length_accuracy([p.chosen for p in pairs], [p.rejected for p in pairs]),
        "nll_raw": negative_log_likelihood(differences),
        "nll": negative_log_likelihood(units.scale * differences),
        "brier": brier(units.scale * differences),
        "ece": expected_calibration_error(units.scale * differences),
        "mean_confidence": float(sigmoid(np.abs(units.scale * differences)).mean()),
    }


def _on_reference(
    reference: Sequence[ReferenceAnswer], logits: Sequence[float | None], units: ScoreUnits
) -> dict[str, Any]:
    """What the rung does on answers of the policy that is to be trained."""
    kept = [(answer, logit) for answer, logit in zip(reference, logits, strict=True) if logit is not None]
    values = np.array([logit for _, logit in kept], dtype=np.float64)
    scores = units.scores(values)
    groups = [answer.prompt_id for answer, _ in kept]
    spread, without_spread = group_spread(groups, scores)
    found: dict[str, Any] = {
        "n_reference_answers": len(reference),
        "n_malformed_reference_answers": len(reference) - len(kept),
        "logit_quantiles": {str(q): float(np.quantile(values, q)) for q in QUANTILES},
        "score_spread_per_prompt": spread,
        "share_of_prompts_without_spread": without_spread,
        "on_policy_accuracy": None,
    }
    if all(answer.gold is not None for answer, _ in kept):
        golds = np.array([answer.gold for answer, _ in kept], dtype=np.float64)
        differences = grouped_differences(groups, values, golds)
        if len(differences):
            found["on_policy_accuracy"] = pair_accuracy(differences)
    return found
