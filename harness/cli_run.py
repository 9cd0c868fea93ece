"""Commands that judge a model: run, score."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli_options import (
    DataDir,
    Documents,
    Filter,
    Lengths,
    Quiet,
    Shots,
    ShotsFile,
    Stride,
    Tasks,
    Unsafe,
    filters_of,
    known_models,
    names_of,
    task_options,
)
from harness.cli_output import print_report, print_table
from harness.config_file import as_yaml, read_config
from harness.ranks import ranks
from tasks.api import TaskError

if TYPE_CHECKING:
    from harness.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands to the `harness` command."""
    app.command(
        epilog="Examples: harness run --task mmlu --model smollm2-135m-instruct --filter subject=astronomy,anatomy; "
        "harness run --config run.yaml --limit 40"
    )(run)
    app.command(epilog="Example: harness score runs/mine --out runs/mine-scored")(score)


def run(
    context: typer.Context,
    task: Tasks,
    model: Annotated[
        str,
        typer.Option(
            help="A catalogue name (`harness models`), a checkpoint folder, a .gguf file, or a server's name.",
            autocompletion=known_models,
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file with any of these options; what stands on the command line wins.",
            callback=read_config,
            is_eager=True,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Judge this many samples of each task: a fixed random choice.")
    ] = None,
    filter: Filter = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default runs/MODEL-HASH. An unfinished run is continued.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="native (our decoder), hf (transformers), vllm, or openai (a server); docs/backends.md.")
    ] = "native",
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
        typer.Option(help="Such as dynamic_ntk=exact,logn=on,window=report; all keys: docs/long-context.md."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder where replies are kept and found by all runs of the same model.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="openai: such as http://localhost:8000/v1; the key in OPENAI_API_KEY.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="openai: folder or name with the model's tokenizer, for log-probabilities.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="openai: requests at once.")] = 16,
    requests_per_minute: Annotated[int | None, typer.Option(help="openai: no more than these.")] = None,
    tensor_parallel: Annotated[int, typer.Option(help="vllm: GPUs that share a layer.")] = 1,
    data_parallel: Annotated[int, typer.Option(help="vllm: copies of the model.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many samples, tokens and minutes.")] = False,
    unsafe_no_sandbox: Unsafe = False,
    quiet: Quiet = False,
) -> None:
    """Run tasks on a model; write results, samples and a report. The same command again continues or shows the run."""
    from harness.long_context import parse
    from harness.settings import Settings

    settings = Settings(
        tasks=names_of(task),
        model=model,
        limit=limit,
        filters=filters_of(filter),
        backend=backend,
        dtype=dtype,
        device=device,
        seed=seed,
        draws=samples,
        temperature=temperature,
        top_p=top_p,
        data_dir=data_dir,
        **vars(task_options(shots_file, shots, documents, lengths, stride)),
        long_context=None if long_context is None else parse(long_context),
        unsafe_no_sandbox=unsafe_no_sandbox,
        cache=cache,
        base_url=base_url,
        tokenizer=tokenizer,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
    )
    _judge(settings, out, dry_run=dry_run, quiet=quiet, asked=as_yaml(context))


def _judge(settings: Settings, out: Path | None, *, dry_run: bool, quiet: bool, asked: str) -> None:
    """Judge, or say what that would take, and show it on the first rank; `asked` goes into the run folder."""
    from harness.evaluation import execute, prepare
    from harness.progress import Bars

    marks = [time.monotonic()]
    prepared = prepare(settings)
    marks.append(time.monotonic())
    if dry_run and ranks().first:
        from harness.dry_run import estimate

        print_table(*estimate(prepared))
    if dry_run:
        return
    folder = out or prepared.default_folder
    with Bars(quiet=quiet or ranks().size > 1) as bars:
        finished = execute(prepared, folder, bars, asked=asked)
    if not ranks().first:
        return
    marks.append(time.monotonic())
    print_report(finished)
    marks.append(time.monotonic())
    stages = zip(("prepare", "run", "report"), pairwise(marks), strict=True)
    typer.echo("seconds: " + ", ".join(f"{name} {end - begin:.1f}" for name, (begin, end) in stages), err=True)


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
    quiet: Quiet = False,
) -> None:
    """Judge a run anew, or a file of completions, without a model; write results, samples and a report."""
    from harness.progress import Bars
    from harness.scoring import Selection, score_completions, score_run

    options = task_options(shots_file, shots, documents, lengths, stride)
    with Bars(quiet=quiet) as bars:
        if completions is None:
            if run is None:
                raise TaskError("score: nothing to judge; name a run folder, or --task T --completions FILE.jsonl")
            if limit is not None or filter or partial:
                raise TaskError("--limit, --filter, --partial: a run's samples are all judged; leave them out")
            finished = score_run(
                run,
                tasks=names_of(task or ""),
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
                Selection(limit=limit, filters=filters_of(filter), partial=partial),
                out=out,
                options=options,
                data_dir=data_dir,
                unsafe=unsafe_no_sandbox,
                progress=bars,
            )
    print_report(finished)
