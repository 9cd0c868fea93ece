"""The run folder: what a run is (`spec.json`), every judged sample (`samples.sqlite`), its numbers (`results.json`).

A sample's row is committed when its verdict is known, so `kill -9` loses at most the samples in flight. A folder whose
spec differs refuses to be continued and names the field. Reports read runs through `Run` only.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

FORMAT = 2
"""Version of the folder's layout; a folder of another version is refused, never half read."""

COUNTED = "counted.json"
"""In the folder of a run whose tasks counted tokens: how many, by the texts' digests."""

COLUMNS = {
    "task": "TEXT NOT NULL",
    "id": "TEXT NOT NULL",
    "position": "INTEGER NOT NULL",
    "group": "TEXT",
    "prompt": "TEXT NOT NULL",
    "response": "TEXT NOT NULL",
    "answer": "TEXT",
    "gold": "TEXT NOT NULL",
    "correct": "INTEGER NOT NULL",
    "outcome": "TEXT NOT NULL",
    "finish": "TEXT",
    "choice_logprobs": "TEXT",
    "token_logprobs": "TEXT",
    "scores": "TEXT NOT NULL",
    "asked": "TEXT NOT NULL",
    "detail": "TEXT NOT NULL",
    "seconds": "REAL NOT NULL",
}
JSON_COLUMNS = ("choice_logprobs", "token_logprobs", "scores", "asked", "detail")
MICRO = " (micro)"
"""Ends the name of the mean over all items, where a task's metric is the mean over groups."""


class RunError(Exception):
    """The user can mend this: a folder that is no run, of another spec, or in use. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One judged sample. `prompt` and `response` are the texts as the model saw and wrote them (last turn)."""

    task: str
    id: str
    position: int
    """Index in the data set's order, which is also the order of reports."""
    group: str | None
    prompt: str
    response: str
    answer: str | None
    gold: str
    correct: bool
    outcome: str
    finish: str | None
    """Why generation ended: `stop`, `eos`, `length`; None where nothing was generated."""
    choice_logprobs: Mapping[str, float] | None
    """Nats, by letter, where choices were scored."""
    token_logprobs: tuple[float, ...] | None
    """Nats, one per generated token."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """The task's further measures of this sample, by name."""
    asked: tuple[Mapping[str, Any], ...] = ()
    """Every request in the order of asking, with what the model gave: {"kind": "generate", "request": digest, "text",
    "finish", "logprobs"} or {"kind": "score", "request", "scores"} (nats). `harness score` judges from these."""
    detail: Mapping[str, Any]
    seconds: float
    """Wall-clock seconds from the first request to the verdict, waiting in the batch included."""


LEAST_SPREAD = 6
"""Values that a bootstrap's interval needs: of fewer, all on one side would not be rare by chance (2 in 32)."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, low <= value <= high, from `n` items. Shares lie in 0..1."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The numbers of one task: metrics by name (the chief one first), counts of outcomes, and an estimate of the chief
    metric per set of groups and per group, where there are any."""

    n: int
    metrics: Mapping[str, Estimate]
    outcomes: Mapping[str, int]
    sets: Mapping[str, Estimate]
    groups: Mapping[str, Estimate]


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def spec_hash(spec: Mapping[str, Any]) -> str:
    """Sixteen hex digits of the SHA-256 of the canonical spec."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:16]


def folder_name(*parts: str) -> str:
    """The parts of a default folder's name, joined: a task's or a served model's name may have a / in it."""
    return "-".join(parts).replace("/", "--")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; what is written takes the place of `path`, or of the file that it links to, in one move: a
    reader, or a crash, sees the old content or the new, never a part. What fails leaves nothing behind. Raises RunError
    for a device, a pipe, a folder.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise RunError(f"{path}: is there, and is no file that could be replaced; name another")
    partial = target.with_name(target.name + ".partial")
    with ExitStack() as undo:
        undo.callback(partial.unlink, missing_ok=True)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
        undo.pop_all()


def write_atomic(path: Path, text: str) -> None:
    """Write a text file by `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def keep_counted(folder: Path, counted: Mapping[str, int]) -> None:
    """Write what a run's tasks counted, if they did (see `Run.counted`)."""
    if counted:
        write_atomic(folder / COUNTED, json.dumps(counted) + "\n")


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a column for every key, in the order in which they come up."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


