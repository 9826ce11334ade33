"""What an adapter is told: which reward, of which rung, read how, and what a missing reward becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from configs.errors import UserError
from configs.loader import Experiment, Table, parse_yaml
from policy.config import PolicyTable

SETTINGS_VARIABLE = "REWARDLADDER_REWARD"
"""The environment variable that names the YAML file of settings, for trainers that hand over none."""

Format = Literal["task", "tagged", "plain", "any"]
Reward = Literal[
    "rpr",
    "raw",
    "rpr_ordered",
    "constant",
    "length_bonus",
    "random_phrases",
    "variance_matched",
    "noise_corrected",
    "rpr_only",
    "gold",
    "random",
    "format",
    "graph",
]
"""The rewards of one completion by itself; not those that read a prompt's other completions, or count tokens."""


class AdapterTable(Table):
    """Settings of a reward outside our own trainer.

    Attributes:
        run: a run's folder, for example runs/demo: its task, its rungs, its calibrators.
        reward: as `policy.reward`; `rpr` is the rule of the run's calibration.
        rung: the rung of the run, for example 65.
        rung_folder: the rung's folder, where there is no run.
        calibrator: the folder with its calibration.json, where there is no run, or another than the run's.
        response_format: how a completion is read. `task`: as the run's task reads it; `tagged`: <think> and <answer>
            tags, anything else is malformed; `plain`: all of it is the answer; `any`: tagged where there are tags, else
            plain.
        server: address of a `rewardladder serve` that gives the logits. Without run and rung_folder it also says what
            its calibrator and its task are.
        api_key_env: name of the environment variable with the server's key.
        policy: further settings of the reward, as in the `policy` table of an experiment: noise, random_rate, graph.
        seed: keys what is drawn.
        missing_reward: the number that a trainer is given where there is no reward; it is counted as `missing`.
        tokenizer: OpenRLHF's .py alone: folder of the policy's tokenizer, by which a response is cut out of its query.
        batch_size: most completions that go to the rung at once.
        wait_ms: how long a first completion waits for others to come along.
        timeout_s: how long one request to the server may take.
        patience_s: how long a server that is away or busy is asked again.
        cpu_threads: threads of a rung that is loaded here on a CPU.
    """

    run: Path | None = None
    reward: Reward = "rpr"
    rung: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,40}$")
    rung_folder: Path | None = None
    calibrator: Path | None = None
    response_format: Format = "task"
    server: str | None = None
    api_key_env: str | None = None
    policy: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(0, ge=0)
    missing_reward: float = 0.0
    tokenizer: str | None = None
    batch_size: int = Field(256, ge=1)
    wait_ms: float = Field(5.0, ge=0, le=1000)
    timeout_s: float = Field(300.0, gt=0)
    patience_s: float = Field(60.0, ge=0)
    cpu_threads: int = Field(1, ge=1, le=1024)

    @field_validator("rung", mode="before")
    @classmethod
    def _rung_as_text(cls, value: Any) -> Any:
        """YAML reads `rung: 65` as a number."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("server")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", value):  # perhaps with a key
            raise ValueError(
                "must look like http://127.0.0.1:8000, without a name, a password or a query; a key goes by api_key_env"
            )
        return value

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", value):  # perhaps the key itself
            raise ValueError("takes the NAME of an environment variable (A-Z, 0-9 and _), not the key itself")
        return value

    @model_validator(mode="after")
    def _hangs_together(self) -> AdapterTable:
        if self.run is not None and self.rung_folder is not None:
            raise ValueError("run and rung_folder both say which rung; remove one of the two")
        if self.run is None and self.rung is not None:
            raise ValueError("rung names a rung of a run; give run, or rung_folder in the place of rung")
        if self.calibrator is not None and self.run is None and self.rung_folder is None:
            raise ValueError("a calibrator belongs to a rung; give run or rung_folder, too, or leave it to the server")
        if self.run is None and self.rung_folder is None and self.server is None:
            raise ValueError("where the reward comes from is missing; give run, rung_folder or server")
        if self.api_key_env is not None and self.server is None:
            raise ValueError("api_key_env is of a server, and there is none")
        return self

    @property
    def of_server(self) -> bool:
        """Whether the server says what its calibrator and task are."""
        return self.run is None and self.rung_folder is None

    def policy_table(self, rung: str | None) -> PolicyTable:
        """The reward as our own trainer knows it.

        Args:
            rung: the name of the rung; a reward that reads none leaves it out.

        Raises:
            UserError: settings of the reward that mean nothing.
        """
        from policy.config import NEEDS_RUNG

        given = dict(self.policy) | {"reward": self.reward, "seed": self.seed}
        if self.reward in NEEDS_RUNG:
            given["rung"] = rung
        return Experiment("the adapter's settings", "", 0, Path(), {"policy": given}).table("policy", PolicyTable)


def adapter_table(settings: Mapping[str, Any], source: str) -> AdapterTable:
    """The table of settings, of which `settings` may name a YAML file with them, whose values the others replace.

    Raises:
        UserError: an unknown key, a value that is not allowed, or a file that cannot be read.
    """
    given = dict(settings)
    named = given.pop("settings", None)
    if named is not None:
        source = str(named)
        given = _read(Path(str(named)).expanduser()) | given
    try:
        AdapterTable.model_validate(given)
    except ValidationError as error:
        shown = [
            problem for problem in error.errors() if problem["loc"] and problem["loc"][0] in ("server", "api_key_env")
        ]
        if shown and shown[0]["type"] != "value_error":
            raise UserError(f"{source}: {shown[0]['loc'][0]} must be a text") from None
    return Experiment(source, "", 0, Path(), {"": given}).table("", AdapterTable)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception:  # noqa: BLE001 - whatever PyYAML says of it; its text may hold a key
        raise UserError(f"{path}: not readable as YAML") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: a table of settings is needed, for example `server: http://127.0.0.1:8000`")
    return found
