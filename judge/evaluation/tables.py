"""What an evaluation shows: rates, what became of the answers, who the contestants are, differences; and its CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from configs.terminal import interval, say, show_table
from tasks.mathematics.answer_files import MARKS
from tasks.pairing import unpaired

ALL = "all"
"""All sets together."""
COLUMNS = ("contestant", "set", "figure", "k", "n_problems", "n_samples", "value", "lo", "hi")
ON_TEST_NOTE = (
    "CHOSEN ON THE TEST SET: the step of {names} was chosen on the problems that are evaluated here "
    "(tasks.dev_is_eval), so the figures are too high by what the choice gained"
)


def show(report: Mapping[str, Any]) -> None:
    """Print rates, marks and differences, one table each."""
    figures = ["greedy", "avg", *(f"{kind}@{k}" for k in report["k"][-1:] for kind in ("pass", "maj"))]
    rated, marked, by_k = [], [], []
    for row in report["contestants"]:
        for name, found in row["sets"].items():
            samples = _samples(found["n_samples_a_problem"])
            shown = [_interval(found.get(figure)) for figure in figures]
            rated.append((row["name"], name, row.get("verdicts"), found["n_problems"], samples, *shown))
            by_k += [
                (row["name"], name, k, _interval(found.get(f"pass@{k}")), _interval(found.get(f"maj@{k}")))
                for k in report["k"]
            ]
            if name == ALL:
                for what, marks in (("samples", found["marks"]), ("greedy", found["greedy_marks"])):
                    if marks and sum(marks.values()):
                        marked.append((row["name"], what, sum(marks.values()), *(marks[mark] for mark in MARKS)))
    show_table(
        "Evaluation, 95% intervals over problems",
        ("contestant", "set", "verdicts", "problems", "n", *_heads(figures)),
        rated,
    )
    if len(report["k"]) > 1:
        show_table("By the number of samples", ("contestant", "set", "k", "pass@k", "maj@k"), by_k)
    show_table("What became of the answers", ("contestant", "answers", "in all", *MARKS), marked)
    about = [
        (row["name"], row["prompt"], row["kept"], "yes" if row["chosen_on_test_set"] else "no")
        for row in report["contestants"]
        if row["prompt"]
    ]
    if about:
        columns = ("contestant", "prompt", "state of the training", "chosen on the evaluated problems")
        show_table("Who they are", columns, about)
    _show_differences(report, figures)
    for row in report["contestants"]:
        for k in report["k"]:
            counted = row["sets"][ALL].get(f"pass@{k}", {}).get("n_problems", 0)
            if counted < row["sets"][ALL]["n_problems"]:
                say(f"{row['name']}: pass@{k} and maj@{k} are of {counted} problems; the others have fewer samples")
    chosen = [row["name"] for row in report["contestants"] if row["chosen_on_test_set"]]
    if chosen:
        say(ON_TEST_NOTE.format(names=", ".join(chosen)))


def _show_differences(report: Mapping[str, Any], figures: Sequence[str]) -> None:
    rows = [
        (row["name"], row["n_problems"], row["only_in_one"] or None, *(_interval(row.get(f)) for f in figures))
        for row in report["differences"]
    ]
    if rows:
        title = f"Differences to {report['differences'][0]['minus']}, paired by problem"
        show_table(title, ("contestant", "problems in both", "in one only", *_heads(figures)), rows)
    for row in report["differences"]:
        if "paired_by" in row:  # not in what an older version wrote
            first, refused = row["only_in_first"], row["other_reference"]
            only = (first, row["only_in_one"] - first)
            for line in unpaired(row["minus"], row["name"], row["n_problems"], row["paired_by"], only, refused):
                say(line)


def as_csv(report: Mapping[str, Any]) -> str:
    """One row a figure of a contestant and set, and of a difference (`set` is then `minus NAME`)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    parts = [(row["name"], name, found) for row in report["contestants"] for name, found in row["sets"].items()]
    parts += [(row["name"], f"minus {row['minus']}", row) for row in report["differences"]]
    for contestant, name, found in parts:
        for figure, estimate in found.items():
            if isinstance(estimate, Mapping) and "value" in estimate:
                kind, _, k = figure.partition("@")
                numbers = (
                    estimate["n_problems"],
                    found.get("n_samples"),
                    *(estimate[key] for key in ("value", "lo", "hi")),
                )
                writer.writerow((contestant, name, kind, k, *numbers))
    return text.getvalue()


def _heads(figures: Sequence[str]) -> list[str]:
    return ["avg@n" if figure == "avg" else figure for figure in figures]


def _interval(estimate: Mapping[str, Any] | None) -> str:
    return (
        interval(None, None, None) if estimate is None else interval(estimate["value"], estimate["lo"], estimate["hi"])
    )


def _samples(sizes: Sequence[int] | None) -> str:
    if sizes is None:
        return "–"
    return str(sizes[0]) if sizes[0] == sizes[1] else f"{sizes[0]}–{sizes[1]}"
