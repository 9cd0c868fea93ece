"""The `harness` command. Heavy libraries are imported where they are used: help and lists answer at once."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from harness.records import Run, RunError
from tasks.api import TaskError

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Evaluate Qwen-family language models by the Qwen report's own protocols.\n\n"
    "Example: harness run --task humaneval-chat,gsm8k-chat,mmlu --model qwen2.5-coder-0.5b-instruct --limit 40",
    epilog="Exit codes: 0 done, 2 wrong input or a missing resource (one line says what to do), 130 interrupted.",
)


@app.command(epilog="Example: harness run --task mmlu --model smollm2-135m-instruct --filter subject=astronomy,anatomy")
def run(
    task: Annotated[str, typer.Option(help="Tasks, separated by commas; `harness tasks` lists them.")],
    model: Annotated[
        str, typer.Option(help="A catalogue name (`harness models`), a checkpoint folder or a .gguf file.")
    ],
    limit: Annotated[
        int | None, typer.Option(help="Judge this many samples of each task: a fixed random choice.")
    ] = None,
    filter: Annotated[list[str] | None, typer.Option(help="FIELD=VALUE[,VALUE]: only such samples.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default runs/MODEL-HASH. An unfinished run is continued.")
    ] = None,
    backend: Annotated[str, typer.Option(help="native (our decoder) or hf (transformers).")] = "native",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 1234,
    samples: Annotated[int, typer.Option(help="Answers to each problem, for pass@k; needs --temperature.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Sample at this temperature instead of the protocol's (greedy).")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest tokens of this share.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with data sets, asked first (docs/data.md).")] = None,
    shots_file: Annotated[
        Path | None, typer.Option(help="A few-shot header of yours, for tasks that take one.")
    ] = None,
    documents: Annotated[
        Path | None, typer.Option(help="long-ppl: a folder of .txt files, or a .jsonl file with `text` per line.")
    ] = None,
    lengths: Annotated[str | None, typer.Option(help="long-ppl: tokens of each document, such as 1024,8192.")] = None,
    stride: Annotated[
        int | None, typer.Option(help="long-ppl: read whole documents in windows that move by so many tokens.")
    ] = None,
    long_context: Annotated[
        str | None,
        typer.Option(help="dynamic_ntk=off|released|exact,logn=on|off,window=none|report|N (docs/long-context.md)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many samples, tokens and minutes.")] = False,
    unsafe_no_sandbox: Annotated[
        bool, typer.Option("--unsafe-no-sandbox", help="Run model-written code unprotected.")
    ] = False,
) -> None:
    """Run tasks on a model; write results, samples and a report. The same command again continues or shows the run."""
    from harness.evaluation import Settings, execute, prepare
    from harness.long_context import parse
    from harness.progress import Bars

    settings = Settings(
        tasks=tuple(name.strip() for name in task.split(",") if name.strip()),
        model=model,
        limit=limit,
        filters=_filters(filter or []),
        backend=backend,
        dtype=dtype,
        device=device,
        seed=seed,
        draws=samples,
        temperature=temperature,
        top_p=top_p,
        data_dir=data_dir,
        shots_file=shots_file,
        documents=documents,
        lengths=_lengths(lengths),
        stride=stride,
        long_context=None if long_context is None else parse(long_context),
        unsafe_no_sandbox=unsafe_no_sandbox,
    )
    marks = [time.monotonic()]
    prepared = prepare(settings)
    marks.append(time.monotonic())
    if dry_run:
        from harness.dry_run import estimate

        _print_table(*estimate(prepared))
        return
    folder = out or prepared.default_folder
    with Bars() as bars:
        finished = execute(prepared, folder, bars)
    marks.append(time.monotonic())
    _report(finished)
    marks.append(time.monotonic())
    stages = zip(("prepare", "run", "report"), pairwise(marks), strict=True)
    typer.echo("seconds: " + ", ".join(f"{name} {end - begin:.1f}" for name, (begin, end) in stages), err=True)


def _filters(asked: list[str]) -> dict[str, tuple[str, ...]]:
    """The values wanted of each field."""
    filters: dict[str, tuple[str, ...]] = {}
    for item in asked:
        field, equals, values = item.partition("=")
        if not (field and equals and values):
            raise TaskError(f"--filter: {item!r} is not FIELD=VALUE[,VALUE], such as subject=astronomy")
        filters[field] = tuple(values.split(","))
    return filters


def _lengths(asked: str | None) -> tuple[int, ...]:
    parts = [] if asked is None else [part.strip() for part in asked.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit()):
            raise TaskError(f"--lengths: {part!r} is no number of tokens; give such as 1024,2048")
    return tuple(map(int, parts))


@app.command()
def tasks(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the tasks."""
    from harness.registry import task_class, task_names

    rows = []
    for name in task_names():
        found = task_class(name)
        report = "" if found.report is None else f"{found.report.table.replace('_', ' ')}, {found.report.column}"
        rows.append([name, found.protocol, str(found.shots), found.metric, str(found.version), found.title, report])
    columns = ["task", "protocol", "shots", "metric", "version", "title", "the report's"]
    if as_json:
        typer.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
    else:
        _print_table(columns, rows)
        typer.echo("lm-eval/NAME is any task of lm-evaluation-harness (docs/lm-eval.md); FILE.py:CLASS one of yours.")


