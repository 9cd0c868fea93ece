"""The `harness` command. Heavy libraries are imported where they are used: help and lists answer at once."""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from harness import cli_ablate, cli_compare, cli_interop, cli_report
from harness.cli_options import filters
from harness.cli_options import lengths as lengths_of
from harness.cli_output import print_table as _print_table
from harness.cli_report import show_run
from harness.records import RunError
from tasks.api import TaskError

INTERRUPTED = 130

DataDir = Annotated[Path | None, typer.Option(help="Folder with data sets, asked first (docs/data.md).")]
Filter = Annotated[list[str] | None, typer.Option(help="FIELD=VALUE[,VALUE]: only such samples.")]
Unsafe = Annotated[bool, typer.Option("--unsafe-no-sandbox", help="Run model-written code unprotected.")]
# what `tasks.api.Options` holds: one of these and one field there make an option of a task
ShotsFile = Annotated[Path | None, typer.Option(help="A few-shot header of yours, for tasks that take one.")]
Shots = Annotated[
    int | None, typer.Option(help="Solved examples, for tasks that take their number: mmlu, ceval, cmmlu.")
]
Documents = Annotated[
    Path | None, typer.Option(help="long-ppl: a folder of .txt files, or a .jsonl file with `text` per line.")
]
Lengths = Annotated[str | None, typer.Option(help="long-ppl: tokens of each document, such as 1024,8192.")]
Stride = Annotated[
    int | None, typer.Option(help="long-ppl: read whole documents in windows that move by so many tokens.")
]

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
    filter: Filter = None,
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
    data_dir: DataDir = None,
    shots_file: ShotsFile = None,
    shots: Shots = None,
    documents: Documents = None,
    lengths: Lengths = None,
    stride: Stride = None,
    long_context: Annotated[
        str | None,
        typer.Option(help="dynamic_ntk=off|released|exact,logn=on|off,window=none|report|N (docs/long-context.md)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many samples, tokens and minutes.")] = False,
    unsafe_no_sandbox: Unsafe = False,
) -> None:
    """Run tasks on a model; write results, samples and a report. The same command again continues or shows the run."""
    from harness.evaluation import Settings, execute, prepare
    from harness.long_context import parse
    from harness.progress import Bars

    settings = Settings(
        tasks=_names(task),
        model=model,
        limit=limit,
        filters=filters(filter or []),
        backend=backend,
        dtype=dtype,
        device=device,
        seed=seed,
        draws=samples,
        temperature=temperature,
        top_p=top_p,
        data_dir=data_dir,
        shots_file=shots_file,
        shots=shots,
        documents=documents,
        lengths=lengths_of(lengths),
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
    show_run(finished)
    marks.append(time.monotonic())
    stages = zip(("prepare", "run", "report"), pairwise(marks), strict=True)
    typer.echo("seconds: " + ", ".join(f"{name} {end - begin:.1f}" for name, (begin, end) in stages), err=True)


def _names(asked: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in asked.split(",") if name.strip())


@app.command(epilog="Example: harness score runs/mine --out runs/mine-scored")
def score(
    run: Annotated[Path | None, typer.Argument(help="A run folder: its samples are judged anew.")] = None,
    task: Annotated[
        str | None, typer.Option(help="The task of --completions; for RUN, files of tasks that are not installed.")
    ] = None,
    completions: Annotated[
        Path | None, typer.Option(help='A .jsonl file: {"id": ..., "text": ...} per line, several per id for pass@k.')
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Judge this many samples: a fixed random choice.")] = None,
    filter: Filter = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Judge the samples that the file has; without it all must be there.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, begun again each time; default RUN-scored, runs/FILE-TASK-HASH.")
    ] = None,
    data_dir: DataDir = None,
    shots_file: ShotsFile = None,
    shots: Shots = None,
    documents: Documents = None,
    lengths: Lengths = None,
    stride: Stride = None,
    unsafe_no_sandbox: Unsafe = False,
) -> None:
    """Judge a run anew, or a file of completions, without a model; write results, samples and a report."""
    from harness.progress import Bars
    from harness.scoring import Selection, score_completions, score_run
    from tasks.api import Options

    options = Options(
        shots_file=shots_file, shots=shots, documents=documents, lengths=lengths_of(lengths), stride=stride
    )
    with Bars() as bars:
        if completions is None:
            if run is None:
                raise TaskError("score: nothing to judge; name a run folder, or --task T --completions FILE.jsonl")
            if limit is not None or filter or partial:
                raise TaskError("--limit, --filter, --partial: a run's samples are all judged; leave them out")
            finished = score_run(
                run,
                tasks=_names(task or ""),
                out=out,
                options=options,
                data_dir=data_dir,
                unsafe=unsafe_no_sandbox,
                progress=bars,
            )
        else:
            if run is not None or task is None:
                raise TaskError("--completions: wants --task T, and no run folder beside it")
            finished = score_completions(
                task,
                completions,
                Selection(limit=limit, filters=filters(filter or []), partial=partial),
                out=out,
                options=options,
                data_dir=data_dir,
                unsafe=unsafe_no_sandbox,
                progress=bars,
            )
    show_run(finished)


@app.command(epilog="Example: harness tasks --dump mmlu --filter subject=astronomy | head -3")
def tasks(
    describe: Annotated[
        str | None, typer.Option(help="Show one task (or path/to/file.py:Class): protocol, data, measures, a prompt.")
    ] = None,
    dump: Annotated[str | None, typer.Option(help="Print a task's samples, a JSON object per line.")] = None,
    limit: Annotated[int | None, typer.Option(help="--dump: the samples that a run with this --limit judges.")] = None,
    filter: Filter = None,
    data_dir: DataDir = None,
    shots_file: ShotsFile = None,
    shots: Shots = None,
    documents: Documents = None,
    lengths: Lengths = None,
    stride: Stride = None,
    as_json: Annotated[bool, typer.Option("--json", help="The list as JSON.")] = False,
) -> None:
    """List the tasks, or show what one of them asks."""
    if describe is None and dump is None:
        _list_tasks(as_json)
        return
    from harness import describe as describing
    from harness.data import Data
    from harness.registry import task_class
    from tasks.api import Options

    options = Options(
        shots_file=shots_file, shots=shots, documents=documents, lengths=lengths_of(lengths), stride=stride
    )
    if describe is not None:
        lines = describing.describe(task_class(describe)(options), Data(data_dir))
        for label, text in lines:
            typer.echo(f"{label}:\n{text}" if "\n" in text else f"{label}: {text}")
    if dump is not None:
        for row in describing.dump(task_class(dump)(options), Data(data_dir), filters(filter or []), limit):
            typer.echo(json.dumps(row, ensure_ascii=False))


def _list_tasks(as_json: bool) -> None:
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
    from harness.cli_tokenizer import compare

    compare(texts, tokenizer or [], baseline, out)


@app.command(
    name="win-rate",
    epilog="Example: harness win-rate --answers runs/MINE --opponent gpt-3.5=gpt35.jsonl --judge MODEL",
)
def win_rate(
    answers: Annotated[Path, typer.Option(help="The tested model's: a run of the task win-rate, or a jsonl file.")],
    opponent: Annotated[str, typer.Option(help="The other model's: [NAME=]FILE.jsonl with `id` and `text`.")],
    judge: Annotated[str | None, typer.Option(help="Model that judges each pair, in both orders.")] = None,
    verdicts: Annotated[
        list[Path] | None, typer.Option(help="A table filled by people; once for each of several raters.")
    ] = None,
    export_for_people: Annotated[
        Path | None, typer.Option(help="Write a table that people can fill, and stop.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results, plot and the judge's run.")] = Path("win-rate"),
    backend: Annotated[str, typer.Option(help="The judge's: native or hf.")] = "native",
    dtype: Annotated[str, typer.Option(help="The judge's: float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="The judge's: cpu or cuda.")] = "cpu",
    data_dir: Annotated[Path | None, typer.Option(help="Folder with win_rate/prompts.jsonl; default our own.")] = None,
) -> None:
    """Compare two models' answers pair by pair, by a judge model or by people: shares of wins, ties and losses."""
    from harness import win_rate as comparing
    from harness.evaluation import Settings, execute, prepare
    from harness.progress import Bars
    from reports.win_plot import write_win_plot

    if sum(way is not None for way in (judge, verdicts, export_for_people)) != 1:
        raise TaskError("win-rate: give one of --judge, --verdicts and --export-for-people")
    name, equals, file = opponent.rpartition("=")
    theirs = Path(file)
    found = comparing.pairs(answers, theirs, data_dir)
    facts = {"answers": str(answers), "opponent": name if equals else theirs.stem, "pairs": len(found)}
    if export_for_people:
        comparing.export_for_people(export_for_people, found)
        typer.echo(f"{len(found)} pairs: {export_for_people}; write first, second or tie into its last column")
        return
    if judge:
        comparing.write_pairs(out, found)
        settings = Settings(
            tasks=("win-rate-judge",), model=judge, backend=backend, dtype=dtype, device=device, data_dir=out
        )
        with Bars() as bars:
            run = execute(prepare(settings), out / "judge", bars)
        said = comparing.judged(run)
        facts["judge"] = run.spec["model"]["name"]
    else:
        said, facts["votes"] = comparing.people(verdicts or [], found)
    by_category = comparing.shares(found, said)
    comparing.write(out, facts, found, said)
    parts = {category: [part.value for part in entry.parts] for category, entry in by_category.items()}
    plots = write_win_plot({answers.stem: parts}, str(facts["opponent"]), out)
    _print_table(["category", "n", "win %", "tie %", "loss %"], list(comparing.rows(by_category)), whole=5)
    if len(said) < len(found):
        typer.echo(f"{len(found) - len(said)} of {len(found)} pairs have no verdict and are left out")
    typer.echo(f"plot: {plots[0]}")


@app.command()
def doctor() -> None:
    """Say which isolation, data sources, models and caches are in place here."""
    from harness.doctor import examine

    _print_table(["what", "state", "detail"], examine())


cli_compare.register(app)
cli_ablate.register(app)
cli_interop.register(app)
cli_report.register(app)


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
