"""Maps from logits to scores: by hand, order, JSON, fits against other implementations and a known truth."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from calibration.fitting import KINDS, Kind, cross_fitted, fit, fit_by_domain, linked_scores
from calibration.labelled_logits import LabelledLogits, answer_pairs, folds_of, held_out, single_answers
from calibration.maps import (
    Beta,
    ByDomain,
    Identity,
    Isotonic,
    Platt,
    Quantile,
    Reference,
    ScoreMap,
    Temperature,
    load_map,
    map_from_record,
    map_of_units,
    save_map,
)
from calibration.reliability import ece, nll_terms
from configs.errors import UserError
from configs.keyed import keyed_rng
from rm.measures import platt_scale, sigmoid
from rm.units import ScoreUnits

LN3 = math.log(3.0)
"""sigmoid(ln 3) = 3 / 4."""
SCALE, SHIFT = 3.0, 1.0
"""The planted distortion: logit = 3 z + 1 where an answer is good with chance sigmoid(z)."""


def distorted(n: int, seed: int, per_prompt: int = 4) -> LabelledLogits:
    """Answers from a calibrated model whose logits were scaled by 3 and shifted by 1."""
    rng = keyed_rng(seed, "known truth")
    z = rng.normal(0.3, 1.5, n)
    good = (rng.random(n) < sigmoid(z)).astype(np.float64)
    return single_answers(SCALE * z + SHIFT, good, [str(i // per_prompt) for i in range(n)])


def every_map() -> list[ScoreMap]:
    """One fitted map of each kind."""
    data = distorted(400, 1)
    return [found for kind in KINDS if (found := fit(kind, data).answer_map)]


def test_values_by_hand() -> None:
    assert Identity().score(LN3) == pytest.approx(0.75)
    assert Temperature(centre=1.0, temperature=2.0).score(1.0 + 2 * LN3) == pytest.approx(0.75)
    assert Platt(slope=2.0, intercept=-LN3).score(LN3) == pytest.approx(0.75)
    # a = 1, b = 2 at logit 0: s = 1/2, ln s - 2 ln(1 - s) = ln 2, and sigmoid(ln 2) = 2/3
    assert Beta(a=1.0, b=2.0, c=0.0, centre=0.0, spread=1.0).score(0.0) == pytest.approx(2 / 3)
    # against references 0 and ln 3 the answer ln 3 wins with 3/4 and 1/2
    assert Reference(scale=1.0, references=(0.0, LN3)).score(LN3) == pytest.approx(0.625)


def test_quantiles_are_mid_ranks_interpolated_and_never_0_or_1() -> None:
    found = Quantile.of(np.array([1.0, 2.0, 2.0, 4.0]))
    # mid-ranks of 1, 2, 4 among four: (0 + 1/2)/4, (1 + 1)/4, (3 + 1/2)/4
    assert found.scores(np.array([1.0, 2.0, 4.0])) == pytest.approx([0.125, 0.5, 0.875])
    assert found.score(3.0) == pytest.approx((0.5 + 0.875) / 2)
    assert found.score(4.0 + found.spread) == pytest.approx(1 - 0.125 / 2)
    far = found.scores(np.array([-1e9, -1e6, 1e6, 1e9]))
    assert 0 < far[0] < far[1] < far[2] < far[3] < 1


def test_quantiles_of_a_large_or_constant_reference() -> None:
    large = Quantile.of(np.arange(100_000.0))
    assert len(large.logits) <= 1024
    assert large.scores(np.array([25_000.0, 90_000.0])) == pytest.approx([0.25, 0.9], abs=1e-3)
    assert Quantile.of(np.full(5, 2.0)).scores(np.array([1.0, 2.0, 3.0])) == pytest.approx([0.25, 0.5, 0.75])


def test_beta_with_equal_slopes_is_platt() -> None:
    x = np.linspace(-9, 9, 50)
    beta = Beta(a=1.5, b=1.5, c=0.2, centre=1.0, spread=2.0)
    assert beta.scores(x) == pytest.approx(Platt(slope=0.75, intercept=0.2 - 0.75).scores(x))


def test_isotonic_follows_the_regression_within_its_tilt() -> None:
    data = distorted(300, 2)
    found = fit("isotonic", data).link
    assert isinstance(found, Isotonic)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(data.logits, data.labels).predict(data.logits)
    assert found.tilt == 1 / 302
    assert np.abs(found.scores(data.logits) - theirs).max() <= found.tilt


@pytest.mark.parametrize("fitted", every_map(), ids=lambda found: found.kind)
def test_every_map_keeps_every_order(fitted: ScoreMap) -> None:
    x = np.linspace(-30, 30, 20_001)
    scores = fitted.scores(x)
    assert ((scores > 0) & (scores < 1)).all()
    steps = np.diff(scores)
    assert (steps > 0).all() or (steps.min() == 0 and (scores[1:][steps == 0] > 1 - 1e-12).all()), "rounding at 1 only"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=6, max_size=40))
def test_any_usable_data_give_every_kind_a_finite_map_that_never_falls(rows: list[tuple[float, bool]]) -> None:
    logits, labels = np.array([x for x, _ in rows]), np.array([float(y) for _, y in rows])
    if np.ptp(logits) < 1e-3 or np.ptp(labels) == 0:
        return
    data = single_answers(logits, labels)
    x = np.linspace(-25, 25, 101)
    for kind in KINDS:
        scores = fit(kind, data).link.scores(x)
        assert np.isfinite(scores).all()
        assert (np.diff(scores) >= 0).all(), kind


@pytest.mark.filterwarnings("ignore:invalid value encountered in logaddexp")
def test_nan_stays_nan_and_shapes_are_kept() -> None:
    for fitted in every_map():
        found = fitted.scores(np.array([[math.nan, 0.0]]))
        assert found.shape == (1, 2)
        assert np.isnan(found).tolist() == [[True, False]]


def test_maps_survive_json(tmp_path: Path) -> None:
    x = np.linspace(-5, 5, 30)
    singles = every_map()
    for fitted in [*singles, ByDomain.model_validate({"own": {"law": singles[1]}, "pooled": singles[2]})]:
        save_map(tmp_path / "map.json", fitted)
        read = load_map(tmp_path / "map.json")
        assert read == fitted
        assert read.scores(x).tolist() == fitted.scores(x).tolist()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"kind": "plat", "slope": 1, "intercept": 0}, "kind"),
        ({"kind": "platt", "slope": -1, "intercept": 0}, "platt.slope: Input should be greater than 0"),
        ({"kind": "platt", "slope": 1}, "platt.intercept"),
        ({"kind": "temperature", "centre": 0, "temperature": math.nan}, "temperature.temperature"),
        ({"kind": "beta", "a": 0, "b": 0, "c": 0, "centre": 0, "spread": 1}, "every logit scores the same"),
        (
            {"kind": "isotonic", "logits": [2, 1], "values": [0, 1], "tilt": 0.1, "centre": 0, "spread": 1},
            "the logits of the knots must increase",
        ),
        ({"kind": "quantile", "logits": [1], "quantiles": [0.1, 0.2], "spread": 1, "n_reference": 1}, "1 logits and 2"),
        ([1], "valid"),
    ],
)
def test_what_is_no_map_is_refused_in_one_line(record: object, reason: str) -> None:
    with pytest.raises(UserError) as error:
        map_from_record(record, "map.json")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_an_altered_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    save_map(path, Platt(slope=1.0, intercept=0.0))
    record = json.loads(path.read_text())
    record["map"]["slope"] = 2.0
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="altered"):
        load_map(path)


def test_units_of_a_rung_are_a_temperature_map() -> None:
    units = ScoreUnits(1.5, 0.4, "test", 10)
    x = np.linspace(-9, 9, 20)
    assert map_of_units(units).scores(x) == pytest.approx(units.scores(x))


# Fits


def test_platt_is_logistic_regression() -> None:
    data = distorted(20_000, 3)
    theirs = LogisticRegression(C=1e9, tol=1e-10).fit(data.logits[:, None], data.labels)
    found = fit("platt", data).link
    assert isinstance(found, Platt)
    # Platt's targets pull by about one answer in ten thousand
    assert found.slope == pytest.approx(theirs.coef_[0, 0], rel=2e-3)
    assert found.intercept == pytest.approx(theirs.intercept_[0], abs=2e-3)


def test_weights_are_repetitions() -> None:
    data = distorted(200, 4)
    times = keyed_rng(0, "weights").integers(1, 4, 200)
    weighted = single_answers(data.logits, data.labels, data.prompts, None, times.astype(np.float64))
    repeated = single_answers(
        np.repeat(data.logits, times), np.repeat(data.labels, times), np.repeat(data.prompts, times).tolist()
    )
    for kind in ("temperature", "platt", "beta"):
        one, two = fit(kind, weighted).link, fit(kind, repeated).link
        # the targets of Platt count answers, and weights are scaled to sum to their number
        assert one.scores(data.logits) == pytest.approx(two.scores(data.logits), abs=0.01)


def test_pairs_give_the_scale_of_the_ladder_and_an_antisymmetric_fit() -> None:
    rng = keyed_rng(5, "pairs")
    d = rng.normal(0, 4, 5000)
    sign = np.where(rng.random(5000) < sigmoid(d / 3), 1.0, -1.0)
    rejected = rng.normal(2, 1, 5000)
    data = answer_pairs(rejected + d * sign, rejected)
    found = fit("temperature", data)
    assert isinstance(found.link, Temperature) and isinstance(found.answer_map, Temperature)
    assert found.link.centre == 0
    assert 1 / found.link.temperature == pytest.approx(platt_scale(d * sign), rel=2e-3)
    assert found.answer_map.centre == pytest.approx(np.median(data.own))
    low, high = found.parameters["temperature"]["lo"], found.parameters["temperature"]["hi"]
    assert low is not None and high is not None and low < 3 < high
    for kind in ("identity", "temperature", "isotonic", "reference"):
        link = fit(kind, data).link
        assert link.scores(d) + link.scores(-d) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["platt", "beta", "quantile"])
def test_maps_with_an_intercept_are_refused_for_pairs(kind: Kind) -> None:
    with pytest.raises(UserError, match="choose identity, temperature, isotonic, reference"):
        fit(kind, answer_pairs(np.array([1.0, 2.0]), np.array([0.0, 3.0])))


def test_separable_and_inverted_data_give_finite_maps_and_say_so() -> None:
    x = np.linspace(-1, 1, 40)
    separable = fit("platt", single_answers(x, (x > 0).astype(np.float64)))
    assert not separable.at_bound
    assert nll_terms(separable.link.scores(x), (x > 0).astype(np.float64)).mean() < 0.15
    for kind in ("temperature", "platt", "beta"):
        inverted = fit(kind, single_answers(x, (x < 0).astype(np.float64)))
        assert inverted.at_bound
        assert inverted.link.scores(x) == pytest.approx(0.5, abs=0.01)
        assert all(value["lo"] is None for name, value in inverted.parameters.items() if name in "slope")


def test_domains_with_enough_cases_get_their_own_map() -> None:
    one, two = distorted(1000, 6), distorted(1000, 7)
    logits = np.concatenate([one.logits, -5 + two.logits, [0.0, 1.0]])
    labels = np.concatenate([one.labels, two.labels, [0.0, 1.0]])
    domains = ["law"] * 1000 + ["code"] * 1000 + ["art", None]
    data = single_answers(logits, labels, [str(i // 4) for i in range(2002)], domains)
    found, own, pooled = fit_by_domain("platt", data, 200)
    assert sorted(own) == ["code", "law"]
    assert pooled == {"art": 1}
    assert isinstance(found.link, ByDomain)
    alone = fit("platt", data.in_domain("law")).link
    scores = linked_scores(found, data)
    assert scores[:1000] == pytest.approx(alone.scores(one.logits))
    assert scores[2000:] == pytest.approx(found.link.pooled.scores(logits[2000:]))
    assert found.link.scores(logits)[:3] == pytest.approx(found.link.pooled.scores(logits[:3])), "no domain: pooled"


def test_splits_are_of_whole_prompts_and_keyed() -> None:
    prompts = [str(i % 37) for i in range(500)]
    measured = held_out(prompts, 0.3, 1)
    assert {p for p, m in zip(prompts, measured, strict=True) if m}.isdisjoint(
        p for p, m in zip(prompts, measured, strict=True) if not m
    )
    assert len({p for p, m in zip(prompts, measured, strict=True) if m}) == 11
    assert held_out(prompts[::-1], 0.3, 1)[::-1].tolist() == measured.tolist(), "the order of rows means nothing"
    assert held_out(prompts, 0.3, 2).tolist() != measured.tolist()
    fold = folds_of(prompts, 5, 1)
    assert all(len({f for p, f in zip(prompts, fold, strict=True) if p == name}) == 1 for name in set(prompts))
    assert sorted(np.bincount([fold[prompts.index(name)] for name in set(prompts)]).tolist()) == [7, 7, 7, 8, 8]


def test_cross_fitting_never_scores_a_prompt_by_its_own_labels() -> None:
    data = distorted(200, 8)
    scores = cross_fitted(lambda part: fit("platt", part), data, 4, 0)
    fold = folds_of(data.prompts, 4, 0)
    flipped = data.labels.copy()
    flipped[fold == 2] = 1 - flipped[fold == 2]
    other = cross_fitted(lambda part: fit("platt", part), single_answers(data.logits, flipped, data.prompts), 4, 0)
    assert other[fold == 2].tolist() == pytest.approx(scores[fold == 2].tolist())
    assert not np.allclose(other[fold != 2], scores[fold != 2])


# Known truth


@pytest.mark.parametrize("seed", range(5))
def test_a_known_distortion_is_recovered_and_the_error_falls_below_two_hundredths(seed: int) -> None:
    fitted = fit("platt", distorted(20_000, seed))
    test = distorted(20_000, 1000 + seed)
    before = ece(Identity().scores(test.logits), test.labels, test.weights)
    for kind in ("platt", "beta", "isotonic"):
        after = ece(fit(kind, distorted(20_000, seed)).link.scores(test.logits), test.labels, test.weights)
        assert after < 0.02 < 0.1 < before, kind
    assert fitted.parameters["temperature"]["estimate"] == pytest.approx(SCALE, abs=0.15)
    assert fitted.parameters["centre"]["estimate"] == pytest.approx(SHIFT, abs=0.2)


def test_stated_intervals_hold_the_planted_scale_and_shift_as_often_as_they_say() -> None:
    held = {"temperature": 0, "centre": 0}
    truth = {"temperature": SCALE, "centre": SHIFT}
    runs = 200
    for seed in range(runs):
        parameters = fit("platt", distorted(800, 5000 + seed)).parameters
        for name, value in truth.items():
            low, high = parameters[name]["lo"], parameters[name]["hi"]
            assert low is not None and high is not None
            held[name] += low <= value <= high
    # 95% of 200 is 190, and five standard deviations of that count are 15
    assert all(175 <= times <= 200 for times in held.values()), held


def test_temperature_never_raises_held_out_nll_beyond_noise() -> None:
    changes = []
    for seed in range(60):
        rng = keyed_rng(seed, "temperature")
        z = rng.normal(0, 1.5, 1000)
        good = (rng.random(1000) < sigmoid(z)).astype(np.float64)
        scale = [1.0, 3.0, 0.3][seed % 3]
        fitted = fit("temperature", single_answers(scale * z[:300], good[:300])).link
        rest = scale * z[300:]
        changes.append(
            float((nll_terms(fitted.scores(rest), good[300:]) - nll_terms(sigmoid(rest), good[300:])).mean())
        )
    found = np.array(changes).reshape(20, 3)
    # one fitted parameter costs about 1 / (2 n) = 0.0017 nats where there is nothing to mend
    assert found[:, 0].mean() < 0.004 and found.max() < 0.02
    assert found[:, 1].max() < -0.1 and found[:, 2].mean() < -0.02
