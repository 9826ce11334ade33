"""The calibrators of a ladder's rungs: units, what rules need to know of each, and the numbers chosen for `auto`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from calibration.calibrator import Calibrator
from calibration.choice import Choice, LabelledAnswer, choose
from calibration.config import FITTED_UNITS, CalibrationTable
from calibration.labelled_logits import held_out
from calibration.maps import ScoreMap
from calibration.measured import Measured, best_cut, error_rates, measured_length, measured_spread
from calibration.report import AnswerRow
from calibration.resamples import Resamples
from calibration.units import MEASURED_SHARE, RungRows, RungUnits, file_units, fit_units, labelled_rows
from configs.errors import UserError
from configs.keyed import keyed_rng

FOLDS = 5
ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.5)
THRESHOLD_QUANTILES = tuple(i / 10 for i in range(1, 10))
"""Candidates for `threshold: auto`, as quantiles of the scores of the labelled answers."""
DIGITS = 3


@dataclass(frozen=True)
class RungCalibrator:
    """A rung's calibrator and how it came about.

    Attributes:
        calibrator: to be stored and applied.
        units: the report of a fitted or named map; None under `units: rung` and `raw`.
        choice: how threshold and alpha were chosen; None where both were given.
        rates: error rates at the cut with intervals; None where no gold is known.
    """

    calibrator: Calibrator
    units: dict[str, Any] | None
    choice: dict[str, Any] | None
    rates: dict[str, Any] | None


@dataclass(frozen=True)
class _Draft:
    """A rung with its map, before numbers are chosen; its rule reads nothing that is not yet known."""

    rows: RungRows
    units: RungUnits | None
    plain: Calibrator
    measured: Measured


def make_calibrators(
    rungs: Sequence[RungRows],
    table: CalibrationTable,
    maps: Mapping[str, ScoreMap],
    digests: Mapping[str, str],
    accuracies: Mapping[str, float | None],
    seed: int,
) -> list[RungCalibrator]:
    """One calibrator a rung, in the order of the rungs.

    Args:
        rungs: what lies beside each.
        table: the run's.
        maps: by rung, under `units: file`.
        digests: of each rung (`rm.rung_digest`).
        accuracies: of each rung in the ladder; the most accurate one is what `variance_matched` stretches to.
        seed: of splits and folds.

    Raises:
        UserError: a map cannot be fitted, a number cannot be chosen, or the rule's constants are not known.
    """
    drafts = [_draft(rows, table, maps.get(rows.rung), seed) for rows in rungs]
    target = _target_spread(drafts, table, accuracies)
    made = []
    for draft in drafts:
        draft = replace(draft, measured=replace(draft.measured, target_spread=target))
        chosen = _choose(draft, table, seed) if table.auto else None
        settings = table if chosen is None else table.chosen(chosen.threshold, chosen.alpha)
        measured, rates = _with_rates(draft, table, seed)
        calibrator = Calibrator.build(
            draft.rows.rung,
            draft.rows.units,
            settings,
            None if draft.units is None else draft.units.score_map,
            measured,
            digests[draft.rows.rung],
        )
        made.append(
            RungCalibrator(
                calibrator,
                None if draft.units is None else draft.units.report,
                None if chosen is None else asdict(chosen),
                rates,
            )
        )
    return made


def _draft(rows: RungRows, table: CalibrationTable, named: ScoreMap | None, seed: int) -> _Draft:
    units: RungUnits | None = None
    if table.units == "file":
        assert named is not None, "the stage loads a map for every rung"
        units = file_units(named, rows, table.gold_good, seed)
    elif table.units in FITTED_UNITS:
        units = fit_units(table.units, rows, table.gold_good, seed)
    needs_nothing = table.model_copy(update={"rule": "none", "alpha": None, "auto": ()})
    plain = Calibrator(
        rows.rung, rows.units, table.phrase_set(), needs_nothing, None if units is None else units.score_map
    )
    centre, spread = measured_spread(plain.scores(rows.logits))
    lengths = [len(plain.scored_text(row.response)) for row in rows.answers if row.response.well_formed]
    measured = Measured(centre=centre, spread=spread, full_length=measured_length(lengths))
    return _Draft(rows, units, plain, measured)


def _target_spread(
    drafts: Sequence[_Draft], table: CalibrationTable, accuracies: Mapping[str, float | None]
) -> float | None:
    """What `variance_matched` stretches to where no number is given: a rung's spread, in the units of this run."""
    spreads = {draft.rows.rung: draft.measured.spread for draft in drafts}
    if table.spread_of is not None and table.spread_of not in spreads:
        raise UserError(
            f"calibration.spread_of: there is no rung {table.spread_of!r}; the rungs are {', '.join(spreads)}"
        )
    if table.spread_of is not None:
        return spreads[table.spread_of]
    known = [rung for rung in spreads if spreads[rung] is not None]
    return spreads[max(known, key=lambda rung: accuracies.get(rung) or 0.0)] if known else None


