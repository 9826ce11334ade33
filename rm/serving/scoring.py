"""`rewardladder score RUNG [RUNG…] conversations.jsonl output=scores.jsonl`: files of any size, by several rungs.

Rows are read in windows; inside a window answers are scored sorted by length, and written in the order of the file, one
line an answer:

    {"line": 3, "id": null, "answer": 1, "preferred": true, "problem": null,
     "scores": {"rung-65": {"logit": 0.31, "score": 0.58, "status": "ok", "tokens": 214}}}

A pair is two such lines, answers 1 and 2. Nothing is cut: a row longer than the context is `too_long`. After a kill the
same command goes on behind the last finished window and ends with the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from pydantic import Field

from configs.errors import UserError
from configs.loader import Table
from configs.records import read_json, sha256_of_file, write_json
from configs.terminal import progress_bar, say
from rm.serving.conversations import FORMS, SUFFIXES, Answer, Row, count_rows, read_rows
from rm.serving.file_rewards import FindRewards, RungRewards, add_rewards
from rm.serving.score_places import Places
from rm.serving.score_summary import show_summary, summarise

if TYPE_CHECKING:
    from tqdm import tqdm

    from rm.serving.loaded_rungs import LoadedRung

FORMAT = 1
WINDOW_CHARACTERS = 16 << 20
"""A window also ends when its texts reach this, so that memory is bounded whatever the rows' length."""
SHOWN_PROBLEMS = 3
AnswerStatus = Literal["ok", "malformed", "too_long", "not_finite"]
ENDLESS: tuple[()] = ()
"""Stands for the token ids of a text that is surely too long."""
Encoded = list[int] | tuple[()] | str | None


class ScoreTable(Table):
    """Settings of the command `score`.

    Attributes:
        output: the file of scores to write, JSON Lines.
        max_length: rows with more tokens are `too_long`; the rung's context where it is not given.
        window_rows: rows that are read, sorted by length and scored together.
        batch_tokens: tokens that go through the model at once.
        dtype: type of the body; the head is always float32.
        cpu_threads: threads on a CPU.
    """

    output: str
    max_length: int | None = Field(None, ge=8)
    window_rows: int = Field(4096, ge=1)
    batch_tokens: int = Field(16384, ge=64)
    dtype: Literal["float32", "bfloat16"] = "float32"
    cpu_threads: int = Field(1, ge=1, le=1024)


def run(paths: Sequence[str], table: ScoreTable, rewards_of: FindRewards | None = None) -> None:
    """Score one file with one or more rungs, or go on, or find it finished, with rewards if they are handed in; print.

    Raises:
        UserError: a path is no rung or no file of conversations, or the output was made from something else.
    """
    folders, source = sort_paths(paths)
    places = Places(Path(table.output))
    places.demand_writable()
    made_from = describe(folders, source, table)
    named = zip(made_from["rungs"], folders, strict=True)
    rewards = {name: rewards_of(folder) for name, folder in named} if rewards_of else {}
    made_from["settings"] |= {f"calibrator of {name}": found.sha256 for name, found in rewards.items()}
    if places.manifest.exists():
        summary = _finished(places, made_from)
        say(f"{places.output}: finished already")
    else:
        summary = _score_file(places, made_from, folders, source, table, rewards)
    show_summary(places.output, summary)


def sort_paths(paths: Sequence[str]) -> tuple[list[Path], Path]:
    """The rungs and the one file among the paths of the command.

    Raises:
        UserError: there is no rung, or not one file.
    """
    files = [Path(path) for path in paths if path.endswith(SUFFIXES)]
    folders = [Path(path) for path in paths if not path.endswith(SUFFIXES)]
    if len(files) != 1 or not folders:
        raise UserError(
            f"score needs rung folders and one file of conversations ({', '.join(SUFFIXES)}); found "
            f"{len(folders)} folders and {len(files)} files"
        )
    if files[0].is_dir():
        raise UserError(f"{files[0]}: a folder; name a file of conversations in it")
    if not files[0].is_file():
        raise UserError(f"{files[0]}: there is no such file")
    return folders, files[0]


def describe(folders: Sequence[Path], source: Path, table: ScoreTable) -> dict[str, Any]:
    """Everything that decides the output's bytes, as plain JSON."""
    from rm.rung_digest import rung_digest
    from rm.serving.loaded_rungs import rung_names

    return {
        "format": FORMAT,
        "conversations": sha256_of_file(source),
        "rungs": {name: rung_digest(folder) for name, folder in zip(rung_names(folders), folders, strict=True)},
        "settings": table.model_dump(mode="json", exclude={"output"}),
    }


