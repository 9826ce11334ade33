"""The claims about verifiable rewards on made-up points whose truth is known: every verdict can be reached."""

from __future__ import annotations

from typing import Any

import pytest

from configs.keyed import keyed_rng
from curve.analysis.claims_mathematics import mathematics_claims
from curve.analysis.flips import flips
from curve.analysis.starts import clean_gold, noise_series, rate_of, starts_of
from curve.analysis.verdicts import Claim
from tests.test_claims import cell

Points = list[dict[str, Any]]
BASE = 0.30


def start(base: str | None = None, gold: float = BASE) -> Any:
    facts: dict[str, Any] = {"algorithm": None, "seed": None, "base": base}
    return cell("untrained", None, 0.5, **facts) | golds(gold) | {"seed": None, "cell": f"untrained-{base}"}


def golds(value: float, error: float = 0.01) -> dict[str, float]:
    return {"gold_mean": value, "gold_mean_lo": value - 1.96 * error, "gold_mean_hi": value + 1.96 * error}


def trained(reward: str, value: float, base: str | None = None, seeds: int = 3, **facts: Any) -> Points:
    """Policies whose seeds differ by less than a hundredth."""
    moves = (-0.004, 0.0, 0.004)[:seeds]
    names = "-".join(f"{name}{value}" for name, value in facts.items())
    return [
        cell(reward, None, 0.5, seed, base=base, **facts)
        | golds(value + move)
        | {"cell": f"{reward}{base}{names}{seed}"}
        for seed, move in enumerate(moves)
    ]


def noisy(by_rate: dict[float, float], base: str | None = None, updates: int | None = 1, **facts: Any) -> Points:
    points: Points = []
    for rate, value in by_rate.items():
        flip = {"flip_rate": rate} if rate else {}
        points += trained("gold", value, base, updates_per_rollout=updates, **flip, **facts)
    return points


def claim(points: Points, number: int, strategies: Any = None, margin: float = 0.05) -> Claim:
    return next(found for found in mathematics_claims(points, {}, margin, strategies) if found.number == number)


FREE = {0.0: 0.80, 0.2: 0.80, 0.4: 0.79, 0.5: 0.30}


def test_flips_that_cost_nothing_support_the_claim() -> None:
    found = claim([start(), *noisy(FREE)], 1)
    assert found.verdict == "supported", found.sentence
    assert [part.what for part in found.parts if part.verdict == "supported"] == [
        "clean less 20% flipped",
        "clean less 40% flipped",
        "gain at 50% flipped, one update a rollout",
    ]
    assert "no RM and 3 policy seeds, 400 prompts" in found.sentence


def test_flips_that_cost_much_or_coins_that_teach_contradict_it() -> None:
    assert claim([start(), *noisy(FREE | {0.4: 0.60})], 1).verdict == "contradicted"
    taught = claim([start(), *noisy(FREE | {0.5: 0.60})], 1)
    assert taught.verdict == "contradicted"
    assert {part.what: part.verdict for part in taught.parts}[
        "gain at 50% flipped, one update a rollout"
    ] == "contradicted"


def test_flips_cost_nothing_where_the_clean_reward_gains_nothing() -> None:
    flat = dict.fromkeys(FREE, BASE)
    found = claim([start(), *noisy(flat)], 1)
    assert found.verdict == "not measured" and not found.parts
    assert "not shown to be above 0.05: clean gain over no training 0.000 [" in found.sentence
    assert claim([start(), *noisy(FREE | {0.0: BASE + 0.04})], 1).verdict == "not measured", "within the margin"
    without = claim(noisy(FREE), 1)
    assert without.verdict == "not measured" and "lack the untrained policy" in without.sentence
    gained = {part.what: part.verdict for part in claim([start(), *noisy(FREE)], 1).parts}
    assert gained["clean gain over no training"] == "described"


def test_one_seed_or_a_missing_rate_settles_nothing() -> None:
    one = [point for point in [start(), *noisy(FREE)] if point["seed"] in (None, 0)]
    assert claim(one, 1).verdict == "not settled" and "one seed" in claim(one, 1).sentence
    without = claim([start(), *noisy({0.0: 0.8, 0.2: 0.8, 0.5: 0.3})], 1)
    assert without.verdict == "not settled" and "no cells at 40%" in without.sentence
    several_updates = claim([start(), *noisy(FREE, updates=8)], 1)
    assert "no cells at 50% with one update a rollout" in several_updates.sentence
    near = claim([start(), *noisy(FREE | {0.4: 0.752})], 1)
    assert near.verdict == "not settled", "the interval holds the margin"
    assert claim([start()], 1).verdict == "not measured"


