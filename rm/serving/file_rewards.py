"""Calibrated rewards beside the scores of a file (rm.serving.scoring), by functions that a later room hands in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rm.serving.conversations import Row

Calibrate = Callable[[Sequence[float], Sequence[str]], Sequence[float]]
"""Rewards of (logits, texts of the answers)."""


class RungRewards(NamedTuple):
    """What turns one rung's logits into rewards, and the digest of the record that decides them."""

    sha256: str
    calibrate: Calibrate


FindRewards = Callable[[Path], RungRewards]
"""The rewards of a rung, by its folder."""


def add_rewards(lines: Sequence[dict[str, Any]], window: Sequence[Row], rewards: Mapping[str, RungRewards]) -> None:
    """Put `reward` beside every score of a window's lines, by rung; null where there is no score."""
    texts = [answer.text if answer else "" for row in window for answer in (row.answers or (None,))]
    for name, found in rewards.items():
        cells = [line["scores"][name] for line in lines]
        scored = [i for i, cell in enumerate(cells) if cell["status"] == "ok"]
        given = found.calibrate([cells[i]["logit"] for i in scored], [texts[i] for i in scored])
        known = dict(zip(scored, given, strict=True))
        for i, cell in enumerate(cells):
            cell["reward"] = known.get(i)
