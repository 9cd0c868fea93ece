"""Names of lm-evaluation-harness's tasks, and the files that define them.

lm-eval reads all its 14,000 files to learn its names, which takes ten seconds or more; ours stay in the cache folder.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from harness.records import write_atomic
from qwen_model.download import cache_dir, disk_errors, lock
from qwen_model.progress import say
from tasks.api import TaskError

PREFIX = "lm-eval/"


@dataclass(frozen=True)
class Index:
    """`files` below lm_eval/tasks by task name; `sets` are names that stand for several tasks."""

    files: dict[str, str]
    sets: dict[str, list[str]]


def task_file(name: str) -> Path:
    """The file that defines a task of lm-eval. Raises TaskError with the closest names, or what a set stands for."""
    index = read_index()
    if name in index.files:
        return _folder() / index.files[name]
    if name in index.sets:
        members = [f"{PREFIX}{member}" for member in index.sets[name]]
        more = f" and {len(members) - 4} more" if len(members) > 4 else ""
        raise TaskError(f"{PREFIX}{name}: a set of tasks; name those that you want: {', '.join(members[:4])}{more}")
    raise _unknown(name, index, PREFIX)


def check_name(name: str) -> None:
    """Raises TaskError with the closest names where neither a task nor a set of tasks is called so."""
    index = read_index()
    if name not in index.files and name not in index.sets:
        raise _unknown(name, index, "")


def _unknown(name: str, index: Index, prefix: str) -> TaskError:
    close = difflib.get_close_matches(name, [*index.files, *index.sets], n=3)
    hint = f"; did you mean {' or '.join(prefix + one for one in close)}?" if close else ""
    return TaskError(f"{prefix}{name}: lm-eval {version('lm_eval')} has no task of that name{hint}")


def read_index() -> Index:
    """All names, from the cache folder or gathered anew."""
    path = cache_dir() / "lm-eval" / f"tasks-{version('lm_eval')}.json"
    with lock(path):
        if path.is_file():
            return Index(**json.loads(path.read_text(encoding="utf-8")))
        index = _gather()
        with disk_errors(path):
            write_atomic(path, json.dumps(asdict(index)))
    return index


def _gather() -> Index:
    from lm_eval.tasks import TaskManager

    say(f"lm-eval {version('lm_eval')}: reading the names of its tasks, once")
    files: dict[str, str] = {}
    sets: dict[str, list[str]] = {}
    for name, entry in TaskManager().task_index.items():
        if entry.kind.name in ("TASK", "PY_TASK"):
            files[name] = str(entry.yaml_path.relative_to(_folder()))
        elif entry.kind.name == "TAG":
            sets[name] = sorted(entry.tags)
        else:
            members = entry.cfg["task"]
            sets[name] = [one if isinstance(one, str) else one.get("task") or one.get("group") for one in members]
    return Index(files, sets)


def _folder() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], "tasks")
