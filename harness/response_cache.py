"""What models gave, kept across runs in one SQLite file (`--cache DIR`), so that no run asks twice.

A key is the model (fingerprint, backend, dtype, device, settings laid over it), the engine's version, the request, and
the sampling seed where one was drawn with: two models on one cache never mix.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.records import RunError, canonical

LAYOUT = 1
"""A part of every key: a changed layout finds nothing of the old one."""
PATIENCE = 20.0
"""Seconds that another process may hold the file."""


class ResponseCache:
    """Use as a context manager. Several processes may share one."""

    def __init__(self, folder: Path, model: Mapping[str, Any], engine: str) -> None:
        """`model` is the spec's entry of the model. Raises RunError, here and later, where the file is damaged, cannot
        be written, or is held by another process for too long."""
        self._path = folder / "responses.sqlite"
        # a renamed folder is the same model
        told_apart = {name: value for name, value in model.items() if name != "name"}
        self._base = canonical([LAYOUT, told_apart, engine])
        self.hits = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # used by one thread at a time, but not always by this one: see `harness.loop.complete`
            self._database = sqlite3.connect(
                self._path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"--cache: {self._path}: cannot write there ({error}); give another folder") from error
        try:
            self._run("PRAGMA journal_mode=WAL")
            self._run("PRAGMA synchronous=NORMAL")
            self._run("CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")
        except RunError:
            self._database.close()
            raise

    def __enter__(self) -> ResponseCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def get(self, kind: str, request: str, seed: int | None) -> dict[str, Any] | None:
        """What the model gave to this request, if it was asked before."""
        found = self._run("SELECT answer FROM responses WHERE key = ?", self._key(kind, request, seed)).fetchone()
        if found is None:
            return None
        try:
            answer: dict[str, Any] = json.loads(found[0])
        except ValueError as error:
            raise self._damaged(error) from error
        self.hits += 1
        return answer

    def put(self, kind: str, request: str, seed: int | None, answer: Mapping[str, Any]) -> None:
        """Keep an answer."""
        text = json.dumps(answer, ensure_ascii=False, allow_nan=False)
        self._run("INSERT OR IGNORE INTO responses VALUES (?, ?)", self._key(kind, request, seed), text)

    def _key(self, kind: str, request: str, seed: int | None) -> str:
        return hashlib.sha256(canonical([self._base, kind, request, seed]).encode()).hexdigest()

    def _run(self, statement: str, *values: str) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            remedy = "wait for the process that holds it" if "locked" in str(error) else "free space"
            raise RunError(f"--cache: {self._path}: {error}; {remedy}, or give another folder") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> RunError:
        return RunError(f"--cache: {self._path}: damaged ({error}); delete the file")
