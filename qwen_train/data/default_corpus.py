"""Text that any machine with this project has: Python's own sources and the documents of installed packages."""

from __future__ import annotations

import sysconfig
from pathlib import Path

DOCUMENTS = (".md", ".rst", ".txt", ".html")
LEAST, MOST = 2_000, 2_000_000
"""Bytes of a file: smaller ones are stubs and lists of names, larger ones tables."""
APART = frozenset(["site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"])


def default_corpus() -> list[Path]:
    """Files, sorted: the standard library's sources without its tests, and packages' documents and descriptions."""
    library = Path(sysconfig.get_path("stdlib"))
    packages = Path(sysconfig.get_path("purelib"))
    found = [path for path in library.rglob("*.py") if not APART & set(path.relative_to(library).parts[:-1])]
    found += [
        path
        for path in packages.rglob("*")
        # packages' tests hold tables of numbers as .txt
        if path.suffix in DOCUMENTS and not APART & set(path.relative_to(packages).parts[:-1])
    ]
    return sorted(path for path in found if path.is_file() and LEAST <= path.stat().st_size <= MOST)
