"""Real human preferences as a task: files or a hub's dataset, cleaned, split by conversation, with a base beside.

The road of a row, each loss counted by reason in `dropped.json`: read (`preference_rows`) -> ties (`tie_policy`) ->
exact and near duplicates, swapped sides included (`duplicates`) -> at most `max_pairs` -> a split -> away when its chat
is near one of a split that is more protected (measurement before selection before train).

A conversation's split is a hash of its first user turn and the seed, so more files never move a row to another split.
There is no gold: what people prefer is known of the pairs alone, so new answers are graded `no_gold`.

    python -m tasks configs/human-pairs.yaml
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from configs.errors import UserError
from configs.keyed import keyed_uniform
from configs.loader import Table
from configs.records import canonical_json, write_json
from tasks.duplicates import Compared, Duplicate, chat_text, conversation_key, find_duplicates, near_a_protected
from tasks.preference_base import TAUGHT, TaughtTable, write_base
from tasks.preference_files import Dropped, SourceRows, read_dataset, read_file, resolve_files
from tasks.preference_rows import MALFORMED, REASONS, PreferenceRow, Schema
from tasks.records import Grade, PairSplit, PreferencePair, Prompt, PromptSplit, Response, write_pairs, write_prompts
from tasks.responses import read_tagged

DROPPED_FILE = "dropped.json"
SHOWN_PER_REASON = 5
MIN_PAIRS = 2

Placed = tuple[str, int, PreferenceRow]
"""File, line and row."""


@dataclass(frozen=True)
class Cleaned:
    """What is left of the rows.

    Attributes:
        pairs: in the order of the files.
        files: the file of each pair.
        dropped: every row that is not used.
        facts: what else was counted.
    """

    pairs: list[PreferencePair]
    files: list[str]
    dropped: list[Dropped]
    facts: dict[str, Any]


class PreferenceTable(Table):
    """The `tasks` table for `task: preference`.

    Attributes:
        files: paths or globs of .jsonl, .jsonl.gz or .parquet files, relative to the working directory.
        dataset: instead of files, a dataset on a model hub, for example `nvidia/HelpSteer3`; its splits are pooled.
        dataset_config: the dataset's configuration, for example `preference`.
        columns: how rows are read; `auto` finds it from each file's columns.
        tie_policy: what becomes of pairs without a preference; `drop` counts them and leaves them out.
        held_out_share: share of conversations held out, half for selection and half for measurement.
        max_pairs: keep at most so many pairs, whole conversations chosen by a hash; all where it is not given.
        max_malformed_share: a file with a larger share of malformed rows stops the run.
        base: `taught` for a tiny model taught on the training texts, or a folder or hub name of a causal model.
        taught: shape and teaching of the tiny base.
    """

    task: Literal["preference"] = "preference"
    files: list[str] = Field(default_factory=list)
    dataset: str | None = None
    dataset_config: str | None = None
    columns: Literal["auto", "helpsteer3", "hh-rlhf", "trl"] = "auto"
    tie_policy: Literal["drop"] = "drop"
    held_out_share: float = Field(0.1, gt=0, lt=1)
    max_pairs: int | None = Field(None, ge=10)
    max_malformed_share: float = Field(0.05, ge=0, le=1)
    base: str = Field(TAUGHT, min_length=1)
    taught: TaughtTable = Field(default_factory=TaughtTable.model_construct)

    @model_validator(mode="after")
    def _one_source(self) -> PreferenceTable:
        if bool(self.files) == bool(self.dataset):
            raise ValueError("name either files or a dataset, one of the two")
        if self.dataset_config and not self.dataset:
            raise ValueError("dataset_config belongs to a dataset, and none is named")
        return self


class PreferenceTask:
    """Real preference pairs as a task (`tasks.records.Task`)."""

    name = "preference"
    max_new_tokens: int | None = None

    def __init__(self, table: PreferenceTable) -> None:
        self.table = table

    def read(self, completion: str) -> Response:
        """The format of a reasoned response."""
        return read_tagged(completion)

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """No gold: nobody has judged a new answer."""
        return Grade(gold=None, status="no_gold", style="free")

    def present(self, answer: str) -> str:
        """The answer as it is, because that is how people saw it."""
        return answer

    def input_files(self) -> dict[str, Path]:
        """The files this task is made from, for the stage's record of inputs; none for a hub's dataset."""
        return {f"files/{path}": path for path in resolve_files(self.table.files)}

    def build(self, folder: Path, seed: int) -> dict[str, Any]:
        """Clean and split the pairs, write them and what was dropped, and make the base."""
        sources = self._sources()
        cleaned = clean_and_split(sources, self.table.held_out_share, self.table.max_pairs, seed)
        write_json(folder / DROPPED_FILE, account(sources, cleaned))
        _demand_pairs(cleaned)
        write_pairs(folder, cleaned.pairs)
        write_prompts(folder, _prompts(cleaned))
        train = [pair for pair in cleaned.pairs if pair.split == "train"]
        base = write_base(folder, self.table.base, self.table.taught, train, seed)
        return {
            "task": self.name,
            "schemas": {source.file: source.schema for source in sources},
            "base": base,
            "pairs": dict(Counter(pair.split for pair in cleaned.pairs)),
            "dropped": _by_reason(cleaned.dropped),
            **cleaned.facts,
        }

    def _sources(self) -> list[SourceRows]:
        schema: Schema | None = None if self.table.columns == "auto" else self.table.columns
        share = self.table.max_malformed_share
        if self.table.dataset:
            return read_dataset(self.table.dataset, self.table.dataset_config, schema, share)
        return [read_file(path, schema, share) for path in resolve_files(self.table.files)]


def clean_and_split(sources: Sequence[SourceRows], held_out_share: float, max_pairs: int | None, seed: int) -> Cleaned:
    """The module docstring's road, from rows to pairs."""
    dropped = [drop for source in sources for drop in source.dropped]
    placed: list[Placed] = []
    for source in sources:
        for line, row in source.rows:
            if row.preference == 0:
                dropped.append(Dropped(source.file, line, "tie", "people had no preference"))
            else:
                placed.append((source.file, line, row))
    rows_read = len(placed) + len(dropped)
    placed, repeats, contradictions = _without_duplicates(placed)
    dropped += repeats
    placed, over = _within_limit(placed, max_pairs, seed)
    dropped += over
    splits = [split_of(row, held_out_share, seed) for _, _, row in placed]
    ranks = [PROTECTION.index(split) for split in splits]
    leaks = near_a_protected([chat_text(row.messages) for _, _, row in placed], ranks)
    pairs: list[PreferencePair] = []
    files: list[str] = []
    seen_answers = {split: set[str]() for split in PROTECTION}
    for (file, line, row), split, leak in zip(placed, splits, leaks, strict=True):
        if leak:
            dropped.append(
                Dropped(file, line, "near_held_out_prompt", f"a {split} row whose chat is near a held-out one")
            )
            continue
        pairs.append(_pair(row, split))
        files.append(file)
        seen_answers[split].update(row.responses)
    held_out_answers = seen_answers["selection"] | seen_answers["measurement"]
    facts = {
        "rows_read": rows_read,
        "duplicates_with_the_opposite_label": contradictions,
        "train_answers_also_held_out": len(seen_answers["train"] & held_out_answers),
        "annotators": _annotator_agreement([row for _, _, row in placed]),
    }
    return Cleaned(pairs, files, dropped, facts)


