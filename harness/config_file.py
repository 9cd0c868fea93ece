"""`harness run --config run.yaml`: every option of the command in a file, and the file that a run folder keeps.

The command line wins over the file, and the file over the options' own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml

from harness.yaml_file import nearest, read_table
from tasks.api import TaskError

NAME = "run.yaml"
"""In a run folder: the options of the command that wrote it last, for `--config`."""
NOT_KEPT = ("config", "dry_run", "help")


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of --config: the file's values become the command's defaults.

    Raises TaskError, naming the file and the key, for an unknown key and for a value that its option does not take.
    """
    if path is None:
        return None
    given = read_table(path, f"--config: {path}", TaskError, "task: mmlu")
    options = {_key(option): option for option in context.command.params if option.name not in ("config", "help")}
    found = {}
    for key, value in given.items():
        name = str(key).replace("_", "-")
        if name not in options:
            raise TaskError(
                f"--config: {path}: {key!r} is no option of `harness {context.info_name}`; {nearest(name, options)}"
            )
        if value is not None:
            found[str(options[name].name)] = _value(context, options[name], value, f"--config: {path}: {key}")
    context.default_map = found
    return path


def as_yaml(context: typer.Context) -> str:
    """The command's options in effect, whether they came from the command line or from a file."""
    values = {
        _key(option): _plain(context.params[str(option.name)])
        for option in context.command.params
        if option.name not in NOT_KEPT and not _left(context.params.get(str(option.name)))
    }
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _left(value: Any) -> bool:
    """Whether an option was left at nothing; 0 is something."""
    return value is None or value is False or value in ([], ())


def _key(option: Any) -> str:
    """The option's long name without dashes in front."""
    return str(max(option.opts, key=len)).lstrip("-")


def _value(context: typer.Context, option: Any, value: Any, where: str) -> Any:
    if option.multiple:
        items = _pairs(value) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
        return [str(item) for item in items]
    if option.is_flag:
        if not isinstance(value, bool):
            raise TaskError(f"{where}: {value!r} is not true or false")
        return value
    text = ",".join(_pairs(value)) if isinstance(value, Mapping) else _text(value)
    try:
        option.process_value(context, text)
    except typer.BadParameter as error:
        raise TaskError(f"{where}: {error.message}") from error
    return text


def _pairs(value: Mapping[Any, Any]) -> list[str]:
    return [f"{key}={_text(its)}" for key, its in value.items()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"  # as YAML 1.1 reads these words
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
