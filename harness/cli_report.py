"""`harness report`: pages of finished runs, and our rows among the report's tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli_output import print_report
from harness.records import Run, RunError, write_atomic
from tasks.api import TaskError

TEXTS = ("md", "html", "latex", "csv")
FORMATS = (*TEXTS, "png")


def register(app: typer.Typer) -> None:
    """Add the command to the `harness` command."""
    app.command(
        epilog="Examples: harness report runs/a, harness report runs/a runs/b --out site, "
        "harness report runs/a runs/b --table 2 --format latex, harness report runs/a --figure 2"
    )(report)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; also sweeps (harness ablate).")],
    table: Annotated[str | None, typer.Option(help="A table of the report, 1 to 17: our rows among its rows.")] = None,
    figure: Annotated[
        str | None, typer.Option(help="2 (radar, bars), 3 (a tokenizer-report's folder) or 4 (a win-rate's folder).")
    ] = None,
    format: Annotated[str | None, typer.Option(help="md, html, latex, csv or png; tables md, figures png.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="One page of all the runs in this folder; for --table and --figure where they are written."),
    ] = None,
) -> None:
    """Write the pages of finished runs anew and print their tables, or set their numbers beside the report's.

    Of runs of several models it also draws scores against model size: scaling-TASK.png and .svg in the first folder.
    With --out there is one page of all of them, with comparisons of each run with the first. With --table or --figure
    text goes to standard output, and pictures into the first folder, unless --out says where.
    """
    if table is not None or figure is not None:
        _beside(runs, table, figure, format, out)
        return
    if format is not None:
        raise TaskError("--format: is of --table and --figure; give one of them, or leave it out")
    if out is not None:
        _site(runs, out)
        return
    from reports.ablation import is_sweep
    from reports.scaling import common_tasks, write_scaling

    for path in runs:
        if is_sweep(path):
            raise TaskError(f"{path}: a sweep; give --out FOLDER for a page of it, or --table 3")
        print_report(Run(path), fresh=True)
    opened = [Run(path) for path in runs]
    for task in common_tasks(opened):
        typer.echo(f"plot: {write_scaling(opened, task, opened[0].path)[0]}")


def _site(paths: list[Path], out: Path) -> None:
    from harness.pairing import compare
    from harness.progress import said_when_slow
    from reports.ablation import is_sweep
    from reports.beside import beside
    from reports.cells import tables_of
    from reports.site import write_site

    sweeps = [path for path in paths if is_sweep(path)]
    runs = [Run(path) for path in paths if not is_sweep(path)]
    comparisons, refused = [], []
    for run in runs[1:]:
        try:
            comparisons.append(compare(runs[0], run))
        except RunError as error:  # runs of other tasks may share a page
            refused.append(error)
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        typer.echo(f"not compared: {refused[0]}{more}", err=True)
    shown = [beside([run.path for run in runs], name) for name in tables_of(runs)]
    out.mkdir(parents=True, exist_ok=True)
    with said_when_slow(f"writing a page of {len(paths)} runs and sweeps"):
        write_site(out / "report.html", runs, comparisons, shown, sweeps)
    typer.echo(f"report: {out / 'report.html'}")


def _beside(runs: list[Path], table: str | None, figure: str | None, format: str | None, out: Path | None) -> None:
    from reports import formats, paper
    from reports.beside import beside
    from reports.figures import write_figure

    if table is not None and figure is not None:
        raise TaskError("--table, --figure: two things; give one of them")
    name = f"table_{table}" if figure is None else f"figure_{figure}"
    if name not in paper.NAMES:
        raise TaskError(f"--table, --figure: the report has no {paper.label(name)}; tables are 1 to 17, figures 2 to 4")
    chosen = format or ("md" if figure is None else "png")
    if chosen not in FORMATS:
        raise TaskError(f"--format: {chosen!r} is not one of {', '.join(FORMATS)}")
    shown = beside(runs, name)
    if chosen in TEXTS:
        makers = (formats.as_markdown, formats.as_html, formats.as_latex, formats.as_csv)
        text = dict(zip(TEXTS, makers, strict=True))[chosen](shown)
        if out is None:
            typer.echo(text, nl=False)
        else:
            write_atomic(out, text)
            typer.echo(f"{paper.label(name)}: {out}")
        return
    folder = runs[0] if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    if figure is None:
        paths = [folder / f"{name}.png"]
        formats.write_png(shown, paths[0])
    else:
        paths = write_figure(shown, folder)
    for path in paths:
        if path.suffix == ".png":
            typer.echo(f"plot: {path}")
