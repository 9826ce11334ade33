"""`rewardladder judge answers A.jsonl B.jsonl output=FOLDER …`: any two sets of answers to the same prompts, judged.

    rewardladder judge answers mine.jsonl theirs.jsonl output=judged/mine kind=openai model=gpt-4o-2024-11-20 max_cost=5

Rows are `{"messages": […, answer]}` or `{"prompt": text or messages, "response": text}`, as `rewardladder score` reads
them. Answers are paired by their chat; where a chat has several, the first with the first. The folder gets the same
files as a judged cell, and the pairs, so that `judge report` and `judge compare` read it. The replies lie beside it, so
several judgements share them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from configs.errors import UserError
from configs.records import canonical_json, read_json
from configs.runfolder import Stage, run_stage
from configs.terminal import say
from judge.answers import PAIRS_FILE, Answer, Pair, write_pairs
from judge.config import JudgeTable, NothingAsked
from judge.judges import Court, open_judge
from judge.prompting import load_prompt
from judge.stage import SUMMARY_FILE, write_judgement
from judge.summaries import show_summaries
from rm.rung_digest import rung_digest
from rm.serving.conversations import read_rows
from tasks.records import Prompt, Task
from tasks.responses import read_plain, read_tagged

READERS = {"all": read_plain, "tagged": read_tagged}


class AnswersTable(JudgeTable):
    """The keys of `judge:`, and where the answers and the judgement are.

    Attributes:
        output: the folder of the judgement; `replies.sqlite` lies beside it.
        part: what of a response is the answer: `all` of it, or what stands between the tags of
            `<think> … </think><answer> … </answer>`, without which a response is malformed and loses.
        seed: of the bootstrap.
    """

    kind: Literal["openai", "rung", "people"] = "openai"
    output: str = Field(min_length=1)
    part: Literal["all", "tagged"] = "all"
    seed: int = Field(default=0, ge=0)


def run(paths: Sequence[str], table: AnswersTable) -> None:
    """Judge the answers of the first file against those of the second, and print the table of it.

    Raises:
        UserError: the files do not answer the same prompts, a row cannot be read, or the judge fails.
    """
    if len(paths) != 2:
        raise UserError("judge answers: name two files, the answers to be judged and those to compare them with")
    files = [Path(path).expanduser() for path in paths]
    output = Path(table.output).expanduser()
    settings = {**table.deciding(), "part": table.part}
    if "prompt" in settings:
        settings["prompt_text"] = load_prompt(table.prompt, table.prompt_file)
    if table.rung is not None:
        settings["rung_digest"] = rung_digest(Path(table.rung).expanduser())
    name = files[0].name.partition(".")[0]

    def work(inside: Path) -> dict[str, Any]:
        pairs = pair_files(files[0], files[1], table.part)
        court = Court(table, output.absolute().parent, [pair.prompt for pair in pairs], _no_task, "files of answers")
        warning = table.alias_warning()
        if warning:
            say(warning)
        with open_judge(court) as decide:
            named = table.model_copy(update={"baseline": files[1].name})
            written = write_judgement(inside, name, named, table.seed, pairs, decide)
        write_pairs(inside / PAIRS_FILE, pairs)
        return written

    try:
        run_stage(Stage("judge", output, settings, table.seed, {"a": files[0], "b": files[1]}), work)
    except NothingAsked as preview:
        say(str(preview))
        return
    show_summaries(f"{table.kind}: {files[0]} against {files[1]}  ({output})", [read_json(output / SUMMARY_FILE)])


def pair_files(a: Path, b: Path, part: str) -> list[Pair]:
    """The answers of two files, paired by chat and by their place among the answers to it.

    Raises:
        UserError: a row cannot be read or holds a pair, or a chat has another number of answers in the other file.
    """
    answers_a, answers_b = _answers(a, part), _answers(b, part)
    lonely = sorted(answers_a.keys() ^ answers_b.keys())
    if lonely:
        where = answers_a if lonely[0] in answers_a else answers_b
        begins = where[lonely[0]][0].messages[-1]["content"][:60]
        raise UserError(
            f"{a} and {b} answer different prompts: {len(lonely)} answers stand in one of them only, for example "
            f"answer {lonely[0][1] + 1} to {begins!r} in {a if where is answers_a else b}"
        )
    return [
        Pair(f"{prompt_id}#{sample}", prompt, answer, answers_b[prompt_id, sample][1])
        for (prompt_id, sample), (prompt, answer) in sorted(answers_a.items(), key=lambda item: item[0])
    ]


def _answers(path: Path, part: str) -> dict[tuple[str, int], tuple[Prompt, Answer]]:
    found: dict[tuple[str, int], tuple[Prompt, Answer]] = {}
    seen: Counter[str] = Counter()
    for row in read_rows(path):
        if row.problem is not None or len(row.answers) != 1:
            reason = row.problem or "a pair of answers; a row here holds one"
            raise UserError(f"{path}, row {row.line}: {reason}")
        chat, text = row.answers[0].chat, row.answers[0].text
        prompt_id = hashlib.sha256(canonical_json(chat).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        read = READERS[part](text)
        answer = Answer(
            prompt_id=prompt_id,
            sample=seen[prompt_id],
            completion=text,
            answer=read.answer,
            status="ok" if read.well_formed else "malformed",
            n_tokens=len(text.split()),  # words: no tokenizer is known here
            truncated=False,
        )
        found[prompt_id, seen[prompt_id]] = (Prompt(prompt_id, "eval", chat), answer)
        seen[prompt_id] += 1
    if not found:
        raise UserError(f"{path}: there are no answers to judge")
    return found


def _no_task() -> Task:
    raise UserError("judge answers: gold judges only answers of an offline world, in an experiment")
