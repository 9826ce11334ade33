"""docs/claims.md quotes what `rewardladder analyse` says of the committed points: verdicts and numbers."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student
from statsmodels.stats.proportion import proportion_confint

from configs.terminal import interval
from curve.analysis.points_again import read_points
from curve.analysis.whole import analyse
from curve.points import over_seeds
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "claims.md"
FILES = ("alternatives-points.csv", "demo-points.csv", "mathematics-points.csv", "clipping-points.csv")
QUOTED = (1, 2, 3, 4, 5, 7, 8, 9, 10)
"""Claims whose sections quote the files."""
OF_A_FILE = {"mathematics-points.csv": (1, 7, 8, 9), "clipping-points.csv": (10,)}
"""Claims that a file's rows in the table are of, where not those of the world of advice."""
ESTIMATE = re.compile(r"(-?\d\.\d{3}) \[(-?\d\.\d{3}), (-?\d\.\d{3})\]")


@cache
def claims(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = analyse(read_points(ROOT / "docs" / name), {}, 0)["claims"]
    return found


def rows_of(name: str) -> list[list[str]]:
    """The rows that the page's table should have of a file: one a claim, then its parts that were measured."""
    rows = []
    for claim in claims(name):
        if claim["number"] not in OF_A_FILE.get(name, (2, 3, 4, 5, 7, 9)):
            continue
        own = [str(claim["number"]), name.removesuffix("-points.csv")]
        of = f" ({claim['curve']})" if claim["curve"] and name in OF_A_FILE else ""
        why = claim["sentence"].rstrip(".") if claim["verdict"] == "not measured" else f"the claim{of}"
        rows.append([*own, why, "", "", claim["verdict"]])
        for part in claim["parts"]:
            if part["verdict"] == "not measured":
                continue
            n, plural = part["n_policy_seeds"], "" if part["n_policy_seeds"] == 1 else "s"
            behind = f"{n} seed{plural}, {part['n_prompts'] or 'unknown'} prompts"
            verdict = f"{part['verdict']}{'; ' if part['note'] else ''}{part['note']}"
            rows.append([*own, part["what"], interval(part["value"], part["lo"], part["hi"]), behind, verdict])
    return rows


def sections() -> dict[str, str]:
    """Text of the page by the number or the title of its sections; minus signs as in the tools."""
    parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8").replace("−", "-"), flags=re.MULTILINE)[1:]
    return {part.split("\n")[0].split(".")[0]: part for part in parts}


def test_the_table_of_the_page_is_what_the_tool_says() -> None:
    lines = [line for line in sections()["What `analyse` says"].splitlines() if line.startswith("| ")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    assert found == [row for name in FILES for row in rows_of(name)]


@pytest.mark.parametrize("number", QUOTED)
def test_a_section_quotes_no_other_numbers_and_the_tools_verdict(number: int) -> None:
    known = {row[3] for name in FILES for row in rows_of(name)}
    for name in FILES:
        curve = over_seeds(read_points(ROOT / "docs" / name))
        known |= {interval(row["quality"], row["quality_lo"], row["quality_hi"]) for row in curve}
    section = sections()[str(number)]
    quoted = {match.group() for match in ESTIMATE.finditer(" ".join(section.split()))}
    assert quoted <= known
    verdicts = {claim["verdict"] for name in FILES for claim in claims(name) if claim["number"] == number}
    said = re.search(r"^Verdict: (not settled|not measured|supported|contradicted)", section, flags=re.MULTILINE)
    assert said is not None and said.group(1).strip() in verdicts


def test_the_table_of_the_readme_is_what_its_points_say() -> None:
    rewards = ["raw", "rpr", "rpr_ordered", "constant", "length_bonus", "random_phrases", "variance_matched"]
    rewards += ["noise_corrected", "rpr_only", "random", "gold", "untrained"]
    curve = {row["reward"]: row for row in over_seeds(read_points(ROOT / "docs" / "alternatives-points.csv"))}
    wanted = []
    for row in map(curve.__getitem__, rewards):
        won = interval(row["quality"], *((row["quality_lo"], row["quality_hi"]) if row["algorithm"] else (None, None)))
        gold = interval(row["gold_mean"], row["gold_mean_lo"], row["gold_mean_hi"])
        wanted.append([won, gold, f"{row['length_mean']:.0f}"])
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.partition("| reward on rung 65")[2].partition("\n\n")[0].splitlines()[2:]
    assert [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines] == wanted
    raw = curve["raw"]
    assert interval(raw["rm_accuracy"], raw["rm_accuracy_lo"], raw["rm_accuracy_hi"]) in text


def arms_table() -> list[list[str]]:
    """The rows of the table of arms: sampled and greedy gold on the strong and on the weak base."""
    curve = over_seeds(read_points(ROOT / "docs" / "mathematics-points.csv"))
    sampled = {(row["treatment"] or row["reward"], row["base"]): row for row in curve}
    greedy = defaultdict(list)
    with (ROOT / "docs" / "mathematics-greedy.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            base, _, cell = row["cell"].partition("/")
            greedy[cell.partition("-grpo-")[0], base].append((int(row["n_right"]), int(row["n"])))
    rows = []
    for arm in dict.fromkeys(arm for arm, _ in sampled):
        cells = [arm]
        for base in ("strong", "weak"):
            row = sampled[arm, base]
            cells.append(interval(row["gold_mean"], row["gold_mean_lo"], row["gold_mean_hi"]))
            found = greedy[arm, base]
            shares = np.array([right / n for right, n in found])
            if len(found) == 1:
                cells.append(interval(shares[0], *proportion_confint(*found[0], method="wilson")))
            else:
                half = student.ppf(0.975, len(found) - 1) * shares.std(ddof=1) / np.sqrt(len(found))
                cells.append(interval(shares.mean(), shares.mean() - half, shares.mean() + half))
        rows.append(cells)
    return rows


def test_the_table_of_the_arms_is_what_its_files_say() -> None:
    text = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
    lines = text.partition("| arm | strong base, sampled")[2].partition("\n\n")[0].splitlines()[2:]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == arms_table()
