"""The `qwen-train` command. Heavy libraries are imported where they are used: help answers at once."""

from __future__ import annotations

import sys

import typer

from harness.cli_output import any_encoding, call, os_error_line
from harness.records import RunError
from qwen_model.config import ModelError
from qwen_model.download import DownloadError
from qwen_train.alignment import cli as alignment_cli
from qwen_train.data import cli as data_cli
from qwen_train.errors import Stopped, TrainError
from qwen_train.pretrain import cli as pretrain_cli
from qwen_train.tokenizer import cli as tokenizer_cli
from qwen_train.tokens import cli as tokens_cli
from tasks.api import TaskError

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train a Qwen from raw text.\n\nExample: qwen-train run nano --out train/nano",
    epilog="Exit codes: 0 done, 2 wrong input or a missing resource (one line says what to do), 130 interrupted, 143"
    " ended by SIGTERM.",
)
data_cli.register(app)
tokenizer_cli.register(app)
tokens_cli.register(app)
pretrain_cli.register(app)
alignment_cli.register(app)


def main() -> None:
    """Entry point: errors of the user's are one line and exit code 2, Ctrl-C is 130, neither shows a traceback."""
    any_encoding()
    try:
        code = call(app)
        if code == INTERRUPTED:
            _say("interrupted; what was finished is kept: the same command goes on")
        sys.exit(code)
    except OSError as error:
        _say(os_error_line(error))
        sys.exit(2)
    except Stopped as stop:
        _say(str(stop))
        sys.exit(stop.code)
    except (TaskError, RunError, ModelError, DownloadError, TrainError) as error:
        _say(" ".join(str(error).split()))
        sys.exit(2)


def _say(message: str) -> None:
    print(f"qwen-train: {message}", file=sys.stderr)
