"""From rows to pairs: ties, duplicates, splits, leaks, each loss counted by its reason.

The road of a row: read (`preference_rows`) -> ties (dropped, or kept with strength 0) -> exact and near duplicates,
swapped sides included (`duplicates`) -> at most `max_pairs` -> a split -> away when its chat is near one of a split
that is more protected (measurement before selection before train).

Splits by prompt: a conversation's split is a hash of its first user turn and the seed, so more files never move a row
to another split. Published splits: the published train rows train; test rows measure and validation rows select, and
where only one of them is published its conversations are halved by the hash. What is more protected is never thinned
by what is less: a train row that repeats a held-out one, is near it, has a near chat, or is of the same conversation,
is removed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from configs.keyed import keyed_uniform
from configs.records import canonical_json
from tasks.preference.duplicates import (
    Compared,
    chat_text,
    contradicts,
    conversation_key,
    find_duplicates,
    near_a_protected,
)
from tasks.preference.fields import MALFORMED, REASONS
from tasks.preference.files import Dropped, SourceRows
from tasks.preference.rows import PreferenceRow
from tasks.preference.sources import PublishedSplit
from tasks.records import PairSplit, PreferencePair

Ties = Literal["drop", "keep"]

SHOWN_PER_REASON = 5


@dataclass(frozen=True)
class Placed:
    """A row, where it stands (file and line), and the published split it is of, None where splits are by prompt."""

    file: str
    line: int
    row: PreferenceRow
    published: PublishedSplit | None

    def drop(self, reason: str, detail: str) -> Dropped:
        """The record of this row's loss."""
        return Dropped(self.file, self.line, reason, detail)


@dataclass(frozen=True)
class Cleaned:
    """What is left of the rows.

    Attributes:
        pairs: in the order of the files; of published splits, test before validation before train.
        files: the file of each pair.
        dropped: every row that is not used.
        facts: what else was counted.
    """

    pairs: list[PreferencePair]
    files: list[str]
    dropped: list[Dropped]
    facts: dict[str, Any]


def clean_and_split(
    sources: Sequence[SourceRows],
    held_out_share: float,
    max_pairs: int | None,
    seed: int,
    *,
    ties: Ties = "drop",
    published: Mapping[str, PublishedSplit] | None = None,
) -> Cleaned:
    """The module docstring's road, from rows to pairs.

    Args:
        sources: the rows of every file.
        held_out_share: in 0..1, for splits by prompt.
        max_pairs: keep at most so many pairs, whole conversations; of published splits only train is thinned.
        seed: of the splits and the limit.
        ties: what becomes of rows without a preference.
        published: the published split of each source by its name; None makes splits by prompt.
    """
    dropped = [drop for source in sources for drop in source.dropped]
    placed, unpreferred = _without_ties(sources, ties, published)
    dropped += unpreferred
    rows_read = sum(len(source.rows) + len(source.dropped) for source in sources)
    placed, repeats, facts = _without_duplicates(placed)
    dropped += repeats
    placed, over = _within_limit(placed, max_pairs, seed)
    dropped += over
    kinds = {published[source.file] for source in sources} if published else set()
    splits = [
        _split_of(item, held_out_share, seed, halved="test" not in kinds or "validation" not in kinds)
        for item in placed
    ]
    placed, splits, leaks = _without_leaks(placed, splits)
    dropped += leaks
    pairs = [_pair(item, split) for item, split in zip(placed, splits, strict=True)]
    seen_answers = {split: set[str]() for split in PROTECTION}
    for pair in pairs:
        seen_answers[pair.split].update((pair.chosen, pair.rejected))
    held_out_answers = seen_answers["selection"] | seen_answers["measurement"]
    facts = {
        "rows_read": rows_read,
        "ties_kept": sum(pair.strength == 0 for pair in pairs),
        **facts,
        "train_answers_also_held_out": len(seen_answers["train"] & held_out_answers),
        "annotators": _annotator_agreement([item.row for item in placed]),
    }
    return Cleaned(pairs, [item.file for item in placed], dropped, facts)


