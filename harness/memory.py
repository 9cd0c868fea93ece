"""How much memory was in use at most."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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
            import torch

            most = int(torch.cuda.max_memory_allocated(self._device))
            torch.cuda.reset_peak_memory_stats(self._device)
            return most
        try:
            most = _kilobytes("/proc/self/status", "VmHWM") * 1024
            # the kernel's way to let the mark fall to what is in use now; some containers forbid it
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
        return most


def _kilobytes(path: str, field: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise OSError(f"{path}: no {field}")
