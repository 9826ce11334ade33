"""`rewardladder export-prompts RUN output=FOLDER`: a run's prompts as parquet that verl and OpenRLHF read.

One file a split, with verl's columns data_source, prompt (a chat), ability, reward_model {style, ground_truth} and
extra_info {index, split, prompt_id, messages, meta}, and OpenRLHF's label (`--data.input_key prompt --data.label_key
label`). `prompt` is the chat as the policy is asked; `messages` is the same chat as reward models read it, without the
instruction on format. `meta` is JSON text, because its keys differ from task to task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from configs.errors import UserError
from configs.loader import Table
from configs.records import canonical_json, read_json
from configs.runfolder import MANIFEST
from configs.terminal import say, show_table
from policy.adapters.label import label_of
from tasks.records import Prompt, PromptSplit, read_prompts

ROW_GROUP = 10_000


class ExportPromptsTable(Table):
    """Settings of the export.

    Attributes:
        output: the folder for `train.parquet` and so on; made where it is missing.
        splits: the splits to write; `eval` is for the judge, and no trainer should see it.
        data_source: the name that verl groups its validation figures by; the task's where it is not given.
    """

    output: str = Field(min_length=1)
    splits: tuple[PromptSplit, ...] = Field(("train", "dev"), min_length=1)
    data_source: str | None = Field(None, min_length=1)


def run(paths: Sequence[str], table: ExportPromptsTable) -> None:
    """Write a run's prompts.

    Raises:
        UserError: there is no such run, its task is not finished, or the folder cannot be written.
    """
    if len(paths) != 1:
        raise UserError(f"export-prompts needs one run, for example runs/demo, found {len(paths)}")
    room = Path(paths[0]).expanduser() / "tasks"
    if not (room / MANIFEST).exists():
        raise UserError(f"{paths[0]}: no run with a finished task ({room / MANIFEST} is not there)")
    task = str(read_json(room / MANIFEST)["made_from"]["settings"]["task"])
    folder = Path(table.output).expanduser()
    rows = []
    for split in dict.fromkeys(table.splits):
        prompts = read_prompts(room, split)
        place = folder / f"{split}.parquet"
        _write(place, [row_of(p, i, task, table.data_source) for i, p in enumerate(prompts)])
        rows.append((split, len(prompts), str(place)))
    show_table("prompts for verl and OpenRLHF", ("split", "prompts", "file"), rows)
    say(f"the files name prompts by {room / 'prompts.jsonl'}; give the reward the same run")


def row_of(prompt: Prompt, index: int, task: str, data_source: str | None = None) -> dict[str, Any]:
    """One row of the parquet, in verl's columns and OpenRLHF's.

    Raises:
        UserError: the prompt ends in words that the response begins with, which other trainers would close as a turn.
    """
    if prompt.asked[-1]["role"] == "assistant":
        raise UserError(
            f"prompt {prompt.prompt_id}: ends in the policy's own first words (a forced opening), which verl and "
            "OpenRLHF cannot go on with; make a run without an opening"
        )
    known = task != "preference"
    return {
        "data_source": data_source or f"rewardladder/{task}",
        "prompt": prompt.asked,
        "ability": task,
        "reward_model": {"style": "rule" if known else "model", "ground_truth": str(prompt.meta.get("answer", ""))},
        "extra_info": {
            "index": index,
            "split": prompt.split,
            "prompt_id": prompt.prompt_id,
            "messages": prompt.messages,
            "meta": canonical_json(prompt.meta),
        },
        "label": label_of(prompt),
    }


def _write(place: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    schema = pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", chat),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            (
                "extra_info",
                pa.struct(
                    [
                        ("index", pa.int64()),
                        ("split", pa.string()),
                        ("prompt_id", pa.string()),
                        ("messages", chat),
                        ("meta", pa.string()),
                    ]
                ),
            ),
            ("label", pa.string()),
        ]
    )
    part = place.with_name(place.name + ".part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), part, row_group_size=ROW_GROUP)
        part.replace(place)
    except OSError as error:
        raise UserError(f"output: {place} cannot be written ({error.strerror or error})") from None
