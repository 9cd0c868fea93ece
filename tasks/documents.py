"""Texts of the user's: a header of worked examples, and documents, which are a folder of .txt files or a .jsonl file
with `text` (and `id`) per line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.api import TaskError
from tasks.json_text import parse


def read_documents(path: Path) -> dict[str, str]:
    """Text by name, in the order of names (folder) or lines (file). Raises TaskError that names file and remedy."""
    found: dict[str, str] = {}
    for name, text, where in _from_folder(path) if path.is_dir() else lines(path):
        if name in found:
            raise TaskError(f"{where}: a second document is called {name!r}; give each an id of its own")
        found[name] = text
    if not found:
        raise TaskError(f"{path}: no document there; put .txt files in, or lines with a field text")
    return found


def _from_folder(folder: Path) -> Iterator[tuple[str, str, str]]:
    for path in sorted(folder.glob("*.txt")):
        yield path.stem, text_of(path), str(path)


def lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """(name, text, where it stands) of a .jsonl file's lines. Raises TaskError that names file, line and remedy."""
    if path.suffix != ".jsonl":
        raise TaskError(f"--documents: {path} is neither a folder of .txt files nor a .jsonl file")
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse(line)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{where}: not JSON ({error}); mend the line") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise TaskError(f"{where}: no field 'text' that is a text; each line has to be {{\"text\": ...}}")
        name = row.get("id", number)
        if not isinstance(name, str | int) or name == "":
            raise TaskError(f"{where}: field 'id' is {name!r}, neither text nor number; give one, or leave it out")
        yield str(name), row["text"], where


def text_of(path: Path, option: str = "") -> str:
    """A text file, without a byte order mark. Raises TaskError that names it, and the `option` that gave it."""
    where = f"{option} {path}".lstrip()
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TaskError(f"{where}: cannot be read ({error.strerror}); name another") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{where}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def file_header(path: Path) -> str:
    """The header that --shots-file names, word for word. Raises TaskError."""
    header = text_of(path, "--shots-file")
    if not header.strip():
        raise TaskError(f"--shots-file {path}: is empty; give a file with worked examples, or leave the option out")
    return header
