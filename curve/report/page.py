"""The report: one HTML file that needs no network, and a summary in Markdown beside it.

The page holds its figures, tables, settings, hashes and times. Its only script sorts tables and is named in the page's
own policy by its hash; nothing is loaded, and without scripts everything is there to be read.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from configs.loader import Experiment
from configs.records import read_json, write_bytes
from configs.runfolder import MANIFEST
from configs.terminal import interval
from curve.analysis.files import place_of
from curve.points import Point
from curve.report.parts import parts_of
from curve.report.tables import Part, ReportTable

TEMPLATE, SCRIPT = "report.html.jinja", "report_sort.js.jinja"
SUMMARY_SUFFIX = ".md"


@dataclass(frozen=True)
class Figure:
    """A figure in the page: its file, the picture as an address, what it shows in words, and its caption."""

    name: str
    data: str
    alternative: str
    caption: str


CAPTIONS: dict[str, tuple[str, str]] = {
    "curve": (
        "Quality of the policy against the accuracy of its reward model",
        "Quality is the win rate against the untrained policy, ties counted half; 0.5 is as good as no training. "
        "Intervals are 95%; a shaded upright band is that of a knee, where one is identified. Small models and one "
        "world: signs and orderings carry over, numbers do not.",
    ),
    "steps": (
        "Gold utility against training steps",
        "What the truth says of a policy while it climbs its reward. Where a line falls, the reward was climbed at the "
        "cost of what it stands for.",
    ),
    "quality-against-kl": (
        "Quality of each policy against its distance from the untrained policy at the end of training",
        "What the judge says of a policy that was trained to the end, against its divergence (KL) from the untrained "
        "one: a point a cell. Quality is the win rate against the untrained policy, ties counted half.",
    ),
    "kl": (
        "Gold utility against the distance from the untrained policy",
        "The same against the divergence (KL) from the untrained policy, so that fast and slow learners are compared "
        "at the same distance.",
    ),
    "flips": (
        "Accuracy against the share of flipped rewards",
        "What the flipping of a verifiable reward costs the policy that climbs it.",
    ),
    "predictors": (
        "Quality against four measures of the reward model",
        "Which measure of a reward model orders the policies best: held-out accuracy, on-policy accuracy, spread of "
        "the scores of a prompt, J at the threshold.",
    ),
    "domain": (
        "Quality of the policy against the accuracy of its reward model, a panel a domain of the prompts",
        "Quality on the prompts of a domain against the accuracy of the reward model on pairs of that domain.",
    ),
    "": ("A figure of this run", "The numbers are in the tables."),
}
"""What a figure shows and its caption, by the first of these words in its file's name; the empty one fits all."""


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
    """Write the page, and the summary beside it with the ending `.md`.

    Args:
        path: the HTML file.
        experiment: as it was run.
        figure: the PNG that stands first; all other PNG files of its folder follow by name.
        points, curve: rows of `points.csv` and `curve.csv`.
        findings: plain sentences on what was found.
        analysis: as in `analysis.json` (`curve.analysis.whole.analyse`); a part that is absent is left out.
        missing: names of cells that are not there.
    """
    figures = figures_of(figure)
    ladders = _ladders(experiment, points)
    rungs = [
        {"rung": rung["rung"], "variant": label or None, **rung}
        for label, of in ladders.items()
        for rung in of["rungs"]
    ]
    parts = parts_of(points, curve, analysis, rungs)
    lacking = lacking_of(experiment, points, analysis, ladders, missing)
    facts, manifests = _facts(experiment, points), _manifests(experiment)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    script = environment.get_template(SCRIPT).render()
    page = environment.get_template(TEMPLATE).render(
        name=experiment.name,
        facts=facts,
        figures=figures,
        findings=findings,
        lacking=lacking,
        parts=parts,
        commands=commands_of(experiment, points),
        settings=yaml.safe_dump(
            {"name": experiment.name, "seed": experiment.seed, **experiment.tables}, sort_keys=False
        ),
        versions=_versions(manifests),
        stages=_stages(manifests),
        script=Markup(script),  # noqa: S704 - our own file, with nothing put into it
        script_digest="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_bytes(path, page.encode("utf-8", "replace"))
    summary = summary_of(experiment, facts, figures, findings, lacking, parts, path.name)
    write_bytes(path.with_suffix(SUMMARY_SUFFIX), summary.encode("utf-8", "replace"))


def figures_of(first: Path) -> list[Figure]:
    """The figures beside `first`, itself first, each inside an address of its own."""
    others = sorted(path for path in first.parent.glob("*.png") if path.name != first.name)
    found = []
    for path in (first, *others):
        word = next(word for word in CAPTIONS if word in path.stem)
        alternative, caption = CAPTIONS[word]
        data = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        found.append(Figure(path.name, data, f"{alternative}; the numbers are in the tables.", caption))
    return found


def lacking_of(
    experiment: Experiment,
    points: Sequence[Point],
    analysis: dict[str, Any],
    ladders: dict[str, dict[str, Any]],
    missing: Sequence[str],
) -> list[str]:
    """Sentences on what this run does not have: cells, verdicts, rungs, claims, seeds."""
    found = []
    if missing:
        found.append(
            f"{len(missing)} cells are missing: {', '.join(missing)}. Run the same command again to make them."
        )
    counts = {point["cell"]: _missing_verdicts(experiment, point["cell"]) for point in points}
    lost = {cell: n for cell, n in counts.items() if n}
    if lost:
        cells = ", ".join(f"{cell} {n}" for cell, n in lost.items())
        found.append(f"Pairs of answers without a verdict, which have no weight: {cells}.")
    for label, ladder in ladders.items():
        targets = ladder.get("targets_missed") or []
        if targets:
            which = f"The ladder of {label}" if label else "The ladder"
            found.append(f"{which} did not reach {', '.join(map(str, targets))}%; the nearest stand for these rungs.")
    unmeasured = [str(claim["number"]) for claim in analysis.get("claims") or [] if claim["verdict"] == "not measured"]
    if unmeasured:
        found.append(f"Claims {', '.join(dict.fromkeys(unmeasured))} are not measured by this run; the table says why.")
    seeds = {point["seed"] for point in points} - {None}
    if len(seeds) == 1:
        found.append("One policy seed: intervals are over prompts and say nothing of other seeds.")
    if len({point["rm_seed"] for point in points} - {None}) == 1:
        found.append("One reward-model seed: another ladder may order the rungs otherwise.")
    return found


def findings_of(points: Sequence[Point]) -> list[str]:
    """Plain sentences that the points bear out, each with its n and interval."""
    judged = {point["cell"]: point for point in points}
    sentences = []
    rungs = [point for point in points if point["rung"] is not None]
    if rungs:
        best = max(rungs, key=lambda point: point["quality"])
        surely = best["quality_lo"] is not None and best["quality_lo"] > 0.5
        verdict = "better than" if surely else "not shown to be better than"
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
        accuracy = interval(point["rm_accuracy"], point["rm_accuracy_lo"], point["rm_accuracy_hi"])
        sentences.append(
            f"Rung {point['rung']} (accuracy {accuracy}), seed {point['seed']}: "
            f"{interval(raw['quality'], raw['quality_lo'], raw['quality_hi'])} as it is, "
            f"{interval(point['quality'], point['quality_lo'], point['quality_hi'])} with RPR; the intervals "
            f"{_OVERLAP[_apart(point, raw)]}."
        )
        alone = judged.get(f"rpr_only-{point['algorithm']}-s{point['seed']}")
        if alone is not None:
            sentences.append(
                f"RPR alone, without any reward model, reaches "
                f"{interval(alone['quality'], alone['quality_lo'], alone['quality_hi'])}; the interval of rung "
                f"{point['rung']} with RPR {_OVERLAPS[_apart(point, alone)]} it."
            )
    return sentences


_OVERLAP = {True: "do not overlap", False: "overlap", None: "are not both known"}
_OVERLAPS = {True: "does not overlap", False: "overlaps", None: "cannot be compared with"}


def _apart(one: Point, other: Point) -> bool | None:
    """Whether two intervals of quality have nothing in common; None where one is not known."""
    if None in (one["quality_lo"], one["quality_hi"], other["quality_lo"], other["quality_hi"]):
        return None
    return bool(one["quality_lo"] > other["quality_hi"] or one["quality_hi"] < other["quality_lo"])


def commands_of(experiment: Experiment, points: Sequence[Point]) -> list[str]:
    """Commands for a reader with the settings at hand, ready to be pasted."""
    source = shlex.quote(experiment.source)
    cell = next((point["cell"] for point in points if point["reward"] != "untrained"), "untrained")
    run, name = place_of(experiment.folder, cell)
    return [
        f"rewardladder run {source} name={shlex.quote(experiment.name)} seed={experiment.seed}",
        f"rewardladder judge compare {shlex.quote(str(run))}",
        f"rewardladder judge report {shlex.quote(f'{run}/judge/{name}')} output=pairs.html",
    ]


def summary_of(
    experiment: Experiment,
    facts: Sequence[tuple[str, str]],
    figures: Sequence[Figure],
    findings: Sequence[str],
    lacking: Sequence[str],
    parts: Sequence[Part],
    page: str,
) -> str:
    """The summary in Markdown: what was found, what is missing, the figures by name, and the tables but the longest."""
    lines = [f"# RewardLadder: {experiment.name}", "", "; ".join(f"{name} {value}" for name, value in facts) + ".", ""]
    for figure in figures:
        lines += [f"![{figure.alternative}]({figure.name})", "", figure.caption, ""]
    for title, sentences in (("What was found", findings), ("What is missing", lacking)):
        if sentences:
            lines += [f"## {title}", "", *(f"- {_plain(sentence)}" for sentence in sentences), ""]
    for part in parts:
        if not part.in_summary:
            continue
        lines += [f"## {part.title}", "", *([_plain(part.note), ""] if part.note else [])]
        if part.sentences:
            lines += [*(f"- {_plain(sentence)}" for sentence in part.sentences), ""]
        for table in part.tables:
            lines += [*_markdown(table), ""] if table.rows else []
    return "\n".join([*lines, f"Every cell, the settings, versions and hashes are in `{page}`.", ""])


def _markdown(table: ReportTable) -> list[str]:
    rule = ["---", *(("---" if table.prose else "--:") for _ in table.columns[1:])]
    return [f"| {' | '.join(_plain(cell) for cell in row)} |" for row in (table.columns, rule, *table.rows)]


def _plain(text: str) -> str:
    """A text that Markdown shows as it is."""
    flat = " ".join(text.split())
    for character in ("\\", "|", "*", "_", "<", "`", "["):
        flat = flat.replace(character, f"\\{character}")
    return flat


def _facts(experiment: Experiment, points: Sequence[Point]) -> list[tuple[str, str]]:
    """What was run, in a line: its size, its seeds and its judge."""
    seeds = sorted({point["seed"] for point in points} - {None})
    rm_seeds = sorted({point["rm_seed"] for point in points} - {None})
    judges = sorted({str(point["judge"]) for point in points if point.get("judge")})
    found = [
        ("cells", str(len(points))),
        ("prompts", ", ".join(map(str, sorted({point["n_prompts"] for point in points})))),
        ("seed", str(experiment.seed)),
        ("policy seeds", ", ".join(map(str, seeds))),
        ("RM seeds", ", ".join(map(str, rm_seeds))),
        ("judge", ", ".join(judges)),
    ]
    return [(name, value) for name, value in found if value]


def _missing_verdicts(experiment: Experiment, cell: str) -> int:
    run, name = place_of(experiment.folder, cell)
    path = run / "judge" / name / "summary.json"
    return int(read_json(path)["n_missing"]) if path.exists() else 0


def _ladders(experiment: Experiment, points: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """The ladders behind the points, by variant; that of a run without variants is named by an empty text."""
    found = {}
    for cell in (point["cell"] for point in points):
        run, _ = place_of(experiment.folder, cell)
        path = run / "rm" / "ladder.json"
        if path.exists() and (label := cell.rpartition("/")[0]) not in found:
            found[label] = dict(read_json(path))
    return found


def _manifests(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The manifest of every finished stage of the run but the curve itself, by its folder."""
    found = {}
    for path in sorted(experiment.folder.rglob(MANIFEST)):
        folder = path.parent.relative_to(experiment.folder)
        if folder.parts[0] != "curve":
            found[folder.as_posix()] = read_json(path)
    return found


def _versions(manifests: dict[str, dict[str, Any]]) -> ReportTable:
    """On which devices and with which versions the stages were made, each combination once."""
    together = Counter(
        (str(made["device"]), ", ".join(f"{name} {version}" for name, version in made["versions"].items()))
        for made in manifests.values()
    )
    rows = [[device, versions, str(n)] for (device, versions), n in sorted(together.items())]
    return ReportTable("Devices and versions", ("device", "versions", "stages"), rows, prose=True)


def _stages(manifests: dict[str, dict[str, Any]]) -> ReportTable:
    """Every finished stage: how long it took and the digest of what made it."""
    rows = [
        [stage, f"{made['seconds']:.1f}", str(len(made["outputs"])), made["fingerprint"][:16]]
        for stage, made in manifests.items()
    ]
    return ReportTable("Stages, times and hashes", ("stage", "seconds", "files", "made from"), rows)
