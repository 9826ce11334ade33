"""Mathematics sets as a task: MATH-500, AMC, AIME, GSM8K, DeepScaleR, Open-Reasoner-Zero, and files of the same kinds.

tasks: {task: mathematics, eval_files: [math500.jsonl, amc23.jsonl], train_files: [deepscaler.json], prompt: orz}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from configs.errors import UserError
from configs.keyed import keyed_rng, keyed_seed
from configs.loader import Table
from configs.records import write_json
from tasks.mathematics.equality import Question
from tasks.mathematics.extraction import find_answer, last_boxed, perturbed_answer
from tasks.mathematics.problems import Dropped, Problem, load_problems, problem_files, without_known
from tasks.mathematics.prompting import PromptTemplate, load_prompt
from tasks.mathematics.second_checker import second_opinion
from tasks.mathematics.workers import DEFAULT_SECONDS, shared_checker
from tasks.openings import Opening, with_opening
from tasks.records import Grade, Prompt, PromptSplit, Response, write_pairs, write_prompts
from tasks.strategy.classifier import classify

DROPPED_FILE = "dropped.json"
ON_TEST_SET = "on_the_test_set"
"""In the `meta` of dev prompts that are evaluated problems."""
SHOWN = 5
"""So many of the first dropped rows of each reason stand in the file of dropped rows."""
Files = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class MathematicsTable(Table):
    """The `tasks` table for `task: mathematics`.

    Attributes:
        eval_files: the problems that are only evaluated: .jsonl, .jsonl.gz, .json, .parquet; paths, globs, folders.
        train_files: the problems that the policy climbs on; none to evaluate only.
        n_dev_prompts: how many training problems are watched instead of trained on.
        prompt: the words around a problem: a name (`tasks.mathematics.prompting`) or the path of a prompt file.
        opening: words that begin every response, for example `Let's solve this using Python.` (`tasks.openings`).
        dev_is_eval: the dev prompts are the evaluated problems themselves, so that `policy.keep: best_dev_gold` chooses
            the step on the test set, as peaks in papers do; every table of evaluation then says so.
        answer_in: where an answer counts: `anywhere` (`tasks.mathematics.extraction`), or only in a `box` as for the
            papers' training rewards, without which it is malformed.
        max_new_tokens: limit of an answer, in tokens.
        check_seconds: time after which the comparison of an answer is killed and counted as `timeout`.
        max_malformed_share: a file with a larger share of unusable rows stops the run.
    """

    task: Literal["mathematics"] = "mathematics"
    eval_files: Files = Field(min_length=1)
    train_files: Files = Field(default_factory=list)
    n_dev_prompts: int = Field(0, ge=0)
    prompt: str = "boxed"
    opening: Opening = ""
    dev_is_eval: bool = Field(False, exclude_if=lambda asked: not asked)
    answer_in: Literal["anywhere", "box"] = Field("anywhere", exclude_if=lambda where: where == "anywhere")
    max_new_tokens: int = Field(2048, ge=1)
    check_seconds: float = Field(DEFAULT_SECONDS, gt=0, le=60)
    max_malformed_share: float = Field(0.05, ge=0, le=1)


class MathematicsTask:
    """Mathematics files as a task (`tasks.records.Task`). There is no base of its own: the policy names a model."""

    name = "mathematics"

    def __init__(self, table: MathematicsTable) -> None:
        self.table = table
        self.max_new_tokens = table.max_new_tokens

    def read(self, completion: str) -> Response:
        """The whole completion as reasoning, and the answer found in it."""
        answer = self._answer(completion)
        return Response(completion, answer, answer is not None, formatted=last_boxed(completion) is not None)

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """Gold 1 for an equal answer and 0 for none (`malformed`); None where it is `unparsable` or a `timeout`."""
        answer, style = self._answer(completion), classify(completion).strategy
        if answer is None:
            return Grade(gold=0.0, status="malformed", style=style)
        found = shared_checker(self.table.check_seconds).check(Question(gold=prompt.meta["answer"], pred=answer))
        return Grade(gold=None if found.equal is None else float(found.equal), status=found.status, style=style)

    def equal(self, label: str, answer: str) -> bool | None:
        """Whether two answers are equal, by the checker that grades."""
        return shared_checker(self.table.check_seconds).check(Question(gold=label, pred=answer)).equal

    def surely_wrong(self, prompt: Prompt, answer: str) -> bool:
        """Whether the grader calls an answer wrong, and the second, independent checker does not call it right."""
        gold = prompt.meta["answer"]
        return self.equal(gold, answer) is False and second_opinion(gold, answer).equal is not True

    def wrong_answer(self, prompt: Prompt, seed: int) -> str:
        """The reference with its first digit changed by the seed, or with a part more where it has no digit."""
        answer = prompt.meta["answer"]
        for _ in range(1 + keyed_seed(seed, "plausible wrong answer", prompt.prompt_id) % 9):
            answer = perturbed_answer(answer)
        return str(answer)

    def _answer(self, completion: str) -> str | None:
        found = find_answer(completion)
        return None if found is None or (self.table.answer_in == "box" and found.place != "box") else found.answer

    def input_files(self) -> dict[str, Path]:
        """The problem files by their role, and the prompt file where it is the user's own.

        Raises:
            UserError: files are missing, all of them named, or they are of no known format.
        """
        roles = {"eval": self.table.eval_files, "train": self.table.train_files}
        plain = [name for names in roles.values() for name in names if not set(name) & set("*?[")]
        absent = [name for name in plain if not Path(name).expanduser().exists()]
        if len(absent) > 1:
            raise UserError(f"tasks.eval_files and tasks.train_files: not there: {', '.join(absent)}")
        files = {
            f"{role}_files[{place}]": path
            for role, patterns in roles.items()
            for place, path in enumerate(problem_files(patterns, f"tasks.{role}_files"))
        }
        own = Path(self.table.prompt).expanduser()
        return files | ({"prompt": own} if own.is_file() else {})

    def present(self, answer: str) -> str:
        """The answer in a box."""
        return f"\\boxed{{{answer}}}"

    def build(self, folder: Path, seed: int) -> dict[str, Any]:
        """Write the prompts. Left out and counted: unusable rows, training problems that are evaluated or stand twice.

        The grader proves itself on every row first: a problem whose own reference answer does not score 1 cannot be
        graded, so it is left out, too.
        """
        template = load_prompt(self.table.prompt)
        evaluated, dropped = self._load(self.table.eval_files, "eval")
        trained, train_dropped = self._load(self.table.train_files, "train")
        trained, known = without_known(trained, {problem.key for problem in evaluated})
        dropped += [*train_dropped, *known]
        opening = self.table.opening
        prompts = [*self._training(trained, template, seed), *_prompts(evaluated, "eval", template, opening)]
        if self.table.dev_is_eval:
            prompts += _on_the_test_set(_prompts(evaluated, "dev", template, opening))
        unprovable = {p.prompt_id for p in prompts if self.grade(p, self.present(p.meta["answer"])).gold != 1.0}
        prompts = [prompt for prompt in prompts if prompt.prompt_id not in unprovable]
        if not any(prompt.split == "eval" for prompt in prompts):
            raise UserError(
                f"{', '.join(self.table.eval_files)}: no reference answer scores 1 by its own grader; look at them"
            )
        write_prompts(folder, prompts)
        write_pairs(folder, [])
        counts = Counter(drop.reason for drop in dropped)
        first = {reason: [asdict(d) for d in dropped if d.reason == reason][:SHOWN] for reason in counts}
        summary = {
            "task": "mathematics",
            "problems": len(prompts),
            "dropped": dict(sorted(counts.items())),
            "reference_answer_ungradable_left_out": sorted(unprovable),
        }
        write_json(folder / DROPPED_FILE, {**summary, "first": first})
        return summary

    def _load(self, patterns: Sequence[str], role: str) -> tuple[list[Problem], list[Dropped]]:
        problems: list[Problem] = []
        dropped: list[Dropped] = []
        for path in problem_files(patterns, f"tasks.{role}_files"):
            rows, unusable = load_problems(path, self.table.max_malformed_share)
            problems += rows
            dropped += unusable
        return problems, dropped

    def _training(self, problems: Sequence[Problem], template: PromptTemplate, seed: int) -> list[Prompt]:
        table = self.table
        if table.dev_is_eval and table.n_dev_prompts:
            raise UserError(
                f"tasks.dev_is_eval: the evaluated problems are the dev prompts, and n_dev_prompts asks for "
                f"{table.n_dev_prompts} others; remove one of the two"
            )
        if table.n_dev_prompts > max(0, len(problems) - 1):
            raise UserError(
                f"tasks.n_dev_prompts: {table.n_dev_prompts} asked for, and "
                f"{', '.join(table.train_files) or 'no train_files'} has {len(problems)} usable problems; lower it or "
                "name a larger file"
            )
        order = keyed_rng(seed, "mathematics dev prompts").permutation(len(problems))
        dev = set(order[: table.n_dev_prompts].tolist())
        return [
            prompt
            for place, problem in enumerate(problems)
            for prompt in _prompts([problem], "dev" if place in dev else "train", template, table.opening)
        ]


def _on_the_test_set(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The evaluated problems once more, as dev prompts that say what they are."""
    return [
        replace(prompt, prompt_id=f"dev-{prompt.prompt_id}", meta={**prompt.meta, ON_TEST_SET: True})
        for prompt in prompts
    ]


def _prompts(problems: Sequence[Problem], split: PromptSplit, template: PromptTemplate, opening: str) -> list[Prompt]:
    return [
        Prompt(
            problem.problem_id,
            split,
            [{"role": "user", "content": problem.text}],
            {"problem": problem.text, "answer": problem.answer, "set": problem.source, "prompt": template.name},
            with_opening(template.render(problem.text), opening),
        )
        for problem in problems
    ]
