"""`qwen-train tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Corpus = Annotated[
    list[Path], typer.Option(help="Files or folders of texts, such as documents/ of `data`. Repeatable.")
]
Out = Annotated[Path, typer.Option(help="Folder for qwen.tiktoken and tokenizer_config.json.")]
Size = Annotated[int, typer.Option(help="Ids in all, the 208 control tokens included.")]

tokenizer = typer.Typer(no_args_is_help=True, help="Train, expand and measure byte-level BPE vocabularies.")


@tokenizer.command(
    epilog="Example: qwen-train tokenizer train --corpus data/clean/documents --vocab-size 8192 --out tok"
)
def train(corpus: Corpus, out: Out, vocab_size: Size = 8192) -> None:
    """Learn a vocabulary from texts, with Qwen's split pattern: no token crosses words, every digit is one."""
    from qwen_train.tokenizer import train as training
    from qwen_train.tokenizer.vocabulary import texts, write_vocabulary

    tokens = training.train(texts(corpus), training.ranks_of(vocab_size, "--vocab-size"))
    typer.echo(f"{vocab_size:,} ids ({len(tokens):,} of bytes): {write_vocabulary(out, tokens)}")


@tokenizer.command(
    epilog="Example: qwen-train tokenizer expand --base cl100k_base.tiktoken --corpus zh/ --vocab-size 120000 --out tok"
)
def expand(
    corpus: Corpus,
    out: Out,
    vocab_size: Size,
    base: Annotated[Path | None, typer.Option(help="A .tiktoken file; default the first Qwen's.")] = None,
) -> None:
    """Append tokens that texts call for to an existing vocabulary, as the report made its own from cl100k_base.

    Tokens of several digits are left out; all others keep their order.
    """
    from qwen_model.catalogue import obtain_vocabulary
    from qwen_train.tokenizer import train as training
    from qwen_train.tokenizer.vocabulary import read_tiktoken, texts, write_vocabulary

    read = read_tiktoken(base or obtain_vocabulary())
    made = training.expand(read, texts(corpus), training.ranks_of(vocab_size, "--vocab-size"))
    path = write_vocabulary(out, made.tokens)
    new = len(made.tokens) - made.kept
    typer.echo(f"{made.kept:,} tokens kept, {made.dropped:,} of several digits left out, {new:,} new: {path}")


@tokenizer.command(epilog="Example: qwen-train tokenizer report --tokenizer tok --texts FOLDER --baseline qwen")
def report(
    tokenizer: Annotated[list[str], typer.Option(help="A folder, a .gguf file or a catalogue name. Repeatable.")],
    texts: Annotated[
        Path | None,
        typer.Option(help="Folder with en.txt, zh.jsonl (`text` per line), ...; default a paragraph in 18 languages."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="The tokenizer whose tokens count as 1.")] = "cl100k-like",
    out: Annotated[Path, typer.Option(help="Folder for tokenizers.csv, .json, .png and .svg.")] = Path(
        "tokenizer-report"
    ),
) -> None:
    """Compare how many tokens a vocabulary needs by language with the first Qwen's and a cl100k-like one."""
    from harness.cli_tokenizer import compare

    compare(texts, tokenizer, baseline, out)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(tokenizer, name="tokenizer")
