"""`qwen-train tokens`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Example: qwen-train tokens --documents data/clean/documents --tokenizer data/tokenizer --out data/tokens"


def tokens(
    documents: Annotated[
        Path,
        typer.Option(help='Files or a folder: rows {"id", "text", "source"} (.jsonl, .jsonl.zst, .parquet, .txt).'),
    ],
    tokenizer: Annotated[Path, typer.Option(help="Folder with qwen.tiktoken or tokenizer.json.")],
    out: Annotated[Path, typer.Option(help="Folder for the token files. Unfinished, it is continued.")],
    seed: Annotated[int, typer.Option(help="Of the order in which documents are merged.")] = 1234,
    validation: Annotated[float, typer.Option(help="Share of the documents held out.")] = 0.005,
    processes: Annotated[int | None, typer.Option(min=1, help="At once; default one for each core.")] = None,
) -> None:
    """Encode documents into memory-mapped token files, one per source, shuffled and merged as the report has it."""
    from harness.cli_output import print_table
    from qwen_train.tokens.write import write_tokens

    files = write_tokens(documents, tokenizer, out, seed=seed, validation=validation, processes=processes)
    sets = sorted(files.manifest["sets"].items())
    print_table(["set", "documents", "tokens"], [[name, f"{s['documents']:,}", f"{s['tokens']:,}"] for name, s in sets])
    bad = files.manifest["bad"]
    if bad["lines"]:
        typer.echo(f"{bad['lines']:,} bad lines were left out; the first: {bad['named'][0]}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(tokens)
