"""A rung that reads the policy's frozen base: the same logits from less memory, and none where there is no base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from configs.errors import UserError
from rm.scorer import RungScorer
from rm.shared_base import share_base
from tests.clients import conversation
from tests.tiny_rungs import make_base, make_rung

CHATS, ANSWERS = zip(*[conversation(i) for i in range(12)], strict=True)


def policy_on(base: Path) -> Any:
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear"))


def frozen_bytes(model: torch.nn.Module) -> int:
    named = [p for n, p in model.named_parameters() if "lora" not in n and "score" not in n]
    return sum(p.numel() * p.element_size() for p in named)


def test_a_rung_on_the_policys_base_reads_its_weights_and_gives_the_same_logits(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    scorer, policy = RungScorer(make_rung(tmp_path / "rung-60", base, 1), 4096), policy_on(base)
    before = scorer.logits(CHATS, ANSWERS)
    for parameter in scorer.model.parameters():
        parameter.requires_grad_(False)
    assert share_base(scorer.model, policy) == frozen_bytes(scorer.model)
    assert np.array_equal(scorer.logits(CHATS, ANSWERS), before)
    theirs = {parameter.data_ptr() for parameter in policy.parameters()}
    own = [name for name, p in scorer.model.named_parameters() if p.data_ptr() not in theirs]
    assert all("lora_" in name or "score" in name for name in own)

    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=1.0)
    ids = torch.arange(3, 20)[None]
    policy(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert np.array_equal(scorer.logits(CHATS, ANSWERS), before), "training the policy must not move the rung"


def test_another_base_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    scorer = RungScorer(make_rung(tmp_path / "rung-60", base, 1), 4096)
    other = policy_on(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    with pytest.raises(UserError, match="no weight of the rung equals"):
        share_base(scorer.model, other)
