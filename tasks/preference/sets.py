"""Real human preferences as a task: files or a hub's dataset, cleaned, split without leaks, with a base beside.

Every lost row is counted by reason in `dropped.json` (`preference_cleaning`). There is no gold: what people prefer is
known of the pairs alone, so new answers are graded `no_gold`.

    python -m tasks configs/human-pairs.yaml
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from configs.errors import UserError
from configs.keyed import keyed_uniform
from configs.loader import Table
from configs.records import write_json
from tasks.preference.base import TAUGHT, TaughtTable, write_base
from tasks.preference.cleaning import PROTECTION, Cleaned, Ties, account, by_reason, clean_and_split
from tasks.preference.files import SourceRows, read_dataset, read_file
from tasks.preference.rows import Schema
from tasks.preference.sources import PublishedSplit, published_splits, resolve_files
from tasks.records import Grade, PairSplit, Prompt, PromptSplit, Response, write_pairs, write_prompts
from tasks.responses import TAGS, read_plain, read_tagged, with_instruction

DROPPED_FILE = "dropped.json"
INSTRUCTION_FILE = Path(__file__).parent / "instruction.txt"
MIN_PAIRS = 2


class PreferenceTable(Table):
    """The `tasks` table for `task: preference`.

    Attributes:
        files: paths, globs or folders of .jsonl, .jsonl.gz or .parquet files, relative to the working directory.
        dataset: instead of files, a dataset on a model hub, for example `nvidia/HelpSteer3`.
        dataset_config: the dataset's configuration, for example `preference`.
        columns: how rows are read; `auto` finds it from each file's columns.
        ties: what becomes of pairs without a preference; `drop` counts them and leaves them out, `keep` leaves them in
            with strength 0, for losses that use them; they count in no accuracy.
        splits: `by_prompt` pools all rows and splits them anew by conversation; `published` keeps the published train
            rows for training and the held-out ones for selection and measurement, and removes train rows that leak.
        held_out_files: with published splits, the held-out files among `files` or beside them; where none is given, the
            names of files or hub splits say which they are (train, validation or val, test).
        held_out_share: share of conversations held out, half for selection and half for measurement; by prompt only.
        max_pairs: keep at most so many pairs, whole conversations chosen by a hash; all where it is not given.
        max_malformed_share: a file with a larger share of malformed rows stops the run.
        n_dev_prompts, n_eval_prompts: keep at most so many prompts to watch a policy on and to judge it on, chosen by a
            hash; all where it is not given. Pairs are not touched.
        response_format: what a policy's response must look like. `tagged` asks for reasoning in <think> and the answer
            in <answer> tags, as in arXiv 2505.22653: `instruction` is put after the last turn of the policy's chat, and
            reward models and judges read the chat without it. `plain`: the whole completion is the answer.
        instruction: a text file with another instruction.
        base: `taught` for a tiny model taught on the training texts, or a folder or hub name of a causal model.
        taught: shape and teaching of the tiny base.
    """

    task: Literal["preference"] = "preference"
    files: list[str] = Field(default_factory=list)
    dataset: str | None = None
    dataset_config: str | None = None
    columns: Literal["auto", "helpsteer3", "hh-rlhf", "trl", "ultrafeedback", "llmbar"] = "auto"
    ties: Ties = "drop"
    splits: Literal["by_prompt", "published"] = "by_prompt"
    held_out_files: list[str] = Field(default_factory=list)
    held_out_share: float = Field(0.1, gt=0, lt=1)
    max_pairs: int | None = Field(None, ge=10)
    max_malformed_share: float = Field(0.05, ge=0, le=1)
    n_dev_prompts: int | None = Field(None, ge=1)
    n_eval_prompts: int | None = Field(None, ge=1)
    response_format: Literal["tagged", "plain"] = "tagged"
    instruction: Path | None = None
    base: str = Field(TAUGHT, min_length=1)
    taught: TaughtTable = Field(default_factory=TaughtTable.model_construct)

    @model_validator(mode="after")
    def _one_source(self) -> PreferenceTable:
        if bool(self.files) == bool(self.dataset):
            raise ValueError("name either files or a dataset, one of the two")
        if self.dataset_config and not self.dataset:
            raise ValueError("dataset_config belongs to a dataset, and none is named")
        if self.held_out_files and (self.splits != "published" or not self.files):
            raise ValueError("held_out_files belong to files and splits: published")
        if self.splits == "published" and "held_out_share" in self.model_fields_set:
            raise ValueError("held_out_share means nothing with splits: published; leave one of them out")
        if self.instruction is not None and self.response_format == "plain":
            raise ValueError("instruction asks for tags, and response_format is plain; leave one of them out")
        return self


class PreferenceTask:
    """Real preference pairs as a task (`tasks.records.Task`)."""

    name = "preference"
    max_new_tokens: int | None = None

    def __init__(self, table: PreferenceTable) -> None:
        self.table = table

    def read(self, completion: str) -> Response:
        """A response by `tasks.response_format`."""
        return read_tagged(completion) if self.table.response_format == "tagged" else read_plain(completion)

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """No gold: nobody has judged a new answer."""
        return Grade(gold=None, status="no_gold", style="free")

    def present(self, answer: str) -> str:
        """The answer as it is, because that is how people saw it."""
        return answer

    def input_files(self) -> dict[str, Path]:
        """The files this task is made from, for the stage's record of inputs; none for a hub's dataset."""
        named = {f"files/{path}": path for path in self._files()}
        return named | ({"instruction": self.table.instruction} if self.table.instruction else {})

    def build(self, folder: Path, seed: int) -> dict[str, Any]:
        """Clean and split the pairs, write them and what was dropped, and make the base."""
        sources = self._sources()
        cleaned = clean_and_split(
            sources,
            self.table.held_out_share,
            self.table.max_pairs,
            seed,
            ties=self.table.ties,
            published=self._published(sources),
        )
        write_json(folder / DROPPED_FILE, account(sources, cleaned))
        _demand_pairs(cleaned)
        write_pairs(folder, cleaned.pairs)
        write_prompts(folder, self._prompts(cleaned, seed))
        train = [pair for pair in cleaned.pairs if pair.split == "train"]
        base = write_base(folder, self.table.base, self.table.taught, train, seed)
        return {
            "task": self.name,
            "schemas": {source.file: source.schema for source in sources},
            "base": base,
            "pairs": dict(Counter(pair.split for pair in cleaned.pairs)),
            "dropped": by_reason(cleaned.dropped),
            **cleaned.facts,
        }

    def _prompts(self, cleaned: Cleaned, seed: int) -> list[Prompt]:
        instruction = self._instruction()
        prompts: dict[str, Prompt] = {}
        for pair, file in zip(cleaned.pairs, cleaned.files, strict=True):
            meta = {"domain": pair.domain, "language": pair.language, "source": Path(file).name}
            asked = with_instruction(pair.messages, instruction) if instruction else []
            prompt = Prompt(pair.prompt_id, PROMPT_SPLITS[pair.split], pair.messages, meta, asked)
            prompts.setdefault(pair.prompt_id, prompt)
        left_out: set[str] = set()
        for split, most in (("dev", self.table.n_dev_prompts), ("eval", self.table.n_eval_prompts)):
            names = [prompt.prompt_id for prompt in prompts.values() if prompt.split == split]
            names.sort(key=lambda name: keyed_uniform(seed, "prompts of a policy", name))
            left_out.update(names[most:] if most is not None else [])
        return [prompt for name, prompt in prompts.items() if name not in left_out]

    def _instruction(self) -> str:
        if self.table.response_format == "plain":
            return ""
        path = self.table.instruction or INSTRUCTION_FILE
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"tasks.instruction: {path} cannot be read ({error})") from None
        if missing := [tag for tag in TAGS if tag not in text]:
            raise UserError(f"tasks.instruction: {path} does not name the tag {missing[0]}, which responses need")
        return text

    def _sources(self) -> list[SourceRows]:
        schema: Schema | None = None if self.table.columns == "auto" else self.table.columns
        share = self.table.max_malformed_share
        if self.table.dataset:
            return read_dataset(self.table.dataset, self.table.dataset_config, schema, share)
        return [read_file(path, schema, share) for path in self._files()]

    def _files(self) -> list[Path]:
        held_out = resolve_files(self.table.held_out_files, "tasks.held_out_files")
        return list(dict.fromkeys([*resolve_files(self.table.files), *held_out]))

    def _published(self, sources: Sequence[SourceRows]) -> dict[str, PublishedSplit] | None:
        if self.table.splits == "by_prompt":
            return None
        held_out = [str(path) for path in resolve_files(self.table.held_out_files, "tasks.held_out_files")]
        where = "tasks.dataset" if self.table.dataset else "tasks.files"
        return published_splits([source.file for source in sources], held_out, where)


def _demand_pairs(cleaned: Cleaned) -> None:
    for split in PROTECTION:
        n = sum(pair.split == split for pair in cleaned.pairs)
        if n < MIN_PAIRS:
            counts = ", ".join(f"{n} {reason}" for reason, n in by_reason(cleaned.dropped).items())
            raise UserError(
                f"tasks: {n} {split} pairs are left of {cleaned.facts['rows_read']} rows (dropped: "
                f"{counts or 'none'}), at least {MIN_PAIRS} are needed; name more files or change tasks.held_out_share"
            )


PROMPT_SPLITS: dict[PairSplit, PromptSplit] = {"train": "train", "selection": "dev", "measurement": "eval"}
"""A policy climbs on the prompts its reward model learned from, as in the paper."""
