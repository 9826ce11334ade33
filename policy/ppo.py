"""PPO (arXiv 1707.06347) with a critic, on the rollouts and the policy loss of TRL's GRPOTrainer.

TRL's loss takes advantages of shape (B, T); the critic makes them (`updates.advantages`) and learns in a backward pass
of its own after the policy's. Overridden are `_generate_and_score_completions` (inherited), `_calculate_rewards`,
`_prepare_inputs` and `training_step`, whose signatures have been stable since TRL 1.0; `_compute_loss` is TRL's own.
`tests/test_ppo.py` fails when one of them, or an output key that is read here, changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from policy.alarms.callback import FACTOR_KEY
from policy.callbacks import checkpoint_folder
from policy.config import PolicyTable
from policy.grpo import LadderGRPOTrainer
from policy.updates.advantages import generalized_advantages, moments, token_rewards, value_loss, whitened
from policy.updates.critic import Critic
from policy.updates.packed_update import average_gradients
from rm.processes import gathered, is_main


class LadderPPOTrainer(LadderGRPOTrainer):
    """PPO: `add_critic` before training."""

    table: PolicyTable
    critic: Critic
    _rewards: Tensor
    _piece: dict[str, Any]

    def add_critic(self, table: PolicyTable, seed: int) -> None:
        """Give the trainer its critic. A penalty in the reward needs TRL's reference model, but no term in the loss."""
        self.table = table
        self.resting_steps = table.critic_warmup_steps
        self.critic = Critic(self.accelerator.unwrap_model(self.model), table, seed)
        if table.kl_coef:
            self.beta = 0.0

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        in_loss = self.beta
        self.beta = self.table.kl_coef or in_loss  # TRL computes the reference's log-probabilities where beta is not 0
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self.beta = in_loss

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        own = slice(self.accelerator.process_index * len(prompts), (self.accelerator.process_index + 1) * len(prompts))
        self._rewards = rewards[own, 0]
        return rewards

    def _finish_rollout(self, output: dict[str, Any]) -> Tensor:
        """Replace the advantages (B,) by (B, T), and add values, returns and the mask of tokens that teach.

        A completion without a reward (None), or masked because it was cut, teaches neither policy nor critic.
        """
        table, mask = self.table, output["completion_mask"]
        mask = mask * (~self._rewards.isnan()).unsqueeze(1).to(mask.dtype)
        rewards = self._rewards - table.missing_eos_penalty * self._cut(output)
        values = self._rollout_values(output)
        kl = self._log_ratio(output) if table.kl_coef else None
        by_token = token_rewards(rewards, mask, kl, table.kl_coef)
        advantages, returns = generalized_advantages(by_token, values, mask, table.gamma, table.lam)
        found = self.accelerator.reduce(moments(advantages, mask), reduction="sum")
        if table.whiten_advantages:
            advantages = whitened(advantages, mask, found)
        output |= {"advantages": advantages, "values": values, "returns": returns, "value_mask": mask}
        output["num_value_items"] = found[0].float()
        self._log_values(values, returns, mask)
        return advantages.sum(1) / mask.sum(1).clamp(min=1)

    def _cut(self, output: dict[str, Any]) -> Tensor:
        """(B,): 1 where a completion with tokens does not end in an end token."""
        lengths = output["completion_mask"].sum(1).long()
        last = output["completion_ids"].gather(1, (lengths - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
        ended = torch.isin(last, torch.tensor(self.eos_token_ids, device=last.device))
        return ((lengths > 0) & ~ended).float()

    def _log_ratio(self, output: dict[str, Any]) -> Tensor:
        """(B, T): log-probability under the policy less that under the reference."""
        old = output.get("old_per_token_logps")
        if old is None:
            with torch.no_grad():
                old = self._get_per_token_logps_and_entropies(
                    self.model,
                    torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
                    torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
                    output["completion_ids"].size(1),
                    batch_size=self.args.per_device_train_batch_size,
                )[0]
        ratio: Tensor = old - output["ref_per_token_logps"]
        mask = output["completion_mask"]
        self._metrics["train"]["kl"].append(self._mean_over_processes((ratio * mask).sum(), mask.sum()))
        return ratio

    def _mean_over_processes(self, total: Tensor, count: Tensor) -> float:
        """The mean over the tokens of all processes, from the sum and the number of this one's."""
        sums = self.accelerator.reduce(torch.stack([total.float(), count.float()]), reduction="sum")
        return float(sums[0] / sums[1].clamp(min=1))

    def _values(self, inputs: dict[str, Any]) -> Tensor:
        """(B, T): the critic's values of a piece of a rollout."""
        if self.packed:
            return self.packed_values(self.critic, inputs)
        with self.accelerator.autocast():
            return self.critic.values(
                inputs["prompt_ids"], inputs["prompt_mask"], inputs["completion_ids"], inputs["completion_mask"]
            )

    def _rollout_values(self, output: dict[str, Any]) -> Tensor:
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        size = self.args.per_device_train_batch_size
        with torch.no_grad(), self.critic.active():
            pieces = [
                self._values({name: output[name][start : start + size] for name in names})
                for start in range(0, output["completion_ids"].size(0), size)
            ]
        return torch.cat(pieces)

    def _log_values(self, values: Tensor, returns: Tensor, mask: Tensor) -> None:
        logged = self._metrics["train"]
        inside = mask.bool()
        if self.num_generations == 1:
            logged.pop("frac_reward_zero_std", None)  # TRL calls a group of one a group without spread
        values, returns = (torch.cat(gathered([each[inside].cpu()])) for each in (values, returns))
        if len(values):
            logged["critic/value_mean"].append(float(values.mean()))
            logged["critic/return_mean"].append(float(returns.mean()))
            spread = float(returns.var(unbiased=False))
            left = float((returns - values).var(unbiased=False))
            if spread > 1e-12:
                logged["critic/explained_variance"].append(1 - left / spread)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        self._piece = super()._prepare_inputs(generation_batch)
        return self._piece

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any) -> Tensor:
        """The policy's piece of an update, then the critic's; the policy rests while the critic warms up."""
        if self.state.global_step < self.table.critic_warmup_steps:
            model.train()
            self._prepare_inputs(inputs)
            self._step += 1
            loss = torch.zeros((), device=self.accelerator.device)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._critic_piece(self._piece)
        return loss

    def _critic_piece(self, inputs: dict[str, Any]) -> None:
        mask = inputs["value_mask"]
        pieces = self.current_gradient_accumulation_steps / self.args.steps_per_generation
        n_tokens = inputs["num_value_items"] * pieces / self.accelerator.num_processes
        with self.critic.active():
            loss, n_clipped = value_loss(
                self._values(inputs), inputs["values"], inputs["returns"], mask, n_tokens, self.table.cliprange_value
            )
            loss.backward()  # type: ignore[no-untyped-call]
        logged = self._metrics["train"]
        mean_loss = self.accelerator.reduce(loss.detach(), reduction="mean")
        logged["critic/loss"].append(float(mean_loss) * self.current_gradient_accumulation_steps)
        logged["critic/clip_ratio"].append(self._mean_over_processes(n_clipped, mask.sum()))
        if self.accelerator.sync_gradients:
            if self.accelerator.num_processes > 1:
                average_gradients(parameter for _, parameter in self.critic.named_parameters())
            lowered = self.optimizer.param_groups[0].get(FACTOR_KEY, 1.0)
            logged["critic/grad_norm"].append(self.critic.step(lowered))


class CriticCheckpoint(TrainerCallback):
    """Saves the critic into every checkpoint of the policy."""

    def __init__(self, critic: Critic) -> None:
        self.critic = critic

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Beside the policy's weights; the checkpoint counts only when it is marked complete, later."""
        if is_main():
            self.critic.save(checkpoint_folder(args, state))
