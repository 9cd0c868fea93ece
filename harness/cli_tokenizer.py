"""The report on tokenizers, for `harness tokenizer-report` and `qwen-train tokenizer report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from harness.cli_output import print_table


def compare(texts: Path | None, tokenizers: Sequence[str], baseline: str, out: Path) -> None:
    """Measure, write tables and plot to `out`, and print."""
    from harness import tokenizer_report as measuring
    from reports.tokenizer_plot import write_plots

    read, codecs = measuring.texts(texts), measuring.codecs(tokenizers)
    rows = measuring.measure(read, codecs, baseline)
    measuring.write(out, read, codecs, baseline, rows)
    ratios = {codec.name: [row.ratio for row in rows if row.tokenizer == codec.name] for codec in codecs}
    plots = write_plots([text.label for text in read], ratios, baseline, out)
    for columns, lines in measuring.tables(rows):
        print_table(columns, lines, whole=len(columns))
    for note in measuring.notes(read, codecs, baseline, rows):
        typer.echo(note)
    typer.echo(f"plot: {plots[0]}")
