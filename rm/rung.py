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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.records import write_json, write_jsonl
from rm.backbone import trunk_and_head
from rm.card import pair_measures, reference_measures
from rm.measures import Floats, platt_scale, scale_for_spread
from rm.pairs import HELD_OUT, EncodedPairs
from rm.reference import ReferenceAnswer, ReferenceSet
from rm.rung_digest import CARD_FILE
from rm.scorer import RungScorer, score_ids
from rm.targets import Ids
from rm.units import ScoreUnits
from tasks.base_folder import describe_template
from tasks.records import PreferencePair

PAIR_LOGITS_FILE = "pair_logits.jsonl"
REFERENCE_LOGITS_FILE = "reference_logits.jsonl"
RELOAD_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""A rung that was saved and loaded again must give the logits it had, up to this, relative to their spread; by the type
of its body, in which both are computed."""
RELOAD_TOLERANCE_4BIT = 1.0
"""A rung trained on a 4-bit body is loaded on the whole one, and its card is of that; root mean square, in spreads."""


def write_rung(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: EncodedPairs,
    reference: ReferenceSet,
    reference_ids: Sequence[list[int]],
    facts: dict[str, Any],
    batch_tokens: int,
    spread: float | None = None,
) -> dict[str, Any]:
    """Save a rung, load it again, demand the same logits, and measure what was loaded.

    Args:
        folder: the rung's folder.
        model: the reward model with the rung's weights in place.
        tokenizer: its tokenizer.
        held_out: the splits `selection` and `measurement`, as token ids.
        reference: answers on which the units are measured.
        reference_ids: token ids of those reference answers that have an answer.
        facts: what is known already (rung, target, step, loss, …); it goes into the card.
        batch_tokens: see `score_ids`.
        spread: the standard deviation that the scores of the reference answers are stretched to; None takes the Platt
            slope as the scale.

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
    loaded, dtype = _load_again(folder, model, batch_tokens)
    logits = {split: _score_pairs(loaded, held_out.ids[split], batch_tokens) for split in HELD_OUT}
    before = _score_pairs(model, held_out.ids["measurement"], batch_tokens)
    difference = refuse_other_logits(
        folder, before, logits["measurement"], dtype, bool(getattr(model, "is_loaded_in_4bit", False))
    )
    reference_logits = score_ids(loaded, list(reference_ids), batch_tokens)

    write_jsonl(folder / PAIR_LOGITS_FILE, _pair_rows(held_out.pairs, logits))
    known = iter(reference_logits.tolist())
    all_logits = [None if answer.answer is None else next(known) for answer in reference.answers]
    write_jsonl(folder / REFERENCE_LOGITS_FILE, _reference_rows(reference.answers, all_logits))

    selection = logits["selection"][:, 0] - logits["selection"][:, 1]
    centre, platt = float(np.median(reference_logits)), platt_scale(selection)
    units = ScoreUnits(
        centre=centre,
        scale=platt if spread is None else scale_for_spread(reference_logits, centre, spread),
        reference=reference.name,
        n_reference=len(reference_logits),
    )
    units.save(folder)
    answers = reference.answers
    card = {
        **facts,
        **pair_measures(held_out.pairs["measurement"], logits["measurement"], units, facts["loss"]),
        **reference_measures([a.prompt_id for a in answers], all_logits, [a.gold for a in answers], units),
        **held_out.facts(),
        "units": asdict(units),
        "platt_scale": platt,
        "body_dtype": str(dtype).removeprefix("torch."),
        "largest_difference_after_reload": difference,
        **describe_template(tokenizer),
    }
    write_json(folder / CARD_FILE, card)
    return card


def refuse_other_logits(folder: Path, before: Floats, after: Floats, dtype: torch.dtype, in_4bit: bool) -> float:
    """The largest difference between the logits of a model and of its reloaded rung.

    Raises:
        RuntimeError: the difference is above the tolerance.
    """
    difference = float(np.abs(after - before).max())
    compared = float(np.sqrt(((after - before) ** 2).mean())) if in_4bit else difference
    tolerance = RELOAD_TOLERANCE_4BIT if in_4bit else RELOAD_TOLERANCE[dtype]
    allowed = tolerance * max(1.0, float(before.std()))
    if not compared <= allowed:
        raise RuntimeError(
            f"{folder}: loaded again, the rung's logits differ by {compared:.2e} (allowed {allowed:.2e})"
        )
    return difference


def _load_again(folder: Path, model: PreTrainedModel, batch_tokens: int) -> tuple[PreTrainedModel, torch.dtype]:
    """The rung as others load it, with a body of the type that was trained."""
    trunk, _ = trunk_and_head(model)
    parameter = next(p for p in trunk.parameters() if p.is_floating_point())
    return RungScorer(folder, batch_tokens, str(parameter.device), parameter.dtype).model, parameter.dtype


def _score_pairs(model: PreTrainedModel, ids: Sequence[Ids], batch_tokens: int) -> Floats:
    return score_ids(model, [row for pair in ids for row in pair], batch_tokens).reshape(-1, 2)


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
        for split in HELD_OUT
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
