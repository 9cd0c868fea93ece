"""The scratch folder of tiers that cannot mount one, and its removal whatever was left in it."""

from __future__ import annotations

import os
import tempfile


def make(owner: int | None) -> str:
    """A new folder, closed to everybody but owner (None: ourselves). Raises OSError."""
    folder = tempfile.mkdtemp(prefix="harness-sandbox-")
    if owner is not None:
        os.chown(folder, owner, owner)
    return folder


def remove(folder: str) -> None:
    """Removes the folder and all in it, once nothing runs there any more. Raises OSError.

    shutil.rmtree would recurse as deep as the code has nested folders, and stop at one closed to ourselves: here each
    folder within is opened up and its subfolders are moved to the top before it is removed.
    """
    count = 0
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        os.chmod(current, 0o700)
        with os.scandir(current) as listing:
            entries = list(listing)
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)  # moving a folder writes to it
            place = entry.path
            if current != folder:
                count += 1
                place = os.path.join(folder, f"..{count}")
                while os.path.lexists(place):
                    count += 1
                    place = os.path.join(folder, f"..{count}")
                os.rename(entry.path, place)
            waiting.append(place)
        if current != folder:
            os.rmdir(current)
    os.rmdir(folder)
