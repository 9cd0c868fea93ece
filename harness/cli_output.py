"""Tables and reports on the terminal."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.records import Run


def any_encoding() -> None:
    """What a terminal's or a pipe's encoding lacks is printed as ?, and ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def os_error_line(error: OSError) -> str:
    """What the system refused, in a line that says what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
    remedy = "check space and permissions" if full or error.filename is None else "give another path"
    return f"{error.filename or 'input/output'}: {error.strerror or error}; {remedy}"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, whole: int = 1) -> None:
    """Print a table whose first `whole` columns are never broken into lines."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=place < whole, min_width=max(map(len, column.split())))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: no markup is read in names and paths
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def print_report(finished: Run, *, fresh: bool = False) -> None:
    """Write the run's report files where they are missing or older than its results, and print its table."""
    import typer

    from reports.page import write_report
    from reports.render import summary_table

    results, page = finished.path / "results.json", finished.path / "report.html"
    if fresh or not page.is_file() or page.stat().st_mtime < results.stat().st_mtime:
        write_report(finished)
    summary = summary_table(finished)
    lines = summary.cells()
    # the report files have the whole table
    wide = {"The report's column", "Best other up to 14B"}
    wide |= {
        name
        for i, name in enumerate(summary.header)
        if name in ("Not extracted", "Timeouts %") and all(cells[i] in ("0", "0.0", "") for cells in lines)
    }
    shown = [i for i, name in enumerate(summary.header) if name not in wide]
    print_table([summary.header[i] for i in shown], [[cells[i] for i in shown] for cells in lines], whole=5)
    for number, note in enumerate(summary.footnotes, start=1):
        typer.echo(f"{number}. {note}")
    typer.echo(f"report: {page}")
