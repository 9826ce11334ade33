"""Quality by domain of the prompts, against the accuracy of the reward model on pairs of that domain.

Domains are those of the task's prompts (`meta.domain`: HelpSteer3 has general, code, STEM and multilingual); where all
prompts are of one domain there is nothing to tell apart.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.records import read_json
from curve.analysis.contrasts import level_of
from curve.analysis.verdicts import Curve, name_of
from curve.points import Point
from rm.rung_digest import CARD_FILE
from tasks.records import PROMPTS_FILE, read_prompts

Domains = Mapping[str, str]
"""Prompt -> domain, of the eval prompts."""
Accuracies = Mapping[str, Mapping[str, float]]
"""Cell -> domain -> accuracy of its reward model on held-out pairs of the domain."""


def domains_of(task_folder: Path) -> dict[str, str]:
    """The domain of every eval prompt that has one; empty where there are no prompts or only one domain."""
    if not (task_folder / PROMPTS_FILE).exists():
        return {}
    found = {prompt.prompt_id: str(prompt.meta.get("domain") or "") for prompt in read_prompts(task_folder, "eval")}
    known = {prompt: domain for prompt, domain in found.items() if domain}
    return known if len(set(known.values())) > 1 else {}


def accuracies_by_domain(rung_folder: Path) -> dict[str, float]:
    """Accuracy of a rung by domain, from its card; groups that the card calls small are left out."""
    path = rung_folder / CARD_FILE
    groups = (read_json(path).get("accuracy_by") or {}).get("domain", []) if path.exists() else []
    return {row["group"]: row["estimate"] for row in groups if not row.get("small")}


def by_domain(curve: Curve, domains: Domains, accuracies: Accuracies) -> list[dict[str, Any]]:
    """Quality of each reward and rung on the prompts of each domain; empty without domains or outcomes.

    Returns:
        Records of `curve, reward, rung, domain, rm_accuracy` (mean over reward models, on pairs of the domain; None
        where the card has none) and the fields of a contrast: value, lo, hi, n_prompts and so on.
    """
    prompts: dict[str, set[str]] = defaultdict(set)
    for prompt, domain in domains.items():
        prompts[domain].add(prompt)
    rows = []
    for reward, rung in dict.fromkeys((name_of(p), p["rung"]) for p in curve.points if p["reward"] != "untrained"):
        cells = [p for p in curve.cells(reward, rung) if p["cell"] in curve.outcomes]
        for domain, members in sorted(prompts.items()):
            own = {p["cell"]: _restricted(curve.outcomes[p["cell"]], members) for p in cells}
            level = level_of([_point(p, own[p["cell"]]) for p in cells if own[p["cell"]]], own, "quality")
            if level is None:
                continue
            known = [accuracies[p["cell"]][domain] for p in cells if domain in accuracies.get(p["cell"], {})]
            facts = {"curve": curve.name, "reward": reward, "rung": rung, "domain": domain}
            rows.append(facts | {"rm_accuracy": statistics.fmean(known) if known else None} | level.record())
    return rows


def _restricted(outcomes: Mapping[str, float], prompts: set[str]) -> dict[str, float]:
    return {prompt: value for prompt, value in outcomes.items() if prompt in prompts}


def _point(point: Point, outcomes: Mapping[str, float]) -> Point:
    """The point as it would be on these prompts alone."""
    quality = statistics.fmean(outcomes.values())
    return {**point, "quality": quality, "quality_lo": None, "quality_hi": None, "n_prompts": len(outcomes)}
