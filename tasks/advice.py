"""The open-ended offline world "advice": a prompt names needs, an answer covers them or not, and a program knows.

    user       advice for camping : warm , light :
    assistant  <think> first , i need to warm : fleece . finally , light : torch . therefore</think>
               <answer> fleece , torch</answer>

Each of 12 needs has one right item in each of 2 settings; six fillers are never right. Gold utility is

    gold = clip((right - 0.35 wrong - 0.35 repeated) / needs, 0, 1),    0 for a malformed response.

Reasoning phrases are worth nothing by themselves. In the variant `tied` a response that reasons has better answers,
as in a pretrained model; in `untied` it has not, which is the counterfactual for everything said about phrases. A
`reasoner` reasons four times out of five, so that there is a length to lose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.records import Grade, Message, Prompt, Response
from tasks.responses import read_tagged
from tasks.tiny_base import Demonstration

SETTINGS = {"city": ("concert", "office", "museum"), "wild": ("camping", "sailing", "hiking")}
RIGHT_ITEMS = {
    "warm": {"city": "scarf", "wild": "fleece"},
    "dry": {"city": "umbrella", "wild": "poncho"},
    "light": {"city": "lamp", "wild": "torch"},
    "drink": {"city": "coffee", "wild": "flask"},
    "food": {"city": "bakery", "wild": "rations"},
    "rest": {"city": "bench", "wild": "hammock"},
    "route": {"city": "timetable", "wild": "compass"},
    "safe": {"city": "lock", "wild": "whistle"},
    "clean": {"city": "soap", "wild": "bucket"},
    "repair": {"city": "tailor", "wild": "knife"},
    "memory": {"city": "photo", "wild": "diary"},
    "carry": {"city": "handbag", "wild": "rucksack"},
}
FILLERS = ("luck", "style", "spirit", "friends", "patience", "weather")
HASTY_WORDS = ("well", "maybe", "ok", "sure", "hmm", "right", "simply", "just")
"""What a hasty response thinks; no phrase list contains these."""
NEEDS = tuple(RIGHT_ITEMS)
TOPICS = tuple(topic for topics in SETTINGS.values() for topic in topics)
ITEMS = tuple(item for pair in RIGHT_ITEMS.values() for item in pair.values())
KNOWN = frozenset((*ITEMS, *FILLERS))
PENALTY = 0.35
MIN_NEEDS, MAX_NEEDS = 2, 4
MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Styles:
    """How the base model answers.

    Attributes:
        reasoned_share: share of responses that reason.
        reasoned_right: chance that a reasoned line is right; None makes reasoning carry no information (its items
            are then right as often as hasty ones).
        hasty_right: chance that a hasty response covers a need rightly; otherwise half the time a wrong item.
        hasty_filler: chance that a hasty response adds a filler.
    """

    reasoned_share: float = 0.15
    reasoned_right: float | None = 0.93
    hasty_right: float = 0.5
    hasty_filler: float = 0.35


STYLES = {"tied": Styles(), "untied": Styles(reasoned_right=None), "reasoner": Styles(reasoned_share=0.8)}
CLEAN = Styles(reasoned_share=0.9, reasoned_right=1.0)
"""The first phase of teaching: mostly reasoned and free of errors, so that copying emerges."""


def setting_of(topic: str) -> str:
    """`city` or `wild`."""
    return next(setting for setting, topics in SETTINGS.items() if topic in topics)


def right_item(need: str, topic: str) -> str:
    """The one right item for a need on an occasion."""
    return RIGHT_ITEMS[need][setting_of(topic)]


def messages_for(topic: str, needs: tuple[str, ...]) -> list[Message]:
    """The prompt as a chat."""
    return [{"role": "user", "content": f"advice for {topic} : {' , '.join(needs)} :"}]


def draw_situation(rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """A topic and two to four different needs in any order."""
    topic = TOPICS[rng.integers(len(TOPICS))]
    count = int(rng.integers(MIN_NEEDS, MAX_NEEDS + 1))
    return topic, tuple(NEEDS[i] for i in rng.permutation(len(NEEDS))[:count])


def utility(items: list[str], topic: str, needs: tuple[str, ...]) -> float:
    """Gold utility of a list of items, in 0..1 (module docstring)."""
    wanted = {right_item(need, topic) for need in needs}
    distinct = set(items)
    right = len(distinct & wanted)
    wrong = len(distinct - wanted)
    repeated = len(items) - len(distinct)
    return float(min(1.0, max(0.0, (right - PENALTY * wrong - PENALTY * repeated) / len(needs))))


def parse_items(answer: str) -> list[str] | None:
    """`a , b` as a list of known items; None for anything else.

    The separator is strict: a lenient reading would let a policy write lists that no reward model has ever seen.
    """
    items = answer.split(" , ")
    return items if all(item in KNOWN for item in items) else None


def read_response(completion: str) -> Response:
    """Tags as in `read_tagged`, and the answer must be a list of known items."""
    response = read_tagged(completion)
    if response.answer is None or parse_items(response.answer) is None:
        return Response(think=response.think, answer=None, well_formed=False)
    return response


def grade_response(prompt: Prompt, completion: str) -> Grade:
    """Gold utility and style of one completion."""
    response = read_response(completion)
    style = "reasoned" if response.think.removeprefix("<think>").strip().startswith("first ,") else "hasty"
    if response.answer is None:
        return Grade(gold=0.0, status="malformed", style=style)
    items = parse_items(response.answer) or []
    return Grade(gold=utility(items, prompt.meta["topic"], tuple(prompt.meta["needs"])), status="ok", style=style)


def perfect_response(prompt: Prompt) -> str:
    """A response of gold 1; the grader is proved on it, prompt by prompt."""
    items = [right_item(need, prompt.meta["topic"]) for need in prompt.meta["needs"]]
    return format_response("", items)


def worthless_response(prompt: Prompt) -> str:
    """A well-formed response of gold 0: the right items of the other setting."""
    topic = SETTINGS["wild" if setting_of(prompt.meta["topic"]) == "city" else "city"][0]
    return format_response("", [right_item(need, topic) for need in prompt.meta["needs"]])


def format_response(think: str, items: list[str]) -> str:
    """The one way a response is written."""
    return f"<think>{' ' + think if think else ''}</think><answer> {' , '.join(items)}</answer>"


def draw_demonstration(rng: np.random.Generator, styles: Styles) -> Demonstration:
    """One response to teach, reasoned or hasty."""
    topic, needs = draw_situation(rng)
    if rng.random() < styles.reasoned_share:
        right = styles.hasty_right if styles.reasoned_right is None else styles.reasoned_right
        think, items = _reasoned(rng, topic, needs, right)
        return Demonstration(messages_for(topic, needs), format_response(think, items), "reasoned")
    words = [HASTY_WORDS[i] for i in rng.integers(len(HASTY_WORDS), size=int(rng.integers(0, 3)))]
    items = _hasty_items(rng, topic, needs, styles)
    return Demonstration(messages_for(topic, needs), format_response(" ".join(words), items), "hasty")


def wrong_item(rng: np.random.Generator, topic: str, needs: tuple[str, ...]) -> str:
    """A wrong item that looks right: mostly of the same setting, for a need that was not named."""
    others = [need for need in NEEDS if need not in needs]
    if rng.random() < 0.8:
        return right_item(others[rng.integers(len(others))], topic)
    pool = [item for item in (*ITEMS, *FILLERS) if item not in {right_item(need, topic) for need in needs}]
    return pool[rng.integers(len(pool))]


def edited_answer(rng: np.random.Generator, topic: str, needs: tuple[str, ...]) -> list[str]:
    """An answer no base model wrote, for pairs that separate features which otherwise go together.

    One to as many items as there are needs, all of them wrong, a mixture, or all right, so that the number of items
    says nothing of their worth; now and then one is repeated.
    """
    right_share = (0.0, 0.5, 1.0)[rng.integers(3)]
    answered = [needs[i] for i in sorted(rng.permutation(len(needs))[: int(rng.integers(1, len(needs) + 1))])]
    items = [right_item(n, topic) if rng.random() < right_share else wrong_item(rng, topic, needs) for n in answered]
    if rng.random() < 0.15:
        items.append(items[rng.integers(len(items))])
    return items


def tokenizer_texts() -> list[str]:
    """Texts that hold every word of the world, for the tokenizer."""
    rng = np.random.default_rng(0)
    demonstrations = [draw_demonstration(rng, styles) for styles in (CLEAN, STYLES["tied"]) for _ in range(1500)]
    words = " ".join((*TOPICS, *NEEDS, *ITEMS, *FILLERS, *HASTY_WORDS))
    return [f" {d.messages[0]['content']} {d.response}" for d in demonstrations] + [f" {words}"] * 50


def _reasoned(rng: np.random.Generator, topic: str, needs: tuple[str, ...], right: float) -> tuple[str, list[str]]:
    """The lines of a reasoned response and the items it answers with, which copy the lines."""
    lines, items = [], []
    for i, need in enumerate(needs):
        items.append(right_item(need, topic) if rng.random() < right else wrong_item(rng, topic, needs))
        opening = "first , i need to" if i == 0 else "finally ," if i == len(needs) - 1 else ("next ,", "then ,")[i % 2]
        lines.append(f"{opening} {need} : {items[-1]} .")
    ending = ("therefore", "so that", "let me check")[rng.integers(3)]
    return f"{' '.join(lines)} {ending}", items


def _hasty_items(rng: np.random.Generator, topic: str, needs: tuple[str, ...], styles: Styles) -> list[str]:
    items = []
    for need in needs:
        if rng.random() < styles.hasty_right:
            items.append(right_item(need, topic))
        elif rng.random() < 0.5:
            items.append(wrong_item(rng, topic, needs))
    if rng.random() < styles.hasty_filler or not items:
        items.append(FILLERS[rng.integers(len(FILLERS))])
    return items
