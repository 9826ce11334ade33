"""How often answers are right: `rewardladder evaluate runs/x answers.jsonl k=8`, with intervals over problems.

    greedy     the answer at temperature 0, where there is one; Wilson's interval
    avg@n      the mean over a problem's n samples, averaged over problems (with n = 1: Wilson's interval)
    pass@k     at least one of k samples is right (`judge.evaluation.pass_at_k`)
    maj@k      the answer that most of k samples give is right; ties are drawn, samples without an answer do not vote

All but Wilson's are cluster bootstraps: problems are resampled whole. Which samples give the same answer is decided by
the second checker of mathematics answers, which never takes long (`votes` has the rule); an answer that several
samples give is as right as the share of them that were marked right. Differences are to the first contestant, over the
problems that both answered; which these are is decided by their text (`tasks.pairing`), never by an id alone. Where
verdicts come from is said in every table (`tasks.mathematics.answer_files`).

Evaluation chooses nothing: the state of a policy is chosen while it trains, on dev prompts (`policy.keep`). Where these
are the evaluated problems themselves (`tasks.dev_is_eval`), every table says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from configs.errors import UserError
from configs.keyed import keyed_rng
from configs.records import place_to_write, read_json, write_bytes, write_json
from configs.terminal import say
from judge.evaluation.contestants import VERIFIABLE, Contestant, cells_in, read_cell, read_file, short_names
from judge.evaluation.pass_at_k import MOST_SAMPLES, majority_at_k, pass_at_k
from judge.evaluation.tables import ALL, as_csv, show
from judge.statistics import Estimate, cluster_bootstrap, widened_where_all_agree, wilson
from policy.rewards.votes import answer_classes
from tasks.mathematics.answer_files import MARKS, Answer, FileFields
from tasks.pairing import Pairs, pair

DIGITS = 12
EVALUATION_FILE = "evaluation.json"
"""In the folder of a judged cell."""


class EvaluateTable(FileFields):
    """Settings of an evaluation.

    Attributes:
        k: of pass@k and maj@k, a number or a list; as many as every contestant's problems have samples where not given.
        text, answer, right, key: fields of files; found among the usual ones where not given. `right` names a stored
            verdict that is believed in the place of a check.
        answer_in: where an answer of a file counts, `anywhere` or only in a `box`; cells have `tasks.answer_in`.
        greedy: files hold greedy answers, one a problem.
        workers, seconds: processes that check the answers of files, and the limit of each comparison.
        resamples, seed: of the bootstrap over problems.
        output: a place without ending, for `<output>.json` and `<output>.csv`.
    """

    k: list[int] | None = Field(None, min_length=1)
    greedy: bool = False
    workers: int = Field(1, ge=1, le=64)
    seconds: float = Field(3.0, gt=0, le=60)
    resamples: int = Field(2000, ge=100, le=100_000)
    seed: int = Field(0, ge=0)
    output: str | None = None

    @field_validator("k", mode="before")
    @classmethod
    def _one_or_several(cls, k: Any) -> Any:
        listed = [k] if isinstance(k, int) and not isinstance(k, bool) else k
        if isinstance(listed, list) and any(isinstance(n, int) and not 1 <= n <= MOST_SAMPLES for n in listed):
            raise ValueError(f"k is 1 to {MOST_SAMPLES}, found {k}")
        return sorted(set(listed)) if isinstance(listed, list) and all(isinstance(n, int) for n in listed) else listed


def run(paths: Sequence[str], table: EvaluateTable) -> None:
    """Evaluate cells and files, print the tables, write JSON and CSV.

    Raises:
        UserError: nothing to read, a file that cannot be used, or contestants that share no problem.
    """
    output = place_to_write(table.output, "output") if table.output else None
    if not paths:
        raise UserError("evaluate: nothing to work on; name runs, cells or files of answers")
    found = [place for path in paths for place in _places(Path(path).expanduser())]
    contestants = [
        read_cell(place, name)
        if place.is_dir()
        else read_file(place, name, table, table.greedy, table.workers, table.seconds)
        for place, name in zip(found, short_names(found), strict=True)
    ]
    report = evaluate(contestants, table.k, table.seed, table.resamples)
    show(report)
    if output:
        write_json(output.with_name(f"{output.name}.json"), report)
        write_bytes(output.with_name(f"{output.name}.csv"), as_csv(report).encode())
        say(f"wrote {output}.json, {output}.csv")


def _places(path: Path) -> list[Path]:
    return cells_in(path) if path.is_dir() else [path]


def evaluate(contestants: Sequence[Contestant], k: Sequence[int] | None, seed: int, resamples: int) -> dict[str, Any]:
    """The figures of contestants, by set and over all, and the differences of each to the first; plain JSON.

    Raises:
        UserError: a problem has more samples than maj@k can count, or a contestant shares no problem with the first.
    """
    ks = list(k) if k else _usual_k(contestants)
    values = [_values(contestant, ks) for contestant in contestants]

    rows = []
    for contestant, columns in zip(contestants, values, strict=True):
        names = sorted({contestant.sets.get(problem, ALL) for problem in contestant.problems})
        groups: list[tuple[str, set[str] | None]] = [(ALL, None)]
        if len(names) > 1:
            groups += [(name, {p for p in contestant.problems if contestant.sets.get(p) == name}) for name in names]
        rows.append(
            {
                "name": contestant.name,
                "source": contestant.source,
                "prompt": contestant.prompt,
                "verdicts": contestant.verdicts,
                "kept": contestant.kept,
                "chosen_on_test_set": contestant.on_test_set,
                "sets": {
                    name: _counts(contestant, among) | _estimates(columns, among, seed, resamples)
                    for name, among in groups
                },
            }
        )
    differences = []
    for contestant, columns in list(zip(contestants, values, strict=True))[1:]:
        first = contestants[0]
        pairs = pair(first.identified, contestant.identified, (first.name, contestant.name), "evaluate")
        gains = {
            figure: {
                name: cells[other] - values[0][figure][name]
                for name, other in pairs.names.items()
                if other in cells and name in values[0].get(figure, {})
            }
            for figure, cells in columns.items()
        }
        differences.append(
            {
                "name": contestant.name,
                "minus": first.name,
                **_paired(pairs),
                **_estimates({f: gain for f, gain in gains.items() if gain}, None, seed, resamples, paired=True),
            }
        )
    return {"k": ks, "contestants": rows, "differences": differences}


def evaluate_cells(cells: Mapping[str, Path], seed: int, resamples: int) -> dict[str, Any]:
    """The evaluation of cells by name, the first of them the one to compare with."""
    return evaluate([read_cell(cell, name) for name, cell in cells.items()], None, seed, resamples)


def evaluate_judged(inside: Path, folders: Mapping[str, Path], task: Any, seed: int, resamples: int) -> None:
    """Write `evaluation.json` of a judged cell beside its baseline, where the task's answers are right or wrong.

    Args:
        inside: the folder of the judgement.
        folders: the policy cells `baseline` and `cell`.
        task: the name of the task.
        seed, resamples: of the bootstrap; the same for all cells, so that they share their resamples.
    """
    if task in VERIFIABLE:
        cells = {folders[role].name: folders[role] for role in ("baseline", "cell")}
        write_json(inside / EVALUATION_FILE, evaluate_cells(cells, seed, resamples))


def show_judged(folders: Sequence[Path]) -> None:
    """Print the evaluations of judged cells as one, where there are several samples a prompt or greedy answers."""
    reports = [read_json(folder / EVALUATION_FILE) for folder in folders if (folder / EVALUATION_FILE).exists()]
    contestants = {row["name"]: row for report in reports for row in report["contestants"]}
    differences = {row["name"]: row for report in reports for row in report["differences"]}
    ks = sorted({k for report in reports for k in report["k"]})
    if ks or any("greedy" in row["sets"][ALL] for row in contestants.values()):
        show({"k": ks, "contestants": list(contestants.values()), "differences": list(differences.values())})


def _paired(pairs: Pairs) -> dict[str, Any]:
    return {
        "n_problems": len(pairs.names),
        "only_in_one": pairs.only_first + pairs.only_second,
        "only_in_first": pairs.only_first,
        "other_reference": pairs.refused,
        "paired_by": pairs.by,
    }


def _usual_k(contestants: Sequence[Contestant]) -> list[int]:
    """As many samples as each problem of each contestant has; none where that is 1, or there are no samples."""
    fewest = min((len(a) for c in contestants for a in c.sampled.values()), default=1)
    return [fewest] if fewest > 1 else []


def _values(contestant: Contestant, ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Each figure by problem; a problem with fewer than k samples has no pass@k and no maj@k."""
    found: dict[str, dict[str, float]] = {"greedy": {p: _right(a) for p, a in contestant.greedy.items()}}
    found["avg"] = {p: sum(map(_right, answers)) / len(answers) for p, answers in contestant.sampled.items()}
    votes = {problem: _votes(answers) for problem, answers in contestant.sampled.items()} if ks else {}
    for k in ks:
        enough = {p: answers for p, answers in contestant.sampled.items() if len(answers) >= k}
        too_many = next((p for p, answers in enough.items() if len(answers) > MOST_SAMPLES), None)
        if too_many is not None:
            raise UserError(
                f"{contestant.source}: the problem {too_many[:60]!r} has {len(enough[too_many])} samples; at most "
                f"{MOST_SAMPLES} can be counted"
            )
        found[f"pass@{k}"] = {p: pass_at_k(len(a), int(sum(map(_right, a))), k) for p, a in enough.items()}
        found[f"maj@{k}"] = {p: majority_at_k(*votes[p], k) for p in enough}
    return {figure: columns for figure, columns in found.items() if columns}


