"""The strict loader: every sentence it can say to a user, the order in which settings win, and the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal, Self

import pytest
from pydantic import Field, model_validator

from configs.errors import UserError
from configs.loader import Experiment, Table, load_experiment

ROOT = Path(__file__).parent.parent


class Inner(Table):
    """A table within a table."""

    depth: int = Field(1, ge=1)
    width: int | None = None


class Sample(Table):
    """One field of every kind."""

    learning_rate: float = Field(1e-4, gt=0)
    kind: Literal["grpo", "ppo"] = "grpo"
    steps: int
    inner: Inner = Inner()
    maybe: Inner | None = None
    blocks: list[dict[str, int | str]] = Field([])
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")
        return self


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def sentence(folder: Path, text: str | bytes, *overrides: str) -> str:
    """What the loader says to a file or to the table `rm` in it, without the file's path."""
    path = written(folder, text)
    with pytest.raises(UserError) as error:
        load_experiment(path, list(overrides)).table("rm", Sample)
    said = str(error.value)
    assert "\n" not in said
    return said.removeprefix(f"{path}").removeprefix(": ")


def test_an_empty_file_is_an_experiment_named_after_itself(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, ""))
    assert (experiment.name, experiment.seed, experiment.runs_dir) == ("x", 0, Path("runs"))
    assert experiment.folder == Path("runs/x")
    assert experiment.tables == {room: {} for room in ("tasks", "rm", "calibration", "policy", "judge", "curve")}


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, b"\xef\xbb\xbfname: a\r\nrm:\r\n  steps: 3\r\n"))
    assert (experiment.name, experiment.tables["rm"]) == ("a", {"steps": 3})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # unknown keys
        ("sed: 1", "sed is not a key; did you mean seed?"),
        ("jugde: {}", "jugde is not a key; did you mean judge?"),
        (
            "zzz: 1",
            "zzz is not a key; the keys here are name, seed, runs_dir, tasks, rm, calibration, policy, judge, curve",
        ),
        (
            "12: 1",
            "12 is not a key; the keys here are name, seed, runs_dir, tasks, rm, calibration, policy, judge, curve",
        ),
        ("rm: {steps: 1, learning_rat: 1}", "rm.learning_rat is not a key; did you mean rm.learning_rate?"),
        (
            "rm: {steps: 1, qqq: 1}",
            "rm.qqq is not a key; the keys here are learning_rate, kind, steps, inner, maybe, blocks, low, high",
        ),
        ("rm: {steps: 1, inner: {dept: 1}}", "rm.inner.dept is not a key; did you mean rm.inner.depth?"),
        ("rm: {steps: 1, maybe: {widht: 1}}", "rm.maybe.widht is not a key; did you mean rm.maybe.width?"),
        # not a table
        ("rm: 3", "rm must be a table of keys, found a number"),
        ("rm: [a]", "rm must be a table of keys, found a list"),
        ("rm: yes", "rm must be a table of keys, found true or false"),
        ("- a", "an experiment is a table of keys, found a list"),
        ("just words", "an experiment is a table of keys, found a text"),
        # YAML
        ("seed: 1\nseed: 2", ", line 2: not readable as YAML (the key 'seed' stands twice)"),
        ("rm:\n  steps: 1\n  steps: 1", ", line 3: not readable as YAML (the key 'steps' stands twice)"),
        ("name: a\nrm: b: c", ", line 2: not readable as YAML (mapping values are not allowed here)"),
        ("? [a, b]\n: c", ", line 1: not readable as YAML (a key must be a word)"),
        ("name: *other", ", line 1: not readable as YAML (found undefined alias 'other')"),
        (
            "name: !!python/object:os.system {}",
            ", line 1: not readable as YAML "
            "(could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system')",
        ),
        ("rm: {when: 2026-99-99}", "not readable as YAML (month must be in 1..12)"),
        ("a: \x01", "not readable as YAML (unacceptable character #x0001: special characters are not allowed)"),
        ("---\nname: a\n---\nname: b", ", line 3: not readable as YAML (but found another document)"),
        # top-level values
        ("name: a/b", "name must be a plain folder name, found 'a/b'"),
        ("name: ..", "name must be a plain folder name, found '..'"),
        ("name: ''", "name must be a plain folder name, found ''"),
        ("name: 3", "name must be a plain folder name, found 3"),
        ('name: "a\\0b"', r"name must be a plain folder name, found 'a\x00b'"),
        ("seed: -1", "seed must be a whole number of at least 0, found -1"),
        ("seed: 1.5", "seed must be a whole number of at least 0, found 1.5"),
        ("seed: true", "seed must be a whole number of at least 0, found True"),
        ("seed: one", "seed must be a whole number of at least 0, found 'one'"),
        ("runs_dir: 3", "runs_dir must be a folder, found 3"),
        ("runs_dir: ''", "runs_dir must be a folder, found ''"),
        ('runs_dir: "a\\0b"', r"runs_dir must be a folder, found 'a\x00b'"),
        # values of a table
        ("rm: {}", "rm.steps is missing and has no default"),
        ("rm: {steps: 1, kind: grop}", "rm.kind: 'grop' is not allowed; choose grpo or ppo; did you mean grpo?"),
        ("rm: {steps: 1, kind: 7}", "rm.kind: 7 is not allowed; choose grpo or ppo"),
        ("rm: {steps: 1, learning_rate: 0}", "rm.learning_rate: should be greater than 0, found 0"),
        ("rm: {steps: 1, learning_rate: .inf}", "rm.learning_rate: should be a finite number, found inf"),
        ("rm: {steps: 1, learning_rate: .nan}", "rm.learning_rate: should be a finite number, found nan"),
        (
            "rm: {steps: many}",
            "rm.steps: should be a valid integer, unable to parse string as an integer, found 'many'",
        ),
        ("rm: {steps: 1, inner: {depth: 0}}", "rm.inner.depth: should be greater than or equal to 1, found 0"),
        ("rm: {steps: 1, 5: 1}", "rm.5: keys should be strings, found 5"),
        (
            "rm: {steps: 1, blocks: [{a: [1]}]}",
            "rm.blocks.0.a: should be a valid integer or a valid string, found [1]",
        ),
        ("rm: {steps: true}", "rm.steps: should be a number, found true"),
        ("rm: {steps: 1, low: no}", "rm.low: should be a number, found false"),
        ("rm: {steps: 1, inner: {width: true}}", "rm.inner.width: should be a number, found true"),
        ("rm: {steps: 1, maybe: {depth: true}}", "rm.maybe.depth: should be a number, found true"),
        ("rm: {steps: 1, blocks: [{a: yes}]}", "rm.blocks: should be a number, found true"),
        ("rm: {steps: 1, low: 2}", "rm: low (2.0) must not be above high (1.0)"),
    ],
)
def test_each_mistake_has_its_sentence(tmp_path: Path, text: str, said: str) -> None:
    assert sentence(tmp_path, text) == said


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    assert sentence(tmp_path, "[" * 20_000).startswith("not readable as YAML (")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rm.steps", "override 'rm.steps': write it as key=value, for example rm.learning_rate=2e-3"),
        ("=3", "override '=3': write it as key=value, for example rm.learning_rate=2e-3"),
        ("rm.steps=[1", "override 'rm.steps=[1': the value is not readable as YAML"),
        ("name=2026-99-99", "override 'name=2026-99-99': the value is not readable as YAML"),
        ("rm.steps.deep=1", "override 'rm.steps.deep': rm.steps is a value, not a table"),
        ("seed.deep=1", "override 'seed.deep': seed is a value, not a table"),
        ("rm=3", "rm must be a table of keys, found a number"),
        ("polcy.steps=1", "polcy is not a key; did you mean policy?"),
        ("rm.learning_rat=1", "rm.learning_rat is not a key; did you mean rm.learning_rate?"),
        ("rm.inner.widht=1", "rm.inner.widht is not a key; did you mean rm.inner.width?"),
        ("seed=-1", "seed must be a whole number of at least 0, found -1"),
    ],
)
def test_each_wrong_override_has_its_sentence(tmp_path: Path, override: str, said: str) -> None:
    assert sentence(tmp_path, "seed: 1\nrm: {steps: 1}", override) == said


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text("")
    with pytest.raises(UserError) as error:
        load_experiment(tmp_path / "dmeo.yaml")
    assert str(error.value) == f"{tmp_path}/dmeo.yaml: there is no such file; did you mean {tmp_path}/demo.yaml?"
    with pytest.raises(UserError) as error:
        load_experiment(tmp_path / "nowhere" / "dmeo.yaml")
    assert str(error.value) == f"{tmp_path}/nowhere/dmeo.yaml: there is no such file"


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not readable as text \(.*Is a directory"):
        load_experiment(tmp_path)
    with pytest.raises(UserError, match=r"not readable as text \(.*codec can't decode"):
        load_experiment(written(tmp_path, b"name: \xff"))
    with pytest.raises(UserError, match=r"not readable as text \(.*Not a directory"):
        load_experiment(written(tmp_path, "") / "x.yaml")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"^a\\0b.yaml: not readable as text \(embedded null byte\)"):
        load_experiment(Path("a\0b.yaml"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('kind: "a\\0b"', r"rm.kind: holds a NUL or half a surrogate pair, which no file can hold; found 'a\x00b'"),
        (
            'kind: "a\\ud800b"',
            r"rm.kind: holds a NUL or half a surrogate pair, which no file can hold; found 'a\ud800b'",
        ),
        (
            'blocks: [{x: "a\\0"}]',
            r"rm.blocks: holds a NUL or half a surrogate pair, which no file can hold; found 'a\x00'",
        ),
        (
            'blocks: [{"a\\0": 1}]',
            r"rm.blocks: holds a NUL or half a surrogate pair, which no file can hold; found 'a\x00'",
        ),
    ],
)
def test_a_text_that_no_file_could_hold_is_refused(tmp_path: Path, value: str, said: str) -> None:
    assert sentence(tmp_path, f"rm: {{steps: 1, {value}}}") == said


