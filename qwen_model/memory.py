"""How much memory is left, memory that is taken page by page, and its running out under one name for every device."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf, prod
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from qwen_model.config import ModelError

_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


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
    """Bytes that may still be taken: of the GPU, or of main memory within the limits of the control groups (of version
    2; limits of version 1 are not seen)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = _said("/proc/meminfo", "MemAvailable")
    return int(max(min(free, *map(_left, _groups())), 0))


def _groups() -> list[Path]:
    """The folders of this process's control group and of those that it lies in."""
    lines = _OWN.read_text().splitlines() if _OWN.is_file() else []
    own = PurePosixPath(next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/"))
    return [_CGROUPS / place.relative_to("/") for place in (own, *own.parents)]


def _left(group: Path) -> float:
    """Bytes that a control group may still take; files' pages that nobody has used lately are given up for them."""
    limit = group / "memory.max"
    if not limit.is_file() or (allowed := limit.read_text().strip()) == "max":
        return inf
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(allowed) - int((group / "memory.current").read_text()) + int(stat["inactive_file"])


def peak_resident() -> int:
    """The most bytes of main memory that this process held, on Linux. Raises OSError where the system does not say."""
    return _said("/proc/self/status", "VmHWM")  # ru_maxrss begins with the peak of the process that started this one


def _said(path: str, field: str) -> int:
    """A number of the kernel's, in bytes."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path}: no {field}")


def paged(size: tuple[int, ...], dtype: torch.dtype, *, huge: bool = False) -> Tensor:
    """Zeros in main memory, of which each page is taken when it is first written to. `huge`: in pages of 2 MB where the
    system has them, which are quicker where all is written. Raises OutOfMemory."""
    nbytes = prod(size) * dtype.itemsize
    try:
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise OutOfMemory(f"out of memory ({error.strerror}, {nbytes} bytes); {_LESS}") from error
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them has the small ones
            pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(size)


def give_back(tensor: Tensor) -> None:
    """Leave the pages of a part of what `paged` made to the system. Its numbers are of no use then, but are numbers."""
    start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    start, stop = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
    if start < stop:
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_DONTNEED)


_libc = ctypes.CDLL(None)
