"""`rewardladder judge validate pairs.jsonl …`: how far a judge agrees with people, and what else sways it.

Without a table `judge` nobody is asked: the judges' texts that stand in the files are read, each judge by itself. With
one, that judge is asked about every pair in both orders; its replies are kept in `store`, so nothing is paid twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from configs.errors import UserError
from configs.keyed import keyed_uniform
from configs.loader import Table
from configs.records import place_to_write, sha256_of_file, write_json
from configs.terminal import interval, say, show_table
from judge.agreement.labelled_pairs import LabelledPair, LabelledPairs, read_labelled_pairs, verdicts_of
from judge.agreement.measured_judge import measure, people_record
from judge.agreement.stored_texts import StoredGrammar
from judge.config import JudgeTable, NothingAsked
from judge.verdicts import Verdict

FORMAT = 1
Verdicts = dict[str, list[Verdict]]


class ValidateTable(Table):
    """Settings of `rewardladder judge validate`.

    Attributes:
        judge: the judge to ask, as in an experiment (`judge.kind=openai judge.model=…`); left out: nobody is asked.
        store: the folder of the asked judge's replies.
        judges: which of the stored judges to measure; null for all.
        text_ab, text_ba: fields with stored texts of the answers as they stand and exchanged, where the file has names
            of its own for them; dotted paths are allowed.
        grammar: how verdicts stand in them: `brackets` ([[A]]), `outputs` (Output (a)), `scores` (8 7), `label` (1, 2,
            tie), or a prompt of this tool, `pairwise` or `paper`.
        limit: measure on so many pairs only, drawn by the seed.
        output: a JSON file for all figures.
        report: an HTML page with single pairs, both answers and the judge's words; needs a single judge.
        resamples: bootstrap resamples of whole prompts.
        seed: of the resamples.
    """

    judge: JudgeTable | None = None
    store: str | None = None
    judges: list[str] | None = None
    text_ab: str | None = None
    text_ba: str | None = None
    grammar: StoredGrammar = "pairwise"
    limit: int | None = Field(None, ge=1)
    output: str | None = None
    report: str | None = None
    resamples: int = Field(2_000, ge=100)
    seed: int = Field(0, ge=0)


def run(paths: Sequence[str], table: ValidateTable) -> None:
    """Read, ask where a judge is named, measure, write and print.

    Raises:
        UserError: no file, no label, no stored text and no judge, or settings that exclude each other.
    """
    if not paths:
        raise UserError("judge validate: name a file of labelled pairs (.jsonl, .jsonl.gz, .json or .parquet)")
    if table.text_ba is not None and table.text_ab is None:
        raise UserError("judge validate: text_ba is the same judge's text in the other order; give text_ab as well")
    output, report = (
        path and place_to_write(path, key) for path, key in ((table.output, "output"), (table.report, "report"))
    )
    read = read_labelled_pairs(paths, table.text_ab, table.text_ba, table.grammar)
    pairs = drawn(read.pairs, table)
    try:
        judged = asked(pairs, table) if table.judge else stored(pairs, table)
    except NothingAsked as preview:
        say(str(preview))
        return
    ordered = table.judge is None or table.judge.kind != "people"
    if report and len(judged) > 1:
        raise UserError(f"judge validate: report shows one judge; say judges='[NAME]' of {', '.join(judged)}")
    result = {
        "format": FORMAT,
        "files": [{"name": Path(name).name, "sha256": sha256_of_file(Path(name).expanduser())} for name in paths],
        "n_rows": read.n_rows,
        "dropped": read.dropped,
        "people": people_record(pairs, table.seed, table.resamples),
        "judges": {
            name: measure(pairs, verdicts, table.seed, table.resamples, ordered) for name, verdicts in judged.items()
        },
    }
    if output:
        write_json(output, result)
    if report:
        from judge.report.page import write_validation_page

        ((name, verdicts),) = judged.items()
        write_validation_page(report, name, pairs, verdicts, ordered=ordered)
    show(result, read)
    for place in (output, report):
        if place:
            say(f"wrote {place}")


def drawn(pairs: Sequence[LabelledPair], table: ValidateTable) -> list[LabelledPair]:
    """As many pairs as the limit allows, in the order of the files; a larger limit keeps all of a smaller one."""
    if table.limit is None or table.limit >= len(pairs):
        return list(pairs)
    lots = {pair.pair_id: keyed_uniform(table.seed, "limit", pair.pair_id) for pair in pairs}
    bound = sorted(lots.values())[table.limit - 1]
    return [pair for pair in pairs if lots[pair.pair_id] <= bound]


def stored(pairs: Sequence[LabelledPair], table: ValidateTable) -> dict[str, Verdicts]:
    """The verdicts of every judge whose texts stand in the files, by judge and pair.

    Raises:
        UserError: there is none, or none of the names that were asked for.
    """
    names = sorted({name for pair in pairs for name in pair.sayings})
    if not names:
        raise UserError(
            "judge validate: the files hold no judge's texts; name a judge to ask (judge.kind=openai judge.model=…), "
            "or the fields of stored texts (text_ab=FIELD text_ba=FIELD grammar=…)"
        )
    missing = [name for name in table.judges or [] if name not in names]
    if missing:
        raise UserError(f"judge validate: no texts of {', '.join(missing)}; the files have {', '.join(names)}")
    return {
        name: {pair.pair_id: verdicts_of(pair, name) for pair in pairs if name in pair.sayings}
        for name in table.judges or names
    }


def asked(pairs: Sequence[LabelledPair], table: ValidateTable) -> dict[str, Verdicts]:
    """The verdicts of the configured judge, both orders of each pair.

    Raises:
        UserError: no store, a judge that cannot be asked here, or pairs without texts.
    """
    assert table.judge is not None
    if table.judge.kind.startswith("gold"):
        raise UserError("judge validate: gold knows no labelled pairs; say judge.kind=openai, and which model")
    if table.store is None:
        raise UserError("judge validate: name a folder for the judge's replies, for example store=validation")
    from judge.agreement.asked_pairs import ask_about

    name = {"openai": table.judge.model, "rung": Path(table.judge.rung or "").name}.get(table.judge.kind, "people")
    return {name: ask_about(pairs, table.judge, Path(table.store).expanduser())}


def show(result: Mapping[str, Any], read: LabelledPairs) -> None:
    """Print what people and what judges said, then the parts of each judge."""
    people, judges = result["people"], result["judges"]
    if people["unlabelled"] < people["n_pairs"]:
        show_table(
            f"judges beside people: {people['n_pairs']} pairs of {people['n_prompts']} prompts; people prefer the "
            f"first {people['first']}, the second {people['second']}, neither {people['tie']}, unlabelled "
            f"{people['unlabelled']}",
            ("judge", "n", "agreement (95%)", "missing as wrong", "kappa", "accuracy", "accuracy of both orders"),
            [(name, *_beside_people(judge)) for name, judge in judges.items()],
        )
    show_table(
        "what the order of display does",
        (
            "judge",
            "verdicts",
            "missing",
            "first shown wins",
            "read in both orders",
            "consistent",
            "first, second twice",
        ),
        [(name, *_order(judge)) for name, judge in judges.items()],
    )
    rankings = {"people": people["ranking"], **{name: judge["ranking"] for name, judge in judges.items()}}
    if any(rankings.values()):
        _show_rankings({name: ranking for name, ranking in rankings.items() if ranking})
    for name, judge in judges.items():
        _show_parts(name, judge)
    if read.dropped:
        counts = ", ".join(f"{n} {reason}" for reason, n in read.dropped.items())
        say(f"not used: {counts} of {read.n_rows} rows (the first: {read.first_dropped})")
    say(
        "agreement: the same label of three, each order counts; accuracy: where people prefer one, a tie of the judge "
        "is half; of both orders: a win must hold in both; missing verdicts have no weight but where a column says so"
    )


def _beside_people(judge: Mapping[str, Any]) -> tuple[Any, ...]:
    found = judge["agreement"]
    names = ("agreement", "of_all", "kappa", "accuracy")
    both = _said(judge["outcome"]["accuracy"]) if judge["outcome"] else "–"
    return (found["agreement"]["n"], *(_said(found[name]) for name in names), both)


def _order(judge: Mapping[str, Any]) -> tuple[Any, ...]:
    found = judge["position"]
    return (
        judge["n_verdicts"],
        judge["n_missing"],
        interval(found["first_share"], found["first_lo"], found["first_hi"]),
        found["n_both"],
        interval(found["consistency"], found["consistency_lo"], found["consistency_hi"]),
        f"{found['n_both_first']}, {found['n_both_second']}",
    )


def _show_rankings(rankings: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    cells = {
        judge: {row["name"]: f"{row['rank']} ({row['rank_lo']}–{row['rank_hi']})" for row in ranking}
        for judge, ranking in rankings.items()
    }
    names = dict.fromkeys(name for of_judge in cells.values() for name in of_judge)
    rows = [(name, *(of_judge.get(name) for of_judge in cells.values())) for name in names]
    show_table("ranks of the models (95%)", ("model", *cells), rows)


def _show_parts(name: str, judge: Mapping[str, Any]) -> None:
    parts = [
        (
            kind,
            group,
            found["agreement"]["n"],
            _said(found["agreement"]),
            _said(found["kappa"]),
            _said(found["accuracy"]),
        )
        for kind in ("domains", "strengths", "annotators")
        for group, found in judge[kind].items()
        if len(judge[kind]) > 1
    ]
    if parts:
        columns = ("by", "part", "n", "agreement (95%)", "kappa", "accuracy")
        show_table(name, columns, [(kind.removesuffix("s"), *rest) for kind, *rest in parts])
    ceiling, length = judge["ceiling"], judge["length"]
    if ceiling:
        say(
            f"{name}: two people agree on {_said(ceiling['people'])} of {ceiling['people']['n']} pairs (kappa "
            f"{_said(ceiling['people_kappa'])}), the judge with one of them on {_said(ceiling['judge'])}: people less "
            f"judge {_said(ceiling['shortfall'])}"
        )
    if length and length["judge_longer"]["n"]:
        say(
            f"{name}: it prefers the longer answer in {_said(length['judge_longer'])}, people in "
            f"{_said(length['people_longer'])} of the same {length['judge_longer']['n']} judgements; it is right in "
            f"{_said(length['right_if_longer'])} where people prefer the longer one and in "
            f"{_said(length['right_if_shorter'])} where they prefer the shorter"
        )


def _said(estimate: Mapping[str, Any]) -> str:
    return interval(estimate["estimate"], estimate["lo"], estimate["hi"])
