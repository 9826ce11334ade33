"""People as judges: pairs to rate blind, ratings of several raters, and how far these agree.

A pair is named by the hash of its conversation and both answers, which also decides which answer is shown first; so a
rater cannot tell which policy wrote which, a pair that several policies share is rated once, and ratings stay valid
whatever is judged later. `sheet.csv` holds the pairs. Ratings are files `ratings-NAME.csv` in the same folder with the
columns `pair` and `rating` (1, 2 or tie): a copy of the sheet filled in by hand, or what `rewardladder rate` writes.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from configs.errors import UserError
from configs.keyed import keyed_rng, keyed_uniform
from configs.records import sha256_of_record, write_bytes, write_json
from configs.terminal import interval, say
from judge.answers import Question, verdict_of
from judge.prompting import Texts, shown_texts
from judge.verdicts import Shown, Verdict, Winner, majority
from tasks.records import Message

PEOPLE_FOLDER = "people"
SHEET_FILE = "sheet.csv"
AGREEMENT_FILE = "agreement.json"
RATINGS = "ratings-*.csv"
SHEET_COLUMNS = ("pair", "conversation", "response_1", "response_2", "rating")
RESAMPLES = 2000
CODE_LENGTH = 16
LONGEST_FIELD = 2**31 - 1
"""The module `csv` refuses fields over 128 kB by itself."""

Rating = Literal["1", "2", "tie"]
WORDS: dict[str, Rating] = {"1": "1", "2": "2", "tie": "tie", "0": "tie", "=": "tie", "1.0": "1", "2.0": "2"}
"""What may stand in the column `rating`; spreadsheets like to turn numbers into others."""


@dataclass(frozen=True)
class BlindPair:
    """A pair as raters see it."""

    code: str
    messages: list[Message]
    response_1: str
    response_2: str


def blind(texts: Texts) -> BlindPair:
    """The pair without a trace of who wrote what; the same whichever answer is given first."""
    both = sorted((texts.first, texts.second))
    code = sha256_of_record([texts.messages, both])[:CODE_LENGTH]
    if keyed_uniform(0, "people", code) < 0.5:
        both.reverse()
    return BlindPair(code, texts.messages, both[0], both[1])


def write_sheet(path: Path, pairs: Sequence[BlindPair]) -> None:
    """Write the pairs for a spreadsheet, in an order that says nothing."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(SHEET_COLUMNS)
    for pair in sorted(pairs, key=lambda pair: pair.code):
        writer.writerow([pair.code, *map(_no_formula, (_transcript(pair), pair.response_1, pair.response_2)), ""])
    write_bytes(path, stream.getvalue().encode("utf-8-sig", "replace"))


def read_ratings(folder: Path) -> dict[str, dict[str, Rating]]:
    """All ratings of a folder: pair -> rater -> rating.

    A rater is the column `rater` or the file's name; an empty rating is a pair that was not rated. A rater who rated a
    pair twice has changed their mind: the last counts.

    Raises:
        UserError: a file is not a table with the columns `pair` and `rating`, or a rating is none.
    """
    found: dict[str, dict[str, Rating]] = {}
    for path in sorted(folder.glob(RATINGS)):
        for number, row in enumerate(_rows(path), start=2):
            text = (row.get("rating") or "").strip().lower()
            if not text:
                continue
            if text not in WORDS:
                raise UserError(
                    f"{path}, row {number}: the rating {text!r} is none; write 1, 2 or tie, or leave it empty"
                )
            rater = (row.get("rater") or "").strip() or path.stem.removeprefix("ratings-")
            found.setdefault((row["pair"] or "").strip(), {})[rater] = WORDS[text]
    return found


def rating_files(folder: Path) -> list[Path]:
    """The files of ratings, sorted."""
    return sorted(folder.glob(RATINGS))


def agreement(ratings: Mapping[str, Mapping[str, Rating]]) -> dict[str, Any]:
    """How far raters agree: Fleiss' kappa over the pairs that the usual number of raters rated.

    Fleiss' kappa (Fleiss 1971) wants the same number of ratings for each pair; pairs with another number are counted
    and left out. Its interval is a percentile bootstrap over pairs.

    Returns:
        raters, pairs, pairs_in_kappa, ratings_per_pair, kappa with kappa_lo and kappa_hi, and agreement (the share of
        pairs of ratings that are the same). None where fewer than two raters rated any pair, or all said the same.
    """
    from statsmodels.stats.inter_rater import aggregate_raters

    raters = sorted({rater for one in ratings.values() for rater in one})
    sizes = Counter(len(one) for one in ratings.values() if len(one) > 1)
    record: dict[str, Any] = {
        "raters": {rater: sum(rater in one for one in ratings.values()) for rater in raters},
        "pairs": len(ratings),
        "pairs_in_kappa": 0,
        "ratings_per_pair": None,
        **dict.fromkeys(("kappa", "kappa_lo", "kappa_hi", "agreement")),
    }
    if not sizes:
        return record
    usual = max(sizes, key=lambda size: (sizes[size], size))
    chosen = [sorted(ratings[code].values()) for code in sorted(ratings) if len(ratings[code]) == usual]
    table, _ = aggregate_raters(np.array(chosen), n_cat=None)
    kappa, rng = _kappa(table), keyed_rng(0, "fleiss")
    drawn = (table[rng.integers(len(table), size=len(table))] for _ in range(RESAMPLES if kappa is not None else 0))
    known = [one for one in map(_kappa, drawn) if one is not None]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) > RESAMPLES // 2 else (None, None)
    same = float((table * (table - 1)).sum() / (len(table) * usual * (usual - 1)))
    record |= {"pairs_in_kappa": len(table), "ratings_per_pair": usual, "kappa": kappa, "agreement": same}
    return {
        **record,
        "kappa_lo": None if low is None else float(low),
        "kappa_hi": None if high is None else float(high),
    }


