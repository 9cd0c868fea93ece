"""Runs tests, in which the solution's names stand for calls into its process, and says what came of them.

Only tests run here, which are trusted; of a solution only values arrive, as wire.py makes them anew. So one process
serves one solution after another.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import linecache
import marshal
import os
import random
import signal
import socket
import sys
import traceback
from types import CodeType, ModuleType
from typing import Any

from . import wire

NAME = "<tests>"
_MOST_OUTPUT = 65536


def serve(control: socket.socket, cpu_seconds: float) -> None:
    """Judges until the other side closes. A message has two descriptors, the work and the line to the solution; the
    answer is a JSON list: the word for it, and what the tests printed."""
    depth = sys.getrecursionlimit()
    while True:
        message, fds, _, _ = socket.recv_fds(control, 16, 2)
        if not message:
            return
        work = marshal.loads(os.pread(fds[0], os.fstat(fds[0]).st_size, 0))
        printed = io.StringIO()
        random.seed(0)  # the same for all, whoever came before
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # its signal ends this process
            word = _judge(work["setup"], work["source"], work["names"], wire.Channel(fds[1]))
            signal.setitimer(signal.ITIMER_PROF, 0)
        sys.setrecursionlimit(depth)
        for fd in fds:
            os.close(fd)
        output = printed.getvalue()[:_MOST_OUTPUT].encode(errors="replace").decode()  # half an emoji is no UTF-8
        control.send(json.dumps([word, output]).encode())


class _CallError(BaseException):
    """A call of the solution raised; of BaseException so that no test catches it by accident."""


class _GoneError(BaseException):
    """The solution's process answers no more."""


class _Stub(wire.Name):
    """The tests' view of a function of the solution's."""

    def __init__(self, name: str, line: wire.Channel) -> None:
        super().__init__(name)
        self._line = line

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        try:
            encoded = [[*map(wire.encode, args)], [[key, wire.encode(arg)] for key, arg in keywords.items()]]
            self._line.send([self.name, *encoded])
            kind, answer = self._line.receive()
        except (EOFError, OSError) as error:
            raise _GoneError from error
        if kind != "value":
            raise _CallError(kind)
        return wire.decode(answer)


wire.ENCODERS[_Stub] = wire.ENCODERS[wire.Name]


@functools.lru_cache(16)  # a problem's solutions come one after another
def _compiled(source: str) -> CodeType:
    return compile(source, NAME, "exec", dont_inherit=True)


def _judge(setup: str, tests: str, names: list[str], line: wire.Channel) -> str:
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    source = setup
    try:
        exec(_compiled(setup), main.__dict__)
        main.__dict__.update({name: _Stub(name, line) for name in names})
        source = tests
        code = _compiled(tests)
        if line.receive() != "ready":
            raise _GoneError
        exec(code, main.__dict__)
    except (EOFError, _GoneError):
        return "gone"
    except _CallError as error:
        return "memory" if error.args[0] == "memory" else "remote"
    except BaseException as error:  # an assertion, or whatever a wrong value led to
        linecache.cache[NAME] = (len(source), None, source.splitlines(keepends=True), NAME)
        traceback.print_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        return "wrong"
    return "ok"
