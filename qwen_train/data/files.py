"""Files that are whole or not there: written under another name, synced, then renamed. Compressed lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qwen_train.errors import TrainError

Array = Any
PARTIAL = ".partial"


class Lines:
    """Rows going into a .jsonl.zst file."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.rows = 0

    def write(self, row: dict[str, Any]) -> None:
        """One row; a lone surrogate in it is escaped."""
        line = json.dumps(row, ensure_ascii=False, default=str) + "\n"
        self._stream.write(line.encode("utf-8", "backslashreplace"))
        self.rows += 1


@contextmanager
def new_file(path: Path) -> Iterator[Any]:
    """A binary file that appears under its name when all is written. A full disk leaves nothing behind."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            yield file
        with partial.open("rb") as file:  # a compressor closes what it writes to
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_lines(path: Path) -> Iterator[Lines]:
    """A .jsonl.zst file that appears when it is whole."""
    import pyarrow

    with new_file(path) as file:
        stream = pyarrow.CompressedOutputStream(pyarrow.PythonFile(file, "w"), "zstd")
        try:
            yield Lines(stream)
        finally:
            stream.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl.zst file of ours. Raises TrainError if it is damaged."""
    import pyarrow

    try:
        with pyarrow.input_stream(str(path), compression="zstd") as stream:
            rest = b""
            while block := stream.read(1 << 20):
                *lines, rest = (rest + block).split(b"\n")
                yield from map(json.loads, lines)
        if rest:
            raise ValueError("ends within a line")
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise TrainError(f"{path}: damaged ({error}); delete the folder it is in and run again") from error


def save_array(path: Path, array: Array) -> None:
    """A .npy file."""
    with new_file(path) as file:
        np.save(file, array, allow_pickle=False)


def open_array(path: Path) -> Array:
    """A .npy file, mapped."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise TrainError(f"{path}: damaged ({error}); delete the folder it is in and run again") from error
