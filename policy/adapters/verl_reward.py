"""The calibrated reward inside verl (0.9): a file for `reward.custom_reward_function.path`.

    reward.custom_reward_function.path=$(python -m policy.adapters.verl_reward)
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.settings=reward.yaml    (`policy.adapters.settings`, or its keys)

verl's reward managers (naive, dapo, …) await it for one completion at a time; completions that arrive together go to
the rung together. The prompt is not told: it stands in the data's `extra_info`, as `rewardladder export-prompts` writes
it. The package must be importable in verl's environment; torch is imported only where a rung is loaded here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from configs.errors import UserError
from policy.adapters.core import Sample
from policy.adapters.opened import opened_reward, plain

OF_VERL = frozenset({"reward_router_address", "reward_model_tokenizer"})
"""What verl adds where it serves a reward model itself; ours is served by `rewardladder serve`."""


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **reward_kwargs: Any,
) -> dict[str, float]:
    """The reward of one completion under `score`, and its parts, as plain numbers (`Rewarded.numbers`).

    Args:
        data_source: of the row; not read.
        solution_str: the completion, decoded without special tokens.
        ground_truth: of the row's `reward_model`.
        extra_info: of the row; `messages` is the chat, and prompt_id and meta are read, too.
        reward_kwargs: the settings (`policy.adapters.settings.AdapterTable`), or `settings`, a YAML file with them.

    Raises:
        UserError: a setting is wrong, the row has no chat, or the rung's server cannot be reached; verl then stops.
    """
    settings = {key: value for key, value in reward_kwargs.items() if key not in OF_VERL}
    info = extra_info or {}
    if info.get("messages") is None:
        raise UserError(
            "verl's row has no extra_info.messages, and without the chat a reward model cannot read its answer; make "
            "the data by `rewardladder export-prompts`"
        )
    opened = await asyncio.to_thread(opened_reward, settings, "reward.custom_reward_function.reward_kwargs")
    meta = {key: info[key] for key in ("prompt_id", "messages", "meta", "sample", "step") if info.get(key) is not None}
    sample = Sample(plain(meta["messages"]), solution_str, ground_truth, meta)
    found = await asyncio.wrap_future(opened.batcher.submit(sample))
    return found.numbers(opened.table.missing_reward)


if __name__ == "__main__":
    print(__file__)
