"""From the files that commands wrote to effects: pairs of documents, of samples, of answers, of sizes.

A folder is read only when its step is done, so what is missing here is an error of the step's, not of the reader's.
"""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.claims.experiment import Cells, Compression, Criterion, Growth, Order, Runs, Same, Wins, parted
from harness.claims.findings import Effect
from harness.comparison import Difference, Pair, paired
from harness.pairing import value_of
from harness.records import LEAST_SPREAD, Run, RunError, SampleRecord
from harness.statistics import percentiles

BOOTSTRAPS, SEED = 2_000, 20230928
VERDICTS = {"win": 1.0, "tie": 0.0, "loss": -1.0}


def effect(criterion: Criterion, folders: Mapping[str, Path], trained: int | None) -> Effect:
    """The effect of one training, or of one size, from the folders of its steps. Raises RunError."""
    if isinstance(criterion, Cells):
        assert trained is not None, "the plan asks for it"
        return _cells(criterion, folders[criterion.sweep], trained)
    if isinstance(criterion, Runs):
        return _runs(Run(folders[criterion.first]), Run(folders[criterion.second]), criterion.task)
    if isinstance(criterion, Same):
        return _same(Run(folders[criterion.first]), Run(folders[criterion.second]), criterion.task)
    if isinstance(criterion, Wins):
        than = None if criterion.than is None else folders[criterion.than]
        return _wins(folders[criterion.folder], than, criterion.category)
    raise TypeError(f"{criterion} is of all sizes together")


def across(criterion: Criterion, folders: Sequence[Mapping[str, Path]]) -> Effect:
    """The effect of all sizes together, from the folders of each size's steps. Raises RunError."""
    if isinstance(criterion, Compression):
        return _compression(criterion, folders[0][criterion.folder])
    assert isinstance(criterion, Order | Growth)
    runs = [Run(its[criterion.run]) for its in folders]
    sized = sorted(((_parameters(run), run) for run in runs), key=lambda pair: pair[0])
    if isinstance(criterion, Growth):
        (_, first), (_, second) = sized[-2:]
        return _of(paired(_pairs(first, second, criterion.task, criterion.metric), "mean"))
    return _order([size for size, _ in sized], [_values(run, criterion.task, criterion.metric) for _, run in sized])


def _of(difference: Difference) -> Effect:
    if difference.n < LEAST_SPREAD:
        raise RunError(f"{difference.n} samples or documents give no interval; {LEAST_SPREAD} or more do")
    return Effect(value=difference.value, low=difference.low, high=difference.high, n=difference.n)


def _cells(criterion: Cells, folder: Path, trained: int) -> Effect:
    rows = _rows(folder / "documents.csv", ("cell", "length", "document", "nll"))
    losses = []
    for place in (criterion.base, criterion.other):
        cell, times = parted(place.replace("{T}", str(trained)))
        its = [row for row in rows if row["cell"] == cell and int(row["length"]) == times * trained]
        if not its:
            raise RunError(f"{folder / 'documents.csv'}: no cell {cell} at {times * trained:,} tokens")
        losses.append(_by_document(its))
    base, other = losses
    common = [key for key in base if key in other]
    if not common:
        raise RunError(f"{folder / 'documents.csv'}: {criterion.base} and {criterion.other} have no document in common")
    pairs = [Pair(str(key), None, base[key], other[key]) for key in common]
    return _of(paired(pairs, "mean"))


def _by_document(rows: Iterable[Mapping[str, str]]) -> dict[str, float]:
    """The mean loss of each document: what is asked of one document several times is not so many documents."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        found[row["document"]].append(float(row["nll"]))
    return {document: math.fsum(losses) / len(losses) for document, losses in found.items()}


def _runs(first: Run, second: Run, task: str) -> Effect:
    tasks = first.spec["tasks"]
    if task not in tasks:
        raise RunError(f"{first.path}: no task called {task}; it has {', '.join(tasks)}")
    kind = tasks[task].get("measures", {}).get(tasks[task]["metric"], "share")
    pairs = _pairs(first, second, task, tasks[task]["metric"])
    loss = kind == "perplexity"
    found = _of(paired(pairs, "mean" if loss else kind, tasks[task].get("mean", "items")))
    return replace(found, unit="nats a token" if loss else "share of samples")


def _values(run: Run, task: str, metric: str) -> dict[str, tuple[str | None, float]]:
    """(Group, value) of each sample that has one."""
    found = {
        record.id: (record.group, value)
        for record in run.records(task)
        if (value := value_of(record, metric)) is not None
    }
    if not found:
        raise RunError(f"{run.path}: no sample of {task} has {metric}")
    return found


def _pairs(first: Run, second: Run, task: str, metric: str) -> list[Pair]:
    one, other = _values(first, task, metric), _values(second, task, metric)
    pairs = [Pair(id_, one[id_][0], one[id_][1], other[id_][1]) for id_ in one if id_ in other]
    if not pairs:
        raise RunError(f"{first.path}, {second.path}: no sample of {task} in common")
    return pairs


def _same(first: Run, second: Run, task: str) -> Effect:
    others = {record.id: record for record in second.records(task)}
    largest, n = 0.0, 0
    for record in first.records(task):
        if record.id in others:
            largest, n = max(largest, _apart(record, others[record.id])), n + 1
    if not n:
        raise RunError(f"{first.path}, {second.path}: no sample of {task} in common")
    return Effect(value=largest, low=largest, high=largest, n=n)


def _apart(one: SampleRecord, other: SampleRecord) -> float:
    """The largest difference between two verdicts' numbers; 1 or more where they answer differently."""
    apart = 0.0 if one.answer == other.answer else 1.0
    for ours, theirs in ((one.choice_logprobs, other.choice_logprobs), (one.scores, other.scores)):
        numbers, others = ours or {}, theirs or {}
        if set(numbers) != set(others):
            return 1.0
        apart = max([apart, *(abs(numbers[key] - others[key]) for key in numbers)])
    return apart


