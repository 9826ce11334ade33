"""Cells on Ray: as on local workers, and the same when one of two nodes is killed in the middle."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import curve.stage
import tasks.stage
from configs.errors import UserError
from curve.sweep.ray_jobs import STARTED, RayTable, run_on_ray
from curve.sweep.workers import Job, run_side_by_side
from tests.conftest import small_experiment
from tests.test_workers import FOLLOWER, is_alive, wait_for

ROOT = Path(__file__).parent.parent
NO_RAY = "ray is not installed (pip install 'reward-ladder[ray]')"
needs_ray = pytest.mark.usefixtures("ray_starts")
PROBE = "import ray; ray.init(num_cpus=1, include_dashboard=False); ray.get(ray.remote(lambda: 1).remote())"
PROBE_S = 180
COUNTER = """
import os, sys, time
from pathlib import Path
from configs.command import follow_parent
follow_parent()
folder, steps = Path(sys.argv[1]), int(sys.argv[2])
state = folder / "checkpoint"
done, total = map(int, state.read_text().split()) if state.exists() else (0, 0)
print("from step", done, "pid", os.getpid(), flush=True)
for step in range(done, steps):
    time.sleep(0.05)
    total = (total * 31 + step) % 1009
    part = folder / f"checkpoint.{os.getpid()}"
    part.write_text(f"{step + 1} {total}")
    part.replace(state)
(folder / "final").write_text(f"{total}")
"""
"""A cell in small: a checkpoint a step, and a final file that depends on every step."""


def counter(folder: Path, name: str, steps: int) -> Job:
    place = folder / name
    place.mkdir(parents=True)
    return Job(name, [sys.executable, "-c", COUNTER, str(place), str(steps)], place / "cell.log", 1)


def finals(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(folder.glob("*/final"))}


@pytest.fixture(scope="module")
def ray_starts() -> None:
    """Skips, with the reason, where there is no Ray or this machine lets it start no cluster of its own."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip(NO_RAY)
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=PROBE_S
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"Ray starts no cluster here within {PROBE_S} s")
    if done.returncode:
        pytest.skip(f"Ray starts no cluster here: {done.stderr.strip().splitlines()[-1][:300]}")


