"""Where the metrics for Hugging Face's `evaluate` lie, in a checkout as in an installed copy.

evaluate.load(metric_path("pairwise_accuracy"))
"""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from configs.loader import ROOMS


def known_metrics() -> dict[str, Path]:
    """The folder of each metric, by name; each holds a module of the same name."""
    house = Path(__file__).parent.parent
    folders = [folder for room in ROOMS for folder in sorted((house / room / "metrics").glob("*"))]
    return {folder.name: folder for folder in folders if (folder / f"{folder.name}.py").is_file()}


def metric_path(name: str) -> str:
    """The path to give to `evaluate.load`; nothing is asked of a network.

    Raises:
        UserError: there is no such metric.
    """
    known = known_metrics()
    if name not in known:
        raise UserError(f"there is no metric {name!r}; choose {', '.join(sorted(known))}")
    return str(known[name])
