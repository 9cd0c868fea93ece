"""A folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from qwen_model.config import ModelError


@contextmanager
def new_folder(folder: Path, remedy: str) -> Iterator[Path]:
    """A scratch folder beside `folder`, which takes its name at the end and is removed on any error.

    Raises ModelError with the system's reason and `remedy` where something cannot be written, or where `folder` has
    files in it by then.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(
            prefix=f"{folder.name}.partial-", dir=folder.parent, ignore_cleanup_errors=True
        ) as scratch:
            partial = Path(scratch, folder.name)  # in it, for it is closed to others, which `folder` is not to be
            partial.mkdir()
            yield partial
            partial.rename(folder)
    except OSError as error:
        raise ModelError(f"{folder}: {error.strerror}; {remedy}") from error
