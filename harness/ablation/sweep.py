"""Computing a sweep: one run folder per unit, each model loaded once. A killed sweep goes on where it was.

The sweep's folder holds `runs/HASH/`, named by what determines their numbers, and `sweep.json`, which says what fills
which cell. Nothing is ever mixed: a row or a length that is added later uses what is there and computes the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.ablation.units import Sweep, Unit
from harness.backends import load_backend
from harness.evaluation import Prepared, Progress, execute
from harness.records import Run, RunError, folder_name, spec_hash, write_atomic
from harness.sandbox import SandboxUnavailable
from harness.store import locked
from qwen_model.config import ModelError
from tasks.api import TaskError

if TYPE_CHECKING:
    from qwen_model.prefill import CausalLM


@dataclass(frozen=True, kw_only=True)
class Done:
    """A sweep that was computed: the run of each unit, and what failed."""

    sweep: Sweep
    runs: Sequence[tuple[Unit, Run]]
    failed: Mapping[str, str]
    """By cell, one line."""


def default_folder(sweep: Sweep) -> Path:
    """runs/ablate-TASK-MODEL-HASH: the same command finds its own folder again."""
    first = sweep.units[0].prepared
    whole = spec_hash({"units": sorted(spec_hash(unit.prepared.spec) for unit in sweep.units)})
    return Path("runs") / folder_name("ablate", first.tasks[0].name, first.checkpoint.name, whole[:8])


def run(sweep: Sweep, folder: Path, facts: Mapping[str, Any], progress: Progress) -> Done:
    """Compute what is not computed yet. A unit that fails is named, and the rest goes on.

    `facts` are written into sweep.json: what the sweep was asked for. Raises RunError where the folder cannot be used.
    """
    failed = dict(sweep.failed)
    finished: list[tuple[Unit, Run]] = []
    models = _Models()
    with locked(folder, ("sweep.json", "runs")):
        for number, unit in enumerate(sweep.units, start=1):
            progress.stage(f"[{number}/{len(sweep.units)}] {unit.label}")
            path = folder / "runs" / spec_hash(unit.prepared.spec)[:12]
            try:
                finished.append((unit, _execute(unit.prepared, path, models, progress)))
            except (TaskError, ModelError, RunError, SandboxUnavailable, RuntimeError, MemoryError) as error:
                if not _is_the_cells_own(error):
                    raise
                line = " ".join(str(error).split()) or "out of memory"
                failed |= {cell: line for cell, _ in unit.places}
                progress.stage(f"failed: {unit.label}: {line}")
        write_atomic(folder / "sweep.json", json.dumps(_described(sweep, finished, failed, facts), indent=1) + "\n")
    return Done(sweep=sweep, runs=finished, failed=failed)


def _is_the_cells_own(error: Exception) -> bool:
    """Of torch's RuntimeErrors only want of memory, which has no type of its own on the CPU; not a mistake in code."""
    if isinstance(error, RuntimeError) and not isinstance(error, SandboxUnavailable):
        return any(sign in str(error) for sign in ("can't allocate memory", "out of memory"))
    return True


def _execute(prepared: Prepared, path: Path, models: _Models, progress: Progress) -> Run:
    if not (path / "results.json").is_file():
        prepared = replace(prepared, settings=replace(prepared.settings, model=models.of(prepared, progress)))
    return execute(prepared, path, progress)


class _Models:
    """The model that was used last, loaded once."""

    def __init__(self) -> None:
        self._key: tuple[str, ...] = ()
        self._model: CausalLM | str = ""

    def of(self, prepared: Prepared, progress: Progress) -> Any:
        """A decoder; of other backends only the name, for they load for themselves."""
        settings = prepared.settings
        if settings.backend != "native":
            return settings.model
        key = (str(prepared.checkpoint.folder), settings.dtype, settings.device)
        if key != self._key:
            self._key, self._model = (), ""  # two at once may not fit
            progress.stage(f"loading {prepared.checkpoint.name} ({settings.dtype})")
            self._model = load_backend(prepared)
            self._key = key
        return self._model


def _described(
    sweep: Sweep, finished: Sequence[tuple[Unit, Run]], failed: Mapping[str, str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What sweep.json says."""
    return {
        **facts,
        "cells": [
            {
                "name": cell.name,
                "switches": sweep.switches[cell.name],
                "train_length": sweep.trained.get(cell.name),
                "failed": failed.get(cell.name),
            }
            for cell in sweep.cells
        ],
        "runs": [
            {
                "folder": f"runs/{found.path.name}",
                "task": unit.prepared.tasks[0].name,
                "model": unit.prepared.spec["model"],
                "fills": [{"cell": cell, "length": length} for cell, length in unit.places],
            }
            for unit, found in finished
        ],
    }
