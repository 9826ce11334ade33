"""What calibration does to one rung: pair probabilities before and after the units, answers before and after the rule.

For answers, `before` is the score as it is (malformed ones get the same `malformed_reward`) and `after` is the rule's
reward; `calibration.effect` says what is measured. Every number comes with what it was taken over; what cannot be known
(no gold, no answers) is null.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.calibrator import CalibratedReward, Calibrator
from calibration.effect import MeasuredAnswers, effect
from calibration.labelled_logits import LARGEST_LOGIT
from calibration.measures import Estimate, brier_terms, clustered_mean, nll_terms, resampled_clusters
from calibration.reliability import tail_of
from calibration.resamples import Resamples
from configs.errors import UserError
from configs.keyed import keyed_rng
from rm.measures import ECE_BINS, Floats, expected_calibration_error, pair_accuracy, sigmoid
from tasks.records import Response

MEASURED_SPLIT = "measurement"


@dataclass(frozen=True)
class PairRow:
    """A row of a rung's `pair_logits.jsonl`."""

    prompt_id: str
    split: str
    logit_chosen: float
    logit_rejected: float


@dataclass(frozen=True)
class AnswerRow:
    """A row of a rung's `reference_logits.jsonl`: one answer of the untrained policy. `gold` is None where unknown."""

    prompt_id: str
    response: Response
    logit: float | None
    gold: float | None


def pair_row(row: dict[str, Any], where: str) -> PairRow:
    """Read one row; `where` begins the error sentence."""
    try:
        logits = float(row["logit_chosen"]), float(row["logit_rejected"])
        found = PairRow(str(row["prompt_id"]), str(row["split"]), *logits)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not a row of pair logits ({error!r})") from None
    if not all(map(_is_logit, logits)):
        raise UserError(f"{where}: logits must be finite, found {logits}")
    return found


def answer_row(row: dict[str, Any], where: str) -> AnswerRow:
    """Read one row; `where` begins the error sentence."""
    try:
        response = Response(think=row["think"], answer=row["answer"], well_formed=row["well_formed"])
        logit = None if row["logit"] is None else float(row["logit"])
        gold = None if row["gold"] is None else float(row["gold"])
        found = AnswerRow(str(row["prompt_id"]), response, logit, gold)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not a row of reference logits ({error!r})") from None
    if response.well_formed and (logit is None or not _is_logit(logit)):
        raise UserError(f"{where}: a well-formed answer needs a finite logit, found {logit}")
    if gold is not None and not math.isfinite(gold):
        raise UserError(f"{where}: gold must be a finite number or null, found {gold}")
    return found


def _is_logit(value: float) -> bool:
    """Whether it is finite; squares of what is far beyond any logit are not."""
    return math.isfinite(value) and abs(value) <= LARGEST_LOGIT


def pair_report(calibrator: Calibrator, pairs: list[PairRow], seed: int) -> dict[str, Any]:
    """Accuracy, ECE, Brier and NLL of the pair probabilities, `before` by raw logits and `after` by the rung's scale.

    The scale was fitted on the selection pairs, so only the measurement pairs are looked at.

    Raises:
        UserError: there are no measurement pairs.
    """
    kept = sorted(
        (pair for pair in pairs if pair.split == MEASURED_SPLIT),
        key=lambda pair: (pair.prompt_id, pair.logit_chosen, pair.logit_rejected),  # whatever the order of the rows
    )
    if not kept:
        raise UserError(f"rung {calibrator.rung}: there are no {MEASURED_SPLIT} pairs to report on")
    raw = np.array([pair.logit_chosen - pair.logit_rejected for pair in kept], dtype=np.float64)
    scaled = calibrator.units.scale * raw
    prompts = [pair.prompt_id for pair in kept]

    def rng() -> np.random.Generator:
        return _rng(calibrator, seed, "pairs")

    report: dict[str, Any] = {
        "split": MEASURED_SPLIT,
        "n_pairs": len(kept),
        "n_prompts": len(set(prompts)),
        "accuracy": pair_accuracy(raw),
    }
    for name, differences in (("before", raw), ("after", scaled)):
        report[name] = {
            "ece": pair_ece(differences, prompts, rng()),
            "brier": clustered_mean(brier_terms(differences), prompts, rng()),
            "nll": clustered_mean(nll_terms(differences), prompts, rng()),
        }
    report["change"] = {
        "brier": clustered_mean(brier_terms(scaled) - brier_terms(raw), prompts, rng()),
        "nll": clustered_mean(nll_terms(scaled) - nll_terms(raw), prompts, rng()),
    }
    return report


