"""The house: which room may import which, names and sizes of files, what is packed, and that every YAML is valid."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from configs.loader import ROOMS, load_experiment
from curve.cli import check_ladder, check_sweep
from curve.sweep.cells import UNTRAINED

ROOT = Path(__file__).parent.parent
ORDER = ("configs", "tasks", "rm", "calibration", "policy", "judge", "curve")
MOST_LINES = 350
MOST_TEST_LINES = 450
FORBIDDEN_NAMES = re.compile(r"(^|_)(utils?|common|helpers?|managers?|misc)(_|$)|_v\d+$")
KNOWN_HOSTS = {
    "localhost",
    "127.0.0.1",
    "api.openai.com",
    "github.com",
    "arxiv.org",
    "www.apache.org",
    "huggingface.co",
    "www.w3.org",
}
"""Hosts that a file of this repository may name, besides the reserved ones of RFC 2606 (`example.org`, `*.invalid`)."""
RESERVED_HOST = re.compile(r"(^|\.)(example(\.(com|net|org))?|invalid|test|localhost)$")
TEXT_SUFFIXES = {"", ".py", ".toml", ".yaml", ".yml", ".txt", ".md", ".jinja", ".json", ".csv", ".cfg"}
IN_ROOMS = [path for room in ORDER for path in sorted((ROOT / room).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "configs").glob("*.yaml"))


def tracked_files() -> list[Path]:
    """The files of the repository; of a copy without Git, all but what is built."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
        )
        names = listed.stdout.splitlines() if listed.returncode == 0 else []
    except FileNotFoundError:
        names = []
    paths = [ROOT / name for name in names] if names else [*IN_ROOMS, *TESTS, *EXPERIMENTS, *ROOT.glob("*.*")]
    return [path for path in paths if path.is_file()]


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it; for the type checker only does not count less."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room is meant"
            names.add((node.module or "").partition(".")[0])
    return names


def test_a_room_imports_only_rooms_to_its_left() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in IN_ROOMS
        for other in imported_packages(path) & {*ORDER, "tests"}
        if other == "tests" or ORDER.index(other) > ORDER.index(path.relative_to(ROOT).parts[0])
    ]
    assert wrong == []


def test_only_the_curve_imports_the_judge_and_configs_imports_no_room() -> None:
    importers = {path.relative_to(ROOT).parts[0] for path in IN_ROOMS if "judge" in imported_packages(path)}
    assert importers <= {"judge", "curve"}
    of_configs = [path for path in IN_ROOMS if path.relative_to(ROOT).parts[0] == "configs"]
    assert not {name for path in of_configs for name in imported_packages(path)} & set(ORDER[1:])


def test_the_rooms_of_an_experiment_are_the_rooms_of_the_house() -> None:
    assert ("configs", *ROOMS) == ORDER


def test_records_can_be_calibrated_and_judged_without_torch() -> None:
    program = (
        "import calibration.calibrator, calibration.stage, judge.stage, curve.cli, curve.sweep.cells, rm.measures, "
        "rm.config, policy.config, sys; print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == ("False", "")


@pytest.mark.parametrize("path", [*IN_ROOMS, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_named_after_its_subject_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= (MOST_TEST_LINES if path in TESTS else MOST_LINES)
    for part in path.relative_to(ROOT).with_suffix("").parts:
        assert not FORBIDDEN_NAMES.search(part), f"{part} says nothing about what is in it"
    assert ast.get_docstring(ast.parse(text)), "a module begins by saying what it is"


def test_no_file_names_a_foreign_host_or_the_place_where_it_was_written() -> None:
    place = re.compile(rf"{re.escape(str(ROOT))}/|(?<![\w./~-])/(work|home|root|mnt|media|workspace|Users|scratch)/\w")
    found = []
    for path in tracked_files():
        if path.suffix not in TEXT_SUFFIXES or path.name == "LICENSE":
            continue
        text = path.read_text(encoding="utf-8")
        found += [
            f"{path.relative_to(ROOT)} names the host {host}"
            for host in re.findall(r"https?://(?:[^/\s\"'`<>)]*@)?([A-Za-z0-9.-]*\.[A-Za-z0-9-]+)", text)
            if host not in KNOWN_HOSTS and not RESERVED_HOST.search(host)
        ]
        found += [f"{path.relative_to(ROOT)} names the place {match[0]}" for match in place.finditer(text)]
        if path != Path(__file__):
            found += [
                f"{path.relative_to(ROOT)} chooses a package index by {option}"
                for option in ("index-url", "find-links", "trusted-host", "index_url")
                if option in text
            ]
    assert found == []


def test_pyproject_packs_exactly_the_rooms_and_every_file_in_them() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert tuple(name for name in setuptools["packages"] if "." not in name) == ORDER
    folders = {path.parent for room in ORDER for path in (ROOT / room).rglob("__init__.py")}
    assert set(setuptools["packages"]) == {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"} == set(ORDER)
    left_out = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if (room := path.relative_to(ROOT).parts[0]) in ORDER
        and (path.suffix != ".py" or path.parent not in folders)
        and not any(
            fnmatch(str(path.relative_to(ROOT / room)), pattern) for pattern in setuptools["package-data"].get(room, [])
        )
    ]
    assert left_out == [], "named in no package-data, so an installed copy lacks them"


def test_every_room_has_a_command_of_its_own() -> None:
    assert [room for room in ROOMS if not (ROOT / room / "__main__.py").exists()] == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_every_shipped_experiment_is_valid_in_every_table(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    experiment = load_experiment(path)
    assert experiment.name == path.stem, "a run's folder is found by the name of its file"
    check_ladder(experiment)
    if not experiment.tables["curve"]:
        return
    cells = check_sweep(experiment)
    assert cells[0].name == UNTRAINED
    assert len({cell.label for cell in cells}) == len(cells)


def test_the_demo_has_the_cells_that_the_claim_needs() -> None:
    names = {cell.name for cell in check_sweep(load_experiment(ROOT / "configs" / "demo.yaml"))}
    bounds = {"untrained", "gold-grpo-s0", "random-grpo-s0", "rpr_only-grpo-s0"}
    assert names >= bounds | {f"{reward}-rung{rung}-grpo-s0" for reward in ("raw", "rpr") for rung in (65, 80, 90)}
