"""What `harness win-rate` does: two models' answers side by side, a verdict on each pair, shares by category.

Verdicts are a judge model's (a run of win-rate-judge, or win-rate-reward) or people's, by a table that does not tell
whose answer is whose.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.completions import read_completions
from harness.data import Data, read_rows
from harness.records import Estimate, Run, as_csv, write_atomic
from harness.registry import task_class
from harness.statistics import wilson
from qwen_model.checkpoint import find_checkpoint, read_config
from qwen_model.config_json import read_model_config
from tasks.api import TaskError

WIN, TIE, LOSS = VERDICTS = ("win", "tie", "loss")
FIRST, SECOND = "first", "second"
AVERAGE = "Average"
"""All pairs together, named as in the report's Figure 4."""
COLUMNS = ("id", "key", "category", "prompt", "first", "second", "verdict")
"""Of the table for people. `key` stands for the two texts, so that verdicts on other answers are not taken."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one question: the tested model's and the opponent's."""

    id: str
    category: str
    prompt: str
    answer: str
    opponent: str

    @property
    def key(self) -> str:
        return self._digest().hex()[:12]

    @property
    def swapped(self) -> bool:
        """Whether people see the opponent's answer first: a coin thrown by the texts, the same every time."""
        return bool(self._digest()[-1] & 1)

    def _digest(self) -> bytes:
        return hashlib.sha256("\0".join((self.id, self.answer, self.opponent)).encode()).digest()


@dataclass(frozen=True)
class Shares:
    """Wins, ties and losses of one category with 95 % intervals (Wilson)."""

    n: int
    win: Estimate
    tie: Estimate
    loss: Estimate

    @property
    def parts(self) -> tuple[Estimate, Estimate, Estimate]:
        return self.win, self.tie, self.loss


def label(answers: Path) -> str:
    """What a run folder's or a file's answers are called in print."""
    return (answers.name or answers.resolve().name).removesuffix(".jsonl")


def pairs(answers: Path, opponent: Path, data_dir: Path | None) -> list[Pair]:
    """The questions that the tested model answered, with both answers. Raises TaskError, RunError."""
    questions = {sample.id: sample.fields for sample in task_class("win-rate")().samples(Data(data_dir))}
    ours, theirs = read_answers(answers), read_answers(opponent)
    if unknown := [item for item in ours if item not in questions]:
        raise TaskError(
            f"{answers}: id {unknown[0]!r} belongs to no question; give the questions' file (win_rate/prompts.jsonl) "
            "by --data-dir"
        )
    if missing := [item for item in ours if item not in theirs]:
        raise TaskError(f"{opponent}: no answer with id {missing[0]!r}; add it, or leave it out of {answers}")
    return [
        Pair(item, str(fields["category"]), str(fields["prompt"]), ours[item], theirs[item])
        for item, fields in questions.items()
        if item in ours
    ]


def read_answers(path: Path) -> dict[str, str]:
    """Texts by id, of a jsonl file with `id` and `text` or of a run folder of the task win-rate."""
    if path.is_dir():
        run = Run(path)
        if "win-rate" not in run.spec["tasks"]:
            raise TaskError(f"{path}: a run of {', '.join(run.spec['tasks'])}; give one of the task win-rate")
        found = {record.id: record.response.strip() for record in run.records("win-rate")}
        if not found:
            raise TaskError(f"{path}: holds no answers yet; run the same command again to continue it")
        return found
    found = {}
    for number, id_, text in read_completions(path).lines:
        if id_ in found:
            raise TaskError(f"{path}:{number}: id {id_!r} is there twice; leave one out")
        found[id_] = text
    return found


def write_pairs(folder: Path, found: Sequence[Pair]) -> None:
    """win_rate/pairs.jsonl in a folder: what the judging tasks read."""
    path = folder / "win_rate" / "pairs.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in found))


def judging_task(judge: str) -> str:
    """The task by which such a model judges: by its rewards if it has a reward head, else by what it writes."""
    checkpoint = find_checkpoint(judge)
    config = read_model_config(read_config(checkpoint.folder), str(checkpoint.folder / "config.json"))
    return "win-rate-reward" if config.scalar_head else "win-rate-judge"


