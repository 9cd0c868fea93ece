"""The last stage, a shard at a time: what stays is masked, repeated and written; every document's fate is.

documents/NNNNNN.jsonl.zst has the rows to train on, fates/ one row per document read, quarantine/ the bad lines.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import write_atomic
from qwen_train.data.config import DataConfig
from qwen_train.data.duplicates import EXACT, NEAR, Kept, agreement
from qwen_train.data.files import Lines, new_lines, read_lines
from qwen_train.data.pii import mask
from qwen_train.data.read import Place

DOCUMENTS, FATES, QUARANTINE = "documents", "fates", "quarantine"
STAYS = "kept"
SAMPLES = 6
"""Documents shown for each fate: those whose places hash lowest."""
SHOWN = 600


@dataclass
class Mixer:
    """What a process needs to write shards."""

    config: DataConfig
    out: Path
    shards: Sequence[Sequence[Place]]
    before: Mapping[tuple[int, int], int]
    """By shard and part: lines of the file in earlier parts."""
    kept: Kept
    keepers: Any
    fates: Any
    """(N,) of every document that came so far, as `duplicates.resolve` tells them."""
    first_runs: Sequence[int]
    """Runs before each shard's."""

    def shard(self, number: int) -> dict[str, Any]:
        """Write a shard's files; returns (and writes) its statistics. One that is done is not done again."""
        done = self.out / "work" / f"{number:06d}.mixed.json"
        if done.is_file():
            return dict(json.loads(done.read_text(encoding="utf-8")))
        stats = Stats()
        name = f"{number:06d}.jsonl.zst"
        place = int(self.kept.bases[self.first_runs[number]])
        with (
            new_lines(self.out / DOCUMENTS / name) as documents,
            new_lines(self.out / FATES / name) as fates,
            new_lines(self.out / QUARANTINE / name) as quarantine,
        ):
            for row in read_lines(self.out / "work" / name):
                part = row.pop("part")
                where = {"file": self.shards[number][part].file, "line": self.before[number, part] + row.pop("line")}
                if "bad" in row:
                    quarantine.write({**where, "why": row["bad"], "content": row["raw"]})
                    stats.bad.append(f"{where['file']}:{where['line']}: {row['bad']}")
                    continue
                row = {"id": row.pop("id", f"{where['file']}:{where['line']}"), **row}
                fate = row.pop("fate", None)
                if fate is None:
                    fate = self._fate(place, row, documents, stats)
                    place += 1
                else:
                    fate = {
                        "fate": fate,
                        "why": row.pop("why"),
                        "characters": row["characters"],
                        "begins": row["begins"],
                    }
                stats.count(row, fate, f"{where['file']}:{where['line']}")
                row.pop("begins", None)
                row.pop("text", None)
                fate.pop("begins", None)
                fates.write(row | where | fate)
        found = stats.as_json()
        write_atomic(done, json.dumps(found) + "\n")
        return found

    def _fate(self, place: int, row: dict[str, Any], documents: Lines, stats: Stats) -> dict[str, Any]:
        """Write a document unless it is a copy; its fate."""
        text = row["text"]
        shown = {"characters": len(text), "begins": text[:SHOWN]}
        how = int(self.fates[place])
        if how in (EXACT, NEAR):
            keeper = int(self.keepers[place])
            fate: dict[str, Any] = {"fate": "exact copy" if how == EXACT else "near copy", "of": self._place(keeper)}
            if how == NEAR:
                fate["agreement"] = round(float(agreement(self.kept, np.array([[place, keeper]]))[0]), 4)
            return fate | shown
        text, masked = mask(text, self.config.mask)
        copies = _copies(row["id"], self.config.repeat.get(row["source"], 1.0))
        for copy in range(copies):
            documents.write({**row, "text": text, **({"copy": copy + 1} if copy else {})})
        stats.masked.update(masked)
        stats.lengths[str(len(text).bit_length())] += 1
        stats.written(row, copies, len(text))
        return {"fate": STAYS, "copies": copies, **({"masked": dict(masked)} if masked else {})} | shown

    def _place(self, number: int) -> str:
        """File and line of a document."""
        run, (part, line, _) = self.kept.place(number)
        shard = int(np.searchsorted(self.first_runs, run, side="right")) - 1
        return f"{self.shards[shard][part].file}:{self.before[shard, int(part)] + int(line)}"


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest())


def _copies(name: str, times: float) -> int:
    """How often a document is written: the whole part, and once more with the chance of the rest, told by its name."""
    whole = int(times)
    return whole + (_hash(name) < (times - whole) * 2**64)


class Stats:
    """What the report shows of a shard. Adding shards up gives the same in any order."""

    def __init__(self) -> None:
        self.fates: Counter[str] = Counter()
        self.characters: Counter[str] = Counter()
        self.fired: Counter[str] = Counter()
        """Documents that broke each rule, whether it was the first that they broke or not."""
        self.languages: Counter[str] = Counter()
        self.sources: dict[str, Counter[str]] = {}
        self.lengths: Counter[str] = Counter()
        """Kept documents by the bits of their number of characters."""
        self.masked: Counter[str] = Counter()
        self.samples: dict[str, list[list[Any]]] = {}
        self.bad: list[str] = []

    def count(self, row: Mapping[str, Any], fate: Mapping[str, Any], place: str) -> None:
        """Count a document, and keep it as a sample if its place hashes lower than others'."""
        name = fate["fate"]
        self.fates[name] += 1
        self.characters[name] += fate["characters"]
        if name.startswith("rule: "):
            self.fired.update(rule.partition(":")[0] for rule in fate["why"])
        source = self.sources.setdefault(row["source"], Counter())
        source["read"] += 1
        source["kept"] += name == STAYS
        if name == STAYS:
            self.languages[row["language"]] += 1
        facts = {key: fate[key] for key in ("why", "of", "agreement", "begins") if key in fate}
        heap = self.samples.setdefault(name, [])
        entry = [-_hash(place), place, {"id": row["id"], "source": row["source"], "language": row["language"], **facts}]
        if len(heap) < SAMPLES:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            heapq.heapreplace(heap, entry)

    def written(self, row: Mapping[str, Any], copies: int, characters: int) -> None:
        source = self.sources.setdefault(row["source"], Counter())
        source["written"] += copies
        source["characters"] += copies * characters

    def as_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "samples": {name: sorted(heap, key=lambda entry: -entry[0]) for name, heap in self.samples.items()},
        }
