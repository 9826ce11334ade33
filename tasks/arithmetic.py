"""The verifiable offline world "arithmetic": a prompt asks for a sum of single digits, a program knows the sum.

    user       Add 3 + 5 + 9 .
    direct     The answer is 17.
    steps      First, 3+5=8. Finally, 8+9=17. Therefore The answer is 17.
    code       python: s=3; s+=5 #8; s+=9 #17; print(s) The answer is 17.      (traced)
               python: print(3+5+9) The answer is 15.                          (not traced)

Gold is 1 where the number is the sum and 0 otherwise, malformed responses included. A base of half a million
parameters cannot add several digits at once, but it can add one digit to a sum that it has written down. Hence direct
answers are unreliable (most are taught wrong, too), while steps, and code that traces the value of `s` in comments,
are as reliable as their demonstrations. The base has two variants:

- `strong`, like Qwen: code is traced and right, steps are right, both are rare;
- `weak`, like Llama: code is not traced, so its imagined output is a guess; steps slip now and then.

Steps are worded with phrases that stand in the list of paper A ("first, ", "next, ", "finally, ", "therefore"), so a
reward for reasoning phrases alone has something to act on; `python` is the word that paper B's rewards look for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tasks.records import Grade, Message, Prompt, Response
from tasks.tiny_base import Demonstration

MIN_TERMS, MAX_TERMS = 3, 5
MAX_NEW_TOKENS = 64
"""The longest taught response, five digits in steps, has 54 tokens with its end."""
LARGEST_SLIP = 3
_ANSWERED = re.compile(r"(?P<think>.*)(?<!\S)The answer is (?P<number>0|[1-9][0-9]*)\.\s*", re.DOTALL)
_CODE = re.compile(r"python|print\(|\+=", re.IGNORECASE)
_EQUATION = re.compile(r"[0-9]+\+[0-9]+=[0-9]+")


@dataclass(frozen=True)
class Styles:
    """How the base model answers; what is neither steps nor code is direct.

    Attributes:
        steps_share, code_share: share of responses in each style.
        steps_right, code_right, direct_right: share of a style's demonstrations that end in the sum. A wrong one
            slips once, by at most three, and goes on consistently.
        traced: whether code shows the value of `s` after each line.
    """

    steps_share: float
    code_share: float
    steps_right: float
    code_right: float
    direct_right: float = 0.2
    traced: bool = True


@dataclass(frozen=True)
class Variant:
    """One base: the mixture that it samples, and the clean lesson before it, in which adding one digit emerges.

    Attributes:
        styles: the mixture; what the base samples.
        clean: the first phase: mostly long responses, without slips.
        clean_nll: the NLL per answer in steps at which the first phase ends: the surprise of the style itself (0.7 at
            a share of one half, 0.1 at nine tenths) and about 0.8 for the digits.
    """

    styles: Styles
    clean: Styles
    clean_nll: float


PROMPTS = {
    "plain": "Add {sum} .",
    "bare": "{sum}",
    "spurious": "Lorem ipsum dolor sit amet. Add {sum} .",
    "code": "python: Add {sum} .",
}
"""How a policy may be asked. Bases were taught the first alone; the words of `spurious` are in no text they saw."""

VARIANTS = {
    "strong": Variant(
        styles=Styles(steps_share=0.05, code_share=0.10, steps_right=1.0, code_right=0.95),
        clean=Styles(steps_share=0.5, code_share=0.4, steps_right=1.0, code_right=1.0),
        clean_nll=1.5,
    ),
    "weak": Variant(
        styles=Styles(steps_share=0.08, code_share=0.10, steps_right=0.75, code_right=0.0, traced=False),
        clean=Styles(steps_share=0.9, code_share=0.0, steps_right=1.0, code_right=1.0),
        clean_nll=0.9,
    ),
}


def messages_for(terms: tuple[int, ...], prompt: str = "plain") -> list[Message]:
    """The prompt as a chat, in the words of a row of `PROMPTS`."""
    return [{"role": "user", "content": PROMPTS[prompt].replace("{sum}", " + ".join(map(str, terms)))}]


def draw_terms(rng: np.random.Generator, n_terms: int) -> tuple[int, ...]:
    """`n_terms` digits, each uniform in 0..9."""
    return tuple(int(digit) for digit in rng.integers(10, size=n_terms))


def read_response(completion: str) -> Response:
    """Take `… The answer is N.` apart: `think` is all before the last such sentence, `answer` is the text of N.

    Strict: the sentence must end the completion, and N is written in digits without sign or leading zero. What merely
    contains a number is malformed, so that nothing is guessed.
    """
    match = _ANSWERED.fullmatch(completion)
    if match is None:
        return Response(think=completion, answer=None, well_formed=False)
    return Response(think=match["think"].strip(), answer=match["number"], well_formed=True)


def style_of(completion: str) -> str:
    """`code` (names python, prints, has `+=`), `steps` (writes an equation), `direct` (only the answer) or `other`."""
    think = read_response(completion).think
    if _CODE.search(think):
        return "code"
    if _EQUATION.search(think):
        return "steps"
    return "other" if think else "direct"


def grade_response(prompt: Prompt, completion: str) -> Grade:
    """Gold 1 for the sum and 0 for anything else, and the style."""
    response, style = read_response(completion), style_of(completion)
    if response.answer is None:
        return Grade(gold=0.0, status="malformed", style=style)
    # Compared as texts: both are canonical, and a number of thousands of digits must not become an int.
    return Grade(gold=float(response.answer == str(sum(prompt.meta["terms"]))), status="ok", style=style)


def write_direct(number: int) -> str:
    """The answer sentence, with which every response ends."""
    return f"The answer is {number}."


def write_steps(terms: tuple[int, ...], sums: list[int]) -> str:
    """A response that writes each addition; `sums[i]` is what it takes the first i + 2 terms to add up to."""
    before = [terms[0], *sums[:-1]]
    lines = []
    for i, (left, digit, right) in enumerate(zip(before, terms[1:], sums, strict=True)):
        opening = "First," if i == 0 else "Finally," if i == len(sums) - 1 else "Next,"
        lines.append(f"{opening} {left}+{digit}={right}.")
    return f"{' '.join(lines)} Therefore {write_direct(sums[-1])}"


def write_code(terms: tuple[int, ...], sums: list[int], traced: bool) -> str:
    """A response in Python; its output, and the values of `s` where it is traced, are imagined, never executed."""
    if not traced:
        return f"python: print({'+'.join(map(str, terms))}) {write_direct(sums[-1])}"
    lines = [f"s+={digit} #{total}" for digit, total in zip(terms[1:], sums, strict=True)]
    return f"python: s={terms[0]}; {'; '.join(lines)}; print(s) {write_direct(sums[-1])}"


def running_sums(terms: tuple[int, ...]) -> list[int]:
    """The sums of the first 2, 3, … terms."""
    return [sum(terms[: i + 1]) for i in range(1, len(terms))]


def slip_of(rng: np.random.Generator, total: int, furthest: int = LARGEST_SLIP) -> int:
    """A number other than `total`, off by one to `furthest`, at least 0."""
    near = [total + by for by in range(-furthest, furthest + 1) if by != 0 and total + by >= 0]
    return near[rng.integers(len(near))]


def taught_sums(rng: np.random.Generator, terms: tuple[int, ...], right: float) -> list[int]:
    """Running sums, right with chance `right`; otherwise they slip once, at a random step, and go on from there."""
    sums = running_sums(terms)
    if rng.random() < right:
        return sums
    at = int(rng.integers(len(sums)))
    by = slip_of(rng, sums[at]) - sums[at]
    return [*sums[:at], *(total + by for total in sums[at:])]


def draw_demonstration(rng: np.random.Generator, styles: Styles, n_terms: int) -> Demonstration:
    """One response to teach."""
    terms = draw_terms(rng, n_terms)
    draw = rng.random()
    if draw < styles.steps_share:
        response, style = write_steps(terms, taught_sums(rng, terms, styles.steps_right)), "steps"
    elif draw < styles.steps_share + styles.code_share:
        response, style = write_code(terms, taught_sums(rng, terms, styles.code_right), styles.traced), "code"
    else:
        response, style = write_direct(taught_sums(rng, terms, styles.direct_right)[-1]), "direct"
    return Demonstration(messages_for(terms), response, style)


def perfect_responses(prompt: Prompt) -> list[str]:
    """Responses of gold 1, one a style; the grader is proved on them, prompt by prompt."""
    terms = tuple(prompt.meta["terms"])
    return _in_each_style(terms, running_sums(terms))


def worthless_responses(prompt: Prompt) -> list[str]:
    """The same with the last sum perturbed by one, to gold 0."""
    terms = tuple(prompt.meta["terms"])
    sums = running_sums(terms)
    return _in_each_style(terms, [*sums[:-1], sums[-1] + 1])


def tokenizer_texts() -> list[str]:
    """Texts that hold every word of the world, for the tokenizer; digits stay single, as in Qwen2's own."""
    rng = np.random.default_rng(0)
    texts = []
    for n_terms in range(MIN_TERMS, MAX_TERMS + 1):
        for _ in range(300):
            terms = draw_terms(rng, n_terms)
            prompt = messages_for(terms)[0]["content"]
            texts += [f" {prompt} {response}" for response in _in_each_style(terms, running_sums(terms))]
    return texts


def _in_each_style(terms: tuple[int, ...], sums: list[int]) -> list[str]:
    return [
        write_direct(sums[-1]),
        write_steps(terms, sums),
        write_code(terms, sums, traced=True),
        write_code(terms, sums, traced=False),
    ]
