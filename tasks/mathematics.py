"""Mathematics problems with a reference answer: MATH-500, AMC, AIME, GSM8K and any JSON Lines file of the same kind.

A row has a problem (`problem`, `question` or `prompt`) and an `answer`. A completion's answer is the last balanced
`\\boxed{…}`, else what follows the last `####` (GSM8K), else the last number. Two answers are equal if their texts are,
or if math-verify says so.

Not here yet: a time limit. math-verify limits itself by a signal, which works in the main thread only and would break
every reward computed in another; its limits are therefore off, and a pathological expression can hang. Workers that
can be killed belong around `compare`.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import Table
from configs.records import read_jsonl
from tasks.records import Grade, Message, Prompt, PromptSplit, Response, write_pairs, write_prompts

PROBLEM_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMN = "answer"
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
GSM8K_MARK = "####"
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|-?\.[0-9]+")
_NUMERAL = re.compile(r"[-+]?(?:[0-9]{1,3}(?:[ ,][0-9]{3})+|[0-9]+)(?:\.[0-9]+)?%?")
_BOX = re.compile(r"\\f?boxed\s*\{")


@dataclass(frozen=True)
class Comparison:
    """Whether two answers are equal; `equal` is None where `status` says that it could not be found out."""

    equal: bool | None
    status: Literal["ok", "unparsable"]


class MathematicsTable(Table):
    """The `tasks` table for `task: mathematics`.

    Attributes:
        eval_file: JSON Lines of the problems that are only evaluated.
        train_file: JSON Lines of the problems that the policy climbs on; None to evaluate only.
        n_dev_prompts: how many problems of `train_file` are watched instead of trained on.
        instruction: appended to a problem that does not itself ask for a box; "" for none.
        max_new_tokens: limit of an answer, in tokens.
    """

    task: Literal["mathematics"] = "mathematics"
    eval_file: Path
    train_file: Path | None = None
    n_dev_prompts: int = Field(0, ge=0)
    instruction: str = INSTRUCTION
    max_new_tokens: int = Field(2048, ge=1)


class MathematicsTask:
    """Mathematics files as a task (`tasks.records.Task`). There is no base of its own: the policy names a model."""

    name = "mathematics"

    def __init__(self, table: MathematicsTable) -> None:
        self.table = table
        self.max_new_tokens = table.max_new_tokens

    def read(self, completion: str) -> Response:
        """The whole completion as reasoning, and the answer found in it."""
        answer = extract_answer(completion)
        return Response(think=completion, answer=answer, well_formed=answer is not None)

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """Gold 1 for an equal answer; no answer is gold 0 (`malformed`), an answer that cannot be read is None."""
        answer = extract_answer(completion)
        style = "code" if "python" in completion.lower() else "language"
        if answer is None:
            return Grade(gold=0.0, status="malformed", style=style)
        found = compare(gold=prompt.meta["answer"], pred=answer)
        return Grade(gold=None if found.equal is None else float(found.equal), status=found.status, style=style)

    def input_files(self) -> dict[str, Path]:
        """The problem files, by their role."""
        named = {"eval_file": self.table.eval_file, "train_file": self.table.train_file}
        return {role: path for role, path in named.items() if path is not None}

    def present(self, answer: str) -> str:
        """The answer in a box."""
        return f"\\boxed{{{answer}}}"

    def build(self, folder: Path, seed: int) -> dict[str, Any]:
        """Write the prompts; a training problem that is also evaluated is left out and counted.

        The grader proves itself on every row first: a problem whose own reference answer does not score 1 cannot be
        graded, so it is left out and listed.
        """
        table = self.table
        evaluated = load_problems(table.eval_file, "eval", table.instruction)
        known = {_problem_key(prompt) for prompt in evaluated}
        train = load_problems(table.train_file, "train", table.instruction) if table.train_file else []
        kept = [prompt for prompt in train if _problem_key(prompt) not in known]
        if table.n_dev_prompts > max(0, len(kept) - 1):
            raise UserError(
                f"tasks.n_dev_prompts: {table.n_dev_prompts} asked for, and {table.train_file or 'no train_file'} has "
                f"{len(kept)} usable problems; lower it or name a larger file"
            )
        order = keyed_rng(seed, "mathematics dev prompts").permutation(len(kept))
        dev = set(order[: table.n_dev_prompts].tolist())
        prompts = [
            Prompt(p.prompt_id, "dev" if i in dev else "train", p.messages, p.meta) for i, p in enumerate(kept)
        ] + evaluated
        unprovable = [p for p in prompts if self.grade(p, self.present(p.meta["answer"])).gold != 1.0]
        prompts = [p for p in prompts if p not in unprovable]
        if not any(prompt.split == "eval" for prompt in prompts):
            raise UserError(f"{table.eval_file}: no reference answer scores 1 by its own grader; look at its answers")
        write_prompts(folder, prompts)
        write_pairs(folder, [])
        return {
            "task": "mathematics",
            "problems": len(prompts),
            "train_also_evaluated_left_out": len(train) - len(kept),
            "reference_answer_ungradable_left_out": [prompt.prompt_id for prompt in unprovable],
        }


def load_problems(path: Path, split: PromptSplit, instruction: str = INSTRUCTION) -> list[Prompt]:
    """Read one file of problems.

    Raises:
        UserError: a file without rows, a row without a problem or an answer, or with an empty one.
    """
    prompts = [_problem(row, path, number, split, instruction) for number, row in enumerate(read_jsonl(path), start=1)]
    if not prompts:
        raise UserError(f"{path}: holds no problems")
    return prompts


def reference_answer(value: Any) -> str | None:
    """The answer column as text: `27.0` is 27, a GSM8K solution is what follows its `####`; None if there is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    if GSM8K_MARK in text:
        text = text.rpartition(GSM8K_MARK)[2]
    return text.strip() or None


