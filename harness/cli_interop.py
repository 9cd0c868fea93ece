"""Commands that hand work to other programs and take theirs: lm-eval, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.records import Run
from tasks.api import TaskError

FORMATS = ("lm-eval", "parquet", "csv")


def register(app: typer.Typer) -> None:
    """Add the commands to the `harness` command."""
    app.command(
        name="lm-eval",
        options_metavar="[ARGUMENTS OF lm-eval]",
        # all of them are lm-eval's, --help behind a command too
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
        epilog="Examples: harness lm-eval --tasks hellaswag --model_args model=smollm2-135m-instruct --limit 100, "
        "harness lm-eval run --help, harness lm-eval ls tasks",
    )(lm_eval)
    app.command(
        epilog="Examples: harness export runs/mine --format lm-eval --out results, harness export runs/mine "
        "--format parquet --out mine.parquet"
    )(export)
    app.command(name="import", epilog="Example: harness import results/EleutherAI__pythia-160m --out runs/theirs")(
        import_
    )


def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness's own command line with our engine as its model.

    Every argument goes to lm-eval; `harness lm-eval run --help` lists them. --model is ours. --model_args are
    model=NAME-OR-FOLDER (or pretrained=...), backend=native|hf, dtype=float32|bfloat16|float16, device, max_length.
    --batch_size has no effect: batches are sized by tokens.
    """
    if not context.args or context.args in (["--help"], ["-h"]):
        typer.echo(context.get_help())
        return
    from harness.lmeval.command import run

    run(context.args)


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    format: Annotated[str, typer.Option(help="lm-eval (its results and samples files), parquet or csv (a table).")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of lm-eval's files, default RUN/lm-eval; file of a table, default RUN/samples.FORMAT."
        ),
    ] = None,
) -> None:
    """Write a run in a form that other programs read."""
    if format not in FORMATS:
        raise TaskError(f"--format: {format!r} is not one of {', '.join(FORMATS)}")
    opened = Run(run)
    if format == "lm-eval":
        from harness.lmeval.export import export as write_files

        written = write_files(opened, out or run / "lm-eval")
    else:
        from harness.frames import write

        written = out or run / f"samples.{format}"
        if written.is_dir():
            raise TaskError(f"--out {written}: a folder; name a file")
        write(opened, written, format)
    typer.echo(f"written: {written}")


def import_(
    path: Annotated[Path, typer.Argument(help="A folder that lm_eval wrote (--output_path), or its results_*.json.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/MODEL-HASH.")] = None,
) -> None:
    """Make a run folder of lm-eval's output, for `harness report` and `harness compare`.

    lm_eval must have been run with --log_samples. Its tasks are called lm-eval/NAME here, as in `harness run`.
    """
    from harness.lmeval.read import read
    from harness.progress import Bars

    if not path.exists():
        raise TaskError(f"{path}: no such file or folder")
    with Bars() as bars:
        found = read(path, out, bars)
    typer.echo(f"run folder: {found.path}; `harness report {found.path}` shows it")
