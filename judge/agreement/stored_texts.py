"""Judge texts that other projects stored, and the verdicts in them.

    gpt4.<name>        {"swap = False": {"text"}, "swap = True": …}: LLMBar (Zeng et al. 2024); both orders
    judgment_ab, _ba   FastChat's pairwise judgments, verdicts in [[brackets]] (Zheng et al. 2023); both orders
    judge_<name>       {"result": 1 | 2 | 0 or Tie, "reason"}: PandaLM (Wang et al. 2024); one order
    any other          two fields that are named, and the grammar of their verdicts

The last verdict that a text offers counts. A text without one is unreadable and an empty one an error; neither is a
tie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from judge.verdicts import Order, Shown, VerdictStatus, is_refusal, read_verdict

StoredGrammar = Literal["brackets", "outputs", "scores", "label", "pairwise", "paper"]
SWAPS: dict[str, Order] = {"swap = False": "AB", "swap = True": "BA"}
JUDGMENTS: dict[str, Order] = {"judgment_ab": "AB", "judgment_ba": "BA"}
VERDICT_COLUMN = "judge_"
_BRACKETS = re.compile(r"\[\[([ABC])\]\]")
_OUTPUT_AT_THE_END = re.compile(r"\boutput \(([ab])\)(?: is (?:the )?better(?: (?:one|output))?)?[\s.!\"'*]*$", re.I)
_SCORES = re.compile(r"^\s*(\d+(?:\.\d+)?)[ ,\t]+(\d+(?:\.\d+)?)\s*$", re.MULTILINE)
_LETTERS: dict[str, Shown] = {"a": "first", "b": "second", "c": "tie"}
_LABELS: dict[str, Shown] = {
    **_LETTERS,
    **dict.fromkeys(("1", "first", "model_1"), "first"),
    **dict.fromkeys(("2", "second", "model_2"), "second"),
    **dict.fromkeys(("0", "tie"), "tie"),
}


class Said(NamedTuple):
    """What a judge said of one pair in one order: the text, the verdict in the order shown, and its status."""

    text: str
    verdict: Shown | None
    status: VerdictStatus


Sayings = dict[Order, Said]


def read_stored(text: str, grammar: StoredGrammar) -> Shown | None:
    """The verdict of a stored text; None where it offers none."""
    return GRAMMARS[grammar](text)


def said(text: Any, grammar: StoredGrammar) -> Said:
    """A stored text with its verdict; what is no text, or an empty one, is an error of the judge."""
    if isinstance(text, (int, float)) and not isinstance(text, bool) and grammar == "label":
        text = f"{text:g}"
    if not isinstance(text, str) or not text.strip():
        return Said("", None, "error")
    verdict = read_stored(text, grammar)
    if verdict is None:
        return Said(text, None, "refused" if is_refusal(text) else "unreadable")
    return Said(text, verdict, "ok")


def stored_in(record: Mapping[str, Any]) -> dict[str, Sayings]:
    """What each judge said, by the names of the judges; empty where a row holds no known form of it."""
    found: dict[str, Sayings] = {}
    if any(column in record for column in JUDGMENTS):
        name = record.get("judge_id")
        found[name if isinstance(name, str) and name else "judge"] = {
            order: said(record[column], "brackets") for column, order in JUDGMENTS.items() if column in record
        }
    for column, value in record.items():
        if not isinstance(value, dict):
            continue
        for name, entry in value.items():
            if isinstance(entry, dict) and entry.keys() & SWAPS.keys():
                found[f"{column}.{name}"] = {
                    order: said(entry[swap].get("text") if isinstance(entry[swap], dict) else None, "outputs")
                    for swap, order in SWAPS.items()
                    if swap in entry
                }
        if column.startswith(VERDICT_COLUMN) and "result" in value:
            judged = said(value["result"], "label")
            reason = value.get("reason")
            found[column] = {"AB": judged._replace(text=reason) if isinstance(reason, str) and reason else judged}
    return found


def named_in(record: Mapping[str, Any], ab: str, ba: str | None, grammar: StoredGrammar) -> Sayings:
    """What stands in two named fields; a field may be a dotted path."""
    fields: dict[Order, str | None] = {"AB": ab, "BA": ba}
    return {order: said(_at(record, path), grammar) for order, path in fields.items() if path is not None}


def _at(record: Mapping[str, Any], path: str) -> Any:
    if path in record:
        return record[path]
    place: Any = record
    for part in path.split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    return place


def _brackets(text: str) -> Shown | None:
    offers = _BRACKETS.findall(text)
    return _LETTERS[offers[-1].lower()] if offers else None


def _outputs(text: str) -> Shown | None:
    """LLMBar's judges end with `Output (a)` or `… Output (a) is better.`; what they name before is argument."""
    offer = _OUTPUT_AT_THE_END.search(text)
    return _LETTERS[offer[1].lower()] if offer else None


def _scores(text: str) -> Shown | None:
    """A line of two scores, as `8 7.5` (Vicuna's judges); the last such line counts."""
    offers = _SCORES.findall(text)
    if not offers:
        return None
    first, second = map(float, offers[-1])
    return "tie" if first == second else "first" if first > second else "second"


GRAMMARS: dict[StoredGrammar, Callable[[str], Shown | None]] = {
    "brackets": _brackets,
    "outputs": _outputs,
    "scores": _scores,
    "label": lambda text: _LABELS.get(text.strip().lower()),
    "pairwise": lambda text: read_verdict(text, "pairwise"),
    "paper": lambda text: read_verdict(text, "paper"),
}
