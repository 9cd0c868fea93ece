"""Few-shot examples out of files of the installed package lm-eval, which are read, never imported."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.api import TaskError

PACKAGE, REMEDY = "lm_eval", "reinstall lm-eval"


def lm_eval_file(task: str, name: str, remedy: str = REMEDY) -> tuple[Path, str]:
    """Path and text of a file below lm-eval's `tasks/`. Raises TaskError if it is not there."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise TaskError(f"{task}: the examples are read from the package lm-eval, which is not installed; {remedy}")
    path = Path(spec.origin).parent / "tasks" / name
    try:
        return path, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unexpected(task, path, error, remedy) from None


def lm_eval_rows(
    task: str, name: str, fields: Sequence[str], remedy: str = REMEDY
) -> tuple[Path, list[dict[str, Any]]]:
    """Path of a Python file below lm-eval's `tasks/`, and these fields of the rows in the list that it returns.

    Raises TaskError where one is not there.
    """
    path, content = lm_eval_file(task, name, remedy)
    try:
        lists = [
            node.value
            for node in ast.walk(ast.parse(content))
            if isinstance(node, ast.Return) and isinstance(node.value, ast.List)
        ]
        return path, [{field: row[field] for field in fields} for row in ast.literal_eval(lists[0])]
    except (SyntaxError, ValueError, IndexError, KeyError, TypeError) as error:
        raise unexpected(task, path, error, remedy) from None


def unexpected(task: str, path: Path, error: Exception, remedy: str = REMEDY) -> TaskError:
    """The error for a file of lm-eval that has another form than its known version's."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return TaskError(f"{task}: {path} is not as expected ({what}); {remedy}")