class RatedPairs:
    """The ratings of a folder as a judge; pairs without enough of them are written into the sheet.

    Args:
        folder: where the sheet and the ratings lie.
        min_raters: so many ratings a pair needs; the majority decides, and where there is none it is a tie.
    """

    def __init__(self, folder: Path, min_raters: int) -> None:
        self.folder, self.min_raters = folder, min_raters

    def decide(self, questions: Sequence[Question], what: str) -> list[Verdict]:
        """One verdict a question, in their order; both orders of a pair have the same winner.

        Raises:
            UserError: pairs lack ratings; the sheet to be rated is then complete.
        """
        del what
        texts = [shown_texts(question) for question in questions]
        pairs = {pair.code: pair for pair in map(blind, texts)}
        ratings = {code: given for code, given in read_ratings(self.folder).items() if code in pairs}
        lacking = [code for code in pairs if len(ratings.get(code, {})) < self.min_raters]
        if lacking:
            sheet = self.folder / SHEET_FILE
            known = {pair.code: pair for pair in read_sheet(sheet)} if sheet.exists() else {}
            write_sheet(sheet, list({**known, **pairs}.values()))
            raise UserError(
                f"{sheet}: {len(lacking)} of {len(pairs)} pairs have fewer than {self.min_raters} ratings; rate them "
                f"with `rewardladder rate {self.folder} rater=NAME`, or fill in a copy named ratings-NAME.csv, and run "
                "the same command again"
            )
        record = agreement(ratings)
        write_json(self.folder / AGREEMENT_FILE, record)
        kappa = interval(record["kappa"], record["kappa_lo"], record["kappa_hi"])
        say(
            f"people: {len(record['raters'])} raters, {len(ratings)} pairs; Fleiss' kappa {kappa} over "
            f"{record['pairs_in_kappa']} pairs ({self.folder / AGREEMENT_FILE})"
        )
        return [self._verdict(*one, ratings) for one in zip(questions, texts, strict=True)]

    def _verdict(self, question: Question, texts: Texts, ratings: Mapping[str, Mapping[str, Rating]]) -> Verdict:
        pair = blind(texts)
        first_is_1 = texts.first == pair.response_1
        sides: dict[Rating, Winner] = {"1": "a", "2": "b", "tie": "tie"}
        given = ratings[pair.code]
        winner = majority([sides[rating] for rating in given.values()])
        by_side: dict[Winner, Shown] = {
            "a": "first" if first_is_1 else "second",
            "b": "second" if first_is_1 else "first",
            "tie": "tie",
        }
        said = "; ".join(f"{rater}: {rating}" for rater, rating in sorted(given.items()))
        return verdict_of(question, None if winner is None else by_side[winner], "ok", raw=f"{pair.code}: {said}")


def read_sheet(path: Path) -> list[BlindPair]:
    """The pairs of a sheet; their conversations as one transcript."""
    pairs = []
    for row in _rows(path):
        texts = [_was_no_formula(row.get(column) or "") for column in SHEET_COLUMNS[1:4]]
        pairs.append(BlindPair(row["pair"], [{"role": "conversation", "content": texts[0]}], texts[1], texts[2]))
    return pairs


def _kappa(table: Any) -> float | None:
    """Fleiss' kappa of a table of counts, shape (pairs, ratings); None where all ratings are the same."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    used = table[:, table.sum(axis=0) > 0]
    return float(fleiss_kappa(used)) if used.shape[1] > 1 else None


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        csv.field_size_limit(LONGEST_FIELD)
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"{path}: not readable as a CSV file in UTF-8 ({error})") from None
    columns = reader.fieldnames or []
    for column in ("pair", "rating"):
        if column not in columns:
            raise UserError(f"{path}: there is no column {column!r}; it has {', '.join(columns) or 'none'}")
    return rows


def _transcript(pair: BlindPair) -> str:
    if [turn["role"] for turn in pair.messages] == ["conversation"]:
        return pair.messages[0]["content"]
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in pair.messages)


def _no_formula(text: str) -> str:
    """A text that a spreadsheet takes for a text: an apostrophe before what could begin a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "'") else text


def _was_no_formula(text: str) -> str:
    return text[1:] if text[:1] == "'" else text
