"""The scratch folder of tiers that cannot mount one."""

from __future__ import annotations

import os
import tempfile


def make(owner: int | None) -> str:
    """A new folder, closed to everybody but owner (None: ourselves). Raises OSError."""
    folder = tempfile.mkdtemp(prefix="harness-sandbox-")
    if owner is not None:
        os.chown(folder, owner, owner)
    return folder
