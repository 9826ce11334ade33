"""`rewardladder fit scores.jsonl kind=… label=… logit=… output=FOLDER`: a map from logits to scores, measured.

A map is fitted on some prompts and measured on others: by cross-validation where the data are small, else on one split.
Written into the folder:

    map.json           the map, for kind=all maps/KIND.json  (calibration.maps)
    report.json        figures before and after, with intervals and n; written last
    reliability.png    and .svg: the reliability diagrams
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from calibration.fit_rows import FieldTable, read_labelled
from calibration.fitting import (
    KINDS,
    PAIR_KINDS,
    Fit,
    Kind,
    check_part,
    cross_fitted,
    fit_by_domain,
    linked_scores,
)
from calibration.labelled_logits import LARGEST_LOGIT, LabelledLogits, held_out
from calibration.maps import ScoreMap, save_map
from calibration.measures import Estimate
from calibration.reliability import Figures, figures, mean_change, nll_terms
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.records import sha256_of_file, write_json
from configs.terminal import interval, say, show_table

FORMAT = 1
SMALL = 2000
"""Below this many cases all of them are fitted and measured in turn."""
FOLDS = 5
MOST_DOMAINS = 50
"""So many domains, the largest ones, get figures of their own; a file may name another for every row."""
SHOWN_DOMAINS = 10
FEW_PROMPTS = 20
"""With fewer, fits differ so much from fold to fold that the report says so."""
BEFORE: Kind = "identity"
"""What every map is compared with: the logit taken at its word."""
Floats = NDArray[np.float64]


class FitTable(FieldTable):
    """Settings of the command `fit`, besides those of the fields.

    Attributes:
        output: the folder to write into; made where it is not there.
        kind: a map of `calibration.maps`, or `all` to compare them.
        centre: the logit that scores 0.5 under the temperature map of single answers, or `median`; pairs always take
            the median.
        folds: of the cross-validation by prompt; 5 below 2,000 cases, where held_out is not given.
        held_out: the share of prompts that is measured and not fitted; 0.3 from 2,000 cases on.
        min_domain: cases that a domain needs for a map of its own.
        bins: of equal mass, for ECE, Brier's parts and the diagram.
        resamples: of whole prompts, for intervals.
        seed: of splits and resamples.
    """

    output: str = Field(min_length=1)
    kind: Literal["identity", "temperature", "platt", "beta", "isotonic", "quantile", "reference", "all"] = "platt"
    centre: float | Literal["median"] = 0.0
    folds: int | None = Field(None, ge=2, le=100)
    held_out: float | None = Field(None, gt=0, lt=1)
    min_domain: int = Field(200, ge=2)
    bins: int = Field(10, ge=2, le=1000)
    resamples: int = Field(1000, ge=50, le=100_000)
    seed: int = Field(0, ge=0)

    @field_validator("centre")
    @classmethod
    def _is_a_logit(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and abs(value) > LARGEST_LOGIT:
            raise ValueError(f"should be within {LARGEST_LOGIT:g}, found {value:g}; beyond there are no logits")
        return value

    @property
    def middle(self) -> float | None:
        """The centre as a number; None for the median."""
        return None if isinstance(self.centre, str) else float(self.centre)


def run(paths: Sequence[str], table: FitTable) -> None:
    """Fit, measure, write and print.

    Raises:
        UserError: no file, no usable row, labels or logits that are all equal, or two settings that exclude each other.
    """
    if not paths:
        raise UserError("fit: name a file of logits and labels (.jsonl, .jsonl.gz or .parquet)")
    if table.folds is not None and table.held_out is not None:
        raise UserError("fit: folds cross-validates and held_out splits once; give one of them")
    folder = output_folder(table.output)
    files = [Path(path) for path in paths]
    data, counts = read_labelled(files, table)
    data = data.in_order()
    kinds = kinds_of(table, data)
    report, fits = compare(data, kinds, table)
    report = {
        "format": FORMAT,
        "files": [{"name": path.name, "sha256": sha256_of_file(path)} for path in files],
        "settings": table.model_dump(mode="json", exclude={"output"}),
        "counts": counts,
        **report,
    }
    named = {f"maps/{kind}": fits[kind] for kind in kinds} if table.kind == "all" else {"map": fits[table.kind]}
    title = f"{data.n} {'pairs' if data.pairs else 'answers'} of {counts['prompts']} prompts, {report['measured']}"
    try:
        _write(folder, {name: found.answer_map for name, found in named.items()}, report, title)
    except OSError as error:
        raise UserError(f"output: {folder} cannot be written ({error}); name another folder") from None
    show(folder, report)


def output_folder(name: str) -> Path:
    """The folder to write into, by its name.

    Raises:
        UserError: it is the path of a file, or no path at all.
    """
    try:
        folder = Path(name).expanduser()
        if "\0" in name:
            raise ValueError("it holds a NUL")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"output: {folder} is a file; name a folder")
    except (OSError, ValueError, RuntimeError) as error:  # the last for the home of nobody
        raise UserError(f"output: {name!r} cannot be written ({error}); name another folder") from None
    return folder


def _write(folder: Path, maps: Mapping[str, ScoreMap | None], report: dict[str, Any], title: str) -> None:
    """Maps, figure and report; a fit on pairs that says nothing of single answers leaves no map, and no older one."""
    from calibration.reliability_figure import draw

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").unlink(missing_ok=True)
    for name, found in maps.items():
        if found is None:
            (folder / f"{name}.json").unlink(missing_ok=True)
        else:
            save_map(folder / f"{name}.json", found)
    draw(folder / "reliability", {name: row["figures"] for name, row in report["maps"].items()}, title)
    write_json(folder / "report.json", report)


def kinds_of(table: FitTable, data: LabelledLogits) -> list[Kind]:
    """The kinds to fit, the one before any fit first.

    Raises:
        UserError: the kind has no meaning for pairs.
    """
    allowed = PAIR_KINDS if data.pairs else KINDS
    if table.kind != "all" and table.kind not in allowed:
        raise UserError(
            f"fit: kind {table.kind} gives no chance that an answer of a pair is preferred; choose {', '.join(allowed)}"
        )
    return [kind for kind in allowed if table.kind == "all" or kind in (BEFORE, table.kind)]


def compare(data: LabelledLogits, kinds: Sequence[Kind], table: FitTable) -> tuple[dict[str, Any], dict[Kind, Fit]]:
    """Fit and measure each kind on the same splits.

    Returns:
        The report, and the fits to keep: of all data after cross-validation, else of the part that was fitted.

    Raises:
        UserError: a part to fit on has one label only.
    """
    folds = table.folds or (FOLDS if table.held_out is None and data.n < SMALL else None)
    if folds is None:
        measured = held_out(data.prompts, table.held_out or 0.3, table.seed)
        part, rest = data.take(~measured), data.take(measured)
        check_part(part, "to fit on")
    else:
        folds = min(folds, len(set(data.prompts))) if table.folds is None else folds
        if folds < 2:
            raise UserError("fit: all answers have one prompt, so none is left to measure on; give more prompts")
        part = rest = data
    fits: dict[Kind, Fit] = {}
    scores: dict[Kind, Floats] = {}
    domains: dict[Kind, dict[str, Any]] = {}
    for kind in kinds:
        fits[kind], own, pooled = fit_by_domain(kind, part, table.min_domain, table.middle)
        domains[kind] = {
            "own_map": {name: _parameters(found) for name, found in own.items()},
            "pooled_map": pooled,
        }
        scores[kind] = (
            linked_scores(fits[kind], rest)
            if folds is None
            else cross_fitted(partial(_bound, kind, table), data, folds, table.seed)
        )
    report = {
        "pairs": data.pairs,
        "few_prompts": len(set(part.prompts)) < FEW_PROMPTS,
        "measured": f"{folds}-fold cross-validation by prompt"
        if folds
        else f"on {len(set(rest.prompts))} held-out prompts",
        "map_fitted_on": f"all {data.n} cases" if folds else f"the other {part.n} cases",
        "reads": "difference of the two logits of a pair" if data.pairs else "logit of an answer",
        "maps": {
            kind: {
                **_parameters(fits[kind]),
                "map_sha256": None if (found := fits[kind].answer_map) is None else found.sha256,
                "domains": domains[kind] if table.domain else None,
                **_measured(scores[kind], scores[BEFORE], rest, table),
            }
            for kind in kinds
        },
    }
    return report, fits


def _bound(kind: Kind, table: FitTable, part: LabelledLogits) -> Fit:
    return fit_by_domain(kind, part, table.min_domain, table.middle)[0]


def _parameters(found: Fit) -> dict[str, Any]:
    return {"parameters": found.parameters, "at_bound": found.at_bound}


def _measured(after: Floats, before: Floats, data: LabelledLogits, table: FitTable) -> dict[str, Any]:
    """Figures of one map, the change of its NLL, and figures of each domain where domains were named."""
    rng = partial(keyed_rng, table.seed, "calibration figures")

    def of(rows: NDArray[np.bool_]) -> Figures:
        part = data.take(rows)
        return figures(
            after[rows], part.labels, part.weights, part.prompts, rng(), table.bins, table.resamples, data.pairs
        )

    terms = (nll_terms(before, data.labels), nll_terms(after, data.labels))
    sizes = Counter(domain for domain in data.domains if domain is not None)
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:MOST_DOMAINS]
    by_domain = {name: of(np.array([domain == name for domain in data.domains])) for name in sorted(largest)}
    return {
        "figures": of(np.full(len(data), True)),
        "nll_change": mean_change(*terms, data.weights, data.prompts, rng(), table.resamples),
        "figures_by_domain": by_domain or None,
        "domains_without_figures": len(sizes) - len(by_domain),
    }


def show(folder: Path, report: dict[str, Any]) -> None:
    """Print the comparison, what was left out, and where the maps lie."""
    columns = (
        "map",
        "NLL",
        "change of NLL",
        "Brier",
        "reliability",
        "resolution",
        "ECE",
        "ECE by chance",
        "AUC",
        "accuracy",
    )
    rows = []
    for name, row in report["maps"].items():
        found = row["figures"]
        parts = found["brier_parts"]
        rows.append(
            (
                name + (" (at a bound)" if row["at_bound"] else ""),
                _cell(found["nll"]),
                None if name == BEFORE else _cell(row["nll_change"]),
                _cell(found["brier"]),
                round(parts["reliability"], 4),
                round(parts["resolution"], 4),
                _cell(found["ece"]),
                round(found["ece_by_chance"], 3),
                _cell(found["auc"]),
                _cell(found["accuracy"]),
            )
        )
    first = next(iter(report["maps"].values()))["figures"]
    what = "pairs" if report["pairs"] else "answers"
    show_table(
        f"calibration: {first['n']} {what} of {first['n_prompts']} prompts, {report['measured']}; good: "
        f"{first['base_rate']:.3f}; 95% intervals over resampled prompts",
        columns,
        rows,
    )
    for reason in report["counts"]["left_out"]:
        say(f"left out: {reason['rows']} rows, {reason['reason']} (first {reason['first']})")
    for name, row in report["maps"].items():
        for label, value in row["parameters"].items():
            say(f"{name}, {label}: {_short(value)}")
        if row["map_sha256"] is None:
            say(f"{name}: fitted on pairs it says nothing of one answer, so there is no map of it to apply")
        if row["domains"] and row["domains"]["pooled_map"]:
            pooled = list(row["domains"]["pooled_map"])
            more = f" and {len(pooled) - SHOWN_DOMAINS} more" if len(pooled) > SHOWN_DOMAINS else ""
            say(f"{name}: too few cases for a map of its own: {', '.join(pooled[:SHOWN_DOMAINS])}{more}")
        if row["domains_without_figures"]:
            say(f"{name}: figures of the {MOST_DOMAINS} largest domains; {row['domains_without_figures']} have none")
    if report["few_prompts"]:
        say(
            f"few prompts: maps fitted on fewer than {FEW_PROMPTS} prompts may be worse than the logit as it is, and "
            "intervals over so few say little; label more prompts before any of these maps is used"
        )
    say(f"{folder}: the maps read one answer's logit and were fitted on {report['map_fitted_on']}")


def _short(estimate: Estimate) -> str:
    """An estimate with its interval, to four significant digits."""
    lo, hi = estimate["lo"], estimate["hi"]
    return f"{estimate['estimate']:.4g}" + (" (at a bound)" if lo is None or hi is None else f" [{lo:.4g}, {hi:.4g}]")


def _cell(estimate: Estimate) -> str:
    return interval(estimate["estimate"], estimate["lo"], estimate["hi"])