def split_of(row: PreferenceRow, held_out_share: float, seed: int) -> PairSplit:
    """The split of a row's conversation: a pure function of its first user turn and the seed."""
    place = keyed_uniform(seed, "preference split", conversation_key(row.messages))
    if place >= held_out_share:
        return "train"
    return "measurement" if place < held_out_share / 2 else "selection"


def _without_ties(
    sources: Sequence[SourceRows], ties: Ties, published: Mapping[str, PublishedSplit] | None
) -> tuple[list[Placed], list[Dropped]]:
    """The rows with a preference, and kept ties; the most protected first, so that of two copies that one is kept."""
    placed, dropped = [], []
    for source in sources:
        for line, row in source.rows:
            item = Placed(source.file, line, row, published[source.file] if published else None)
            if row.preference == 0 and ties == "drop":
                dropped.append(item.drop("tie", "people had no preference"))
            elif row.responses[0] == row.responses[1]:
                dropped.append(item.drop("same_response", "a tie between two equal texts"))
            else:
                placed.append(item)
    return sorted(placed, key=lambda item: PUBLISHED_ORDER[item.published]), dropped


def _without_duplicates(placed: Sequence[Placed]) -> tuple[list[Placed], list[Dropped], dict[str, Any]]:
    duplicates = find_duplicates([Compared(item.row.messages, item.row.responses) for item in placed])
    gone = {duplicate.index for duplicate in duplicates}
    dropped = []
    counts: Counter[str] = Counter()
    contradictions = 0
    for duplicate in duplicates:
        item, kept = placed[duplicate.index], placed[duplicate.of]
        contradictions += contradicts(kept.row.preference, item.row.preference, duplicate.swapped)
        kind = "exact" if duplicate.exact else "near"
        reason = f"leak_{kind}" if item.published != kept.published else f"{kind}_duplicate"
        turned = ", sides swapped" if duplicate.swapped else ""
        dropped.append(item.drop(reason, f"of {kept.file}, line {kept.line}{turned}"))
        counts[reason] += duplicate.swapped
    facts = {
        "duplicates_with_sides_swapped": {reason: n for reason, n in sorted(counts.items()) if n},
        "duplicates_with_the_opposite_label": contradictions,
    }
    return [item for i, item in enumerate(placed) if i not in gone], dropped, facts


def _within_limit(placed: list[Placed], max_pairs: int | None, seed: int) -> tuple[list[Placed], list[Dropped]]:
    """Whole conversations in the order of a hash, as long as they fit; the rows stay in file order."""
    limited = [item for item in placed if item.published in (None, "train")]
    if max_pairs is None or len(limited) <= max_pairs:
        return placed, []
    key_of = {id(item): conversation_key(item.row.messages) for item in limited}
    sizes = Counter(key_of.values())
    kept: set[str] = set()
    room = max_pairs
    for key in sorted(sizes, key=lambda key: keyed_uniform(seed, "preference limit", key)):
        if sizes[key] <= room:
            kept.add(key)
            room -= sizes[key]
    over = [item for item in limited if key_of[id(item)] not in kept]
    gone = {id(item) for item in over}
    lost = [item.drop("over_max_pairs", f"tasks.max_pairs is {max_pairs}") for item in over]
    return [item for item in placed if id(item) not in gone], lost


def _split_of(item: Placed, held_out_share: float, seed: int, halved: bool) -> PairSplit:
    """The split of a row; `halved` where only one held-out split is published."""
    if item.published is None:
        return split_of(item.row, held_out_share, seed)
    if item.published == "train":
        return "train"
    if halved:
        return split_of(item.row, 1.0, seed)
    return "measurement" if item.published == "test" else "selection"