class Switches(Table):
    """Fields that may be true."""

    plain: bool = False
    either: bool | int = 0
    any_of: dict[str, object] = Field({})


def test_true_stays_true_where_it_is_allowed() -> None:
    table = Switches.model_validate({"plain": True, "either": True, "any_of": {"a": True}})
    assert (table.plain, table.either, table.any_of) == (True, True, {"a": True})


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, "rm: {steps: 1, learning_rate: 2e-3}"))
    assert experiment.tables["rm"]["learning_rate"] == "2e-3"
    assert experiment.table("rm", Sample).learning_rate == 0.002


def test_an_override_wins_over_the_file_and_the_last_override_over_the_others(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 1\nrm: {steps: 1, inner: {depth: 2, width: 5}}")
    experiment = load_experiment(path, ["rm.steps=2", "rm.steps=3", "rm.inner.depth=4", "name=other", "seed=9"])
    table = experiment.table("rm", Sample)
    assert (table.steps, table.inner, experiment.name, experiment.seed) == (3, Inner(depth=4, width=5), "other", 9)


def test_an_override_may_be_a_list_a_table_or_hold_an_equals_sign(tmp_path: Path) -> None:
    experiment = load_experiment(
        written(tmp_path, ""), ["rm.ladder=[55, 65]", "rm.inner={depth: 3}", "judge.url=a?b=c"]
    )
    assert experiment.tables["rm"] == {"ladder": [55, 65], "inner": {"depth": 3}}
    assert experiment.tables["judge"] == {"url": "a?b=c"}


def test_an_empty_table_in_the_file_takes_overrides(tmp_path: Path) -> None:
    assert load_experiment(written(tmp_path, "rm:\n"), ["rm.steps=1"]).tables["rm"] == {"steps": 1}


def test_defaults_may_be_merged_and_replaced(tmp_path: Path) -> None:
    text = "rm: &own {steps: 1, low: 0.5}\npolicy:\n  <<: *own\n  steps: 2\n"
    assert load_experiment(written(tmp_path, text)).tables["policy"] == {"steps": 2, "low": 0.5}


def test_a_home_folder_is_meant_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_experiment(written(tmp_path, "runs_dir: ~/runs")).runs_dir == tmp_path / "runs"


def test_overrides_of_an_experiment_leave_it_alone(tmp_path: Path) -> None:
    first = load_experiment(written(tmp_path, "rm: {steps: 1, inner: {depth: 2}}"))
    second = first.with_overrides({"rm.steps": 5, "rm.inner.depth": 7, "policy.rung": "65"})
    assert first.tables["rm"] == {"steps": 1, "inner": {"depth": 2}}
    assert first.tables["policy"] == {}
    assert second.tables["rm"] == {"steps": 5, "inner": {"depth": 7}}
    assert second.tables["policy"] == {"rung": "65"}
    assert second.folder == first.folder


def test_a_room_does_not_see_mistakes_in_the_table_of_another(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, "rm: {steps: 1}\njudge: {kidn: gold}"))
    assert experiment.table("rm", Sample).steps == 1