def extract_answer(completion: str) -> str | None:
    """The answer that a completion gives (module docstring); None if it gives none."""
    boxed = last_boxed(completion)
    if boxed is not None:
        return boxed
    if GSM8K_MARK in completion:
        tail = completion.rpartition(GSM8K_MARK)[2].strip()
        if tail:
            return tail.splitlines()[0].strip()
    numbers = _NUMBER.findall(completion)
    return numbers[-1] if numbers else None


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{…}` whose braces balance and that is not empty; `\\{` and `\\}` do not count."""
    for match in reversed(list(_BOX.finditer(text))):
        depth, at = 1, match.end()
        while at < len(text) and depth:
            if text[at] == "\\":
                at += 1
            elif text[at] in "{}":
                depth += 1 if text[at] == "{" else -1
            at += 1
        inside = text[match.end() : at - 1].strip()
        if depth == 0 and inside:
            return inside
    return None


def compare(*, gold: str, pred: str, precision: int = 6, strict: bool = True, set_relations: bool = True) -> Comparison:
    """Whether an answer equals the reference. math-verify is not symmetric, hence the names are required.

    Args:
        gold: the reference answer.
        pred: the answer under judgement.
        precision: decimals to which numbers must agree.
        strict: whether the names of variables matter and sets differ from tuples.
        set_relations: whether `-2 <= x <= 7` is the interval `[-2, 7]`.

    Returns:
        `unparsable` where the reference is an expression and the answer cannot be read as one.
    """
    if _squeezed(gold) == _squeezed(pred):
        return Comparison(True, "ok")
    # Its warning that time limits are off is this module's docstring.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from math_verify import verify

    gold_forms, pred_forms = _parsed(gold), _parsed(pred)
    equal = verify(
        gold_forms,
        pred_forms,
        float_rounding=precision,
        strict=strict,
        allow_set_relation_comp=set_relations,
        timeout_seconds=None,
    )
    if not equal and (not pred_forms or (_has_expression(gold_forms) and not _has_expression(pred_forms))):
        return Comparison(None, "unparsable")
    return Comparison(bool(equal), "ok")


def perturbed_answer(answer: str) -> str:
    """A wrong answer that looks like `answer`: its first digit is another, or it has a part more where it has none."""
    digit = re.search(r"[0-9]", answer)
    if digit is None:
        return f"{answer} + 1"
    return f"{answer[: digit.start()]}{(int(digit[0]) + 1) % 10}{answer[digit.end() :]}"


def _parsed(text: str) -> list[Any]:
    """math-verify's readings of an answer: expressions, and the text where it has none.

    Bare LaTeX is put between dollars, or only the numbers in it would be found. A numeral is not, because `1 000` is
    one number in a text and a product in a formula. `1,22` is a list of two numbers, as competitions write it. A
    dollar sign before an amount is dropped.
    """
    from math_verify import parse

    text = text.replace("\\$", "").strip()
    bare = all(mark not in text for mark in ("$", "\\boxed", "\\(", "\\["))
    return list(parse(f"${text}$" if bare and not _NUMERAL.fullmatch(text) else text, parsing_timeout=None))


def _has_expression(forms: list[Any]) -> bool:
    return any(not isinstance(form, str) for form in forms)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _problem_key(prompt: Prompt) -> str:
    return _squeezed(str(prompt.meta["problem"])).lower()


def _problem(row: dict[str, Any], path: Path, number: int, split: PromptSplit, instruction: str) -> Prompt:
    column = next((name for name in PROBLEM_COLUMNS if row.get(name)), None)
    if column is None or ANSWER_COLUMN not in row:
        raise UserError(
            f"{path}, line {number}: needs {' or '.join(PROBLEM_COLUMNS)}, and {ANSWER_COLUMN}; "
            f"found the columns {', '.join(row) or 'none'}"
        )
    problem, answer = row[column], reference_answer(row[ANSWER_COLUMN])
    if not isinstance(problem, str):
        raise UserError(f"{path}, line {number}: {column} must be a text, found {type(problem).__name__}")
    if answer is None:
        raise UserError(
            f"{path}, line {number}: {ANSWER_COLUMN} must be a text or a number, found {row[ANSWER_COLUMN]!r}"
        )
    asked = problem if not instruction or "\\boxed" in problem else f"{problem}\n{instruction}"
    messages: list[Message] = [{"role": "user", "content": asked}]
    return Prompt(f"{path.stem}-{number:05d}", split, messages, {"problem": problem, "answer": answer})