def _wins(folder: Path, than: Path | None, category: str | None) -> Effect:
    ours = _said(folder, category)
    theirs = dict.fromkeys(ours, 0.0) if than is None else _said(than, category)
    pairs = [Pair(id_, None, theirs[id_], ours[id_]) for id_ in ours if id_ in theirs]
    if not pairs:
        raise RunError(f"{folder}, {than}: no question in common")
    return _of(paired(pairs, "mean"))


def _said(folder: Path, category: str | None) -> dict[str, float]:
    """1 for a win, -1 for a loss, by question."""
    rows = _rows(folder / "verdicts.csv", ("id", "category", "verdict"))
    said = {
        row["id"]: VERDICTS[row["verdict"]]
        for row in rows
        if row["verdict"] in VERDICTS and category in (None, row["category"])
    }
    if not said:
        raise RunError(f"{folder / 'verdicts.csv'}: no verdict{'' if category is None else f' on {category}'}")
    return said


def _parameters(run: Run) -> int:
    parameters = run.environment.get("parameters")
    if not isinstance(parameters, int):
        raise RunError(f"{run.path / 'environment.json'}: no `parameters` (number of weights); run it again")
    return parameters


def _order(sizes: Sequence[int], values: Sequence[Mapping[str, tuple[str | None, float]]]) -> Effect:
    """Kendall's tau of the sizes' means over common samples, with a bootstrap over the samples."""
    import numpy as np

    common = sorted(set.intersection(*(set(its) for its in values)))
    if not common:
        raise RunError("the sizes' runs have no sample in common")
    table = np.array([[its[id_][1] for id_ in common] for its in values])
    draws = np.random.default_rng(SEED).integers(len(common), size=(BOOTSTRAPS, len(common)))
    taus = [kendall(sizes, table[:, draw].sum(axis=1).tolist()) for draw in draws]
    value = kendall(sizes, table.sum(axis=1).tolist())
    low, high = percentiles(value, taus)
    return Effect(value=value, low=low, high=high, n=len(common))


def kendall(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau a: (concordant - discordant) / all pairs; ties count for neither."""
    pairs = [(i, j) for i in range(len(one)) for j in range(i)]
    signs = Counter(_sign(one[i] - one[j]) * _sign(other[i] - other[j]) for i, j in pairs)
    return (signs[1] - signs[-1]) / len(pairs)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _compression(criterion: Compression, folder: Path) -> Effect:
    import numpy as np

    rows = _rows(folder / "documents.csv", ("text", "document", "tokenizer", "tokens"))
    counts = []
    for name in (criterion.against, criterion.tokenizer):
        its = {
            row["document"]: int(row["tokens"])
            for row in rows
            if row["text"] == criterion.text and row["tokenizer"] == name
        }
        if not its:
            raise RunError(f"{folder / 'documents.csv'}: no tokenizer {name} on a text {criterion.text}")
        counts.append([its[document] for document in sorted(its)])
    tokens = np.array(counts, dtype=float)
    n = tokens.shape[1]
    if n == 1:
        raise RunError(f"{folder / 'documents.csv'}: {criterion.text} is one document, which gives no interval")
    value = math.log(tokens[1].sum() / tokens[0].sum())
    draws = np.random.default_rng(SEED).multinomial(n, [1 / n] * n, size=BOOTSTRAPS) @ tokens.T
    low, high = percentiles(value, np.log(draws[:, 1] / draws[:, 0]).tolist())
    return Effect(value=value, low=low, high=high, n=n)


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; run the step again") from error
    if not rows or (missing := [column for column in columns if column not in rows[0]]):
        raise RunError(f"{path}: {f'no column {missing[0]}' if rows else 'no row'}; run the step again")
    return rows
