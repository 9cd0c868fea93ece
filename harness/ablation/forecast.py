"""`harness ablate --dry-run`: tokens and time of a sweep before it starts, from this model's speed here and now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from harness.ablation.units import Sweep, Unit
from harness.backends import load_backend
from harness.dry_run import estimate
from harness.long_context import laid_over
from qwen_model.prefill import CausalLM, Reader

COLUMNS = ("run", "samples", "tokens to read", "generated tokens", "time")


def forecast(sweep: Sweep) -> Iterator[tuple[str, ...]]:
    """A line per run, as COLUMNS. A run may fill several cells; texts that are read once count once."""
    model: Any = None
    of: tuple[str, ...] = ()
    for unit in sweep.units:
        prepared = unit.prepared
        settings = prepared.settings
        key = str(settings.model), settings.backend, settings.dtype, settings.device
        if key != of:
            model, of = None, key  # two at once may not fit
            model = load_backend(prepared)
        samples = prepared.samples[prepared.tasks[0].name]
        if unit.one_reading and settings.stride is None:
            with laid_over(model, settings.long_context):
                tokens, seconds = _reading(model, unit)
            yield unit.label, f"{len(samples)}", f"{tokens:,}", "0", f"about {seconds / 60:.1f} min"
        else:
            loaded = replace(settings, model=model) if settings.backend == "native" else settings
            _, rows = estimate(replace(prepared, settings=loaded))
            _, number, _, computed, generated, minutes = rows[0]
            yield unit.label, number, computed, generated, minutes


def _reading(model: CausalLM, unit: Unit) -> tuple[int, float]:
    """Tokens and seconds of all documents' readings. A piece takes a time that grows in a straight line with what lies
    before it, so that two pieces give it: the first, and the last of the longest text."""
    lengths: dict[int, int] = {}  # the longest reading at each step of dynamic NTK, which must be a reading of its own
    documents = set()
    for sample in unit.prepared.samples[unit.prepared.tasks[0].name]:
        length = sample.fields["length"]
        documents.add(sample.fields["document"])
        step = model.ntk_step(length)
        lengths[step] = max(length, lengths.get(step, 0))
    longest = max(lengths.values())
    reader = Reader(model)
    size = reader.piece
    behind = max(longest - size, 0)
    reader.stack.make_room(1, behind + size)
    first, last = (_piece(reader, past) for past in (0, behind))
    slope = (last - first) / behind if behind else 0.0
    pieces = [past for length in lengths.values() for past in range(0, length, size)]
    seconds = sum(first + max(slope, 0.0) * past for past in pieces)
    return len(documents) * len(pieces) * size, len(documents) * seconds


def _piece(reader: Reader, past: int) -> float:
    """Seconds of one piece behind so many tokens, whatever they are."""
    seconds = []
    for _ in range(2):  # the first pass warms up
        reader.stack.length = past
        start = time.monotonic()
        reader.read_on([0] * reader.piece, [0] * reader.piece)
        seconds.append(time.monotonic() - start)
    reader.stack.length = 0
    return seconds[-1]
