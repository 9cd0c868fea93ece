"""Command lines as users write them: read by the programs themselves without running anything, or run."""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import typer
from typer._click.exceptions import BadOptionUsage, MissingParameter  # typer carries a click of its own

ROOT = Path(__file__).parents[1]
OTHERS = ("export", "pip", "ensurepip", "pytest", "source")
"""Programs of others of which only the name is looked at."""
HARNESS = [str(Path(sys.executable).with_name("harness"))]


def harness(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`harness`, installed, in a process of its own; `env` is added to this one's."""
    command = [*HARNESS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, cwd=cwd)


def typed(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same of `harness` or `qwen-train` in this process, which has imported everything already."""
    import harness.cli
    import qwen_train.cli

    main = {"harness": harness.cli.main, "qwen-train": qwen_train.cli.main}[program]
    words, out, errors = [program, *map(str, arguments)], io.StringIO(), io.StringIO()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.object(sys, "argv", words),
        # the parser would take the module that python was started with for the program
        mock.patch.object(sys.modules["__main__"], "__package__", None, create=True),
        mock.patch.dict(os.environ),
        redirect_stdout(out),
        redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as stop:
            return subprocess.CompletedProcess(words, int(stop.code or 0), out.getvalue(), errors.getvalue())
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)
    raise AssertionError(f"{program}: main has returned")


def accept(words: Sequence[str], *, whole: bool = True) -> None:
    """Raises, or ends by SystemExit, where the program would not take the command.

    Files that it names need not exist, but recipes and settings that do are read. Where `whole` is false the words may
    break off: what is there must be right.
    """
    program, *rest = words
    if program not in OTHERS:
        READERS[program](rest, whole)
    for word in words:
        if word.startswith(("ablations/", "tests/")):
            assert (ROOT / word).exists(), word


def _of_typer(program: str) -> Callable[[Sequence[str], bool], None]:
    def read(words: Sequence[str], whole: bool) -> None:
        import harness.cli
        import qwen_train.cli

        app = {"harness": harness.cli.app, "qwen-train": qwen_train.cli.app}[program]
        command, left = typer.main.get_command(app), list(words)
        while hasattr(command, "commands") and left and not left[0].startswith("-") and not left[0].isupper():
            assert left[0] in command.commands, f"{program} has no command {left[0]!r}"
            command = command.commands[left.pop(0)]
        if left[-1:] in (["--help"], ["--install-completion"]) or (not left and not whole):
            return
        try:
            values = command.make_context(str(command.name), left).params
        except (BadOptionUsage, MissingParameter):
            if whole:
                raise
            return
        if command.name == "lm-eval":
            _of_lm_eval(words[1:], whole)
        _read_values(str(command.name), values)

    return read


def _read_values(command: str, values: Mapping[str, Any]) -> None:
    """Reads values that the parser takes as text, by what the commands read them by."""
    from harness import cli_compare, cli_interop, cli_report
    from harness.ablation.cells import cells
    from harness.claims.experiment import experiments
    from harness.claims.family import read_family
    from harness.cli_options import filters_of, lengths_of, names_of
    from harness.long_context import parse
    from harness.registry import task_class
    from harness.settings import BACKENDS, DEVICES, DTYPES
    from qwen_train.data.config import read_config
    from reports import paper

    given = {name: value for name, value in values.items() if value is not None}
    for name in ("task", "describe", "dump"):
        for task in names_of(given.get(name, "")):
            if not task.isupper() and not task.startswith("lm-eval/") and not (":" in task and not _here(task)):
                task_class(task)
    for name, known in (("backend", BACKENDS), ("device", (*DEVICES, "auto")), ("dtype", DTYPES)):
        assert given.get(name, known[0]) in known, (name, given[name])
    formats = {"compare": cli_compare.FORMATS, "export": cli_interop.FORMATS, "report": cli_report.FORMATS}
    assert given.get("format") in (None, *formats.get(command, ())), given["format"]
    for kind in ("table", "figure"):
        assert kind not in given or f"{kind}_{given[kind]}" in paper.NAMES, given[kind]
    filters_of(given.get("filter") or [])
    lengths_of(given.get("lengths"))
    if "long_context" in given:
        parse(given["long_context"])
    switches = [*given.get("grid", ()), *given.get("more", ())]
    if command == "ablate" and ("rows" in given or switches):
        rows = names_of(given.get("rows", ""))
        cells(names_of(given.get("model", "M")), names_of(given.get("task", "T")), rows, switches)
    if command == "claims":
        experiments(tuple(name for name in names_of(given.get("only", "")) if not name.isupper()))
        if _here(given.get("models")):
            read_family(given["models"])
    if command == "data" and _here(given.get("config")):
        read_config(given["config"])
    if "recipe" in given:
        _read_recipe(command, given["recipe"], given.get("set") or [])


def _read_recipe(command: str, recipe: Any, changes: list[str]) -> None:
    from qwen_train.alignment import settings
    from qwen_train.alignment.recipes import read_stage
    from qwen_train.recipe import read_recipe
    from qwen_train.recipe_file import read_recipe_table

    stages = {"sft": settings.SFT, "reward": settings.Reward, "ppo": settings.PPORecipe, "dpo": settings.DPO}
    stages |= {"self-instruct": settings.SelfInstruct}
    if str(recipe).endswith(".yaml") and not _here(recipe):
        return
    if command in stages:
        read_stage(Path(recipe), stages[command], changes)
    elif command == "align":
        read_recipe_table(recipe)
    else:
        read_recipe(recipe)


def _here(path: Any) -> bool:
    return path is not None and Path(str(path).split(":")[0]).is_file()


def _of_torchrun(words: Sequence[str], whole: bool) -> None:
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(list(words))
    assert parsed.module, "torchrun: starts a module of ours by -m"
    _of_python(["-m", parsed.training_script, *parsed.training_script_args], whole)


def _of_python(words: Sequence[str], whole: bool) -> None:
    if words[:1] == ["-"]:
        return
    option, module, *rest = words
    assert option == "-m", words
    if module in OTHERS:
        return
    if module in MODULES:
        READERS[MODULES[module]](rest, whole)
        return
    found = importlib.util.find_spec(module)
    assert found and found.origin, f"no module {module}"
    if "ArgumentParser" not in Path(found.origin).read_text(encoding="utf-8"):
        assert not rest, f"{module} takes no options"
        return
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise Parsed

    def error(parser: argparse.ArgumentParser, message: str) -> None:
        if whole or "are required" not in message:
            raise AssertionError(message)
        raise Parsed

    try:
        with (
            mock.patch.multiple(argparse.ArgumentParser, parse_args=only_parse, error=error),
            mock.patch.object(sys, "argv", [module, *rest]),
        ):
            runpy.run_module(module, run_name="__main__")
    except Parsed:
        return
    raise AssertionError(f"{module} has run without parsing its options")


class Parsed(Exception):
    """A module has taken its options, and goes no further."""


def _of_lm_eval(words: Sequence[str], whole: bool) -> None:
    from lm_eval._cli import HarnessCLI

    given = words if words[0] in ("run", "ls") else ["run", *words]
    if "--help" not in given:
        with mock.patch.object(sys, "argv", ["lm-eval", *given]):
            HarnessCLI().parse_args()


def _of_make(words: Sequence[str], whole: bool) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        pattern = rf"\$\({name}\)" if is_variable else rf"^{name}:"
        assert re.search(pattern, text, re.MULTILINE), f"make: no {'variable' if is_variable else 'target'} {name}"


READERS: dict[str, Callable[[Sequence[str], bool], None]] = {
    "harness": _of_typer("harness"),
    "qwen-train": _of_typer("qwen-train"),
    "torchrun": _of_torchrun,
    "python": _of_python,
    "lm_eval": _of_lm_eval,
    "make": _of_make,
}
MODULES = {"harness": "harness", "qwen_train": "qwen-train", "lm_eval": "lm_eval"}
