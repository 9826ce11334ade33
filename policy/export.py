"""`rewardladder export CELL output=FOLDER merge=true`: a trained policy as a plain Transformers or PEFT folder.

What is written is loaded again by plain Transformers (and PEFT) and must give the same logits as the cell's policy, on
the cell's own answers and on random tokens; only then the folder gets its name. The bound is on the largest absolute
difference of a logit: 0 for a copy; for a merged adapter 1e-4 in float32, and 0.25 in half precision, where merged
weights are rounded to 8 bits of precision once more (the difference found is recorded beside it).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Table
from configs.records import make_folder, place_to_write, read_json, read_jsonl, write_json
from configs.runfolder import open_finished
from configs.terminal import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POLICY_FOLDER = "policy"
ANSWERS_FILE = "answers.jsonl"
ADAPTER_CONFIG = "adapter_config.json"
EXPORT_FILE = "export.json"
MERGED_BOUND = {"float32": 1e-4, "bfloat16": 0.25, "float16": 0.25}
N_TEXTS = 16
N_RANDOM = 16
MAX_TOKENS = 512


class ExportTable(Table):
    """Settings of an export.

    Attributes:
        output: the folder to write; it must not exist, or be empty.
        merge: whether a LoRA adapter is added into the weights; false writes the adapter alone, for PEFT.
        dtype: of the merged weights; the base's own where it is not given.
        base: what the adapter is to name as its base (a folder or a hub name with the same weights); the one it was
            trained on, as an absolute path, where it is not given. Means nothing when merged.
        bound: largest absolute difference of a logit that is allowed, where it is not the stated one.
    """

    output: str = Field(min_length=1)
    merge: bool = True
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    base: str | None = None
    bound: float | None = Field(None, ge=0)


def run(paths: Sequence[str], table: ExportTable) -> None:
    """Export one cell.

    Raises:
        UserError: no finished, whole, trained cell; a place that is taken; settings that mean nothing; or logits that
            are not the same, after which nothing is left behind.
    """
    if len(paths) != 1:
        raise UserError(
            f"export: one cell's folder is needed, for example runs/demo/policy/gold-grpo-s0; found {len(paths)}"
        )
    cell = Path(paths[0]).expanduser()
    source = _trained(cell)
    is_adapter = (source / ADAPTER_CONFIG).exists()
    _refuse_empty_settings(table, is_adapter)
    output = _free_place(table.output)
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        record = _write(cell, source, part, table, is_adapter)
        record["cell"] = str(cell.absolute())
        write_json(part / EXPORT_FILE, record)
        if output.exists():
            output.rmdir()
        part.replace(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    say(
        f"{output}: {record['kind']}, {record['dtype']}; logits of {record['n_tokens']} tokens differ by at most "
        f"{record['largest_difference']:.2g} (allowed {record['bound']:.2g}), the likeliest token is the same at "
        f"{record['same_likeliest']:.4f} of the places"
    )


def _trained(cell: Path) -> Path:
    """The policy of a finished cell whose files are what they were when it was finished."""
    if not cell.is_dir():
        raise UserError(f"{cell}: there is no such folder; name a cell, for example runs/demo/policy/gold-grpo-s0")
    open_finished(cell)
    source = cell / POLICY_FOLDER
    if not any(source.glob("*.safetensors")):
        raise UserError(f"{cell}: holds no trained policy (an untrained cell is the base itself); name a trained cell")
    return source


def _refuse_empty_settings(table: ExportTable, is_adapter: bool) -> None:
    if not is_adapter and (table.dtype or table.base):
        key = "dtype" if table.dtype else "base"
        raise UserError(f"export: {key} means nothing for a policy without an adapter, which is copied; remove it")
    if is_adapter and table.merge and table.base:
        raise UserError("export: base means nothing with merge=true, whose weights need no base; remove it")
    if is_adapter and not table.merge and table.dtype:
        raise UserError("export: dtype means nothing with merge=false, which writes the adapter as it is; remove it")


def _free_place(named: str) -> Path:
    output = Path(named).expanduser().absolute()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"export: output {output} exists already; name another folder or remove it")
    make_folder(output.parent, "export: output")
    place_to_write(output / "x" if output.is_dir() else output, "export: output")
    return output


def _write(cell: Path, source: Path, part: Path, table: ExportTable, is_adapter: bool) -> dict[str, Any]:
    """Write the folder and compare it with the cell's policy; returns what is recorded."""
    import torch

    from tasks.base_folder import load_tokenizer

    tokenizer = load_tokenizer(str(source))
    batches = _token_rows(cell, tokenizer)
    base = _base_of(source, cell) if is_adapter else None
    policy = _load(source, None, base)
    wanted = _logits(policy, batches)
    own_dtype = str(next(policy.parameters()).dtype).removeprefix("torch.")
    merged = is_adapter and table.merge
    if merged:
        dtype = table.dtype or own_dtype
        policy.to(getattr(torch, dtype))
        policy.merge_and_unload(safe_merge=True).save_pretrained(part)
    else:
        dtype = own_dtype
        shutil.copytree(source, part)
        if is_adapter:
            named = {"base_model_name_or_path": table.base or base}
            write_json(part / ADAPTER_CONFIG, read_json(part / ADAPTER_CONFIG) | named)
    if merged:
        tokenizer.save_pretrained(part)
    del policy
    found = _logits(_load(part, dtype), batches)
    bound = table.bound if table.bound is not None else MERGED_BOUND.get(dtype, 1e-4) if merged else 0.0
    difference = max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True))
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(wanted, found, strict=True))
    n_tokens = sum(len(row) for row in batches)
    if not difference <= bound:  # a NaN is no equality
        raise UserError(
            f"export: the logits of what was written differ by {difference:.3g} from the cell's, allowed is "
            f"{bound:.3g}; write a wider dtype (dtype=float32), keep the adapter apart (merge=false), or set bound"
        )
    _refuse_other_tokenizer(tokenizer, load_tokenizer(str(part)), batches)
    kind = "merged weights" if merged else "a LoRA adapter" if is_adapter else "full weights"
    return {
        "kind": kind,
        "dtype": dtype,
        "largest_difference": difference,
        "bound": bound,
        "same_likeliest": same / n_tokens,
        "n_tokens": n_tokens,
    }


