"""Options that several commands have, what their texts mean, and the names that a shell may complete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasks.api import Options as TaskOptions
from tasks.api import TaskError


def known_tasks(incomplete: str) -> list[str]:
    """Lists of tasks, separated by commas, that go on from what is typed."""
    from harness.registry import task_names

    before, comma, last = incomplete.rpartition(",")
    typed = before.split(",")
    return [before + comma + name for name in task_names() if name.startswith(last) and name not in typed]


def known_models(incomplete: str) -> list[str]:
    """Catalogue names that begin so; paths are the shell's."""
    from qwen_model.catalogue import CATALOGUE

    return sorted(name for name in CATALOGUE if name.startswith(incomplete))


Tasks = Annotated[
    str,
    typer.Option(help="Tasks, separated by commas; `harness tasks` lists them.", autocompletion=known_tasks),
]
DataDir = Annotated[Path | None, typer.Option(help="Folder with data sets, asked first (docs/data.md).")]
Filter = Annotated[list[str] | None, typer.Option(help="FIELD=VALUE[,VALUE]: only such samples.")]
Unsafe = Annotated[bool, typer.Option("--unsafe-no-sandbox", help="Run model-written code unprotected.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No bars, only a line now and then: for logs.")]
# what `tasks.api.Options` holds: one of these and one field there make an option of a task
ShotsFile = Annotated[Path | None, typer.Option(help="A few-shot header of yours, for tasks that take one.")]
Shots = Annotated[
    int | None, typer.Option(help="Solved examples, for tasks that take their number: mmlu, ceval, cmmlu.")
]
Documents = Annotated[
    Path | None, typer.Option(help="long-ppl: a folder of .txt files, or a .jsonl file with `text` per line.")
]
Lengths = Annotated[str | None, typer.Option(help="long-ppl, retrieval: tokens of each text, such as 1024,8192.")]
Stride = Annotated[
    int | None, typer.Option(help="long-ppl: read whole documents in windows that move by so many tokens.")
]


def task_options(
    shots_file: Path | None, shots: int | None, documents: Path | None, lengths: str | None, stride: int | None
) -> TaskOptions:
    """What a user sets of the tasks themselves. Raises TaskError for lengths that are none."""
    return TaskOptions(
        shots_file=shots_file, shots=shots, documents=documents, lengths=lengths_of(lengths), stride=stride
    )


def names_of(asked: str) -> tuple[str, ...]:
    """The names in a list separated by commas."""
    return tuple(name.strip() for name in asked.split(",") if name.strip())


def filters_of(asked: list[str] | None) -> dict[str, tuple[str, ...]]:
    """The values wanted of each field, of all times that it is named."""
    filters: dict[str, tuple[str, ...]] = {}
    for item in asked or []:
        field, equals, values = item.partition("=")
        if not (field and equals and values):
            raise TaskError(f"--filter: {item!r} is not FIELD=VALUE[,VALUE], such as subject=astronomy")
        filters[field] = (*filters.get(field, ()), *values.split(","))
    return filters


def lengths_of(asked: str | None) -> tuple[int, ...]:
    """The numbers in a list separated by commas."""
    parts = [] if asked is None else [part.strip() for part in asked.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit()):
            raise TaskError(f"--lengths: {part!r} is no number of tokens; give such as 1024,2048")
    return tuple(map(int, parts))