def split_of(row: PreferenceRow, held_out_share: float, seed: int) -> PairSplit:
    """The split of a row's conversation: a pure function of its first user turn and the seed."""
    place = keyed_uniform(seed, "preference split", conversation_key(row.messages))
    if place >= held_out_share:
        return "train"
    return "measurement" if place < held_out_share / 2 else "selection"


def _without_duplicates(placed: Sequence[Placed]) -> tuple[list[Placed], list[Dropped], int]:
    duplicates = find_duplicates([Compared(row.messages, row.responses) for _, _, row in placed])
    gone = {duplicate.index for duplicate in duplicates}
    dropped = []
    for duplicate in duplicates:
        file, line, _ = placed[duplicate.index]
        kept_file, kept_line, _ = placed[duplicate.of]
        where = f"of {kept_file}, line {kept_line}{', sides swapped' if duplicate.swapped else ''}"
        dropped.append(Dropped(file, line, "exact_duplicate" if duplicate.exact else "near_duplicate", where))
    contradictions = sum(_contradicts(placed, duplicate) for duplicate in duplicates)
    return [item for i, item in enumerate(placed) if i not in gone], dropped, contradictions


def _contradicts(placed: Sequence[Placed], duplicate: Duplicate) -> bool:
    first, second = placed[duplicate.of][2], placed[duplicate.index][2]
    return ((first.preference < 0) != (second.preference < 0)) != duplicate.swapped


