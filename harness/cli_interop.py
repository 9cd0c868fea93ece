"""Commands that hand work to other programs and take theirs: lm-eval, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.records import Run


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
