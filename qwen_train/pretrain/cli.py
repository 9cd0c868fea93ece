"""`qwen-train pretrain` and `qwen-train run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[str, typer.Argument(help="A .yaml file, or the name of one of ours: nano, 1.8b, 7b, 14b ...")]
Start = Annotated[Path | None, typer.Option(help="Go on from the weights of this checkpoint folder.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]


def pretrain(
    recipe: RecipeName,
    tokens: Annotated[Path, typer.Option(help="Folder that `qwen-train tokens` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, logs and the model. Unfinished, it is continued.")],
    start: Start = None,
    device: Device = "auto",
) -> None:
    """Train a base model from token files, or go on from one (`--start`); the same command resumes exactly.

    On several GPUs: torchrun --nproc-per-node 8 -m qwen_train pretrain 7b --tokens ... --out ...
    """
    from qwen_train.parallel import join_world
    from qwen_train.pretrain.stage import pretrain as train
    from qwen_train.recipe import read_recipe
    from qwen_train.tokens.store import open_tokens

    read, files = read_recipe(recipe), open_tokens(tokens)
    with join_world(device) as world:
        model = train(read, files, out, world, start)
        if world.first:
            _tell(model, out)


def run(
    recipe: RecipeName,
    corpus: Annotated[
        list[Path] | None, typer.Option(help="Raw text, as `qwen-train data` takes it. Default: text of this Python.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default train/RECIPE. It is continued.")] = None,
    start: Start = None,
    device: Device = "auto",
) -> None:
    """Raw text to a base model: documents, tokenizer, token files, training, export, a page with curves."""
    from qwen_train.data.default_corpus import default_corpus
    from qwen_train.parallel import join_world
    from qwen_train.pretrain.pipeline import HELD_OUT, Places
    from qwen_train.pretrain.pipeline import run as run_stages
    from qwen_train.recipe import read_recipe
    from qwen_train.recipe_file import stem
    from reports.training_data import write_page

    read = read_recipe(recipe)
    folder = out or Path("train") / stem(recipe)
    with join_world(device) as world:
        texts = corpus or default_corpus()
        model = run_stages(read, texts, folder, world, lambda text: typer.echo(text, err=True), start)
        if world.first:
            places = Places(folder)
            typer.echo(f"data report: {write_page(places.data / 'report.json')}")
            _tell(model, places.training)
            if (held_out := places.tokens / HELD_OUT).is_file():
                typer.echo(
                    f"next: harness run --task long-ppl --model {model} --documents {held_out}"
                    f" --lengths {read.training.context}"
                )


def _tell(model: Path, folder: Path) -> None:
    from reports.training import write_page

    typer.echo(f"model: {model}\nreport: {write_page(folder)}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: qwen-train pretrain 1.8b --tokens data/tokens --out train/1.8b")(pretrain)
    app.command(epilog="Example: qwen-train run nano --out train/nano   (docs/train.md)")(run)