def _unseen(draft: _Draft) -> list[AnswerRow]:
    """Labelled answers that the rung's map was not fitted on."""
    seen = frozenset() if draft.units is None else draft.units.fitted_prompts
    return [row for row in labelled_rows(draft.rows.answers) if row.prompt_id not in seen]


def _scores_and_labels(draft: _Draft, rows: Sequence[AnswerRow], table: CalibrationTable) -> tuple[Any, Any]:
    scores = draft.plain.scores(np.array([row.logit for row in rows], dtype=np.float64))
    return scores, np.array([(row.gold or 0.0) >= table.gold_good for row in rows], dtype=bool)


def _with_rates(draft: _Draft, table: CalibrationTable, seed: int) -> tuple[Measured, dict[str, Any] | None]:
    """What was measured with error rates at the cut, and those with intervals.

    A cut that is not given is looked for on half of the prompts, and its rates are those of the other half.
    """
    rows = _unseen(draft)
    if len({row.prompt_id for row in rows}) < 2:
        return draft.measured, None
    scores, good = _scores_and_labels(draft, rows, table)
    cut = table.cut
    prompts = np.array([row.prompt_id for row in rows], dtype=object)
    if cut is None:
        measured = held_out(prompts.tolist(), MEASURED_SHARE, seed)
        cut = best_cut(scores[~measured], good[~measured])
        scores, good, prompts = scores[measured], good[measured], prompts[measured]
    if cut is None:
        return draft.measured, None
    rho0, rho1 = error_rates(scores, good, cut)
    resamples = Resamples(prompts.tolist(), keyed_rng(seed, "calibration", "error rates", draft.rows.rung))
    above = scores >= cut
    report = {
        "cut": cut,
        "rho0": resamples.share(above[~good], prompts[~good].tolist()),
        "rho1": resamples.share(~above[good], prompts[good].tolist()),
    }
    return replace(draft.measured, cut=cut, rho0=rho0, rho1=rho1), report


def _choose(draft: _Draft, table: CalibrationTable, seed: int) -> Choice:
    rows = _unseen(draft)
    if not rows:
        raise UserError(
            f"rung {draft.rows.rung}: {table.auto[0]}: auto needs answers that are known to be good and bad, and the "
            "reference answers of this rung are not; give a number"
        )
    prompts = len({row.prompt_id for row in rows})
    if prompts < FOLDS:
        raise UserError(
            f"rung {draft.rows.rung}: {table.auto[0]}: auto needs labelled answers to {FOLDS} prompts or more, found "
            f"{prompts}; give a number"
        )
    scores, good = _scores_and_labels(draft, rows, table)
    thresholds = [table.threshold]
    if "threshold" in table.auto:
        # a threshold of 0 or 1 would compensate nothing or everything
        found = np.quantile(scores, THRESHOLD_QUANTILES).round(DIGITS).clip(10**-DIGITS, 1 - 10**-DIGITS)
        thresholds = sorted(set(found.tolist()))
    assert table.alpha is not None, "auto is refused for rules without alpha"
    answers = [
        LabelledAnswer(
            row.prompt_id,
            float(score),
            draft.plain.rpr(row.response),
            len(draft.plain.scored_text(row.response)),
            bool(label),
            row.gold,
        )
        for row, score, label in zip(rows, scores, good, strict=True)
    ]
    try:
        return choose(
            answers,
            table.rule,
            thresholds,
            ALPHAS if "alpha" in table.auto else [table.alpha],
            FOLDS,
            seed,
            table.full_length or draft.measured.full_length,
        )
    except UserError as error:
        raise UserError(f"rung {draft.rows.rung}: {' and '.join(table.auto)}: auto: {error}") from None
