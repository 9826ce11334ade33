"""What asking costs: prices by model, estimates before a request, what was spent, and a line that says so.

Money is counted in tokens and priced when it is shown, so a price that becomes known later counts from the beginning.
An estimate of what a request can cost at most reserves that much before it is sent; the cap holds against what was
spent and what is reserved together (judge/store.py), whatever dies in between. Discounts for repeated prompts are not
counted on, so the bill may be smaller than what stands here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from configs.loader import parse_yaml
from judge.config import JudgeTable

PRICES = Path(__file__).parent / "prices.yaml"
MILLION = 1_000_000
BYTES_PER_TOKEN = 4
"""Of UTF-8 text in English; other scripts take about as many, for their characters are longer."""
TOKENS_OF_FORM = 16
"""What a chat template adds to the text of a request, at most."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of prompts and of replies: counted, or estimated."""

    prompt: int = 0
    reply: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.reply + other.reply)


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens of prompts and replies."""

    input: float
    output: float

    def of(self, tokens: Tokens) -> float:
        """Dollars."""
        return (self.input * tokens.prompt + self.output * tokens.reply) / MILLION


def price_of(table: JudgeTable) -> Price | None:
    """What the table's endpoint takes: `judge.price`, else the data file's; None where neither says.

    A price in the file is that of one host; another that serves a model of the same name may take anything.
    """
    host = urlsplit(table.base_url).hostname or ""
    at_host = _prices().get(host, {})
    if table.price is not None:
        price = Price(table.price.input, table.price.output)
    elif table.model in at_host.get("models", {}):
        price = Price(**at_host["models"][table.model])
    else:
        return None
    share = at_host.get("batch", 1.0) if table.batch else 1.0
    return Price(share * price.input, share * price.output)


def usual(body: dict[str, Any]) -> Tokens:
    """About what a request counts for: its prompt by its length, its reply by the limit."""
    return Tokens(_bytes(body) // BYTES_PER_TOKEN + TOKENS_OF_FORM, _longest_reply(body))


def most(body: dict[str, Any]) -> Tokens:
    """What a request can count for at most: no token of a byte-level tokenizer holds less than one byte."""
    return Tokens(_bytes(body) + TOKENS_OF_FORM, _longest_reply(body))


def counted(usage: dict[str, int] | None, otherwise: Tokens) -> Tokens:
    """What the endpoint counted; `otherwise` where it counted nothing."""
    if not usage or not {"prompt_tokens", "completion_tokens"} <= usage.keys():
        return otherwise
    return Tokens(usage["prompt_tokens"], usage["completion_tokens"])


def dollars(amount: float) -> str:
    """An amount as people read it: cents, and more digits below one cent."""
    return f"${amount:,.2f}" if amount >= 0.01 or amount == 0 else f"${amount:.2g}"


def in_words(live: float, in_batches: float) -> str:
    """What was spent, and how much of it in batches, where that is a part."""
    total = dollars(live + in_batches)
    return f"{total} ({dollars(in_batches)} in batches)" if live and in_batches else total


@dataclass(frozen=True)
class Preview:
    """What is about to be asked.

    Attributes:
        n_requests: requests without a stored reply, equal ones counted once; `n_stored` have one.
        tokens: about the tokens of the prompts, and the most tokens of all replies.
        price: None where it is not known.
        spent: dollars that earlier runs paid, live and in batches; None without a price.
    """

    n_requests: int
    n_stored: int
    tokens: Tokens
    price: Price | None
    spent: tuple[float, float] | None

    @property
    def least(self) -> float | None:
        """Dollars for the prompts alone."""
        return None if self.price is None else self.price.of(Tokens(self.tokens.prompt, 0))

    def line(self, model: str, max_cost: float | None) -> str:
        """One line for people."""
        what = (
            f"judge: {self.n_requests:,} requests to {model} ({self.n_stored:,} replies are stored), about "
            f"{self.tokens.prompt:,} tokens of prompts and at most {self.tokens.reply:,} of replies"
        )
        if self.price is None or self.least is None:
            return f"{what}; the price is not known (judge.price says it)"
        what += f"; about {dollars(self.least)} for the prompts, at most {dollars(self.price.of(self.tokens))} in all"
        if self.spent is not None and any(self.spent):
            what += f", after {in_words(*self.spent)} spent before"
        return what if max_cost is None else f"{what}; the cap is {dollars(max_cost)}"


def preview(
    bodies: Iterable[dict[str, Any]], n_stored: int, price: Price | None, spent: tuple[float, float] | None
) -> Preview:
    """The preview of requests that have no stored reply."""
    estimates = [usual(body) for body in bodies]
    tokens = Tokens(sum(one.prompt for one in estimates), sum(one.reply for one in estimates))
    return Preview(len(estimates), n_stored, tokens, price, spent)


def _bytes(body: dict[str, Any]) -> int:
    texts = [message["content"] for message in body.get("messages", [])]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def _longest_reply(body: dict[str, Any]) -> int:
    return int(body.get("max_completion_tokens") or body.get("max_tokens") or 0)


@cache
def _prices() -> dict[str, Any]:
    return dict(parse_yaml(PRICES.read_text(encoding="utf-8")))
