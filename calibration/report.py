"""What calibration does to one rung: pair probabilities before and after the units, answers before and after the rule.

For answers, `before` is the score as it is (malformed ones get the same `malformed_reward`) and `after` is the rule's
reward. An answer is good where its gold is at least `gold_good`. A false negative is a good answer that scores below
the threshold and a true negative a bad one that does: compensation lifts both, so both are counted. Every number
comes with what it was taken over; what cannot be known (no gold, no answers) is null.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.calibrator import CalibratedReward, Calibrator
from calibration.measures import (
    brier_terms,
    clustered,
    clustered_mean,
    members_of,
    nll_terms,
    order_agreement,
    share,
)
from configs.errors import UserError
from configs.keyed import keyed_rng
from rm.measures import Floats, expected_calibration_error, pair_accuracy
from tasks.records import Response

MEASURED_SPLIT = "measurement"
EVEN = 1e-12
"""The answers to a prompt whose rewards spread less than this teach nothing."""
MOVED = 1e-6
"""Group-scaled rewards that differ by more than this are changed."""


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
    if not all(map(math.isfinite, logits)):
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
    if response.well_formed and (logit is None or not math.isfinite(logit)):
        raise UserError(f"{where}: a well-formed answer needs a finite logit, found {logit}")
    return found


def pair_report(calibrator: Calibrator, pairs: list[PairRow], seed: int) -> dict[str, Any]:
    """Accuracy, ECE, Brier and NLL of the pair probabilities, `before` by raw logits and `after` by the rung's scale.

    The scale was fitted on the selection pairs, so only the measurement pairs are looked at.

    Raises:
        UserError: there are no measurement pairs.
    """
    kept = [pair for pair in pairs if pair.split == MEASURED_SPLIT]
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
            "ece": clustered(expected_calibration_error, differences, prompts, rng()),
            "brier": clustered_mean(brier_terms(differences), prompts, rng()),
            "nll": clustered_mean(nll_terms(differences), prompts, rng()),
        }
    report["change"] = {
        "brier": clustered_mean(brier_terms(scaled) - brier_terms(raw), prompts, rng()),
        "nll": clustered_mean(nll_terms(scaled) - nll_terms(raw), prompts, rng()),
    }
    return report


def answer_report(calibrator: Calibrator, answers: list[AnswerRow], seed: int) -> dict[str, Any] | None:
    """What the rule does to the untrained policy's answers; None where there are none."""
    if not answers:
        return None
    given = calibrator.rewards([row.logit for row in answers], [row.response for row in answers])
    before = np.array([reward.reward if reward.score is None else reward.score for reward in given], dtype=np.float64)
    after = np.array([reward.reward for reward in given], dtype=np.float64)
    prompts = [row.prompt_id for row in answers]
    well = [i for i, reward in enumerate(given) if reward.status == "ok"]
    below = [i for i in well if before[i] < calibrator.settings.threshold]
    rprs = np.array([given[i].rpr for i in well], dtype=np.float64)
    return {
        "n_answers": len(answers),
        "n_prompts": len(set(prompts)),
        "malformed": share(len(answers) - len(well), len(answers)),
        "below_threshold": share(len(below), len(well)),
        "compensated": share(sum(given[i].compensated for i in well), len(well)),
        "rpr_mean": clustered_mean(rprs, [prompts[i] for i in well], _rng(calibrator, seed, "rpr")),
        "bonus_mean_below_threshold": _bonus_mean(calibrator, given, prompts, below, seed),
        "against_gold": _against_gold(calibrator, answers, before, after, given, seed),
        "spread_per_prompt": _spread(calibrator, before, after, prompts, seed),
        "order_reversed": _order_reversed(calibrator, before, after, prompts, seed),
    }


