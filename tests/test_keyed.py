"""Keyed randomness: the same key gives the same number for ever, and another key another one."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from configs.keyed import keyed_rng, keyed_seed, keyed_uniform


def by_hand(*parts: tuple[str, str]) -> int:
    """A second implementation: 8-byte length and `type:text` of every part into one BLAKE2b of 8 bytes, top 63 bits."""
    content = b""
    for kind, text in parts:
        encoded = f"{kind}:{text}".encode()
        content += len(encoded).to_bytes(8, "big") + encoded
    number = int(hashlib.blake2b(content, digest_size=8).hexdigest(), 16)
    return number // 2


def test_known_values_stay_as_they_are() -> None:
    assert keyed_seed(0) == by_hand(("int", "0")) == 3540378216271550262
    assert (
        keyed_seed(0, "flip", "p1", 3)
        == by_hand(("int", "0"), ("str", "flip"), ("str", "p1"), ("int", "3"))
        == 1602362783092124048
    )
    assert keyed_seed(7, "ünï") == by_hand(("int", "7"), ("str", "ünï")) == 9167987614895158652


def test_the_generator_of_a_key_draws_known_numbers() -> None:
    assert keyed_rng(0, "prompts").integers(1000, size=5).tolist() == [268, 579, 316, 668, 287]
    assert keyed_uniform(0, "flip", "p1", 3) == pytest.approx(1602362783092124048 / 9223372036854775808, rel=1e-15)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "ab", "c"), (0, "a", "bc")),
        ((0, "a", ""), (0, "a")),
        ((0, 1), (0, "1")),
        ((0, 1), (0, True)),
        ((0, "a", 1), (0, 1, "a")),
        ((0, "a"), (1, "a")),
        ((12,), (1, 2)),
        ((0, "int:1"), (0, 1)),
        ((-1,), (1,)),
    ],
)
def test_keys_that_look_alike_differ(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert keyed_seed(*one) != keyed_seed(*other)


def test_lone_surrogates_are_keys_like_others() -> None:
    assert keyed_seed(0, "\ud800") != keyed_seed(0, "\udfff")


def test_ten_thousand_keys_give_ten_thousand_seeds_that_a_generator_takes() -> None:
    seeds = {keyed_seed(seed, "sample", i, k) for seed in range(4) for i in range(625) for k in range(4)}
    assert len(seeds) == 10_000
    assert min(seeds) >= 0
    assert max(seeds) < 2**63


def test_draws_are_uniform_and_independent_of_their_neighbours() -> None:
    draws = np.array([keyed_uniform(0, "uniform", i) for i in range(20_000)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / np.sqrt(len(draws))


def test_draws_do_not_touch_the_global_generator() -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    keyed_rng(0, "a").random(100)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index,union-attr]


@given(st.integers(), st.lists(st.one_of(st.text(), st.integers()), max_size=4))
def test_every_key_has_one_seed(seed: int, key: list[str | int]) -> None:
    assert keyed_seed(seed, *key) == keyed_seed(seed, *key)
    assert 0 <= keyed_uniform(seed, *key) < 1
