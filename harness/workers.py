"""A `map` over several processes, in order, that Ctrl-C ends without a traceback."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def workers(processes: int, prepare: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """A function like `map`, run by processes that each called `prepare(*arguments)`; by this one if one is enough."""
    if processes == 1:
        prepare(*arguments)
        yield map
        return
    # spawned: a fork would copy the threads' locks of libraries that are loaded here
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (prepare, *arguments)) as pool:

        def over(function: Callable[[Any], Any], todo: Iterable[Any]) -> Iterator[Any]:
            return pool.map(function, todo)

        try:
            yield over
        finally:  # where the caller failed, what waits is not begun; where it did not, nothing waits
            pool.shutdown(wait=False, cancel_futures=True)


def _start(prepare: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    prepare(*arguments)
