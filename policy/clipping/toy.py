"""`rewardladder clipping-toy`: does clipping bias a policy whose rewards are coin flips, and which way?

Prints the exact expectations of one rollout and what simulated rollouts add up to, with clipping and without
(`expectation` says of what, and what they cannot show); writes both, and a figure. Reads no file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from configs.errors import UserError
from configs.records import place_to_write, write_bytes, write_json
from configs.terminal import say, show_table
from policy.clipping.expectation import ClippingToyTable, Expected, Simulated, expected_rollout, simulate

ENDINGS = (".json", ".csv", ".png", ".svg")
SMALL = ("expected_logit_step", "expected_pi")
"""Columns that need more than three digits."""


def run(paths: Sequence[str], table: ClippingToyTable) -> None:
    """Work the toy out, print its table, write its files.

    Raises:
        UserError: a path was given, too many outcomes, or the files cannot be written.
    """
    if paths:
        raise UserError(
            f"clipping-toy reads no file, found {paths[0]}; its settings are {', '.join(type(table).model_fields)}"
        )
    places = {} if table.output is None else {e: place_to_write(f"{table.output}{e}", "output") for e in ENDINGS}
    arms: dict[str, float | None] = {"clipped": table.epsilon, "not clipped": None}
    expected = {name: expected_rollout(table, epsilon) for name, epsilon in arms.items()}
    rows = [row for name, arm in expected.items() for row in table_rows(table, name, arm)]
    show_table(
        f"one rollout of {table.updates} updates, rewards random({table.rate:g}), exact expectations",
        tuple(rows[0]),
        [tuple(f"{v:.6f}" if name in SMALL else v for name, v in row.items()) for row in rows],
    )
    simulated = {name: simulate(table, epsilon) for name, epsilon in arms.items()} if table.rollouts else {}
    for name, run_ in simulated.items():
        say(
            f"{name}: after {table.rollouts} rollouts the likeliest action's logit has moved by {run_.lift[-1]:+.4f} "
            f"(standard error {run_.lift_error[-1]:.4f}), and a drawn action's probability is {run_.sureness[-1]:.4f} "
            f"({run_.sureness_error[-1]:.4f}; at first {run_.sureness[0]:.4f})"
        )
    if not places:
        return
    from policy.clipping.figure import draw

    write_json(places[".json"], record(table, rows, simulated))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(places[".csv"], text.getvalue().encode())
    draw(places[".png"], places[".svg"], table, simulated)
    say(f"wrote {', '.join(map(str, places.values()))}")


def record(table: ClippingToyTable, rows: list[dict[str, Any]], simulated: dict[str, Simulated]) -> dict[str, Any]:
    """Everything that was found, as plain JSON."""
    return {
        "settings": table.model_dump(mode="json", exclude={"output"}),
        "one_rollout": rows,
        "simulated": {
            name: {key: value.tolist() for key, value in vars(found).items()} for name, found in simulated.items()
        },
    }


def table_rows(table: ClippingToyTable, arm: str, expected: Expected) -> list[dict[str, Any]]:
    """One row an action: what the rollout's updates are expected to do to it.

    `left_above` and `left_below` are chances before the last update.
    """
    last = expected.updates[-1]
    return [
        {
            "arm": arm,
            "pi_old": old,
            "can_leave_above": bool(old * (1 + table.epsilon) < 1),
            "left_above": float(last.left_above[place]),
            "left_below": float(last.left_below[place]),
            "expected_logit_step": float(table.learning_rate * expected.step[place]),
            "expected_pi": float(expected.probabilities[place]),
        }
        for place, old in enumerate(table.probabilities)
    ]
