"""A page of single pairs: the most decisive, the most contested, those in which the order decided.

Both answers stand side by side with the judge's words, in one HTML file without scripts that needs no network.

    rewardladder judge report runs/demo/judge/rpr-rung65-grpo-s0 output=pairs.html

Answers and judges' words are data of strangers: every character is escaped, characters that hide or turn text around
are shown by their numbers, and the page forbids itself to load or run anything.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import Field

from configs.errors import UserError
from configs.keyed import keyed_rng, keyed_uniform
from configs.loader import Table
from configs.records import place_to_write, write_bytes
from configs.terminal import say
from judge.agreement.labelled_pairs import LabelledPair
from judge.judged_cells import JudgedCell, read_judged_cell
from judge.prompting import BLANKS, SELECTORS, attempts
from judge.statistics import order_effects
from judge.statistics.agreement import label_of
from judge.verdicts import ORDERS, Outcome, Verdict, Winner, combine
from tasks.records import Message

TEMPLATE = "report.html.jinja"
NOT_HELD = "(the file does not hold this text)"
HIDING = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories of characters that show nothing or change how others are shown."""
KEPT = "\n\r\t\u200c\u200d"
"""Those of them that texts, scripts and emoji need."""
MOST_MARKS = 8
"""So many accents on one letter are shown; no script needs more, and a tower of them covers what stands around it."""
STACKED = re.compile(rf"(?<=[{SELECTORS}])[{SELECTORS}]+")
"""Variation selectors after the first, which changes how a character looks; the others carry what nobody sees."""


class ReportTable(Table):
    """Settings of `rewardladder judge report`.

    Attributes:
        output: the HTML file.
        pairs: how many of each kind are shown at most.
    """

    output: str = Field(min_length=1)
    pairs: int = Field(10, ge=1, le=1000)


@dataclass(frozen=True)
class PagePair:
    """One pair as it is shown.

    Attributes:
        pair_id: its name.
        messages: the chat up to the answer.
        answers: of `a` and `b`; None where one is missing.
        names: of the two contestants.
        verdicts: of the judge, one an order at most.
        truth: the winner by people or by gold; None where nobody knows.
        stake: how much is between the two by the same, at least 0; 0 where nobody knows.
        known: the truth in words; empty where nobody knows.
    """

    pair_id: str
    messages: list[Message]
    answers: tuple[str | None, str | None]
    names: tuple[str, str]
    verdicts: Sequence[Verdict]
    truth: Winner | None = None
    stake: float = 0.0
    known: str = ""

    @property
    def outcome(self) -> Outcome | None:
        """Both orders together; None where one was never judged."""
        of = {verdict.order: verdict for verdict in self.verdicts}
        return combine(of["AB"], of["BA"]) if len(of) == len(ORDERS) else None

    @property
    def clarity(self) -> float:
        """How clear a graded judge calls the difference, 0..2; 0 where it does not grade."""
        levels = [abs(verdict.level) for verdict in self.verdicts if verdict.level is not None]
        return sum(levels) / len(levels) if levels else 0.0

    @property
    def wavering(self) -> bool:
        """Whether the judge, asked the same several times, named different winners."""
        return any(len({winner for winner in verdict.repeats or [] if winner}) > 1 for verdict in self.verdicts)

    @property
    def winners(self) -> set[Winner]:
        """The winners that verdicts name."""
        return {verdict.winner for verdict in self.verdicts if verdict.winner is not None}

    @property
    def addresses_judge(self) -> list[str]:
        """How the answers try to speak to the judge."""
        return sorted({kind for answer in self.answers if answer for kind in attempts(answer)})


class Section(NamedTuple):
    """One part of the page: its title, what is in it, the pairs shown, and how many there are."""

    title: str
    what: str
    pairs: list[PagePair]
    n: int


def run(paths: Sequence[str], table: ReportTable) -> None:
    """Write the page of one judged cell.

    Raises:
        UserError: the cell is not finished, altered, or its answers are gone.
    """
    if len(paths) != 1:
        raise UserError("judge report: name one judged cell, for example runs/demo/judge/rpr-rung65-grpo-s0")
    output = place_to_write(table.output, "output")
    cell = read_judged_cell(Path(paths[0]).expanduser())
    pairs = pairs_of_cell(cell)
    write_page(
        output, f"{cell.name} against {cell.baseline}", f"Judge: {cell.judge}.", pairs, table.pairs, cell.ordered
    )
    say(f"wrote {output}: {len(pairs)} pairs, " + ", ".join(f"{part.n} {part.title}" for part in sections_of(pairs, 0)))


def pairs_of_cell(cell: JudgedCell) -> list[PagePair]:
    """The pairs of a judged cell, with gold where a world knows it."""
    verdicts: dict[str, list[Verdict]] = {}
    for verdict in cell.verdicts():
        verdicts.setdefault(verdict.pair_id, []).append(verdict)
    found = []
    for pair in cell.pairs():
        a, b = pair.a.gold, pair.b.gold
        gap = None if a is None or b is None else a - b
        found.append(
            PagePair(
                pair_id=pair.pair_id,
                messages=pair.prompt.messages,
                answers=(pair.a.answer, pair.b.answer),
                names=(cell.name, cell.baseline),
                verdicts=verdicts.get(pair.pair_id, []),
                truth=None if gap is None else label_of(-gap),
                stake=abs(gap or 0.0),
                known="" if gap is None else f"gold {a:.3f} and {b:.3f}",
            )
        )
    return found


