"""How much memory is left, and its running out under one name for every device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from qwen_model.config import ModelError

_CGROUP = Path("/sys/fs/cgroup")


class OutOfMemory(ModelError):
    """A tensor found no room. Whoever can do with less tries again with less."""


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Raises OutOfMemory where torch finds no room, on a GPU or in main memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory(f"out of memory on the GPU ({str(error).splitlines()[0]}); {_LESS}") from error
    except RuntimeError as error:  # neither the allocator of main memory nor CUDA's graphs have one of their own
        if "DefaultCPUAllocator" not in str(error) and "CUDA error: out of memory" not in str(error):
            raise
        raise OutOfMemory(f"out of memory ({str(error).splitlines()[0]}); {_LESS}") from error


_LESS = "take a smaller model, --dtype bfloat16 or shorter texts"


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken: of the GPU, or of main memory within the limits of the control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and (allowed := limit.read_text().strip()) != "max":
        free = min(free, int(allowed) - int(used.read_text()))
    return max(free, 0)
