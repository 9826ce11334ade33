"""Rungs in memory: adapters of one base share it, and the one that is asked scores.

A rung whose weights are complete is loaded as it is. Adapters of the same base, with the same tokenizer, are put on one
copy of the base and take turns (PEFT's `set_adapter`, which also switches the head).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from peft import LoraConfig
from safetensors import SafetensorError, safe_open

from configs.errors import UserError
from configs.records import read_json, sha256_of_file, sha256_of_record
from rm.answer_form import AnswerForm
from rm.rung_digest import ADAPTER_CONFIG, CARD_FILE
from rm.scorer import RungScorer, encode_answer, score_ids
from rm.serving.length_bound import characters_per_token, normalised_length
from rm.units import ScoreUnits
from tasks.records import Message

HEAD = ".score.weight"
FIRST_ADAPTER = "default"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedRung:
    """A rung that can score.

    Attributes:
        name: its name in outputs.
        folder: where it lies.
        scorer: its tokenizer and model; adapters of one base share them.
        adapter: the adapter to switch on; None where the rung has complete weights.
        units: its score units.
        card: its card; empty where the folder has none.
        context: the longest row that its backbone can read, in tokens.
    """

    name: str
    folder: Path
    scorer: RungScorer
    adapter: str | None
    units: ScoreUnits
    card: dict[str, Any]
    context: int

    @property
    def form(self) -> AnswerForm:
        """The form in which it reads answers."""
        return AnswerForm.of_card(self.card)

    def encode(self, chat: Sequence[Message], text: str, as_is: bool = False) -> list[int]:
        """Token ids of a response in the rung's form, or as it is, as `rm.scorer.encode_answer`.

        Raises:
            ValueError: the rung's chat template refuses the chat, for example a role that it does not know.
        """
        try:
            return encode_answer(self.scorer.tokenizer, chat, text if as_is else self.form.shown(text))
        except TemplateError as error:
            raise _refused_chat(error) from None

    def sample(self) -> list[int]:
        """Token ids of a plain chat.

        Raises:
            UserError: the tokenizer has no chat template, or it refuses even this chat.
        """
        try:
            return self.encode([{"role": "user", "content": "Hello"}], "Hello")
        except ValueError as error:
            raise UserError(f"{self.folder}: {error}") from None

    def surely_longer(self, chat: Sequence[Message], text: str, limit: int) -> bool:
        """Whether an answer has more text than `limit` tokens can hold; far cheaper than its tokens.

        Raises:
            ValueError: the rung's chat template refuses the chat.
        """
        most = None if self._characters is None else self._characters * limit
        if most is None or sum(len(turn["content"]) for turn in chat) + len(text) <= most:
            return False
        tokenizer: Any = self.scorer.tokenizer
        try:  # a template may leave parts of a chat out
            turns = [*chat, {"role": "assistant", "content": text}]
            templated = tokenizer.apply_chat_template(turns, tokenize=False)
        except TemplateError as error:
            raise _refused_chat(error) from None
        return normalised_length(tokenizer, templated) > most

    @cached_property
    def _characters(self) -> int | None:
        return characters_per_token(self.scorer.tokenizer)

    def logits(
        self, rows: Sequence[Sequence[int]], advance: Callable[[int], object] = lambda done: None
    ) -> NDArray[Any]:
        """Raw logits of tokenised rows, shape (N,)."""
        model: Any = self.scorer.model
        if self.adapter is not None and model.active_adapter != self.adapter:
            model.set_adapter(self.adapter)
        return score_ids(model, rows, self.scorer.batch_tokens, advance)


def _refused_chat(error: TemplateError) -> ValueError:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ValueError(f"the rung's chat template refuses the chat: {first}")


def load_rungs(folders: Sequence[Path], batch_tokens: int, dtype: str = "float32") -> list[LoadedRung]:
    """Load rungs, a shared base once, on the GPU where there is one.

    Raises:
        UserError: a folder is no rung or cannot be loaded, or two are the same.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shared: dict[tuple[str, str], RungScorer] = {}
    rungs: list[LoadedRung] = []
    for name, folder in zip(rung_names(folders), folders, strict=True):
        demand_head(folder)
        units = ScoreUnits.load(folder)
        card = read_json(folder / CARD_FILE) if (folder / CARD_FILE).exists() else {}
        adapter = None
        if (folder / ADAPTER_CONFIG).exists():
            place = (str(LoraConfig.from_pretrained(folder).base_model_name_or_path), _tokenizer_digest(folder))
            adapter = FIRST_ADAPTER if place not in shared else f"adapter_{len(rungs)}"
            if place in shared:
                _add_adapter(shared[place], folder, adapter)
            else:
                shared[place] = RungScorer(folder, batch_tokens, device, DTYPES[dtype])
            scorer = shared[place]
        else:
            scorer = RungScorer(folder, batch_tokens, device, DTYPES[dtype])
        context = int(getattr(scorer.model.config, "max_position_embeddings", 0) or 0)
        if not context:
            raise UserError(f"{folder}: its config.json has no max_position_embeddings, so its context is not known")
        rungs.append(LoadedRung(name, folder, scorer, adapter, units, card, context))
    return rungs


def _add_adapter(scorer: RungScorer, folder: Path, name: str) -> None:
    try:
        scorer.model.load_adapter(str(folder), adapter_name=name)
    except (OSError, ValueError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{folder}: the adapter does not fit the base of the others: {first}") from None
    scorer.model.eval()


def demand_head(folder: Path) -> None:
    """Refuse weights without a trained head: Transformers would draw one at random and say so in a warning.

    Raises:
        UserError: the folder has no safetensors, a broken one, or none with a head.
    """
    names: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as stored:
                names += stored.keys()
        except SafetensorError as error:
            raise UserError(f"{path}: not a whole safetensors file ({error}); make or fetch it again") from None
    if not names:
        raise UserError(f"{folder}: no rung (there is no .safetensors file with weights)")
    if not any(f".{name}".endswith(HEAD) for name in names):
        raise UserError(
            f"{folder}: its weights hold no head ({HEAD[1:]}), so it cannot score; train and save an adapter "
            'with modules_to_save: ["score"]'
        )


def rung_names(folders: Sequence[Path]) -> list[str]:
    """A name for each rung: the last parts of its path, as few as tell it from the others; mostly its folder's name.

    Raises:
        UserError: a folder stands twice.
    """
    places = [folder.resolve().parts for folder in folders]
    names = []
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{folder}: named twice; name each rung once")
        kept = 1
        while sum(other[-kept:] == place[-kept:] for other in places) > 1:
            kept += 1
        names.append("/".join(place[-kept:]))
    return names


def _tokenizer_digest(folder: Path) -> str:
    return sha256_of_record(
        {name: sha256_of_file(folder / name) for name in TOKENIZER_FILES if (folder / name).exists()}
    )
