"""Mining: log-odds by hand, phrases of a text, the merging rule, the three ways to give texts, and real reasoning."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.log_odds import log_odds
from calibration.mined_texts import Corpus, Document, read_corpus
from calibration.mining import MineTable, mine, parts_of, phrases_of, run
from calibration.phrase_set import load_phrase_set
from calibration.rpr import phrases_in
from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.loader import read_words

SENTENCE = "the bridge is old and nobody knew why it moved so far from where they built"


def test_log_odds_by_hand() -> None:
    # N = 10 and 10; a_0 = 0.5 * 2 * 10 = 10; a_w = 10 * 8 / 20 = 4 and 10 * 12 / 20 = 6
    found = log_odds([6, 4], [2, 8], 0.5)
    assert found.delta[0] == pytest.approx(math.log(10 / 10) - math.log(6 / 14))
    deviation = math.sqrt(1 / 10 + 1 / 10 + 1 / 6 + 1 / 14)
    assert found.z[0] == pytest.approx(math.log(14 / 6) / deviation)
    assert found.high[0] - found.low[0] == pytest.approx(2 * 1.959963984540054 * deviation)


def test_log_odds_are_odd_and_a_prior_draws_them_to_0() -> None:
    rng = keyed_rng(0, "log-odds")
    first, second = rng.integers(0, 30, 200), rng.integers(0, 30, 200)
    first[0], second[0] = 5, 0
    one, other = log_odds(first, second, 0.1), log_odds(second, first, 0.1)
    assert np.allclose(one.delta, -other.delta)
    assert np.allclose(one.low, -other.high)
    shifts = [abs(log_odds(first, second, prior).delta[0]) for prior in (0.01, 0.1, 1.0, 10.0)]
    assert shifts == sorted(shifts, reverse=True)
    assert np.allclose(log_odds(first, first, 0.1).z, 0.0)
    assert np.isfinite(log_odds([3], [0], 0.1).z).all()
    assert np.isfinite(log_odds([3, 2], [0, 0], 0.1).z).all()


def test_intervals_cover_0_as_often_as_they_say_where_nothing_differs() -> None:
    rng = keyed_rng(0, "cover")
    share = rng.uniform(0.1, 0.4, 2000)
    found = log_odds(rng.binomial(100, share), rng.binomial(100, share), 0.001)
    assert 0.94 <= np.mean((found.low < 0) & (found.high > 0)) <= 0.99


def test_phrases_cross_no_punctuation_digit_or_line() -> None:
    found = phrases_of("Let me think: it\u2019s 12 apples.\nSo, well-known")
    assert found == {
        "let", "me", "think", "let me", "me think", "let me think", "it's", "apples", "so", "well-known",
    }  # fmt: skip
    assert "a b c d" in phrases_of("a b c d e")
    assert "a b c d e" not in phrases_of("a b c d e")


def test_chinese_phrases_are_runs_of_characters() -> None:
    assert phrases_of("等一下，wait 我") == {"等一", "一下", "等一下", "wait"}
    assert max(map(len, phrases_of("让我们先来想一想这个问题"))) == 6


def test_every_phrase_is_found_again_by_whole_word_matching() -> None:
    text = "But WAIT\u2014let me re-check: 让我想想，it\u2019s fine. Ça va?"
    corrected = load_phrase_set("corrected-helpsteer")
    for phrase in phrases_of(text):
        one = corrected.model_copy(update={"phrases": (phrase,)})
        assert phrases_in(text, one) == (phrase,)


def corpus(first: list[str], second: list[str], prompts: list[str] | None = None) -> Corpus:
    names = prompts or [str(place) for place in range(len(first))]
    ones = [Document(text, name) for text, name in zip(first, names, strict=True)]
    return Corpus(ones, [Document(text, str(place)) for place, text in enumerate(second)], ("a", "b"), {})


def texts(openings: list[str], shares: list[float], number: int, key: str) -> list[str]:
    """Plain words in any order, before which each opening stands with its share of the texts, many times over."""
    made = []
    for place in range(number):
        rng = keyed_rng(0, key, place)
        words = [f"{opening}. " * 5 for opening, share in zip(openings, shares, strict=True) if rng.random() < share]
        made.append("".join(words) + " ".join(rng.permutation(SENTENCE.split())))
    return made


def test_planted_phrases_are_found_once_each_and_longer_forms_are_merged() -> None:
    openings = ["let me think", "let me", "on the other hand", "plainly"]
    first = texts(openings, [0.2, 0.7, 0.6, 0.3], 120, "first")
    second = texts(openings, [0.02, 0.05, 0.05, 0.3], 120, "second")
    found = mine(corpus(first, second), MineTable(least_z=4.0)).phrases
    assert {phrase.phrase for phrase in found} == {"let me", "on the other hand"}
    by_name = {phrase.phrase: phrase for phrase in found}
    assert {"let", "me", "let me think", "think"} >= set(by_name["let me"].merged) >= {"let", "me"}
    assert {"other", "hand", "the other hand"} <= set(by_name["on the other hand"].merged)
    hand = by_name["on the other hand"]
    assert hand.first == sum(
        "on the other hand" in text for text in first
    )  # documents, not its five occurrences in each
    assert hand.second == sum("on the other hand" in text for text in second)
    assert hand.low < hand.delta < hand.high and hand.z > 4
    assert "on the other hand" in hand.example


def test_one_text_that_says_a_phrase_often_counts_once() -> None:
    found = mine(corpus(["wait " * 500, *["the old bridge"] * 20], ["the old bridge"] * 20), MineTable(min_documents=1))
    assert "wait" not in {phrase.phrase for phrase in found.phrases}


def test_words_of_one_topic_are_kept_out_by_the_number_of_prompts() -> None:
    first = texts(["wait", "culvert"], [0.5, 0.0], 100, "topic") + ["the culvert"] * 60
    prompts = [str(place) for place in range(100)] + ["the bridge"] * 60
    second = texts(["wait"], [0.02], 160, "plain")
    for least, names in ((1, {"wait", "the culvert"}), (10, {"wait"})):
        found = mine(corpus(first, second, prompts), MineTable(min_prompts=least, least_z=4)).phrases
        assert names <= {phrase.phrase for phrase in found}
        assert ("culvert" in str([phrase.phrase for phrase in found])) == (least == 1)


def test_chinese_is_mined_from_a_made_sample() -> None:
    """The real data hold three Chinese answers, so that only a made sample can show that it works."""
    rooms = ["这座旧桥已经移动了", "没有人知道原因是什么", "渡船每小时运送汽车", "农民问谁来承担费用"]
    openings, first, second = ["等一下", "让我想想", "另一方面"], [], []
    for place in range(80):
        rng = keyed_rng(0, "chinese", place)
        plain = [f"{room}。" for room in rng.permutation(rooms)[:3]]
        second.append("".join(plain))
        first.append(
            "".join(f"{opening}，{line}" for opening, line in zip(openings, plain, strict=True) if rng.random() < 0.7)
        )
    found = [phrase.phrase for phrase in mine(corpus(first, second), MineTable(least_z=2.5)).phrases]
    assert set(found) == set(openings)


@pytest.mark.parametrize(
    ("longer", "shorter", "expected"),
    [("let me think", "let me", True), ("let me", "let", True), ("waiter", "wait", False), ("让我们", "让我", True)],
)
def test_one_phrase_contains_another_by_whole_words_or_characters(longer: str, shorter: str, expected: bool) -> None:
    assert (shorter in parts_of(longer)) is expected


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_command_writes_a_set_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [{"said": text, "right": True} for text in texts(["wait", "let me check"], [0.6, 0.5], 60, "good")]
    bad = [{"said": text, "right": 0} for text in texts(["wait"], [0.05], 60, "bad")]
    path = written(tmp_path / "answers.jsonl", [*good, *bad, {"said": "x", "right": "maybe"}, {"right": 1}, [1]])
    paths, table = read_words(
        [path, "field=said", "label=right", f"output={tmp_path / 'new.yaml'}", "phrases=2"], MineTable, "mine"
    )
    run(paths, table)
    phrase_set = load_phrase_set(str(tmp_path / "new.yaml"))
    assert (set(phrase_set.phrases), phrase_set.name, phrase_set.version) == ({"wait", "let me check"}, "new", 1)
    assert (phrase_set.matching, phrase_set.normaliser) == ("words", 1.0)
    assert "(60 documents)" in phrase_set.source and "field=said" in phrase_set.source
    printed = capsys.readouterr().out
    for line in ("neither good nor bad", "1 rows: answers.jsonl: no said", "1 rows: answers.jsonl: not a JSON object"):
        assert line in printed


def test_two_files_of_two_kinds_and_with_a_tag(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"response": f"<think>{text}</think> {text}", "ask": i % 7} for i, text in enumerate(["wait now"] * 9)]
    parquet.write_table(pyarrow.Table.from_pylist([*rows, {"response": "no tag", "ask": 1}]), tmp_path / "a.parquet")
    second = [{"turns": ["the old", "bridge"]}, {"turns": [{"role": "user", "content": "u"}]}, {"turns": 3}]
    second.append({"turns": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "said"}]})
    base = written(tmp_path / "b.jsonl", second)
    found = read_corpus([str(tmp_path / "a.parquet"), base], "response", "turns", None, "think", "ask")
    assert [document.text for document in found.first] == ["wait now"] * 9
    assert len({document.prompt for document in found.first}) == 7
    assert [document.text for document in found.second] == ["the old\nbridge", "said"]
    assert found.unread == {"no <think>…</think>": 1, "b.jsonl: turns is no text": 2}
    one = read_corpus([str(tmp_path / "a.parquet")], "response", None, None, "think", None)
    assert [document.text.strip() for document in one.second] == ["wait now"] * 9


def test_what_cannot_be_mined_is_refused_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"response": "the old bridge", "good": 1}])
    for words, sentence in (
        ([path], "found 1 files; give two files"),
        ([path, path, "label=good"], "not label with either"),
        ([path, path, "field=text"], "no row has the field 'text'; there are good, response"),
        ([path, "label=good"], "no text in a.jsonl with good bad"),
        ([path, "inside=<think>"], "is no tag"),
        ([path, str(tmp_path / "none.jsonl")], "cannot be read"),
        ([path, str(tmp_path / "none.csv")], "give a .jsonl or a .parquet file"),
        ([path, path], "none of 6 phrases stands in at least 5 documents"),
        ([path, path, "output=a.json"], "is no YAML file"),
        ([path, path, "feild=x"], "did you mean field"),
    ):
        with pytest.raises(UserError, match=r"(?s)^[^\n]*$") as error:
            run(*read_words(words, MineTable, "mine"))
        assert sentence in str(error.value)


def test_reasoning_phrases_are_found_in_real_chains_of_thought(shared_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "thoughts.yaml"
    words = ["inside=Thought", "prompt=instruction", "second_field=answer_turns", "min_prompts=10", f"output={output}"]
    paths = [str(shared_data / "cot" / "marco_o1_cot.jsonl"), str(shared_data / "judge" / "mtbench_answers.jsonl")]
    run(*read_words([*paths, *words], MineTable, "mine"))
    found = load_phrase_set(str(output))
    assert {"wait", "let me", "alternatively", "i need to"} <= set(found.phrases)
    assert len(found.phrases) == 40


def test_there_is_too_little_chinese_reasoning_to_mine_a_set_from(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "cot" / "marco_o1_cot.jsonl").open(encoding="utf-8")]
    han = [sum("\u4e00" <= character <= "\u9fff" for character in row["response"]) for row in rows]
    assert sum(number >= 100 for number in han) == 3
