"""What a reader meets in a real browser: figures, tables that sort, nothing from the network, dark rooms and paper.

Skipped where there is no Chromium: on Debian, `apt-get install chromium` brings it.
"""

from __future__ import annotations

import csv
import http.server
import itertools
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.records import write_json
from curve.analysis.whole import analyse
from curve.figures.quality import draw
from curve.points import COLUMNS, over_seeds
from curve.report.page import findings_of, write_report
from judge.answers import Question
from judge.asking.gold_endpoint import serve_app
from judge.people.rating_page import Desk, application
from judge.people.ratings import RatedPairs, agreement, read_ratings
from judge.report.page import PagePair, plain, write_page
from tests.chromium import Browser, program
from tests.conftest import ROOT, small_experiment
from tests.test_judge_adversaries import ADVERSARIES
from tests.test_judge_people import pair
from tests.test_judge_report import HOSTILE, verdict

LONG = "200 kB without a space"
ATTACKS = [*HOSTILE, *(text for name, (text, _) in ADVERSARIES.items() if len(text) < 2000 or name == LONG)]
LANDSCAPE = 1032
"""Pixels between the margins of A4 on its side."""
CONTRAST = """
(() => {
  const luminance = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).slice(0, 3)
      .map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(color)) return color;
    }
    return matchMedia('(prefers-color-scheme: dark)').matches ? 'rgb(0,0,0)' : 'rgb(255,255,255)';
  };
  const low = [];
  for (const e of document.querySelectorAll('h1,h2,h3,h4,p,li,td,th,dt,dd,pre,a,button,caption,figcaption')) {
    if (!e.textContent.trim() || e.closest('.unseen,.skip')) continue;
    const [a, b] = [luminance(getComputedStyle(e).color), luminance(ground(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push([e.tagName, e.textContent.slice(0, 20), ratio]);
  }
  return low;
})()
"""
"""Elements whose text has less contrast than WCAG's AA asks for."""
WIDER = """[...document.querySelectorAll('table, pre, img, h1, h2, h3, p')]
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.outerHTML.slice(0, 60))"""
FIRST_CELLS = "[...document.querySelectorAll('#{} tbody tr')].map(r => r.cells[{}].textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if program() is None:
        pytest.skip("there is no Chromium on the path (apt-get install chromium), nor in REWARDLADDER_CHROMIUM")
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the committed points, with a second figure, a missing cell and a name that is markup."""
    folder = tmp_path_factory.mktemp("report")
    with (ROOT / "docs" / "alternatives-points.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    text = {"cell", "rung", "route", "reward", "algorithm", "judge"}
    points: list[dict[str, Any]] = [
        dict.fromkeys(COLUMNS) | {k: (v or None) if k in text else float(v) if v else None for k, v in row.items()}
        for row in rows
    ]
    points[3]["judge"] = "<img src=x onerror=alert(1)> | *bold*"
    curve, analysis = over_seeds(points), analyse(points, {}, 0)
    draw(folder / "curve", points, curve, "a sweep", analysis["fits"])
    (folder / "gold-steps.png").write_bytes((folder / "curve.png").read_bytes())
    experiment = small_experiment(folder / "runs")
    rungs = [{"rung": "65", "folder": "rung-65", "accuracy": 0.69, "accuracy_lo": 0.66, "accuracy_hi": 0.72}]
    write_json(experiment.folder / "rm" / "ladder.json", {"rungs": rungs, "targets_missed": [95]})
    page = folder / "report.html"
    write_report(
        page, experiment, folder / "curve.png", points, curve, findings_of(points), analysis, ["rpr-rung90-grpo-s0"]
    )
    return page


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of single pairs in which every text that a stranger writes is an attack."""
    page = tmp_path_factory.mktemp("pairs") / "pairs.html"
    pairs = [
        PagePair(
            f"{text[:50]} {i}",
            [{"role": text[:40].strip() or "user", "content": text}],
            (text, f"plain {text[:99]}"),
            (text[:60].strip() or "mine", "base"),
            [verdict(f"p{i}", "AB", "a", raw=text[:5000]), verdict(f"p{i}", "BA", "b", raw="words")],
        )
        for i, text in enumerate(ATTACKS)
    ]
    write_page(page, HOSTILE[0], HOSTILE[1], pairs, 100)
    return page


