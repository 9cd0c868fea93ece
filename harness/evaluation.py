"""What `harness run` does: tasks, a model, a run folder."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import environment
from harness.backends import open_backend
from harness.counting import counting
from harness.data import Data
from harness.judged import Judged, record_of
from harness.loop import complete
from harness.plan import drawn, entry, summary
from harness.ranks import ranks
from harness.records import FORMAT, Run, SampleRecord, folder_name, keep_counted, spec_hash, write_atomic
from harness.registry import task_class
from harness.selection import select
from harness.settings import Settings as Settings  # also for those who import it from here
from harness.settings import check
from harness.store import open_store
from qwen_model.checkpoint import Checkpoint, find_checkpoint
from tasks.api import Options, Sample, Task, TaskError

if TYPE_CHECKING:
    from harness.backend import Backend
    from qwen_model.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run before its first token: what will be asked of which model, and the spec that identifies it."""

    settings: Settings
    checkpoint: Checkpoint
    tasks: tuple[Task, ...]
    samples: Mapping[str, tuple[Sample, ...]]
    spec: Mapping[str, Any]
    origins: Mapping[str, str]
    counted: Mapping[str, int]
    """What its tasks counted to fit their samples to the model, as `harness.counting` keeps it."""
    left_out: tuple[str, ...] = ()
    """A line on each sample, or set of samples, that does not suit the model."""

    @property
    def default_folder(self) -> Path:
        """runs/MODEL-HASH: the same command finds its own folder again."""
        return Path("runs") / folder_name(self.checkpoint.name, spec_hash(self.spec)[:8])


def prepare(settings: Settings) -> Prepared:
    """Find tasks, model and data. Raises TaskError, ModelError or DownloadError, each with one line for the user."""
    with ranks().one_first():
        return _prepare(settings)