def _against_gold(
    calibrator: Calibrator,
    answers: list[AnswerRow],
    before: Floats,
    after: Floats,
    given: list[CalibratedReward],
    seed: int,
) -> dict[str, Any] | None:
    """False and true negatives, how many of them are lifted, and order against gold; None where no gold is known."""
    gold = {i: row.gold for i, row in enumerate(answers) if row.gold is not None}
    if not gold:
        return None
    prompts = [row.prompt_id for row in answers]
    tau = calibrator.settings.threshold
    well = [i for i in gold if given[i].status == "ok"]
    good = [i for i in well if gold[i] >= calibrator.settings.gold_good]
    bad = [i for i in well if gold[i] < calibrator.settings.gold_good]
    report: dict[str, Any] = {
        "gold_good": calibrator.settings.gold_good,
        "tpr": share(sum(before[i] >= tau for i in good), len(good)),
        "fpr": share(sum(before[i] >= tau for i in bad), len(bad)),
    }
    for name, of in (("false_negatives", good), ("true_negatives", bad)):
        rows = [i for i in of if before[i] < tau]
        report[name] = {
            "n": len(rows),
            "lifted": share(sum(given[i].compensated for i in rows), len(rows)),
            "over_threshold": share(sum(after[i] >= tau for i in rows), len(rows)),
            "bonus_mean": _bonus_mean(calibrator, given, prompts, rows, seed),
        }
    rows = list(gold)
    truth = np.array(list(gold.values()), dtype=np.float64)
    groups = [prompts[i] for i in rows]
    was, owners = order_agreement(before[rows], truth, groups)
    now, _ = order_agreement(after[rows], truth, groups)
    report["order_agreement"] = {
        name: clustered_mean(agreement, owners, _rng(calibrator, seed, "order"))
        for name, agreement in (("before", was), ("after", now), ("change", now - was))
    }
    return report


def _bonus_mean(
    calibrator: Calibrator, given: list[CalibratedReward], prompts: list[str], rows: list[int], seed: int
) -> Any:
    bonuses = np.array([given[i].bonus for i in rows], dtype=np.float64)
    return clustered_mean(bonuses, [prompts[i] for i in rows], _rng(calibrator, seed, "bonus"))


def _spread(calibrator: Calibrator, before: Floats, after: Floats, prompts: list[str], seed: int) -> dict[str, Any]:
    """Standard deviation of the rewards of one prompt's answers, malformed ones included.

    It is all that a policy under group scaling sees, and `changed_after_scaling` says for how many prompts the scaled
    rewards differ at all between before and after.
    """
    groups = {name: rows for name, rows in members_of(prompts).items() if len(rows) > 1}
    changed = sum(_scaled_differ(before[rows], after[rows]) for rows in groups.values())
    report: dict[str, Any] = {"n_prompts": len(groups)}
    for name, rewards in (("before", before), ("after", after)):
        stds = np.array([rewards[rows].std() for rows in groups.values()], dtype=np.float64)
        report[name] = clustered_mean(stds, list(groups), _rng(calibrator, seed, "spread"))
        report[f"none_{name}"] = share(int((stds < EVEN).sum()), len(groups))
    return report | {"changed_after_scaling": share(changed, len(groups))}


def _scaled_differ(before: Floats, after: Floats) -> bool:
    scaled = [(x - x.mean()) / x.std() if x.std() >= EVEN else np.zeros_like(x) for x in (before, after)]
    return bool(np.abs(scaled[0] - scaled[1]).max() > MOVED)


def _order_reversed(calibrator: Calibrator, before: Floats, after: Floats, prompts: list[str], seed: int) -> Any:
    """How often two answers to one prompt that scored differently stand the other way round afterwards."""
    agreement, owners = order_agreement(after, before, prompts)
    return clustered_mean((agreement == 0.0).astype(np.float64), owners, _rng(calibrator, seed, "reversed"))


def _rng(calibrator: Calibrator, seed: int, what: str) -> np.random.Generator:
    return keyed_rng(seed, "calibration", "bootstrap", calibrator.rung, what)
