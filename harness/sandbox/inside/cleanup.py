"""The emptying and the removal of a scratch folder, whatever was left in it."""

from __future__ import annotations

import os

LONG_PATH = 2048  # with one more name still within PATH_MAX


def remove(folder: str) -> None:
    """Removes the folder and all in it, once nothing runs there any more. Raises OSError."""
    empty(folder)
    os.rmdir(folder)


def empty(folder: str) -> None:
    """Removes all in the folder, once nothing runs there any more. Raises OSError.

    shutil.rmtree would recurse as deep as the code has nested folders, and stop at one closed to ourselves and at
    paths longer than the kernel takes: here each folder is opened up, and what lies too deep is moved to the top.
    """
    count = 0
    waiting = [folder]
    while waiting:
        current = waiting[-1]
        os.chmod(current, 0o700)
        with os.scandir(current) as listing:
            entries = list(listing)
        below = []
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
            elif len(entry.path) < LONG_PATH:
                below.append(entry.path)
            else:
                os.chmod(entry.path, 0o700)  # moving a folder writes to it
                while os.path.lexists(place := os.path.join(folder, f"moved-{count}")):
                    count += 1
                os.rename(entry.path, place)
        waiting += below
        if not below:
            if current != folder:
                os.rmdir(current)
            waiting.pop()
