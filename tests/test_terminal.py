"""Tables and progress: numbers, missing values and texts are shown as they are."""

from __future__ import annotations

import pytest

from configs.terminal import MINIMUM_WIDTH, interval, progress, progress_bar, say, show_table


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("┃", "│").strip("│\n").split("│")]


def shown(capsys: pytest.CaptureFixture[str], columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    show_table("title", columns, rows)
    return capsys.readouterr().out.splitlines()


def test_a_table_shows_what_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(
        capsys, ("rung", "accuracy", "n", "reached"), [("65", 0.65449, 1200, True), ("80", None, None, False)]
    )
    assert lines[0:2] == ["", "title"]
    assert cells(lines[3]) == ["rung", "accuracy", "n", "reached"]
    assert cells(lines[5]) == ["65", "0.654", "1200", "yes"]
    assert cells(lines[6]) == ["80", "–", "–", "no"]


def test_numbers_align_right_and_texts_left(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, ("word", "number"), [("a", 1), ("bbbbbb", 1000)])
    assert lines[5] == "│ a      │      1 │"


def test_brackets_are_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ("[bold]", "[/tmp/x]", "0.812 [0.790, 0.833]", "choose [a, b]", "\\[x]", "[red]x[/red]")
    lines = shown(capsys, ("accuracy [lo, hi]",), [(text,) for text in texts])
    assert [cells(line)[0] for line in (lines[3], *lines[5:-1])] == ["accuracy [lo, hi]", *texts]


def test_an_empty_table_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    assert cells(shown(capsys, ("a", "b"), [])[3]) == ["a", "b"]


def test_redirected_output_is_not_squeezed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    text = "x" * (MINIMUM_WIDTH - 4)
    assert cells(shown(capsys, ("a",), [(text,)])[5]) == [text]


@pytest.mark.parametrize(
    ("numbers", "digits", "text"),
    [
        ((0.8123, 0.7901, 0.8335), 3, "0.812 [0.790, 0.834]"),
        ((0.5, None, None), 3, "0.500"),
        ((0.5, 0.4, None), 3, "0.500"),
        ((None, 0.4, 0.6), 3, "–"),
        ((0.0, 0.0, 0.0), 1, "0.0 [0.0, 0.0]"),
    ],
)
def test_an_interval_stands_beside_its_number(
    numbers: tuple[float | None, float | None, float | None], digits: int, text: str
) -> None:
    assert interval(*numbers, digits=digits) == text


def test_lines_and_progress_change_nothing_they_pass_on(capsys: pytest.CaptureFixture[str]) -> None:
    say("a [b] line")
    assert list(progress(iter("abc"), "letters", total=3)) == ["a", "b", "c"]
    with progress_bar(4, "work") as bar:
        bar.update(3)
        assert bar.n == 3
    out, err = capsys.readouterr()
    assert out == "a [b] line\n"
    assert "letters" in err
    assert "3/4" in err
