"""Noise on verifiable rewards: the two papers' rules on a hand-made batch, units, rates, and what changes nothing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

import policy.rewards.noise
from policy.rewards.noise import Judged, NoiseTable, add_noise, draw, paper_a, paper_b

BATCH = [
    Judged("p", 0, 5, 1.0),
    Judged("p", 1, 5, 0.0),
    Judged("p", 2, 5, 0.0, well_formed=False),
    Judged("q", 0, 5, 1.0),
    Judged("q", 1, 5, 0.0),
    Judged("q", 2, 5, 0.0, well_formed=False),
]
"""Two questions with three answers each: right, wrong, malformed."""


def given(batch: list[Judged], table: NoiseTable, seed: int = 0) -> list[float | None]:
    return [one.reward for one in add_noise(batch, table, seed)]


def test_the_two_papers_rules_on_a_hand_made_batch_and_that_they_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws are set by hand: question p draws 0.3 and q 0.7; single answers 0.3, 0.7, 0.3 and 0.7, 0.3, 0.7."""
    by_question = {"p": 0.3, "q": 0.7}
    by_answer = {("p", 0): 0.3, ("p", 1): 0.7, ("p", 2): 0.3, ("q", 0): 0.7, ("q", 1): 0.3, ("q", 2): 0.7}

    def drawn(seed: int, purpose: str, unit: str, *key: str | int) -> float:
        if unit == "group":
            question, step = key
            assert step == 5
            return by_question[str(question)]
        question, sample, step = key
        assert step == 5
        return by_answer[str(question), int(sample)]

    monkeypatch.setattr(policy.rewards.noise, "keyed_uniform", drawn)
    # Paper A at p = 0.4: all of p is flipped but its malformed answer, nothing of q.
    assert given(BATCH, paper_a(0.4)) == [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    # Its code, line by line: one draw at the first answer of each group, 1 - score, malformed answers keep 0.
    by_its_code, do_flip = [], False
    for i, one in enumerate(BATCH):
        if i % 3 == 0:
            do_flip = by_question[one.prompt_id] < 0.4
        score = one.true or 0.0
        by_its_code.append((1 - score if do_flip else score) if one.well_formed else score)
    assert given(BATCH, paper_a(0.4)) == by_its_code
    # Paper B at gamma = 0.5: by answer; a right one keeps 1 from 0.5 on, any other gets 1 below 0.5.
    assert given(BATCH, paper_b(0.5)) == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    assert given(BATCH, paper_a(0.5)) != given(BATCH, paper_b(0.5))
    # Both are plain settings.
    assert paper_a(0.4) == NoiseTable.model_validate({"flip_rate": 0.4, "unit": "group", "malformed": "exempt"})
    assert paper_b(0.5) == NoiseTable.model_validate({"false_negative_rate": 0.5, "false_positive_rate": 0.5})
    flips = [one.flipped for one in add_noise(BATCH, paper_a(0.4), 0)]
    assert flips == [True, True, False, False, False, False]


def test_paper_bs_reward_does_not_depend_on_the_truth_and_paper_as_does() -> None:
    right = [Judged(f"p{i}", 0, 1, 1.0) for i in range(4000)]
    wrong = [Judged(f"p{i}", 0, 1, 0.0) for i in range(4000)]
    malformed = [Judged(f"p{i}", 0, 1, 0.0, well_formed=False) for i in range(4000)]
    # Four standard errors of 4,000 draws are 0.03.
    for gamma in (0.3, 0.7):
        for batch in (right, wrong, malformed):
            assert sum(r or 0 for r in given(batch, paper_b(gamma))) / 4000 == pytest.approx(gamma, abs=0.03)
    assert sum(r or 0 for r in given(right, paper_a(0.4))) / 4000 == pytest.approx(0.6, abs=0.032)
    assert sum(r or 0 for r in given(wrong, paper_a(0.4))) / 4000 == pytest.approx(0.4, abs=0.032)
    assert given(malformed, paper_a(0.4)) == [0.0] * 4000


@pytest.mark.parametrize(
    ("unit", "resampled", "same_group", "same_step"),
    [
        ("sample", True, False, False),
        ("sample", False, False, True),
        ("group", True, True, False),
        ("prompt", False, True, True),
    ],
)
def test_units(unit: str, resampled: bool, same_group: bool, same_step: bool) -> None:
    table = NoiseTable.model_validate({"flip_rate": 0.5, "unit": unit, "resampled": resampled})
    at = draw(Judged("p", 0, 1, 1.0), table, 3)
    assert (draw(Judged("p", 1, 1, 1.0), table, 3) == at) is same_group
    assert (draw(Judged("p", 0, 2, 1.0), table, 3) == at) is same_step
    assert draw(Judged("q", 0, 1, 1.0), table, 3) != at
    assert draw(Judged("p", 0, 1, 1.0), table, 4) != at


@pytest.mark.parametrize("unit", ["sample", "group", "prompt"])
def test_order_batch_and_resume_change_nothing(unit: str) -> None:
    batch = [Judged(f"p{i // 8}", i % 8, step, float(i % 2)) for step in range(3) for i in range(160)]
    table = NoiseTable.model_validate({"false_negative_rate": 0.3, "false_positive_rate": 0.1, "unit": unit})
    whole = dict(zip(batch, add_noise(batch, table, 1), strict=True))
    backwards = dict(zip(batch[::-1], add_noise(batch[::-1], table, 1), strict=True))
    resumed = dict(zip(batch[250:], add_noise(batch[250:], table, 1), strict=True))
    assert backwards == whole
    assert resumed == {one: whole[one] for one in batch[250:]}


def test_another_process_draws_the_same() -> None:
    batch = "[Judged(f'p{i}', i % 4, i % 3, float(i % 2)) for i in range(64)]"
    program = (
        "from policy.rewards.noise import *\nimport sys\n"
        f"print([g.reward for g in add_noise({batch}, paper_a(0.4), 7)], 'torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
    )
    here = given([Judged(f"p{i}", i % 4, i % 3, float(i % 2)) for i in range(64)], paper_a(0.4), 7)
    assert ran.stdout.strip() == f"{here} False"


def test_rates_apart_and_no_noise() -> None:
    batch = [Judged(f"p{i}", 0, 0, float(i % 2)) for i in range(8000)]
    table = NoiseTable(false_negative_rate=0.3, false_positive_rate=0.1)
    flips = Counter((one.true, g.flipped) for one, g in zip(batch, add_noise(batch, table, 0), strict=True))
    assert flips[1.0, True] / 4000 == pytest.approx(0.3, abs=0.03)
    assert flips[0.0, True] / 4000 == pytest.approx(0.1, abs=0.02)
    assert table.informativeness == pytest.approx(0.6)
    assert (paper_a(0.5).informativeness, paper_b(0.7).informativeness) == (0.0, pytest.approx(0.0))
    assert given(batch, NoiseTable()) == [one.true for one in batch]
    assert given(batch, NoiseTable(flip_rate=1.0)) == [1 - (one.true or 0) for one in batch]


def test_raising_a_rate_only_adds_flips() -> None:
    batch = [Judged(f"p{i}", 0, 0, 1.0) for i in range(500)]
    low, high = (add_noise(batch, NoiseTable(flip_rate=rate), 0) for rate in (0.2, 0.4))
    assert all(b.flipped for a, b in zip(low, high, strict=True) if a.flipped)


def test_an_unknown_truth_stays_unknown_and_other_rewards_are_refused() -> None:
    (unknown,) = add_noise([Judged("p", 0, 0, None)], paper_b(0.5), 0)
    assert (unknown.reward, unknown.flipped) == (None, None)
    with pytest.raises(ValueError, match=r"0 and 1; p has 0\.5"):
        add_noise([Judged("p", 0, 0, 0.5)], paper_b(0.5), 0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"flip_rate": 0.1, "false_negative_rate": 0.1}, "flip_rate sets both rates"),
        ({"flip_rate": 0.1, "unit": "prompt", "resampled": True}, "unit prompt is fixed"),
        ({"flip_rate": 0.1, "unit": "group", "resampled": False}, "is a prompt"),
        ({"flip_rate": 1.1}, "less than or equal to 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        NoiseTable.model_validate(fields)


def test_a_prompts_noise_is_fixed_without_saying_so() -> None:
    assert NoiseTable.model_validate({"flip_rate": 0.1, "unit": "prompt"}).resampled is False
