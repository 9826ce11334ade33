"""From a judge's words to a verdict, and from the two orders of one pair to an outcome.

A verdict is read by the grammar of its prompt: the last verdict that is offered counts, and a reply that offers none
is unreadable, which is no tie. One pair of answers is shown in both orders; the two verdicts are one unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from judge.config import Disagreement, PromptName
from judge.original_prompt import LAST_CHARACTERS

Order = Literal["AB", "BA"]
"""Which answer was shown first: the cell's (`a`) or the baseline's (`b`)."""
ORDERS: tuple[Order, Order] = ("AB", "BA")
Shown = Literal["first", "second", "tie"]
Winner = Literal["a", "b", "tie"]
VerdictStatus = Literal[
    "ok", "identical", "forfeit", "both_malformed", "unreadable", "refused", "truncated", "no_gold", "rejected", "error"
]
"""`ok`: decided by the judge. Decided without asking: `identical` and `both_malformed` (ties), `forfeit` (a malformed
answer loses against a well-formed one). Without a verdict: the others; `rejected` means that the endpoint will never
take this request (a text too long for it), `error` that asking again may help."""
OutcomeStatus = Literal["agreed", "conflict", "differs", "half_missing", "missing"]
"""`agreed`: both orders name the same winner; `conflict`: they name opposite ones; `differs`: one says tie;
`half_missing` and `missing`: one or both orders have no verdict, and the pair has no outcome."""


@dataclass(frozen=True)
class Verdict:
    """What one judge said of one pair in one order.

    Attributes:
        pair_id: prompt and sample; both orders of a pair share it.
        prompt_id, sample: the pair's parts.
        order: which answer was shown first.
        verdict: in the order shown; None where there is none.
        winner: the verdict mapped back to the cell (`a`) and the baseline (`b`).
        status: see `VerdictStatus`.
        level: how clearly, where the prompt is graded: 2 and 1 for the cell, 0 a tie, -1 and -2 for the baseline.
        repeats: where an order was asked several times, each winner, None where there was none.
        raw: the judge's whole reply; None where nobody was asked or nothing came.
        model: the model as the endpoint named it, and `usage` the tokens it counted.
        request: SHA-256 of everything that determined the reply, the key of the store.
        error: why there is no reply, in one line.
    """

    pair_id: str
    prompt_id: str
    sample: int
    order: Order
    verdict: Shown | None
    winner: Winner | None
    status: VerdictStatus
    raw: str | None = None
    model: str | None = None
    usage: dict[str, int] | None = None
    request: str | None = None
    error: str | None = None
    level: float | None = None
    repeats: list[Winner | None] | None = None


@dataclass(frozen=True)
class Outcome:
    """Both orders of one pair. `win`, `tie` and `lose` are the cell's shares, which sum to 1; None where missing.

    `level` is the mean of both orders' levels, in -2..2, where the prompt is graded.
    """

    pair_id: str
    prompt_id: str
    sample: int
    status: OutcomeStatus
    win: float | None
    tie: float | None
    lose: float | None
    level: float | None = None

    @property
    def quality(self) -> float | None:
        """Win with ties half, in 0..1."""
        return None if self.win is None or self.tie is None else self.win + self.tie / 2


def mapped(verdict: Shown | None, order: Order) -> Winner | None:
    """The winner behind a verdict in the order shown."""
    if verdict is None or verdict == "tie":
        return verdict
    return "a" if (verdict == "first") == (order == "AB") else "b"


def shown(winner: Winner, order: Order) -> Shown:
    """The verdict that names `winner` in this order; the inverse of `mapped`."""
    if winner == "tie":
        return "tie"
    return "first" if (winner == "a") == (order == "AB") else "second"


def read_verdict(text: str, prompt: PromptName) -> Shown | None:
    """The last verdict offered in `text` by the grammar of `prompt`; None where none is offered or it is not one."""
    offered = _last_offered(text, prompt)
    return None if offered is None else _BARE[offered]


def read_strength(text: str, prompt: PromptName) -> int | None:
    """How clear the verdict of a graded prompt is: 0 for a tie, 1, or 2 for much better; None in other prompts."""
    offered = _last_offered(text, prompt)
    if prompt != "graded" or offered is None:
        return None
    return 0 if offered == "tie" else 2 if offered in ("first much better", "second much better") else 1


def majority(winners: Sequence[Winner | None]) -> Winner | None:
    """The winner that more than half of those who decided named; a tie where none was, None where nobody decided."""
    decided = [winner for winner in winners if winner is not None]
    for winner in ("a", "b", "tie"):
        if 2 * decided.count(winner) > len(decided):
            return winner
    return "tie" if decided else None


def write_verdict(verdict: Shown, reason: str, prompt: PromptName) -> str:
    """A reply that `read_verdict` reads as `verdict`; what a judge that is a program says."""
    return GRAMMARS[prompt].write(verdict, reason)


def is_refusal(text: str) -> bool:
    """Whether a reply without a verdict is a refusal rather than words that cannot be read."""
    return _REFUSAL.match(text) is not None


def combine(ab: Verdict | None, ba: Verdict | None, disagreement: Disagreement = "tie") -> Outcome:
    """One outcome of the two orders of a pair.

    Args:
        ab, ba: the verdicts; None where an order was never judged.
        disagreement: what two different winners are worth (see `JudgeTable`).

    Returns:
        The outcome. With one order missing there is no outcome, because the other alone carries the position bias.
    """
    known = ab or ba
    if known is None:
        raise ValueError("a pair needs a verdict in at least one order")
    identity = (known.pair_id, known.prompt_id, known.sample)
    winners = [verdict.winner for verdict in (ab, ba) if verdict is not None and verdict.winner is not None]
    levels = [verdict.level for verdict in (ab, ba) if verdict is not None and verdict.level is not None]
    level = sum(levels) / len(ORDERS) if len(levels) == len(ORDERS) else None
    if len(winners) < len(ORDERS):
        return Outcome(*identity, "half_missing" if winners else "missing", None, None, None)
    if winners[0] == winners[1]:
        shares = {winner: float(winner == winners[0]) for winner in ("a", "tie", "b")}
        return Outcome(*identity, "agreed", shares["a"], shares["tie"], shares["b"], level)
    status: OutcomeStatus = "differs" if "tie" in winners else "conflict"
    if disagreement == "tie":
        return Outcome(*identity, status, 0.0, 1.0, 0.0, level)
    win, tie, lose = (winners.count(winner) / 2 for winner in ("a", "tie", "b"))
    return Outcome(*identity, status, win, tie, lose, level)


Said = Literal["first much better", "first", "tie", "second", "second much better"]
Offer = tuple[int, Said | None]
"""Where an offered verdict begins in the text, and the verdict; None where it is none that the prompt allows."""


@dataclass(frozen=True)
class Grammar:
    """How a prompt wants its verdict: what counts as an offer, and how one is written."""

    offers: Callable[[str], list[Offer]]
    write: Callable[[Shown, str], str]


_THREE: dict[str, Said] = {"first": "first", "second": "second", "tie": "tie"}
_FIVE: dict[str, Said] = {
    **_THREE,
    "first much better": "first much better",
    "second much better": "second much better",
}
LEVELS: dict[PromptName, list[str]] = {"pairwise": list(_THREE), "graded": list(_FIVE)}
"""The verdicts that a JSON schema allows."""
_BARE: dict[Said, Shown] = {
    "first much better": "first",
    "first": "first",
    "tie": "tie",
    "second": "second",
    "second much better": "second",
}
_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs, strict=False)
"""Takes raw line breaks inside of strings, as judges write them."""
_BROKEN = re.compile(r"[\"']verdict[\"']\s*:|[\"']\s*\}")
"""A key or an end that belongs to no object that can be read."""
_OBJECT = re.compile(r"\{\s*[\"}]")
PATIENCE, STRIDE = 2000, 500
"""So many texts too deep to be read are tried at each brace, and then at every 500th; Python reads 1,000 deep."""
_VERDICT_LINE = re.compile(
    r"^[\W_]{0,40}(?:final\s+)?verdict[\W_]{0,40}:[\W_]{0,40}((?:first|second)(?: much better)?|tie)[\W_]{0,40}$",
    re.I | re.M,
)
_PAPER_LINE = re.compile(
    r"^[^\w#\n]*(?:(?:final\s+)?verdict[^\w#\n]*)?(?:#\s?([12]) is better|((?:it is a |it's a )?tie))[^\w\n]*$",
    re.I | re.M,
)
_ORIGINAL_END = re.compile(r"#([12]) is better\b|\btie\b", re.I)
_REFUSAL = re.compile(r"\s*(i['’]?m sorry|i am sorry|sorry,|i can(no|['’])t|i (am|['’]m) (not able|unable))", re.I)


def _last_offered(text: str, prompt: PromptName) -> Said | None:
    offers = sorted(GRAMMARS[prompt].offers(text), key=lambda offer: offer[0])
    return offers[-1][1] if offers else None


def _json_offers(text: str, words: dict[str, Said]) -> list[Offer]:
    """Offers in JSON objects with a key `verdict`, and in lines `Verdict: first` outside of them.

    An object inside a string of another (a judge that quotes a response) is part of that string and offers nothing. A
    key `verdict`, or the end of an object, outside of every object that can be read is an offer of none: of an object
    that a quotation broke, nobody can tell which verdict is the judge's own.
    """
    offers: list[Offer] = []
    outside: list[str] = []
    end_of_last = too_deep = 0
    starts = [match.start() for match in _OBJECT.finditer(text)]
    place = 0
    while place < len(starts):
        start = starts[place]
        place += 1
        if start < end_of_last:
            continue
        try:
            pairs, end = _DECODER.raw_decode(text, start)
        except ValueError:
            continue
        except RecursionError:
            too_deep += 1
            if too_deep > PATIENCE:
                place += STRIDE  # into the same nest still: no verdict is that deep, and each step takes a while
            continue
        offered = [value for key, value in pairs if key == "verdict"]
        if offered:
            offers.append((start, _word(offered[-1], words)))
        outside += [text[end_of_last:start], " " * (end - start)]
        end_of_last = end
    rest = "".join([*outside, text[end_of_last:]])
    offers += [(match.start(), None) for match in _BROKEN.finditer(rest)]
    return offers + [(match.start(), _word(match[1], words)) for match in _VERDICT_LINE.finditer(rest)]


def _paper_offers(text: str) -> list[Offer]:
    """Offers in lines that hold `#1 is better`, `#2 is better` or `It is a tie` and nothing else but punctuation."""
    by_number: dict[str | None, Said] = {"1": "first", "2": "second", None: "tie"}
    return [(match.start(), by_number[match[1]]) for match in _PAPER_LINE.finditer(text)]


def _original_offers(text: str) -> list[Offer]:
    """Offers in the last 30 characters, where the paper's script looks; `tie` is a word, so `entities` offers none."""
    by_number: dict[str | None, Said] = {"1": "first", "2": "second", None: "tie"}
    return [(match.start(), by_number[match[1]]) for match in _ORIGINAL_END.finditer(text.rstrip()[-LAST_CHARACTERS:])]


def _word(value: Any, words: dict[str, Said]) -> Said | None:
    return words.get(value.strip().lower()) if isinstance(value, str) else None


def _write_json(verdict: Shown, reason: str) -> str:
    return json.dumps({"reason": reason, "verdict": verdict})


def _write_paper(verdict: Shown, reason: str) -> str:
    return f"{reason}\n{ {'first': '#1 is better', 'second': '#2 is better', 'tie': 'It is a tie'}[verdict] }"


GRAMMARS: dict[PromptName, Grammar] = {
    "pairwise": Grammar(partial(_json_offers, words=_THREE), _write_json),
    "paper": Grammar(_paper_offers, _write_paper),
    "graded": Grammar(partial(_json_offers, words=_FIVE), _write_json),
    "original": Grammar(_original_offers, _write_paper),
}
