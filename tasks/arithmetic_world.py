"""Build the arithmetic world on disk: teach a strong or a weak base, lay out the prompts, annotate answers if asked to.

A verifiable task needs no preferences, so there are no pairs unless the table asks for them. Where it does, a reward
model sees the prompt and the bare number (`Response.answer`), as in the advice world: it must add by itself, and cannot
read the sum off the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from configs.errors import UserError
from configs.keyed import keyed_rng, keyed_seed, keyed_uniform
from configs.loader import Table
from tasks import arithmetic
from tasks.base_folder import TaughtBase, cached_base, save_base
from tasks.openings import Opening, with_opening
from tasks.records import (
    Grade,
    PairSplit,
    PreferencePair,
    Prompt,
    PromptSplit,
    Response,
    write_pairs,
    write_prompts,
)
from tasks.sampling import sample
from tasks.tiny_base import Phase, build_model, build_tokenizer, teach

LAYERS, HIDDEN, HEADS = 2, 128, 4
VOCAB_LIMIT = 400
TEACHING_BATCH = 32
LEARNING_RATE = 3e-3
SAMPLES_PER_PROMPT = 4
FURTHEST = 9
"""An edited answer is off by one to nine: the further, the easier for a reward model, so that a ladder has rungs."""


class ArithmeticTable(Table):
    """The `tasks` table for `task: arithmetic`.

    Attributes:
        variant: the base, `strong` (code is reliable) or `weak` (code is a guess, steps slip now and then).
        n_terms: how many digits a prompt adds up.
        base_seed: seed of the base model; the run's seed where it is not given.
        clean_steps: most steps of the first, gated phase of teaching.
        taught_steps: steps of the second phase, in which the mixture of styles is taught.
        n_train_prompts: prompts that policy training and training pairs share.
        n_dev_prompts, n_eval_prompts: prompts on which policies are watched, and on which they are judged.
        n_held_out_prompts: prompts of the held-out pairs, half for selection and half for measurement.
        n_train_pairs, n_held_out_pairs: preference pairs, each of a right and a wrong number; 0 for none.
        annotator_sharpness: annotators prefer the right number with probability sigmoid(sharpness).
        prompt: how the policy is asked, a row of `tasks.arithmetic.PROMPTS`; reward models and judges see `plain`.
        opening: words that begin every response of the policy, for example `python:` (`tasks.openings`).
    """

    task: Literal["arithmetic"] = "arithmetic"
    variant: Literal["strong", "weak"] = "strong"
    n_terms: int = Field(5, ge=arithmetic.MIN_TERMS, le=arithmetic.MAX_TERMS)
    base_seed: int | None = Field(None, ge=0)
    clean_steps: int = Field(1500, ge=1)
    taught_steps: int = Field(500, ge=1)
    n_train_prompts: int = Field(1600, ge=8)
    n_dev_prompts: int = Field(128, ge=1)
    n_eval_prompts: int = Field(400, ge=2)
    n_held_out_prompts: int = Field(0, ge=0)
    n_train_pairs: int = Field(0, ge=0)
    n_held_out_pairs: int = Field(0, ge=0)
    annotator_sharpness: float = Field(3.0, gt=0)
    prompt: Literal["plain", "bare", "spurious", "code"] = Field("plain", exclude_if=lambda prompt: prompt == "plain")
    opening: Opening = ""


class ArithmeticTask:
    """The arithmetic world as a task (`tasks.records.Task`)."""

    name = "arithmetic"
    max_new_tokens = arithmetic.MAX_NEW_TOKENS

    def __init__(self, table: ArithmeticTable) -> None:
        self.table = table
        prompts = table.n_train_prompts + table.n_dev_prompts + table.n_eval_prompts + table.n_held_out_prompts
        if prompts > 10**table.n_terms:
            raise UserError(
                f"tasks.n_terms: there are {10**table.n_terms} prompts of {table.n_terms} digits, the table asks for "
                f"{prompts} different ones; raise n_terms (at most {arithmetic.MAX_TERMS}) or lower the n_…_prompts"
            )
        if table.n_held_out_pairs and table.n_held_out_prompts < 2:
            raise UserError(
                f"tasks.n_held_out_prompts: {table.n_held_out_pairs} held-out pairs need at least 2 prompts of their "
                f"own, found {table.n_held_out_prompts}"
            )

    def read(self, completion: str) -> Response:
        """The number of a last sentence `The answer is N.`"""
        return arithmetic.read_response(completion)

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """Gold 1 for the sum, and the style."""
        return arithmetic.grade_response(prompt, completion)

    def equal(self, label: str, answer: str) -> bool:
        """Whether two numbers are the same: both are canonical texts."""
        return label == answer

    def surely_wrong(self, prompt: Prompt, answer: str) -> bool:
        """Whether a number is not the sum."""
        return answer != str(sum(prompt.meta["terms"]))

    def wrong_answer(self, prompt: Prompt, seed: int) -> str:
        """The sum off by one to three."""
        rng = keyed_rng(seed, "plausible wrong answer", prompt.prompt_id)
        return str(arithmetic.slip_of(rng, sum(prompt.meta["terms"])))

    def input_files(self) -> dict[str, Path]:
        """None: the world makes its own data."""
        return {}

    def present(self, answer: str) -> str:
        """The answer sentence alone."""
        return f"The answer is {answer}."

    def build(self, folder: Path, seed: int) -> dict[str, Any]:
        """Teach the base, draw the prompts, prove the grader on each of them, and annotate pairs if there are any."""
        table = self.table
        base_seed = seed if table.base_seed is None else table.base_seed
        taught = cached_base(
            folder.parent,
            {"world": "arithmetic", "seed": base_seed}
            | table.model_dump(include={"variant", "n_terms", "clean_steps", "taught_steps"}),
            partial(self._teach_base, seed=base_seed),
        )
        save_base(folder, taught)
        prompts, held_out = self._draw_prompts(seed)
        prove_grader([*prompts, *held_out])
        write_prompts(folder, prompts)
        pairs, counts = self._annotate_all(taught, prompts, held_out, seed)
        write_pairs(folder, pairs)
        return {"task": "arithmetic", "variant": table.variant, "base": taught.summary, "pairs": counts}

    def _teach_base(self, seed: int) -> tuple[Any, Any, dict[str, Any]]:
        variant, n_terms = arithmetic.VARIANTS[self.table.variant], self.table.n_terms
        tokenizer = build_tokenizer(arithmetic.tokenizer_texts(), VOCAB_LIMIT)
        model = build_model(tokenizer, LAYERS, HIDDEN, HEADS, seed)
        clean = partial(arithmetic.draw_demonstration, styles=variant.clean, n_terms=n_terms)
        mixed = partial(arithmetic.draw_demonstration, styles=variant.styles, n_terms=n_terms)
        phases = [
            Phase(clean, self.table.clean_steps, LEARNING_RATE, gate=("steps", variant.clean_nll)),
            Phase(mixed, self.table.taught_steps, LEARNING_RATE, anneal=True),
        ]
        record = teach(model, tokenizer, phases, TEACHING_BATCH, seed)
        return model, tokenizer, {"phases": record}

    def _draw_prompts(self, seed: int) -> tuple[list[Prompt], list[Prompt]]:
        """All prompts, different from each other across all splits; held-out pair prompts come apart.

        Two prompts that add the same digits in another order count as different.
        """
        table = self.table
        sizes: list[tuple[str, PromptSplit, int]] = [
            ("train", "train", table.n_train_prompts),
            ("dev", "dev", table.n_dev_prompts),
            ("eval", "eval", table.n_eval_prompts),
            ("held-out", "train", table.n_held_out_prompts),
        ]
        rng = keyed_rng(seed, "arithmetic prompts")
        wanted = sum(size for _, _, size in sizes)
        numbers = rng.choice(10**table.n_terms, size=wanted, replace=False).tolist()
        drawn: dict[str, list[Prompt]] = {}
        for name, split, size in sizes:
            taken, numbers = numbers[:size], numbers[size:]
            drawn[name] = []
            for position, number in enumerate(taken):
                terms = tuple(int(digit) for digit in f"{number:0{table.n_terms}d}")
                prompt_id = f"arithmetic-{name}-{position:05d}"
                messages = arithmetic.messages_for(terms)
                asked = with_opening(arithmetic.messages_for(terms, table.prompt), table.opening)
                drawn[name].append(
                    Prompt(prompt_id, split, messages, {"terms": list(terms)}, [] if asked == messages else asked)
                )
        return [*drawn["train"], *drawn["dev"], *drawn["eval"]], drawn["held-out"]

    def _annotate_all(
        self, taught: TaughtBase, prompts: list[Prompt], held_out: list[Prompt], seed: int
    ) -> tuple[list[PreferencePair], dict[str, int]]:
        half, wanted = len(held_out) // 2, self.table.n_held_out_pairs // 2
        train = [prompt for prompt in prompts if prompt.split == "train"]
        plan: list[tuple[PairSplit, list[Prompt], int]] = [
            ("train", train, self.table.n_train_pairs),
            ("selection", held_out[:half], wanted),
            ("measurement", held_out[half:], wanted),
        ]
        pools = [prompt for _, pool, n_pairs in plan if n_pairs for prompt in pool]
        numbers, malformed = self._sampled_numbers(taught, pools, seed)
        pairs: list[PreferencePair] = []
        counts = {"malformed_samples_left_out": malformed}
        for split, pool, n_pairs in plan:
            pairs += self._annotate(split, pool, numbers, n_pairs, seed) if n_pairs else []
            counts[f"{split}_pairs"] = n_pairs
        return pairs, counts

    def _sampled_numbers(
        self, taught: TaughtBase, pool: Sequence[Prompt], seed: int
    ) -> tuple[dict[str, list[str]], int]:
        """The base's own answers to each prompt, and how many samples had none."""
        asked = [(prompt, k) for prompt in pool for k in range(SAMPLES_PER_PROMPT)]
        sampled = sample(
            taught.model,
            taught.tokenizer,
            [prompt.messages for prompt, _ in asked],
            [keyed_seed(seed, "pair samples", prompt.prompt_id, k) for prompt, k in asked],
            arithmetic.MAX_NEW_TOKENS,
            what="sampling answers for pairs",
        )
        numbers: dict[str, list[str]] = {prompt.prompt_id: [] for prompt in pool}
        for (prompt, _), completion in zip(asked, sampled, strict=True):
            answer = arithmetic.read_response(completion.text).answer
            if answer is not None:
                numbers[prompt.prompt_id].append(answer)
        return numbers, len(asked) - sum(map(len, numbers.values()))

    def _annotate(
        self, split: PairSplit, pool: list[Prompt], numbers: dict[str, list[str]], wanted: int, seed: int
    ) -> list[PreferencePair]:
        """Pairs of the right number and a wrong one, preferred by Bradley-Terry draws on gold.

        The wrong number is half the time a wrong answer of the base, where there is one, otherwise an edited one.
        """
        rng = keyed_rng(seed, "pairs", split)
        chance = 1.0 / (1.0 + np.exp(-self.table.annotator_sharpness))
        kept = []
        for position in range(wanted):
            prompt = pool[rng.integers(len(pool))]
            total = sum(prompt.meta["terms"])
            own = [number for number in numbers[prompt.prompt_id] if number != str(total)]
            edited = str(arithmetic.slip_of(rng, total, FURTHEST))
            wrong = own[rng.integers(len(own))] if own and rng.random() < 0.5 else edited
            pair_id = f"{split}-{position:05d}"
            right_wins = keyed_uniform(seed, "annotator", pair_id) < chance
            kept.append(
                PreferencePair(
                    pair_id=pair_id,
                    prompt_id=prompt.prompt_id,
                    split=split,
                    messages=prompt.messages,
                    chosen=str(total) if right_wins else wrong,
                    rejected=wrong if right_wins else str(total),
                    gold_chosen=float(right_wins),
                    gold_rejected=float(not right_wins),
                    domain="arithmetic",
                )
            )
        return kept


def prove_grader(prompts: Sequence[Prompt]) -> None:
    """Grade right, wrong and malformed responses to every prompt, in each style.

    Raises:
        AssertionError: the grader is wrong somewhere; a fault of this program, never of the user.
    """
    for prompt in prompts:
        for completion in arithmetic.perfect_responses(prompt):
            assert arithmetic.grade_response(prompt, completion).gold == 1.0, completion
            assert arithmetic.grade_response(prompt, completion.removesuffix(".")).status == "malformed", completion
        for completion in arithmetic.worthless_responses(prompt):
            grade = arithmetic.grade_response(prompt, completion)
            assert (grade.gold, grade.status) == (0.0, "ok"), completion
