"""What this room writes for the others: prompts, preference pairs, and the grade of an answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from configs.errors import UserError
from configs.records import read_jsonl, write_jsonl

Message = dict[str, str]
"""One turn of a chat: `{"role": "user" | "assistant" | "system", "content": text}`."""

PROMPTS_FILE = "prompts.jsonl"
PAIRS_FILE = "pairs.jsonl"
BASE_FOLDER = "base"

PromptSplit = Literal["train", "dev", "eval"]
"""`train`: the policy climbs on these; `dev`: watched during training; `eval`: only the judge sees their answers."""
PairSplit = Literal["train", "selection", "measurement"]
"""`train`: the reward model learns from these; a rung is chosen on `selection` and measured on `measurement`."""
GradeStatus = Literal["ok", "malformed", "no_gold", "unparsable", "timeout"]


@dataclass(frozen=True)
class Prompt:
    """One prompt of a task.

    Attributes:
        prompt_id: stable name; every draw of randomness for the prompt is keyed by it.
        split: where the prompt may be used.
        messages: the chat up to the answer, as reward models and judges read it.
        meta: what the task's grader needs (for example the needs, or the reference answer).
        policy_messages: the same chat as the policy is asked, where it differs: with an instruction on the format of
            the response, which is nobody else's business.
    """

    prompt_id: str
    split: PromptSplit
    messages: list[Message]
    meta: dict[str, Any] = field(default_factory=dict)
    policy_messages: list[Message] = field(default_factory=list)

    @property
    def asked(self) -> list[Message]:
        """The chat that a policy answers."""
        return self.policy_messages or self.messages


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt, of which people or the world's annotators prefer the first.

    Attributes:
        pair_id: stable name.
        prompt_id: pairs of one prompt never stand in different splits.
        split: where the pair may be used.
        messages: the chat up to the answer.
        chosen: the preferred answer, without reasoning.
        rejected: the other one.
        strength: how strongly it is preferred, above 0 and at most 3 as in HelpSteer3; 0.0 for a tie, whose `chosen` is
            only the first answer of the data and counts in no accuracy; None where the data do not say.
        gold_chosen: true utility of `chosen` in 0..1 where a world knows it; `gold_rejected` likewise.
        domain: for example `general` or `code`; `language` likewise.
        individual: the preferences of single annotators in -3..3, above 0 for `chosen`; empty where not given.
        source: the file and the line it came from, for example `train.jsonl:12`; empty for a world's pairs.
        margin: score of `chosen` minus score of `rejected` in the data's own units; None where the data have no scores.
    """

    pair_id: str
    prompt_id: str
    split: PairSplit
    messages: list[Message]
    chosen: str
    rejected: str
    strength: float | None = None
    gold_chosen: float | None = None
    gold_rejected: float | None = None
    domain: str = "general"
    language: str = "english"
    individual: list[float] = field(default_factory=list)
    source: str = ""
    margin: float | None = None


@dataclass(frozen=True)
class Response:
    """A completion taken apart. `well_formed` is False where the task's format was not kept; `answer` is then None.

    `formatted` says whether the answer stands in the form that the prompt asks for, where a task reads others, too
    (mathematics: a box); None where it reads no other.
    """

    think: str
    answer: str | None
    well_formed: bool
    formatted: bool | None = None

    @property
    def in_form(self) -> bool:
        """Whether the form is kept that a reward for format pays for."""
        return self.well_formed if self.formatted is None else self.formatted


@dataclass(frozen=True)
class Grade:
    """What the task knows of one completion.

    Attributes:
        gold: the truth in 0..1; None where it is not known, never 0 for "unknown".
        status: `ok`, or why there is no gold; a malformed answer has gold 0 in a world, because there it is worth 0.
        style: how the answer was reached, in the task's own words (`reasoned`, `hasty`, `steps`, `code`, …).
    """

    gold: float | None
    status: GradeStatus
    style: str


class Task(Protocol):
    """One task. Built from its own table; graders are pure and need nothing from disk."""

    name: str
    max_new_tokens: int | None
    """The longest completion of a world's policy, in tokens; None where the task has no policy of its own."""

    def build(self, folder: Path, seed: int) -> dict[str, Any]:
        """Write `base/`, `prompts.jsonl` and, where there are preferences, `pairs.jsonl`; return a summary."""

    def input_files(self) -> dict[str, Path]:
        """The files the task is made from, by the name under which their hashes are recorded."""

    def read(self, completion: str) -> Response:
        """Take a completion apart by the task's format rules."""

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """Grade one completion of one prompt."""

    def present(self, answer: str) -> str:
        """The assistant turn that holds just this answer, by which a reward model or a judge of gold is shown it.

        In a world with gold, `read(present(answer)).answer == answer`.
        """


@runtime_checkable
class VerifiableTask(Protocol):
    """What a task also has where an answer is right or wrong, so that other answers than the truth can be labels."""

    def equal(self, label: str, answer: str) -> bool | None:
        """Whether an answer is the label; None where that cannot be found out."""

    def surely_wrong(self, prompt: Prompt, answer: str) -> bool:
        """Whether an answer is known to be wrong; no where that is in doubt."""

    def wrong_answer(self, prompt: Prompt, seed: int) -> str:
        """A plausible wrong answer, the same for the same seed and prompt."""


def write_prompts(folder: Path, prompts: Iterable[Prompt]) -> int:
    """Write `prompts.jsonl` and return the number of rows."""
    rows = (asdict(prompt) for prompt in prompts)
    return write_jsonl(
        folder / PROMPTS_FILE, ({key: row[key] for key in row if key != "policy_messages" or row[key]} for row in rows)
    )


def read_prompts(folder: Path, split: PromptSplit | None = None) -> list[Prompt]:
    """The prompts of a finished task, of one split or of all.

    Raises:
        UserError: the file is another one.
    """
    try:
        prompts = [Prompt(**row) for row in read_jsonl(folder / PROMPTS_FILE)]
    except TypeError:
        raise UserError(f"{folder / PROMPTS_FILE}: holds rows that are no prompts; it may have been edited") from None
    return [prompt for prompt in prompts if split is None or prompt.split == split]


def write_pairs(folder: Path, pairs: Iterable[PreferencePair]) -> int:
    """Write `pairs.jsonl` and return the number of rows."""
    return write_jsonl(folder / PAIRS_FILE, (asdict(pair) for pair in pairs))


def read_pairs(folder: Path, split: PairSplit | None = None) -> list[PreferencePair]:
    """The preference pairs of a finished task, of one split or of all."""
    pairs = [PreferencePair(**row) for row in read_jsonl(folder / PAIRS_FILE)]
    return [pair for pair in pairs if split is None or pair.split == split]
