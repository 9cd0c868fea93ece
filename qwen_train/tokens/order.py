"""Which tokens step s reads: a pure function of (seed, s), found in constant time, whatever the number of processes.

Sources are mixed by weight in blocks of slots; within a source each pass over it is cut anew and its sequences are put
into an order of their own, by a bijection that needs no table.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from qwen_model.progress import say
from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.tokens.store import Array, Stream, TokenFiles
from qwen_train.trainer import Micro

BLOCK = 1024
"""Slots over which the weights hold exactly; a source whose share is too small for one of them is not read."""
MOST_UNREAD = 0.1
"""Share of the tokens that may lie in such sources."""


def draw(*parts: int | str) -> int:
    """64 bits that depend on all parts and nothing else."""
    text = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def permuted(index: int, size: int, *key: int | str) -> int:
    """Where a keyed bijection of 0 .. size - 1 sends an index: a Feistel network, walked until it lands inside."""
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    rounds = _rounds(key)
    while True:
        left, right = index >> half, index & mask
        for secret in rounds:
            mixed = (right ^ secret) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
            mixed = (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ (mixed >> 32 & mask)
        index = left << half | right
        if index < size:
            return index


@functools.lru_cache(maxsize=256)
def _rounds(key: tuple[int | str, ...]) -> list[int]:
    return [draw(*key, number) for number in range(4)]


class Source:
    """A stream as an endless list of sequences of `length` + 1 tokens, the last being the first of what follows."""

    def __init__(self, stream: Stream, length: int, seed: int) -> None:
        self.stream, self.length, self.seed = stream, length, seed
        self.per_pass = (len(stream) - 1) // length
        if self.per_pass < 1:
            raise TrainError(
                f"{stream.name}: {len(stream):,} tokens are fewer than one sequence of {length} + 1; add text, or lower"
                " training.context"
            )

    def start(self, index: int) -> int:
        """Where in the stream a sequence begins."""
        turn, place = divmod(index, self.per_pass)
        key = (self.seed, self.stream.name, turn)
        spare = len(self.stream) - 1 - self.per_pass * self.length
        shift = draw(*key, "shift") % (spare + 1)  # other cuts in each pass
        return shift + self.length * permuted(place, self.per_pass, *key)


class Mixture:
    """Several sources by weight, as an endless list of sequences."""

    def __init__(self, files: TokenFiles, length: int, seed: int, weights: Mapping[str, float] | None = None) -> None:
        """`weights` by source, in tokens; None takes each as long as it is, and none that is too small to be read.

        Raises TrainError for unknown names, for sources that are named and too small, and where none is large enough.
        """
        unknown = sorted(set(weights or ()) - set(files.sources))
        if unknown:
            raise TrainError(
                f"training.weights: no source {unknown[0]!r} in {files.folder}; it has {', '.join(files.sources)}"
            )
        streams = {name: files.open(name) for name in weights or files.sources}
        sizes = {name: float(len(its)) for name, its in streams.items() if len(its) > length}
        chosen = dict(weights) if weights else sizes
        slots = _apportioned(chosen) if chosen else {}
        while not weights and 0 in slots.values():
            slots = _apportioned({name: chosen[name] for name, count in slots.items() if count})
        if 0 in slots.values():
            small = next(name for name, count in slots.items() if not count)
            raise TrainError(f"training.weights: {small!r} has less than 1/{BLOCK} of the tokens; leave it out")
        unread = 1 - sum(len(streams[name]) for name in slots or streams) / sum(map(len, streams.values()))
        if unread > MOST_UNREAD:
            count = f"{len(streams) - len(slots)} of {len(streams)} sources"
            raise TrainError(
                f"{files.folder}: {count}, with {unread:.0%} of the tokens, are too small to be read;"
                " write the token files anew from documents of fewer sources"
            )
        self.sources = [Source(streams[name], length, seed) for name in slots or streams]
        self.left_out = sorted(streams.keys() - slots.keys())
        """Sources that are not read: shorter than one sequence, or too few of the tokens for one slot of BLOCK."""
        self.seed, self.length = seed, length
        self._per_block = list(slots.values())
        self._slots: Array = np.repeat(np.arange(len(slots)), self._per_block)
        self._block = functools.lru_cache(maxsize=4)(self._drawn)

    def _drawn(self, block: int) -> tuple[Array, Array]:
        """Which source each slot of a block has, and how many slots of the block it had before."""
        order = np.random.default_rng(draw(self.seed, "block", block)).permutation(self._slots)
        before: Array = np.zeros(BLOCK, np.int64)
        for source in range(len(self.sources)):
            own = order == source
            before[own] = np.arange(own.sum())
        return order, before

    def place(self, index: int) -> tuple[int, int]:
        """Source and start of sequence `index` of the mixture."""
        block, slot = divmod(index, BLOCK)
        order, before = self._block(block)
        source = int(order[slot])
        return source, self.sources[source].start(block * self._per_block[source] + int(before[slot]))

    def places(self, first: int, count: int) -> list[tuple[Stream, int]]:
        """Where sequences first .. first + count - 1 stand: the stream and the start of each."""
        found = [self.place(index) for index in range(first, first + count)]
        return [(self.sources[source].stream, start) for source, start in found]


def as_micro(places: Sequence[tuple[Stream, int]], length: int, *, documents: bool, device: torch.device) -> Micro:
    """Sequences of `length` tokens and the token that follows each. `documents`: each document reads only itself."""
    tokens = torch.from_numpy(np.stack([stream.read(start, length + 1) for stream, start in places]))
    inputs = {"input_ids": tokens[:, :-1].to(device), "targets": tokens[:, 1:].to(device)}
    if documents:
        numbered = np.stack([stream.segments(start, length) for stream, start in places])
        inputs["segments"] = torch.from_numpy(numbered).to(device)
    read = len(places) * length
    return Micro(inputs, count=read, tokens=read)


def _apportioned(weights: Mapping[str, float]) -> dict[str, int]:
    """BLOCK slots by weight, largest remainders first."""
    total = sum(weights.values())
    if not total > 0 or min(weights.values()) < 0:
        raise TrainError("training.weights: not shares; give numbers above 0")
    exact = {name: BLOCK * weight / total for name, weight in weights.items()}
    counts = {name: math.floor(share) for name, share in exact.items()}
    for name in sorted(weights, key=lambda name: counts[name] - exact[name])[: BLOCK - sum(counts.values())]:
        counts[name] += 1
    return counts


class TokenBatches:
    """What a `Trainer` asks for: this process's micro-batches of a step."""

    def __init__(self, mixture: Mixture, world: World, *, batch: int, micro_batch: int, across_documents: bool) -> None:
        """`batch` sequences a step over all processes, `micro_batch` at once in each. Raises TrainError."""
        if batch % (world.size * micro_batch):
            raise TrainError(
                f"training.batch: {batch} sequences are not shared evenly by {world.size} processes in parts of"
                f" {micro_batch} (training.micro_batch); give a multiple of {world.size * micro_batch}"
            )
        self.mixture, self.world = mixture, world
        self.batch, self.micro_batch, self.across_documents = batch, micro_batch, across_documents
        if mixture.left_out and world.first:
            say(
                f"not read, each shorter than a sequence or too small for one of {BLOCK} slots:"
                f" {', '.join(mixture.left_out)}"
            )

    def __call__(self, step: int) -> list[Micro]:
        own = self.batch // self.world.size
        first = step * self.batch + self.world.rank * own
        return [
            as_micro(
                self.mixture.places(first + offset, self.micro_batch),
                self.mixture.length,
                documents=not self.across_documents,
                device=self.world.device,
            )
            for offset in range(0, own, self.micro_batch)
        ]
