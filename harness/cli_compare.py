"""Commands about finished runs and about test items: contamination, compare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli_options import DataDir, names_of
from harness.cli_output import print_table
from harness.records import Run
from tasks.api import TaskError

if TYPE_CHECKING:
    from harness.comparison import RunComparison

FORMATS = ("table", "md", "csv", "json")


def register(app: typer.Typer) -> None:
    """Add the commands to the `harness` command."""
    app.command(
        epilog="Example: harness contamination --task gsm8k,mmlu --corpus FOLDER --fields question --out overlap"
    )(contamination)
    app.command(
        epilog="Examples: harness compare runs/base runs/new --flips, harness compare runs/base runs/a runs/b "
        "--out compared, harness compare runs/base --against report:table_2:Qwen-7B"
    )(compare)


def contamination(
    task: Annotated[str, typer.Option(help="Tasks, separated by commas; `harness tasks` lists them.")],
    corpus: Annotated[
        Path, typer.Option(help="Training texts: a file, or a folder of .jsonl, .txt (also .gz, .zst) or .parquet.")
    ],
    data_dir: DataDir = None,
    n: Annotated[int, typer.Option(help="Words in a row that count as an overlap.")] = 13,
    share: Annotated[float, typer.Option(help="From this share of its n-grams on an item is contaminated.")] = 0.8,
    field: Annotated[str, typer.Option(help="The field or column of the corpus that holds the text.")] = "text",
    fields: Annotated[
        str | None, typer.Option(help="Fields of the items to look for, by commas (`gold` too); default all text.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="Processes that read; default one per core.", min=1)] = None,
    out: Annotated[Path, typer.Option(help="Folder for items.csv, items.jsonl and contamination.html.")] = Path(
        "contamination"
    ),
) -> None:
    """Find test items in a training corpus: 13 words in a row that both have.

    Case and punctuation do not count, and a Chinese character is a word. Printed are counts by task; the page and the
    files name every item, the share of its n-grams that were found, where, and the text.
    """
    import json

    from harness import overlap
    from harness.contamination import SHORTEST
    from reports.contamination import table, write_page

    if n < SHORTEST:
        raise TaskError(f"--n: {n} words in a row are found anywhere; give {SHORTEST} or more")
    if not 0 < share <= 1:
        raise TaskError(f"--share: {share} is not above 0 and at most 1")
    tasks = _names(task, "--task")
    wanted = _names(fields, "--fields") if fields is not None else []
    items = overlap.items(tasks, data_dir, wanted)
    begin = time.monotonic()
    found, read = overlap.search(items, corpus, name=field, n=n, share=share, processes=processes)
    seconds = time.monotonic() - begin
    overlap.write(out, found, read, {"path": str(corpus), "n": n, "share": share, "fields": wanted})
    page = write_page(out)
    header, rows = table(json.loads((out / "contamination.json").read_text(encoding="utf-8")))
    print_table(header, rows, whole=len(header))
    typer.echo(
        f"{read.documents:,} documents, {read.bytes / 1e6:,.1f} MB in {read.files} files, {read.bad:,} lines not read"
    )
    for line in read.named[:5]:
        typer.echo(f"not read: {line}", err=True)
    typer.echo(f"{seconds:.1f} s, {read.bytes / 1e6 / seconds:.1f} MB/s", err=True)
    typer.echo(f"report: {page}")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; each is compared with the first.")],
    against: Annotated[
        str | None, typer.Option(help="report:TABLE:MODEL: compare each run with the report's numbers instead.")
    ] = None,
    groups: Annotated[bool, typer.Option("--groups", help="Show every group (subject), too.")] = False,
    flips: Annotated[bool, typer.Option("--flips", help="List the samples that are right in one run only.")] = False,
    format: Annotated[str, typer.Option(help="table, md, csv or json.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Folder for compare.html, .md, .csv, .json and flips.csv.")] = None,
) -> None:
    """Compare runs on the samples that they have in common: difference, 95 % interval, exact McNemar p.

    Differences are of the other run less the first, in points of per cent. Gained and lost are the samples that
    are better and worse in the other run.
    """
    from harness.pairing import compare as compared
    from reports import comparison as shown

    if format not in FORMATS:
        raise TaskError(f"--format: {format!r} is not one of {', '.join(FORMATS)}")
    if against is not None:
        if flips or groups or out is not None or format != "table":
            raise TaskError("--against: the report has no samples; leave --flips, --groups, --format and --out out")
        _against(runs, against)
        return
    if len(runs) < 2:
        raise TaskError(f"{runs[0]}: one run alone; name a second one, or give --against report:table_2:Qwen-7B")
    first, *others = map(Run, runs)
    comparisons = [compared(first, other) for other in others]
    if format != "table":
        text = {"md": shown.as_markdown, "csv": shown.as_csv, "json": shown.as_json}[format](comparisons)
        typer.echo(text, nl=False)
    else:
        for comparison in comparisons:
            typer.echo(shown.heading(comparison))
            print_table(shown.HEADER, shown.rows(comparison, groups=groups))
            for note in shown.notes(comparison):
                typer.echo(f"- {note}")
            if flips:
                _print_flips(comparison)
    if out is not None:
        page = shown.write(out, comparisons)
        typer.echo(f"report: {page}", err=format != "table")


def _print_flips(comparison: RunComparison) -> None:
    from reports.comparison import FLIP_HEADER, flip_rows

    for task in comparison.tasks:
        if task.flips:
            typer.echo(f"\n{task.task}: {len(task.flips):,} samples flipped")
            print_table(FLIP_HEADER, flip_rows(task, longest=60))


def _against(runs: list[Path], text: str) -> None:
    from reports import against

    try:
        table, model = against.parse(text)
    except LookupError as error:
        raise TaskError(f"--against: {error.args[0]}") from None
    for path in runs:
        found, left = against.against(Run(path), table, model)
        if not found:
            raise TaskError(f"--against {text}: nothing to compare in {path}: {' '.join(left)}")
        typer.echo(f"{path} against the report's {model}")
        print_table(against.HEADER, [line.cells() for line in found])
        for note in left:
            typer.echo(f"- {note}")
        typer.echo("- Not paired: the report's answers are not known, and the interval is that of our number alone.")


def _names(text: str, option: str) -> list[str]:
    names = list(names_of(text))
    if not names:
        raise TaskError(f"{option}: names nothing")
    if len(set(names)) < len(names):
        raise TaskError(f"{option}: {next(name for name in names if names.count(name) > 1)} is named twice")
    return names
