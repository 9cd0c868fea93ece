"""Tables and reports on the terminal."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.api import TaskError

if TYPE_CHECKING:
    import typer

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


def call(app: typer.Typer) -> int:
    """Do what was typed and return the exit code. Raises TaskError, one line, for what the parser does not take."""
    import typer

    try:
        return int(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        message = error.format_message().rstrip(".")
        if "\n" in message:  # the help: nothing was typed
            print(message, file=sys.stderr)
            return error.exit_code
        context = getattr(error, "ctx", None)
        command = context.command_path if context else Path(sys.argv[0]).name
        raise TaskError(f"{message}; `{command} --help` lists what it takes") from error


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

    from harness.progress import said_when_slow
    from reports.page import write_report
    from reports.render import summary_table

    results, page = finished.path / "results.json", finished.path / "report.html"
    if fresh or not page.is_file() or page.stat().st_mtime < results.stat().st_mtime:
        samples = sum(result.n for result in finished.results.values())
        with said_when_slow(f"writing the report of {samples:,} samples"):
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