def pair_ece(differences: Floats, prompts: Sequence[str], rng: np.random.Generator) -> Estimate:
    """The ECE of pairs (`rm.measures`) with an interval over resampled prompts, none for one prompt.

    Noise raises an ECE, so that the percentiles of resamples lie above it altogether; the bounds are those of
    `calibration.reliability.figures`, with the bins held.

    Args:
        differences: of the logits of each pair, shape (N,).
        prompts: of each pair, length N.
    """
    value = expected_calibration_error(differences)
    index, draws = resampled_clusters(prompts, rng)
    n_prompts, n = draws.shape[1], len(differences)
    if n_prompts < 2:
        return {"estimate": value, "lo": None, "hi": None, "n": n}
    confidence = sigmoid(np.abs(differences))
    bin_of = np.empty(n, dtype=np.intp)
    for number, members in enumerate(np.array_split(np.argsort(confidence, kind="stable"), min(ECE_BINS, n))):
        bin_of[members] = number
    sums = np.zeros((n_prompts, ECE_BINS))
    np.add.at(sums, (index, bin_of), confidence - (np.sign(differences) + 1) / 2)
    gaps = sums.sum(axis=0) / n
    drawn = (draws @ sums) / (draws @ np.bincount(index))[:, None]
    tail = tail_of(n_prompts)
    noise = float(np.quantile(np.abs(drawn - gaps).sum(axis=1), 1 - tail))
    high = float(np.quantile(np.abs(drawn).sum(axis=1), 1 - tail))
    return {"estimate": value, "lo": max(0.0, value - noise), "hi": max(value, high), "n": n}


def answer_report(calibrator: Calibrator, answers: list[AnswerRow], seed: int) -> dict[str, Any] | None:
    """What the rule does to the untrained policy's answers (`calibration.effect`); None where there are none.

    Lengths are those of reasoning and answer together, in characters.
    """
    if not answers:
        return None
    given = calibrator.rewards([row.logit for row in answers], [row.response for row in answers])
    prompts = [row.prompt_id for row in answers]
    measured = MeasuredAnswers(
        prompts=prompts,
        groups=prompts,
        before=np.array([_before(calibrator, found) for found in given], dtype=np.float64),
        after=np.array([found.reward for found in given], dtype=np.float64),
        bonus=np.array([found.bonus for found in given], dtype=np.float64),
        well=np.array([found.status == "ok" for found in given], dtype=bool),
        gold=np.array([np.nan if row.gold is None else row.gold for row in answers], dtype=np.float64),
        lengths=np.array([len(row.response.think) + len(row.response.answer or "") for row in answers], dtype=float),
        length_unit="characters",
        threshold=calibrator.settings.threshold,
        gold_good=calibrator.settings.gold_good,
    )
    resamples = Resamples(prompts, _rng(calibrator, seed, "answers"))
    well = [(found.rpr, row.prompt_id) for found, row in zip(given, answers, strict=True) if found.rpr is not None]
    rprs = resamples.mean(np.array([value for value, _ in well], dtype=np.float64), [prompt for _, prompt in well])
    return effect(measured, resamples) | {"rpr_mean": rprs}


def _before(calibrator: Calibrator, found: CalibratedReward) -> float:
    """The score; of a malformed answer its reward before any map, and without a reward model the reward."""
    if found.score is not None:
        return found.score
    return calibrator.settings.malformed_reward if found.status == "malformed" else found.reward


def _rng(calibrator: Calibrator, seed: int, what: str) -> np.random.Generator:
    return keyed_rng(seed, "calibration", "bootstrap", calibrator.rung, what)
