"""Where installed distributions lie, with all that they require."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


def places(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(files and folders to read, folders to import from) of distributions and, to any depth, what they require.

    Raises FileNotFoundError for one that is not installed.
    """
    read: set[str] = set()
    path: set[str] = set()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            if name in names:
                raise FileNotFoundError(f"Policy.packages: no distribution {name!r} is installed") from None
            continue  # required on other systems only
        folder = Path(str(found.locate_file(""))).resolve()
        path.add(str(folder))
        read.update(str(folder / top) for top in _tops(found) if (folder / top).exists())
        waiting += [
            match[0] for text in found.requires or () if "extra ==" not in text and (match := _NAME.match(text))
        ]
    return sorted(read), sorted(path)


_NAME = re.compile(r"[A-Za-z0-9._-]+")


def _tops(found: Distribution) -> set[str]:
    """The files and folders of a distribution that lie in the import folder itself."""
    return {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
