"""Processes and shards: one machine's core or many GPUs under torchrun, by the same calls.

`World` is who takes part; `parallelize` shards a module by FSDP2. A single process shards nothing and needs no group.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qwen_train.errors import TrainError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among all: `rank` of `size`, and its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU
    mesh: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Each value summed over all processes, in float64."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found)  # gloo carries CPU tensors, whatever the device's own backend is
        return found.tolist()

    def largest(self, value: float) -> float:
        """The largest of all processes' values."""
        if self.size == 1:
            return value
        found = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.item()

    def barrier(self) -> None:
        if self.size > 1:
            self.total(0.0)


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Take part in what torchrun started, and leave it in the end; alone where nothing did. `device` is cpu, cuda, or
    auto: cuda where it is.

    Raises TrainError for a device that is not to be had.
    """
    world = _join(device)
    try:
        yield world
    finally:
        if world.size > 1:
            dist.destroy_process_group()


def _join(device: str) -> World:
    found = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not found):
        raise TrainError(f"device: {device!r} is not to be had here; give cpu{', cuda' if found else ''} or auto")
    kind = device if device != "auto" else ("cuda" if found else "cpu")
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(place)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(device=place)
    # the first process alone makes data and runs tasks, for hours, while the others wait for it
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=timedelta(days=7))
    mesh = dist.device_mesh.init_device_mesh(kind, (size,))
    return World(dist.get_rank(), size, place, mesh)


def parallelize(module: nn.Module, blocks: Iterable[nn.Module], world: World, dtype: str, *, compile: bool) -> None:
    """Shard a module in place over all processes: each of `blocks`, and the rest as one more piece.

    Parameters stay in float32; passes compute in `dtype`, gradients are summed in float32. The module may be on the
    meta device: move it by `to_empty` and fill it afterwards. `compile` compiles each block.
    """
    blocks = list(blocks)
    if compile:
        for block in blocks:
            block.compile()
    if world.size == 1:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(
        param_dtype=DTYPES[dtype], reduce_dtype=torch.float32, cast_forward_inputs=False, output_dtype=None
    )
    for block in blocks:
        fully_shard(block, mesh=world.mesh, mp_policy=policy)
    fully_shard(module, mesh=world.mesh, mp_policy=policy)


def whole(tensor: Tensor) -> Tensor:
    """All of a parameter, on this process's CPU; every process must ask."""
    full = getattr(tensor, "full_tensor", None)
    return (tensor if full is None else full()).detach().cpu()
