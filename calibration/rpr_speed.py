"""How fast texts are measured: `python -m calibration.rpr_speed [answers.jsonl field=response]`.

Without a file, answers of about 4 kB are made from plain sentences and from the phrases of the set; one part in English
and one in Chinese. Times are CPU seconds of this process, so that other load on the machine does not count; each figure
is the best of three rounds over all texts, phrases and repetition together.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from calibration.mined_texts import Document, read_documents
from calibration.phrase_set import PhraseSet, load_phrase_set
from calibration.rpr import rprs
from configs.command import guarded
from configs.keyed import keyed_rng
from configs.loader import Table, read_words
from configs.terminal import show_table

ROUNDS = 3
ENGLISH = (
    "The committee met on {} to hear what the engineers had found in the old bridge",
    "Its northern pier had moved by {} centimetres since the survey, and nobody could say why the gauge had missed it",
    "A second drawing, kept in the town hall, showed a culvert that was later filled with sand and {} tons of rubble",
    "Traffic was sent over the ferry, which carries {} cars an hour when the tide allows",
    "One of the {} farmers asked who would pay for the hay",
)
CHINESE = (
    "委员会在第{}天听取了工程师对旧桥的检查结果",
    "北侧桥墩自上次测量以来移动了{}厘米，没有人知道仪器为什么没有发现",
    "市政厅保存的另一张图纸显示那里曾有一条涵洞，后来用{}吨沙石填平",
    "车辆改乘渡船，涨潮时每小时只能运送{}辆汽车",
    "{}位农民问道，谁来承担干草的费用",
)


class SpeedTable(Table):
    """Settings of the command.

    Attributes:
        phrases: names or files of the phrase sets that are timed.
        field: the field of the file with the text.
        size: bytes of an answer that is made.
        answers: how many are made of each kind.
    """

    phrases: tuple[str, ...] = ("paper-helpsteer", "corrected-helpsteer")
    field: str = "response"
    size: int = Field(default=4000, ge=1)
    answers: int = Field(default=500, ge=1)


def made_answers(language: str, size: int, answers: int, phrases: Sequence[str]) -> list[str]:
    """Answers of about `size` bytes: sentences of a language with numbers in them, and a phrase before every fourth."""
    sentences, stop = (ENGLISH, ". ") if language == "english" else (CHINESE, "。")
    texts = []
    for number in range(answers):
        rng = keyed_rng(0, "rpr_speed", language, number)
        parts: list[str] = []
        length = 0
        while length < size:
            sentence = sentences[int(rng.integers(len(sentences)))].format(int(rng.integers(10_000)))
            words = sentence.split(" ")
            if len(words) > 1:
                rng.shuffle(words)
                sentence = " ".join(words)
            opening = (
                f"{phrases[int(rng.integers(len(phrases)))].strip().capitalize()}, " if rng.random() < 0.25 else ""
            )
            end = "\n\n" if rng.random() < 0.1 else stop
            parts.append(opening + sentence + end)
            length += len(parts[-1].encode())
        texts.append("".join(parts))
    return texts


def megabytes_a_second(texts: Sequence[str], phrase_set: PhraseSet, rounds: int = ROUNDS) -> float:
    """Millions of bytes of UTF-8 that are measured in one CPU second: the best round."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    rprs(texts[:10], phrase_set)
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        rprs(texts, phrase_set)
        best = min(best, time.process_time() - start)
    return size / 1e6 / max(best, 1e-9)


def run(paths: Sequence[str], table: SpeedTable) -> None:
    """Print the speed for each phrase set and each kind of text.

    Raises:
        UserError: a file or a phrase set cannot be read.
    """
    sets = [load_phrase_set(name) for name in table.phrases]
    kinds: dict[str, list[str]] = {}
    for path in paths:
        documents: list[Document] = read_documents(Path(path), table.field)
        kinds[Path(path).name] = [document.text for document in documents]
    rows = []
    for phrase_set in sets:
        texts_of = kinds or {
            language: made_answers(language, table.size, table.answers, phrase_set.phrases)
            for language in ("english", "chinese")
        }
        for kind, texts in texts_of.items():
            size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) / len(texts)
            speed = megabytes_a_second(texts, phrase_set)
            name, number = phrase_set.name, len(phrase_set.phrases)
            rows.append((name, number, kind, len(texts), round(size), speed, speed / size * 1e6))
    columns = ("phrase set", "phrases", "texts", "number", "mean bytes", "MB per CPU second", "texts per CPU second")
    show_table("RPR with repetition, one core", columns, rows)


def main() -> None:
    """The command."""
    paths, table = read_words(sys.argv[1:], SpeedTable, "rpr_speed")
    run(paths, table)


if __name__ == "__main__":
    sys.exit(guarded(main))
