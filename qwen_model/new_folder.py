"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qwen_model.config import ModelError


@contextmanager
def new_folder(folder: Path, remedy: str) -> Iterator[Path]:
    """A scratch folder beside `folder`, which takes its name at the end and is removed on any error.

    Raises ModelError with the system's reason and `remedy` where something cannot be written, or where `folder` has
    files in it by then.
    """
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise ModelError(f"{folder}: {error.strerror}; {remedy}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
