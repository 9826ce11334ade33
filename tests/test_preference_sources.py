"""Files, globs and folders of preference sets, and the published split that a name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.preference.sources import published_split, published_splits, resolve_files


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names_of(folder: Path, pattern: str = "") -> list[str]:
    return [path.relative_to(folder).as_posix() for path in resolve_files([f"{folder}{pattern}"])]


def test_files_by_path_and_glob(tmp_path: Path) -> None:
    touched(tmp_path, "b.jsonl", "a.jsonl", "c.parquet", "notes.txt")
    found = resolve_files([f"{tmp_path}/*.jsonl", f"{tmp_path}/c.parquet", f"{tmp_path}/a.jsonl"])
    assert [path.name for path in found] == ["a.jsonl", "b.jsonl", "c.parquet"]
    with pytest.raises(UserError, match="matches no file"):
        resolve_files([f"{tmp_path}/*.csv"])
    with pytest.raises(UserError, match=r"notes.txt is not a .jsonl"):
        resolve_files([f"{tmp_path}/notes.txt"])


def test_a_name_with_brackets_is_a_name_and_not_a_glob(tmp_path: Path) -> None:
    touched(tmp_path, "a[1].jsonl")
    assert [path.name for path in resolve_files([f"{tmp_path}/a[1].jsonl"])] == ["a[1].jsonl"]


def test_a_folder_stands_for_its_own_files(tmp_path: Path) -> None:
    touched(tmp_path, "train.jsonl.gz", "validation.parquet", "README.md", ".cache/old.jsonl", "extra/more.jsonl")
    assert names_of(tmp_path) == ["train.jsonl.gz", "validation.parquet"]


def test_a_downloaded_snapshot_stands_for_its_only_set_or_for_its_preference_set(tmp_path: Path) -> None:
    only = touched(tmp_path / "only", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    assert names_of(only) == ["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"]
    helpsteer = touched(
        tmp_path / "helpsteer", "preference/train.jsonl.gz", "preference/validation.jsonl.gz", "edit/train.jsonl.gz"
    )
    assert names_of(helpsteer) == ["preference/train.jsonl.gz", "preference/validation.jsonl.gz"]
    several = touched(tmp_path / "several", "harmless/train.jsonl", "helpful/train.jsonl")
    with pytest.raises(UserError, match=r"holds several sets \(harmless, helpful\); name one of these folders"):
        resolve_files([str(several)])
    with pytest.raises(UserError, match=r"the folder .*empty.jsonl holds no .jsonl"):
        resolve_files([str(touched(tmp_path / "empty.jsonl", "notes.txt"))])


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("preference/validation.jsonl.gz", "validation"),
        ("Val.jsonl", "validation"),
        ("dev.jsonl", "validation"),
        ("nvidia/HelpSteer3:validation", "validation"),
        ("test_prefs-00000.parquet", "test"),
        ("hh_rlhf_harmless_test.jsonl", "test"),
        ("validation/part-0.jsonl", "validation"),
        ("my-test-runs/part-0.jsonl", None),
        ("test/train.jsonl", "train"),
        ("training.jsonl", "train"),
        ("trainer.jsonl", None),
        ("pandalm_testset.jsonl", None),
        ("train_and_test.jsonl", None),
        ("latest.jsonl", None),
    ],
)
def test_the_split_that_a_name_says(name: str, split: str | None) -> None:
    assert published_split(name) == split


def test_published_splits_need_both_sides() -> None:
    assert published_splits(["train.jsonl", "val.jsonl"], [], "x") == {
        "train.jsonl": "train",
        "val.jsonl": "validation",
    }
    assert published_splits(["a", "b_test"], ["b_test"], "x") == {"a": "train", "b_test": "test"}
    with pytest.raises(UserError, match=r"no validation or test file among train.jsonl"):
        published_splits(["train.jsonl"], [], "tasks.files")
    with pytest.raises(UserError, match=r"no train file among test.jsonl"):
        published_splits(["test.jsonl"], [], "tasks.files")