def judged(run: Run) -> dict[str, str]:
    """The judge model's verdicts by id, without pairs on which none could be read."""
    (task,) = run.spec["tasks"]
    return {record.id: record.answer for record in run.records(task) if record.answer is not None}


def export_for_people(path: Path, found: Sequence[Pair]) -> None:
    """A table in which people write `first`, `second` or `tie` into the last column."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for pair in found:
        texts = (pair.opponent, pair.answer) if pair.swapped else (pair.answer, pair.opponent)
        writer.writerow([pair.id, pair.key, *map(_shown, (pair.category, pair.prompt, *texts)), ""])
    path.write_text(buffer.getvalue(), encoding="utf-8-sig", newline="")  # the mark makes spreadsheets read UTF-8


def _shown(text: str) -> str:
    """A text that no spreadsheet takes for a formula: models wrote it."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def people(paths: Sequence[Path], found: Sequence[Pair]) -> tuple[dict[str, str], int]:
    """(Verdicts by id, by the most votes and a tie where two have as many; number of votes), of filled tables.

    A pair on which nobody wrote a verdict is left out. Raises TaskError that names file, line and remedy.
    """
    by_id = {pair.id: pair for pair in found}
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path in paths:
        if not path.is_file():
            raise TaskError(f"{path}: no such file; give the filled table of --export-for-people")
        for number, row in enumerate(read_rows(str(path), path.read_bytes()), start=1):
            if missing := [name for name in ("id", "key", "verdict") if name not in row]:
                raise TaskError(f"{path}: no column {missing[0]!r}; give the table of --export-for-people, filled")
            said = str(row["verdict"]).strip().lower()
            if not said:
                continue
            pair = by_id.get(str(row["id"]))
            if pair is None or row["key"] != pair.key:
                raise TaskError(
                    f"{path}: row {number} ({row['id']}) is about other answers; give those it was made from"
                )
            if said not in (FIRST, SECOND, TIE):
                raise TaskError(f"{path}: row {number} has the verdict {said!r}; write first, second or tie")
            better = said if said == TIE else WIN if (said == FIRST) is not pair.swapped else LOSS
            votes[pair.id][better] += 1
    return {item: most(counted) for item, counted in votes.items()}, sum(map(Counter.total, votes.values()))


def most(votes: Counter[str]) -> str:
    """The verdict with the most votes; a tie where several have as many."""
    highest = max(votes.values())
    leaders = [verdict for verdict in VERDICTS if votes[verdict] == highest]
    return leaders[0] if len(leaders) == 1 else TIE


def shares(found: Sequence[Pair], verdicts: Mapping[str, str]) -> dict[str, Shares]:
    """All pairs with a verdict, then each category in the order of the questions. Raises TaskError if there is none."""
    by_category: dict[str, list[str]] = {AVERAGE: []}
    for pair in found:
        if pair.id in verdicts:
            by_category[AVERAGE].append(verdicts[pair.id])
            by_category.setdefault(pair.category, []).append(verdicts[pair.id])
    if not by_category[AVERAGE]:
        raise TaskError("win-rate: no pair has a verdict; take a judge that ends with `Verdict: 1`, `2` or `tie`")
    return {
        category: Shares(len(said), *(wilson(said.count(verdict), len(said)) for verdict in VERDICTS))
        for category, said in by_category.items()
    }


def write(folder: Path, facts: Mapping[str, Any], found: Sequence[Pair], verdicts: Mapping[str, str]) -> None:
    """win_rate.json (facts and shares) and verdicts.csv (one line per pair) in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    by_category = {name: asdict(entry) for name, entry in shares(found, verdicts).items()}
    text = json.dumps({**facts, "categories": by_category}, ensure_ascii=False, indent=1)
    write_atomic(folder / "win_rate.json", text + "\n")
    said = [{"id": pair.id, "category": pair.category, "verdict": verdicts.get(pair.id, "")} for pair in found]
    write_atomic(folder / "verdicts.csv", as_csv(said))


def rows(by_category: Mapping[str, Shares]) -> Iterable[list[str]]:
    """Lines for a terminal: category, n, and each share with its interval in per cent."""
    for category, entry in by_category.items():
        yield [
            category,
            str(entry.n),
            *(f"{100 * part.value:.1f} ({100 * part.low:.1f} – {100 * part.high:.1f})" for part in entry.parts),
        ]
