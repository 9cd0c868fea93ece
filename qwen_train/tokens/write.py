"""Documents to token files.

Each part of the corpus is encoded by itself into `work/`, once; then every set is put together in an order drawn from
the documents' ids. The same command after any interruption goes on, and the result does not depend on the processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.corpus import Part, Tally, parts, rows
from harness.records import write_atomic
from harness.workers import cores, workers
from qwen_model import load_tokenizer
from qwen_model.progress import Meter
from qwen_model.tokenizer import Tokenizer
from qwen_train.errors import TrainError
from qwen_train.tokens.store import FORMAT, KEPT, MANIFEST, TOKENIZER, VALIDATION, Array, TokenFiles, open_tokens, width

SPEC, WORK = "spec.json", "work"
END_OF_TEXT = "<|endoftext|>"
QUIET_BYTES = 4 << 20
"""Up to so many bytes one process works and no progress is shown."""
_UNSAFE = re.compile(rf"\A\.|\A{VALIDATION[0]}(?={VALIDATION[1:]}\Z)|[^\w.-]")
"""Of a source's name: signs, a dot that would hide the file, and the first letter of the held-out set's name."""

_LONGEST = 200
"""Bytes of a set's name, to which endings come; file systems take 255."""


@dataclass(frozen=True)
class Piece:
    """Documents of one part: their tokens one after another, and of each its length, source and two keys by its id."""

    tokens: Array
    lengths: Array
    sources: Array
    order: Array
    """Of 64 bits, by the seed: documents are merged in this order."""
    share: Array
    """In [0, 1), whatever the seed: the smallest are held out for validation."""


def write_tokens(
    documents: Path,
    tokenizer: Path,
    out: Path,
    *,
    seed: int = 1234,
    validation: float = 0.005,
    processes: int | None = None,
) -> TokenFiles:
    """Encode `documents` (a file, or a folder of rows {"id", "text", "source"}), a set of token files per source.

    `validation` is the share of documents held out. Raises TrainError.
    """
    if not 0 <= validation < 1:
        raise TrainError(f"--validation: {validation} is no share of the documents; give 0 to 0.5, such as 0.005")
    todo = parts(documents)
    reads = load_tokenizer(tokenizer)
    vocabulary, end = reads.size, separator(reads)
    spec = {
        "format": FORMAT,
        "documents": [
            [str(part.path.relative_to(documents) if documents.is_dir() else part.path.name), part.start, part.end]
            for part in todo
        ],
        "tokenizer": fingerprint(tokenizer),
        "vocabulary": vocabulary,
        "separator": end,
        "seed": seed,
        "validation": validation,
    }
    if (out / MANIFEST).is_file():
        found = open_tokens(out)
        if {name: found.manifest[name] for name in spec} != spec:
            raise TrainError(f"{out}: token files of other documents, tokenizer or seed; name a new folder by --out")
        return found
    _begin(out, spec)
    size = sum(part.end - part.start for part in todo)
    count = 1 if size <= QUIET_BYTES else processes or cores()
    tallies = []
    prepared = str(tokenizer), end, seed, str(out / WORK), vocabulary
    with workers(count, _prepare, *prepared) as over, Meter("tokens", size) as meter:
        for part, tally in zip(todo, over(_encode, list(enumerate(todo))), strict=True):
            tallies.append(tally)
            if size > QUIET_BYTES:
                meter.finish_part(part.end - part.start)
    sets = _merge(out, len(todo), validation, vocabulary)
    bad = sum(tally["bad"] for tally in tallies)
    named = [line for tally in tallies for line in tally["named"]]
    (out / TOKENIZER).mkdir(exist_ok=True)
    for path in tokenizer.iterdir():
        if path.name in KEPT:
            shutil.copyfile(path, out / TOKENIZER / path.name)
    manifest = {**spec, "sets": sets, "bad": {"lines": bad, "named": named[:20]}}
    write_atomic(out / MANIFEST, json.dumps(manifest, indent=1))
    shutil.rmtree(out / WORK)
    return open_tokens(out)


def separator(tokenizer: Tokenizer) -> int:
    """The id that ends a document: <|endoftext|>, else what the tokenizer begins or ends texts with."""
    ids = tokenizer.encode_rendered(END_OF_TEXT)
    return ids[0] if len(ids) == 1 else tokenizer.begin()[1]


