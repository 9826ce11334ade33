"""From a judge's words to a verdict, and from the two orders of one pair to an outcome.

A verdict is read by the grammar of its prompt: the last verdict that is offered counts, and a reply that offers none
is unreadable, which is no tie. One pair of answers is shown in both orders; the two verdicts are one unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from judge.config import Disagreement, PromptName

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


@dataclass(frozen=True)
class Outcome:
    """Both orders of one pair. `win`, `tie` and `lose` are the cell's shares, which sum to 1; None where missing."""

    pair_id: str
    prompt_id: str
    sample: int
    status: OutcomeStatus
    win: float | None
    tie: float | None
    lose: float | None

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
    offers = sorted(GRAMMARS[prompt].offers(text), key=lambda offer: offer[0])
    return offers[-1][1] if offers else None


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
    if len(winners) < len(ORDERS):
        return Outcome(*identity, "half_missing" if winners else "missing", None, None, None)
    if winners[0] == winners[1]:
        shares = {winner: float(winner == winners[0]) for winner in ("a", "tie", "b")}
        return Outcome(*identity, "agreed", shares["a"], shares["tie"], shares["b"])
    status: OutcomeStatus = "differs" if "tie" in winners else "conflict"
    if disagreement == "tie":
        return Outcome(*identity, status, 0.0, 1.0, 0.0)
    return Outcome(*identity, status, *(winners.count(winner) / 2 for winner in ("a", "tie", "b")))


Offer = tuple[int, Shown | None]
"""Where an offered verdict begins in the text, and the verdict; None where it is none of the three."""


@dataclass(frozen=True)
class Grammar:
    """How a prompt wants its verdict: what counts as an offer, and how one is written."""

    offers: Callable[[str], list[Offer]]
    write: Callable[[Shown, str], str]


_SHOWN: dict[str, Shown] = {"first": "first", "second": "second", "tie": "tie"}
_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs)
_VERDICT_LINE = re.compile(r"^[\W_]*(?:final\s+)?verdict[\W_]*:[\W_]*(first|second|tie)[\W_]*$", re.I | re.M)
_PAPER_LINE = re.compile(
    r"^[^\w#\n]*(?:(?:final\s+)?verdict[^\w#\n]*)?(?:#\s?([12]) is better|((?:it is a |it's a )?tie))[^\w\n]*$",
    re.I | re.M,
)
_REFUSAL = re.compile(r"\s*(i['’]?m sorry|i am sorry|sorry,|i can(no|['’])t|i (am|['’]m) (not able|unable))", re.I)


def _json_offers(text: str) -> list[Offer]:
    """Offers in JSON objects with a key `verdict`, and in lines `Verdict: first` outside of them.

    An object inside a string of another (a judge that quotes a response) is part of that string and offers nothing.
    """
    offers: list[Offer] = []
    outside = text
    start = text.find("{")
    while start >= 0:
        try:
            pairs, end = _DECODER.raw_decode(text, start)
        except ValueError:
            start = text.find("{", start + 1)
            continue
        except RecursionError:
            break  # trying every inner brace of such a text would take minutes, and no verdict is that deep
        offered = [value for key, value in pairs if key == "verdict"]
        if offered:
            offers.append((start, _word(offered[-1])))
        outside = outside[:start] + " " * (end - start) + outside[end:]
        start = text.find("{", end)
    return offers + [(match.start(), _word(match[1])) for match in _VERDICT_LINE.finditer(outside)]


def _paper_offers(text: str) -> list[Offer]:
    """Offers in lines that hold `#1 is better`, `#2 is better` or `It is a tie` and nothing else but punctuation."""
    by_number: dict[str | None, Shown] = {"1": "first", "2": "second", None: "tie"}
    return [(match.start(), by_number[match[1]]) for match in _PAPER_LINE.finditer(text)]


def _word(value: Any) -> Shown | None:
    return _SHOWN.get(value.strip().lower()) if isinstance(value, str) else None


def _write_json(verdict: Shown, reason: str) -> str:
    return json.dumps({"reason": reason, "verdict": verdict})


def _write_paper(verdict: Shown, reason: str) -> str:
    return f"{reason}\n{ {'first': '#1 is better', 'second': '#2 is better', 'tie': 'It is a tie'}[verdict] }"


GRAMMARS: dict[PromptName, Grammar] = {
    "pairwise": Grammar(_json_offers, _write_json),
    "paper": Grammar(_paper_offers, _write_paper),
}
