"""The calibrated reward inside OpenRLHF (0.11): a file for `--reward.remote_url`.

    REWARDLADDER_REWARD=reward.yaml … --reward.remote_url $(python -m policy.adapters.openrlhf_reward)

OpenRLHF loads the file and calls `reward_func` from threads with lists of one; completions that arrive together go to
the rung together. Settings stand in the YAML file that REWARDLADDER_REWARD names (policy.adapters.settings), with
`tokenizer`, the policy's. The other way is HTTP: `--reward.remote_url http://…/get_reward` of a `rewardladder serve`.

OpenRLHF catches whatever a reward raises, logs it and goes on without a reward, until it stops at a missing reward
model; the line that this file prints before (`rewards: …`) says what was wrong.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from configs.errors import UserError
from configs.terminal import say
from policy.adapters.core import Sample
from policy.adapters.label import meta_of_label
from policy.adapters.opened import Opened, opened_reward
from policy.adapters.settings import SETTINGS_VARIABLE
from rm.serving.chat_form import ChatForm
from tasks.preference.fields import RowProblem

_forms: dict[str, ChatForm] = {}
_reading = threading.Lock()
"""Tokenizers are not safe to call from several threads."""


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any) -> dict[str, Any]:
    """Rewards of completions, as OpenRLHF wants them.

    Args:
        queries: prompt and response as one text, with all special tokens.
        prompts: the templated prompts alone.
        labels: of the data; what `rewardladder export-prompts` wrote into `label` says which chat was asked.

    Returns:
        `rewards` and `scores` (0..1, for dynamic filtering) as tensors of shape (N,), and `extra_logs`, one tensor of
        shape (N,) for each part.

    Raises:
        UserError: settings, a query or the server are wrong; printed, too.
    """
    import torch

    try:
        found = _numbers(queries, prompts, labels)
    except UserError as error:
        say(f"rewards: {error}")
        raise
    rewards = torch.tensor([one["score"] for one in found])
    scores = torch.tensor([one.get("rung_score", one["score"]) for one in found])
    parts = {name: torch.tensor([one[name] for one in found]) for name in found[0] if name != "score"}
    return {"rewards": rewards, "scores": scores, "extra_logs": parts}


def _numbers(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> list[dict[str, float]]:
    named = os.environ.get(SETTINGS_VARIABLE, "")
    if not named:
        raise UserError(f"{SETTINGS_VARIABLE} is not set; it names the YAML file with the reward's settings")
    opened = opened_reward({"settings": named}, SETTINGS_VARIABLE)
    samples = [
        _sample(opened, query, prompt, label) for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    promises = [opened.batcher.submit(sample) for sample in samples]
    return [promise.result().numbers(opened.table.missing_reward) for promise in promises]


def _sample(opened: Opened, query: str, prompt: str, label: Any) -> Sample:
    place = opened.table.tokenizer
    if place is None:
        raise UserError("tokenizer is missing: the folder of the policy's tokenizer, by which responses are cut out")
    meta = meta_of_label(label)
    with _reading:
        if place not in _forms:
            from tasks.base_folder import load_tokenizer

            _forms[place] = ChatForm.of(load_tokenizer(place))
        try:
            text = _forms[place].without_specials(_forms[place].answer_of(query, prompt))
            chat = meta["messages"] if "messages" in meta else _forms[place].turns_of(prompt)
        except RowProblem as problem:
            raise UserError(
                f"a query of OpenRLHF cannot be read: {problem}; is {place} the policy's tokenizer, and does every "
                "prompt fit into --rollout.max_new_tokens beside --data.max_len?"
            ) from None
    return Sample(chat, text, None if meta else label, meta)


if __name__ == "__main__":
    print(__file__)
