"""How much memory was in use at most, and whether what a text needs is there."""

from __future__ import annotations

from pathlib import Path

import torch

from qwen_model.memory import peak_resident
from tasks.api import TaskError


class Peak:
    """The most memory in use between two looks: resident memory of this process, or torch's on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._look()
        self.most: int | None = None
        """Over all laps since it was made."""

    def lap(self) -> int | None:
        """Bytes in use at most since the last lap; None where the system does not let it be measured."""
        most = self._look()
        self.most = None if most is None else max(most, self.most or 0)
        return most

    def _look(self) -> int | None:
        if self._device.type == "cuda":
            most = int(torch.cuda.max_memory_allocated(self._device))
            torch.cuda.reset_peak_memory_stats(self._device)
            return most
        try:
            most = peak_resident()
            # the kernel's way to let the mark fall to what is in use now; some containers forbid it
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
        return most


def check_room(length: int, needed: int, free: int, remedy: str) -> None:
    """Raises TaskError where the keys and values of a text of `length` tokens need more bytes than are free."""
    if needed > free:
        raise TaskError(
            f"a text of {length:,} tokens takes {needed / 1e9:,.1f} GB of keys and values, and {free / 1e9:,.1f} GB "
            f"are free; {remedy}"
        )
