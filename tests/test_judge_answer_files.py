"""Any two files of answers: paired by their chats, judged over HTTP, and never paired wrongly in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.records import read_json, read_jsonl, write_json, write_jsonl
from configs.runfolder import Stage, run_stage
from curve.tools import run_tool
from judge import compare
from judge.answer_files import AnswersTable, pair_files, run
from judge.asking.local_endpoint import Answer, Call, completion, serving
from judge.prompting import read_rendered
from judge.report import page as report


def rows(prefix: str, n: int = 6) -> list[dict[str, Any]]:
    chats: list[Any] = [f"question {i}" for i in range(n - 1)]
    chats.append(
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "and?"}]
    )
    return [{"prompt": chat, "response": f"{prefix} {i}"} for i, chat in enumerate(chats)]


def files(tmp_path: Path, a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[str]:
    write_jsonl(tmp_path / "a.jsonl", a)
    write_jsonl(tmp_path / "b.jsonl", b)
    return [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]


def test_two_files_are_judged_in_both_orders_and_read_again_without_asking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def script(call: Call) -> Answer:
        texts = read_rendered(json.loads(call.body)["messages"][0]["content"])
        assert texts is not None
        asked.append(texts.messages[-1]["content"])
        verdict = "first" if texts.first.startswith("good") else "second"
        return Answer(completion(json.dumps({"reason": "r", "verdict": verdict})))

    paths = files(tmp_path, rows("good")[::-1], rows("bad"))
    with serving(script) as url:
        settings = {"base_url": url, "api_key_env": None, "model": "m-1", "resamples": 200}
        table = AnswersTable(output=str(tmp_path / "judged" / "one"), **settings)  # type: ignore[arg-type]
        run(paths, table)
        assert len(asked) == 12 and asked.count("and?") == 2
        summary = read_json(tmp_path / "judged" / "one" / "summary.json")
        assert (summary["win"], summary["n_pairs"], summary["consistency"]) == (1.0, 6, 1.0)
        assert summary["verdicts"] == {"ok": 12}
        assert len(list(read_jsonl(tmp_path / "judged" / "one" / "verdicts.jsonl"))) == 12
        assert "a.jsonl against" in capsys.readouterr().out
        # Its folder holds the answers, so it can be shown and compared.
        report.run([table.output], report.ReportTable(output=str(tmp_path / "page.html")))
        assert "one against b.jsonl" in (tmp_path / "page.html").read_text(encoding="utf-8")
        compare.run([table.output], compare.CompareTable(resamples=200))
        assert "b.jsonl" in capsys.readouterr().out
        # Another reading of the same replies asks nothing.
        again = AnswersTable(output=str(tmp_path / "judged" / "two"), disagreement="pooled", **settings)  # type: ignore[arg-type]
        run(paths, again)
        run(paths, table)
        assert len(asked) == 12


def test_malformed_responses_lose_and_are_counted(tmp_path: Path) -> None:
    tagged = [{**row, "response": f"<think>t</think><answer>{row['response']}</answer>"} for row in rows("x")]
    cut = [dict(row) for row in tagged]
    cut[2]["response"] = "<think>t</think><answer>never closed"
    pairs = pair_files(*map(Path, files(tmp_path, cut, tagged)), "tagged")
    assert sorted(str(pair.a.answer) for pair in pairs) == ["None", "x 0", "x 1", "x 3", "x 4", "x 5"]
    assert sum(pair.a.status == "malformed" for pair in pairs) == 1


def test_several_answers_to_a_chat_are_samples_of_one_prompt(tmp_path: Path) -> None:
    pairs = pair_files(*map(Path, files(tmp_path, rows("a") + rows("aa"), rows("b") + rows("bb"))), "all")
    assert len(pairs) == 12 and len({pair.prompt.prompt_id for pair in pairs}) == 6
    assert all((pair.a.answer or "").split()[1] == (pair.b.answer or "").split()[1] for pair in pairs)
    assert {len((pair.a.answer or "").split()[0]) for pair in pairs if pair.a.sample == 1} == {2}


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        (rows("a")[1:], rows("b"), "answer different prompts: 1 answers stand in one of them only.*'question 0'"),
        ([{"prompt": "p"}], rows("b"), r"a\.jsonl, row 1: .*response"),
        ([{"prompt": "p", "chosen": "x", "rejected": "y"}], rows("b"), "row 1: a pair of answers"),
        ([], rows("b"), "there are no answers to judge"),
    ],
)
def test_files_that_cannot_be_compared_are_refused(
    tmp_path: Path, a: list[dict[str, Any]], b: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        run(files(tmp_path, a, b), AnswersTable(output=str(tmp_path / "o"), kind="people"))


def test_one_file_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name two files"):
        run(["a.jsonl"], AnswersTable(output=str(tmp_path / "o")))


def test_a_folder_without_answers_or_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    def work(inside: Path) -> dict[str, Any]:
        for name in ("outcomes", "verdicts"):
            write_jsonl(inside / f"{name}.jsonl", [])
        write_json(inside / "summary.json", {"baseline": "untrained", "judge": "openai"})
        return {}

    run_stage(Stage("judge", tmp_path / "a" / "old", {}, 0), work)
    with pytest.raises(UserError, match=r"old: neither answers beside it .* run its command again"):
        report.run([str(tmp_path / "a" / "old")], report.ReportTable(output=str(tmp_path / "page.html")))


def test_settings_may_be_written_as_in_an_experiment_and_the_preview_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    words = [*files(tmp_path, rows("a"), rows("b")), f"output={tmp_path / 'o'}", "judge.api_key_env=MY_KEY"]
    run_tool("judge answers", [*words, "judge.ask=false", "resamples=200"])
    assert "12 requests to" in capsys.readouterr().out
    with pytest.raises(UserError, match="MY_KEY is not set"):
        run_tool("judge answers", words)