def _within_limit(placed: list[Placed], max_pairs: int | None, seed: int) -> tuple[list[Placed], list[Dropped]]:
    """Whole conversations in the order of a hash, as long as they fit; the rows stay in file order."""
    if max_pairs is None or len(placed) <= max_pairs:
        return placed, []
    keys = [conversation_key(row.messages) for _, _, row in placed]
    sizes = Counter(keys)
    kept: set[str] = set()
    room = max_pairs
    for key in sorted(sizes, key=lambda key: keyed_uniform(seed, "preference limit", key)):
        if sizes[key] <= room:
            kept.add(key)
            room -= sizes[key]
    over = [
        Dropped(file, line, "over_max_pairs", f"tasks.max_pairs is {max_pairs}")
        for (file, line, _), key in zip(placed, keys, strict=True)
        if key not in kept
    ]
    return [item for item, key in zip(placed, keys, strict=True) if key in kept], over


def _pair(row: PreferenceRow, split: PairSplit) -> PreferencePair:
    """Names come from the texts, so that a pair keeps its name whatever stands beside it."""
    return PreferencePair(
        pair_id=_name(chat_text(row.messages), *sorted(row.responses)),
        prompt_id=_name(chat_text(row.messages)),
        split=split,
        messages=row.messages,
        chosen=row.chosen,
        rejected=row.rejected,
        strength=row.strength,
        domain=row.domain,
        language=row.language,
    )


def _name(*texts: str) -> str:
    return hashlib.blake2b(canonical_json(texts).encode(), digest_size=8).hexdigest()


def _prompts(cleaned: Cleaned) -> list[Prompt]:
    prompts: dict[str, Prompt] = {}
    for pair, file in zip(cleaned.pairs, cleaned.files, strict=True):
        meta = {"domain": pair.domain, "language": pair.language, "source": Path(file).name}
        prompt = Prompt(pair.prompt_id, PROMPT_SPLITS[pair.split], pair.messages, meta)
        prompts.setdefault(pair.prompt_id, prompt)
    return list(prompts.values())


def _demand_pairs(cleaned: Cleaned) -> None:
    for split in PROTECTION:
        n = sum(pair.split == split for pair in cleaned.pairs)
        if n < MIN_PAIRS:
            counts = ", ".join(f"{n} {reason}" for reason, n in _by_reason(cleaned.dropped).items())
            raise UserError(
                f"tasks: {n} {split} pairs are left of {cleaned.facts['rows_read']} rows (dropped: "
                f"{counts or 'none'}), at least {MIN_PAIRS} are needed; name more files or change tasks.held_out_share"
            )


def _annotator_agreement(rows: Sequence[PreferenceRow]) -> dict[str, int]:
    """Of the rows with several annotators: how many there are, and in how many all lean the same way."""
    several = [row.individual for row in rows if len(row.individual) > 1]
    unanimous = sum(len({(score > 0) - (score < 0) for score in scores}) == 1 for scores in several)
    return {"rows_with_several": len(several), "unanimous": unanimous}


def account(sources: Sequence[SourceRows], cleaned: Cleaned) -> dict[str, Any]:
    """What `dropped.json` holds: every count by reason and by file, and the first rows of each reason."""
    by_file = {
        source.file: {
            "schema": source.schema,
            "rows": len(source.rows) + len(source.dropped),
            "dropped": _by_reason([drop for drop in cleaned.dropped if drop.file == source.file]),
        }
        for source in sources
    }
    shown = [
        asdict(drop)
        for reason in REASONS
        for drop in [drop for drop in cleaned.dropped if drop.reason == reason][:SHOWN_PER_REASON]
    ]
    return {
        "kept": len(cleaned.pairs),
        "dropped": len(cleaned.dropped),
        "malformed": sum(drop.reason in MALFORMED for drop in cleaned.dropped),
        "by_reason": _by_reason(cleaned.dropped),
        "by_file": by_file,
        "first_of_each_reason": shown,
        **cleaned.facts,
    }


def _by_reason(dropped: Sequence[Dropped]) -> dict[str, int]:
    counts = Counter(drop.reason for drop in dropped)
    return {reason: counts[reason] for reason in REASONS if counts[reason]}


PROTECTION: tuple[PairSplit, ...] = ("train", "selection", "measurement")
"""From the least protected split to the most."""
PROMPT_SPLITS: dict[PairSplit, PromptSplit] = {"train": "train", "selection": "dev", "measurement": "eval"}
"""A policy climbs on the prompts its reward model learned from, as in the paper."""