def _votes(answers: Sequence[Answer]) -> tuple[list[int], list[float], int]:
    """Votes and rightness of each answer, and the number of samples that have none."""
    classes = answer_classes([answer.text for answer in answers], _same)
    right = Counter(answer.text for answer in answers if answer.mark == "right")
    return (
        [found.votes for found in classes],
        [sum(right[text] for text in found.texts) / found.votes for found in classes],
        sum(answer.text is None for answer in answers),
    )


@lru_cache(maxsize=200_000)
def _same(one: str, other: str) -> bool:
    from tasks.mathematics.second_checker import second_opinion

    return second_opinion(one, other).equal is True


def _right(answer: Answer) -> float:
    return float(answer.mark == "right")


def _counts(contestant: Contestant, among: set[str] | None) -> dict[str, Any]:
    sampled = {p: a for p, a in contestant.sampled.items() if among is None or p in among}
    greedy = {p: a for p, a in contestant.greedy.items() if among is None or p in among}
    sizes = [len(answers) for answers in sampled.values()]

    def marks(answers: Sequence[Answer]) -> dict[str, int]:
        counted = Counter(answer.mark for answer in answers)
        return {mark: counted[mark] for mark in MARKS}

    return {
        "n_problems": len(sampled.keys() | greedy.keys()),
        "n_samples": sum(sizes),
        "n_samples_a_problem": [min(sizes), max(sizes)] if sizes else None,
        "marks": marks([answer for answers in sampled.values() for answer in answers]),
        "greedy_marks": marks(list(greedy.values())) if greedy else None,
    }


