"""The raw documents of a corpus, one by one: what `harness.corpus` reads, and source code, Markdown and HTML files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.corpus import SUFFIXES, Part, Tally, blocks, parts, rows
from qwen_train.data.rules import CODE, INSTRUCTION, TEXT

PART = 8 << 20
"""Bytes of files that are one piece of work, unless one part has more."""
PIECE = 4 << 20
"""Characters of a text file that are one document; what is longer is cut at a line's end."""
CODE_FILES = (
    *(".py", ".js", ".ts", ".c", ".h", ".cpp", ".cc", ".hpp", ".java", ".go", ".rs", ".sh"),
    *(".rb", ".php", ".cs", ".kt", ".sql", ".pl"),
)
TEXT_FILES = (".txt", ".md", ".rst", ".tex", *CODE_FILES)
HTML_FILES = (".html", ".htm")
READ = (*SUFFIXES, *(suffix for suffix in (*TEXT_FILES, *HTML_FILES) if suffix != ".txt"))


@dataclass(frozen=True)
class Place:
    """A part, and what its documents are."""

    part: Part
    file: str
    """Its name, below the folder that holds everything that was named."""
    root: str
    """Name of the folder that was named; empty if a file was."""
    instructions: bool


@dataclass
class Document:
    """A document on its way."""

    line: int
    """Of its part, from 1; with further pieces of one text file, their number."""
    id: str | None
    source: str
    kind: str
    """TEXT, CODE or INSTRUCTION: which rules apply."""
    html: bool
    text: str


class Quarantine(Tally):
    """A tally that hands every bad line to someone who keeps it."""

    def __init__(self, keep: Callable[[int, str, bytes], None]) -> None:
        super().__init__()
        self.keep = keep

    def reject(self, why: str, content: bytes = b"") -> None:
        super().reject(why)
        self.keep(self.lines, why, content)


def shards(corpus: Iterable[Path], instructions: Iterable[Path]) -> list[list[Place]]:
    """All parts in their order, in groups of about PART bytes. Raises TaskError for what cannot be read at all."""
    found: list[list[Place]] = []
    size = PART
    roots = [(root, False) for root in corpus] + [(root, True) for root in instructions]
    base = os.path.commonpath([root.resolve().parent for root, _ in roots])
    for root, instruct in roots:
        for part in parts(root, READ):
            if size + part.end - part.start > PART:
                found.append([])
                size = 0
            name = root.resolve().name if root.is_dir() else ""
            file = os.path.relpath(part.path.parent.resolve() / part.path.name, base)
            found[-1].append(Place(part, file, name, instruct))
            size += part.end - part.start
    return found


def read(place: Place, field: str, code_sources: Sequence[str], tally: Quarantine) -> Iterator[Document]:
    """The documents of a part; bad lines go to the tally."""
    path = place.part.path
    suffix = (path.with_suffix("") if path.suffix in (".gz", ".zst") else path).suffix
    if suffix not in (*TEXT_FILES, *HTML_FILES):
        yield from _rows(place, field, code_sources, tally)
        return
    kind = CODE if suffix in CODE_FILES or place.root in code_sources else TEXT
    source = place.root or kind
    kind = INSTRUCTION if place.instructions else kind
    for number, text in enumerate(_pieces(blocks(place.part, tally)), start=1):
        name = place.file if number == 1 else f"{place.file}#{number}"
        yield Document(number, name, source, kind, suffix in HTML_FILES, text)


def _rows(place: Place, field: str, code_sources: Sequence[str], tally: Quarantine) -> Iterator[Document]:
    stem = place.part.path.name.partition(".")[0]
    for key, row in rows(place.part, None if place.instructions else field, tally):
        source = row["source"] if isinstance(row.get("source"), str) else stem
        if not place.instructions:
            yield Document(key.number, key.id, source, CODE if source in code_sources else TEXT, False, row[field])
        elif text := _instruction(row, field):
            yield Document(key.number, key.id, source, INSTRUCTION, False, text)
        else:
            wrong = f"neither {field!r}, nor `messages`, nor `instruction` with `output`"
            tally.reject(wrong, json.dumps(row, default=str).encode())


def _instruction(row: dict[str, Any], field: str) -> str:
    """Question and answer as plain text; empty if there is none."""
    if isinstance(row.get(field), str):
        return str(row[field])
    turns = row.get("messages")
    if isinstance(turns, list):
        texts = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    else:
        texts = [row.get("instruction"), row.get("input", ""), row.get("output", row.get("response"))]
    return "\n".join(text for text in texts if text) if all(isinstance(text, str) for text in texts) else ""


def _pieces(texts: Iterator[str]) -> Iterator[str]:
    """A file's text, whole up to PIECE characters, else in pieces that end with a line where one does."""
    held = ""
    for text in texts:
        held += text
        while len(held) > PIECE:
            cut = held.rfind("\n", 0, PIECE) + 1 or PIECE
            yield held[:cut]
            held = held[cut:]
    yield held
