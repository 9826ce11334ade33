"""What stands in the report: its parts, each a heading, sentences and tables.

The HTML page and the Markdown summary are both made of these, so they say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from configs.terminal import interval
from curve.figures.names import with_short_setups
from curve.points import Point
from curve.report.tables import (
    MISSING,
    Part,
    ReportTable,
    Rows,
    estimate_of,
    grid_of,
    p_value,
    repeats,
    shown,
    shown_columns,
    tables_by_subject,
    tables_of_records,
)

OWN_PARTS = ("claims", "fits", "neighbours", "rpr_alone", "peak_and_end", "predictors", "spreads")
"""Parts of the analysis that have a function below."""
WORDS: dict[str, tuple[str, str]] = {
    "routes": (
        "The same accuracy by different routes",
        "Rungs of about one accuracy that were made in different ways; a difference means that accuracy does not say "
        "it all. p by Holm over all rows.",
    ),
    "looks": (
        "Gold while the reward is climbed",
        "Gold utility of the dev prompts at the looks of training, by reward and rung.",
    ),
    "flips": (
        "What a flipped reward costs",
        "Verifiable rewards of which a share is flipped; informativeness is 1 - 2p. Half is half of what the unflipped "
        "reward gains on the dev prompts; n looked is how many cells were looked at while they were trained, n reached "
        "how many of them reached half, and steps to half the mean optimizer steps of these. A dash where the interval "
        "of the gain is not above 0: half of nothing is reached by noise.",
    ),
    "domains": ("By domain", "Quality on the prompts of each domain, beside the accuracy of the reward model there."),
}
"""Title and note of the other parts of the analysis; one that is not here is titled by its name."""


def parts_of(
    points: Sequence[Point], curve: Sequence[Point], analysis: Mapping[str, Any], ladder: Sequence[Mapping[str, Any]]
) -> list[Part]:
    """The parts that the run has something to say in; what was not measured is left out here and listed as missing."""
    known = [
        _curve(with_short_setups(curve)),
        _claims(analysis),
        _knees(analysis.get("fits") or []),
        _neighbours(analysis.get("neighbours") or []),
        _beside_rpr_alone(analysis.get("rpr_alone") or []),
        _peak_and_end(analysis.get("peak_and_end") or []),
        _predictors(analysis.get("predictors") or {}),
        _spreads(analysis.get("spreads") or []),
    ]
    others = [
        _records(name, rows) for name, rows in analysis.items() if name not in OWN_PARTS and isinstance(rows, list)
    ]
    cells = Part("Every cell", "cells", tables=tables_by_subject(with_short_setups(points), "cell"), in_summary=False)
    found = [*known, *others, _ladder(ladder), cells]
    return [part for part in found if part.sentences or any(table.rows for table in part.tables)]


def _records(name: str, rows: Sequence[Any]) -> Part:
    """A part of the analysis without a form of its own here."""
    title, note = WORDS.get(name, (name.replace("_", " ").capitalize(), ""))
    records = with_short_setups([row for row in rows if isinstance(row, Mapping)])
    return Part(title, f"part-{name}", note, tables=tables_of_records(title, records))


def _curve(curve: Rows) -> Part:
    columns = [c for c in shown_columns(curve) if any(row.get(c) is not None for row in curve)]
    columns = [
        *(name for name in ("reward", "rung") if name in columns),
        *(name for name in columns if name not in ("reward", "rung") and not repeats(curve, name, "reward")),
    ]
    return Part(
        "The curve",
        "curve",
        "One row a reward and rung. “Interval over” says which unit was resampled: prompts of one cell, or seeds.",
        tables=[
            ReportTable("Quality against accuracy", *grid_of(curve, columns)),
        ],
    )


def _claims(analysis: Mapping[str, Any]) -> Part:
    return Part(
        "The claims of the papers",
        "claims",
        "Each is looked up in the points of this run. One seed settles nothing: a verdict needs several seeds of the "
        "policy or of the reward model. Equivalent means within "
        f"±{analysis.get('margin', MISSING)} of win rate, by two one-sided tests.",
        tables=[
            ReportTable(
                "Claims and verdicts",
                ("#", "claim", "curve", "verdict", "why"),
                [
                    [shown(claim.get(name)) for name in ("number", "claim", "curve", "verdict", "sentence")]
                    for claim in analysis.get("claims") or []
                ],
                prose=True,
            )
        ],
    )


def _knees(fits: Rows) -> Part:
    return Part(
        "Is there a knee?",
        "knee",
        sentences=[
            f"{fit['reward']} ({fit['curve']}; {fit['n_reward_models']} reward models of {fit['n_rm_seeds']} RM seeds, "
            f"{fit['n_cells']} policies): {fit['sentence']}"
            for fit in fits
        ],
    )


def _neighbours(rows: Rows) -> Part:
    columns = ("rungs", "curve", "reward", "difference [95%]", "p", "RM seeds", "policy seeds", "prompts", "verdict")
    return Part(
        "Neighbouring rungs",
        "neighbours",
        "Quality of the more accurate rung less that of the less accurate one, by prompt and seed; p by Holm over all "
        "rows of a curve.",
        tables=[
            ReportTable(
                "Each rung less the one below it",
                columns,
                [
                    [
                        f"{row['upper']} less {row['lower']}",
                        *map(shown, (row.get("curve"), row.get("reward"))),
                        estimate_of(row),
                        p_value(row.get("p_holm")),
                        *(shown(row.get(name)) for name in ("n_rm_seeds", "n_policy_seeds", "n_prompts", "verdict")),
                    ]
                    for row in rows
                ],
            )
        ],
    )


def _beside_rpr_alone(rows: Rows) -> Part:
    def contrast(record: Mapping[str, Any] | None) -> tuple[str, str]:
        return estimate_of(record), record["verdict"] if record else MISSING

    columns = ("rung", "curve", "reward", "accuracy", "quality [95%]")
    return Part(
        "Calibrated rungs beside RPR alone",
        "rpr",
        tables=[
            ReportTable(
                "Calibrated rungs less the rung as it is, and less RPR alone",
                (*columns, "less the rung as it is", "verdict on that", "less RPR alone", "verdict on that"),
                [
                    [
                        *(shown(row.get(name)) for name in ("rung", "curve", "reward", "rm_accuracy")),
                        estimate_of(row.get("quality")),
                        *contrast(row.get("less_raw")),
                        *contrast(row.get("less_rpr_only")),
                    ]
                    for row in rows
                ],
            )
        ],
    )


def _peak_and_end(rows: Rows) -> Part:
    return Part(
        "Peak and end",
        "peak",
        "Mean gold utility of the dev prompts at the best and the last look of training. A peak is the best of several "
        "looks, so it is too high by their noise. Intervals are over seeds.",
        tables=[
            ReportTable(
                "Best and last look at gold",
                ("reward", "curve", "rung", "peak", "end", "lost between"),
                [
                    [
                        *(shown(row.get(name)) for name in ("reward", "curve", "rung")),
                        *(estimate_of(row.get(name)) for name in ("dev_gold_peak", "dev_gold_final", "fall")),
                    ]
                    for row in rows
                ],
            )
        ],
    )


def _predictors(found: Mapping[str, Any]) -> Part:
    def row_of(row: Mapping[str, Any]) -> list[str]:
        low, high, share = row.get("less_accuracy_lo"), row.get("less_accuracy_hi"), row.get("share_best")
        return [
            shown(row.get("predictor")),
            interval(row.get("rho"), row.get("lo"), row.get("hi")),
            interval(row.get("r"), row.get("r_lo"), row.get("r_hi")),
            MISSING if low is None else f"[{low:.3f}, {high:.3f}]",
            MISSING if share is None else f"{share:.2f}",
        ]

    return Part(
        "What foretells quality",
        "predictors",
        "Over reward models as they are. The last column is the share of resamples in which a measure orders the "
        "policies best.",
        sentences=[found["sentence"]] if found.get("sentence") else [],
        tables=[
            ReportTable(
                "Measures of a reward model, and how they order the policies",
                (
                    "measure of the reward model",
                    "rank correlation with quality [95%]",
                    "linear correlation [95%]",
                    "rank correlation less that of held-out accuracy, 95%",
                    "best in",
                ),
                [row_of(row) for row in found.get("rows") or []],
            )
        ],
    )


def _spreads(rows: Rows) -> Part:
    names = ("reward", "curve", "rm_seed", "policy_seed", "prompts", "n_rungs", "n_rm_seeds", "n_policy_seeds")
    columns = ("reward", "curve", "between RM seeds", "between policy seeds", "of prompts, one cell")
    return Part(
        "Where the spread comes from",
        "spread",
        "Standard deviations of quality at one rung; a dash where nothing was repeated.",
        tables=[
            ReportTable(
                "Standard deviations of quality",
                (*columns, "rungs", "RM seeds", "policy seeds"),
                [[shown(row.get(name)) for name in names] for row in rows],
            )
        ],
    )


def _ladder(ladder: Rows) -> Part:
    rows = [{name: value for name, value in rung.items() if name != "folder"} for rung in ladder]
    columns = [c for c in shown_columns(rows) if any(row.get(c) is not None for row in rows)]
    return Part(
        "The ladder",
        "ladder",
        "Accuracy is measured on pairs that had no say in the choice of the rung.",
        tables=[ReportTable("Reward models", *grid_of(rows, columns))],
    )
