"""Build the advice world on disk: teach the base, lay out the prompts, let noisy annotators compare answers."""

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
from tasks import advice
from tasks.base_folder import cached_base, save_base
from tasks.records import (
    Grade,
    PairSplit,
    PreferencePair,
    Prompt,
    Response,
    write_pairs,
    write_prompts,
)
from tasks.sampling import sample
from tasks.tiny_base import Phase, build_model, build_tokenizer, teach

LAYERS, HIDDEN, HEADS = 2, 64, 2
VOCAB_LIMIT = 1000
TEACHING_BATCH = 32
SAMPLES_PER_PROMPT = 4
CLEAN_GATE = 5.0
"""NLL per reasoned answer at which copying has emerged (about 30 before)."""


class AdviceTable(Table):
    """The `tasks` table for `task: advice`.

    Attributes:
        variant: `tied` (reasoned answers are better, as in a pretrained model), `untied` (they are not), or `reasoner`
            (tied, and most answers are reasoned).
        base_seed: seed of the base model; the run's seed where it is not given.
        clean_steps: most steps of the first, gated phase of teaching.
        taught_steps: steps of the second phase, in which the mixture of styles is taught.
        n_train_prompts: prompts that pairs and policy training share, as in the paper.
        n_held_out_prompts: prompts of the held-out pairs, half for selection and half for measurement.
        n_dev_prompts, n_eval_prompts: prompts on which policies are watched, and on which they are judged.
        n_train_pairs, n_held_out_pairs: pairs kept after those without a preference are dropped.
        annotator_sharpness: annotators prefer with probability sigmoid(sharpness * difference of gold).
        annotator_brevity: what each item of an answer costs in the eyes of the training pairs' annotators, in gold a
            need; at 1 a right item is worth nothing to them. The truth and held-out labels do not know of it.
        held_out_labels: `consensus` labels held-out pairs by gold, as many careful annotators would, so that accuracy
            is accuracy against the truth; `annotator` draws them like those of the training pairs.
        smallest_difference: pairs whose golds differ by at most this have no preference and are dropped.
    """

    task: Literal["advice"] = "advice"
    variant: Literal["tied", "untied", "reasoner"] = "tied"
    base_seed: int | None = Field(None, ge=0)
    clean_steps: int = Field(2000, ge=1)
    taught_steps: int = Field(500, ge=1)
    n_train_prompts: int = Field(3000, ge=8)
    n_held_out_prompts: int = Field(800, ge=4)
    n_dev_prompts: int = Field(128, ge=1)
    n_eval_prompts: int = Field(400, ge=2)
    n_train_pairs: int = Field(40000, ge=1)
    n_held_out_pairs: int = Field(2400, ge=4)
    annotator_sharpness: float = Field(16.0, gt=0)
    annotator_brevity: float = Field(0.0, ge=0, le=10)
    held_out_labels: Literal["consensus", "annotator"] = "consensus"
    smallest_difference: float = Field(0.25, ge=0, lt=1)


