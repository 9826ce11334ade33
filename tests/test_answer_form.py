"""A rung gives the ladder's logits wherever it is asked: the form of its answers travels in its card."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import UserError
from configs.loader import Experiment
from configs.records import read_json, read_jsonl, write_jsonl
from curve.cli import main
from rm.answer_form import AnswerForm

WORLD = AnswerForm("<think></think><answer> {answer}</answer>")


def test_what_a_rung_reads_of_a_response() -> None:
    assert WORLD.shown("a , b") == "<think></think><answer> a , b</answer>"
    assert WORLD.shown("<think>well</think><answer> a , b </answer>") == "<think></think><answer> a , b</answer>"
    assert WORLD.shown("<answer>broken") == "<answer>broken"
    assert AnswerForm().shown("<think>well</think><answer>a</answer>") == "a"
    assert AnswerForm().shown("a {answer}") == "a {answer}"
    assert AnswerForm.of_card({}) == AnswerForm()


@pytest.mark.parametrize("form", ["no place", "{answer}{answer}", 3])
def test_a_form_without_one_place_is_refused(form: object) -> None:
    with pytest.raises(UserError, match="answer_form"):
        AnswerForm.of_card({"answer_form": form})


def test_scoring_a_runs_own_pairs_gives_the_ladders_logits(
    small: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung = small.folder / "rm" / "rung-60"
    assert "{answer}" in read_json(rung / "card.json")["answer_form"]
    wanted = {row["pair_id"]: row for row in read_jsonl(rung / "pair_logits.jsonl")}
    pairs = [row for row in read_jsonl(small.folder / "tasks" / "pairs.jsonl") if row["pair_id"] in wanted][:40]
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("pairs.jsonl"), pairs)
    assert main(["score", str(rung), "pairs.jsonl", "output=scores.jsonl"]) == 0
    found = [row["scores"]["rung-60"]["logit"] for row in read_jsonl(Path("scores.jsonl"))]
    ladder = [wanted[pair["pair_id"]][f"logit_{side}"] for pair in pairs for side in ("chosen", "rejected")]
    assert found == pytest.approx(ladder, abs=1e-5)
