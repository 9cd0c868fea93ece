"""`harness lm-eval ...`: lm-evaluation-harness's command line, with our engine in the model's place."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from harness.lmeval.index import check_name
from tasks.api import TaskError

RUN = "run"
COMMANDS = (RUN, "ls", "validate")
"""lm-eval's own; it takes `run` where none is named."""


def run(arguments: Sequence[str]) -> None:
    """What `lm-eval ARGUMENTS` does, on our engine. Raises TaskError, one line, for what lm-eval would not take.

    lm-eval's parser ends the process with code 2 for options that it does not know.
    """
    given = list(arguments) if arguments[0] in COMMANDS else [RUN, *arguments]
    import datasets
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    setup_logging()
    sys.argv = ["lm-eval", *given]
    command = HarnessCLI()
    parsed = command.parse_args()
    if given[0] == RUN:
        _take(parsed)
    try:
        command.execute(parsed)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise TaskError(
            f"lm-eval cannot load its data ({_line(error)}); it reads the hub only: try `harness run --task "
            "lm-eval/NAME`, which also reads --data-dir and mirrors (docs/lm-eval.md)"
        ) from error
    except (ValueError, FileNotFoundError) as error:
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename).name != "evaluate_config.py":
            raise
        raise TaskError(f"lm-eval: {_line(error)}") from error  # of its own reading of the arguments


def _take(parsed: argparse.Namespace) -> None:
    """Put our model into the parsed arguments, and look at what lm-eval would find out late."""
    from harness.lmeval.model import NAME

    named = getattr(parsed, "model", None)
    if named not in (None, NAME):
        raise TaskError(
            f"--model {named}: the model is our engine; leave --model out and name the checkpoint by --model_args "
            "model=NAME-OR-FOLDER, or call lm_eval itself"
        )
    parsed.model = NAME
    if not getattr(parsed, "config", None) and not getattr(parsed, "model_args", None):
        raise TaskError("--model_args: no model named; give --model_args model=NAME-OR-FOLDER (`harness models`)")
    if not getattr(parsed, "include_path", None):
        for name in getattr(parsed, "tasks", None) or []:
            if not any(sign in name for sign in "*?[/") and not Path(name).exists():
                check_name(name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
