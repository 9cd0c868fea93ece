"""What `harness tasks --describe` and `--dump` show of a task: its protocol, its data, its prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from harness.counting import Count
from harness.data import Data
from harness.requests import as_text
from harness.selection import select
from qwen_model import ModelError
from tasks.api import Source, Task, TaskError


def describe(task: Task, data: Data, count: Count) -> list[tuple[str, str]]:
    """Label and text of each line, for a model whose tokenizer gives `count`. Fetches nothing: items are counted and a
    prompt is shown where the data is here."""
    lines = [
        ("task", f"{task.name}: {task.title}"),
        ("protocol", f"{task.protocol}, {task.shots}-shot, version {task.version}"),
        ("metric", task.metric + (", mean over groups" if task.mean == "groups" else "")),
    ]
    if task.measures:
        lines.append(("measures", ", ".join(f"{name} ({kind})" for name, kind in task.measures.items())))
    if task.sets:
        lines.append(("sets", ", ".join(f"{name} ({len(groups)} groups)" for name, groups in task.sets.items())))
    lines.append(("decoding", _decoding(task)))
    if task.takes:
        lines.append(("takes", ", ".join("--" + name.replace("_", "-") for name in sorted(task.takes))))
    if task.report:
        lines.append(("the report's", f"{task.report.table.replace('_', ' ')}, {task.report.column}"))
    for licence, sources in groupby(task.sources(), key=lambda source: source.licence):
        lines.extend((f"data: {source.name}", "; ".join(_places(source))) for source in sources)
        lines.append(("licence", licence))
    absent = [source.name for source in task.sources() if data.local(source) is None]
    if absent:
        return [
            *lines,
            ("items", f"not here yet ({', '.join(absent)}); `harness tasks --dump {task.name}` fetches them"),
        ]
    try:
        samples, _ = task.fit(task.samples(data), count)
    except (TaskError, ModelError) as error:
        return [*lines, ("items", str(error))]
    groups = {sample.group for sample in samples} - {None}
    counted = f"{len(samples):,}" + (f" in {len(groups)} groups" if groups else "")
    return [*lines, ("items", counted), (f"prompt of {samples[0].id}", as_text(task.prompt(samples[0])))]


def dump(
    task: Task, data: Data, count: Count, filters: Mapping[str, Sequence[str]], limit: int | None
) -> Iterator[dict[str, Any]]:
    """The samples that a run with the same selection judges, as JSON-ready rows; fetches data. Raises TaskError."""
    samples, _ = task.fit(task.samples(data), count)
    for sample in select(task.name, samples, filters, limit):
        prompt = task.prompt(sample)
        yield {
            "id": sample.id,
            "group": sample.group,
            "fields": dict(sample.fields),
            "gold": sample.gold,
            "prompt": prompt if isinstance(prompt, str) else asdict(prompt),
        }


def _decoding(task: Task) -> str:
    decoding = task.decoding
    if decoding is None:
        return "as lm-eval's file says" if task.name.startswith("lm-eval/") else "none: scores texts"
    greedy = "greedy" if decoding.temperature == 0 else f"temperature {decoding.temperature:g}"
    stop = f", stops at {', '.join(map(repr, decoding.stop))}" if decoding.stop else ""
    return f"{greedy}, at most {decoding.max_tokens} tokens{stop}"


def _places(source: Source) -> Iterator[str]:
    """Where the data is looked for, in this order."""
    yield f"--data-dir {' or '.join(source.files)}"
    if source.installed:
        yield f"installed package {source.installed.package}"
    if source.hub:
        yield f"hub {' '.join(part for part in (source.hub, source.config, source.folder, source.split) if part)}"
    if source.mirror:
        yield f"package registry {source.mirror.package} {source.mirror.version}"
