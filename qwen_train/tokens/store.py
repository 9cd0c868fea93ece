"""A folder of token files, and a mapped view of each.

`tokens.json` names the files and says how they were made. Of each set there is `NAME.tokens` (ids of 2 bytes,
little-endian, 4 where the vocabulary is larger than 65,536) and `NAME.ends.npy` (where each document ends, in tokens);
`tokenizer/` holds the tokenizer's files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen_train.errors import TrainError

MANIFEST = "tokens.json"
FORMAT = 2
VALIDATION = "validation"
TOKENIZER = "tokenizer"
KEPT = ("qwen.tiktoken", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
"""Files of a tokenizer; the first two decide what it does."""
Array = Any


def width(vocabulary: int) -> str:
    """The numpy type of ids below `vocabulary`."""
    return "<u2" if vocabulary <= 1 << 16 else "<u4"


@dataclass(frozen=True)
class Stream:
    """The documents of one set one after another, each ended by the separator; nothing of it is in memory."""

    name: str
    tokens: Array
    """(tokens), mapped."""
    ends: Array
    """(documents), ascending: one past the last token of each."""

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, length: int) -> Array:
        """int64 (length)."""
        return self.tokens[start : start + length].astype(np.int64)

    def segments(self, start: int, length: int) -> Array:
        """The number of the document that each token belongs to, int64 (length)."""
        return np.searchsorted(self.ends, np.arange(start, start + length), side="right")


@dataclass(frozen=True)
class TokenFiles:
    """What `qwen-train tokens` wrote."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def vocabulary(self) -> int:
        """Ids there are."""
        return int(self.manifest["vocabulary"])

    @property
    def sources(self) -> list[str]:
        """The training sets."""
        return sorted(name for name in self.manifest["sets"] if name != VALIDATION)

    def open(self, name: str) -> Stream:
        """Map one set. Raises TrainError where its files are not those that were written."""
        facts = self.manifest["sets"][name]
        path = self.folder / f"{name}.tokens"
        ends_path = self.folder / f"{name}.ends.npy"
        kind = np.dtype(width(self.vocabulary))
        try:
            size = path.stat().st_size
            if size != facts["tokens"] * kind.itemsize:
                raise ValueError(f"{size:,} bytes, not {facts['tokens'] * kind.itemsize:,}")
            tokens: Array = np.memmap(path, dtype=kind, mode="r")
            ends = np.load(ends_path, mmap_mode="r", allow_pickle=False)
            if len(ends) != facts["documents"] or ends[-1] != len(tokens):
                raise ValueError(f"{ends_path.name} is of other documents")
        except (OSError, ValueError, EOFError) as error:
            raise TrainError(f"{path}: damaged ({error}); run `qwen-train tokens` again into a new folder") from error
        return Stream(name, tokens, ends)


def open_tokens(folder: Path) -> TokenFiles:
    """A finished folder. Raises TrainError where it is none."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise TrainError(f"{path}: format {manifest['format']} is not ours; delete the folder and write it again")
        return TokenFiles(folder, manifest)
    except FileNotFoundError as error:
        raise TrainError(f"{folder}: no {MANIFEST}; make it with `qwen-train tokens --out {folder}`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TrainError(f"{path}: damaged ({error}); run `qwen-train tokens` again into a new folder") from error
