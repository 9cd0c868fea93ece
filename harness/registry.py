"""Finding tasks by name: entry points of the group `harness.tasks`, or a class in a file of the user's."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from tasks.api import OUTCOME_METRICS, Task, TaskError

GROUP = "harness.tasks"


def task_names() -> list[str]:
    """Names of all installed tasks, sorted."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def task_class(name: str) -> type[Task]:
    """The task of a name, of `lm-eval/NAME` or of `path/to/file.py:Class`. Raises TaskError with the closest names."""
    if name.startswith("lm-eval/"):
        from harness.lmeval.tasks import lm_eval_task

        return _checked(lm_eval_task(name), name)
    file, _, class_name = name.rpartition(":")
    if file.endswith(".py"):
        return _from_file(Path(file), class_name)
    found: tuple[EntryPoint, ...] = tuple(entry_points(group=GROUP, name=name))
    if not found:
        close = difflib.get_close_matches(name, task_names(), n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise TaskError(f"no task is named {name!r}; {hint}`harness tasks` lists them")
    loaded = found[0].load()
    return _checked(loaded, name)


def _from_file(path: Path, class_name: str) -> type[Task]:
    if not path.is_file():
        raise TaskError(f"{path}: no such file; a task of yours is given as path/to/file.py:Class")
    name = f"task file {path.resolve()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up there what their annotations mean
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise TaskError(f"{path}: cannot be imported ({error}); mend the file") from error
    return _checked(getattr(module, class_name, None), f"{path}:{class_name}")


def _checked(found: object, name: str) -> type[Task]:
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise TaskError(f"{name}: not a class derived from tasks.api.Task")
    for attribute in ("name", "version", "title", "protocol", "shots", "metric"):
        if not hasattr(found, attribute):
            raise TaskError(f"{name}: the class has no attribute {attribute!r}; see tasks/api.py for its meaning")
    known = (*OUTCOME_METRICS, *found.measures, *found.whole)
    if found.metric not in known:
        raise TaskError(f"{name}: metric {found.metric!r} is none of {', '.join(known)}; declare it in `measures`")
    return found