def write_validation_page(
    path: Path,
    judge: str,
    pairs: Sequence[LabelledPair],
    verdicts: Mapping[str, Sequence[Verdict]],
    n: int = 10,
    ordered: bool = True,
) -> None:
    """Write the page of a judge on labelled pairs."""
    shown = [
        PagePair(
            pair_id=pair.pair_id,
            messages=pair.messages,
            answers=pair.responses or (NOT_HELD, NOT_HELD),
            names=pair.names,
            verdicts=verdicts[pair.pair_id],
            truth=label_of(pair.preference),
            stake=abs(pair.preference or 0.0),
            known="" if pair.preference is None else _of_people(pair),
        )
        for pair in pairs
        if verdicts.get(pair.pair_id)
    ]
    write_page(path, f"{judge} on labelled pairs", "Known: what people prefer.", shown, n, ordered)


def write_page(path: Path, title: str, note: str, pairs: Sequence[PagePair], n: int, ordered: bool = True) -> None:
    """Render the page, with at most `n` pairs of each kind; `ordered` as in `measure`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["plain"] = plain
    flat = [verdict for pair in pairs for verdict in pair.verdicts]
    page = environment.get_template(TEMPLATE).render(
        title=title,
        note=note,
        facts=_facts(pairs, flat, ordered),
        sections=sections_of(pairs, n),
        shown_as={"AB": ("a", "b"), "BA": ("b", "a")},
    )
    write_bytes(path, page.encode("utf-8", "replace"))


def sections_of(pairs: Sequence[PagePair], n: int) -> list[Section]:
    """The kinds of pairs that are worth reading, the most telling first; of equal ones a drawn few."""
    return [_section(title, what, (pair for pair in pairs if belongs(pair)), n) for title, what, belongs in KINDS]


def plain(text: str | None) -> str:
    """A text as it is, with what would hide, reorder or bury it shown by its number, as in ⟨U+202E⟩."""
    found = text or ""
    kinds = {c: unicodedata.category(c) for c in set(found)}
    marks = "".join(re.escape(c) for c, kind in kinds.items() if kind in ("Mn", "Me"))
    hidden = {c for c, kind in kinds.items() if c not in KEPT and (kind in HIDING or c in BLANKS)}
    if marks:
        found = re.sub(rf"(?<=[{marks}]{{{MOST_MARKS}}})[{marks}]", _numbered, STACKED.sub(_numbered, found))
    return found.translate({ord(c): _number(c) for c in hidden})


def _numbered(match: re.Match[str]) -> str:
    return "".join(map(_number, match[0]))


def _number(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"


def _section(title: str, what: str, pairs: Iterable[PagePair], n: int) -> Section:
    listed = sorted(pairs, key=lambda pair: (-pair.clarity, -pair.stake, keyed_uniform(0, "page", pair.pair_id)))
    return Section(title, what, listed[:n], len(listed))


def _decisive(pair: PagePair) -> bool:
    return (
        _agreed(pair)
        and not pair.wavering
        and len(pair.winners & {"a", "b"}) == 1
        and pair.truth in (None, *pair.winners)
    )


def _contested(pair: PagePair) -> bool:
    against = _agreed(pair) and pair.truth is not None and pair.truth not in pair.winners
    return against or pair.wavering or (len(pair.winners) == 2 and "tie" in pair.winners)


def _agreed(pair: PagePair) -> bool:
    return len(pair.winners) == 1 and all(verdict.status == "ok" for verdict in pair.verdicts)


def _facts(pairs: Sequence[PagePair], verdicts: Sequence[Verdict], ordered: bool) -> list[tuple[str, str]]:
    statuses: dict[str, int] = {}
    for verdict in verdicts:
        statuses[verdict.status] = statuses.get(verdict.status, 0) + 1
    position = order_effects(verdicts, keyed_rng(0, "page"), 1) if verdicts and ordered else None
    facts = [("pairs", str(len(pairs))), ("verdicts", str(len(verdicts)))]
    facts += [(f"verdicts {status}", str(n)) for status, n in sorted(statuses.items())]
    if position is not None and position.n_both:
        facts += [
            ("same winner in both orders", f"{position.consistency:.3f} of {position.n_both}"),
            (
                "first shown wins",
                f"{position.first_share:.3f} of {position.n_decisive}" if position.n_decisive else "–",
            ),
        ]
    return facts


def _of_people(pair: LabelledPair) -> str:
    who = f", annotators {', '.join(f'{score:+g}' for score in pair.individual)}" if len(pair.individual) > 1 else ""
    if not pair.preference:
        return f"people prefer neither{who}"
    strength = f" by {pair.strength:g}" if pair.strength is not None else ""
    return f"people prefer {pair.names[0 if pair.preference < 0 else 1]}{strength}{who}"


KINDS: list[tuple[str, str, Callable[[PagePair], bool]]] = [
    (
        "most decisive",
        "Every order names the same winner, and nothing known speaks against it; the largest known differences first.",
        _decisive,
    ),
    (
        "most contested",
        "Every order names a winner that people or gold do not, or one order sees a tie, or asking again changed the "
        "verdict; the largest known differences first.",
        _contested,
    ),
    (
        "order-inconsistent",
        "The two orders name opposite winners: the place decided.",
        lambda pair: {"a", "b"} <= pair.winners,
    ),
    (
        "without a verdict",
        "At least one order has none: it could not be read, was refused, cut or failed. It is missing, never a tie.",
        lambda pair: any(verdict.winner is None for verdict in pair.verdicts),
    ),
    (
        "addressing the judge",
        "An answer claims a verdict, imitates delimiters or turns, or instructs the judge.",
        lambda pair: bool(pair.addresses_judge),
    ),
]
"""Title, explanation and membership of each part of the page."""