def _without_leaks(
    placed: Sequence[Placed], splits: Sequence[PairSplit]
) -> tuple[list[Placed], list[PairSplit], list[Dropped]]:
    """Without the rows whose chat is near one of a more protected split, or of the same conversation."""
    ranks = [PROTECTION.index(split) for split in splits]
    near = near_a_protected([chat_text(item.row.messages) for item in placed], ranks)
    keys = [conversation_key(item.row.messages) for item in placed]
    highest: dict[str, int] = {}
    for key, rank in zip(keys, ranks, strict=True):
        highest[key] = max(rank, highest.get(key, 0))
    kept, kept_splits, dropped = [], [], []
    for item, split, rank, is_near, key in zip(placed, splits, ranks, near, keys, strict=True):
        if is_near:
            dropped.append(item.drop("near_held_out_prompt", f"a {split} row whose chat is near a held-out one"))
        elif highest[key] > rank:
            dropped.append(item.drop("held_out_conversation", f"a {split} row of a held-out conversation"))
        else:
            kept.append(item)
            kept_splits.append(split)
    return kept, kept_splits, dropped


def _pair(item: Placed, split: PairSplit) -> PreferencePair:
    """Names come from the texts, so that a pair keeps its name whatever stands beside it."""
    row = item.row
    return PreferencePair(
        pair_id=_name(chat_text(row.messages), *sorted(row.responses)),
        prompt_id=_name(chat_text(row.messages)),
        split=split,
        messages=row.messages,
        chosen=row.chosen,
        rejected=row.rejected,
        strength=0.0 if row.preference == 0 else row.strength,
        domain=row.domain,
        language=row.language,
        individual=row.individual_for_chosen,
        source=f"{item.file}:{item.line}",
        margin=row.margin,
    )


def _name(*texts: str) -> str:
    return hashlib.blake2b(canonical_json(texts).encode(), digest_size=8).hexdigest()


def _annotator_agreement(rows: Sequence[PreferenceRow]) -> dict[str, int]:
    """Of the rows with several annotators: how many there are, and in how many all lean the same way."""
    several = [row.individual for row in rows if len(row.individual) > 1]
    unanimous = sum(len({(score > 0) - (score < 0) for score in scores}) == 1 for scores in several)
    return {"rows_with_several": len(several), "unanimous": unanimous}


def account(sources: Sequence[SourceRows], cleaned: Cleaned) -> dict[str, Any]:
    """What `dropped.json` holds: every count by reason and by file, and the first rows of each reason."""
    by_file: dict[str, list[Dropped]] = {source.file: [] for source in sources}
    by_name: dict[str, list[Dropped]] = {reason: [] for reason in REASONS}
    for drop in cleaned.dropped:
        by_file[drop.file].append(drop)
        by_name[drop.reason].append(drop)
    return {
        "kept": len(cleaned.pairs),
        "dropped": len(cleaned.dropped),
        "malformed": sum(len(by_name[reason]) for reason in MALFORMED),
        "by_reason": by_reason(cleaned.dropped),
        "by_file": {
            source.file: {
                "schema": source.schema,
                "rows": len(source.rows) + len(source.dropped),
                "dropped": by_reason(by_file[source.file]),
            }
            for source in sources
        },
        "first_of_each_reason": [asdict(drop) for drops in by_name.values() for drop in drops[:SHOWN_PER_REASON]],
        **cleaned.facts,
    }


def by_reason(dropped: Sequence[Dropped]) -> dict[str, int]:
    """Counts in the order of `REASONS`, without those that are 0."""
    counts = Counter(drop.reason for drop in dropped)
    return {reason: counts[reason] for reason in REASONS if counts[reason]}


PROTECTION: tuple[PairSplit, ...] = ("train", "selection", "measurement")
"""From the least protected split to the most."""
PUBLISHED_ORDER: dict[PublishedSplit | None, int] = {"test": 0, "validation": 1, "train": 2, None: 3}