def test_the_report_is_whole_without_a_network(browser: Browser, report: Path) -> None:
    browser.media()
    browser.open(report.as_uri())
    sizes = browser.value("[...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.alt.length, i.complete])")
    assert len(sizes) == 2 and all(w > 600 and h > 200 and alt > 20 and done for w, h, alt, done in sizes)
    assert browser.requests == [report.as_uri()]
    assert browser.complaints == []
    assert browser.value("document.querySelectorAll('[onerror], iframe, object, link[rel=stylesheet]').length") == 0
    assert "<img src=x onerror=alert(1)>" in browser.value("document.body.innerText")
    assert browser.value(WIDER.replace("'table, pre, img", "'img")) == []


def test_the_browser_sees_what_the_pages_must_not_do(browser: Browser, tmp_path: Path) -> None:
    """The proof that the other tests would notice: a page that loads, complains and throws."""
    (tmp_path / "bad.html").write_text(
        "<img src='http://example.org/x.png'><script>console.error('no'); undefinedName()</script>"
    )
    browser.open((tmp_path / "bad.html").as_uri())
    assert "http://example.org/x.png" in browser.requests
    assert len(browser.complaints) >= 2


def test_tables_are_sorted_by_mouse_and_by_keyboard(browser: Browser, report: Path) -> None:
    browser.media()
    browser.open(report.as_uri())
    place = browser.value(
        "[...document.querySelectorAll('#curve thead th')].findIndex(t => t.textContent == 'quality')"
    )
    heading = f"document.querySelectorAll('#curve thead th')[{place}]"

    def column() -> list[float]:
        return [float(text.split()[0]) for text in browser.value(FIRST_CELLS.format("curve", place))]

    before = column()
    assert browser.value(f"{heading}.getAttribute('aria-sort')") == "none"
    browser.value(f"{heading}.querySelector('button').click()")
    assert column() == sorted(before) != before
    assert browser.value(f"{heading}.getAttribute('aria-sort')") == "ascending"
    browser.value(f"{heading}.querySelector('button').focus()")
    browser.press("Enter", 13, "\r")
    assert column() == sorted(before, reverse=True)
    browser.press(" ", 32, " ")
    assert column() == sorted(before)
    assert "by quality, ascending" in browser.value("document.getElementById('sorted').textContent")
    # what is missing stays at the end whichever way, and words are ordered as words
    rung = "document.querySelectorAll('#curve thead th')[1].querySelector('button').click()"
    for _ in range(2):
        browser.value(rung)
        cells = browser.value(FIRST_CELLS.format("curve", 1))
        assert cells[-cells.count("–") :] == ["–"] * cells.count("–")
    browser.value("document.querySelectorAll('#curve thead th')[0].querySelector('button').click()")
    names = browser.value(FIRST_CELLS.format("curve", 0))
    assert names == sorted(names, key=str.lower)
    assert browser.complaints == []


def test_a_keyboard_reaches_the_tables_first(browser: Browser, report: Path) -> None:
    browser.open(report.as_uri())
    browser.press("Tab", 9)
    assert browser.value("document.activeElement.textContent") == "Skip to the tables"
    assert browser.value("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Enter", 13, "\r")
    assert browser.value("location.hash") == "#curve"
    assert browser.value("document.querySelector(location.hash + ' table') !== null")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_can_be_read_by_day_and_by_night(browser: Browser, report: Path, hostile_page: Path, scheme: str) -> None:
    grounds = []
    for page in (report, hostile_page):
        browser.media(scheme)
        browser.open(page.as_uri())
        assert browser.value(CONTRAST) == []
        grounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert all(sum(map(int, re.findall(r"\d+", ground)[:3])) < 150 for ground in grounds) == (scheme == "dark")


def test_paper_holds_every_table(browser: Browser, report: Path, hostile_page: Path) -> None:
    for page in (report, hostile_page):
        browser.media("light", "print", LANDSCAPE, 700)
        browser.open(page.as_uri())
        assert browser.value(WIDER) == []
        assert (
            browser.value(
                "[...document.querySelectorAll('.wide, pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
            )
            == 0
        )
        assert (
            browser.value("[...document.querySelectorAll('pre')].filter(e => e.scrollHeight > e.clientHeight + 1)")
            == []
        )
    browser.media()
    browser.open(report.as_uri())
    printed = browser.pdf()
    assert printed.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type /Page\b", printed)) <= 40
    boxes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox \[([^\]]+)\]", printed)}
    assert all(right > top for _, _, right, top in boxes), "on its side"


def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser: Browser, report: Path, hostile_page: Path) -> None:
    for page in (report, hostile_page):
        browser.media(width=360, height=740)
        browser.open(page.as_uri())
        assert browser.value("document.documentElement.scrollWidth") <= 360


