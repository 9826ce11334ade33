"""Read an experiment: one YAML file, dotted overrides, one table a room, unknown keys refused by name.

A YAML file has the keys of `Experiment` (`name`, `seed`, `runs_dir`) and one table a room. Each room owns the
pydantic model of its own table and reads only that table and those to its left; the others are left alone, so that
a change of the judge's settings never makes a trained reward model look out of date.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from configs.errors import UserError

ROOMS = ("tasks", "rm", "calibration", "policy", "judge", "curve")
TOP_KEYS = ("name", "seed", "runs_dir")
MERGE_TAG = "tag:yaml.org,2002:merge"
_UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises: besides its own errors ValueError for a date such as 2026-99-99, and RecursionError."""
_UNION_TAGS = ("str", "int", "float", "bool", "list[", "dict[")
"""Beginnings of what pydantic puts into the place of an error for each alternative of `str | int | list[int]`."""


class Table(BaseModel):
    """Base of every room's table: immutable, and a key that is not a field is an error.

    NaN and infinities are refused, because the manifest that records the settings is JSON; so is `true` for a number,
    which Python would take for 1, and a text that no file, path or page could hold (a NUL, half a surrogate pair).
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        leaves = _leaves(cls.model_fields[str(info.field_name)].annotation)
        found = _truth_value_in(value)
        if found is not None and leaves & {int, float} and not any(map(_takes_truth_value, leaves)):
            raise ValueError(f"should be a number, found {str(found).lower()}")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _texts_can_be_written(cls, value: Any) -> Any:
        for text in _texts_in(value):
            if any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in text):
                raise ValueError(f"holds a NUL or half a surrogate pair, which no file can hold; found {text!r}")
        return value


TableT = TypeVar("TableT", bound=Table)


MOST_VALUES = 1_000_000
"""Of one YAML text, aliases written out: a hundred characters of nested aliases stand for billions."""


@dataclass(frozen=True)
class Experiment:
    """One experiment as described: where it was read, its name and seed, and the raw tables of the rooms."""

    source: str
    name: str
    seed: int
    runs_dir: Path
    tables: dict[str, dict[str, Any]]

    @property
    def folder(self) -> Path:
        """Where all of the experiment's stages lie."""
        return self.runs_dir / self.name

    def table(self, room: str, model: type[TableT]) -> TableT:
        """Validate one room's table.

        Raises:
            UserError: an unknown key, a missing key or a value that is not allowed.
        """
        try:
            return model.model_validate(self.tables.get(room, {}))
        except ValidationError as error:
            raise UserError(f"{self.source}: {_explain(error, room, model)}") from None

    def with_overrides(self, overrides: dict[str, Any]) -> Experiment:
        """The same experiment with dotted keys (`policy.rung`) replaced by values."""
        tables = {room: dict(table) for room, table in self.tables.items()}
        for dotted, value in overrides.items():
            _set_dotted(tables, dotted.split("."), value, dotted)
        return Experiment(self.source, self.name, self.seed, self.runs_dir, tables)


def _leaves(annotation: Any) -> set[Any]:
    """The types and literal values that an annotation is made of: `list[int | None]` -> {int, NoneType}."""
    arguments = get_args(annotation)
    return set().union(*map(_leaves, arguments)) if arguments else {annotation}


def _takes_truth_value(leaf: Any) -> bool:
    """Whether a field with this type may hold `true`: itself, or in a table with validators of its own."""
    return leaf in (bool, Any, object) or (isinstance(leaf, type) and issubclass(leaf, BaseModel))


def _truth_value_in(value: Any) -> bool | None:
    """The first `true` or `false` in a value, its lists and its tables; None where there is none."""
    if isinstance(value, bool):
        return value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return next((found for found in map(_truth_value_in, inside) if found is not None), None)


