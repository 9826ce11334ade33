"""The small runs go the way they went when the golden files were written.

They start from a base that is stored beside them. Rounding differs between processors, and sampling turns a rounding
into another word now and then; so early steps must agree closely, and later ones and rungs within what such a word can
do.
"""

from __future__ import annotations

import pytest

import policy.stage
from configs.loader import Experiment
from policy.stage import cell_folder
from tests.golden.write import FOLDER, ladder_lines, policy_lines


def numbers(lines: list[str]) -> list[list[float]]:
    return [
        [float(word) for word in line.split() if word.replace(".", "").replace("-", "").isdigit()] for line in lines
    ]


def golden(name: str) -> list[str]:
    return (FOLDER / name).read_text().splitlines()


def test_the_ladder_goes_as_it_went(small: Experiment) -> None:
    found, wanted = numbers(ladder_lines(small)), numbers(golden("ladder.txt"))
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=2e-3)


def test_the_policy_goes_as_it_went(small: Experiment) -> None:
    cell = small.with_overrides({"policy.reward": "rpr", "policy.rung": "60"})
    policy.stage.run(cell)
    found, wanted = numbers(policy_lines(cell_folder(cell))), numbers(golden("policy.txt"))
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=2e-2 if one[0] > 1 else 2e-3)
