"""Runs cells on a Ray cluster: one task a cell, each a process of its own on whichever node has room for it.

A task starts the same command that `workers` starts here, with the same log and the same number of threads, and
holds the writing end of a pipe, so that the process ends with the task, however that ends. When a node dies, Ray starts
its tasks again on another one, and each cell goes on from the last checkpoint in its run folder. So all nodes must see
the run folder, the project and its Python at the same paths; the lock of the run folder keeps two processes apart where
a node was only thought to be dead.

`pip install 'reward-ladder[ray]'`; no dashboard is started, and Ray's usage report is switched off.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from configs.command import PARENT_PIPE_VARIABLE
from configs.errors import UserError
from configs.loader import Table
from configs.terminal import progress_bar, say
from curve.sweep.workers import Job, reason_of

PROJECT = Path(__file__).parent.parent.parent
LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""How long cells may wait while no node that is alive could ever run one."""
CONNECT_SECONDS = 10.0
STARTED = "started by Ray on"
"""Begins a line of a cell's log, one each time it was started, with the node."""
GIVEN_ON = ("REWARDLADDER_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "PYTHONPATH")
"""Variables that a cell gets from this process wherever it runs; keys are not among them and belong on the nodes."""


class RayTable(Table):
    """Settings of `curve.executor: ray`; none of them changes a point.

    Attributes:
        address: `host:port` or `auto` of a running cluster; null starts one on this machine for the run, and ends it.
        num_cpus: CPUs a cell takes; its `policy.cpu_threads` where it is not given.
        num_gpus: GPUs a cell takes; a fraction lets cells share one.
        max_retries: how often a cell is started again after its node, or Ray's process on it, was lost; a cell that
            fails by itself is not.
        working_dir: the folder, on every node, that relative paths begin in; null: the one the run was started in.
    """

    address: str | None = Field(None, pattern=r"^(auto|[A-Za-z0-9._-]+:[0-9]{1,5})$")
    num_cpus: float | None = Field(None, gt=0)
    num_gpus: float = Field(0, ge=0)
    max_retries: int = Field(3, ge=0)
    working_dir: str | None = None


def run_on_ray(jobs: Sequence[Job], table: RayTable, what: str = "cells") -> dict[str, str]:
    """Run all jobs, as many at a time as the cluster has room for.

    Args:
        jobs, table: as their types say.
        what: what the jobs are, on the progress bar.

    Returns:
        The failed ones: name -> why.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or no node is large enough for a cell.
    """
    if not jobs:
        return {}
    with _cluster(table) as ray:
        needs = [_needs(job, table) for job in jobs]
        for need in needs:
            _refuse_too_large(ray.nodes(), need)
        folder = str(Path(table.working_dir or Path.cwd()))
        given = {name: os.environ[name] for name in GIVEN_ON if name in os.environ}
        waiting: dict[Any, str] = {}
        for job, need in zip(jobs, needs, strict=True):
            job.log.parent.mkdir(parents=True, exist_ok=True)
            task = ray.remote(run_cell).options(
                name=job.name, max_retries=table.max_retries, num_cpus=need["CPU"], num_gpus=need["GPU"]
            )
            waiting[task.remote(list(job.command), str(job.log), job.threads, folder, given)] = job.name
        logs = {job.name: job.log for job in jobs}
        try:
            return _gather(ray, waiting, logs, needs, table, what)
        finally:
            for task in waiting:
                ray.cancel(task)
            if waiting:  # time for the tasks to end their processes
                ray.wait(list(waiting), num_returns=len(waiting), timeout=CONNECT_SECONDS)


def run_cell(command: list[str], log_path: str, threads: int, folder: str, given: Mapping[str, str]) -> str | None:
    """What a task does on its node: run a cell to its end. Returns why it failed; None where it did not."""
    log = Path(folder, log_path)
    if not log.parent.is_dir():
        return f"node {socket.gethostname()} does not see {log.parent}; put runs_dir where all nodes see it"
    node = importlib.import_module("ray").get_runtime_context().get_node_id()
    with log.open("a") as stream:
        stream.write(f"{STARTED} {socket.gethostname()}, node {node}\n")
    begin = log.stat().st_size
    reading, writing = os.pipe()
    environment = {
        **os.environ,
        **given,
        "OMP_NUM_THREADS": str(threads),
        PARENT_PIPE_VARIABLE: str(reading),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), given.get("PYTHONPATH", "")])),
    }
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=(reading,),
            )
        except OSError as error:
            return f"node {socket.gethostname()} cannot start {command[0]} ({error.strerror})"
    try:
        while (status := process.poll()) is None:
            time.sleep(0.1)  # in short naps, because a cancelled task is interrupted between two instructions only
    finally:
        process.terminate()
        process.wait()
        os.close(reading)
        os.close(writing)
    return None if status == 0 else reason_of(log, status, begin)


