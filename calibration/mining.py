"""`rewardladder mine`: which phrases tell one set of texts from another, and a phrase set made of them.

    rewardladder mine trained.jsonl base.jsonl field=response output=phrases.yaml
    rewardladder mine answers.jsonl label=correct output=phrases.yaml
    rewardladder mine cot.jsonl plain.jsonl inside=Thought second_field=answer prompt=instruction output=phrases.yaml

Phrases are runs of 1 to 4 words, in scripts without blanks between words (Chinese, Japanese, Thai) runs of 2 to 6
characters; they are folded as `words` matching folds, and none crosses punctuation, a digit or the end of a line. Each
is counted once a document and ranked by `log_odds`, each length among its own.

Near-duplicates, of which one contains the other, are merged by this rule, from the highest z on:

1. a phrase of whose documents (in the first set) at least `merge_share` hold a longer candidate is a part of that
   expression and is merged into it ("the other hand" into "on the other hand");
2. then a phrase is merged into one of higher z that it contains or that contains it ("let me think" into "let me").

Function words alone can be phrases: a list that is to be rewarded is read by a person first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from pydantic import Field

from calibration.folding import folded
from calibration.log_odds import log_odds
from calibration.mined_texts import Corpus, Document, read_corpus
from calibration.phrase_set import PhraseSet, checked_phrase_set
from calibration.rpr import SPACELESS, places
from configs.errors import UserError
from configs.loader import Table
from configs.records import write_bytes
from configs.terminal import interval, progress, say, show_table

MOST_WORDS = 4
CHARACTERS = (2, 6)
CONTEXT = 30
_LETTER = f"(?![{SPACELESS}])[^\\W\\d_]"
_TOKEN = re.compile(f"(?P<run>[{SPACELESS}]+)|(?:{_LETTER})+(?:['-](?:{_LETTER})+)*")


class MineTable(Table):
    """Settings of the command `mine`.

    Attributes:
        field: the field with the text: a text, a list of texts, or a list of messages (the assistant's are read).
        second_field: that of the second file, where it is another.
        label: of one file, the field that says whether a row is good (true, 1, good, correct …) or bad.
        inside: a tag; only what stands in it counts in the first set, and of one file the rest is the second set.
        prompt: the field of the first file that names the prompt; without it every row is a prompt of its own.
        min_documents: a phrase stands in at least so many documents of the first set.
        min_prompts: and answers at least so many different prompts there, which keeps the words of a topic out.
        least_z: and has at least this z; 3 is one chance in 740 for a phrase looked at alone.
        prior: weight of the prior (`log_odds`).
        merge_share: share of a phrase's documents that makes it a part of a longer one.
        phrases: so many at most are kept.
        normaliser: number of phrases worth 1 in the set that is written; by default half of them.
        output: the YAML file to write; none is written without it.
        name: name of the set; by default that of the file.
    """

    field: str = Field(default="response", min_length=1)
    second_field: str | None = None
    label: str | None = None
    inside: str | None = None
    prompt: str | None = None
    min_documents: int = Field(default=5, ge=1)
    min_prompts: int = Field(default=1, ge=1)
    least_z: float = Field(default=3.0, ge=0)
    prior: float = Field(default=0.1, gt=0)
    merge_share: float = Field(default=0.9, gt=0.5, le=1)
    phrases: int = Field(default=40, ge=1)
    normaliser: float | None = Field(default=None, gt=0)
    output: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class MinedPhrase:
    """One phrase of the list.

    Attributes:
        phrase: folded.
        first: documents of the first set that hold it.
        second: those of the second.
        prompts: different prompts among the former.
        delta: log-odds; `low` and `high` their 95 % interval.
        z: delta over its standard deviation.
        merged: the near-duplicates that it stands for, from the highest z on.
        example: a place in the first set, folded.
    """

    phrase: str
    first: int
    second: int
    prompts: int
    delta: float
    low: float
    high: float
    z: float
    merged: tuple[str, ...] = ()
    example: str = ""


@dataclass(frozen=True)
class Mined:
    """What was found: the kept phrases, and how many there were before each step."""

    phrases: list[MinedPhrase]
    distinct: int
    candidates: int
    groups: int


def run(paths: Sequence[str], table: MineTable) -> None:
    """Mine two sets of texts, print the table and write the phrase set.

    Raises:
        UserError: the texts cannot be read, no phrase passes, or the output is no YAML file.
    """
    if table.output is not None and Path(table.output).suffix not in (".yaml", ".yml"):
        raise UserError(f"mine: output {table.output!r} is no YAML file; name one, for example output=phrases.yaml")
    output = None if table.output is None else _output_file(table.output)
    corpus = read_corpus(paths, table.field, table.second_field, table.label, table.inside, table.prompt)
    mined = mine(corpus, table)
    show(corpus, mined, table)
    if not mined.phrases:
        raise UserError(
            f"mine: none of {mined.distinct} phrases stands in at least {table.min_documents} documents and "
            f"{table.min_prompts} prompts with z of at least {table.least_z:g}; give more texts or lower these"
        )
    if output is not None:
        phrase_set = as_phrase_set(corpus, mined, table)
        tree = phrase_set.model_dump(mode="json", exclude_defaults=True)
        text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False, width=110)
        try:
            write_bytes(output, text.encode())
        except OSError as error:
            raise UserError(f"mine: output {output} cannot be written ({error}); name another file") from None
        say(f"written: {output}, {len(phrase_set.phrases)} phrases; use it as calibration.phrases={output}")


def _output_file(name: str) -> Path:
    try:
        path = Path(name).expanduser()
        if path.is_dir() or "\0" in name:
            raise ValueError("a folder" if path.is_dir() else "it holds a NUL")
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # the last for the home of nobody
        raise UserError(f"mine: output {name!r} cannot be written ({error}); name another file") from None
    return path


def mine(corpus: Corpus, table: MineTable) -> Mined:
    """The phrases that tell the first set from the second, best first."""
    both = (("the first set", corpus.first), ("the second set", corpus.second))
    held = [[phrases_of(document.text) for document in progress(side, f"phrases of {what}")] for what, side in both]
    first, second = (Counter(phrase for document in side for phrase in document) for side in held)
    scored: list[MinedPhrase] = []
    by_length: dict[tuple[bool, int], list[str]] = {}
    for phrase in first.keys() | second.keys():
        by_length.setdefault(_length(phrase), []).append(phrase)
    prompts = [document.prompt for document in corpus.first]
    for phrases in by_length.values():
        odds = log_odds([first[phrase] for phrase in phrases], [second[phrase] for phrase in phrases], table.prior)
        for place in np.flatnonzero(odds.z >= table.least_z):
            phrase = phrases[place]
            if first[phrase] < table.min_documents:
                continue
            asked = len({prompt for prompt, document in zip(prompts, held[0], strict=True) if phrase in document})
            if asked >= table.min_prompts:
                delta, low, high, z = (float(part[place]) for part in odds)
                scored.append(MinedPhrase(phrase, first[phrase], second[phrase], asked, delta, low, high, z))
    scored.sort(key=lambda found: (-found.z, found.phrase))
    groups = merged(scored, table.merge_share)
    kept = [
        replace(found, merged=names, example=example(found.phrase, corpus.first, held[0]))
        for found, names in groups[: table.phrases]
    ]
    return Mined(kept, sum(map(len, by_length.values())), len(scored), len(groups))


def phrases_of(text: str) -> frozenset[str]:
    """All phrases of one text, each once."""
    return frozenset(_phrases(text))


def _phrases(text: str) -> Iterator[str]:
    for line in text.splitlines():
        line = folded(line)
        words: list[str] = []
        end = -1
        for token in _TOKEN.finditer(line):
            if token["run"]:
                yield from _runs(token["run"])
                words = []
            else:
                follows = line[end : token.start()] == " "
                words = [*words[1 - MOST_WORDS :], token[0]] if follows else [token[0]]
                for size in range(1, len(words) + 1):
                    yield " ".join(words[-size:])
            end = token.end()


def _runs(run: str) -> Iterator[str]:
    shortest, longest = CHARACTERS
    for start in range(len(run)):
        for end in range(start + shortest, min(start + longest, len(run)) + 1):
            yield run[start:end]


def _is_spaceless(phrase: str) -> bool:
    return re.match(f"[{SPACELESS}]", phrase) is not None


def _length(phrase: str) -> tuple[bool, int]:
    return (True, len(phrase)) if _is_spaceless(phrase) else (False, phrase.count(" ") + 1)


def parts_of(phrase: str) -> frozenset[str]:
    """The shorter phrases in a phrase: runs of its words, or of its characters in scripts without blanks."""
    if _is_spaceless(phrase):
        return frozenset(_runs(phrase)) - {phrase}
    words = phrase.split(" ")
    spans = ((start, end) for start in range(len(words)) for end in range(start + 1, len(words) + 1))
    return frozenset(" ".join(words[start:end]) for start, end in spans) - {phrase}


def merged(scored: Sequence[MinedPhrase], merge_share: float) -> list[tuple[MinedPhrase, tuple[str, ...]]]:
    """Merge near-duplicates by the rule of the module docstring; `scored` is ordered by z."""
    within: dict[str, list[MinedPhrase]] = {}
    for found in scored:
        for part in parts_of(found.phrase):
            within.setdefault(part, []).append(found)
    whole: dict[str, str] = {}
    for short in scored:
        longer = [found for found in within.get(short.phrase, ()) if found.first >= merge_share * short.first]
        if longer:
            whole[short.phrase] = max(longer, key=lambda found: (len(found.phrase), found.z)).phrase
    groups: dict[str, list[str]] = {}
    rank: dict[str, int] = {}
    first_with: dict[str, str] = {}  # the first kept phrase that contains a part
    for phrase in (found.phrase for found in scored if found.phrase not in whole):
        near = [kept for kept in parts_of(phrase) if kept in groups]
        home = min([*near, *([first_with[phrase]] if phrase in first_with else [])], key=rank.__getitem__, default=None)
        if home is None:
            groups[phrase], rank[phrase] = [], len(rank)
            for part in parts_of(phrase):
                first_with.setdefault(part, phrase)
        else:
            groups[home].append(phrase)
    home_of = {name: kept for kept, names in groups.items() for name in (kept, *names)}
    for part, expression in whole.items():
        while expression in whole:
            expression = whole[expression]
        groups[home_of[expression]].append(part)
    return [(found, tuple(groups[found.phrase])) for found in scored if found.phrase in groups]


def example(phrase: str, documents: Sequence[Document], held: Sequence[frozenset[str]]) -> str:
    """The first place of a phrase in the documents, with what stands around it."""
    for document, phrases in zip(documents, held, strict=True):
        if phrase not in phrases:
            continue
        for line in map(folded, document.text.splitlines()):
            place = next(places(line, phrase), None)
            if place is not None:
                return f"…{line[max(0, place - CONTEXT) : place + len(phrase) + CONTEXT].strip()}…"
    return ""


def as_phrase_set(corpus: Corpus, mined: Mined, table: MineTable) -> PhraseSet:
    """The kept phrases as a set, with its origin."""
    stem = Path(table.output or "mined.yaml").stem
    settings = table.model_dump(mode="json", exclude_defaults=True, exclude={"output", "name"})
    words = " ".join(f"{key}={value}" for key, value in settings.items())
    tree = {
        "name": table.name or stem,
        "version": 1,
        "source": f"mined by `rewardladder mine`: {corpus.what[0]} ({len(corpus.first)} documents) against "
        f"{corpus.what[1]} ({len(corpus.second)} documents){', settings ' + words if words else ''}",
        "note": f"The {len(mined.phrases)} phrases of highest z (log-odds with a Dirichlet prior), from "
        f"{mined.phrases[0].z:.1f} to {mined.phrases[-1].z:.1f}, of {mined.groups} left after near-duplicates among "
        f"{mined.candidates} candidates were merged.",
        "normaliser": table.normaliser or max(1.0, len(mined.phrases) / 2),
        "matching": "words",
        "phrases": [found.phrase for found in mined.phrases],
    }
    return checked_phrase_set(tree, "mine")


def show(corpus: Corpus, mined: Mined, table: MineTable) -> None:
    """Print what was read, and the list."""
    say(f"first: {corpus.what[0]}, {len(corpus.first)} documents on {len({d.prompt for d in corpus.first})} prompts")
    say(f"second: {corpus.what[1]}, {len(corpus.second)} documents")
    for reason, number in corpus.unread.items():
        say(f"not used: {number} rows: {reason}")
    say(
        f"{mined.distinct} different phrases; {mined.candidates} in at least {table.min_documents} documents and "
        f"{table.min_prompts} prompts with z >= {table.least_z:g}; {mined.groups} after merging; "
        f"{len(mined.phrases)} kept"
    )
    show_table(
        "phrases of the first set",
        ("phrase", "z", "log-odds", "first", "second", "prompts", "stands also for", "example"),
        (
            (
                found.phrase,
                f"{found.z:.1f}",
                interval(found.delta, found.low, found.high, 2),
                found.first,
                found.second,
                found.prompts,
                _few(found.merged),
                found.example,
            )
            for found in mined.phrases
        ),
    )


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" (+{len(names) - most})" if len(names) > most else "")