def _estimates(
    columns: Mapping[str, Mapping[str, float]], among: set[str] | None, seed: int, resamples: int, paired: bool = False
) -> dict[str, dict[str, Any]]:
    """Means over problems; single right-or-wrong answers get Wilson's interval, all else the bootstrap's.

    Where all problems have one value, the bootstrap's has no width: `widened_where_all_agree` has the rule. `paired`
    means are of differences, which lie in -1..1.
    """
    found = {}
    for figure, by_problem in columns.items():
        problems = sorted(p for p in by_problem if among is None or p in among)
        values = [by_problem[problem] for problem in problems]
        single = not paired and figure in ("greedy", "avg") and bool(values) and set(values) <= {0.0, 1.0}
        how = "wilson" if single else "bootstrap"
        if single:
            estimate = Estimate(sum(values) / len(values), *wilson(sum(values), len(values)))
        else:
            (estimate,) = cluster_bootstrap([values], problems, keyed_rng(seed, "evaluation"), resamples)
            widened = widened_where_all_agree(estimate, len(values), least=-1.0 if paired else 0.0)
            estimate, how = widened, how if widened == estimate else "all_agree"
        found[figure] = {
            "value": _rounded(estimate.value),
            "lo": _rounded(estimate.lo),
            "hi": _rounded(estimate.hi),
            "n_problems": len(values),
            "interval": how,
        }
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
