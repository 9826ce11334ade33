"""Variants of an experiment: other bases, seeds of the reward model, routes, each a run of its own in one sweep.

runs/<name>/variants/<label>/tasks, rm, calibration, policy, judge    a variant, as if it were run alone
runs/<name>/curve/                                                    the points of all of them
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.loader import Experiment, Table
from curve.config import OF_A_BLOCK, CurveTable, variants_of_block

VARIANTS_FOLDER = "variants"
"""As `tasks.base_folder.VARIANTS_FOLDER`, whose module needs torch."""
BASE_KEYS = ("tasks.variant", "policy.model_name_or_path")
"""What stands in the column `base`."""


def variants_of(experiment: Experiment) -> dict[str | None, Experiment]:
    """The experiments that a sweep is made of, by label: its variants, or itself as None where it has none.

    Raises:
        UserError: no block of the sweep is for a variant.
    """
    table = experiment.table("curve", CurveTable)
    if table.variants is None:
        return {None: experiment}
    found: dict[str | None, Experiment] = {}
    for label, overrides in table.variants.items():
        blocks = [block for block in table.sweep if label in (variants_of_block(block) or table.variants)]
        if not blocks:
            raise UserError(f"{experiment.source}: curve.variants has {label}, and no block of curve.sweep is for it")
        own = experiment.with_overrides(overrides or {})
        curve = {key: value for key, value in experiment.tables["curve"].items() if key != "variants"}
        curve["sweep"] = [{key: value for key, value in block.items() if key != OF_A_BLOCK} for block in blocks]
        tables = {**own.tables, "curve": curve}
        source = f"{experiment.source}, variant {label}"
        found[label] = Experiment(source, label, experiment.seed, experiment.folder / VARIANTS_FOLDER, tables)
    return found


def setup_of(experiment: Experiment, label: str | None, reads_rung: bool) -> str | None:
    """What of a variant no other column tells apart, as `key=value` words; None where that is nothing.

    Left out are the base and the seed of the reward model; of a cell that reads none, all of `rm`; and where the
    variant has a route of its own, the rest of `rm`, which belongs to the route.
    """
    table = experiment.table("curve", CurveTable)
    overrides = (table.variants or {}).get(label or "") or {}
    skipped = (*BASE_KEYS, "rm.seed", "rm.route")
    words = [
        f"{key}={_word(value)}"
        for key, value in sorted(overrides.items())
        if key not in skipped and not (key.startswith("rm.") and (not reads_rung or "rm.route" in overrides))
    ]
    return " ".join(words) or None


def base_of(experiment: Experiment, task: Table) -> str | None:
    """The base that policies start from, in one word: the model's name, or the variant of an offline world's base.

    Args:
        experiment: a run, or a variant of one.
        task: its validated `tasks` table.
    """
    named = experiment.tables["policy"].get("model_name_or_path")
    if named is None:
        return getattr(task, "variant", None)
    return Path(named).name if Path(named).expanduser().exists() else str(named)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
