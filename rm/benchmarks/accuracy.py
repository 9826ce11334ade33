"""A rung on published benchmarks: `rewardladder benchmark RUNG data.jsonl … [kind=… output=…]`.

Every answer is scored whole, in the model's own chat format; an item with an answer that is too long for the model is
left out and counted, never cut. Beside every number stands the same number for preferring the longer answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Table
from configs.records import place_to_write, write_json, write_jsonl
from configs.terminal import interval, progress_bar, say, show_table
from rm.benchmarks.readers import NOT_BROKEN, TIES, Benchmark, DroppedRow, Item, Kind, read_benchmark
from rm.benchmarks.scores import (
    Estimate,
    Units,
    best_of_n_units,
    mean_of,
    measured,
    pair_units,
    style_units,
    ties_units,
)
from rm.measures import Floats

if TYPE_CHECKING:
    from rm.scorer import RungScorer

KEPT_DROPPED = 50
"""Rows that are not scored stand in the result with their places, malformed ones first; the counts are whole."""
PRINTED_DROPPED = 5

EQUAL_LOGITS = {
    "rewardbench2": "1/k where the correct answer shares the highest logit with k - 1 others; Ties by margins",
    "rm-bench": "wrong",
    "judgebench": "half",
    "llmbar": "half",
    "pairs": "half",
}
"""What equal logits are worth, by kind."""


class BenchmarkTable(Table):
    """Settings of `rewardladder benchmark`.

    Attributes:
        kind: what the rows are; `auto` looks at their columns.
        output: a JSON file for the result; null only prints it.
        items: a JSON Lines file for the logits of every item; null writes none.
        batch_tokens: token budget of one scoring batch; it does not change the scores.
        max_length: longest prompt with answer, in tokens; the model's own limit where it is not given.
        bf16: run the body in bfloat16; the head is always float32.
        resamples: bootstrap resamples.
        seed: of the resamples.
        max_malformed_share: a larger share of malformed rows stops the run.
    """

    kind: Literal["auto", "rewardbench2", "rm-bench", "judgebench", "llmbar", "pairs"] = "auto"
    output: str | None = None
    items: str | None = None
    batch_tokens: int = Field(16_384, ge=1)
    max_length: int | None = Field(None, ge=1)
    bf16: bool = False
    resamples: int = Field(2_000, ge=100)
    seed: int = Field(0, ge=0)
    max_malformed_share: float = Field(0.05, ge=0, le=1)


def run(paths: Sequence[str], table: BenchmarkTable) -> None:
    """Score a rung on a benchmark, print the table and write the JSON.

    Args:
        paths: the rung's folder, then files or folders of the benchmark.
        table: the settings.

    Raises:
        UserError: a path is missing, the rung cannot be loaded, or the data are not usable.
    """
    if len(paths) < 2:
        raise UserError("benchmark: name a rung's folder and then the data, for example runs/x/rm/rung-65 data.jsonl")
    rung = Path(paths[0]).expanduser()
    if not rung.is_dir():
        raise UserError(f"benchmark: {rung} is no folder of a rung; the first path is the reward model")
    output, items = (
        path and place_to_write(path, key) for path, key in ((table.output, "output"), (table.items, "items"))
    )
    benchmark = read_benchmark(paths[1:], None if table.kind == "auto" else table.kind, table.max_malformed_share)
    scored, logits, too_long = score_items(benchmark.items, rung, table)
    if not scored:
        raise UserError(f"benchmark: all {len(too_long)} items are too long for the model; nothing is cut")
    result = {
        "rung": str(rung),
        **described(benchmark, too_long),
        **report(benchmark.kind, scored, logits, table),
    }
    if output:
        write_json(output, result)
    if items:
        rows = zip(scored, logits, strict=True)
        write_jsonl(items, (item_row(item, of_item) for item, of_item in rows))
    show(result)


def report(kind: Kind, items: Sequence[Item], logits: Sequence[Floats], table: BenchmarkTable) -> dict[str, Any]:
    """The numbers of every subset, of all items together and of the mean over subsets.

    Args:
        kind: of the benchmark.
        items: the scored items.
        logits: of each item, shape (its answers,).
        table: resamples and seed.

    Raises:
        UserError: a logit is not finite.
    """
    broken = sum(not np.isfinite(of_item).all() for of_item in logits)
    if broken:
        raise UserError(
            f"benchmark: {broken} of {len(items)} items have logits that are not finite; train another rung"
        )
    lengths = [np.array([len(answer) for answer in item.answers], dtype=np.float64) for item in items]
    subsets = sorted({item.subset for item in items})
    rows: dict[str, dict[str, Any]] = {}
    drawn: dict[str, dict[str, tuple[Estimate, Floats]]] = {"score": {}, "length": {}}
    for subset in subsets:
        members = [i for i, item in enumerate(items) if item.subset == subset]
        rows[subset], headlines = _measure(kind, subset, items, logits, lengths, members, table)
        for what, headline in headlines.items():
            drawn[what][subset] = headline
    together = [i for i, item in enumerate(items) if not _is_ties(kind, item.subset)]
    overall = _measure(kind, "", items, logits, lengths, together, table)[0] if together else None
    found: dict[str, Any] = {"equal_logits_count": EQUAL_LOGITS[kind], "subsets": rows, "all": overall}
    if len(subsets) > 1:
        groups = {subset: _group(kind, subset) for subset in subsets}
        found["mean_of_subsets"] = {
            "score": mean_of(drawn["score"], groups),
            "length_only": mean_of(drawn["length"], groups),
        }
    return found


def score_items(
    items: Sequence[Item], rung: Path, table: BenchmarkTable
) -> tuple[list[Item], list[Floats], list[DroppedRow]]:
    """Logits of all answers of each item that fits the model, and the items that do not."""
    scorer = _open(rung, table)
    own_limit = getattr(scorer.model.config, "max_position_embeddings", None)
    limits = [limit for limit in (table.max_length, own_limit) if limit]
    longest_allowed = min(limits) if limits else None
    fitting: list[Item] = []
    rows: list[list[int]] = []
    left_out: list[DroppedRow] = []
    for item in items:
        encoded, problem = _encoded(scorer, item, longest_allowed)
        if problem is not None:
            left_out.append(DroppedRow(item.item_id, 0, *problem))
            continue
        fitting.append(item)
        rows += encoded
    from rm.scorer import score_ids

    with progress_bar(len(rows), "scoring answers") as bar:
        flat = score_ids(scorer.model, rows, table.batch_tokens, bar.update)
    ends = np.cumsum([len(item.answers) for item in fitting])
    return fitting, list(np.split(flat, ends[:-1])) if fitting else [], left_out


def described(benchmark: Benchmark, too_long: Sequence[DroppedRow]) -> dict[str, Any]:
    """What was read and what of it is not scored, by reason."""
    dropped = sorted([*benchmark.dropped, *too_long], key=lambda row: row.reason in NOT_BROKEN)
    return {
        "kind": benchmark.kind,
        "files": benchmark.files,
        "n_rows": benchmark.n_rows,
        "n_items": len(benchmark.items) - len(too_long),
        "dropped": dict(sorted(Counter(row.reason for row in dropped).items())),
        "dropped_rows": [_place(row) for row in dropped[:KEPT_DROPPED]],
    }


def item_row(item: Item, logits: Floats) -> dict[str, Any]:
    """One line of the file of items."""
    return {
        "item_id": item.item_id,
        "subset": item.subset,
        "prompt_id": item.prompt_id,
        "n_correct": item.n_correct,
        "logits": logits.tolist(),
    }


def show(result: Mapping[str, Any]) -> None:
    """Print the result as a table."""
    rows = [(name, *_cells(row)) for name, row in result["subsets"].items()]
    if result["all"] is not None and len(rows) > 1:
        without = " but Ties" if any(name.lower() == TIES for name in result["subsets"]) else ""
        rows.append((f"all items{without}", *_cells(result["all"])))
    if "mean_of_subsets" in result:
        mean = result["mean_of_subsets"]
        rows.append(("mean of subsets", "", mean["score"]["n"], _said(mean["score"]), "", _said(mean["length_only"])))
    columns = ("subset", "measure", "n", "score (95%)", "equal logits", "longer answer preferred")
    show_table(f"{result['kind']}: {result['rung']}", columns, rows)
    details = [
        (name, measure, estimate["n"], _said(estimate))
        for name, row in result["subsets"].items()
        for measure, estimate in row["measures"].items()
        if len(row["measures"]) > 1
    ]
    if details:
        show_table("what the scores are made of", ("subset", "measure", "n", "value (95%)"), details)
    say(f"Equal logits count: {result['equal_logits_count']}.")
    for row in result["dropped_rows"][:PRINTED_DROPPED]:
        say(f"not scored: {row}")
    counts = ", ".join(f"{n} {reason}" for reason, n in result["dropped"].items()) or "none"
    say(f"{result['n_items']} items of {result['n_rows']} rows are scored; not scored: {counts}.")


def _open(rung: Path, table: BenchmarkTable) -> RungScorer:
    import torch

    from rm.scorer import RungScorer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return RungScorer(rung, table.batch_tokens, device, torch.bfloat16 if table.bf16 else torch.float32)


def _encoded(
    scorer: RungScorer, item: Item, longest_allowed: int | None
) -> tuple[list[list[int]], tuple[str, str] | None]:
    """Token ids of an item's answers, or the reason and the detail why it is not scored."""
    from jinja2 import TemplateError

    from rm.answer_form import AnswerForm
    from rm.scorer import encode_answer

    try:
        form = AnswerForm.of_rung(scorer.folder)
        rows = [encode_answer(scorer.tokenizer, item.messages, form.shown(answer)) for answer in item.answers]
    except TemplateError as error:
        return [], ("chat_template", " ".join(str(error).split()))
    longest = max(map(len, rows))
    if longest_allowed is not None and longest > longest_allowed:
        return [], ("too_long", f"{longest} tokens, at most {longest_allowed} are allowed")
    return rows, None