@app.command()
def models() -> None:
    """List the models known by name. Folders and .gguf files of your own work too."""
    from qwen_model.catalogue import CATALOGUE, available

    rows = [
        [
            name,
            f"{entry.size_bytes / 1e6:,.0f} MB",
            entry.licence,
            "here" if available(name) else "to be fetched",
            entry.notes,
        ]
        for name, entry in sorted(CATALOGUE.items())
    ]
    _print_table(["model", "size", "licence", "state", "notes"], rows)


@app.command(epilog="Example: harness report runs/qwen2.5-coder-0.5b-instruct-1a2b3c4d")
def report(runs: Annotated[list[Path], typer.Argument(help="Run folders.")]) -> None:
    """Write report.md and report.html of finished runs anew and print their tables."""
    for path in runs:
        _report(Run(path), fresh=True)


@app.command(
    name="tokenizer-report",
    epilog="Example: harness tokenizer-report --texts FOLDER --tokenizer path/to/checkpoint --baseline cl100k-like",
)
def tokenizer_report(
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Folder with en.txt, zh.jsonl (`text` per line), ...; default one paragraph in 18 languages."
        ),
    ] = None,
    tokenizer: Annotated[
        list[str] | None, typer.Option(help="One more: a folder, a .gguf file or a catalogue name. Repeatable.")
    ] = None,
    baseline: Annotated[str, typer.Option(help="The tokenizer whose tokens count as 1.")] = "cl100k-like",
    out: Annotated[Path, typer.Option(help="Folder for tokenizers.csv, .json, .png and .svg.")] = Path(
        "tokenizer-report"
    ),
) -> None:
    """Compare how many tokens tokenizers need, per language and for code, as the report's Figure 3 does.

    Of the first Qwen's tokenizer, a cl100k-like one and those of the catalogue models that are here. Printed are bytes
    per token (higher is better) and, in brackets, tokens relative to the baseline's on the same text (lower is better).
    The figure takes XLM-R's tokenizer as 1: where you have its folder, `--tokenizer path/xlm-r --baseline xlm-r`.
    """
    from harness import tokenizer_report as measuring
    from reports.tokenizer_plot import write_plots

    read, codecs = measuring.texts(texts), measuring.codecs(tokenizer or [])
    rows = measuring.measure(read, codecs, baseline)
    measuring.write(out, read, codecs, baseline, rows)
    ratios = {codec.name: [row.ratio for row in rows if row.tokenizer == codec.name] for codec in codecs}
    plots = write_plots([text.label for text in read], ratios, baseline, out)
    for columns, lines in measuring.tables(rows):
        _print_table(columns, lines, whole=len(columns))
    for note in measuring.notes(read, codecs, baseline, rows):
        typer.echo(note)
    typer.echo(f"plot: {plots[0]}")


@app.command()
def doctor() -> None:
    """Say which isolation, data sources, models and caches are in place here."""
    from harness.doctor import examine

    _print_table(["what", "state", "detail"], examine())


def _report(finished: Run, *, fresh: bool = False) -> None:
    from reports.page import write_report
    from reports.render import summary_table

    results, page = finished.path / "results.json", finished.path / "report.html"
    if fresh or not page.is_file() or page.stat().st_mtime < results.stat().st_mtime:
        write_report(finished)
    summary = summary_table(finished)
    # the report files have the wider table
    shown = [i for i, name in enumerate(summary.header) if name not in ("The report's column", "Best other up to 14B")]
    _print_table([summary.header[i] for i in shown], [[cells[i] for i in shown] for cells in summary.cells()], whole=4)
    for number, note in enumerate(summary.footnotes, start=1):
        typer.echo(f"{number}. {note}")
    typer.echo(f"report: {page}")


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, whole: int = 1) -> None:
    """Print a table whose first `whole` columns are never broken into lines."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=place < whole, min_width=max(map(len, column.split())))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: no markup is read in names and paths
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def user_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is one line for the user."""
    from harness.sandbox import SandboxUnavailable
    from qwen_model.config import ModelError
    from qwen_model.download import DownloadError

    return (TaskError, RunError, ModelError, DownloadError, SandboxUnavailable)


def main() -> None:
    """Entry point: errors of the user's are one line and exit code 2, Ctrl-C is 130, neither shows a traceback."""
    try:
        app()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _say("interrupted; what was finished is kept: the same command continues a run")
        raise
    except OSError as error:
        _say(f"{error.filename or 'input/output'}: {error.strerror or error}; check space and permissions")
        sys.exit(2)
    except user_errors() as error:
        _say(" ".join(str(error).split()))
        sys.exit(2)


def _say(message: str) -> None:
    print(f"harness: {message}", file=sys.stderr)
