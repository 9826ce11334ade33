"""The report: one HTML file with the figure, tables, settings, hashes and times; it needs no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from configs.loader import Experiment
from configs.records import read_json, write_bytes
from configs.runfolder import MANIFEST
from configs.terminal import interval
from curve.points import COLUMNS, CURVE_COLUMNS, Point

TEMPLATE = "report.html.jinja"


def write_report(
    path: Path,
    experiment: Experiment,
    figure: Path,
    points: Sequence[Point],
    curve: Sequence[Point],
    findings: Sequence[str],
    analysis: dict[str, Any],
    missing: Sequence[str],
) -> None:
    """Render the report.

    Args:
        path: the HTML file.
        experiment: as it was run.
        figure: the PNG to embed.
        points, curve: rows of `points.csv` and `curve.csv`.
        findings: plain sentences on what was found.
        analysis: as in `analysis.json` (`curve.analysis.analyse`).
        missing: names of cells that are not there.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["cell"] = _cell
    environment.filters["estimate"] = _estimate
    page = environment.get_template(TEMPLATE).render(
        name=experiment.name,
        figure="data:image/png;base64," + base64.b64encode(figure.read_bytes()).decode(),
        alternative="Quality of the policy against the accuracy of its reward model; the numbers are in the table.",
        findings=findings,
        missing=missing,
        analysis=analysis,
        curve_columns=CURVE_COLUMNS,
        curve=curve,
        point_columns=COLUMNS,
        points=points,
        ladder=_ladder(experiment),
        settings=yaml.safe_dump(
            {"name": experiment.name, "seed": experiment.seed, **experiment.tables}, sort_keys=False
        ),
        stages=_stages(experiment),
    )
    write_bytes(path, page.encode())


def findings_of(points: Sequence[Point]) -> list[str]:
    """Plain sentences that the points bear out, each with its n and interval."""
    judged = {point["cell"]: point for point in points}
    sentences = []
    rungs = [point for point in points if point["rung"] is not None]
    if rungs:
        best = max(rungs, key=lambda point: point["quality"])
        verdict = "better than" if best["quality_lo"] > 0.5 else "not shown to be better than"
        sentences.append(
            f"The best policy on a reward model is {best['cell']}: it wins "
            f"{interval(best['quality'], best['quality_lo'], best['quality_hi'])} against the untrained policy over "
            f"{best['n_prompts']} prompts, ties half, so it is {verdict} no training (0.5)."
        )
    for point in rungs:
        if point["reward"] != "rpr":
            continue
        raw = judged.get(point["cell"].replace("rpr-", "raw-", 1))
        if raw is None:
            continue
        apart = point["quality_lo"] > raw["quality_hi"] or point["quality_hi"] < raw["quality_lo"]
        accuracy = interval(point["rm_accuracy"], point["rm_accuracy_lo"], point["rm_accuracy_hi"])
        sentences.append(
            f"Rung {point['rung']} (accuracy {accuracy}), seed {point['seed']}: "
            f"{interval(raw['quality'], raw['quality_lo'], raw['quality_hi'])} as it is, "
            f"{interval(point['quality'], point['quality_lo'], point['quality_hi'])} with RPR; the intervals "
            f"{'do not overlap' if apart else 'overlap'}."
        )
        alone = judged.get(f"rpr_only-{point['algorithm']}-s{point['seed']}")
        if alone is not None:
            apart = point["quality_lo"] > alone["quality_hi"] or point["quality_hi"] < alone["quality_lo"]
            sentences.append(
                f"RPR alone, without any reward model, reaches "
                f"{interval(alone['quality'], alone['quality_lo'], alone['quality_hi'])}; the interval of rung "
                f"{point['rung']} with RPR {'does not overlap' if apart else 'overlaps'} it."
            )
    return sentences


def _ladder(experiment: Experiment) -> list[dict[str, Any]]:
    path = experiment.folder / "rm" / "ladder.json"
    return list(read_json(path)["rungs"]) if path.exists() else []


def _stages(experiment: Experiment) -> list[dict[str, Any]]:
    """Every finished stage of the run: where, how long, and the digest of what made it."""
    found = []
    for path in sorted(experiment.folder.rglob(MANIFEST)):
        folder = path.parent.relative_to(experiment.folder)
        if folder.parts[0] == "curve":
            continue
        manifest = read_json(path)
        found.append(
            {
                "stage": folder.as_posix(),
                "seconds": manifest["seconds"],
                "files": len(manifest["outputs"]),
                "fingerprint": manifest["fingerprint"][:16],
                "device": manifest["device"],
                "versions": ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
            }
        )
    return found


def _estimate(record: Any) -> str:
    """A value with its interval, from a record of the analysis; a dash where there is none."""
    return "–" if not record else interval(record["value"], record["lo"], record["hi"])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
