"""Phrase sets: versioned data files in `phrases/`, or a YAML file of the user's own with the same keys."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from calibration.folding import folded
from configs.errors import UserError
from configs.loader import Table, parse_yaml
from configs.records import sha256_of_record

FOLDER = Path(__file__).parent / "phrases"

Matching = Literal["substring", "words"]
"""`substring`: the lower-cased text contains the phrase, as in the paper's code. `words`: after Unicode folding, and
only where the phrase stands as whole words (`rpr.py`)."""
Counting = Literal["presence", "frequency"]
"""`presence`: a phrase counts once however often it occurs, as in the paper's code. `frequency`: as often as it occurs,
up to `cap` times."""
ADDED_SINCE_VERSION_1 = {"counting": "presence", "cap": None}
"""Left out of the digest where they say nothing, so that the digest of a set from before them is what it was."""


class PhraseSet(Table):
    """One list of phrases and how a text is measured against it.

    Attributes:
        name: as in `calibration.phrases`.
        version: raised with every change of the list.
        source: where the phrases come from.
        note: what a reader must know of them.
        normaliser: the number of counted phrases that is worth 1; `n` in a file is the number of phrases.
        ngram: repeated runs of so many words are subtracted.
        matching: what counts as an occurrence.
        phrases: in the order of the source; blanks at the ends count under `substring`.
        subtracted: each occurrence of one of these costs 1.
        counting: whether a phrase counts once or as often as it occurs.
        cap: under `frequency`, the most that one phrase counts.
    """

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    source: str
    note: str
    normaliser: float = Field(gt=0, allow_inf_nan=False)
    ngram: int = Field(default=20, ge=1)
    matching: Matching
    phrases: tuple[str, ...] = Field(min_length=1)
    subtracted: tuple[str, ...] = ()
    counting: Counting = "presence"
    cap: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _n_is_the_number_of_phrases(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("normaliser") == "n" and isinstance(data.get("phrases"), (list, tuple)):
            return {**data, "normaliser": max(1, len(data["phrases"]))}
        return data

    @model_validator(mode="after")
    def _can_all_match(self) -> Self:
        for phrase in (*self.phrases, *self.subtracted):
            if not phrase.strip():
                raise ValueError("an empty phrase stands in every text; remove it")
            if phrase != phrase.lower():
                raise ValueError(f"{phrase!r} can never match, because texts are lower-cased; write {phrase.lower()!r}")
            if self.matching == "words" and folded(phrase) != phrase.strip(" "):
                raise ValueError(f"{phrase!r} can never match, because texts are folded; write {folded(phrase)!r}")
        twice = sorted(phrase for phrase, times in Counter(self.phrases).items() if times > 1)
        if twice:
            raise ValueError(f"{twice[0]!r} stands twice; each phrase counts once")
        if self.counting == "frequency" and self.cap is None:
            raise ValueError(
                "counting: frequency needs a cap, or saying one phrase over and over is worth 1; add cap: 3"
            )
        if self.counting == "presence" and self.cap is not None:
            raise ValueError("cap means nothing with counting: presence; remove it or write counting: frequency")
        return self

    @property
    def sha256(self) -> str:
        """The digest of everything in the set."""
        record = self.model_dump(mode="json")
        for key, default in ADDED_SINCE_VERSION_1.items():
            if record[key] == default:
                del record[key]
        return sha256_of_record(record)

    def changed(
        self,
        normaliser: float | Literal["n"] | None,
        ngram: int | None,
        cap: int | None = None,
        counting: Counting | None = None,
    ) -> PhraseSet:
        """The same phrases with another normaliser, n-gram length, cap or counting, where one is given.

        `n` as the normaliser is the number of phrases. A cap makes the counting `frequency`; a cap of 1 is presence.

        Raises:
            UserError: `frequency` without a cap, in a set that has none.
        """
        changes: dict[str, Any] = {"normaliser": len(self.phrases) if normaliser == "n" else normaliser, "ngram": ngram}
        found = self.model_copy(update={key: value for key, value in changes.items() if value is not None})
        if counting == "presence":
            return found.model_copy(update={"counting": "presence", "cap": None})
        if cap is None and counting == "frequency" and self.cap is None:
            raise UserError(
                f"calibration.counting: frequency needs a cap, and the phrase set {self.name} has none; add "
                "calibration.cap=3"
            )
        return found if cap is None else found.model_copy(update={"counting": "frequency", "cap": cap})


def known_sets() -> list[str]:
    """The names of the sets that come with the tool."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_phrase_set(name_or_path: str) -> PhraseSet:
    """The set of that name, or the set in that YAML file (anything that ends in .yaml or holds a slash is a path).

    Raises:
        UserError: there is no such set or file, or it is not a phrase set.
    """
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        return read_phrase_set(Path(name_or_path))
    known = known_sets()
    if name_or_path not in known:
        near = difflib.get_close_matches(name_or_path, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(known)}, or the path of a YAML file"
        raise UserError(f"calibration.phrases: there is no phrase set {name_or_path!r}; {hint}")
    return read_phrase_set(FOLDER / f"{name_or_path}.yaml")


def read_phrase_set(path: Path) -> PhraseSet:
    """Read one phrase set file."""
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such phrase set file") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        place = str(path).replace("\0", "\\0")
        raise UserError(f"{place}: not readable as YAML ({' '.join(str(error).split())})") from None
    return checked_phrase_set(tree, str(path))


def checked_phrase_set(tree: Any, where: str) -> PhraseSet:
    """A phrase set from plain data; `where` begins the error sentence."""
    if not isinstance(tree, dict):
        raise UserError(f"{where}: not a phrase set; a table of keys is needed: {', '.join(PhraseSet.model_fields)}")
    _refuse_nested(tree, where)
    try:
        return PhraseSet.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"].lower()
        raise UserError(
            f"{where}: not a phrase set ({f'{place}: ' if place else ''}{reason}); "
            f"its keys are {', '.join(PhraseSet.model_fields)}"
        ) from None


def _refuse_nested(tree: dict[Any, Any], where: str) -> None:
    """Lists in lists, which YAML's aliases can make of any size."""
    for key, value in tree.items():
        if isinstance(value, (list, tuple)) and any(isinstance(part, (list, tuple, dict)) for part in value):
            raise UserError(f"{where}: not a phrase set ({key}: a list of texts is needed, found lists in it)")
