"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence


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