def fingerprint(tokenizer: Path) -> str:
    """Of the tokenizer's files, 16 hex digits."""
    digest = hashlib.sha256()
    for name in KEPT[:2]:
        path = tokenizer / name
        if path.is_file():
            digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _begin(out: Path, spec: Mapping[str, Any]) -> None:
    """Make the folder, or go on with one that was begun for the same."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / SPEC
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(spec)):
        return
    if path.is_file():
        shutil.rmtree(out / WORK, ignore_errors=True)  # what it holds is of other documents
    elif any(out.iterdir()):
        raise TrainError(f"{out}: has files of something else; name a new folder by --out")
    (out / WORK).mkdir(exist_ok=True)
    write_atomic(path, json.dumps(spec))


_worker: dict[str, Any] = {}


def _prepare(tokenizer: str, end: int, seed: int, work: str, vocabulary: int) -> None:
    _worker.update(
        tokenizer=load_tokenizer(Path(tokenizer)), end=end, seed=seed, work=Path(work), kind=width(vocabulary)
    )


def _encode(numbered: tuple[int, Part]) -> dict[str, Any]:
    """Encode one part into work/, unless that was done; returns what was wrong with its lines."""
    number, part = numbered
    target = _worker["work"] / f"{number:06}"
    done = target.with_suffix(".json")
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return found
    tally = Tally()
    facts: list[tuple[int, str, int, float]] = []
    with target.with_suffix(".tokens").open("wb") as file:
        for key, row in rows(part, "text", tally):
            ids = [*_worker["tokenizer"].encode_letters(row["text"]), _worker["end"]]
            file.write(np.array(ids, dtype=_worker["kind"]).tobytes())
            own = key.id or f"{part.path.name}:{part.start}:{key.number}"
            order = _key(f"{_worker['seed']} {own} {key.number}")  # a document that stands there twice has two
            facts.append((len(ids), _set_name(row.get("source")), order, _key(own) / 2**64))
    lengths, sources, orders, shares = zip(*facts, strict=True) if facts else ((), (), (), ())
    np.savez(
        target.with_suffix(".npz"),
        lengths=np.array(lengths, np.int64),
        sources=np.array(sources, np.str_),
        order=np.array(orders, np.uint64),
        share=np.array(shares, np.float64),
    )
    named = [f"{part.path}: line {line}: {why}" for line, why in tally.named]
    if tally.broken is not None:
        named.append(f"{part.path}: {tally.broken}")
    found = {"bad": tally.bad + (tally.broken is not None), "named": named}
    write_atomic(done, json.dumps(found))  # the last file: it says that the others are whole
    return found


def _set_name(source: Any) -> str:
    """A source's name as a file's: percent-encoded where it has to be, and a long one cut with a digest behind it, so
    that no two sources share one."""

    def escaped(found: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))

    name = _UNSAFE.sub(escaped, str(source or "text"))
    if len(name.encode()) > _LONGEST:
        digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        name = f"{name.encode()[: _LONGEST - 17].decode(errors='ignore')}-{digest}"
    return name


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _merge(out: Path, count: int, validation: float, vocabulary: int) -> dict[str, dict[str, int]]:
    """Write each set in the order of its documents' keys; returns what is in them."""
    pieces = [_open_piece(out / WORK / f"{number:06}", vocabulary) for number in range(count)]
    begins = [np.cumsum(piece.lengths) - piece.lengths for piece in pieces]
    which = np.concatenate([np.full(len(piece.lengths), number) for number, piece in enumerate(pieces)])
    if not len(which):
        raise TrainError(f"{out}: no documents were found; look at --documents")
    begin, length, order, share, source = (
        np.concatenate(column)
        for column in (
            begins,
            [piece.lengths for piece in pieces],
            [piece.order for piece in pieces],
            [piece.share for piece in pieces],
            [piece.sources for piece in pieces],
        )
    )
    held_out = share < validation
    if not validation or not held_out.any():
        # a small corpus still gets a document to validate on
        held_out = np.zeros(len(share), bool) if not validation else share <= share.min()
    if held_out.all():
        raise TrainError(f"{out}: one document only, which cannot be trained and validated on; --validation 0")
    chosen: list[tuple[str, Array]] = [(VALIDATION, held_out)] if held_out.any() else []
    chosen += [(str(name), (source == name) & ~held_out) for name in np.unique(source)]
    sets = {}
    for name, mask in chosen:
        picked = np.flatnonzero(mask)
        if not len(picked):
            continue
        picked = picked[np.argsort(order[picked], kind="stable")]
        _write_set(out, name, pieces, which[picked], begin[picked], length[picked], vocabulary)
        sets[name] = {"documents": len(picked), "tokens": int(length[picked].sum())}
    return sets


def _write_set(
    out: Path, name: str, pieces: Sequence[Piece], which: Array, begin: Array, length: Array, vocabulary: int
) -> None:
    partial = out / f"{name}.tokens.partial"
    with partial.open("wb") as file:
        for piece, start, size in zip(which.tolist(), begin.tolist(), length.tolist(), strict=True):
            file.write(pieces[piece].tokens[start : start + size].tobytes())
        file.flush()
        os.fsync(file.fileno())
    np.save(out / f"{name}.ends.npy", np.cumsum(length), allow_pickle=False)
    partial.replace(out / f"{name}.tokens")


def _open_piece(path: Path, vocabulary: int) -> Piece:
    kind = np.dtype(width(vocabulary))
    try:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as held:
            facts = [held[name] for name in ("lengths", "sources", "order", "share")]
        file = path.with_suffix(".tokens")
        if file.stat().st_size != facts[0].sum() * kind.itemsize:
            raise ValueError(f"{file.stat().st_size:,} bytes, not {facts[0].sum() * kind.itemsize:,}")
        tokens: Array = np.memmap(file, dtype=kind, mode="r") if len(facts[0]) else np.zeros(0, kind)
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise TrainError(f"{path}: damaged ({error}); delete the folder it is in and run again") from error
    return Piece(tokens, *facts)
