"""A sweep's folder as frames: `cells.csv` (a row per cell and length) and `documents.csv` (losses by document)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import RunError

if TYPE_CHECKING:
    import pandas

NEEDED = ("length", "documents", "nll", "perplexity", "low", "high")
MEASURED = (*NEEDED, "seconds", "peak_mb")
"""Columns of `cells.csv` that are numbers of a cell; the others say which cell it is."""


class Sweep:
    """A folder that `harness ablate` wrote."""

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether the folder is a sweep's."""
        return (path / "cells.csv").is_file()

    def __init__(self, path: Path) -> None:
        """Raises RunError if `cells.csv` is missing, empty or lacks a column."""
        import pandas

        self.path, self.name = path, path.resolve().name
        file = path / "cells.csv"
        try:
            self.cells = pandas.read_csv(file, keep_default_na=False, na_values=[""])
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: cannot be read ({error}); run the same `harness ablate` again") from error
        missing = [column for column in NEEDED if column not in self.cells.columns]
        if missing or self.cells.empty:
            lack = f"no column {missing[0]}" if missing else "no cell"
            raise RunError(f"{file}: {lack}; run the same `harness ablate` again")

    @property
    def switches(self) -> list[str]:
        """Columns that tell the cells apart: those that are not the same in all rows."""
        which = [column for column in self.cells.columns if column not in MEASURED]
        told = [column for column in which if self.cells[column].nunique(dropna=False) > 1]
        return ["cell"] if "cell" in told else told or which[:1]

    def labels(self) -> pandas.Series:
        """What each row's cell is called."""
        switches = self.switches
        if len(switches) == 1:
            return self.cells[switches[0]].astype(str)
        return self.cells[switches].astype(str).apply(lambda row: ", ".join(f"{k}={v}" for k, v in row.items()), axis=1)

    def by_cell(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """(Name of a cell, its rows by length), in the file's order."""
        labels = self.labels()
        for label in dict.fromkeys(labels):
            yield label, self.cells[labels == label].sort_values("length").to_dict("records")