def test_a_table_cannot_be_changed(tmp_path: Path) -> None:
    table = load_experiment(written(tmp_path, "rm: {steps: 1}")).table("rm", Sample)
    with pytest.raises(ValueError, match="frozen"):
        table.steps = 2  # type: ignore[misc]


COMMAND = "import sys; from curve.cli import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("run", "configs/demo.yaml", "rm.learning_rat=1"),
            "error: configs/demo.yaml: rm.learning_rat is not a key; did you mean rm.learning_rate?",
        ),
        (
            ("run", "configs/dmeo.yaml"),
            "error: configs/dmeo.yaml: there is no such file; did you mean configs/demo.yaml?",
        ),
    ],
)
def test_the_command_says_one_line_and_starts_nothing(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    runs = f"runs_dir={tmp_path / 'runs'}"
    ran = subprocess.run([sys.executable, "-c", COMMAND, *arguments, runs], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr, ran.stdout) == (2, f"{said}\n", "")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "override", "said"),
    [
        ("run", "tasks.varian=1", "tasks.varian is not a key; did you mean tasks.variant?"),
        ("run", "calibration.tau=1", "calibration.tau is not a key; "),
        ("run", "calibration.phrases=advise", "there is no phrase set 'advise'; did you mean advice?"),
        ("run", "policy.bta=1", "policy.bta is not a key; did you mean policy.beta?"),
        ("run", "judge.kind=gol", "judge.kind: 'gol' is not allowed; choose gold, openai, gold_endpoint"),
        ("run", "curve.worker=1", "curve.worker is not a key; did you mean curve.workers?"),
        ("run", "rm.ladder=[55, 65]", "curve.sweep has rung 80, and rm.ladder has 55, 65; "),
        ("run", "curve.sweep=[{rewrad: raw}]", "'rewrad' is not a field of the policy table that can be swept"),
        ("curve", "rm.learning_rat=1", "did you mean rm.learning_rate?"),
        ("calibrate", "calibration.threshold=2", "calibration.threshold: should be less than or equal to 1, found 2"),
        ("policy", "rm.learning_rat=1", "did you mean rm.learning_rate?"),
        ("rm", "tasks.task=advise", "tasks.task is 'advise'; choose advice, arithmetic, mathematics, preference"),
    ],
)
def test_a_mistake_in_any_table_is_refused_before_the_first_stage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    override: str,
    said: str,
) -> None:
    from curve.cli import main

    monkeypatch.chdir(ROOT)
    assert main([command, "configs/demo.yaml", override, f"runs_dir={tmp_path / 'runs'}"]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_an_experiment_is_described_by_what_was_read(tmp_path: Path) -> None:
    from curve.sweep.preparation import describe

    first = load_experiment(
        written(tmp_path, "seed: 3\nrm: {steps: 1, learning_rate: 2e-3, none: null}"), ["judge.a=[1]"]
    )
    again: Experiment = load_experiment(written(tmp_path, describe(first)))
    assert (again.name, again.seed, again.runs_dir, again.tables) == (
        first.name,
        first.seed,
        first.runs_dir,
        first.tables,
    )


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "\n".join(
    ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
)])  # fmt: skip
def test_aliases_that_multiply_are_refused_at_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\n{text}")
    with pytest.raises(UserError, match=r"x\.yaml.*(aliases|recursive)"):
        load_experiment(path)


def test_aliases_that_save_typing_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\nrm: &rm {seed: 3}\npolicy: *rm\n")
    assert load_experiment(path).tables["policy"] == {"seed": 3}
