"""The program that compares two expressions with math-verify, in a child process for every comparison.

Reads {"gold": LaTeX, "answer": LaTeX} and writes {"outcome": ..., "seconds": ...}, one JSON object a line. Started by
math_workers.py as a file of its own, so it imports nothing of ours. The parent never parses an answer: it forks,
waits and kills.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import select
import signal
import sys
from typing import Any, NoReturn

CPU_SECONDS = 3.0
"""Processor time of one comparison; the kernel ends the child whatever it is doing."""
WALL_SECONDS = 7.0
MEMORY = 1 << 30
"""Address space of a child in bytes, of which sympy and the parser take 0.1 GB."""
WARM = (
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    (r"(x+1)^2", r"x^2+2x+1"),
    (r"\frac{x^2-1}{x-1}", r"x+1"),
    (r"\sin^2 x", r"1-\cos^2 x"),
    (r"e^{2x}+\log 8", r"(e^x)^2+3\log 2"),
    (r"\int_0^1 x^2 dx+\sum_{k=1}^{3} k", r"\frac{19}{3}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}"),
    (r"[1,2)\cup(3,\infty)", r"x>3"),
    (r"y=2x+3", r"2x-y+3=0"),
    (r"1<x\le 2", r"(1+i)^2"),
    (r"\{1,2\}", r"5!+\binom{5}{2}"),
)
"""What sympy and the parser load and build at first use is there before the first fork."""
FORBIDDEN = ("os.", "shutil.", "subprocess.", "socket.", "ctypes.")
LOOKING = ("os.listdir", "os.scandir")
"""What importing a module does."""


def compare(gold: str, answer: str) -> str:
    """ "equal", "different", or "unreadable" where math-verify cannot parse one of the two."""
    from math_verify import LatexExtractionConfig, parse, verify

    # LaTeX only: math-verify's other reader, for plain expressions, hands text to Python's eval.
    read = [
        parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)
        for text in (gold, answer)
    ]
    if not all(read):
        return "unreadable"
    return "equal" if verify(*read, timeout_seconds=None) else "different"


def read_number(text: str, *_: object, **__: object) -> Any:
    """Stands in for sympy's `parse_expr`, which hands text to Python's `eval`, and which sympy uses for digits too."""
    import sympy

    if re.fullmatch(r"[0-9]+", text):
        return sympy.Integer(int(text))
    if re.fullmatch(r"(?=\.?[0-9])[0-9]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?", text):
        return sympy.Float(text)
    raise sympy.SympifyError(text)


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: text is not run as Python, nothing is written, no program or connection is started."""
    refused = event.startswith(FORBIDDEN) and event not in LOOKING
    if event == "open":
        refused = isinstance(arguments[1], str) and bool(set(arguments[1]) & set("wax+"))
    elif event == "exec" and arguments[0].co_filename.startswith("<"):
        # sympy's polynomials write their inner loops as text, from the number of variables alone
        refused = sys._getframe(1).f_globals.get("__name__") != "sympy.polys.monomials"
    if refused:
        raise PermissionError(f"refused: {event}")


def child(request: bytes, result: int) -> NoReturn:
    """One comparison, under limits; its outcome goes to the descriptor `result`."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(refuse)
    try:
        texts = json.loads(request)
        outcome = compare(texts["gold"], texts["answer"])
    except MemoryError:
        outcome = "memory"
    except Exception as error:  # of any kind: a library's code is running on a model's text
        outcome = f"error: {type(error).__name__}"
    os.write(result, outcome.encode())
    os._exit(0)


def judged(request: bytes) -> tuple[str, float]:
    """The outcome of one comparison, "timeout" or "killed" where the child could not say it, and its processor time."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        child(request, writing)
    os.close(writing)
    # the harness closes stdin only when it goes away: then nobody wants the answer
    ready = select.select([reading, sys.stdin.fileno()], [], [], WALL_SECONDS)[0]
    if reading not in ready:
        os.kill(pid, signal.SIGKILL)
    outcome = os.read(reading, 200).decode() if reading in ready else ""
    os.close(reading)
    _, status, used = os.wait4(pid, 0)
    if not outcome:
        late = reading not in ready or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF)
        outcome = "timeout" if late else "killed"
    return outcome, used.ru_utime + used.ru_stime


def main() -> None:
    """Serves until stdin ends."""
    logging.disable(logging.CRITICAL)
    for gold, answer in WARM:
        compare(gold, answer)
    import sympy.parsing.sympy_parser

    sympy.parsing.sympy_parser.parse_expr = read_number
    print(json.dumps({"ready": True}), flush=True)
    for request in iter(sys.stdin.buffer.readline, b""):
        outcome, seconds = judged(request)
        print(json.dumps({"outcome": outcome, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
