"""`rewardladder serve RUNG port=8000`: a rung behind HTTP, with micro-batching.

    POST /score        {"conversations": [{"messages": […]} or {"prompt": …, "response": …}, …], "as_is": false}
                       -> {"rung", "logits", "scores", "rewards", "units"}
    POST /get_reward   OpenRLHF's remote reward: {"query": […], "prompts": […], "labels": […]}
                       -> {"rewards", "scores", "extra_logs": {"logit": […]}}; a policy's reward with all of its parts
                       where the ladder was calibrated
    GET  /calibration  {"rung", "rung_sha256", "calibrator", "task", …}, by which adapters compute rewards themselves
    GET  /health       {"ok", "rung", "accuracy", "chat_template_sha256", "queue", …}

A request is answered in full or refused with one line, {"error": {"code", "message"}}: 4xx for what the client can
mend, 503 while the queue is full or the server drains. SIGTERM drains: what was accepted is answered, then the process
ends.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import uvicorn
from pydantic import Field
from starlette.applications import Starlette

from configs.errors import UserError
from configs.loader import Table
from configs.terminal import say

if TYPE_CHECKING:
    from rm.serving.file_rewards import Calibrate
    from rm.serving.gate import Gate
    from rm.serving.loaded_rungs import LoadedRung
    from rm.serving.rewarding import Rewarding

DISTRIBUTION = "reward-ladder"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MIB = 1 << 20


class ServeTable(Table):
    """Settings of the command `serve`.

    Attributes:
        port: where to listen; 0 takes a free one and prints it.
        host: the address to listen at; by default only this machine can reach it.
        api_key_env: name of the environment variable with the key that requests must bring, as `Authorization: Bearer`;
            `/health` needs none.
        response_format: how /get_reward reads a policy's completion, where a calibrator is there: as the run's `task`
            does; `tagged` (anything but <think> and <answer> tags is malformed); `plain` (all of it is the answer);
            `any` (tagged where there are tags). Where none is given: `task` in a run, else `any`.
        policy: folder of the tokenizer whose chat template wrote OpenRLHF's prompts; the rung's own by default.
        max_body_bytes: a larger request is refused.
        max_conversations: most answers in a request.
        max_length: a longer row is refused, in tokens; the rung's context by default.
        max_requests: most requests at a time, counted when their bodies are whole; more get 503.
        max_bodies: most bodies that are received at a time; more get 503.
        max_queue_tokens: most tokens that wait for the model; more get 503.
        batch_tokens: tokens that go through the model at once.
        wait_ms: how long a first request waits for others to come along.
        body_timeout_s: how long a client may take to send a body.
        dtype: type of the body of the model; its head is always float32.
        cpu_threads: threads on a CPU.
    """

    port: int = Field(ge=0, le=65535)
    host: str = "127.0.0.1"
    api_key_env: str | None = None
    response_format: Literal["task", "tagged", "plain", "any"] | None = None
    policy: str | None = None
    max_body_bytes: int = Field(4 * MIB, ge=1024)
    max_conversations: int = Field(1024, ge=1)
    max_length: int | None = Field(None, ge=8)
    max_requests: int = Field(512, ge=1)
    max_bodies: int = Field(768, ge=1)
    max_queue_tokens: int = Field(1 << 21, ge=64)
    batch_tokens: int = Field(16384, ge=64)
    wait_ms: float = Field(3.0, ge=0, le=1000)
    body_timeout_s: float = Field(30.0, gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    cpu_threads: int = Field(1, ge=1, le=1024)


class DrainingServer(uvicorn.Server):
    """A server that, told to end, refuses what is new, answers what was accepted, and ends well.

    A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self.gate = gate

    def handle_exit(self, sig: int, frame: object) -> None:
        """Called on SIGTERM and SIGINT."""
        if self.gate.draining:
            self.should_exit = self.force_exit = True
        self.gate.drain()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if self.gate.draining:
            self.gate.hurry()
        self.should_exit = self.should_exit or self.gate.drained
        return await super().on_tick(counter)


def run(
    paths: Sequence[str], table: ServeTable, calibrate: Calibrate | None = None, rewarding: Rewarding | None = None
) -> None:
    """Serve one rung until SIGTERM or SIGINT.

    Args:
        paths: the rung's folder.
        table: the settings.
        calibrate: rewards of (logits, texts of the answers); without it, rewards are scores.
        rewarding: the rewards of /get_reward; without it, `calibrate`.

    Raises:
        UserError: the rung cannot be loaded, the key is not set, or the address is not free.
    """
    if len(paths) != 1:
        raise UserError(f"serve needs one rung folder, found {len(paths)}")
    key = _api_key(table.api_key_env)
    listening = _listen(table.host, table.port)
    with listening:
        from rm.serving.loaded_rungs import load_rungs
        from tasks.torch_setup import prepare_torch

        prepare_torch(table.cpu_threads)
        rung = load_rungs([Path(paths[0])], table.batch_tokens, table.dtype)[0]
        app = build_app(rung, table, calibrate, key, rewarding)
        address = f"[{table.host}]" if ":" in table.host else table.host
        if table.host not in LOOPBACK and key is None:
            say(f"anyone who reaches {table.host} can ask this server; name a key with api_key_env=VARIABLE")
        say(f"rung {rung.name} at http://{address}:{listening.getsockname()[1]} (/score, /get_reward, /health)")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", server_header=False, backlog=2048
        )
        gate: Gate = app.state.gate
        DrainingServer(config, gate).run(sockets=[listening])
        app.state.batcher.close()
        say(f"drained: {gate.answered:,} requests answered, {gate.refused:,} refused")


def build_app(
    rung: LoadedRung,
    limits: ServeTable,
    calibrate: Calibrate | None = None,
    api_key: str | None = None,
    rewarding: Rewarding | None = None,
) -> Starlette:
    """The application around a loaded rung; its `state` holds the gate and the batcher.

    Raises:
        UserError: the rung cannot score, a limit is above its context, or the policy's tokenizer cannot be loaded.
    """
    from rm.serving.endpoints import Endpoints
    from tasks.base_folder import load_tokenizer

    if limits.max_length is not None and limits.max_length > rung.context:
        raise UserError(
            f"max_length: {limits.max_length} is more than the context of {rung.name}, {rung.context} tokens"
        )
    rung.logits([rung.sample()])  # what is wrong with a rung is told before anyone asks
    policy = rung.scorer.tokenizer if limits.policy is None else load_tokenizer(limits.policy)
    if policy.chat_template is None:
        raise UserError(f"policy: the tokenizer {limits.policy!r} has no chat template")
    return Endpoints(rung, limits, policy, calibrate, api_key, _version(), rewarding).application()


def _version() -> str | None:
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not re.fullmatch("[A-Z_][A-Z0-9_]*", variable):  # perhaps the key itself, which must not be shown
        raise UserError("api_key_env takes the NAME of an environment variable (A-Z, 0-9 and _), not the key itself")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"api_key_env: the environment variable {variable} is not set, and requests must bring its key")
    return key


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # The protocol is named because asyncio switches Nagle's algorithm off only for sockets that say TCP.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        raise UserError(
            f"{host}, port {port}: cannot listen there ({error.strerror or error}); choose another"
        ) from None
    return listening
