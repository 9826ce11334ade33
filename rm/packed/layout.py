"""Rows of tokens laid out without padding, with what rows share at their beginning stored once.

A pair's two sides begin with the same chat. In a causal model the hidden states of that beginning do not depend on what
follows, so they are computed once:

    tokens      prompt chosen | rejected | prompt chosen | rejected …      one line of T tokens
    positions   0 … p   p+1 … | p+1 …    | 0 …
    a segment   attends to the prompt and to itself up to each token

What is shared is found in the token ids, not in the texts, so no boundary between words can be misplaced.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

Row = Sequence[int]


@dataclass(frozen=True)
class Packed:
    """One line of tokens, and who attends to whom.

    Attributes:
        input_ids, position_ids: shape (T,), int64.
        last: shape (R,): where each row ends, in the order in which the rows were given.
        query_lengths: shape (S,), int32: segments are the line cut into S pieces, in order.
        key_lengths: shape (S,): how many tokens a segment's last token attends to, itself included.
        key_index: shape (sum of key_lengths,): which tokens those are, segment after segment; each segment's own tokens
            come last, so that token i of a segment of q attends to all but its last q - 1 - i keys.
        repeats: whether any token is a key of two segments; without repeats, `key_index` is 0 … T-1.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    last: torch.Tensor
    query_lengths: torch.Tensor
    key_lengths: torch.Tensor
    key_index: torch.Tensor
    repeats: bool


def shared_length(rows: Sequence[Row]) -> int:
    """How many first tokens all rows share, at most one less than the shortest row has: every row keeps an end.

    >>> shared_length([[1, 2, 3, 4], [1, 2, 5]]), shared_length([[1, 2], [1, 2]]), shared_length([[1, 2]])
    (2, 1, 0)
    """
    if len(rows) < 2:
        return 0
    most = min(map(len, rows)) - 1
    first = np.asarray(rows[0][:most])
    for row in rows[1:]:
        differs = np.flatnonzero(first != np.asarray(row[: len(first)]))
        first = first[: differs[0]] if len(differs) else first
    return len(first)


def packed_length(rows: Sequence[Row]) -> int:
    """How many tokens a group of rows takes."""
    return sum(map(len, rows)) - (len(rows) - 1) * shared_length(rows)


def pack(groups: Sequence[Sequence[Row]]) -> Packed:
    """Lay out groups of rows; the rows of a group store their common beginning once.

    Args:
        groups: for example pairs; rows are token ids, none empty.
    """
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    last, query_lengths, key_lengths = [], [], []
    keys: list[np.ndarray] = []
    end = 0
    for rows in groups:
        shared, start = shared_length(rows), end
        for number, row in enumerate(rows):
            kept = 0 if number == 0 else shared
            own = np.asarray(row[kept:], dtype=np.int64)
            ids.append(own)
            positions.append(np.arange(kept, kept + len(own)))
            query_lengths.append(len(own))
            key_lengths.append(kept + len(own))
            keys.append(np.concatenate([np.arange(start, start + kept), np.arange(end, end + len(own))]))
            end += len(own)
            last.append(end - 1)
    return Packed(
        torch.from_numpy(np.concatenate(ids)),
        torch.from_numpy(np.concatenate(positions)),
        torch.tensor(last),
        torch.tensor(query_lengths, dtype=torch.int32),
        torch.tensor(key_lengths, dtype=torch.int32),
        torch.from_numpy(np.concatenate(keys)),
        repeats=key_lengths != query_lengths,
    )


def batches_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Which groups go through together: few batches of like size, none over `budget` but of a single group.

    Returns:
        Indices of the groups; batches of a single large group come first, so that memory is at its peak at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    alone = [i for i in order if lengths[i] >= budget]
    rest = order[len(alone) :]
    number = -(-sum(lengths[i] for i in rest) // budget)
    while True:
        emptiest = [(0, batch) for batch in range(number)]
        batches: list[list[int]] = [[] for _ in range(number)]
        for i in rest:
            load, batch = heapq.heappop(emptiest)
            batches[batch].append(i)
            heapq.heappush(emptiest, (load + lengths[i], batch))
        if max((load for load, _ in emptiest), default=0) <= budget:
            return [[i] for i in alone] + batches
        number += 1 + number // 50


def groups_of_shared_beginnings(rows: Sequence[Row], least_shared: int, most_rows: int = 64) -> list[list[int]]:
    """Rows that begin alike, as groups of indices: sorted, neighbours join while all share at least `least_shared`."""
    order = sorted(range(len(rows)), key=lambda i: (list(rows[i]), i))
    groups: list[list[int]] = []
    shared = 0
    for i in order:
        if groups and len(groups[-1]) < most_rows:
            first = rows[groups[-1][0]]
            common = shared_length([first, rows[i]])
            joined = common if len(groups[-1]) == 1 else min(shared, common)
            # A group that shares much does not take in a row that shares little.
            if joined >= least_shared and (len(groups[-1]) == 1 or 2 * joined >= shared):
                groups[-1].append(i)
                shared = joined
                continue
        groups.append([i])
        shared = 0
    return groups