def refuse_other(place: Path, found: Any, wanted: dict[str, Any], source: str) -> None:
    """Refuse to go on with an output that was made from something else, and name the first thing that differs.

    Raises:
        UserError: `found` and `wanted` differ.
    """
    if found == wanted:
        return
    remedy = f"name another output, or delete {place} to make it anew"
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{place}: not a record of this version's score command; {remedy}")
    if found["conversations"] != wanted["conversations"]:
        raise UserError(f"{source} has changed since {place} was begun; {remedy}")
    for name in sorted({*found["rungs"], *wanted["rungs"]}):
        if found["rungs"].get(name) != wanted["rungs"].get(name):
            what = "has changed" if name in found["rungs"] and name in wanted["rungs"] else "is there or not"
            raise UserError(f"rung {name} {what} since {place} was begun; {remedy}")
    if list(found["rungs"]) != list(wanted["rungs"]):
        raise UserError(f"{place} was begun with the rungs in another order; {remedy}")
    for key, value in wanted["settings"].items():
        if found["settings"].get(key) != value:
            raise UserError(f"{place} was begun with {key}={found['settings'].get(key)}, now it is {value}; {remedy}")
    raise UserError(f"{place}: begun with other settings; {remedy}")


def _finished(places: Places, made_from: dict[str, Any]) -> dict[str, Any]:
    manifest = read_json(places.manifest)
    refuse_other(places.manifest, manifest.get("made_from"), made_from, "the file of conversations")
    if not places.output.exists() or sha256_of_file(places.output) != manifest["sha256"]:
        raise UserError(f"{places.output}: missing or altered since it was finished; delete {places.manifest} and it")
    return dict(manifest["summary"])


def _score_file(
    places: Places,
    made_from: dict[str, Any],
    folders: Sequence[Path],
    source: Path,
    table: ScoreTable,
    rewards: dict[str, RungRewards],
) -> dict[str, Any]:
    if places.output.exists() and not places.progress.exists():
        raise UserError(f"{places.output}: is there, and was not made by this command; name another output")
    began = time.monotonic()
    scored = 0
    if not places.output.exists():  # else killed between the renaming and the manifest
        with places.part.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{places.part}: another process is writing it; wait for it") from None
            try:
                scored = _write_windows(stream, places, made_from, folders, source, table, rewards)
            except UserError:
                if not places.progress.exists():
                    places.part.unlink()  # nothing was made
                raise
            places.part.replace(places.output)
    refuse_other(places.progress, read_json(places.progress)["made_from"], made_from, str(source))
    summary = summarise(places.output)
    seconds = time.monotonic() - began
    write_json(
        places.manifest,
        {
            "made_from": made_from,
            "sha256": sha256_of_file(places.output),
            "summary": summary,
            "seconds": round(seconds, 1),
        },
    )
    places.progress.unlink()
    say(f"{scored:,} answers scored in {seconds:.1f} s, {scored / seconds:,.0f} a second and rung, loading included")
    return summary


def _write_windows(
    stream: BinaryIO,
    places: Places,
    made_from: dict[str, Any],
    folders: Sequence[Path],
    source: Path,
    table: ScoreTable,
    rewards: dict[str, RungRewards],
) -> int:
    """Score what is missing, window by window; returns the number of answers scored now."""
    done = {"line": 0, "bytes": 0, "readable": 0}
    if places.progress.exists():
        record = read_json(places.progress)
        refuse_other(places.progress, record.get("made_from"), made_from, str(source))
        done |= record["done"]
    if os.fstat(stream.fileno()).st_size < done["bytes"]:
        raise UserError(f"{places.part} is shorter than {places.progress} says; delete both to begin again")
    stream.truncate(done["bytes"])  # what a kill left half written
    from rm.serving.loaded_rungs import load_rungs
    from tasks.torch_setup import prepare_torch

    prepare_torch(table.cpu_threads)
    rungs = load_rungs(folders, table.batch_tokens, table.dtype)
    limits = [_limit(rung, table.max_length) for rung in rungs]
    for rung in rungs:
        rung.sample()  # a tokenizer without a template is told now, not once a row
    problems: list[str] = []
    scored = 0
    bar = progress_bar(count_rows(source) - done["line"], "scoring rows")
    for window in windows(read_rows(source, done["line"]), table.window_rows):
        answers = sum(max(1, len(row.answers)) for row in window)
        lines = score_window(window, rungs, limits, _row_mover(bar, len(window), answers * len(rungs)))
        add_rewards(lines, window, rewards)
        found = [f"{source}, line {line['line']}: {line['problem']}" for line in lines if line["problem"]]
        problems += found[: SHOWN_PROBLEMS - len(problems)]
        content = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        readable = done["readable"] + len(lines) - len(found)
        done = {"line": window[-1].line, "bytes": done["bytes"] + len(content), "readable": readable}
        write_json(places.progress, {"made_from": made_from, "done": done})
        scored += len(lines)
    bar.close()
    if not done["line"]:
        raise UserError(f"{source}: holds no row")
    if not done["readable"]:
        places.progress.unlink()
        first = f"{problems[0]}; " if problems else ""
        raise UserError(f"{source}: none of its rows can be scored; {first}a row is {FORMS}")
    for problem in problems:
        say(f"not scored: {problem}")
    return scored


