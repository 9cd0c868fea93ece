"""What is in place on this machine: isolation, models, data, caches."""

from __future__ import annotations

import os
import shutil

from harness.data import Data
from harness.environment import describe
from harness.registry import task_class, task_names
from harness.sandbox import SandboxUnavailable, probe
from harness.sandbox.languages import LANGUAGES, find_tool
from qwen_model.catalogue import CATALOGUE, available, hub_problem
from qwen_model.download import cache_dir
from tasks.api import Source, TaskError


def examine() -> list[list[str]]:
    """Rows (what, state, detail). Nothing is fetched."""
    found = describe()
    machine = found["machine"]
    rows = [
        ["machine", f"{machine['cores']} cores, {machine['memory_gib']} GiB", machine["processor"]],
        ["python", machine["python"], ", ".join(f"{name} {text}" for name, text in found["packages"].items())],
        _isolation(),
        _kernels(),
        *_languages(),
    ]
    cache = cache_dir()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    writable = "writable" if os.access(existing, os.W_OK) else "not writable: set HARNESS_CACHE to a folder of yours"
    rows.append(["cache", f"{free:.0f} GB free, {writable}", str(cache)])
    problem = hub_problem()
    rows.append(["model hub", "unreachable" if problem else "reachable", problem or ""])
    for name in sorted(CATALOGUE):
        path = available(name)
        rows.append([f"model {name}", "here" if path else "to be fetched", str(path or "")])
    data = Data(None)
    sources = {source.name: source for name in task_names() for source in task_class(name).sources()}
    return [*rows, *(_data_set(name, source, data) for name, source in sorted(sources.items()))]


def _data_set(name: str, source: Source, data: Data) -> list[str]:
    try:
        place = data.local(source)
    except (TaskError, OSError) as error:
        return [f"data {name}", "cannot be read", str(error)]
    return [f"data {name}", "here" if place else "to be fetched", place or f"or --data-dir with {source.files[0]}"]


def _kernels() -> list[str]:
    from qwen_model import kernels

    problem = kernels.unavailable()
    return ["decoding kernels", "none: slower" if problem else "in use", problem or kernels.describe()]


def _languages() -> list[list[str]]:
    """The compilers and runtimes that humanevalpack needs."""
    rows = []
    for name, language in LANGUAGES.items():
        try:
            find_tool(language)
            rows.append([f"language {name}", "here", ""])
        except FileNotFoundError as error:
            rows.append([f"language {name}", "not installed", f"{error}; humanevalpack's {name} problems need it"])
    return rows


def _isolation() -> list[str]:
    try:
        isolation = probe()
    except SandboxUnavailable as error:
        return ["isolation", "none: tasks that run code refuse", str(error)]
    return ["isolation", isolation.tier, f"{isolation.detail}. {isolation.advice}".strip()]
