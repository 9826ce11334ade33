"""From logits to scores by a named choice: a map fitted on one part of what lies beside a rung, measured on another.

What a score means, and what it is fitted and measured on:

    rung                     the rung's own units; nothing is fitted here
    temperature, reference   the chance to beat the median untrained answer, or one drawn at random: the scale on the
                             selection pairs, measured on the measurement pairs
    quantile                 the share of untrained answers below: on half of the reference prompts, measured on the
                             other half
    platt, beta, isotonic    the chance that the answer is good (gold of at least `gold_good`): on half of the reference
                             prompts, measured on the other half
    file                     what its labels said; measured on all reference answers with gold

Everything is compared with the logit taken at its word (`raw`) and with the rung's own units (`rung`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from calibration.config import FittedUnits
from calibration.fitting import Fit, check_part, fit, linked_scores, references_of
from calibration.labelled_logits import LabelledLogits, answer_pairs, held_out, single_answers
from calibration.maps import Identity, Quantile, Reference, ScoreMap, Temperature, map_of_units
from calibration.measures import clustered_mean
from calibration.reliability import figures, mean_change, nll_terms
from calibration.report import MEASURED_SPLIT, AnswerRow, PairRow
from configs.errors import UserError
from configs.keyed import keyed_rng
from rm.units import ScoreUnits

FITTED_SPLIT = "selection"
MEASURED_SHARE = 0.5
FEW_PROMPTS = 20
"""With fewer prompts a fitted map may be worse than the logit as it is."""
OF_PAIRS: tuple[FittedUnits, ...] = ("temperature", "reference")


@dataclass(frozen=True)
class RungRows:
    """What lies beside a rung.

    Attributes:
        rung: its name.
        units: its own units.
        pairs: all rows of its pairs.
        answers: all its reference answers, malformed ones among them; empty where there are none.
    """

    rung: str
    units: ScoreUnits
    pairs: list[PairRow]
    answers: list[AnswerRow]

    @property
    def logits(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The logits of the well-formed reference answers."""
        return np.array([row.logit for row in self.answers if row.response.well_formed], dtype=np.float64)


@dataclass(frozen=True)
class RungUnits:
    """A map for one rung.

    Attributes:
        score_map: from logits to scores.
        report: what it was fitted and measured on, and its figures, as plain JSON.
        fitted_prompts: prompts of the reference answers whose labels it has seen.
    """

    score_map: ScoreMap
    report: dict[str, Any]
    fitted_prompts: frozenset[str]


def fit_units(kind: FittedUnits, rows: RungRows, gold_good: float, seed: int) -> RungUnits:
    """Fit the chosen map for one rung and measure it.

    Raises:
        UserError: what the map needs does not lie beside the rung, or says nothing (one label, one logit).
    """
    try:
        if kind in OF_PAIRS:
            return _of_pairs(kind, rows, seed)
        return _quantile(rows, gold_good, seed) if kind == "quantile" else _of_answers(kind, rows, gold_good, seed)
    except UserError as error:
        raise UserError(f"rung {rows.rung}, units {kind}: {str(error).removeprefix('fit: ')}") from None


def file_units(found: ScoreMap, rows: RungRows, gold_good: float, seed: int) -> RungUnits:
    """A map that was fitted elsewhere, measured on the rung's reference answers where their gold is known."""
    if not np.isfinite(found.scores(rows.logits)).all():
        raise UserError(f"rung {rows.rung}: its map gives scores that are no numbers; it was fitted on other logits")
    data = _labelled(rows, gold_good)
    measured = None if data is None else _compared(found, rows.units, data, seed)
    return RungUnits(found, _report("file", found, None, None, data, measured), frozenset())


def labelled_rows(answers: Sequence[AnswerRow]) -> list[AnswerRow]:
    """The well-formed answers whose gold is known."""
    return [row for row in answers if row.response.well_formed and row.gold is not None]


def _of_pairs(kind: FittedUnits, rows: RungRows, seed: int) -> RungUnits:
    part, rest = (_pairs(rows, split) for split in (FITTED_SPLIT, MEASURED_SPLIT))
    check_part(part, f"of the {FITTED_SPLIT} pairs")
    found = fit(kind, part)
    answers = rows.logits if len(rows.logits) else part.own
    score_map: ScoreMap
    if isinstance(found.link, Temperature) and kind == "temperature":
        score_map = Temperature(centre=float(np.median(answers)), temperature=found.link.temperature)
    else:
        scale = found.parameters["scale"]["estimate"]
        assert scale is not None
        score_map = Reference(scale=scale, references=references_of(answers))
    return RungUnits(
        score_map,
        _report(kind, score_map, found, part, rest, _compared(found.link, rows.units, rest, seed)),
        frozenset(),
    )