class Run:
    """A run folder, open for reading."""

    def __init__(self, path: str | Path) -> None:
        """Raises RunError if the folder is no run or of another format."""
        self.path = Path(path)
        spec_file = self.path / "spec.json"
        if not spec_file.is_file():
            raise RunError(f"{self.path}: not a run folder (no spec.json); name a folder that `harness run` wrote")
        try:
            self.spec: dict[str, Any] = json.loads(spec_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{spec_file}: not JSON ({error}); delete the folder and run again") from error
        if not isinstance(self.spec, dict) or "format" not in self.spec:
            raise RunError(f"{self.path}: not a run folder (its spec.json is something else's); name another")
        if self.spec["format"] != FORMAT:
            raise RunError(
                f"{spec_file}: format {self.spec['format']}, this version reads {FORMAT}; use a new --out folder"
            )

    @property
    def results(self) -> dict[str, TaskResult]:
        """The numbers by task, of `results.json`. Raises RunError while the run is unfinished."""
        try:
            return {
                name: TaskResult(
                    n=entry["n"],
                    metrics={metric: Estimate(**estimate) for metric, estimate in entry["metrics"].items()},
                    outcomes=entry["outcomes"],
                    sets={name: Estimate(**estimate) for name, estimate in entry.get("sets", {}).items()},
                    groups={group: Estimate(**estimate) for group, estimate in entry.get("groups", {}).items()},
                )
                for name, entry in self._json("results.json")["tasks"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{self.path / 'results.json'}: no numbers of a run ({error!r}); delete it and run the command again"
            ) from error

    @property
    def environment(self) -> dict[str, Any]:
        """`environment.json`: versions, machine, isolation tier, times: what does not change the numbers."""
        return self._json("environment.json")

    @property
    def counted(self) -> dict[str, int]:
        """Tokens of the texts that the run's tasks counted, by digest (`harness.counting`)."""
        return self._json(COUNTED) if (self.path / COUNTED).is_file() else {}

    def records(self, task: str) -> Iterator[SampleRecord]:
        """The judged samples of a task in the data set's order."""
        file = self.path / "samples.sqlite"
        if not file.exists():
            raise RunError(f"{self.path}: its samples.sqlite is gone; run again with another --out folder")
        try:
            with closing(sqlite3.connect(file.absolute().as_uri() + "?mode=ro", uri=True)) as database:
                names = ", ".join(f'"{name}"' for name in COLUMNS)
                query = f"SELECT {names} FROM samples WHERE task = ? ORDER BY position"
                for values in database.execute(query, (task,)):
                    row = dict(zip(COLUMNS, values, strict=True))
                    for name in JSON_COLUMNS:
                        row[name] = None if row[name] is None else json.loads(row[name])
                    if row["token_logprobs"] is not None:
                        row["token_logprobs"] = tuple(row["token_logprobs"])
                    row["asked"] = tuple(row["asked"])
                    yield SampleRecord(**{**row, "correct": bool(row["correct"])})
        except sqlite3.OperationalError as error:
            raise RunError(f"{file}: cannot be read ({error}); see that it is whole, and yours to read") from error
        except sqlite3.DatabaseError as error:
            raise RunError(f"{file}: {error}; delete the folder and run again") from error

    def samples(self, task: str) -> pandas.DataFrame:
        """One row per judged sample, as a pandas frame with the fields of SampleRecord. Raises RunError for a task that
        the run has not."""
        import pandas

        if task not in self.spec["tasks"]:
            raise RunError(f"{self.path}: no task {task!r}; its tasks are {', '.join(self.spec['tasks'])}")
        return pandas.DataFrame([asdict(record) for record in self.records(task)])

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            raise RunError(
                f"{self.path}: no {name} yet: the run is unfinished; run the same command again to continue it"
            )
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{path}: not JSON ({error}); delete it and run the same command again") from error
        return value


def run_names(runs: Sequence[Run]) -> list[str]:
    """The folders' names, or their paths where two names are the same."""
    names = [run.path.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def difference(old: Any, new: Any, path: str = "") -> str | None:
    """Dotted name and both values of the first field in which two specs differ, or None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            found = difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return None if old == new else f"{path} ({_short(old)} there, {_short(new)} now)"


def _short(value: Any) -> str:
    text = "nothing" if value is None else canonical(value)
    return text if len(text) <= 60 else text[:60] + "..."
