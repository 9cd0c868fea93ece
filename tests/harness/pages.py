"""What the documentation's pages tell a reader to write and to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.commands import OTHERS, READERS, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = (*READERS, *OTHERS)
_BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<kind>\w*)\n(?P<body>.*?)^```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_COMMENT = re.compile(r"(^|\s)#\s.*$")


@dataclass(frozen=True)
class Block:
    """A fenced block, with its language (or nothing) and the line before it."""

    before: str
    kind: str
    body: str


@dataclass(frozen=True)
class Command:
    """A command of a page. One in a sentence may break off: `harness run --task T`."""

    text: str
    fenced: bool

    @property
    def words(self) -> list[str]:
        """Up to where a shell would take over: a pipe, or a file to write."""
        words = shlex.split(self.text)
        ends = [place for place, word in enumerate(words) if word in ("|", ">", ";", "&&") or word.startswith("<<")]
        return words[: min(ends, default=len(words))]


def blocks(page: Path) -> list[Block]:
    return [Block(**found.groupdict()) for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def files(page: Path) -> dict[str, str]:
    """Files that a page shows: blocks whose first line is a comment that begins with the name."""
    found = {}
    for block in blocks(page):
        if name := re.match(r"# ([\w-]+\.yaml)\b", block.body):
            found[name[1]] = block.body
    return found


def commands(page: Path) -> list[Command]:
    """Every command, in the page's order: of fenced blocks, then of sentences and tables.

    A block of commands begins with one; what stands behind an empty line is what they print.
    """
    found = [
        Command(line, fenced=True)
        for block in blocks(page)
        if block.kind in ("", "sh") and _is_command(block.body.split("\n")[0])
        for line in _lines(block.body)
    ]
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    spans = [span for span in _SPAN.findall(text) if _is_command(span) and " " in span and "..." not in span]
    return found + [Command(span, fenced=False) for span in spans]


def _lines(body: str) -> Iterator[str]:
    lines = iter(re.sub(r"\s*\\\n\s*", " ", body.split("\n\n")[0]).splitlines())
    for line in lines:
        command = _COMMENT.sub("", line.removeprefix("$ ")).strip()
        if not command:
            continue
        assert _is_command(command), f"no command of a known program: {line!r}"
        yield command
        if ends := re.search(r"<<'(\w+)'", command):
            while next(lines) != ends[1]:
                pass


def _is_command(text: str) -> bool:
    words = text.removeprefix("$ ").split()
    return bool(words) and words[0] in PROGRAMS
