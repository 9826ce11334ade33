"""The pairs of a task as token ids: which are too long, which are ties, and how many of each there were.

Training pairs are limited by `rm.max_length`. Held-out pairs are not: their limit is `rm.held_out_max_length`, or what
the backbone can read at all, so that a rung's accuracy is of the same pairs whatever was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from configs.errors import UserError
from rm.config import RMTable
from rm.scorer import encode_answer
from rm.targets import Ids, is_tie
from tasks.records import PreferencePair, Task

SPLITS = ("train", "selection", "measurement")
HELD_OUT = ("selection", "measurement")
FEWEST = 2


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs and their token ids by split, in one order.

    Attributes:
        pairs: without those too long; without ties in the held-out splits.
        ids: token ids of (chosen, rejected).
        dropped: counts of what was left out, by split and reason.
        held_out_limit: the longest held-out side that is kept, in tokens; None where the backbone states none.
    """

    pairs: dict[str, list[PreferencePair]]
    ids: dict[str, list[Ids]]
    dropped: dict[str, int]
    held_out_limit: int | None

    def facts(self) -> dict[str, Any]:
        """What a card says of the pairs that its figures leave out."""
        return {
            "held_out_dropped": {
                split: {
                    "over_length": self.dropped[f"{split}_over_max_length"],
                    "ties": self.dropped[f"{split}_ties"],
                    "kept": len(self.pairs[split]),
                }
                for split in HELD_OUT
            },
            "held_out_max_length": self.held_out_limit,
        }


def encode_pairs(
    pairs: Sequence[PreferencePair],
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    backbone: PretrainedConfig,
    table: RMTable,
) -> EncodedPairs:
    """Tokenise every pair. A pair with a side that is too long is dropped and counted, never cut.

    Raises:
        UserError: more than `max_dropped_share` of the training pairs, or of the held-out ones, are too long, or fewer
            than two pairs of a split are left.
    """
    limit = table.held_out_max_length or getattr(backbone, "max_position_embeddings", None)
    kept: dict[str, list[PreferencePair]] = {split: [] for split in SPLITS}
    ids: dict[str, list[Ids]] = {split: [] for split in SPLITS}
    dropped = {f"{split}_over_max_length": 0 for split in SPLITS} | {f"{split}_ties": 0 for split in HELD_OUT}
    for pair in pairs:
        if pair.split in HELD_OUT and is_tie(pair):
            dropped[f"{pair.split}_ties"] += 1
            continue
        chosen = encode_answer(tokenizer, pair.messages, task.present(pair.chosen))
        rejected = encode_answer(tokenizer, pair.messages, task.present(pair.rejected))
        longest = table.max_length if pair.split == "train" else limit
        if longest is not None and max(len(chosen), len(rejected)) > longest:
            dropped[f"{pair.split}_over_max_length"] += 1
            continue
        kept[pair.split].append(pair)
        ids[pair.split].append((chosen, rejected))
    found = EncodedPairs(kept, ids, dropped, limit)
    _refuse_dropped_share(found, ("train",), "rm.max_length", table.max_length, table)
    _refuse_dropped_share(found, HELD_OUT, "rm.held_out_max_length", limit, table)
    for split in SPLITS:
        if len(kept[split]) < FEWEST:
            raise UserError(f"tasks: {len(kept[split])} {split} pairs are left; at least {FEWEST} are needed")
    return found


def _refuse_dropped_share(
    found: EncodedPairs, splits: Sequence[str], field: str, limit: int | None, table: RMTable
) -> None:
    gone = sum(found.dropped[f"{split}_over_max_length"] for split in splits)
    total = gone + sum(len(found.pairs[split]) for split in splits)
    if gone > table.max_dropped_share * total:
        kind = "training" if splits == ("train",) else "held-out"
        raise UserError(
            f"{field}: {gone} of {total} {kind} pairs are longer than {limit} tokens; raise it, or raise "
            f"rm.max_dropped_share ({table.max_dropped_share})"
        )
