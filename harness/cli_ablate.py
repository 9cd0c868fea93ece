"""`harness ablate`: one task under many settings, and what each of them changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli_options import DataDir, Documents, Filter, Lengths, Unsafe, filters_of, lengths_of, names_of
from harness.cli_output import print_table
from tasks.api import TaskError

if TYPE_CHECKING:
    from harness.ablation.sweep import Done
    from harness.evaluation import Settings

SOME_FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the command to the `harness` command."""
    app.command(
        epilog="Examples: harness ablate --task long-ppl --model M --rows none,ntk,ntk+logn,ntk+logn+window "
        "--lengths 2048,8192,16384 --documents FOLDER | harness ablate --task mmlu --model M --grid logn=off,on "
        "shots=0,5 | harness ablate --config ablations/table3.yaml --documents FOLDER. Exit code 1: some cells failed."
    )(ablate)


def ablate(
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE,VALUE]...", help="Further switches of --grid.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="A task, or several by commas; `harness tasks` lists them.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A catalogue name, folder or .gguf file, or several by commas.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE,VALUE ...: the product of long-context switches and settings of a run."),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Chosen rows instead, such as none,ntk,ntk+logn,ntk+logn+window.")
    ] = None,
    lengths: Lengths = None,
    documents: Documents = None,
    config: Annotated[
        Path | None, typer.Option(help="A sweep as a file (docs/ablation.md); options go before.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="The cell that others are compared with; default the first.")] = None,
    limit: Annotated[int | None, typer.Option(help="Samples of each task; documents where there are lengths.")] = None,
    filter: Filter = None,
    train_length: Annotated[int | None, typer.Option(help="Take this for the length that was trained at.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (default), bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu (default) or cuda.")] = None,
    data_dir: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; default runs/ablate-TASK-MODEL-HASH.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the cells with tokens and time.")] = False,
    unsafe_no_sandbox: Unsafe = False,
) -> None:
    """Run a task under the product of settings; print what each does, with intervals and paired differences.

    The same command again continues a sweep that was interrupted.
    """
    said: dict[str, Any] = {
        "task": _words(task),
        "model": _words(model),
        "grid": [*(grid or []), *(more or [])] or None,
        "rows": _words(rows),
        "lengths": _words(lengths),
        "documents": documents,
        "base": base,
        "limit": limit,
        "filter": filter or None,
        "train_length": train_length,
        "dtype": dtype,
        "device": device,
        "data_dir": data_dir,
        "out": out,
    }
    _sweep(_with_file(said, config), unsafe=unsafe_no_sandbox, dry_run=dry_run)


def _sweep(asked: dict[str, Any], *, unsafe: bool, dry_run: bool) -> None:
    """Compute the cells that are asked for and show them, or say what that would take."""
    from harness.ablation import cells, forecast, sweep, tables, units
    from harness.progress import Bars
    from reports import ablation as shown

    settings = _settings(asked, unsafe)
    switches = list(asked.get("grid", []))
    if "train_length" in asked:
        switches.append(f"train_length={asked['train_length']}")
    found = cells.cells(asked.get("model", []), asked.get("task", []), asked.get("rows", []), switches)
    named = str(asked.get("base", found[0].name))
    tables.check_base(named, [cell.name for cell in found])
    planned = units.plan(found, settings)
    for line in planned.left_out:
        typer.echo(line, err=True)
    if dry_run:
        print_table(shown.CELLS, shown.cells_to_come([(unit.label, unit.places) for unit in planned.units]))
        print_table(forecast.COLUMNS, list(forecast.forecast(planned)))
        _say_failed(planned.failed)
        return
    folder = Path(asked["out"]) if "out" in asked else sweep.default_folder(planned)
    facts = {"question": asked.get("question"), "task": asked["task"], "model": asked["model"], "base": named}
    with Bars() as bars:
        done = sweep.run(planned, folder, facts, bars)
    _report(done, folder, named)


def _report(done: Done, folder: Path, base: str) -> None:
    from harness.ablation import tables
    from harness.progress import said_when_slow
    from reports import ablation as shown

    if not done.runs:
        raise TaskError(f"all cells failed: {next(iter(done.failed.values()))}")
    tables.write(folder, done, base)
    for title, header, lines in shown.tables(folder):
        typer.echo(title)
        print_table(header, lines)
    for line in shown.notes(folder):
        typer.echo(f"- {line}")
    with said_when_slow("writing the page and plots"):
        page, plots = shown.write(folder)
    for plot in plots:
        typer.echo(f"plot: {plot}")
    typer.echo(f"report: {page}")
    if _say_failed(done.failed):
        raise typer.Exit(SOME_FAILED)


def _say_failed(failed: Any) -> bool:
    for cell, line in failed.items():
        typer.echo(f"failed: {cell}: {line}", err=True)
    return bool(failed)


def _with_file(said: dict[str, Any], config: Path | None) -> dict[str, Any]:
    """The file's options under those of the command line. Rows and grid of the one replace both of the other."""
    from harness.ablation.sweep_file import read_sweep_file

    given = {key: value for key, value in said.items() if value is not None}
    read = {} if config is None else read_sweep_file(config)
    if "grid" in given or "rows" in given:
        read = {key: value for key, value in read.items() if key not in ("grid", "rows", "base")}
    asked = {**read, **given}
    for key in ("task", "model"):
        if key not in asked:
            raise TaskError(f"ablate: no {key} named; give --{key}, or --config FILE with it")
    if not {"grid", "rows"} & asked.keys() and len(asked["task"]) == len(asked["model"]) == 1:
        raise TaskError(
            "ablate: nothing is varied; give --grid KEY=VALUE,VALUE, --rows NAME,... or several models or tasks"
        )
    for key in ("dtype", "device", "documents"):
        if key in asked and any(item.startswith(f"{key}=") for item in asked.get("grid", [])):
            raise TaskError(f"--grid: {key} is set already, by --{key}; set it once")
    return asked


def _settings(asked: dict[str, Any], unsafe: bool) -> Settings:
    """What all cells share."""
    from harness.evaluation import Settings

    limit = asked.get("limit")
    if isinstance(limit, str) and not limit.isdigit():
        raise TaskError(f"--config: limit is {limit!r}; give a whole number")
    return Settings(
        tasks=tuple(asked["task"][:1]),
        model=asked["model"][0],
        limit=None if limit is None else int(limit),
        filters=filters_of(asked.get("filter")),
        lengths=lengths_of(",".join(asked["lengths"]) if "lengths" in asked else None),
        documents=asked.get("documents"),
        dtype=asked.get("dtype", "float32"),
        device=asked.get("device", "cpu"),
        data_dir=asked.get("data_dir"),
        unsafe_no_sandbox=unsafe,
    )


def _words(text: str | None) -> list[str] | None:
    return None if text is None else list(names_of(text))
