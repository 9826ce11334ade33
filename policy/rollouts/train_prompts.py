"""Which training prompts a cell learns from: all, some by number or by name, or those that a wrong label suits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from configs.errors import UserError
from configs.keyed import keyed_uniform
from policy.config import PolicyTable
from policy.rewards.votes import Label
from tasks.records import Prompt


def choose_prompts(
    prompts: Sequence[Prompt], table: PolicyTable, seed: int, labels: Mapping[str, Label]
) -> tuple[list[Prompt], dict[str, int]]:
    """The training prompts of a cell in their order, and counts of what was left out and why.

    Args:
        prompts: all that are short enough.
        seed: of the policy, which keys the choice of `n_train_prompts`.
        labels: by prompt; read for `incorrect_labels: paper` alone.

    Raises:
        UserError: a named prompt does not exist, or none is left.
    """
    kept, counts = list(prompts), {"all": len(prompts)}
    if "incorrect" in table.label_kinds and table.incorrect_labels == "paper":
        wrong = [prompt for prompt in kept if labels[prompt.prompt_id].majority_wrong]
        counts["majority_right_left_out"] = sum(labels[p.prompt_id].majority_wrong is False for p in kept)
        counts["majority_unknown_left_out"] = len(kept) - len(wrong) - counts["majority_right_left_out"]
        kept = wrong
        if not kept:
            raise UserError(
                "policy.reward incorrect: the base's majority answer is wrong for none of the training prompts; use "
                "policy.incorrect_labels=truly_wrong"
            )
    if table.train_prompts is not None:
        kept = _named(kept, table.train_prompts)
    if table.n_train_prompts is not None:
        if table.n_train_prompts > len(kept):
            raise UserError(f"policy.n_train_prompts: {table.n_train_prompts} asked for, and there are {len(kept)}")
        order = sorted(kept, key=lambda prompt: keyed_uniform(seed, "train prompts", prompt.prompt_id))
        chosen = {prompt.prompt_id for prompt in order[: table.n_train_prompts]}
        kept = [prompt for prompt in kept if prompt.prompt_id in chosen]
    return kept, counts | {"used": len(kept)}


def repeated_to_fill(prompts: Sequence[Prompt], table: PolicyTable) -> list[Prompt]:
    """Chosen prompts often enough for a step; all prompts, and more than a step's, stand once."""
    if table.n_train_prompts is None and table.train_prompts is None:
        return list(prompts)
    return list(prompts) * -(-table.prompts_per_step // len(prompts))


def _named(prompts: Sequence[Prompt], names: Sequence[str]) -> list[Prompt]:
    known = {prompt.prompt_id: prompt for prompt in prompts}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; the first is {next(iter(known))}"
            raise UserError(f"policy.train_prompts: {name!r} is not a training prompt of this cell{hint}")
    wanted = set(names)
    return [prompt for prompt in prompts if prompt.prompt_id in wanted]
