"""Processes that share a run, as `torchrun --nproc-per-node N -m harness run ...` starts them.

Rank 0 owns the run folder: it hands out the samples that are not judged yet and writes what all ranks judge. They speak
through torchrun's own key-value store, in JSON: records come when they come, so no collective is needed, and no gloo or
nccl. A rank that dies makes torchrun stop the others; what was written stays.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from harness.records import RunError, SampleRecord, difference

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Item = TypeVar("Item")
INTERVAL = 0.05
"""Seconds between two looks: waiting inside the store would leave signals unheard."""
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


class Ranks:
    """This process among those of the launch. Use `ranks`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.rank, self.size, self.local_rank, self.local_size = (int(environment[name]) for name in ALONE)
        self._turns = self._runs = self._sent = 0

    @property
    def first(self) -> bool:
        """Whether this process owns folders and speaks to the user."""
        return self.rank == 0

    @property
    def processors(self) -> int:
        """Processors for each rank of this machine."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_size)

    @cached_property
    def _store(self) -> Store:
        from torch.distributed.rendezvous import rendezvous

        store: Store = next(rendezvous("env://"))[0]
        return store

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """Rank 0 goes through it, then all others: what it fetches or converts they find."""
        self._turns += 1
        if not self.first:
            self._wait(f"turn/{self._turns}")
        yield
        if self.first and self.size > 1:
            self._store.set(f"turn/{self._turns}", "")

    def hand_out(self, spec: Mapping[str, Any], jobs: Sequence[Sequence[tuple[str, str]]]) -> list[tuple[str, str]]:
        """On rank 0: the samples of each task that are to be judged, as (task, id); returns its own share.

        A rank gets neighbours of each task, which share most of their prompts.
        """
        self._runs += 1
        shares = [[job for task in jobs for job in share(task, rank, self.size)] for rank in range(self.size)]
        for rank in range(1, self.size):
            self._store.set(f"jobs/{self._runs}/{rank}", json.dumps([spec, shares[rank]]))
        return shares[0]

    def take(self, spec: Mapping[str, Any]) -> list[tuple[str, str]]:
        """On another rank: its share. Raises RunError where it prepared another run than rank 0 did."""
        self._runs, self._sent = self._runs + 1, 0
        key = f"jobs/{self._runs}/{self.rank}"
        self._wait(key)
        theirs, jobs = json.loads(self._store.get(key))
        differs = difference(theirs, json.loads(json.dumps(spec)))
        if differs:
            raise RunError(f"rank {self.rank} of {self.size} has another run than rank 0: {differs}; give all the same")
        return [(task, id_) for task, id_ in jobs]

    def send(self, record: SampleRecord) -> None:
        """Give a judged sample to rank 0."""
        self._put({"record": asdict(record)})

    def end(self, facts: Mapping[str, Any]) -> None:
        """Nothing more comes from this rank, which waits for rank 0; `facts` are what it tells of its work."""
        self._put({"end": dict(facts)})
        self._wait(f"finished/{self._runs}")

    def finish(self) -> None:
        """On rank 0: the run folder is whole."""
        if self.size > 1:
            self._store.set(f"finished/{self._runs}", "")

    def _put(self, message: Mapping[str, Any]) -> None:
        self._store.set(f"said/{self._runs}/{self.rank}/{self._sent}", json.dumps(message, allow_nan=False))
        self._sent += 1

    async def receive(self, facts: list[Mapping[str, Any]]) -> AsyncIterator[SampleRecord]:
        """On rank 0: what the other ranks judge, until all have ended; their facts go into the list."""
        working = dict.fromkeys(range(1, self.size), 0)
        while working:
            heard = False
            for rank, number in list(working.items()):
                key = f"said/{self._runs}/{rank}/{number}"
                if not self._store.check([key]):
                    continue
                heard, message = True, json.loads(self._store.get(key))
                self._store.delete_key(key)
                working[rank] = number + 1
                if "end" in message:
                    facts.append(message["end"])
                    del working[rank]
                else:
                    yield SampleRecord(**message["record"])
            await asyncio.sleep(0 if heard else INTERVAL)

    def speaks(self) -> bool:
        """Whether this rank is the first one with something to say of how the run ended: one line is enough."""
        if self.size == 1:
            return True
        try:
            return int(self._store.add("last words", 1)) == 1
        except RuntimeError:  # the launcher has gone, and nobody can be asked
            return True

    def _wait(self, key: str) -> None:
        while not self._store.check([key]):
            time.sleep(INTERVAL)


@cache
def ranks() -> Ranks:
    """This process's place in the launch, by the variables that torchrun sets; alone without them."""
    return Ranks(os.environ if ALONE.keys() <= os.environ.keys() else ALONE)


def share(items: Sequence[Item], rank: int, size: int) -> Sequence[Item]:
    """The part of a list that a rank gets: neighbours, as many as any other rank but for one."""
    return items[len(items) * rank // size : len(items) * (rank + 1) // size]