def _row_mover(bar: tqdm[Any], rows: int, scores: int) -> Callable[[int], object]:
    """Moves a bar of rows while the `scores` of these rows are made one by one, by `rows` in all."""
    made = shown = 0

    def advance(more: int) -> None:
        nonlocal made, shown
        made += more
        bar.update(rows * made // scores - shown)
        shown = rows * made // scores

    return advance


def windows(rows: Iterator[Row], most_rows: int) -> Iterator[list[Row]]:
    """Rows in windows of bounded number and bounded text, each as large as it may be, none empty."""
    window: list[Row] = []
    characters = 0
    for row in rows:
        window.append(row)
        characters += sum(len(turn["content"]) for a in row.answers for turn in a.chat) + sum(
            len(a.text) for a in row.answers
        )
        if len(window) >= most_rows or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def score_window(
    window: Sequence[Row], rungs: Sequence[LoadedRung], limits: Sequence[int], advance: Callable[[int], object]
) -> list[dict[str, Any]]:
    """The lines of a window's answers, in the order of its rows; a row without answers is one line."""
    lines: list[dict[str, Any]] = []
    answers: list[Answer | None] = []
    for row in window:
        for number, answer in enumerate(row.answers or (None,), start=1):
            preferred = answer.preferred if answer else None
            place = {"line": row.line, "id": row.name, "answer": number}
            lines.append(place | {"preferred": preferred, "problem": row.problem, "scores": {}})
            answers.append(answer)
    encoded: dict[int, list[Encoded]] = {}
    for rung, limit in zip(rungs, limits, strict=True):
        key = id(rung.scorer)  # rungs that share a base share the tokenizer too
        if key not in encoded:
            most = max(n for other, n in zip(rungs, limits, strict=True) if other.scorer is rung.scorer)
            encoded[key] = [None if answer is None else _encode(rung, answer, most) for answer in answers]
        for line, cell in zip(lines, _score_column(rung, encoded[key], limit, advance), strict=True):
            line["problem"] = line["problem"] or cell.pop("problem", None)
            line["scores"][rung.name] = cell
    return lines


def _score_column(
    rung: LoadedRung, encoded: Sequence[Encoded], limit: int, advance: Callable[[int], object]
) -> Iterator[dict[str, Any]]:
    """What one rung says of each answer; a text in place of token ids is the reason why there are none.

    An answer of far more text than the limit is not tokenised, and the number of its tokens is null.
    """
    fitting = [i for i, ids in enumerate(encoded) if isinstance(ids, list) and len(ids) <= limit]
    logits = dict(zip(fitting, rung.logits([encoded[i] for i in fitting], advance).tolist(), strict=True))  # type: ignore[misc]
    advance(len(encoded) - len(fitting))
    for i, ids in enumerate(encoded):
        logit = logits.get(i)
        if ids is ENDLESS:
            yield _cell("too_long")
        elif not isinstance(ids, list):
            yield _cell("malformed") | ({"problem": f"{rung.name}: {ids}"} if ids else {})
        elif logit is None:
            yield _cell("too_long", tokens=len(ids))
        elif not math.isfinite(logit):
            yield _cell("not_finite", tokens=len(ids))
        else:
            yield _cell("ok", logit, rung.units.score(logit), len(ids))


def _cell(
    status: AnswerStatus, logit: float | None = None, score: float | None = None, tokens: int | None = None
) -> dict[str, Any]:
    return {"logit": logit, "score": score, "status": status, "tokens": tokens}


def _encode(rung: LoadedRung, answer: Answer, most_tokens: int) -> Encoded:
    try:
        if rung.surely_longer(answer.chat, answer.text, most_tokens):
            return ENDLESS
        return rung.encode(answer.chat, answer.text)
    except (ValueError, UserError) as error:
        return str(error)


def _limit(rung: LoadedRung, wanted: int | None) -> int:
    if wanted is not None and wanted > rung.context:
        raise UserError(f"max_length: {wanted} is more than the context of {rung.name}, {rung.context} tokens")
    return wanted or rung.context
