"""What `rewardladder calibrate` prints: every figure of `report.json` before and after, with its n and 95% interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.terminal import interval, say, show_table

BEFORE_AND_AFTER: tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...] | None], ...] = (
    ("ECE of pairs", ("pairs", "before", "ece"), ("pairs", "after", "ece"), None),
    ("NLL of pairs", ("pairs", "before", "nll"), ("pairs", "after", "nll"), ("pairs", "change", "nll")),
    *(
        (name, ("answers", *path, *first), ("answers", *path, "after", *last), change and ("answers", *path, *change))
        for name, path, first, last, change in (
            ("J at the threshold", ("against_gold",), ("j",), ("j",), ("change", "j")),
            ("order as gold", ("against_gold", "order_agreement"), ("before",), (), ("change",)),
            ("spread per prompt", ("spread_per_prompt",), ("before",), (), None),
        )
    ),
)
"""Name, and the places in `report.json` of the figure before and after and of the change."""
EFFECTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("below the threshold", ("below_threshold",)),
    ("lifted of the good", ("against_gold", "false_negatives", "lifted")),
    ("lifted of the bad", ("against_gold", "true_negatives", "lifted")),
    ("advantages", ("spread_per_prompt", "advantage_change")),
)
"""What the rule does to answers: heading, and the place under `answers` in `report.json`."""


def show_reports(title: str, summary: Mapping[str, Any], reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the tables of a finished stage.

    Args:
        title: of the first table.
        summary: `summary.json`.
        reports: `report.json` of each rung, by its name.
    """
    rows = []
    for rung, report in reports.items():
        for name, *places in BEFORE_AND_AFTER:
            before, after, change = (_at(report, place) for place in places)
            if before is not None and after is not None:
                rows.append((rung, name, before["n"], _shown(before), _shown(after), _shown(change)))
    show_table(title, ("rung", "figure", "n", "before [95%]", "after [95%]", "change [95%]"), rows)
    effects = []
    for rung, report in reports.items():
        found = [_at(report, ("answers", *place)) for _, place in EFFECTS]
        effects.append((rung, *(f"{_shown(one)} of {one['n']}" if one is not None else None for one in found)))
    threshold = "the threshold" if summary["threshold"] is None else f"{summary['threshold']}"
    heads = (heading.replace("the threshold", threshold) for heading, _ in EFFECTS)
    show_table("calibration: what the rule does to the answers, [95%] of n", ("rung", *heads), effects)
    say(
        "ECE and NLL of pairs by raw logits and by the rung's units; lifted: share of good and of bad answers below "
        "the threshold that get a bonus; J: TPR - FPR at the threshold, spread and order of the rewards before and "
        f"after; advantages: mean absolute change under group scaling. {summary['note']}".strip()
    )


def show_units(summary: Mapping[str, Any], reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what the fitted maps are worth on what they were not fitted on; arguments as of `show_reports`."""
    rows = [(rung["rung"], rung["units_figures"]) for rung in summary["rungs"] if rung["units_figures"] is not None]
    if not rows:
        return
    show_table(
        f"calibration: units {summary['units']}, on what was not fitted",
        ("rung", "n", "ECE raw [95%]", "ECE rung [95%]", "ECE map [95%]", "by chance", "change of NLL from rung [95%]"),
        [
            (
                rung,
                found["n"],
                *(_shown(_at(reports[rung], ("units", "figures", side, "ece"))) for side in ("raw", "rung")),
                interval(*(found["ece_map"][key] for key in ("estimate", "lo", "hi"))),
                found["ece_by_chance"],
                interval(*(found["nll_change"][key] for key in ("estimate", "lo", "hi"))),
            )
            for rung, found in rows
        ],
    )
    few = [rung["rung"] for rung in summary["rungs"] if rung["few_prompts"]]
    if few:
        say(f"few prompts: the maps of rung {', '.join(few)} were fitted on fewer than 20 and may do harm")


def _at(report: Mapping[str, Any], place: tuple[str, ...] | None) -> Mapping[str, Any] | None:
    """The estimate at a place; None where the report, or an older version's, has no such part or no case."""
    found: Any = report
    for key in place or ("",):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) and found.get("estimate") is not None else None


def _shown(estimate: Mapping[str, Any] | None) -> str:
    return interval(*(estimate[key] for key in ("estimate", "lo", "hi"))) if estimate is not None else "–"
