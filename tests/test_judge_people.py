"""People as judges: what they see tells nothing, what they say is counted right, and how far they agree is measured."""

from __future__ import annotations

import csv
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from starlette.applications import Starlette

from configs.errors import UserError
from configs.records import read_json
from judge.answers import Answer, Pair, Question
from judge.asking.gold_endpoint import serve_app
from judge.people.rating_page import Desk, RateTable, application, run
from judge.people.ratings import RatedPairs, agreement, blind, read_ratings, read_sheet, write_sheet
from judge.prompting import Texts
from tasks.records import Prompt


def answer(text: str) -> Answer:
    return Answer(prompt_id="p", sample=0, completion=text, answer=text, status="ok", n_tokens=1, truncated=False)


def pair(i: int, a: str = "good", b: str = "bad") -> Pair:
    prompt = Prompt(f"p{i}", "eval", [{"role": "user", "content": f"question {i}"}])
    return Pair(f"p{i}#0", prompt, answer(f"{a} {i}"), answer(f"{b} {i}"))


def questions(n: int) -> list[Question]:
    return [Question(pair(i), order) for i in range(n) for order in ("AB", "BA")]  # type: ignore[arg-type]


def sheet_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sheet.csv").open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def fill(folder: Path, rater: str, rating: dict[str, str]) -> None:
    """Fill in a copy of the sheet as a rater in a spreadsheet would."""
    with (folder / f"ratings-{rater}.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("pair", "rating"))
        writer.writerows(rating.items())


def ask(folder: Path, n: int, min_raters: int = 1) -> list[str | None]:
    return [verdict.winner for verdict in RatedPairs(folder, min_raters).decide(questions(n), "t")]


def test_pairs_are_exported_blind_and_ratings_come_back_to_the_right_side(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"12 of 12 pairs have fewer than 1 ratings.*rewardladder rate .* rater=NAME"):
        ask(tmp_path, 12)
    rows = sheet_rows(tmp_path)
    assert len(rows) == 12  # not 24: both orders are one pair
    assert {"good" in row["response_1"] for row in rows} == {True, False}
    fill(tmp_path, "ann", {row["pair"]: "1" if "good" in row["response_1"] else "2" for row in rows})
    assert ask(tmp_path, 12) == ["a"] * 24
    verdicts = RatedPairs(tmp_path, 1).decide(questions(12), "t")
    assert [v.verdict for v in verdicts] == ["first", "second"] * 12
    assert verdicts[0].raw is not None and "ann: " in verdicts[0].raw


def test_a_pair_is_the_same_whoever_wrote_which() -> None:
    turns = [{"role": "user", "content": "q"}]
    assert blind(Texts(turns, "x", "y")) == blind(Texts(turns, "y", "x"))
    assert blind(Texts(turns, "x", "y")).code != blind(Texts(turns, "x", "z")).code


def test_the_majority_of_raters_decides_and_no_majority_is_a_tie(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        ask(tmp_path, 4)
    codes = {row["conversation"].split()[-1]: row for row in sheet_rows(tmp_path)}

    def rating(i: int, side: str) -> tuple[str, str]:
        row = codes[str(i)]
        good = "1" if "good" in row["response_1"] else "2"
        return row["pair"], {"a": good, "b": {"1": "2", "2": "1"}[good], "tie": "TIE "}[side]

    votes = {"ann": ["a", "a", "a", "tie"], "ben": ["a", "b", "b", "tie"], "eve": ["b", "b", "tie", "a"]}
    for rater, sides in votes.items():
        fill(tmp_path, rater, dict(rating(i, side) for i, side in enumerate(sides)))
    assert ask(tmp_path, 4, min_raters=3)[::2] == ["a", "b", "tie", "tie"]
    with pytest.raises(UserError, match="4 of 4 pairs have fewer than 4 ratings"):
        ask(tmp_path, 4, min_raters=4)
    record = read_json(tmp_path / "agreement.json")
    assert (record["raters"], record["pairs_in_kappa"]) == ({"ann": 4, "ben": 4, "eve": 4}, 4)


def test_fleiss_kappa_by_hand() -> None:
    """Five pairs, two raters, four agreed: P = 0.8; half of the ten ratings are 1, so chance is 0.5: 0.3 / 0.5."""
    given = {"p": ("1", "1"), "q": ("2", "2"), "r": ("1", "1"), "s": ("2", "2"), "t": ("1", "2")}
    record = agreement({code: dict(zip(("ann", "ben"), two, strict=True)) for code, two in given.items()})  # type: ignore[arg-type]
    assert record["agreement"] == pytest.approx(0.8)
    assert record["kappa"] == pytest.approx(0.6)
    assert record["kappa_lo"] < 0.6 <= record["kappa_hi"]


def test_kappa_is_missing_where_it_means_nothing() -> None:
    alone = agreement({"p": {"ann": "1"}, "q": {"ann": "2"}})
    assert (alone["kappa"], alone["pairs"], alone["pairs_in_kappa"]) == (None, 2, 0)
    unanimous = agreement({c: {"ann": "1", "ben": "1"} for c in "pqr"})
    assert (unanimous["kappa"], unanimous["agreement"]) == (None, 1.0)
    uneven = agreement({"p": {"ann": "1", "ben": "2"}, "q": {"ann": "1", "ben": "1"}, "r": {"ann": "1"}})
    assert (uneven["pairs"], uneven["pairs_in_kappa"]) == (3, 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pair,rating\nx,3\n", r"ratings-a\.csv, row 2: the rating '3' is none; write 1, 2 or tie"),
        ("pair,stars\nx,3\n", r"there is no column 'rating'; it has pair, stars"),
        ("", r"there is no column 'pair'; it has none"),
    ],
)
def test_ratings_that_cannot_be_read_are_refused_by_row(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "ratings-a.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_ratings(tmp_path)


def test_ratings_of_several_raters_in_one_file_and_numbers_as_spreadsheets_write_them(tmp_path: Path) -> None:
    (tmp_path / "ratings-all.csv").write_text("\ufeffrater,pair,rating\nann,x,1.0\nben,x,0\nann,x,2\nann,y,\n", "utf-8")
    assert read_ratings(tmp_path) == {"x": {"ann": "2", "ben": "tie"}}


def test_texts_that_begin_like_formulas_stay_texts(tmp_path: Path) -> None:
    hostile = ["=HYPERLINK(1)", "+1", "-2", "@x", "'quoted", "\u202eabc", 'a"b,c\r\nd', "plain", "x" * 200_000]
    pairs = [blind(Texts([{"role": "user", "content": text}], text, f"other {i}")) for i, text in enumerate(hostile)]
    write_sheet(tmp_path / "sheet.csv", pairs)
    assert not any(value[:1] in "=+-@" for row in sheet_rows(tmp_path) for value in row.values() if value)
    read = {one.code: one for one in read_sheet(tmp_path / "sheet.csv")}
    assert all((read[p.code].response_1, read[p.code].response_2) == (p.response_1, p.response_2) for p in pairs)


def get(url: str, form: dict[str, str] | None = None, host: str | None = None) -> tuple[int, str]:
    data = None if form is None else urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(url, data, {} if host is None else {"Host": host})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_page_shows_texts_as_texts_and_keeps_each_rating(tmp_path: Path) -> None:
    tricky = [pair(i, a="<script>alert(1)</script> good", b="bad") for i in range(6)]
    with pytest.raises(UserError):
        RatedPairs(tmp_path, 1).decide([Question(p, "AB") for p in tricky], "t")
    app: Starlette = application(Desk(tmp_path, "ann"))
    with serve_app(app, "no page") as port:
        url = f"http://127.0.0.1:{port}"
        assert get(url + "/", host="evil.example.org")[0] == 403
        token = re.search(r'name="token" value="([^"]+)"', get(url + "/")[1])[1]  # type: ignore[index]
        seen = []
        for done in range(6):
            status, html = get(url + "/")
            assert status == 200 and f"{done} of 6 pairs rated" in html
            assert "<script" not in html and "http" not in html.replace("&lt;", "")
            code = re.search(r'name="pair" value="([^"]+)"', html)[1]  # type: ignore[index]
            left, _ = re.findall(r'<pre dir="auto" tabindex="0">(.*?)</pre></section>', html, re.DOTALL)[-2:]
            seen.append("good" in left)
            assert get(url + "/rate", {"pair": code, "choice": "left", "token": "guess"})[0] == 403
            assert get(url + "/rate", {"pair": "none", "choice": "left", "token": token})[0] == 400
            choice = "left" if "good" in left else "right"
            assert get(url + "/rate", {"pair": code, "choice": choice, "token": token})[0] == 200
            assert sum(len(one) for one in read_ratings(tmp_path).values()) == done + 1
        assert "All pairs are rated" in get(url + "/")[1]
    winners = [v.winner for v in RatedPairs(tmp_path, 1).decide([Question(p, "BA") for p in tricky], "t")]
    assert winners == ["a"] * 6
    again = Desk(tmp_path, "ann")
    assert again.next() is None and Desk(tmp_path, "ben").next() is not None
    assert list(again.pairs) != list(Desk(tmp_path, "ben").pairs)


def test_the_page_without_a_sheet_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sheet\.csv: there is no such file; .*judge.kind=people"):
        run([str(tmp_path)], RateTable(rater="ann"))
    with pytest.raises(UserError, match="name one folder"):
        run([], RateTable(rater="ann"))
