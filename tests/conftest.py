"""Fixtures: small offline experiments that are made once a session by the real stages, and the place of shared data.

The suite runs on two processes of one thread, a test file on one of them, so that a file's run is made once; the cache
of taught bases is shared by all processes through REWARDLADDER_CACHE.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from configs.loader import Experiment, load_experiment

settings.register_profile("any machine", deadline=None)  # a busy one is slow without being wrong
settings.load_profile("any machine")

ROOT = Path(__file__).parent.parent
SHARED_DATA = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))

SMALL_ADVICE = (
    "tasks.n_train_prompts=300",
    "tasks.n_held_out_prompts=80",
    "tasks.n_dev_prompts=24",
    "tasks.n_eval_prompts=60",
    "tasks.n_train_pairs=1500",
    "tasks.n_held_out_pairs=300",
    "rm.max_steps=24",
    "rm.per_device_train_batch_size=48",
    "rm.ladder=[55, 60]",
    "rm.ladder_tolerance=20",
    "rm.save_steps=10",
    "rm.n_selection_pairs=null",
    "policy.max_steps=6",
    "policy.dev_every=3",
    "policy.save_steps=3",
    "policy.prompts_per_step=4",
    "policy.num_generations=4",
    "judge.resamples=500",
)
"""The demo with fewer prompts and steps: every stage runs for real, in seconds, and learns little."""


def small_experiment(runs_dir: Path, *overrides: str) -> Experiment:
    """The demo experiment made small, in a folder of its own."""
    return load_experiment(ROOT / "configs" / "demo.yaml", [f"runs_dir={runs_dir}", *SMALL_ADVICE, *overrides])


LONGEST_FIRST = (
    "test_demo",
    "test_kill",
    "test_variants",
    "test_ray_jobs",
    "test_tools",
    "test_two_processes",
    "test_curve",
)
"""Files that take minutes begin first, or one process would wait for the other's last file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others in their order."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache of taught bases for all test processes and runs, which begins with the golden one."""
    root = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        root = root.parent
    with FileLock(root / "bases.lock"):
        if not (root / "bases").exists():
            shutil.copytree(ROOT / "tests" / "golden" / "bases", root / "bases")
    before = os.environ.get("REWARDLADDER_CACHE")
    os.environ["REWARDLADDER_CACHE"] = str(root / "bases")
    yield
    if before is None:
        del os.environ["REWARDLADDER_CACHE"]
    else:
        os.environ["REWARDLADDER_CACHE"] = before


@pytest.fixture(scope="session")
def small_made(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A small experiment with its task and its ladder made; `small` is a copy of it."""
    import calibration.stage
    import rm.stage

    experiment = small_experiment(tmp_path_factory.mktemp("made") / "runs", "name=small")
    rm.stage.run(experiment)
    calibration.stage.run(experiment)
    return experiment


@pytest.fixture(scope="module")
def small(small_made: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A small experiment with its task and its ladder made, for one file; tests may add cells and change nothing else.

    Each file has its own, or a cell of one file would be another file's under other settings, as the files fall.
    """
    runs = tmp_path_factory.mktemp("small") / "runs"
    shutil.copytree(small_made.folder, runs / "small")
    return replace(small_made, runs_dir=runs)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.exists():
        pytest.skip(f"the real data are not at {SHARED_DATA}; name their folder in SHARED_DATA")
    return SHARED_DATA
