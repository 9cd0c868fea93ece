"""Pairs of documents whose shingles have a known Jaccard similarity, and the search for them by our stages."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from qwen_train.data.config import DataConfig, Near
from qwen_train.data.files import read_lines
from qwen_train.data.pipeline import run

SHINGLE = 5


def words(draw: random.Random, count: int) -> list[str]:
    """Words that no other call gives."""
    return ["".join(draw.choice("bcdfghklmnprstvz") + draw.choice("aeiou") for _ in range(6)) for _ in range(count)]


def pair(draw: random.Random, jaccard: float, size: int = 400) -> tuple[list[str], list[str]]:
    """Two texts of `size` words: the same beginning, other ends; their similarity is the nearest that can be had."""
    shared = round(2 * jaccard / (1 + jaccard) * (size - SHINGLE + 1)) + SHINGLE - 1
    begin = words(draw, shared)
    return begin + words(draw, size - shared), begin + words(draw, size - shared)


def jaccard(one: Sequence[str], other: Sequence[str]) -> float:
    """Exactly, of their sets of shingles."""
    first, second = (
        {tuple(text[place : place + SHINGLE]) for place in range(len(text) - SHINGLE + 1)} for text in (one, other)
    )
    return len(first & second) / len(first | second)


def write(path: Path, pairs: Sequence[tuple[list[str], list[str]]]) -> Path:
    """A corpus with both texts of each pair, all first ones before all second ones."""
    rows = [
        {"id": f"{side}{number}", "text": " ".join(both[side])} for side in (0, 1) for number, both in enumerate(pairs)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found(corpus: Path, out: Path, near: Near) -> dict[str, str]:
    """The near copies: id, and the line of the document that stayed."""
    off = dict.fromkeys(("few stop words", "few letters", "long words"))
    run(DataConfig(near=near, rules=off, mask=()), [corpus], out, processes=1)
    rows = [row for path in sorted((out / "fates").iterdir()) for row in read_lines(path)]
    ids = {f"{corpus.name}:{row['line']}": row["id"] for row in rows}
    assert all(row["fate"] in ("kept", "near copy") for row in rows)
    return {row["id"]: ids[row["of"]] for row in rows if row["fate"] == "near copy"}