class AdviceTask:
    """The advice world as a task (`tasks.records.Task`)."""

    name = "advice"
    max_new_tokens = advice.MAX_NEW_TOKENS

    def __init__(self, table: AdviceTable) -> None:
        self.table = table

    def read(self, completion: str) -> Response:
        """Tags, and a strict list of known items."""
        return advice.read_response(completion)

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """Gold utility and style."""
        return advice.grade_response(prompt, completion)

    def input_files(self) -> dict[str, Path]:
        """None: the world makes its own data."""
        return {}

    def present(self, answer: str) -> str:
        """The answer in its tags after empty reasoning, a form that the base has met."""
        return advice.format_response("", answer.split(" , "))

    def build(self, folder: Path, seed: int) -> dict[str, Any]:
        """Teach the base, draw the prompts, prove the grader on each of them, and annotate the pairs."""
        table = self.table
        base_seed = seed if table.base_seed is None else table.base_seed
        taught = cached_base(
            folder.parent,
            {"world": "advice", "variant": table.variant, "seed": base_seed}
            | table.model_dump(include={"clean_steps", "taught_steps"}),
            partial(self._teach_base, seed=base_seed),
        )
        model, tokenizer = taught.model, taught.tokenizer
        save_base(folder, taught)
        prompts, held_out = self._draw_prompts(seed)
        prove_grader([*prompts, *held_out])
        write_prompts(folder, prompts)

        pair_prompts = [prompt for prompt in prompts if prompt.split == "train"] + held_out
        asked = [(prompt, k) for prompt in pair_prompts for k in range(SAMPLES_PER_PROMPT)]
        sampled = sample(
            model,
            tokenizer,
            [prompt.messages for prompt, _ in asked],
            [keyed_seed(seed, "pair samples", prompt.prompt_id, k) for prompt, k in asked],
            advice.MAX_NEW_TOKENS,
            what="sampling answers for pairs",
        )
        answers: dict[str, list[list[str]]] = {prompt.prompt_id: [] for prompt in pair_prompts}
        malformed = 0
        for (prompt, _), completion in zip(asked, sampled, strict=True):
            response = advice.read_response(completion.text)
            if response.answer is None:
                malformed += 1
            else:
                answers[prompt.prompt_id].append(advice.parse_items(response.answer) or [])
        pairs: list[PreferencePair] = []
        counts: dict[str, int] = {"malformed_samples_left_out": malformed}
        for split, pool, wanted in self._pair_plan(prompts, held_out):
            kept, dropped = self._annotate(split, pool, answers, wanted, seed)
            pairs += kept
            counts |= {f"{split}_pairs": len(kept)} | {f"{split}_{why}": n for why, n in dropped.items()}
        write_pairs(folder, pairs)
        return {"task": "advice", "variant": table.variant, "base": taught.summary, "pairs": counts}

    def _teach_base(self, seed: int) -> tuple[Any, Any, dict[str, Any]]:
        tokenizer = build_tokenizer(advice.tokenizer_texts(), VOCAB_LIMIT)
        model = build_model(tokenizer, LAYERS, HIDDEN, HEADS, seed)
        clean = partial(advice.draw_demonstration, styles=advice.CLEAN)
        mixed = partial(advice.draw_demonstration, styles=advice.STYLES[self.table.variant])
        phases = [
            Phase(clean, self.table.clean_steps, 3e-3, gate=("reasoned", CLEAN_GATE)),
            Phase(mixed, self.table.taught_steps, 3e-3, anneal=True),
        ]
        record = teach(model, tokenizer, phases, TEACHING_BATCH, seed)
        return model, tokenizer, {"phases": record}

    def _draw_prompts(self, seed: int) -> tuple[list[Prompt], list[Prompt]]:
        """All prompts, different from each other across all splits; held-out pair prompts come apart."""
        table = self.table
        sizes: list[tuple[str, int]] = [
            ("train", table.n_train_prompts),
            ("dev", table.n_dev_prompts),
            ("eval", table.n_eval_prompts),
            ("held-out", table.n_held_out_prompts),
        ]
        rng = keyed_rng(seed, "advice prompts")
        seen: set[tuple[str, tuple[str, ...]]] = set()
        drawn: dict[str, list[Prompt]] = {}
        for split, size in sizes:
            drawn[split] = []
            while len(drawn[split]) < size:
                situation = advice.draw_situation(rng)
                if situation in seen:
                    continue
                seen.add(situation)
                topic, needs = situation
                drawn[split].append(
                    Prompt(
                        prompt_id=f"advice-{split}-{len(drawn[split]):05d}",
                        split="train" if split == "held-out" else split,  # type: ignore[arg-type]
                        messages=advice.messages_for(topic, needs),
                        meta={"topic": topic, "needs": list(needs)},
                    )
                )
        return [*drawn["train"], *drawn["dev"], *drawn["eval"]], drawn["held-out"]

    def _pair_plan(self, prompts: list[Prompt], held_out: list[Prompt]) -> list[tuple[PairSplit, list[Prompt], int]]:
        half, wanted = len(held_out) // 2, self.table.n_held_out_pairs // 2
        train = [prompt for prompt in prompts if prompt.split == "train"]
        return [
            ("train", train, self.table.n_train_pairs),
            ("selection", held_out[:half], wanted),
            ("measurement", held_out[half:], wanted),
        ]

    def _annotate(
        self, split: PairSplit, pool: list[Prompt], answers: dict[str, list[list[str]]], wanted: int, seed: int
    ) -> tuple[list[PreferencePair], dict[str, int]]:
        """Draw pairs and let annotators prefer by Bradley-Terry draws on gold.

        Each side is half the time an answer of the base, half the time an edited one (`advice.edited_answer`).
        """
        rng = keyed_rng(seed, "pairs", split)
        kept: list[PreferencePair] = []
        without_preference = 0
        while len(kept) < wanted:
            if without_preference > 100 * wanted:
                raise UserError("tasks.smallest_difference: no pair of answers differs by so much in gold; lower it")
            prompt = pool[rng.integers(len(pool))]
            topic, needs = prompt.meta["topic"], tuple(prompt.meta["needs"])
            own = answers[prompt.prompt_id]
            first, second = (
                own[rng.integers(len(own))] if own and rng.random() < 0.5 else advice.edited_answer(rng, topic, needs)
                for _ in range(2)
            )
            golds = advice.utility(first, topic, needs), advice.utility(second, topic, needs)
            if abs(golds[0] - golds[1]) <= self.table.smallest_difference:
                without_preference += 1
                continue
            pair_id = f"{split}-{len(kept):05d}"
            first_wins = golds[0] > golds[1]
            if split == "train" or self.table.held_out_labels == "annotator":
                liked = golds[0] - golds[1] - self.table.annotator_brevity * (len(first) - len(second)) / len(needs)
                chance = 1.0 / (1.0 + np.exp(-self.table.annotator_sharpness * liked))
                first_wins = keyed_uniform(seed, "annotator", pair_id) < chance
            sides = (first, second) if first_wins else (second, first)
            kept.append(
                PreferencePair(
                    pair_id=pair_id,
                    prompt_id=prompt.prompt_id,
                    split=split,
                    messages=prompt.messages,
                    chosen=" , ".join(sides[0]),
                    rejected=" , ".join(sides[1]),
                    gold_chosen=golds[0] if first_wins else golds[1],
                    gold_rejected=golds[1] if first_wins else golds[0],
                )
            )
        return kept, {"pairs_without_preference_dropped": without_preference}


def prove_grader(prompts: Sequence[Prompt]) -> None:
    """Grade a perfect and a worthless response to every prompt.

    Raises:
        AssertionError: the grader is wrong somewhere; a fault of this program, never of the user.
    """
    for prompt in prompts:
        assert advice.grade_response(prompt, advice.perfect_response(prompt)).gold == 1.0, prompt
        assert advice.grade_response(prompt, advice.worthless_response(prompt)).gold == 0.0, prompt
        assert advice.grade_response(prompt, "lamp").status == "malformed", prompt