@pytest.fixture(scope="module")
def cluster(ray_starts: None) -> Iterator[Any]:
    """A cluster of one node of one CPU; a test adds the second, and may kill it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        from ray.cluster_utils import Cluster

        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
        made = Cluster(initialize_head=True, head_node_args=head)
        yield made
        made.shutdown()


class Killer(threading.Thread):
    """Adds a node to a cluster, and kills it as soon as a cell at work on it has made a checkpoint."""

    def __init__(self, cluster: Any, cells: Path, checkpoint: str) -> None:
        super().__init__()
        self.cluster, self.node = cluster, cluster.add_node(num_cpus=1)
        self.cells, self.checkpoint = cells, checkpoint
        self.killed: str | None = None

    def run(self) -> None:
        """Kill, or give up."""
        if wait_for(lambda: self.at_work() is not None, 400):
            self.killed = self.at_work()
            self.cluster.remove_node(self.node, allow_graceful=False)

    def at_work(self) -> str | None:
        """The cell that was started last on our node, if it has a checkpoint."""
        for log in self.cells.glob("*/cell.log"):
            starts = re.findall(f"{STARTED} .*, node ([0-9a-f]+)", log.read_text())
            if starts and starts[-1] == self.node.node_id and list(log.parent.glob(self.checkpoint)):
                return log.parent.name
        return None


@needs_ray
def test_a_killed_node_changes_no_result(tmp_path: Path, cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"c{i}" for i in range(4)]
    assert run_side_by_side([counter(tmp_path / "here", name, 40) for name in names], 2) == {}
    jobs = [counter(tmp_path / "ray", name, 40) for name in names]
    killer = Killer(cluster, tmp_path / "ray", "checkpoint")
    killer.start()
    assert run_on_ray(jobs, RayTable(address=cluster.address)) == {}
    killer.join()
    assert killer.killed is not None
    assert finals(tmp_path / "ray") == finals(tmp_path / "here")
    begun = {job.name: re.findall("from step ([0-9]+)", job.log.read_text()) for job in jobs}
    assert [name for name, starts in begun.items() if len(starts) > 1] == [killer.killed]
    assert int(begun[str(killer.killed)][1]) > 0, "a lost cell goes on where it was"
    assert "Ray lost a node, 1 are left" in capsys.readouterr().out


@needs_ray
@pytest.mark.slow
def test_a_sweep_on_two_nodes_gives_the_points_of_one_machine(
    tmp_path: Path, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ("curve.sweep=[{reward: [gold, format]}]", "policy.max_steps=12", "policy.dev_every=0")
    here = small_experiment(tmp_path / "here", *sweep)
    tasks.stage.run(here)
    shutil.copytree(here.folder, tmp_path / "ray" / "demo")
    curve.stage.run(here)
    on_ray = ("curve.executor=ray", f"curve.ray.address={cluster.address}")
    killer = Killer(cluster, tmp_path / "ray" / "demo" / "policy", "scratch/checkpoint-*/complete.json")
    killer.start()
    curve.stage.run(small_experiment(tmp_path / "ray", *sweep, *on_ray))
    killer.join()
    assert killer.killed is not None
    assert "Ray lost a node" in capsys.readouterr().out
    cells = sorted(path.parent for path in (tmp_path / "ray" / "demo" / "policy").glob("*/metrics.jsonl"))
    begun = {cell.name: (cell / "cell.log").read_text().count(STARTED) for cell in cells}
    assert len(cells) == 2 and begun[str(killer.killed)] == 2
    for name in ("curve/points.csv", *(f"policy/{cell.name}/metrics.jsonl" for cell in cells)):
        found, expected = (tmp_path / runs / "demo" / name for runs in ("ray", "here"))
        assert found.read_bytes() == expected.read_bytes(), name


@needs_ray
def test_failures_are_told_and_the_others_go_on(tmp_path: Path, cluster: Any) -> None:
    def job(name: str, program: str) -> Job:
        return Job(name, [sys.executable, "-c", program], tmp_path / name / "cell.log", 3)

    jobs = [
        job("bad", "import sys; print('busy'); print('error: rm.x: no', file=sys.stderr); sys.exit(2)"),
        job("killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        job("threads", "import os, sys; print(os.environ['OMP_NUM_THREADS'], repr(sys.stdin.read()))"),
        Job("none", [str(tmp_path / "no program")], tmp_path / "none" / "cell.log", 1),
    ]
    failed = run_on_ray(jobs, RayTable(address=cluster.address, num_cpus=1))
    assert failed["none"].startswith("node ") and failed.pop("none").endswith("program (No such file or directory)")
    assert failed == {"bad": "error: rm.x: no", "killed": "killed by SIGKILL"}
    assert jobs[2].log.read_text().splitlines()[1:] == ["3 ''"]


@needs_ray
def test_a_cell_that_is_lost_again_and_again_is_given_up(tmp_path: Path, cluster: Any) -> None:
    program = (
        "import os, signal, time; print('begun', flush=True); os.kill(os.getppid(), signal.SIGKILL); time.sleep(1)"
    )
    job = Job("c", [sys.executable, "-c", program], tmp_path / "c" / "cell.log", 1)
    failed = run_on_ray([job], RayTable(address=cluster.address, max_retries=1))
    assert failed == {"c": "lost with its node or its worker 2 times (curve.ray.max_retries: 1)"}
    assert job.log.read_text().count("begun\n") == 2


@needs_ray
def test_a_cell_that_fits_no_node_is_refused_before_anything_runs(tmp_path: Path, cluster: Any) -> None:
    job = Job("c", [sys.executable, "-c", ""], tmp_path / "c" / "cell.log", 8)
    with pytest.raises(UserError, match=r"asks for 8 CPUs and 1 GPUs, and no node has them \(the nodes: 1 CPUs and 0"):
        run_on_ray([job], RayTable(address=cluster.address, num_gpus=1))
    assert not job.log.parent.exists()


@needs_ray
def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    job = Job("c", [sys.executable, "-c", ""], tmp_path / "c" / "cell.log", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=f"nobody answers at {address}"):
        run_on_ray([job], RayTable(address=address))


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curve.sweep.ray_jobs.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'reward-ladder\[ray\]', or choose local"):
        run_on_ray([Job("c", ["true"], tmp_path / "cell.log", 1)], RayTable())
    assert run_on_ray([], RayTable()) == {}


def test_an_address_is_checked_as_it_is_read() -> None:
    assert RayTable.model_validate({"address": "head-7.example.org:6379"}).address == "head-7.example.org:6379"
    for wrong in ("ray://127.0.0.1:10001", "127.0.0.1", "local"):
        with pytest.raises(ValueError, match="address"):
            RayTable.model_validate({"address": wrong})


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked at through /proc")
def test_an_interrupted_run_on_a_cluster_of_its_own_leaves_nobody_behind(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom curve.sweep.ray_jobs import STARTED, RayTable, run_on_ray\n"
        "from curve.sweep.workers import Job\n"
        f"folder, command = Path({str(tmp_path)!r}), [sys.executable, '-c', {FOLLOWER!r}]\n"
        "run_on_ray([Job(name, command, folder / name / 'cell.log', 1) for name in 'ab'], RayTable())"
    )
    logs = [tmp_path / name / "cell.log" for name in "ab"]

    def pids(log: Path) -> list[int]:
        return [int(line) for line in (log.read_text().split("\n")[:-1] if log.exists() else []) if line.isdigit()]

    run = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert wait_for(lambda: any(pids(log) for log in logs), 120)
        children = [pid for log in logs for pid in pids(log)]
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
        assert "KeyboardInterrupt" in said
        assert wait_for(lambda: not any(map(is_alive, children)))
    finally:
        run.kill()
        run.wait()