def test_a_screen_reader_finds_its_way(browser: Browser, report: Path) -> None:
    browser.media()
    browser.open(report.as_uri())
    assert browser.value("document.documentElement.lang") == "en" and browser.value("document.title")
    levels = browser.value("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    headings = browser.names("heading")
    assert {"What was found", "What is missing", "The claims of the papers", "How it was made"} <= set(headings)
    tables = browser.value("document.querySelectorAll('table').length")
    assert len([name for name in browser.names("table") if name]) == tables >= 6
    assert browser.value("[...document.querySelectorAll('thead th')].every(t => t.scope == 'col')")
    assert browser.value("[...document.querySelectorAll('tbody tr')].every(r => r.cells[0].scope == 'row')")
    assert browser.value("[...document.querySelectorAll('[tabindex]')].every(e => e.tabIndex == 0)")
    assert all(browser.names("region")) and all(browser.names("image")) and len(browser.names("image")) == 2
    ids = browser.value("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    targets = browser.value("[...document.querySelectorAll('a')].map(a => a.getAttribute('href').slice(1))")
    assert set(targets) <= set(ids)


def test_the_page_of_pairs_runs_nothing_that_answers_say(browser: Browser, hostile_page: Path) -> None:
    browser.media()
    browser.open(hostile_page.as_uri())
    assert browser.requests == [hostile_page.as_uri()] and browser.complaints == []
    assert browser.value("document.title") == f"Judged pairs: {HOSTILE[0]}"
    assert (
        browser.value("document.querySelectorAll('script, form, iframe, img, svg, template, math, input').length") == 0
    )
    shown = set(browser.value("[...document.querySelectorAll('pre')].map(p => p.textContent)"))
    for text in ATTACKS:
        seen = plain(text).replace("\r\n", "\n").replace("\r", "\n")
        assert seen in shown or f"\n{seen}" in shown or seen.removeprefix("\n") in shown, seen[:80]
    assert all(browser.names("region")), "every text has a name"


def test_two_people_rate_in_the_browser_and_agree_as_counted(browser: Browser, tmp_path: Path) -> None:
    """Hostile answers against plain ones; both raters prefer the plain one, the second errs in the end."""
    named = ("bytes in variation selectors", "a form of the rating page", LONG)
    attacks = [HOSTILE[0], HOSTILE[1], HOSTILE[7], *(ADVERSARIES[name][0] for name in named)]
    pairs = [pair(i, a=text, b="good") for i, text in enumerate(attacks)]
    with pytest.raises(UserError):
        RatedPairs(tmp_path, 2).decide([Question(p, "AB") for p in pairs], "t")
    for rater in ("ann", "ben"):
        with serve_app(application(Desk(tmp_path, rater)), "no page") as port:
            browser.media("dark" if rater == "ben" else "light")
            browser.open(f"http://127.0.0.1:{port}/")
            for done in range(len(pairs)):
                assert f"{rater}: {done} of 6 pairs rated" in browser.value("document.body.innerText")
                assert browser.value("document.querySelectorAll('form').length") == 1
                assert browser.value("document.title") == "Which answer is better?"
                assert {"The conversation", "The left answer", "The right answer"} <= set(browser.names("heading"))
                assert browser.value(CONTRAST) == []
                left = browser.value("document.querySelector('[aria-labelledby=left] pre').textContent")
                good = left.startswith("good") != (rater == "ben" and done == 5)
                browser.value(f"document.querySelector('button[value={'left' if good else 'right'}]').focus()")
                browser.press("Enter", 13, "\r")
                browser.wait()
            assert "All pairs are rated" in browser.value("document.body.innerText")
            assert set(browser.requests) == {f"http://127.0.0.1:{port}/{place}" for place in ("", "rate")}
            assert browser.complaints == []
    ratings = read_ratings(tmp_path)
    assert sum(len(set(of.values())) == 1 for of in ratings.values()) == 5
    assert agreement(ratings)["agreement"] == pytest.approx(5 / 6)
    winners = [v.winner for v in RatedPairs(tmp_path, 2).decide([Question(p, "AB") for p in pairs], "t")]
    assert sorted(winners) == ["b"] * 5 + ["tie"]  # type: ignore[type-var]


def test_pages_from_a_server_ask_for_nothing_else_either(browser: Browser, report: Path) -> None:
    """Served over HTTP, as continuous integration shows them: one request, for the page itself."""
    asked: list[str] = []

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(report.parent))

        def log_message(self, *arguments: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{server.server_port}/report.html")
        assert browser.value("document.images[0].naturalWidth") > 600
        server.shutdown()
    assert set(asked) <= {"/report.html", "/favicon.ico"} and browser.complaints == []
