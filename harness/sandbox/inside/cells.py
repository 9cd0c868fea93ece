"""A process that keeps its variables between the pieces of code it is given: the interpreter of a conversation."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from . import wire

NAME = "<cell>"
IMAGES = (".png", ".jpg", ".jpeg")
MOST_IMAGE_BYTES = 4 << 20
KEEP = 16384
"""Characters kept of each of stdout, value and error."""


def serve(channel: int, names: dict[str, Any]) -> None:
    """Runs each source that comes as a message in `names`, answers what came of it, ends with the other side."""
    line = wire.Channel(channel)
    seen: dict[str, float] = {}
    while True:
        try:
            source = line.receive()
        except EOFError:
            return
        line.send(_run(source, names, seen))


def _run(source: str, names: dict[str, Any], seen: dict[str, float]) -> dict[str, Any]:
    out = io.StringIO()
    came: dict[str, Any] = {"value": None, "shown": "", "figures": [], "images": []}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        # figures and pictures after an error too, as in a notebook; reading them may fail as the code itself may
        endings = [_ending(_execute, source, names, came), _ending(_show, came)]
        endings += [_ending(_figures, came), _ending(_saved, seen, came)]
    outcome, error = next((ending for ending in endings if ending[0] != "ok"), ("ok", ""))
    return {
        "outcome": outcome,
        "stdout": out.getvalue()[:KEEP],
        "value": came["shown"][:KEEP],
        "error": error[-KEEP:],
        "figures": came["figures"],
        "images": came["images"],
    }


def _ending(work: Callable[..., None], *args: object) -> tuple[str, str]:
    """Outcome and error of work in which model-written code has its hand."""
    try:
        work(*args)
    except SyntaxError as problem:
        return "syntax", "".join(traceback.format_exception_only(problem))
    except MemoryError:
        return "memory", "MemoryError"
    except BaseException as problem:  # whatever the code raised: it is what the cell's author is told
        below = problem.__traceback__
        for _ in range(2):  # this function and `work` are ours
            below = below and below.tb_next
        return "error", "".join(traceback.format_exception(type(problem), problem, below))
    return "ok", ""


def _execute(source: str, names: dict[str, Any], came: dict[str, Any]) -> None:
    import ast  # here, so that only conversations pay for its pages

    tree = ast.parse(source, NAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NAME, "exec"), names)
    if isinstance(last, ast.Expr):
        came["value"] = eval(compile(ast.Expression(last.value), NAME, "eval"), names)
        names["_"] = came["value"]


def _show(came: dict[str, Any]) -> None:
    if came["value"] is not None:
        came["shown"] = repr(came["value"])


def _figures(came: dict[str, Any]) -> None:
    """What the open figures show, and their pictures; then closes them, as a notebook does."""
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    try:
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            if figure.axes:
                came["figures"].append([_axes(axes) for axes in figure.axes])
                picture = io.BytesIO()
                figure.savefig(picture, format="png")
                if picture.tell() <= MOST_IMAGE_BYTES:
                    came["images"].append(_text(picture.getvalue()))
    finally:
        pyplot.close("all")


def _axes(axes: Any) -> dict[str, Any]:
    """One plot in plain numbers and words; words and dates on an axis as the numbers that matplotlib draws."""
    kinds = [type(patch).__name__ for patch in axes.patches]
    bars = [patch for patch in axes.patches if type(patch).__name__ == "Rectangle"]
    return {
        "title": axes.get_title(),
        "xlabel": axes.get_xlabel(),
        "ylabel": axes.get_ylabel(),
        "lines": [[float(y) for y in line.get_ydata(orig=False)] for line in axes.lines],
        "bars": [float(bar.get_height()) for bar in bars],
        "widths": [float(bar.get_width()) for bar in bars],
        "wedges": kinds.count("Wedge"),
        "points": sum(len(each.get_offsets()) for each in axes.collections if hasattr(each, "get_offsets")),
    }


def _saved(seen: dict[str, float], came: dict[str, Any]) -> None:
    """The pictures that the code wrote to the scratch folder since it was last asked."""
    for name in sorted(os.listdir()):
        if not name.lower().endswith(IMAGES) or not os.path.isfile(name):
            continue
        if seen.get(name) != (changed := os.stat(name).st_mtime):
            seen[name] = changed
            if os.stat(name).st_size <= MOST_IMAGE_BYTES:
                with open(name, "rb") as file:
                    came["images"].append(_text(file.read()))


def _text(data: bytes) -> str:
    import base64  # as above

    return base64.b64encode(data).decode()