def _of_answers(kind: FittedUnits, rows: RungRows, gold_good: float, seed: int) -> RungUnits:
    data = _labelled(rows, gold_good)
    if data is None:
        raise UserError(
            "it needs answers that are known to be good and bad, and the reference answers of this rung are not; "
            "choose temperature, reference or quantile, or name a map fitted on labels of yours (calibration.map)"
        )
    part, rest = _halves(data, seed)
    check_part(part, "to fit on")
    if len(rest) == 0:
        raise UserError("all labelled answers have one prompt, so none is left to measure on")
    found = fit(kind, part)
    assert found.answer_map is not None, "a fit on single answers maps single answers"
    measured = _compared(found.link, rows.units, rest, seed)
    return RungUnits(
        found.answer_map, _report(kind, found.answer_map, found, part, rest, measured), frozenset(part.prompts)
    )


def _quantile(rows: RungRows, gold_good: float, seed: int) -> RungUnits:
    """Its measure is the mean quantile of the other half, 0.5 where both halves are alike; and labels, if there are."""
    well = [row for row in rows.answers if row.response.well_formed]
    if len({row.prompt_id for row in well}) < 2:
        raise UserError("it needs reference answers to two prompts or more, and they do not lie beside this rung")
    others = held_out([row.prompt_id for row in well], MEASURED_SHARE, seed)
    logits = rows.logits
    found = Quantile.of(logits[~others])
    prompts = [row.prompt_id for row, other in zip(well, others, strict=True) if other]
    rng = keyed_rng(seed, "calibration units", rows.rung)
    report: dict[str, Any] = {
        "kind": "quantile",
        "map_sha256": found.sha256,
        "parameters": {},
        "at_bound": False,
        "few_prompts": len({row.prompt_id for row in well}) - len(set(prompts)) < FEW_PROMPTS,
        "fitted_on": {"what": "reference answers", "n": int((~others).sum())},
        "measured_on": {"what": "reference answers", "n": len(prompts), "n_prompts": len(set(prompts))},
        "mean_quantile": clustered_mean(found.scores(logits[others]), prompts, rng),
        "figures": None,
        "nll_change": None,
    }
    data = _labelled(rows, gold_good)
    if data is not None and set(prompts) & set(data.prompts):
        rest = data.take(np.array([prompt in set(prompts) for prompt in data.prompts]))
        report |= _compared(found, rows.units, rest, seed)
    return RungUnits(found, report, frozenset())


def _pairs(rows: RungRows, split: str) -> LabelledLogits:
    kept = [pair for pair in rows.pairs if pair.split == split]
    if not kept:
        raise UserError(f"there are no {split} pairs")
    return answer_pairs(
        np.array([pair.logit_chosen for pair in kept]),
        np.array([pair.logit_rejected for pair in kept]),
        [pair.prompt_id for pair in kept],
    )


def _labelled(rows: RungRows, gold_good: float) -> LabelledLogits | None:
    """The reference answers as good and bad ones; None where gold is not known, or is of one kind."""
    known = labelled_rows(rows.answers)
    logits = np.array([row.logit for row in known], dtype=np.float64)
    good = np.array([float((row.gold or 0.0) >= gold_good) for row in known])
    if len(set(good.tolist())) < 2:
        return None
    return single_answers(logits, good, [row.prompt_id for row in known])


def _halves(data: LabelledLogits, seed: int) -> tuple[LabelledLogits, LabelledLogits]:
    """To fit on and to measure on, by prompt."""
    measured = held_out(data.prompts, MEASURED_SHARE, seed)
    return data.take(~measured), data.take(measured)


def _compared(link: ScoreMap, units: ScoreUnits, data: LabelledLogits, seed: int) -> dict[str, Any]:
    """Figures of a map, of the logit at its word and of the rung's units on the same cases; and changes of the NLL."""
    own = map_of_units(units)
    if data.pairs:
        own = own.model_copy(update={"centre": 0.0})  # of a difference of two logits
    scores = {
        "raw": Identity().scores(data.logits),
        "rung": own.scores(data.logits),
        "map": linked_scores(Fit(link, None, {}), data),
    }
    rng = partial(keyed_rng, seed, "calibration units")
    terms = {name: nll_terms(found, data.labels) for name, found in scores.items()}
    return {
        "figures": {
            name: figures(found, data.labels, data.weights, data.prompts, rng(), mirrored=data.pairs)
            for name, found in scores.items()
        },
        "nll_change": {
            f"from_{name}": mean_change(terms[name], terms["map"], data.weights, data.prompts, rng())
            for name in ("raw", "rung")
        },
    }


def _report(
    kind: str,
    score_map: ScoreMap,
    found: Fit | None,
    part: LabelledLogits | None,
    rest: LabelledLogits | None,
    measured: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "map_sha256": score_map.sha256,
        "parameters": {} if found is None else found.parameters,
        "at_bound": found is not None and found.at_bound,
        "few_prompts": part is not None and len(set(part.prompts)) < FEW_PROMPTS,
        "fitted_on": None if part is None else _described(part),
        "measured_on": None if rest is None else _described(rest),
        **(measured or {"figures": None, "nll_change": None}),
    }


def _described(data: LabelledLogits) -> dict[str, Any]:
    return {
        "what": "pairs" if data.pairs else "reference answers",
        "n": data.n,
        "n_prompts": len(set(data.prompts)),
    }
