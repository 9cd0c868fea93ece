"""Small corpora, and what a run left."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from qwen_train.data.files import read_lines


def prose(seed: int, length: int = 120) -> str:
    """Words that no rule drops."""
    draw = random.Random(seed)
    made = ["the", "and", "of"]
    for _ in range(length):
        made.append("".join(draw.choice("bdfklmnprst") + draw.choice("aeiou") for _ in range(draw.randint(2, 4))))
    draw.shuffle(made)
    return "\n".join(" ".join(made[first : first + 12]) for first in range(0, len(made), 12))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A row a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(out: Path, what: str) -> list[dict[str, Any]]:
    """All rows of documents, fates or quarantine."""
    return [row for path in sorted((out / what).iterdir()) for row in read_lines(path)]
