"""What a process behind the walls becomes: a program, a solution that answers calls, or the tests that call it."""

from __future__ import annotations

import atexit
import builtins
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

from . import cells, judging, wire

NAME = "<solution>"


def show(source: str, name: str, error: BaseException, traceback: TracebackType | None) -> None:
    """The traceback on stderr, with the lines of the source, without the launcher's own frames."""
    import linecache  # paid for by failing code only
    from traceback import print_exception

    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    print_exception(type(error), error, traceback)


def _end_of_program() -> None:
    """What the interpreter does after the last line: waits for threads, calls the exit functions, flushes."""
    if (threading := sys.modules.get("threading")) is not None:
        threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()


def _exit_status(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def run(job: dict[str, Any], token: str, proof: int, channel: int = -1) -> NoReturn:
    """Does the job and ends the process; writes `token kind` to the descriptor proof when it ended by itself.

    The token keeps apart what the code writes to descriptors that it happens to find. It is no secret to code that
    looks for it: nothing but tests, which share their process with no code of a model's, is believed to have passed.
    """
    modes = {"program": _program, "solution": _solution, "judge": _judge, "cells": _cells}
    modes[job["mode"]](job, _ender(token, proof), channel)
    os._exit(1)


def _ender(token: str, proof: int) -> Callable[[str, int], NoReturn]:
    """How this process ends. What the code could replace in modules is taken hold of before it starts."""
    write, leave, getpid, me = os.write, os._exit, os.getpid, os.getpid()
    kinds = {kind: f"{token} {kind}".encode() for kind in ("ok", "error", "syntax", "memory")}
    flushes = (sys.stdout.flush, sys.stderr.flush)

    def end(kind: str, status: int) -> NoReturn:
        for flush in flushes:
            with suppress(OSError, ValueError):  # closed by the code
                flush()
        if kind in kinds and getpid() == me:  # a fork of the code may come here as well
            write(proof, kinds[kind])
        leave(status)

    return end


def _main_module() -> dict[str, Any]:
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    return main.__dict__


def _compile(source: str, end: Callable[[str, int], NoReturn]) -> CodeType:
    try:
        return compile(source, NAME, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        show(source, NAME, error, None)
        end("syntax", 1)
    except MemoryError:
        end("memory", 1)


def _execute(source: str, code: CodeType, names: dict[str, Any], end: Callable[[str, int], NoReturn]) -> None:
    show_in_c = sys.__excepthook__
    try:
        exec(code, names)
    except SystemExit as error:
        end("exit", _exit_status(error))
    except MemoryError as error:
        show_in_c(type(error), error, error.__traceback__ and error.__traceback__.tb_next)  # no memory for an import
        end("memory", 1)
    except BaseException as error:  # whatever the code raised; there is nobody above to see it
        show(source, NAME, error, error.__traceback__ and error.__traceback__.tb_next)
        end("error", 1)


def _program(job: dict[str, Any], end: Callable[[str, int], NoReturn], channel: int) -> None:
    code = _compile(job["source"], end)
    names = _main_module()
    _execute(job["source"], code, names, end)
    _execute("", _END, {"end": _end_of_program}, end)
    end("ok", 0)


_END = compile("end()", NAME, "exec")


def _solution(job: dict[str, Any], end: Callable[[str, int], NoReturn], channel: int) -> None:
    """Runs the source, then answers calls by name until the other side closes."""
    source, line = job["source"], wire.Channel(channel)
    encode, decode = wire.encode, wire.decode
    wire.DECODERS["held"] = lambda data: wire.HELD[data[1]]
    wire.DECODERS["name"] = lambda name: names[name]
    code = _compile(source, end)
    names = _main_module()
    _execute(source, code, names, end)
    line.send("ready")
    while True:
        try:
            name, args, keywords = line.receive()
        except EOFError:
            end("ok", 0)
        try:
            values = [decode(arg) for arg in args]
            reply = ["value", encode(names[name](*values, **{key: decode(arg) for key, arg in keywords}))]
        except SystemExit as error:
            end("exit", _exit_status(error))
        except BaseException as error:  # whatever the code raised: the tests are told
            with suppress(MemoryError, RecursionError):
                show(source, NAME, error, error.__traceback__ and error.__traceback__.tb_next)
            reply = ["memory" if isinstance(error, MemoryError) else "error", type(error).__name__]
        line.send(reply)


def _cells(job: dict[str, Any], end: Callable[[str, int], NoReturn], channel: int) -> None:
    cells.serve(channel, _main_module())
    end("ok", 0)


def _judge(job: dict[str, Any], end: Callable[[str, int], NoReturn], channel: int) -> None:
    judging.serve(socket.socket(fileno=channel), job["cpu_seconds"])
    end("ok", 0)
