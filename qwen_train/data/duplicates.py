"""Which kept documents are copies of others, from arrays on disk: sorted runs, a range of keys at a time.

Memory holds ENTRIES entries of a range, and 25 bytes per document at the end. Every number here counts the kept
documents of all shards in order, from 0. A file that is there is not made again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qwen_train.data.clean import ENTRY
from qwen_train.data.config import Near
from qwen_train.data.files import open_array, save_array

ENTRIES = 1 << 22
PAIRS = 1 << 14
"""Pairs whose signatures are compared at once."""
ROUNDS = 100
"""Documents of one bucket with which all others are compared, at most."""
MAPPED = 200
"""Arrays that are mapped at once: each holds a file open."""
KEPT, EXACT, NEAR = 0, 1, 2
Array = Any


class Kept:
    """The arrays of all runs, mapped."""

    def __init__(self, work: Path, runs: Sequence[int]) -> None:
        """`runs`: the number of each shard's."""
        self._stems = [work / f"{shard:06d}.{run}" for shard, count in enumerate(runs) for run in range(count)]
        self._opened = lru_cache(MAPPED)(open_array)
        self._sizes = [len(self.array(run, "places")) for run in range(len(self._stems))]
        self.bases = np.cumsum([0, *self._sizes])
        """Number of each run's first document; the last is the number of all."""
        self.count = int(self.bases[-1])
        self.ranges = max(1, -(-self.count // ENTRIES))
        """Ranges of keys that are looked at one after another."""

    def array(self, run: int, name: str) -> Array:
        return self._opened(Path(f"{self._stems[run]}.{name}.npy"))

    def place(self, number: int) -> tuple[int, Array]:
        """Run and its row (part, line, length) of a document."""
        run = bisect_right(self.bases, number) - 1
        return run, self.array(run, "places")[number - self.bases[run]]

    def entries(self, name: str, part: int, band: int | None = None) -> Array:
        """The entries of a range of keys from all runs, by key, check and number."""
        low, high = ((part << 64) // self.ranges, ((part + 1) << 64) // self.ranges - 1)
        found: list[Array] = [np.zeros(0, dtype=ENTRY)]
        for run, base in enumerate(self.bases[:-1].tolist()):
            column = self.array(run, name)
            column = column if band is None else column[band]
            first = np.searchsorted(column["key"], np.uint64(low), side="left")
            after = np.searchsorted(column["key"], np.uint64(high), side="right")
            piece = np.array(column[first:after])
            piece["number"] += base
            found.append(piece)
        joined = np.concatenate(found)
        return joined[np.lexsort((joined["number"], joined["check"], joined["key"]))]

    def signatures(self, numbers: Array) -> Array:
        """(N, P), in the order asked for."""
        runs = np.searchsorted(self.bases, numbers, side="right") - 1
        width = self.array(0, "signatures").shape[1]
        found: Array = np.zeros((len(numbers), width), dtype=np.uint32)
        for run in np.unique(runs).tolist():
            mine = runs == run
            found[mine] = self.array(run, "signatures")[numbers[mine] - self.bases[run]]
        return found

    def lengths(self) -> Array:
        return np.concatenate(
            [np.zeros(0, dtype=np.int64), *(self.array(run, "places")[:, 2] for run in range(len(self._stems)))]
        )


def exact(kept: Kept, part: int, path: Path) -> None:
    """Write the pairs (copy, first) of a range of keys."""
    if path.is_file():
        return
    entries = kept.entries("keys", part)
    new = _new(entries)
    firsts = entries["number"][np.maximum.accumulate(np.where(new, np.arange(len(entries)), 0))]
    save_array(path, np.stack([entries["number"], firsts], axis=1)[~new])


def near(kept: Kept, wanted: Near, gone: Array, band: int, part: int, path: Path) -> None:
    """Write the pairs of a band's buckets whose signatures agree enough; `gone` (N,) marks exact copies."""
    if path.is_file():
        return
    entries = kept.entries("bands", part, band)
    entries = entries[~gone[entries["number"]]]
    numbers, buckets = entries["number"], np.cumsum(_new(entries))
    save_array(path, np.concatenate([np.zeros((0, 2), dtype=np.int64), *_alike(kept, wanted, numbers, buckets)]))


def _new(entries: Array) -> Array:
    """Where an entry differs from the one before."""
    new: Array = np.ones(len(entries), dtype=bool)
    new[1:] = (entries["key"][1:] != entries["key"][:-1]) | (entries["check"][1:] != entries["check"][:-1])
    return new


def _alike(kept: Kept, wanted: Near, numbers: Array, buckets: Array) -> Iterator[Array]:
    """Compare each bucket's first document with its others; those unlike it are compared among themselves next."""
    for _ in range(ROUNDS):
        sizes = np.bincount(buckets) if len(buckets) else np.zeros(0, dtype=np.int64)
        several = sizes[buckets] > 1
        numbers, buckets = numbers[several], buckets[several]
        if not len(numbers):
            return
        new: Array = np.append(True, buckets[1:] != buckets[:-1])
        firsts = numbers[np.maximum.accumulate(np.where(new, np.arange(len(numbers)), 0))]
        pairs = np.stack([numbers, firsts], axis=1)[~new]
        alike = (
            np.concatenate([agreement(kept, pairs[start : start + PAIRS]) for start in range(0, len(pairs), PAIRS)])
            >= wanted.threshold - 1e-9
        )
        yield pairs[alike]
        numbers, buckets = numbers[~new][~alike], buckets[~new][~alike]


def agreement(kept: Kept, pairs: Array) -> Array:
    """The share of their signatures in which documents agree: an estimate of their Jaccard similarity."""
    return (kept.signatures(pairs[:, 0]) == kept.signatures(pairs[:, 1])).mean(axis=1)


def mark_exact(count: int, paths: Sequence[Path]) -> Array:
    """(N,): the first copy of each document, -1 for the first itself."""
    first: Array = np.full(count, -1, dtype=np.int64)
    for path in paths:
        pairs = open_array(path)
        first[pairs[:, 0]] = pairs[:, 1]
    return first


def resolve(kept: Kept, keepers: Array, paths: Sequence[Path]) -> Array:
    """Join the pairs to groups; of each group the longest document stays, of equally long ones the first.

    Writes the keepers into `keepers` and returns (N,) KEPT, EXACT or NEAR.
    """
    fates = np.where(keepers >= 0, EXACT, KEPT).astype(np.uint8)
    parents: Any = np.arange(kept.count)
    parent = memoryview(parents)

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    for path in paths:
        for one, other in open_array(path).tolist():
            low, high = sorted((root(one), root(other)))
            parent[high] = low
    joined = np.unique(
        np.concatenate([np.zeros(0, dtype=np.int64), *(np.array(open_array(path)).ravel() for path in paths)])
    )
    lengths = kept.lengths()
    best: dict[int, int] = {}
    for number in joined.tolist():  # ascending: an equally long one comes later
        group = root(number)
        if group not in best or lengths[number] > lengths[best[group]]:
            best[group] = number
    for number in joined.tolist():
        keeper = best[root(number)]
        if keeper != number:
            keepers[number], fates[number] = keeper, NEAR
    return fates
