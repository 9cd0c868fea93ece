"""Model-written code, run beside the event loop: sandboxes are made once, and their runs go to a pool of threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from harness.sandbox import Policy, Result, Sandbox
from harness.sandbox.interpreter import POLICY, Cell, Interpreter
from harness.sandbox.languages import Workshop
from tasks.api import Check

Answer = TypeVar("Answer")


class Runners:
    """What runs programs for any number of samples."""

    def __init__(self, count: int, *, unsafe: bool) -> None:
        """`count` programs at once; `unsafe` without any walls."""
        self.count, self._unsafe = count, unsafe
        self._pool = ThreadPoolExecutor(count)
        self.conversations = asyncio.Semaphore(4 * count)
        self._sandboxes: dict[Policy, Sandbox] = {}
        self._workshops: dict[tuple[str, float], Workshop | str] = {}

    def sandbox(self, policy: Policy) -> Sandbox:
        """The sandbox of a policy, made once."""
        if policy not in self._sandboxes:
            self._sandboxes[policy] = Sandbox(policy, unsafe=self._unsafe)
        return self._sandboxes[policy]

    def workshop(self, language: str, cpu_seconds: float) -> Workshop:
        """The workshop of a language, made once. Raises FileNotFoundError where its compiler cannot be had."""
        key = (language, cpu_seconds)
        if key not in self._workshops:
            try:
                self._workshops[key] = Workshop(language, cpu_seconds, unsafe=self._unsafe)
            except FileNotFoundError as error:
                self._workshops[key] = str(error)
        found = self._workshops[key]
        if isinstance(found, str):
            raise FileNotFoundError(found)
        return found

    async def in_thread(self, work: Callable[..., Answer], *args: Any) -> Answer:
        """The result of blocking work, done in the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    def close(self) -> None:
        """End what waits, and every sandbox."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for sandbox in self._sandboxes.values():
            sandbox.close()
        for workshop in self._workshops.values():
            if isinstance(workshop, Workshop):
                workshop.close()


class SandboxHandle:
    """The blocking sandbox, awaited: a `tasks.api.Sandbox`."""

    def __init__(self, runners: Runners) -> None:
        self._runners = runners

    async def run(self, code: str, *, cpu_seconds: float = 5.0) -> Result:
        return await self._runners.in_thread(self._runners.sandbox(Policy(cpu_seconds=cpu_seconds)).run, code)

    async def check(self, check: Check, *, cpu_seconds: float = 5.0) -> Result:
        box = self._runners.sandbox(Policy(cpu_seconds=cpu_seconds))
        return await self._runners.in_thread(box.check, check.solution, check.tests, check.names, check.setup)

    async def build(self, language: str, source: str, needs: str, *, cpu_seconds: float = 10.0) -> Result:
        try:
            workshop = self._runners.workshop(language, cpu_seconds)
        except FileNotFoundError as error:
            return Result(outcome="not_installed", detail=str(error))
        return await self._runners.in_thread(workshop.run, source, needs)

    @asynccontextmanager
    async def interpreter(self, files: Mapping[str, str]) -> AsyncIterator[_InterpreterHandle]:
        box = self._runners.sandbox(POLICY)
        # Not all samples at once: each holds a process with large libraries while its model writes.
        async with self._runners.conversations:
            made = await self._runners.in_thread(Interpreter, box, files)
            try:
                yield _InterpreterHandle(self._runners, made)
            finally:
                await self._runners.in_thread(made.close)


class _InterpreterHandle:
    def __init__(self, runners: Runners, interpreter: Interpreter) -> None:
        self._runners, self._interpreter = runners, interpreter

    async def run(self, source: str, *, seconds: float = 30.0) -> Cell:
        return await self._runners.in_thread(self._interpreter.run, source, seconds)
