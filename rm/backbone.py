"""Backbones with one scalar head: made from a causal model, loaded from a rung, always with a float32 head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from configs.errors import UserError
from configs.keyed import keyed_seed
from rm.config import RMTable
from rm.rung_digest import ADAPTER_CONFIG

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class Float32Head(nn.Linear):
    """The scalar head in float32 whatever the body's type: a bfloat16 logit has about three significant digits."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Shape (…, hidden) -> (…, 1), float32."""
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return nn.functional.linear(hidden.float(), self.weight.float(), bias)


def build_reward_model(base: str, table: RMTable, tokenizer: PreTrainedTokenizerBase, seed: int) -> nn.Module:
    """A model to train: backbone weights, fresh layers where asked for, a keyed head, LoRA unless `lora_r` is 0.

    Fresh layers start at a standard deviation of 1/sqrt(hidden): the usual 0.02 fits widths of thousands, and at a
    width of 64 the model stays on shallow features for hundreds of steps.

    Weights that are trained are float32, also under `bf16`: in bfloat16 most steps of a usual learning rate are lost in
    rounding.

    Raises:
        UserError: the backbone cannot be loaded or has no `model` and `score` parts.
    """
    dtype = torch.bfloat16 if table.bf16 and table.lora_r else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(seed, "reward model weights"))
        try:
            config = AutoConfig.from_pretrained(base, num_labels=1)
            if table.extra_layers:
                config.num_hidden_layers += table.extra_layers
                config.initializer_range = config.hidden_size**-0.5
                if getattr(config, "layer_types", None):
                    config.layer_types = config.layer_types + config.layer_types[-1:] * table.extra_layers
            config.pad_token_id = tokenizer.pad_token_id
            model = AutoModelForSequenceClassification.from_pretrained(
                base, config=config, dtype=dtype, **(four_bit_settings(dtype, ["score"]) if table.load_in_4bit else {})
            )
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"rm.model_name_or_path: {base!r} cannot be loaded: {first}") from None
        if not (hasattr(model, "model") and isinstance(getattr(model, "score", None), nn.Linear)):
            raise UserError(f"rm.model_name_or_path: {base!r} is a {type(model).__name__}; a decoder is needed")
        return with_adapter(model, table)


def four_bit_settings(dtype: torch.dtype, whole: list[str]) -> dict[str, Any]:
    """What QLoRA adds to loading: NF4 with double quantisation (arXiv 2305.14314), but for the modules `whole`."""
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=whole,
    )
    return {"quantization_config": quantisation, "device_map": {"": torch.cuda.current_device()}}


def with_adapter(model: PreTrainedModel, table: RMTable) -> nn.Module:
    """A float32 head, and LoRA on every linear layer unless `lora_r` is 0; the head is trained and saved either way."""
    model.score = _float32_head(model.score)
    if not table.lora_r:
        return model
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=table.lora_r,
        lora_alpha=table.lora_alpha,
        lora_dropout=table.lora_dropout,
        target_modules="all-linear",
        modules_to_save=["score"],
    )
    return get_peft_model(model, lora)


def load_reward_model(folder: Path, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """A rung's model for scoring: backbone in `dtype`, head in float32, an adapter merged into nothing.

    Raises:
        UserError: the folder or the backbone it names cannot be loaded.
    """
    with one_line_for_a_damaged_rung(folder):
        if (folder / ADAPTER_CONFIG).exists():
            base = base_of_adapter(folder)
            config = AutoConfig.from_pretrained(folder)
            plain = AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype=dtype)
            plain.score = _float32_head(plain.score)
            model = PeftModel.from_pretrained(plain, folder)
        else:
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
            model.score = _stored_head(folder, _float32_head(model.score))
    return model.to(device).eval()


def base_of_adapter(folder: Path) -> str:
    """Folder or name of the model that a rung's adapter belongs to.

    Raises:
        UserError: the adapter names none, or its folder is gone.
    """
    base = LoraConfig.from_pretrained(folder).base_model_name_or_path
    if not base:
        raise UserError(f"{folder / ADAPTER_CONFIG}: names no base_model_name_or_path; the rung is damaged")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise UserError(
            f"{folder}: the base of its adapter, {base}, is gone; put it back there, or train the rung again"
        )
    return str(base)


def load_rung_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A rung's own tokenizer; without its files Transformers would make up another one.

    Raises:
        UserError: it is missing or cannot be loaded.
    """
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(f"{folder}: holds no tokenizer ({' or '.join(TOKENIZER_FILES)}); the rung is not whole")
    with one_line_for_a_damaged_rung(folder):
        return AutoTokenizer.from_pretrained(folder)


@contextmanager
def one_line_for_a_damaged_rung(folder: Path) -> Iterator[None]:
    """Whatever the loaders of Transformers, PEFT and safetensors raise about damaged files, as one line."""
    try:
        yield
    except (torch.OutOfMemoryError, UserError):
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(f"{folder}: the rung cannot be loaded: {first}") from None


def trunk_and_head(model: Any) -> tuple[nn.Module, nn.Module]:
    """The body, which returns `last_hidden_state`, and the scalar head; through PEFT's wrapper where there is one."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner.model, inner.score


def _stored_head(folder: Path, head: Float32Head) -> Float32Head:
    """The head as it lies on disk, because loading a body in bfloat16 has rounded it."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stored, torch.no_grad():
            if "score.weight" in stored.keys():  # noqa: SIM118 - a file handle, not a mapping
                head.weight.copy_(stored.get_tensor("score.weight"))
    return head


def _float32_head(plain: nn.Linear) -> Float32Head:
    head = Float32Head(plain.in_features, plain.out_features, bias=plain.bias is not None)
    head.load_state_dict(plain.state_dict())
    return head.float()
