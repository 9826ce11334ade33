"""From a sweep to cells: names that stay, axes and arms, variants, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import UserError
from configs.loader import Experiment, load_experiment, parse_yaml
from curve.sweep.cells import as_yaml, expand
from curve.sweep.check import check_sweep
from curve.sweep.preparation import described
from curve.sweep.variants import setup_of, variants_of
from policy.config import PolicyTable
from tests.conftest import ROOT


def experiment(tmp_path: Path, sweep: str, variants: str = "null", **more: Any) -> Experiment:
    wanted = {"curve.sweep": yaml.safe_load(sweep), "curve.variants": yaml.safe_load(variants), **more}
    return load_experiment(ROOT / "configs" / "demo.yaml", [f"runs_dir={tmp_path}"]).with_overrides(wanted)


def names(found: Experiment) -> list[str]:
    return [cell.label for cell in expand(found)]


def test_names_of_a_sweep_without_arms_are_what_they_always_were(tmp_path: Path) -> None:
    sweep = "[{reward: [gold, rpr_only]}, {reward: [raw], rung: [65, 80], algorithm: [grpo, rloo]}]"
    assert names(experiment(tmp_path, sweep)) == [
        "untrained",
        "gold-grpo-s0",
        "rpr_only-grpo-s0",
        "raw-rung65-grpo-s0",
        "raw-rung65-rloo-s0",
        "raw-rung80-grpo-s0",
        "raw-rung80-rloo-s0",
    ]


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        ("{reward: gold, noise.flip_rate: [0.1, 0.25]}", ["gold_flip0.1-grpo-s0", "gold_flip0.25-grpo-s0"]),
        ("{reward: gold, noise: [{flip_rate: 0.4}, {flip_rate: 0.4, unit: group}]}", None),
        ("{reward: gold, arm: [a, b], noise: {flip_rate: 0.4}}", ["a-grpo-s0", "b-grpo-s0"]),
        ("{reward: raw, rung: 65, arm: cold}", ["cold-rung65-grpo-s0"]),
        ("{reward: gold, arm: '2026-99-99'}", ["2026-99-99-grpo-s0"]),
        ("{reward: gold, arm: 'lr{learning_rate}', learning_rate: [1e-5, 2e-4, 1.0]}", None),
        ("{reward: gold, arm: 'b{prompts_per_step}-{noise.unit}', prompts_per_step: [4, 8]}", None),
        ("{reward: untrained, arm: 't{eval_temperature}', eval_temperature: [0.5, 1.5]}", ["t0.5", "t1.5"]),
        ("{reward: graph, graph: {name: half, parts: {q: {kind: gold}}, terms: [{part: q}]}}", ["graph_half-grpo-s0"]),
    ],
)
def test_axes_of_tables_and_arms_name_their_cells(tmp_path: Path, block: str, wanted: list[str] | None) -> None:
    found = names(experiment(tmp_path, f"[{block}]"))
    given = {
        "noise:": ["gold_flip0.4-grpo-s0", "gold_flip0.4_group-grpo-s0"],
        "lr{": ["lr1e-05-grpo-s0", "lr0.0002-grpo-s0", "lr1-grpo-s0"],
        "b{": ["b4-sample-grpo-s0", "b8-sample-grpo-s0"],
    }
    assert found == ["untrained", *(wanted or next(value for key, value in given.items() if key in block))]


def test_a_table_given_whole_is_one_value_and_its_own_keys_come_after_it(tmp_path: Path) -> None:
    sweep = "[{noise.flip_rate: [0.1, 0.2], noise: {unit: group}, reward: gold}]"
    tables = [cell.table.noise for cell in expand(experiment(tmp_path, sweep))[1:]]
    assert [(noise.flip_rate, noise.unit) for noise in tables] == [(0.1, "group"), (0.2, "group")]


def test_an_arm_changes_the_name_and_nothing_else() -> None:
    plain, named = PolicyTable(reward="gold"), PolicyTable(reward="gold", arm="other")
    assert plain.deciding() == named.deciding()
    assert "arm" not in plain.deciding()


def test_every_override_reaches_the_process_of_its_cell(tmp_path: Path) -> None:
    sweep = """
    - {reward: gold, noise: {flip_rate: 0.4, unit: group}, learning_rate: [1.0e-5, 1.0e-6], arm: "lr{learning_rate}"}
    - {reward: untrained, arm: cold, eval_temperature: 0.5}
    - {reward: graph, graph: {name: g, parts: {q: {kind: contains, text: "a: é 'b' \\n"}}, terms: [{part: q}]}}
    - {reward: rpr, rung: [65, 80], algorithm: ppo, sampler.engine: generate}
    """
    for cell in expand(experiment(tmp_path, sweep, policy={"rung": 90, "arm": "other", "max_steps": 3})):
        read = load_experiment(described(cell.run), cell.words)
        assert read.table("policy", PolicyTable) == cell.table
        assert read.folder == cell.run.folder
        assert "\n" not in "".join(cell.words)


@pytest.mark.parametrize(
    "value", [1e-5, 1e16, 0.1, 3, True, None, "a: b", "no", "1e-5", "x\ny", "0.1", {"é": [1e-7, {}]}]
)
def test_a_value_on_one_line_reads_back_as_itself(value: Any) -> None:
    assert parse_yaml(as_yaml(value)) == value
    assert type(parse_yaml(as_yaml(value))) is type(value)


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ("[{reward: gold, noise.flip_rat: 0.1}]", r"policy\.noise\.flip_rat is not a key; did you mean"),
        ("[{reward: gold, nois.flip_rate: 0.1}]", r"'nois\.flip_rate' is not a field .* did you mean noise\?"),
        ("[{reward: gold, learning_rate.x: 1}]", r"policy\.learning_rate is a value, not a table"),
        ("[{reward: gold, arm: 'a b'}]", r"policy\.arm: "),
        ("[{reward: gold, arm: 'x{lr}'}]", "names lr, and the policy has no such value"),
        ("[{reward: gold, arm: 'x{noise}'}]", "names noise, and the policy has no such value"),
        ("[{reward: gold, learning_rate: [1e-4, 2e-4]}]", "two different cells named gold-grpo-s0; name them apart"),
        ("[{reward: gold, arm: x}, {reward: random, arm: x}]", "two different cells named x-grpo-s0"),
        ("[{reward: gold, arm: x}, {reward: gold, arm: X}]", "x-grpo-s0 and X-grpo-s0, which differ in case alone"),
        ("[{reward: gold, variants: a}]", r"for variants \['a'\], and there is no curve\.variants"),
    ],
)
def test_sweeps_that_mean_nothing_are_refused(tmp_path: Path, sweep: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        expand(experiment(tmp_path, sweep))


@pytest.mark.parametrize(
    ("variants", "sentence"),
    [
        ("{a/b: null}", "a variant's label is a folder's name"),
        ("{a: {rmm.seed: 1}}", r"variant a: 'rmm\.seed' is no key of a room.*did you mean rm\?"),
        ("{a: {curve.seeds: [1]}}", "is no key of a room"),
        ("{a: {policy.rung: 65}}", r"policy\.rung is set by the sweep"),
        ("{}", "at least 1"),
        ("{'on': null, a: null, A: null}", "the labels 'a' and 'A' differ in case alone"),
        ("{one: null, b: null}", "a block is for variant 'on'; did you mean one"),
        ("{'on': null, b: null}", "curve.variants has b, and no block of curve.sweep is for it"),
    ],
)
def test_variants_that_mean_nothing_are_refused(tmp_path: Path, variants: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        expand(experiment(tmp_path, "[{reward: gold, variants: 'on'}]", variants))


def test_a_mistake_in_a_table_of_a_variant_is_told_before_anything_starts(tmp_path: Path) -> None:
    wrong = {
        "{a: {rm.learning_rat: 1}}": r"variant a: rm\.learning_rat is not a key",
        "{a: {rm.ladder: [55]}}": "rung 65",
    }
    for variants, sentence in wrong.items():
        with pytest.raises(UserError, match=sentence):
            check_sweep(experiment(tmp_path, "[{reward: raw, rung: 65}]", variants))
    assert not list(tmp_path.iterdir())


VARIANTS = """
tied:
other: {rm.seed: 1}
few: {rm.route: fewer_pairs, rm.route_values: [200, 500]}
untied: {tasks.variant: untied}
"""
SWEEP = "[{reward: raw, rung: 65}, {reward: gold}, {reward: random, variants: [other, untied]}]"


def test_variants_are_runs_of_their_own_and_share_cells_that_read_no_reward_model(tmp_path: Path) -> None:
    found = experiment(tmp_path, SWEEP, VARIANTS)
    assert names(found) == [
        "tied/untrained",
        "tied/raw-rung65-grpo-s0",
        "tied/gold-grpo-s0",
        "other/untrained",
        "other/raw-rung65-grpo-s0",
        "other/random-grpo-s0",
        "few/untrained",
        "few/raw-rung65-grpo-s0",
        "untied/untrained",
        "untied/raw-rung65-grpo-s0",
        "untied/gold-grpo-s0",
        "untied/random-grpo-s0",
    ]
    assert {cell.folder.relative_to(tmp_path).as_posix() for cell in expand(found) if cell.variant == "few"} == {
        "demo/variants/few/policy/untrained",
        "demo/variants/few/policy/raw-rung65-grpo-s0",
    }


def test_a_variant_is_an_experiment_that_can_be_run_by_itself(tmp_path: Path) -> None:
    found = experiment(tmp_path, SWEEP, VARIANTS)
    alone = load_experiment(described(variants_of(found)["other"]))
    assert names(alone) == ["untrained", "raw-rung65-grpo-s0", "gold-grpo-s0", "random-grpo-s0"]
    assert (alone.tables["rm"]["seed"], alone.seed) == (1, found.seed)
    assert alone.folder == tmp_path / "demo" / "variants" / "other"


def test_two_variants_that_no_column_tells_apart_are_refused(tmp_path: Path) -> None:
    variants = (
        "{a: {rm.route: fewer_pairs, rm.route_values: [20, 30]}, b: {rm.route: fewer_pairs, rm.route_values: [9, 10]}}"
    )
    with pytest.raises(UserError, match=r"a and b would both have the point raw-rung65-grpo-s0"):
        expand(experiment(tmp_path, "[{reward: raw, rung: 65}]", variants))
    assert names(experiment(tmp_path, "[{reward: gold}]", variants)) == ["a/untrained", "a/gold-grpo-s0", "b/untrained"]


def test_what_no_other_column_says_of_a_variant_stands_in_its_setup(tmp_path: Path) -> None:
    variants = (
        "{a: {rm.seed: 1, tasks.variant: untied}, b: {policy.beta: 0.1, rm.max_steps: 9}, c: {rm.route: x, rm.y: 1}}"
    )
    found = experiment(tmp_path, "[{reward: gold}]", variants)
    assert [setup_of(found, label, True) for label in "abc"] == [None, "policy.beta=0.1 rm.max_steps=9", None]
    assert [setup_of(found, label, False) for label in "abc"] == [None, "policy.beta=0.1", None]
    assert setup_of(experiment(tmp_path, "[{reward: gold}]"), None, True) is None
