"""Reads the documents of a text corpus, a file or a part of one at a time, in memory that does not grow with the file.

Kinds, told by the name: .txt (one document a file), .jsonl (one a line) and .parquet (one a row); .txt and .jsonl also
as .gz or .zst. A line or row without text is counted and named, and never ends the reading. A caller may name more
suffixes of text files.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from harness.contamination import pieces
from tasks.api import TaskError

PART = 8 << 20
"""Bytes of a plain .jsonl file that are one part: it begins with the first line that begins there."""
PIECE = 1 << 20
"""Bytes of a .txt file that are read at once."""
LONGEST_LINE = 128 << 20
"""Bytes of a longer line that would have to be in memory at once: it is a bad one."""
NAMED = 20
"""Bad lines of one part that are named; the others are counted."""
ESCAPED = re.compile("[\udc80-\udcff]")
"""Bytes that are not UTF-8, as Python's `surrogateescape` reads them."""
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt", ".txt.gz", ".txt.zst", ".parquet")


@dataclass(frozen=True, order=True)
class Part:
    """What one process reads at a time: of a plain .jsonl file the lines that begin in start .. end, else the file."""

    path: Path
    start: int
    end: int
    """In bytes; the size of the part is end - start."""


@dataclass(frozen=True, order=True)
class Key:
    """A document's place: its number among the lines or rows of its part, from 1, and its own `id` if it has one."""

    number: int
    id: str | None


@dataclass
class Tally:
    """What reading a part came to."""

    lines: int = 0
    """Lines or rows, the bad and empty ones too."""
    documents: int = 0
    characters: int = 0
    bad: int = 0
    named: list[tuple[int, str]] = field(default_factory=list)
    """(Line of the part from 1, what is wrong with it), of the first NAMED bad ones."""
    broken: str | None = None
    """Why the rest of the file could not be read."""

    def reject(self, why: str, content: bytes = b"") -> None:
        """Count the line under way as bad; `content` is its first LONGEST_LINE bytes, where it is a line."""
        self.bad += 1
        if len(self.named) < NAMED:
            self.named.append((self.lines, why))


def parts(corpus: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Part]:
    """The parts of a file, or of all files below a folder, sorted. Raises TaskError where there is none."""
    if corpus.is_dir():
        paths = sorted(path for path in corpus.rglob("*") if path.name.endswith(tuple(suffixes)) and path.is_file())
        if not paths:
            raise TaskError(f"{corpus}: no file that is read; put {', '.join(suffixes)} files there")
    elif not corpus.is_file():
        raise TaskError(f"--corpus {corpus}: no such file or folder; name the training texts")
    elif not corpus.name.endswith(tuple(suffixes)):
        raise TaskError(f"--corpus {corpus}: not a kind of file that is read; use {', '.join(suffixes)}")
    else:
        paths = [corpus]
    found = []
    for path in paths:
        size = path.stat().st_size
        step = PART if path.name.endswith(".jsonl") else size
        found += [Part(path, start, min(start + step, size)) for start in range(0, size, max(1, step))]
    return found


def documents(part: Part, name: str, n: int, tally: Tally) -> Iterator[tuple[Key, str]]:
    """The documents of a part, their text in the field `name`; counts into the tally.

    A .txt file comes in pieces of one key, which overlap so that each run of n tokens is in one of them.
    """
    if ".txt" in part.path.suffixes:
        yield from ((Key(1, None), piece) for piece in pieces(blocks(part, tally), n))
    else:
        yield from ((key, row[name]) for key, row in rows(part, name, tally, columns=(name, "id")))


def rows(part: Part, name: str | None, tally: Tally, columns: Sequence[str] | None = None) -> Iterator[tuple[Key, Any]]:
    """The lines or rows of a .jsonl or .parquet part as dicts; counts into the tally.

    Those without text in the field `name` are bad ones, unless it is None. `columns` are those that a .parquet file is
    read for, None for all.
    """
    with _damage(tally):
        if part.path.name.endswith(".parquet"):
            yield from _parquet(part, name, tally, columns)
        else:
            yield from _lines(part, name, tally)


@contextmanager
def _damage(tally: Tally) -> Iterator[None]:
    """What cannot be read of a file is noted, and ends the reading of it alone."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        tally.broken = f"damaged or unreadable ({' '.join(str(error).split())})"


def _lines(part: Part, name: str | None, tally: Tally) -> Iterator[tuple[Key, Any]]:
    with _open(part.path) as file:
        place = part.start
        if place:
            file.seek(place - 1)  # a line that begins at `start` itself has its neighbour's end there
            place += _skip(file) - 1
        plain = part.path.name.endswith(".jsonl")
        while not plain or place < part.end:
            line = file.readline(LONGEST_LINE)
            if not line:
                return
            place += len(line)
            tally.lines += 1
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                place += _skip(file)
                tally.reject(f"longer than {LONGEST_LINE >> 20} MB", line)
                continue
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                tally.reject(f"not UTF-8 at byte {error.start} of the line", line)
            except ValueError as error:
                tally.reject(f"not JSON ({error})", line)
            except RecursionError:
                tally.reject("JSON nested too deeply", line)
            else:
                yield from _document(row, name, tally, line)


def _skip(file: IO[bytes]) -> int:
    """Read to the end of the line; the number of bytes."""
    size = 0
    while piece := file.readline(PIECE):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def _parquet(part: Part, name: str | None, tally: Tally, columns: Sequence[str] | None) -> Iterator[tuple[Key, Any]]:
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(part.path)
        present = file.schema_arrow.names
        if name is not None and name not in present:
            tally.broken = f"no column {name!r}; it has {', '.join(sorted(present))}"
            return
        wanted = [column for column in present if columns is None or column in columns]
        for batch in file.iter_batches(batch_size=256, columns=wanted):
            for row in _rows_of(batch):
                tally.lines += 1
                if row is None:
                    tally.reject("text that is not UTF-8")
                else:
                    yield from _document(row, name, tally)
    except pyarrow.ArrowException as error:
        tally.broken = f"damaged parquet file ({' '.join(str(error).split())})"


def _rows_of(batch: Any) -> list[dict[str, Any] | None]:
    """A batch's rows, None for those with text that is not UTF-8: writers of parquet need not look."""
    try:
        rows: list[dict[str, Any] | None] = batch.to_pylist()
        return rows
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for place in range(batch.num_rows) for row in _rows_of(batch.slice(place, 1))]


def _document(row: Any, name: str | None, tally: Tally, line: bytes = b"") -> Iterator[tuple[Key, Any]]:
    if not isinstance(row, dict):
        tally.reject("not a JSON object", line)
        return
    if name is not None:
        if not isinstance(row.get(name), str):
            tally.reject(f"field {name!r} is not text" if name in row else f"no field {name!r}", line)
            return
        tally.characters += len(row[name])
    tally.documents += 1
    yield Key(tally.lines, None if row.get("id") is None else str(row["id"])), row


def blocks(part: Part, tally: Tally) -> Iterator[str]:
    """A text file's characters; what is not UTF-8 comes as lone surrogates, and is one bad line."""
    tally.documents = tally.lines = 1
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    damaged = False
    with _damage(tally), _open(part.path) as file:
        while content := file.read(PIECE):
            text = decoder.decode(content)
            damaged = damaged or (not text.isascii() and ESCAPED.search(text) is not None)
            tally.characters += len(text)
            yield text
        rest = decoder.decode(b"", final=True)
        yield rest
        if damaged or rest:
            tally.reject("not UTF-8 everywhere; the rest was read")


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"))
    if path.suffix == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")
