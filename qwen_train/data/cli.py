"""`qwen-train data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Example: qwen-train data --corpus texts/ --out data/clean --config data.yaml   (docs/training-data.md)"


def data(
    out: Annotated[
        Path, typer.Option(help="Folder for documents, fates, quarantine and report. Unfinished, it is continued.")
    ],
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            help="Files or folders: jsonl, parquet, text, source code, HTML. Default: text of this Python. Repeatable."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings; default ours.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="At once; default one for each core.")] = None,
) -> None:
    """Make clean training documents of raw ones: filters, duplicates, masking, mixing; with every document's fate."""
    from harness.cli_output import print_table
    from qwen_train.data.config import read_config
    from qwen_train.data.default_corpus import default_corpus
    from qwen_train.data.pipeline import REPORT, run
    from reports.training_data import table, write_page

    whole = run(read_config(config), corpus or default_corpus(), out, processes)
    print_table(*table(whole))
    if whole["unknown_sources"]:
        known = ", ".join(whole["sources"])
        typer.echo(
            f"no document of the source {whole['unknown_sources'][0]!r}, which the settings name; there are {known}"
        )
    if whole["bad"]["lines"]:
        typer.echo(f"{whole['bad']['lines']:,} bad lines: {out / 'quarantine'}; the first: {whole['bad']['named'][0]}")
    typer.echo(f"documents: {out / 'documents'}; report: {write_page(out / REPORT)}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(data)