def test_the_final_value_is_set_against_what_is_left_of_the_gradient() -> None:
    line = {rate: 0.3 + 0.5 * (1 - 2 * rate) for rate in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)}
    found = claim([start(), *noisy(line)], 1)
    slope = next(part for part in found.parts if part.what == "rise of the final value per unit of 1 - 2p")
    assert slope.verdict == "described" and slope.contrast is not None
    assert slope.contrast.value == pytest.approx(0.5) and slope.contrast.n_policy_seeds == 3
    errors = [0.01 * weight for weight in (5 / 7, 3 / 7, 1 / 7, 1 / 7, 3 / 7, 5 / 7)]
    assert slope.contrast.se == pytest.approx(sum(e**2 for e in errors) ** 0.5, rel=1e-3), "seeds move all rates alike"


def test_gold_by_prompt_pairs_the_flips_with_the_clean_cells() -> None:
    points = [start(), *noisy({0.0: 0.8, 0.4: 0.77})]
    rng = keyed_rng(0, "prompts")
    shared = rng.standard_normal(400) * 0.3
    outcomes = {}
    for point in points:
        values = shared - shared.mean() + point["gold_mean"]
        outcomes[point["cell"]] = {f"p{k}": float(value) for k, value in enumerate(values)}
    wide = {"gold_mean_lo": 0.70, "gold_mean_hi": 0.90}
    apart = claim([point | wide for point in points], 1).parts[0].contrast
    found = next(c for c in mathematics_claims(points, outcomes, 0.05, None) if c.number == 1).parts[0].contrast
    assert found is not None and apart is not None and found.paired and not apart.paired
    assert found.value == pytest.approx(0.03) and found.se is not None and apart.se is not None
    assert found.se < 0.01 < apart.se


def test_a_rate_of_each_side_is_a_flip_rate_where_both_are_the_same() -> None:
    both = {"false_negative_rate": 0.3, "false_positive_rate": 0.3}
    assert rate_of(cell("gold", None, 0.5, **both)) == 0.3
    assert rate_of(cell("gold", None, 0.5, **both | {"false_positive_rate": 0.1})) is None
    assert rate_of(cell("gold", None, 0.5)) == 0.0 == rate_of(cell("gold", None, 0.5, flip_rate=0.0))
    old = {name: value for name, value in cell("gold", None, 0.5).items() if name not in both and name != "flip_rate"}
    assert rate_of(old) == 0.0, "points of an earlier version"


def test_kinds_of_flips_are_told_apart_where_they_meet() -> None:
    own = noisy({0.0: 0.8, 0.4: 0.8}) + noisy({0.4: 0.7}, treatment="gold_flip0.4_group")
    assert list(noise_series(own)) == ["", "gold_flip_group"]
    assert noise_series(own)["gold_flip_group"][0.4][0]["gold_mean"] == pytest.approx(0.696)
    assert list(noise_series(noisy({0.0: 0.8, 0.2: 0.8}) + noisy({0.4: 0.7}, treatment="gold_flip0.4_group"))) == [""]
    assert noise_series(noisy({0.4: 0.7})) == {}, "no clean cells"


def test_clean_cells_may_be_an_arm() -> None:
    arms_of_flips = [
        point for rate in (0.2, 0.4) for point in noisy({rate: 0.8}, arm=f"flip{rate}", treatment=f"flip{rate}")
    ]
    paper = noisy({0.4: 0.5}, arm="paper_a_flip0.4", treatment="paper_a_flip0.4")
    clean = noisy({0.0: 0.8}, arm="clean", treatment="clean", false_negative_rate=0.0, false_positive_rate=0.0)
    found = noise_series([*clean, *arms_of_flips, *paper])
    assert {name: list(by_rate) for name, by_rate in found.items()} == {
        "flip": [0.0, 0.2, 0.4],
        "paper_a_flip": [0.0, 0.4],
    }
    conditions = noisy({0.0: 0.6}, arm="gold_no_python", treatment="gold_no_python")
    assert [cell["arm"] for cell in clean_gold([*conditions, *clean])] == ["clean"] * 3
    verdicts = {
        c.curve: c.verdict for c in mathematics_claims([start(), *clean, *arms_of_flips, *paper], {}, 0.05, None)
    }
    assert verdicts["paper_a_flip"] == "contradicted" and verdicts["flip"] == "not settled"


def test_pace_and_final_value_stand_apart() -> None:
    points = [start(), *noisy({0.0: 0.8, 0.4: 0.8})]
    looks = []
    for point in points[1:]:
        golds_at = {0: 0.3, 20: 0.6, 40: 0.8} if not point["flip_rate"] else {0: 0.3, 20: 0.4, 40: 0.6}
        looks += [{"cell": point["cell"], "step": step, "gold": value} for step, value in golds_at.items()]
    rows = {row["flip_rate"]: row for row in flips(points, {}, looks)}
    assert [(row["n_reached"], row["steps_to_half"]) for row in rows.values()] == [(3, 20.0), (3, 40.0)]
    assert rows[0.4]["final"]["value"] == pytest.approx(0.8) and rows[0.4]["informativeness"] == pytest.approx(0.2)
    assert rows[0.0]["gain"]["value"] == pytest.approx(0.5)
    assert flips(points, {}, [])[0]["steps_to_half"] is None


