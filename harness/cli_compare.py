"""Commands about finished runs and about test items: contamination, compare, export, import."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from harness.cli_output import print_table
from tasks.api import TaskError


def register(app: typer.Typer) -> None:
    """Add the commands to the `harness` command."""
    app.command(
        epilog="Example: harness contamination --task gsm8k,mmlu --corpus FOLDER --fields question --out overlap"
    )(contamination)


def contamination(
    task: Annotated[str, typer.Option(help="Tasks, separated by commas; `harness tasks` lists them.")],
    corpus: Annotated[
        Path, typer.Option(help="Training texts: a file, or a folder of .jsonl, .txt (also .gz, .zst) or .parquet.")
    ],
    data_dir: Annotated[Path | None, typer.Option(help="Folder with data sets, asked first (docs/data.md).")] = None,
    n: Annotated[int, typer.Option(help="Words in a row that count as an overlap.")] = 13,
    share: Annotated[float, typer.Option(help="From this share of its n-grams on an item is contaminated.")] = 0.8,
    field: Annotated[str, typer.Option(help="The field or column of the corpus that holds the text.")] = "text",
    fields: Annotated[
        str | None, typer.Option(help="Fields of the items to look for, by commas (`gold` too); default all text.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="Processes that read; default one per core.", min=1)] = None,
    out: Annotated[Path, typer.Option(help="Folder for items.csv, items.jsonl and contamination.html.")] = Path(
        "contamination"
    ),
) -> None:
    """Find test items in a training corpus: 13 words in a row that both have.

    Case and punctuation do not count, and a Chinese character is a word. Printed are counts by task; the page and the
    files name every item, the share of its n-grams that were found, where, and the text.
    """
    import json

    from harness import overlap
    from harness.contamination import SHORTEST
    from reports.contamination import table, write_page

    if n < SHORTEST:
        raise TaskError(f"--n: {n} words in a row are found anywhere; give {SHORTEST} or more")
    if not 0 < share <= 1:
        raise TaskError(f"--share: {share} is not above 0 and at most 1")
    tasks = _names(task, "--task")
    wanted = _names(fields, "--fields") if fields is not None else []
    items = overlap.items(tasks, data_dir, wanted)
    begin = time.monotonic()
    found, read = overlap.search(items, corpus, name=field, n=n, share=share, processes=processes)
    seconds = time.monotonic() - begin
    overlap.write(out, found, read, {"path": str(corpus), "n": n, "share": share, "fields": wanted})
    page = write_page(out)
    header, rows = table(json.loads((out / "contamination.json").read_text(encoding="utf-8")))
    print_table(header, rows, whole=len(header))
    typer.echo(
        f"{read.documents:,} documents, {read.bytes / 1e6:,.1f} MB in {read.files} files, {read.bad:,} lines not read"
    )
    for line in read.named[:5]:
        typer.echo(f"not read: {line}", err=True)
    typer.echo(f"{seconds:.1f} s, {read.bytes / 1e6 / seconds:.1f} MB/s", err=True)
    typer.echo(f"report: {page}")


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise TaskError(f"{option}: names nothing")
    if len(set(names)) < len(names):
        raise TaskError(f"{option}: {next(name for name in names if names.count(name) > 1)} is named twice")
    return names