def _texts_in(value: Any) -> Iterator[str]:
    """Every text in a value, its lists and its tables, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in (*value, *value.values()):
            yield from _texts_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts_in(part)


class _StrictYaml(yaml.SafeLoader):
    """YAML without duplicate keys: the second of two would silently win."""


def _mapping_without_duplicates(loader: _StrictYaml, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == MERGE_TAG:
            continue  # `<<: *defaults`, whose keys may be replaced
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictYaml.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def parse_yaml(text: str) -> Any:
    """Plain data from YAML; a key that stands twice is an error.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is not readable, or its aliases multiply without end.
    """
    found = yaml.load(text, _StrictYaml)  # noqa: S506 - a safe loader
    if _written_out(found, {}) > MOST_VALUES:
        raise ValueError(f"aliases (*name) write it out to more than {MOST_VALUES} values")
    return found


def _written_out(value: Any, counted: dict[int, int]) -> int:
    """How many values there are when every alias is written out; counted in the time of those that are there."""
    inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    if inside is None:
        return 1
    if id(value) not in counted:
        counted[id(value)] = MOST_VALUES + 1  # what a value that contains itself finds
        counted[id(value)] = 1 + sum(_written_out(child, counted) for child in inside)
    return counted[id(value)]


def load_experiment(path: Path, overrides: list[str] | None = None) -> Experiment:
    """Read `path` and apply overrides such as `rm.learning_rate=2e-3` or `seed=1`.

    Raises:
        UserError: the file cannot be read, a key is unknown or a value is not allowed.
    """
    tree = _read_yaml(path)
    for override in overrides or []:
        dotted, value = _read_override(override)
        _set_dotted(tree, dotted.split("."), value, dotted)
    for key in tree:
        if key not in (*TOP_KEYS, *ROOMS):
            raise UserError(f"{path}: {_unknown_key(str(key), '', (*TOP_KEYS, *ROOMS))}")
    for room in ROOMS:
        if tree.get(room) is None:
            tree[room] = {}
        if not isinstance(tree[room], dict):
            raise UserError(f"{path}: {room} must be a table of keys, found {_kind(tree[room])}")
    name = tree.get("name", path.stem)
    if (
        not isinstance(name, str)
        or not name
        or any(c in "/\\" or not c.isprintable() for c in name)
        or name.startswith(".")
    ):
        raise UserError(f"{path}: name must be a plain folder name, found {name!r}")
    seed = tree.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"{path}: seed must be a whole number of at least 0, found {seed!r}")
    runs_dir = tree.get("runs_dir", "runs")
    if not isinstance(runs_dir, str) or not runs_dir or not runs_dir.isprintable():
        raise UserError(f"{path}: runs_dir must be a folder, found {runs_dir!r}")
    return Experiment(str(path), name, seed, Path(runs_dir).expanduser(), {room: tree[room] for room in ROOMS})


def read_words(words: Sequence[str], model: type[TableT], command: str) -> tuple[list[str], TableT]:
    """A tool's arguments: paths, and settings written `key=value`, in any order.

    A word with `=` is a setting where it begins like a key and no such file exists.

    Raises:
        UserError: an unknown key or a value that is not allowed.
    """
    paths: list[str] = []
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and key.replace(".", "_").isidentifier() and not is_a_file(word):
            dotted, value = _read_override(word)
            _set_dotted(settings, dotted.split("."), value, dotted)
        else:
            paths.append(word)
    try:
        return paths, model.model_validate(settings)
    except ValidationError as error:
        raise UserError(f"{command}: {_explain(error, '', model)}") from None


def is_a_file(word: str) -> bool:
    """Whether a word of a command line is the path of something that is there; a long setting is no path at all."""
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def _read_override(override: str) -> tuple[str, Any]:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"override {override!r}: write it as key=value, for example rm.learning_rate=2e-3")
    try:
        return dotted, parse_yaml(text)
    except _UNREADABLE:
        raise UserError(f"override {override!r}: the value is not readable as YAML") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = _near(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else None
        hint = f"; did you mean {path.parent / near}?" if near else ""
        raise UserError(f"{path}: there is no such file{hint}") from None
    except (OSError, ValueError) as error:  # no UTF-8, or a NUL in the path
        place = str(path).replace("\0", "\\0")
        raise UserError(f"{place}: not readable as text ({error})") from None
    try:
        tree = parse_yaml(text)
    except _UNREADABLE as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{path}{where}: not readable as YAML ({what})") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: an experiment is a table of keys, found {_kind(tree)}")
    return tree


def _set_dotted(tree: dict[str, Any], keys: list[str], value: Any, dotted: str) -> None:
    place = tree
    for depth, key in enumerate(keys[:-1]):
        if place.get(key) is None:
            place[key] = {}
        if not isinstance(place[key], dict):
            raise UserError(f"override {dotted!r}: {'.'.join(keys[: depth + 1])} is a value, not a table")
        place[key] = dict(place[key])
        place = place[key]
    place[keys[-1]] = value


def _explain(error: ValidationError, room: str, model: type[BaseModel]) -> str:
    """One sentence for the first complaint of pydantic, in the words of the YAML file."""
    complaints = error.errors()
    # A mistyped key is the likelier mistake than the missing one that it leaves behind.
    first = next((one for one in complaints if one["type"] == "extra_forbidden"), complaints[0])
    place = ".".join(str(part) for part in (room, *first["loc"]) if part != "")
    found = first.get("input")
    if first["type"] == "extra_forbidden":
        owner = _model_at(model, first["loc"][:-1])
        return _unknown_key(str(first["loc"][-1]), place.rpartition(".")[0], tuple(owner.model_fields) if owner else ())
    if first["type"] == "missing":
        return f"{place} is missing and has no default"
    if first["type"] == "literal_error":
        allowed = first["ctx"]["expected"].replace("'", "")
        near = _near(str(found), [word.strip() for word in allowed.replace(" or ", ", ").split(",")])
        return f"{place}: {found!r} is not allowed; choose {allowed}" + (f"; did you mean {near}?" if near else "")
    if first["type"] in ("value_error", "assertion_error"):
        return f"{place}: {first['ctx']['error']}"
    location = _without_union_tags(first["loc"])
    alternatives = [e["msg"] for e in error.errors() if _without_union_tags(e["loc"]) == location]
    messages = dict.fromkeys(text.removeprefix("Input ").removeprefix("should be ") for text in alternatives)
    message = first["msg"].removeprefix("Input ")
    if len(messages) > 1:
        message = f"should be {' or '.join(messages)}"
    place = ".".join(str(part) for part in (room, *location) if part != "")
    return f"{place}: {message[0].lower()}{message[1:]}, found {found!r}"


def _without_union_tags(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(part for part in location if isinstance(part, int) or not part.startswith(_UNION_TAGS))


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model that owns the table at `location`, or None where it is not a table of known keys."""
    owner: Any = model
    for part in location:
        if isinstance(owner, type) and issubclass(owner, BaseModel):
            if part not in owner.model_fields:
                continue  # the tag of a union, which pydantic puts into the location
            owner = owner.model_fields[str(part)].annotation
        else:
            arguments = [a for a in get_args(owner) if a is not type(None)]
            owner = arguments[-1] if arguments else None
        if get_origin(owner) in (Union, UnionType):
            owner = next((a for a in get_args(owner) if a is not type(None)), None)
    return owner if isinstance(owner, type) and issubclass(owner, BaseModel) else None


def _unknown_key(key: str, table: str, known: tuple[str, ...]) -> str:
    prefix = f"{table}." if table else ""
    near = _near(key, list(known))
    hint = f"; did you mean {prefix}{near}?" if near else f"; the keys here are {', '.join(known)}"
    return f"{prefix}{key} is not a key{hint}"


def _near(word: str, known: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), None)


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}.get(
        type(value), type(value).__name__
    )