def _gather(
    ray: Any,
    waiting: dict[Any, str],
    logs: Mapping[str, Path],
    needs: Sequence[Mapping[str, float]],
    table: RayTable,
    what: str,
) -> dict[str, str]:
    """Wait for every task, and take those that ended out of `waiting`."""
    failed: dict[str, str] = {}
    bar = progress_bar(len(waiting), what)
    n_nodes, hopeless_since = len(_alive(ray.nodes())), None
    try:
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=LOOK_SECONDS)
            for task in ended:
                name = waiting.pop(task)
                reason = _outcome(ray, task, table)
                bar.update()
                if reason is not None:
                    failed[name] = reason
                    say(f"{name}: failed ({reason}); its log is {logs[name]}")
            nodes = _alive(ray.nodes())
            if len(nodes) < n_nodes:
                say(f"Ray lost a node, {len(nodes)} are left; its cells go on elsewhere from their last checkpoints")
            n_nodes = len(nodes)
            bar.set_postfix_str(f"on {n_nodes} nodes with {sum(_has(node, 'CPU') for node in nodes):g} CPUs")
            if any(_fits(node, need) for node in nodes for need in needs):
                hopeless_since = None
            elif hopeless_since is None:
                hopeless_since = time.monotonic()
            elif time.monotonic() - hopeless_since > PATIENCE_SECONDS:
                raise UserError(
                    f"curve.ray: no node that could run a cell has been alive for {PATIENCE_SECONDS:g} s, and "
                    f"{len(waiting)} cells wait; bring nodes back and run the same command again, it goes on from here"
                )
    finally:
        bar.close()
    return failed


def _outcome(ray: Any, task: Any, table: RayTable) -> str | None:
    lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError)
    try:
        reason: str | None = ray.get(task)
    except lost:
        times = table.max_retries + 1
        return f"lost with its node or its worker {times} times (curve.ray.max_retries: {table.max_retries})"
    except ray.exceptions.RayError as error:
        return f"Ray could not run it: {str(error).strip().splitlines()[-1].strip()}"
    return reason


@contextmanager
def _cluster(table: RayTable) -> Iterator[Any]:
    """Ray, connected; what was started here is stopped at the end."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("curve.executor: ray is not installed; pip install 'reward-ladder[ray]', or choose local")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported
    ray: Any = importlib.import_module("ray")
    if table.address not in (None, "auto"):
        _refuse_silent_host(str(table.address))
    own: dict[str, Any] = {"include_dashboard": False} if table.address is None else {}
    try:
        ray.init(table.address or "local", log_to_driver=False, logging_level="error", **own)
    except (RuntimeError, ConnectionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        hint = "; start one with `ray start --head`, or leave curve.ray.address out" if table.address == "auto" else ""
        raise UserError(
            f"curve.ray.address: no Ray cluster at {table.address or 'this machine'} ({reason}){hint}"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _refuse_silent_host(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"curve.ray.address: nobody answers at {address} ({error}); `ray start --head` prints the address of a "
            "cluster, and null starts one on this machine"
        ) from None


def _needs(job: Job, table: RayTable) -> dict[str, float]:
    return {"CPU": float(job.threads) if table.num_cpus is None else table.num_cpus, "GPU": table.num_gpus}


def _refuse_too_large(nodes: Sequence[Mapping[str, Any]], need: Mapping[str, float]) -> None:
    alive = _alive(nodes)
    if not any(_fits(node, need) for node in alive):
        found = ", ".join(f"{_has(node, 'CPU'):g} CPUs and {_has(node, 'GPU'):g} GPUs" for node in alive)
        raise UserError(
            f"curve.ray: a cell asks for {need['CPU']:g} CPUs and {need['GPU']:g} GPUs, and no node has them (the "
            f"nodes: {found}); lower curve.ray.num_cpus or num_gpus, or add a node"
        )


def _alive(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [node for node in nodes if node["Alive"]]


def _has(node: Mapping[str, Any], kind: str) -> float:
    return float(node["Resources"].get(kind, 0))


def _fits(node: Mapping[str, Any], need: Mapping[str, float]) -> bool:
    return all(_has(node, kind) >= amount for kind, amount in need.items())
