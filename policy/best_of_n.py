"""`rewardladder best-of-n CELL …`: what a reward is worth on a policy's own answers, before any RL.

Best-of-n takes, of n answers to a prompt, the one with the highest reward; its mean gold over n is a cheap stand-in
for what RL would climb to. From m >= n answers the expectation over all subsets is exact (Nakano et al. 2021,
arXiv 2112.09332): with rewards sorted upwards,

    E[gold of the best of n] = sum_i C(i - 1, n - 1) / C(m, n) gold_(i)

where equal rewards share the mean of their golds. The policy that answers so is at most ln n - (n - 1) / n nats from
the one that was sampled. Beside it: the accuracy of the reward on pairs of answers to a prompt, and their spread.
Every interval is over whole prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from calibration.measures import Estimate, clustered_mean, members_of, order_agreement, share
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Table
from configs.records import place_to_write, write_json
from configs.terminal import interval, say, show_table
from policy.policy_samples import Samples, read_rows, rung_rewards, samples_of
from rm.measures import Floats

NO_SPREAD = 1e-8
BESIDE = ("pair_accuracy", "spread_per_prompt", "share_without_spread")
CURVE_COLUMNS = ("steps", "n", "KL at most", "gold of the pick", "gain over n=1", "gold of the truly best")
BESIDE_COLUMNS = (
    "steps",
    "prompts",
    "answers",
    "pairs",
    "right on pairs",
    "spread per prompt",
    "prompts without spread",
)


class BestOfNTable(Table):
    """Settings of a look at policy samples.

    Attributes:
        n: numbers of answers to choose from; powers of two up to the smallest group where not given.
        reward: the field by which answers are ranked, where no rung is named.
        rung: a rung's folder that scores the answers anew, for answers without a reward.
        calibrator: the folder of that rung's calibrator; then its reward ranks instead of the logit.
        run: the run's folder whose prompts were asked; the one that the cell lies in where it is not given.
        phases: completions of training are looked at in so many stretches of steps.
        output: a JSON file for the figures.
        seed: of the resamples.
    """

    n: list[int] | None = Field(None, min_length=1)
    reward: str = "reward"
    rung: str | None = None
    calibrator: str | None = None
    run: str | None = None
    phases: int = Field(3, ge=1, le=100)
    output: str | None = None
    seed: int = Field(0, ge=0)

    @field_validator("n")
    @classmethod
    def _at_least_one(cls, n: list[int] | None) -> list[int] | None:
        if n is not None and (min(n) < 1 or sorted(set(n)) != n):
            raise ValueError(f"numbers of answers rise from at least 1, found {n}")
        return n


def run(paths: Sequence[str], table: BestOfNTable) -> None:
    """Measure the answers of one cell, print the tables and write the JSON.

    Raises:
        UserError: nothing to read, no gold, or only one answer a prompt.
    """
    if len(paths) != 1:
        raise UserError(f"best-of-n: one cell, .parquet or .jsonl is needed, found {len(paths)}")
    if table.calibrator and not table.rung:
        raise UserError("best-of-n: calibrator needs the rung whose logits it reads; name it too, rung=FOLDER")
    output = table.output and place_to_write(table.output, "output")
    path = Path(paths[0]).expanduser()
    rows = read_rows(path)
    if table.rung:
        cell = path if path.is_dir() else path.parent
        run_folder = Path(table.run).expanduser() if table.run else cell.absolute().parent.parent
        calibrator = Path(table.calibrator).expanduser() if table.calibrator else None
        ranking = rung_rewards(rows, Path(table.rung).expanduser(), run_folder, calibrator)
    else:
        ranking = [row.get(table.reward) for row in rows]
    result = {
        "source": str(path),
        "ranked_by": table.calibrator or table.rung or table.reward,
        "phases": [
            look(samples_of(part, order, str(path)), table) | span
            for part, order, span in _phases(rows, ranking, table)
        ],
    }
    if output:
        write_json(output, result)
    show(result)


def look(samples: Samples, table: BestOfNTable) -> dict[str, Any]:
    """The figures of one set of samples, each with n and a 95% interval over prompts.

    Prompts with fewer answers than the largest n are left out and counted.

    Raises:
        UserError: every prompt has fewer.
    """
    every = members_of(samples.groups)
    sizes = Counter(map(len, every.values()))
    usual = max(sizes, key=lambda size: (sizes[size], size))
    numbers = table.n or [2**k for k in range(usual.bit_length())]
    groups = {name: rows for name, rows in every.items() if len(rows) >= max(2, numbers[-1])}
    if not groups:
        raise UserError(
            f"best-of-n: n={max(2, numbers[-1])} needs as many answers to a prompt, and none has more than "
            f"{max(sizes)}; sample more (policy.n_eval_samples=8 for the answers of a cell) or lower n"
        )
    owners = [samples.prompts[rows[0]] for rows in groups.values()]

    def mean(values: Sequence[float] | Floats, clusters: Sequence[str] = owners) -> Estimate:
        return clustered_mean(np.asarray(values, dtype=np.float64), clusters, keyed_rng(table.seed, "best of n"))

    picked = {n: [best_of(samples.rewards[rows], samples.golds[rows], n) for rows in groups.values()] for n in numbers}
    one = np.array([best_of(samples.rewards[rows], samples.golds[rows], 1) for rows in groups.values()])
    curve = [
        {
            "n": n,
            "kl_at_most": math.log(n) - (n - 1) / n,
            "gold": mean(picked[n]),
            "gain": mean(np.array(picked[n]) - one),
            "gold_of_best": mean([best_of(samples.golds[rows], samples.golds[rows], n) for rows in groups.values()]),
        }
        for n in numbers
    ]
    agreement, pairs_of = order_agreement(samples.rewards, samples.golds, samples.groups)
    prompt_of = dict(zip(samples.groups, samples.prompts, strict=True))
    readable = [samples.rewards[rows][np.isfinite(samples.rewards[rows])] for rows in groups.values()]
    spread = [float(np.std(values)) if len(values) > 1 else 0.0 for values in readable]
    return {
        "n_prompts": len(set(samples.prompts)),
        "n_groups": len(groups),
        "n_groups_too_small": len(every) - len(groups),
        "n_answers": len(samples.groups),
        "n_unreadable": int(np.isinf(samples.rewards).sum()),
        "dropped": samples.dropped,
        "curve": curve,
        "pair_accuracy": mean(agreement, [prompt_of[group] for group in pairs_of]),
        "spread_per_prompt": mean(spread),
        "share_without_spread": share(sum(value < NO_SPREAD for value in spread), len(spread)),
    }


def best_of(rewards: Floats, golds: Floats, n: int) -> float:
    """Expected gold of the answer with the highest reward among n of m, over all subsets (module docstring).

    Args:
        rewards: shape (m,), m >= n.
        golds: shape (m,).
        n: how many answers are drawn without replacement.
    """
    m = len(rewards)
    values, place = np.unique(rewards, return_inverse=True)
    means = np.bincount(place, weights=golds) / np.bincount(place)
    below = np.concatenate(([0], np.cumsum(np.bincount(place, minlength=len(values)))))
    reached = np.array([math.comb(int(count), n) for count in below], dtype=np.float64)
    return float(np.diff(reached) @ means / math.comb(m, n))


def show(result: dict[str, Any]) -> None:
    """Print the curve and the figures beside it, one table each."""
    rows, figures = [], []
    for phase in result["phases"]:
        span = "–" if phase["first_step"] is None else f"{phase['first_step']}–{phase['last_step']}"
        for point in phase["curve"]:
            shown = [interval(*_bounds(point[name])) for name in ("gold", "gain", "gold_of_best")]
            rows.append((span, point["n"], point["kl_at_most"], *shown))
        beside = [interval(*_bounds(phase[name])) for name in BESIDE]
        figures.append((span, phase["n_prompts"], phase["n_answers"], phase["pair_accuracy"]["n"], *beside))
    by = f"{result['source']}, ranked by {result['ranked_by']}"
    show_table(f"best of n: {by}", CURVE_COLUMNS, rows)
    show_table("on pairs of answers to one prompt", BESIDE_COLUMNS, figures)
    for phase in result["phases"]:
        if phase["dropped"] or phase["n_unreadable"] or phase["n_groups_too_small"]:
            left_out = phase["dropped"] | {"prompts with too few answers": phase["n_groups_too_small"]}
            counted = ", ".join(f"{reason} {number}" for reason, number in left_out.items() if number) or "nothing"
            say(f"left out: {counted}; malformed and ranked last: {phase['n_unreadable']}")


def _bounds(estimate: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    return estimate["estimate"], estimate["lo"], estimate["hi"]


def _phases(
    rows: list[dict[str, Any]], ranking: Sequence[float | None], table: BestOfNTable
) -> list[tuple[list[dict[str, Any]], list[float | None], dict[str, int | None]]]:
    """Rows with their ranking by stretches of steps; one stretch where there are no steps."""
    steps = sorted({row["step"] for row in rows if row.get("step") is not None})
    if not steps:
        return [(rows, list(ranking), {"first_step": None, "last_step": None})]
    parts: list[tuple[list[dict[str, Any]], list[float | None], dict[str, int | None]]] = []
    for stretch in np.array_split(np.array(steps), min(table.phases, len(steps))):
        first, last = int(stretch[0]), int(stretch[-1])
        inside = [i for i, row in enumerate(rows) if first <= row["step"] <= last]
        parts.append(
            ([rows[i] for i in inside], [ranking[i] for i in inside], {"first_step": first, "last_step": last})
        )
    return parts
