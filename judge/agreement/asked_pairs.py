"""Asks a configured judge about labelled pairs, in both orders, with its replies kept in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.errors import UserError
from configs.records import make_folder
from configs.terminal import say
from judge.agreement.labelled_pairs import LabelledPair
from judge.answers import Answer, Pair
from judge.config import JudgeTable
from judge.judges import Court, open_judge
from judge.stage import judge_pairs
from judge.verdicts import Verdict
from tasks.records import Prompt, Task


def ask_about(pairs: Sequence[LabelledPair], table: JudgeTable, folder: Path) -> dict[str, list[Verdict]]:
    """The verdicts on each pair, by pair, both orders one after the other; equal answers are a tie without asking.

    Raises:
        UserError: a pair has no texts, the judge cannot be reached, or requests failed that may be answered when the
            same command is run again.
    """
    asked = [question_pair(pair) for pair in pairs if pair.messages and pair.responses and all(pair.responses)]
    if not asked:
        raise UserError("judge validate: the files hold no answers to show a judge, only judgments of them")
    if len(asked) < len(pairs):
        say(f"{len(pairs) - len(asked)} of {len(pairs)} pairs hold no two answers to show a judge; they are left out")
    warning = table.alias_warning()
    if warning:
        say(warning)
    make_folder(folder)
    court = Court(table, folder, [pair.prompt for pair in asked], _no_task, "labelled pairs")
    with open_judge(court) as decide:
        found = judge_pairs(asked, decide, "judging labelled pairs")
    failed = [verdict for verdict in found if verdict.status == "error"]
    if failed:
        raise UserError(
            f"{folder}: {len(failed)} of {len(found)} verdicts are missing, the last for {failed[-1].error}; the "
            "others are kept, run the same command again to ask for the missing ones"
        )
    verdicts: dict[str, list[Verdict]] = {}
    for verdict in found:
        verdicts.setdefault(verdict.pair_id, []).append(verdict)
    return verdicts


def question_pair(pair: LabelledPair) -> Pair:
    """A labelled pair as a judge is shown it: the first response is `a`."""
    assert pair.responses is not None
    prompt = Prompt(pair.prompt_id, "eval", pair.messages)
    a, b = (
        Answer(
            prompt_id=pair.prompt_id, sample=0, completion=text, answer=text, status="ok", n_tokens=0, truncated=False
        )
        for text in pair.responses
    )
    return Pair(pair.pair_id, prompt, a, b)


def _no_task() -> Task:
    raise UserError("judge validate: labelled pairs have no task behind them; ask a model (judge.kind=openai)")
