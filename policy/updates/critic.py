"""The critic of PPO: a body, a value head in float32, an optimizer of its own, and their state in a checkpoint.

Where the policy is LoRA, the critic is a second adapter on the same base, which neither moves. Where the policy is
trained whole, a critic on its body would be pulled along by every update of the policy, so it gets a copy of the body.
The head and the copy stand outside the policy's module tree: whoever walks the policy's parameters (vLLM's
synchronisation, the checkpoint of the policy, the policy's optimizer) never meets them, and an adapter's names all hold
`lora_`, which vLLM's synchronisation passes over.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, get_scheduler

from configs.errors import UserError
from configs.records import read_json, write_json
from policy.config import PolicyTable

CRITIC_ADAPTER = "critic"
STATE_FOLDER = "value"
STATE_FILE = "critic.safetensors"
RECORD_FILE = "critic.json"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Critic:
    """Values of the states before each token of a completion, and how they are learned.

    Args:
        model: the policy; a `PeftModel` shares its base with the critic, any other model is copied.
        table: `critic_learning_rate`, `critic_max_grad_norm` and the schedule.
        seed: draws the adapter's first matrices; the head begins at 0, so that every value does.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, table: PolicyTable, seed: int) -> None:
        self.peft = model if isinstance(model, PeftModel) else None
        if self.peft is None:
            self.body: Any = copy.deepcopy(model.base_model).float().requires_grad_(True)
            if table.gradient_checkpointing:
                self.body.train()  # layers are checkpointed in this mode alone
                enable = getattr(self.body, "activation_checkpointing_enable", None)  # the older name goes with v6
                (enable or self.body.gradient_checkpointing_enable)()
        else:
            self.policy_adapter = self.peft.active_adapter
            with torch.random.fork_rng():
                torch.manual_seed(seed % 2**63)
                self.peft.add_adapter(CRITIC_ADAPTER, copy.deepcopy(self.peft.peft_config[self.policy_adapter]))
            self.peft.set_adapter(self.policy_adapter)
            self.body = self.peft.get_base_model().base_model
        config = model.config.get_text_config()
        self.head = nn.Linear(config.hidden_size, 1, dtype=torch.float32, device=model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.max_grad_norm = table.critic_max_grad_norm
        self.learning_rate = table.value_learning_rate
        self.optimizer = torch.optim.AdamW(
            [p for _, p in self.named_parameters()], lr=self.learning_rate, weight_decay=0
        )
        schedule = get_scheduler(table.lr_scheduler_type, self.optimizer, table.warmup_steps, table.max_steps)
        self._factor = schedule.lr_lambdas[0]
        self.updates = 0

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All that the critic learns, in a fixed order."""
        if self.peft is None:
            own = [(f"body.{name}", parameter) for name, parameter in self.body.named_parameters()]
        else:
            marker = f".{CRITIC_ADAPTER}."
            own = [(name, parameter) for name, parameter in self.peft.named_parameters() if marker in name]
        return own + [(f"head.{name}", parameter) for name, parameter in self.head.named_parameters()]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The critic's adapter is the active one inside, and the policy's again outside.

        Forward and backward both belong inside: gradient checkpointing computes anew with whichever adapter is active.
        """
        if self.peft is None:
            yield
            return
        self.peft.set_adapter(CRITIC_ADAPTER)
        try:
            yield
        finally:
            self.peft.set_adapter(self.policy_adapter)

    def values(
        self, prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
    ) -> Tensor:
        """(B, T) in float32: the value before each of a completion's T tokens. Prompts are padded at the left."""
        mask = torch.cat([prompt_mask, completion_mask], dim=1)
        hidden = self.body(
            input_ids=torch.cat([prompt_ids, completion_ids], dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        return self.value_of(hidden[:, prompt_ids.size(1) - 1 : -1])

    def value_of(self, hidden: Tensor) -> Tensor:
        """Values (...) of hidden states (..., H), in float32 whatever the body computes in."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.float()).squeeze(-1)

    def step(self, rate_factor: float = 1.0) -> float:
        """Clip the gradients, update, clear them. Returns their norm before clipping.

        Args:
            rate_factor: what roll-backs have multiplied the learning rate by.

        Raises:
            UserError: the norm is no number.
        """
        parameters = [parameter for _, parameter in self.named_parameters()]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        if norm != norm or norm == float("inf"):
            raise UserError(
                f"policy: the critic's gradient is {norm} after {self.updates} updates; lower "
                f"policy.critic_learning_rate ({self.learning_rate:g})"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._factor(self.updates) * rate_factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return norm

    def save(self, checkpoint: Path) -> None:
        """Write weights, optimizer state and schedule into `checkpoint/value/`."""
        folder = checkpoint / STATE_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.named_parameters():
            tensors[f"weight/{name}"] = parameter.detach()
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"{kind}/{name}": state[kind] for kind in _MOMENTS if kind in state}
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, folder / STATE_FILE)
        write_json(folder / RECORD_FILE, {"updates": self.updates})

    def load(self, checkpoint: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            UserError: the checkpoint holds no critic, or one of another shape.
        """
        path = checkpoint / STATE_FOLDER / STATE_FILE
        if not path.exists():
            raise UserError(f"{checkpoint}: holds no critic ({STATE_FOLDER}/{STATE_FILE}); delete the checkpoint")
        tensors = load_file(path)
        named = self.named_parameters()
        wanted = {f"weight/{name}": tuple(parameter.shape) for name, parameter in named}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith("weight/")}
        if wanted != found:
            odd = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
            raise UserError(f"{path}: is the critic of another policy ({odd} differs); delete {checkpoint}")
        for name, parameter in named:
            with torch.no_grad():
                parameter.copy_(tensors[f"weight/{name}"])
            kinds = [kind for kind in _MOMENTS if f"{kind}/{name}" in tensors]
            if kinds:
                self.optimizer.state[parameter] = {
                    kind: tensors[f"{kind}/{name}"].to("cpu" if kind == "step" else parameter.device) for kind in kinds
                }
        self.updates = int(read_json(path.parent / RECORD_FILE)["updates"])

    def remove(self) -> None:
        """Take the critic's adapter off the policy, which can then be saved alone."""
        if self.peft is not None:
            self.peft.delete_adapter(CRITIC_ADAPTER)
