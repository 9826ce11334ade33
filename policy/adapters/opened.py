"""The rewards that this process has opened, one for each set of settings, whoever asks first."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from configs.errors import UserError
from configs.records import canonical_json
from policy.adapters.batching import RewardBatcher
from policy.adapters.opening import open_reward
from policy.adapters.settings import AdapterTable, adapter_table


class Opened(NamedTuple):
    """A reward that can be asked, and its settings."""

    batcher: RewardBatcher
    table: AdapterTable


FAILED_S = 10.0
"""So long a failure to open is told again without another try: hundreds of calls may wait for one dead server."""
_opened: dict[str, Opened] = {}
_failed: dict[str, tuple[float, UserError]] = {}
_opening = threading.Lock()


def opened_reward(settings: Mapping[str, Any], source: str) -> Opened:
    """The reward of these settings; opened at the first call, which reads files, and may load a rung or ask a server.

    Raises:
        UserError: the settings are wrong, or what they name is not there.
    """
    given = plain(settings)
    key = canonical_json(given)
    with _opening:
        if key not in _opened:
            if key in _failed and time.monotonic() - _failed[key][0] < FAILED_S:
                raise _failed[key][1]
            try:
                table = adapter_table(given, source)
                reward = open_reward(table)
            except UserError as error:
                _failed[key] = (time.monotonic(), error)
                raise
            _opened[key] = Opened(RewardBatcher(reward.rewards, table.batch_size, table.wait_ms / 1000), table)
        return _opened[key]


def plain(value: Any) -> Any:
    """Settings as plain data; trainers hand over mappings and lists of their own kinds."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return value
    return [plain(one) for one in value]
