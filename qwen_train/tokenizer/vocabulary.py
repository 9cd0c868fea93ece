"""A folder with a vocabulary in the format of `qwen.tiktoken`: a line for each rank, its bytes in base64."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.records import write_atomic
from qwen_model.config import ModelError
from qwen_model.qwen_tokenizer import CONTROL, FILE, OWN, SETTINGS
from qwen_train.data.html import plain_text
from qwen_train.data.read import Quarantine, read, shards
from qwen_train.errors import TrainError

DIGITS = re.compile(rb"[0-9]{2}")
"""Tokens with several digits in a row are not to be: every digit is a token (report, section 2.2)."""


def texts(corpus: Sequence[Path]) -> Iterator[str]:
    """The documents of files and folders, as `qwen-train data` reads them; raises TrainError for a bad line."""

    def refuse(line: int, why: str, raw: bytes) -> None:
        raise TrainError(f"{place.file}:{line}: {why}; run `qwen-train data` on the corpus first, which sets it apart")

    for shard in shards(corpus, []):
        for place in shard:
            tally = Quarantine(refuse)
            yield from map(plain_text, read(place, "text", (), tally))
            if tally.broken is not None:
                raise TrainError(f"{place.file}: {tally.broken}; remove or replace it")


def write_vocabulary(folder: Path, tokens: Sequence[bytes]) -> Path:
    """Write the tokens in the order of their ranks, and the file that says whose they are."""
    folder.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    settings = {
        "tokenizer_class": "QWenTokenizer",
        OWN: hashlib.sha256(content.encode()).hexdigest(),
        "vocab_size": len(tokens) + len(CONTROL),
    }
    write_atomic(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
    write_atomic(folder / FILE, content)  # the last: it says that all is there
    return folder / FILE


def read_tiktoken(path: Path) -> list[bytes]:
    """The tokens of any file in that format, in the order of their ranks. Raises ModelError that names the bad line."""
    found: dict[bytes, int] = {}
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; name one such as qwen.tiktoken or cl100k_base.tiktoken") from error
    for number, line in enumerate(lines, start=1):
        token, _, rank = line.partition(b" ")
        try:
            content = base64.b64decode(token, validate=True)
        except ValueError:
            content = b""
        if not content or not rank.isdigit() or content in found:
            raise ModelError(f"{path}:{number}: not a new token in base64, a space and its rank; fetch the file again")
        found[content] = int(rank)
    tokens = sorted(found, key=found.__getitem__)
    if missing := [value for value in range(256) if bytes([value]) not in found]:
        raise ModelError(
            f"{path}: no token for the byte {missing[0]}; every byte has one, so that any text can be encoded"
        )
    return tokens