def _base_of(source: Path, cell: Path) -> str:
    """The base an adapter was trained on; a folder's path is made absolute, and found again in a run that was moved."""
    named = str(read_json(source / ADAPTER_CONFIG)["base_model_name_or_path"])
    beside = cell.absolute().parent.parent / "tasks" / "base"
    if not Path(named).is_dir() and named.endswith("tasks/base") and beside.is_dir():
        return str(beside)
    return str(Path(named).absolute()) if Path(named).is_dir() else named


def _load(folder: Path, dtype: str | None, base: str | None = None) -> PreTrainedModel:
    """A folder as any user of Transformers and PEFT loads it; an adapter on `base` where that is named."""
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    loader = AutoPeftModelForCausalLM if (folder / ADAPTER_CONFIG).exists() else AutoModelForCausalLM
    try:
        if base is not None:
            plain = AutoModelForCausalLM.from_pretrained(base, dtype=dtype or "auto")
            return PeftModel.from_pretrained(plain, str(folder)).eval()
        model: PreTrainedModel = loader.from_pretrained(str(folder), dtype=dtype or "auto")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    return model.eval()


def _token_rows(cell: Path, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The tokens on which logits are compared: answers of the cell, and random ones."""
    texts = [row["completion"] for row in read_jsonl(cell / ANSWERS_FILE) if row["completion"]][:N_TEXTS]
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"][:MAX_TOKENS] for text in texts]
    rng = keyed_rng(0, "export")
    rows.extend(rng.integers(len(tokenizer), size=int(rng.integers(8, 65))).tolist() for _ in range(N_RANDOM))
    return [row for row in rows if row]


def _logits(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[Any]:
    """Logits of each row alone, float32, shape (tokens, vocabulary)."""
    import torch

    with torch.inference_mode():
        return [model(input_ids=torch.tensor([row], device=model.device)).logits[0].float().cpu() for row in rows]


def _refuse_other_tokenizer(
    before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]
) -> None:
    texts = [before.decode(row) for row in rows]
    same = before.chat_template == after.chat_template and all(
        before(text)["input_ids"] == after(text)["input_ids"] for text in texts
    )
    if not same:
        raise UserError(
            "export: the tokenizer that was written reads texts otherwise than the cell's; nothing was kept"
        )