def _measure(
    kind: Kind,
    subset: str,
    items: Sequence[Item],
    logits: Sequence[Floats],
    lengths: Sequence[Floats],
    members: Sequence[int],
    table: BenchmarkTable,
) -> tuple[dict[str, Any], dict[str, tuple[Estimate, Floats]]]:
    """The row of some items, and the headlines of the model and of the length with their resamples."""
    chosen = [items[i] for i in members]
    units = _units(kind, subset, chosen, [logits[i] for i in members])
    found, drawn = measured(units, keyed_rng(table.seed, "benchmark", subset), table.resamples)
    by_length = _units(kind, subset, chosen, [lengths[i] for i in members])
    length, length_drawn = measured(by_length, keyed_rng(table.seed, "benchmark", subset), table.resamples)
    row = {
        "measure": units.headline,
        "score": found[units.headline],
        "equal_logits": units.equal,
        "comparisons": units.compared,
        "length_only": length[units.headline],
        "measures": found,
    }
    return row, {"score": (found[units.headline], drawn), "length": (length[units.headline], length_drawn)}


def _units(kind: Kind, subset: str, items: Sequence[Item], logits: Sequence[Floats]) -> Units:
    prompts = [item.prompt_id for item in items]
    if kind == "rm-bench":
        return style_units(logits, prompts)
    if _is_ties(kind, subset):
        return ties_units(logits, [item.n_correct for item in items], [item.item_id for item in items])
    return best_of_n_units(logits, prompts) if kind == "rewardbench2" else pair_units(logits, prompts)


def _is_ties(kind: Kind, subset: str) -> bool:
    return kind == "rewardbench2" and subset.lower() == TIES


def _group(kind: Kind, subset: str) -> str:
    """RM-Bench's two halves of safety are one domain; elsewhere each subset counts alone."""
    return "safety" if kind == "rm-bench" and subset.startswith("safety") else subset


def _place(row: DroppedRow) -> str:
    where = f"{row.file}, line {row.line}" if row.line else f"item {row.file}"
    return f"{where}: {row.reason}, {row.detail}"


def _cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["measure"], row["score"]["n"], _said(row["score"]), row["equal_logits"], _said(row["length_only"]))


def _said(estimate: Estimate) -> str:
    return interval(estimate["estimate"], estimate["lo"], estimate["hi"])
