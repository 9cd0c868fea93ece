"""A sweep's folder as frames: `cells.csv` (a row per cell and length) and `documents.csv` (losses by document)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import RunError

if TYPE_CHECKING:
    import pandas

LENGTHS = ("length", "documents", "perplexity", "low", "high")
MEASURED = (*LENGTHS, "nll", "seconds", "peak_mb")
"""Columns of `cells.csv` that are numbers of a cell; the others say which cell it is."""


class Sweep:
    """A folder that `harness ablate` wrote."""

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether the folder is a sweep's."""
        return (path / "cells.csv").is_file()

    def __init__(self, path: Path) -> None:
        """Raises RunError if `cells.csv` cannot be read, or is empty."""
        import pandas

        self.path, self.name = path, path.resolve().name
        file = path / "cells.csv"
        try:
            self.cells = pandas.read_csv(file, keep_default_na=False, na_values=[""])
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: cannot be read ({error}); run the same `harness ablate` again") from error
        if self.cells.empty:
            raise RunError(f"{file}: no cell; run the same `harness ablate` again")

    @property
    def has_lengths(self) -> bool:
        """Whether it is of perplexities by length, as Table 3, and not of a task's scores."""
        return set(LENGTHS) <= set(self.cells.columns)

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

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and lines: perplexity by length with its interval, as Table 3, or else all that `cells.csv` has."""
        if not self.has_lengths:
            return tuple(self.cells.columns), [tuple(map(_text, row)) for row in self.cells.itertuples(index=False)]
        lengths = sorted(set(self.cells["length"]))
        lines = []
        for cell, rows in self.by_cell():
            shown = {row["length"]: f"{row['perplexity']:,.2f} [{row['low']:,.2f}, {row['high']:,.2f}]" for row in rows}
            lines.append((cell, *(shown.get(length, "–") for length in lengths)))
        return ("Cell", *(f"{length:,}" for length in lengths)), lines

    def by_cell(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """(Name of a cell, its rows by length), in the file's order."""
        labels = self.labels()
        for label in dict.fromkeys(labels):
            rows = self.cells[labels == label].dropna(subset=list(LENGTHS))  # a cell that failed has no numbers
            yield label, rows.sort_values("length").to_dict("records")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.6g}"
    return str(value)
