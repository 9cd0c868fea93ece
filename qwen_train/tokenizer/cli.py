"""`qwen-train tokenizer`."""

from __future__ import annotations

import typer

tokenizer = typer.Typer(no_args_is_help=True, help="Train, expand and measure byte-level BPE vocabularies.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(tokenizer, name="tokenizer")