def test_half_of_no_gain_is_reached_by_noise() -> None:
    points = [start(), *noisy({0.0: 0.8, 0.4: BASE})]
    looks = [
        {"cell": point["cell"], "step": step, "gold": value}
        for point in points[1:]
        for step, value in {0: 0.3, 4: 0.6, 40: 0.8}.items()
    ]
    rows = flips(points, {}, looks)
    assert [(row["n_looked"], row["n_reached"], row["steps_to_half"]) for row in rows] == [(3, 3, 4.0), (3, None, None)]
    flat = flips([start(), *noisy({0.0: BASE, 0.4: 0.8})], {}, looks)
    assert [row["steps_to_half"] for row in flat] == [None, None], "the clean reward has no gain to halve"


def two_bases(strong: float, weak: float, weak_clean: float = 0.60) -> Points:
    return [
        start("strong", 0.40),
        *noisy({0.0: 0.80, 0.4: strong}, "strong"),
        start("weak", 0.20),
        *noisy({0.0: weak_clean, 0.4: weak}, "weak"),
    ]


def test_a_weak_base_that_loses_more_supports_the_claim() -> None:
    found = claim(two_bases(0.79, 0.25), 8)
    assert found.verdict == "supported", found.sentence
    assert "strong base (strong) less weak (weak)" in found.sentence and "clean gains are alike" in found.sentence
    value = found.parts[0].contrast
    assert value is not None and value.value == pytest.approx(0.39 / 0.40 - 0.05 / 0.40, abs=1e-6)


def test_a_weak_base_that_keeps_as_much_does_not() -> None:
    assert claim(two_bases(0.50, 0.55), 8).verdict == "contradicted"
    assert claim(two_bases(0.77, 0.56), 8).verdict == "not settled"
    unequal = claim(two_bases(0.79, 0.25, weak_clean=0.40), 8)
    assert "clean gains differ, so shares of them are compared" in unequal.sentence
    assert claim(two_bases(0.79, 0.25)[:7], 8).verdict == "not measured"
    flat = claim(two_bases(0.79, 0.20, weak_clean=0.20), 8)
    assert flat.verdict == "not measured" and "gain without noise" in flat.sentence


def test_without_gold_before_training_no_base_is_the_weak_one() -> None:
    won = [
        cell | {name.replace("gold_mean", "quality"): cell[name] for name in cell if name.startswith("gold_mean")}
        for cell in two_bases(0.79, 0.25)
    ]
    blind = [cell | dict.fromkeys((name for name in cell if name.startswith("gold")), None) for cell in won]
    found = claim(blind, 8)
    assert found.verdict == "not measured" and "which base is the weak one is not known" in found.sentence


def test_a_spurious_reward_that_helps_some_base_is_enough() -> None:
    helped = claim([start(), *trained("random", 0.30), *trained("format", 0.50)], 9)
    assert helped.verdict == "supported" and "format reward less no training 0.200" in helped.sentence
    idle = claim([start(), *trained("random", 0.30), *trained("format", 0.29)], 9)
    assert idle.verdict == "not settled" and "that no model is helped cannot be seen" in idle.sentence
    assert claim([start(), *trained("gold", 0.9)], 9).verdict == "not measured"
    bases = [start("strong"), *trained("random", 0.3, "strong"), start("weak"), *trained("random", 0.5, "weak")]
    found = claim(bases, 9)
    assert found.verdict == "supported" and "(weak) 0.200" in found.sentence and "2 bases" in found.sentence


def test_one_of_many_spurious_rewards_must_help_by_more_than_chance() -> None:
    seeds = [golds(0.35), golds(0.42), golds(0.40)]
    python = [cell | seed for cell, seed in zip(trained("python", 0.4), seeds, strict=True)]
    alone = claim([start(), *python], 9)
    assert alone.verdict == "supported"
    others = [cell for reward in ("random", "format", "incorrect") for cell in trained(reward, 0.30)]
    among = claim([start(), *python, *others], 9)
    part = next(part for part in among.parts if part.what.startswith("python"))
    assert alone.parts[0].contrast is not None and part.contrast is not None
    corrected = 4 * (part.contrast.p or 0)  # Holm's first step, by hand
    assert part.verdict == ("supported" if corrected < 0.05 else "not settled")
    assert corrected > 0.05 and f"p {corrected:.2f} after Holm's correction over 4" in among.sentence
    assert among.verdict == "not settled"


