"""The `harness` command. Heavy libraries are imported where they are used: help and lists answer at once."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from harness import cli_ablate, cli_claims, cli_compare, cli_interop, cli_report, cli_run
from harness.cli_options import (
    DataDir,
    Documents,
    Filter,
    Lengths,
    Shots,
    ShotsFile,
    Stride,
    filters_of,
    known_models,
    known_tasks,
    task_options,
)
from harness.cli_output import any_encoding, call, os_error_line, print_table
from harness.ranks import ranks
from harness.records import RunError
from tasks.api import TaskError

INTERRUPTED, STOPPED = 130, 143

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Evaluate Qwen-family language models by the Qwen report's own protocols.\n\n"
    "Example: harness run --task humaneval-chat,gsm8k-chat,mmlu --model qwen2.5-coder-0.5b-instruct --limit 40",
    epilog="Exit codes: 0 done, 1 a part failed, 2 wrong input or a missing resource (one line says what "
    "to do), 130 interrupted, 143 stopped (docs/command-line.md).",
)

cli_run.register(app)


@app.command(epilog="Example: harness tasks --dump mmlu --filter subject=astronomy | head -3")
def tasks(
    describe: Annotated[
        str | None,
        typer.Option(
            help="Show one task (or path/to/file.py:Class): protocol, data, measures, a prompt.",
            autocompletion=known_tasks,
        ),
    ] = None,
    dump: Annotated[
        str | None,
        typer.Option(help="Print a task's samples, a JSON object per line.", autocompletion=known_tasks),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="--dump: the samples that a run with this --limit judges.")] = None,
    filter: Filter = None,
    data_dir: DataDir = None,
    shots_file: ShotsFile = None,
    shots: Shots = None,
    documents: Documents = None,
    lengths: Lengths = None,
    stride: Stride = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Show what this model is asked, for tasks that count tokens: long-ppl, retrieval.",
            autocompletion=known_models,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The list as JSON.")] = False,
) -> None:
    """List the tasks, or show what one of them asks."""
    if describe is None and dump is None:
        _list_tasks(as_json)
        return
    from harness import describe as describing
    from harness.counting import counting_for
    from harness.data import Data
    from harness.registry import task_class

    options = task_options(shots_file, shots, documents, lengths, stride)
    if describe is not None:
        lines = describing.describe(task_class(describe)(options), Data(data_dir), counting_for(model))
        for label, text in lines:
            typer.echo(f"{label}:\n{text}" if "\n" in text else f"{label}: {text}")
    if dump is not None:
        task, count = task_class(dump)(options), counting_for(model)
        for row in describing.dump(task, Data(data_dir), count, filters_of(filter), limit):
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
        print_table(columns, rows)
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
    print_table(["model", "size", "licence", "state", "notes"], rows)


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
    judge: Annotated[
        str | None, typer.Option(help="Model that judges each pair, in both orders; or a reward model.")
    ] = None,
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
    facts = {"answers": str(answers), "opponent": name if equals else comparing.label(theirs), "pairs": len(found)}
    if export_for_people:
        comparing.export_for_people(export_for_people, found)
        typer.echo(f"{len(found)} pairs: {export_for_people}; write first, second or tie into its last column")
        return
    if judge:
        comparing.write_pairs(out, found)
        settings = Settings(
            tasks=(comparing.judging_task(judge),),
            model=judge,
            backend=backend,
            dtype=dtype,
            device=device,
            data_dir=out,
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
    plots = write_win_plot({comparing.label(answers): parts}, str(facts["opponent"]), out)
    print_table(["category", "n", "win %", "tie %", "loss %"], list(comparing.rows(by_category)), whole=5)
    if len(said) < len(found):
        typer.echo(f"{len(found) - len(said)} of {len(found)} pairs have no verdict and are left out")
    typer.echo(f"plot: {plots[0]}")


@app.command()
def doctor() -> None:
    """Say which isolation, data sources, models and caches are in place here."""
    from harness.doctor import examine

    print_table(["what", "state", "detail"], examine())


cli_compare.register(app)
cli_ablate.register(app)
cli_claims.register(app)
cli_interop.register(app)
cli_report.register(app)


def user_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is one line for the user."""
    from harness.sandbox import SandboxUnavailable
    from qwen_model.config import ModelError
    from qwen_model.download import DownloadError

    return (TaskError, RunError, ModelError, DownloadError, SandboxUnavailable)


def main() -> None:
    """Entry point: errors of the user's are one line and exit code 2, Ctrl-C is 130, SIGTERM 143; none shows a
    traceback."""
    stopped = threading.Event()

    def stop_like_ctrl_c(_: int, frame: FrameType | None) -> None:
        stopped.set()
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # ignored, as for jobs in the background
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    signal.signal(signal.SIGTERM, stop_like_ctrl_c)
    any_encoding()
    try:
        code = call(app)
        if code == INTERRUPTED:
            said = "stopped by SIGTERM" if stopped.is_set() else "interrupted"
            _say(f"{said}; what was finished is kept: the same command continues a run")
        sys.exit(STOPPED if stopped.is_set() and code == INTERRUPTED else code)
    except OSError as error:
        _say(os_error_line(error))
        sys.exit(2)
    except user_errors() as error:
        _say(" ".join(str(error).split()))
        sys.exit(2)


def _say(message: str) -> None:
    if not ranks().speaks():
        return
    print(f"harness: {message}", file=sys.stderr)
