"""Writing a run folder: one process at a time, one transaction per judged sample."""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.records import COLUMNS, COUNTED, JSON_COLUMNS, Run, RunError, SampleRecord, difference, write_atomic


class Store:
    """A run folder open for writing. Use `open_store`."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path, self._database = path, database

    def done(self, task: str) -> set[str]:
        """Ids of the samples that are judged already."""
        return {row[0] for row in self._database.execute("SELECT id FROM samples WHERE task = ?", (task,))}

    def add(self, record: SampleRecord) -> None:
        """Commit one judged sample."""
        row = {name: getattr(record, name) for name in COLUMNS}
        for name in JSON_COLUMNS:
            row[name] = None if row[name] is None else json.dumps(row[name], ensure_ascii=False, allow_nan=False)
        marks = ", ".join("?" for _ in COLUMNS)
        with _database_errors(self.path), self._database:
            self._database.execute(f"INSERT INTO samples VALUES ({marks})", tuple(row.values()))

    def finish(self, results: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write `results.json` and `environment.json`: the run is whole, its samples in one file."""
        self.settle()
        for name, value in (("environment.json", environment), ("results.json", results)):
            write_atomic(self.path / name, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def settle(self) -> None:
        """Leave the samples of a whole run in one file."""
        # a reader of a WAL database leaves files beside it, and cannot read from a folder that it may not write to
        with suppress(sqlite3.OperationalError):  # somebody is reading: the log stays
            self._database.execute("PRAGMA journal_mode=DELETE")


@contextmanager
def locked(path: Path, marks: Collection[str]) -> Iterator[None]:
    """Create the folder and hold it; what is not empty has one of the files `marks`, or it is not ours.

    Raises RunError where it cannot be written, is not ours, or another process holds it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = {file.name for file in path.iterdir()} - {"lock"}
        if held and held.isdisjoint(marks):
            raise RunError(f"{path}: holds other files, such as {min(held)}; give another --out folder")
        lock = (path / "lock").open("w")
    except OSError as error:
        raise RunError(f"{path}: cannot write there ({error.strerror}); give another --out folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{path}: another process is writing this run; wait for it or give another --out") from error
        yield


@contextmanager
def open_store(path: Path, spec: Mapping[str, Any], *, anew: bool = False) -> Iterator[Store]:
    """Create the folder, or continue one of the same spec; with `anew`, begin again what `harness score` wrote there.

    Raises RunError where it cannot be written, is in use by another process, holds another spec (naming the field), or
    would be begun again but holds what a model gave.
    """
    with locked(path, ("spec.json", "samples.sqlite")):
        if anew:
            _clear(path)
        if (path / "spec.json").exists():
            found = difference(Run(path).spec, json.loads(json.dumps(spec)))
            if found:
                raise RunError(f"{path}: holds another run, {found}; give another --out folder")
        with _database_errors(path):
            database = sqlite3.connect(path / "samples.sqlite", check_same_thread=False)  # one at a time all the same
            try:
                database.execute("PRAGMA journal_mode=WAL")
                columns = ", ".join(f'"{name}" {kind}' for name, kind in COLUMNS.items())
                database.execute(f"CREATE TABLE IF NOT EXISTS samples ({columns}, PRIMARY KEY (task, id))")
                database.commit()
                # last, so that a folder with a spec has its table
                write_atomic(path / "spec.json", json.dumps(spec, indent=1, ensure_ascii=False) + "\n")
                yield Store(path, database)
            finally:
                database.close()


def _clear(path: Path) -> None:
    if (path / "spec.json").exists() and "scored" not in Run(path).spec:
        raise RunError(f"{path}: holds a run that `harness score` did not write; give another --out folder")
    # spec.json last: what is left of an interrupted clearing is still known for what it is
    for name in ("report.md", "report.html", "results.json", "environment.json", COUNTED):
        (path / name).unlink(missing_ok=True)
    for file in path.glob("samples.sqlite*"):
        file.unlink()
    (path / "spec.json").unlink(missing_ok=True)


@contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RunError(
            f"{path / 'samples.sqlite'}: {error}; free space or give another --out; judged samples are kept"
        ) from error
    except sqlite3.DatabaseError as error:
        raise RunError(f"{path / 'samples.sqlite'}: {error}; delete the folder and run again") from error