def test_one_base_under_two_setups_is_one_base() -> None:
    opened = {"setup": "tasks.opening=python:"}
    points = [start("strong"), *trained("random", 0.3, "strong")]
    points += [start("strong") | opened, *trained("random", 0.5, "strong", **opened)]
    found = claim(points, 9)
    assert found.verdict == "supported" and "1 base;" in found.sentence and "(tasks.opening=python:)" in found.sentence
    again = [start("strong"), *noisy({0.0: 0.80, 0.4: 0.79}, "strong")]
    again += [start("strong", 0.2) | opened, *noisy({0.0: 0.60, 0.4: 0.25}, "strong", **opened)]
    one = claim(again, 8)
    assert one.verdict == "not measured" and "all flips are on one base (strong)" in one.sentence


def test_a_gain_that_another_prompt_brings_alone_is_no_gain_of_the_reward() -> None:
    asked = start() | golds(0.60) | {"arm": "other_prompt", "treatment": "other_prompt", "cell": "other_prompt"}
    found = claim([start(), asked, *trained("format", 0.50)], 9)
    assert found.verdict == "not settled" and "another prompt alone gains as much" in found.sentence
    assert "no training, other_prompt, less no training 0.300" in found.sentence


def clipping(on: float, off: float, updates: int | None = 480, **others: float) -> Points:
    points = [start(), *trained("random", on, arm="clip_on", treatment="clip_on", n_updates=480)]
    points += trained("random", off, arm="clip_off", treatment="clip_off", n_updates=updates)
    for name, value in others.items():
        points += trained("random", value, arm=name, treatment=name, n_updates=480)
    return points


def test_clipping_is_judged_at_equal_numbers_of_updates() -> None:
    assert claim(clipping(0.50, 0.30, clip_large_batch=0.31, clip_small_rollout=0.29), 10).verdict == "supported"
    assert claim(clipping(0.30, 0.30), 10).verdict == "contradicted", "clipping gains nothing"
    assert claim(clipping(0.50, 0.50), 10).verdict == "contradicted", "gains without clipping, too"
    rough = [point | {"gold_mean_lo": 0.2, "gold_mean_hi": 0.5} for point in clipping(0.33, 0.30)]
    assert claim(rough, 10).verdict == "not settled"
    unequal = claim(clipping(0.50, 0.30, updates=60), 10)
    assert unequal.verdict == "not settled" and "480 updates against 60" in unequal.sentence
    unknown = claim(clipping(0.50, 0.30, updates=None), 10)
    assert "do not say how many updates" in unknown.sentence
    assert claim([start(), *trained("random", 0.5)], 10).verdict == "not measured"


def arms(*shares: tuple[float, float, float]) -> dict[str, Any]:
    """A report of `rewardladder strategy`: the part of language->code in the gain with its interval, arm by arm."""
    report: dict[str, Any] = {"arms": {}}
    for number, (value, lo, hi) in enumerate(shares):
        cells = {"language->code": (value, [lo, hi]), "code->language": (0.1, [0.05, 0.15])}
        cells |= {"code->code": (0.1, [0.0, 0.2]), "language->language": (0.1, [0.0, 0.2])}
        transitions = {k: {"n": 100, "contribution": v, "contribution_interval": i} for k, (v, i) in cells.items()}
        report["arms"][f"random-s{number}"] = {"transitions": transitions}
    return report


def test_strategies_are_read_from_the_tool_that_compares_them() -> None:
    found = claim([], 11, arms((0.7, 0.6, 0.8), (0.65, 0.55, 0.75)))
    assert found.verdict == "supported"
    assert "random-s0: part of language->code in the gain 0.700 [0.600, 0.800] (400 questions" in found.sentence
    assert found.parts[0].record()["value"] == 0.7
    assert claim([], 11, arms((0.2, 0.1, 0.3), (0.2, 0.1, 0.3))).verdict == "contradicted"
    assert claim([], 11, arms((0.5, 0.4, 0.6), (0.7, 0.6, 0.8))).verdict == "not settled"
    one = claim([], 11, arms((0.7, 0.6, 0.8)))
    assert one.verdict == "not settled" and "one arm; on its questions it holds" in one.sentence
    assert claim([], 11).verdict == "not measured"


def test_starts_are_told_apart_by_base_and_algorithm() -> None:
    points = [start("strong"), *trained("gold", 0.8, "strong"), *trained("gold", 0.8, "strong", algorithm="ppo")]
    points += [start("weak"), *trained("gold", 0.8, "weak")]
    assert [found.name for found in starts_of(points)] == ["grpo, strong", "ppo, strong", "grpo, weak"]
    assert all(found.untrained is not None for found in starts_of(points))
    assert [found.name for found in starts_of(points[:4])] == [""]
