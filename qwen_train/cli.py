"""The `qwen-train` command."""

from __future__ import annotations

import sys
from importlib.metadata import version


def main() -> None:
    """Say plainly that this version trains nothing yet; exit code 2."""
    print(
        f"qwen-train: qwen-harness {version('qwen-harness')} has no training stages yet; see CHANGELOG.md",
        file=sys.stderr,
    )
    sys.exit(2)
