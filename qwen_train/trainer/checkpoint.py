"""Checkpoints: a folder per step that is there whole or not at all, written beside the training, read onto any number
of processes.

torch.distributed.checkpoint does the sharded writing, as safetensors: its own format is a pickle, and none is read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from torch import Tensor

from qwen_train.errors import TrainError
from qwen_train.parallel import World

_NAME = re.compile(r"step-(\d{8})")
_FACTS = "training.json"


class Checkpoints:
    """The checkpoints of one run, below `folder`."""

    def __init__(self, folder: Path, world: World, *, keep: int = 2, forever_every: int | None = None) -> None:
        """The last `keep` stay, and every one whose step is a multiple of `forever_every`."""
        self.folder, self.world, self.keep, self.forever_every = folder, world, keep, forever_every
        self._pending: tuple[Future[Any], int, Mapping[str, Any]] | None = None
        self._group: Any = None
        # a single process is what is meant, and said by no_dist
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        if world.size > 1:
            import torch.distributed as dist

            self._group = dist.new_group(backend="gloo")  # written from a thread, beside the training's own exchanges
        if world.first:
            folder.mkdir(parents=True, exist_ok=True)
            for partial in folder.glob("*.partial"):
                shutil.rmtree(partial)
        world.barrier()

    def steps(self) -> list[int]:
        """Steps of which there is a whole checkpoint, ascending."""
        found = (_NAME.fullmatch(path.name) for path in self.folder.glob("step-*") if (path / _FACTS).is_file())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08}"

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Copy the tensors and write them in the background; `poll` or `wait` gives the folder its name."""
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        self.wait()
        if step in self.steps():
            return
        partial = self._partial(step)
        if self.world.first:
            partial.mkdir(parents=True, exist_ok=True)
        self.world.barrier()
        writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        pending = async_save(
            dict(tensors), storage_writer=writer, process_group=self._group, no_dist=self.world.size == 1
        )
        assert isinstance(pending, Future)
        self._pending = (pending, step, facts)

    def poll(self) -> None:
        """Name what is written by now. Every process asks at the same step."""
        if self._pending is None:
            return
        (done,) = self.world.total(float(self._pending[0].done()))
        if done == self.world.size:
            self.wait()

    def wait(self) -> None:
        """Until what is being written is there, whole. Raises TrainError where it cannot be; older ones stay."""
        from torch.distributed.checkpoint.api import CheckpointException

        if self._pending is None:
            return
        (pending, step, facts), self._pending = self._pending, None
        partial = self._partial(step)
        try:
            pending.result()
            if self.world.first:
                _write_whole(partial / _FACTS, json.dumps({**facts, "step": step}, indent=1))
                partial.rename(self.path(step))
                _sync(self.folder)
                self._forget()
        except (OSError, CheckpointException, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainError(f"{partial}: {_reason(error)}; {self._remedy()}") from error
        self.world.barrier()

    def load(self, step: int, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Fill the tensors in place from a checkpoint, a piece at a time; returns its facts.

        Raises TrainError where it does not fit them or is damaged.
        """
        from safetensors import SafetensorError
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load

        path = self.path(step)
        facts = read_facts(path)
        try:
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(path)), no_dist=self.world.size == 1)
        except (OSError, CheckpointException, RuntimeError, SafetensorError, ValueError) as error:
            raise TrainError(
                f"{path}: damaged or of another model ({_reason(error)}); delete it, an older one is taken"
            ) from error
        return facts

    def _partial(self, step: int) -> Path:
        return self.folder / f"step-{step:08}.partial"

    def _forget(self) -> None:
        """Delete what the policy does not keep."""
        for step in self.steps()[: -self.keep]:
            if not (self.forever_every and step % self.forever_every == 0):
                shutil.rmtree(self.path(step))

    def _remedy(self) -> str:
        steps = self.steps()
        kept = f"; the checkpoint of step {steps[-1]} is whole" if steps else ""
        return f"free space, then the same command goes on{kept}"


def read_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its run. Raises TrainError where it is damaged."""
    try:
        found = json.loads((path / _FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainError(
            f"{path / _FACTS}: cannot be read ({error}); delete the folder, an older one is taken"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        raise TrainError(f"{path / _FACTS}: not what was written; delete the folder, an older one is taken")
    return found


def _reason(error: BaseException) -> str:
    """The cause in one line, from below torch's wrapping."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    failures = getattr(error, "failures", None)
    if failures:
        first = next(iter(failures.values()))
        return _reason(first[0] if isinstance(first, tuple) else first)
    return " ".join(str(error).split())[:200]


def _write_whole(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
