"""The `policy.sampler` table: what draws the rollouts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field, model_validator

from configs.errors import UserError
from configs.loader import Table


class SamplerTable(Table):
    """Settings of the sampler; fields of TRL keep their names.

    Attributes:
        engine: `generate`, Transformers in this process (the way on a CPU), or `vllm` (the extra `vllm`; a GPU).
        vllm_mode: `colocate` shares this GPU with training; `server` asks a running `vllm serve`.
        vllm_gpu_memory_utilization: share of the GPU's memory that a colocated vLLM may take, weights included.
        vllm_enable_sleep_mode: a colocated vLLM gives its memory back while the policy learns.
        vllm_server_base_url: of the server, for example `http://127.0.0.1:8000`.
        vllm_max_model_length: longest prompt and completion together, in tokens; the model's own where not given.
        vllm_importance_sampling_correction: weigh tokens by trainer over sampler probability (TRL's truncated ratio).
    """

    engine: Literal["generate", "vllm"] = "generate"
    vllm_mode: Literal["colocate", "server"] = "colocate"
    vllm_gpu_memory_utilization: float = Field(0.3, gt=0, lt=1)
    vllm_enable_sleep_mode: bool = True
    vllm_server_base_url: str | None = Field(None, pattern=r"^https?://[^\s/]+")
    vllm_max_model_length: int | None = Field(None, ge=8)
    vllm_importance_sampling_correction: bool = True

    @model_validator(mode="after")
    def _means_something(self) -> SamplerTable:
        given = self.model_fields_set - {"engine"}
        if self.engine == "generate" and given:
            raise ValueError(f"{', '.join(sorted(given))} belong to engine: vllm, and engine is generate")
        if self.vllm_mode == "server" and self.vllm_server_base_url is None:
            raise ValueError("vllm_mode: server needs vllm_server_base_url, for example http://127.0.0.1:8000")
        if self.vllm_mode == "colocate" and self.vllm_server_base_url is not None:
            raise ValueError("vllm_server_base_url belongs to vllm_mode: server")
        return self

    def trl_settings(self) -> dict[str, Any]:
        """What TRL's configuration is given.

        Raises:
            UserError: vLLM is asked for and is not installed.
        """
        if self.engine == "generate":
            return {}
        if find_spec("vllm") is None:
            raise UserError("policy.sampler.engine: vllm is not installed; pip install 'reward-ladder[vllm]' on a GPU")
        kept = self.model_dump(exclude={"engine"}, exclude_none=True)
        if self.vllm_mode == "server":
            kept = {
                key: kept[key] for key in kept if key not in ("vllm_gpu_memory_utilization", "vllm_enable_sleep_mode")
            }
        return {"use_vllm": True, **kept}