def _prepare(settings: Settings) -> Prepared:
    check(settings)
    options = Options(**{option.name: getattr(settings, option.name) for option in fields(Options)})
    tasks = tuple(task_class(name)(options) for name in settings.tasks)
    names = [task.name for task in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise TaskError(f"--task: {twice[0]} is named twice; name it once, or give your own class another name")
    if not isinstance(settings.model, str):
        dtype, device = str(settings.model.dtype).removeprefix("torch."), settings.model.device.type
        settings = replace(settings, backend="native", dtype=dtype, device=device)
    checkpoint = _checkpoint(settings)
    for task in tasks:
        _redecode(task, settings)
    data = Data(settings.data_dir)
    samples: dict[str, tuple[Sample, ...]] = {}
    entries: dict[str, Any] = {}
    left_out: list[str] = []
    counted: dict[str, int] = {}
    by_tokenizer = counting(checkpoint.folder, counted)

    def count(text: str) -> int:
        if settings.backend == "openai" and settings.tokenizer is None:
            raise TaskError("--backend openai: this task counts tokens; give --tokenizer with the model's folder")
        return by_tokenizer(text)

    for task in tasks:
        everything, unfit = task.fit(task.samples(data), count)
        left_out.extend(f"{task.name}: {line}" for line in unfit)
        chosen = select(task.name, everything, settings.filters, settings.limit)
        samples[task.name] = tuple(drawn(chosen, settings.draws))
        entries[task.name] = {
            **entry(task, everything, chosen),
            "limit": settings.limit,
            "filter": {name: list(values) for name, values in settings.filters.items()},
            **({"draws": settings.draws} if settings.draws > 1 else {}),
            **({"left_out": unfit} if unfit else {}),
        }
    if settings.backend == "openai":
        from harness.openai_backend import check_tasks

        check_tasks(tasks, samples, tokenizer=settings.tokenizer is not None)
    spec = {
        "format": FORMAT,
        "engine": environment.version(),
        "model": {
            "name": checkpoint.name,
            "fingerprint": checkpoint.fingerprint,
            "quantisation": checkpoint.quantisation,
            "backend": settings.backend,
            **_numerics(settings, checkpoint),
        },
        "tasks": entries,
        "seed": settings.seed,
    }
    origins = {source.name: loaded.origin for source, loaded in data.loaded.items()}
    return Prepared(
        settings=settings,
        checkpoint=checkpoint,
        tasks=tasks,
        samples=samples,
        spec=spec,
        origins=origins,
        counted=counted,
        left_out=tuple(left_out),
    )


def _checkpoint(settings: Settings) -> Checkpoint:
    if not isinstance(settings.model, str):
        return settings.model.checkpoint
    if settings.backend == "openai":
        from harness.openai_backend import served

        return served(settings.model, settings.base_url, settings.tokenizer)
    return find_checkpoint(settings.model)


def _numerics(settings: Settings, checkpoint: Checkpoint) -> dict[str, Any]:
    """What the spec says of how the model is computed."""
    if settings.backend == "openai":
        from harness.openai_backend import tokenizer_digest

        tokens = None if settings.tokenizer is None else tokenizer_digest(checkpoint.folder)
        return {"base_url": settings.base_url, "tokenizer": tokens}
    device = "cuda" if settings.backend == "vllm" else settings.device
    return {"dtype": settings.dtype, "device": device, **_extension(settings)}


def _extension(settings: Settings) -> dict[str, Any]:
    """What the spec says of a context extension that is not the checkpoint's own."""
    laid = settings.long_context
    if (
        laid is None
        and not isinstance(settings.model, str)
        and settings.model.settings != settings.model.config.long_context
    ):
        laid = settings.model.settings
    return {} if laid is None else {"long_context": asdict(laid)}


class Progress:
    """What a run tells while it goes on; the command line shows it as bars."""

    def stage(self, text: str) -> None:
        """A step before the first token, such as loading the model."""

    def begin(self, task: str, done: int, total: int) -> None:
        """A task's samples, `done` of them judged by an earlier run."""

    def judged(self, task: str) -> None:
        """One more sample has its verdict."""


def execute(prepared: Prepared, folder: Path, progress: Progress, *, asked: str | None = None) -> Run:
    """Judge what is not judged yet in this folder, then write the results; `asked` is kept as the folder's run.yaml.

    Raises RunError for a folder of another run, SandboxUnavailable where code must run and nothing isolates it.
    """
    if not ranks().first:
        return _help(prepared, folder)
    with open_store(folder, prepared.spec) as store:
        progress.stage(f"run folder: {folder}")
        if asked is not None:
            write_atomic(folder / "run.yaml", asked)
        keep_counted(folder, prepared.counted)
        for line in prepared.left_out:
            progress.stage(line)
        left: list[list[tuple[str, str]]] = []
        for task in prepared.tasks:
            done = store.done(task.name)
            samples = prepared.samples[task.name]
            progress.begin(task.name, len(done), len(samples))
            left.append([(task.name, sample.id) for sample in samples if sample.id not in done])
        own = ranks().hand_out(prepared.spec, left)
        if not any(left) and (folder / "results.json").is_file():
            store.settle()
            ranks().finish()
            return Run(folder)

        def add(record: SampleRecord) -> None:
            store.add(record)
            progress.judged(record.task)

        facts = _judge(prepared, own, add, progress) if any(left) else {}
        run = Run(folder)
        results = {
            "spec": prepared.spec,
            "tasks": {task.name: summary(run, task, prepared.settings.draws) for task in prepared.tasks},
        }
        store.finish(results, environment.describe() | {"data_origins": dict(prepared.origins)} | facts)
        ranks().finish()
    return run


def _help(prepared: Prepared, folder: Path) -> Run:
    """What a rank other than the first does: judge its share, and send what comes of it."""
    share = ranks().take(prepared.spec)
    facts = _judge(prepared, share, ranks().send, Progress()) if share else {"tokens": {}, "judged": 0}
    ranks().end({name: facts[name] for name in ("tokens", "judged")})
    return Run(folder)


def _redecode(task: Task, settings: Settings) -> None:
    """Gives a task the asked-for sampling instead of its own."""
    changes = {
        name: getattr(settings, name) for name in ("temperature", "top_p") if getattr(settings, name) is not None
    }
    if task.decoding is None:
        if changes or settings.draws > 1:
            raise TaskError(
                f"--samples, --temperature, --top-p: task {task.name} has no decoding to change; leave them out"
            )
        return
    if settings.draws > 1 and task.metric != "pass@1":
        raise TaskError(f"--samples: task {task.name} is not measured by pass@k; leave it out")
    # an attribute of this one task object: the class keeps the protocol's own
    task.decoding = replace(task.decoding, **changes)  # type: ignore[misc]
    if settings.draws > 1 and task.decoding.temperature == 0:
        raise TaskError("--samples: greedy answers are all the same; give --temperature too, such as 0.8")


def evaluate(
    tasks: Sequence[str],
    model: str | Decoder,
    *,
    limit: int | None = None,
    filter: Mapping[str, str | Sequence[str]] | None = None,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> Run:
    """Run tasks on a model and return the finished run; `settings` are further fields of `Settings`.

    `evaluate(["mmlu"], "smollm2-135m-instruct", limit=50, filter={"subject": "astronomy"}).results["mmlu"].metrics`
    """
    wanted = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in (filter or {}).items()}
    prepared = prepare(
        Settings(
            tasks=tuple(tasks),
            model=model,
            limit=limit,
            filters=wanted,
            data_dir=None if data_dir is None else Path(data_dir),
            **settings,
        )
    )
    return execute(prepared, prepared.default_folder if out is None else Path(out), Progress())


def _judge(
    prepared: Prepared, share: Sequence[tuple[str, str]], add: Callable[[SampleRecord], None], progress: Progress
) -> dict[str, Any]:
    """Judge a share of the samples, (task, id), and on the first rank add what the others judge; returns what
    environment.json says of it."""
    settings = prepared.settings
    tasks = {task.name: task for task in prepared.tasks}
    places = {
        (name, sample.id): (place, sample)
        for name, samples in prepared.samples.items()
        for place, sample in enumerate(samples)
    }
    jobs = [(tasks[name], places[name, id_][1]) for name, id_ in share]
    others: list[Mapping[str, Any]] = []
    sandbox = isolation(prepared.tasks, settings.unsafe_no_sandbox, progress)
    started = time.time()
    if isinstance(settings.model, str):
        progress.stage(f"loading {prepared.checkpoint.name} ({settings.backend}, {settings.dtype})")

    def done(judged: Judged) -> None:
        add(record_of(judged, places[judged.task.name, judged.sample.id][0]))

    async def receive() -> None:
        if ranks().first:
            async for record in ranks().receive(others):
                add(record)

    async def both(backend: Backend) -> None:
        await asyncio.gather(backend.run(jobs, done), receive())

    with open_backend(prepared) as opened:
        loaded = time.time()
        complete(both(opened.backend))
    cache, tokens = opened.backend.cache, Counter(asdict(opened.backend.tokens))
    for their in others:
        tokens.update(their["tokens"])
    return {
        "sandbox": sandbox,
        **opened.facts,
        **({} if cache is None else {"replies_from_cache": cache.hits}),
        **({"ranks": ranks().size} if ranks().size > 1 else {}),
        "tokens": dict(tokens),
        "judged": len(jobs) + sum(their["judged"] for their in others),
        "peak_mb": None if opened.backend.peak is None else round(opened.backend.peak / 1e6),
        "seconds_by_stage": {"load": round(loaded - started, 2), "judge": round(time.time() - loaded, 2)},
    }


def isolation(tasks: Sequence[Task], unsafe: bool, progress: Progress) -> dict[str, str]:
    """What environment.json says of the sandbox: nothing where no task runs code."""
    from harness.sandbox import probe

    if not any(task.runs_code for task in tasks):
        return {}
    found = None if unsafe else probe()
    facts = {"tier": found.tier, "detail": found.detail} if found else {"tier": "none", "detail": "--unsafe-no-sandbox"}
    progress.stage(f"sandbox: {facts['tier']} ({facts['detail']})")
    return facts
