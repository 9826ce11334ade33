"""Which cells several processes can make together (`accelerate launch … -m policy`), and what is refused.

    process     has the weights, a share of the step's prompts and all completions of each, their rewards and their part
                of the loss; a share of the dev and eval prompts
    main one    prepares, takes the lock, writes metrics, completions, checkpoints, answers and the manifest

Gradients are averaged before each optimizer step, advantages and figures are over the completions of all processes, and
noise belongs to a completion's place in the whole rollout, so a cell is what one process makes, up to rounding.
"""

from __future__ import annotations

import torch

from configs.errors import UserError
from policy.config import PolicyTable
from rm.processes import DDP, n_processes, sharding


def refuse_processes(table: PolicyTable) -> None:
    """Stop before any work where several processes would make another cell than one.

    Raises:
        UserError: the launcher's processes do not suit the cell; what to change is said.
    """
    processes = n_processes()
    if processes == 1 or table.reward == "untrained":
        return
    if table.prompts_per_step % processes:
        raise UserError(
            f"policy.prompts_per_step: {table.prompts_per_step} prompts cannot be shared by {processes} processes; "
            f"make it a multiple of {processes}"
        )
    pieces = table.gradient_accumulation_steps * table.num_mini_batches
    own = table.prompts_per_step * table.num_generations // processes
    if own % pieces:
        raise UserError(
            f"policy.gradient_accumulation_steps: the {own} completions of each of {processes} processes cannot be cut "
            f"into {pieces} pieces (gradient_accumulation_steps * num_mini_batches)"
        )
    sharded = sharding()
    if sharded is None:
        return
    if not torch.cuda.is_available():
        raise UserError(f"policy: {sharded} cuts weights up on GPUs, and none is here; launch with {DDP} instead")
    for wanted, what in (
        (table.algorithm == "ppo", "policy.algorithm ppo shares the policy's base with its critic"),
        (table.keep != "last", f"policy.keep {table.keep} keeps weights as they lie in memory"),
        (table.share_base, "policy.share_base lets the rung read the policy's base"),
        (table.load_in_4bit, "policy.load_in_4bit holds weights that are not cut up"),
    ):
        if wanted:
            raise UserError(f"{what}, and {sharded} cuts the weights up; launch with {DDP} instead")
