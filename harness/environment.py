"""What a run ran on: versions and machine, for the record. None of it may change the numbers."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

PACKAGES = (
    "qwen-harness",
    "torch",
    "transformers",
    "vllm",
    "tokenizers",
    "gguf",
    "safetensors",
    "numpy",
    "datasets",
    "lm-eval",
    "sympy",
    "math-verify",
    "latex2sympy2_extended",
)


def version() -> str:
    """Version of this package."""
    return package_version("qwen-harness")


def describe() -> dict[str, Any]:
    """Machine, packages and time, as a JSON-ready dict."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "python": platform.python_version(),
        },
        "packages": {name: found for name in PACKAGES if (found := _installed(name))},
    }


def _installed(name: str) -> str | None:
    try:
        return package_version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
