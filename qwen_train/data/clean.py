"""The first stage, document by document: extraction, normalisation, language, rules, scores; what it is compared by.

A shard's work is one file of rows in the order of reading (kept, dropped and bad ones), arrays of its kept documents
in runs of RUN, and, last, a small JSON file that says that the shard is done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import write_atomic
from qwen_train.data import html, minhash
from qwen_train.data.config import DataConfig
from qwen_train.data.decontaminate import TestItems
from qwen_train.data.files import Lines, new_lines, save_array
from qwen_train.data.language import language
from qwen_train.data.normalise import key
from qwen_train.data.read import Document, Place, Quarantine, read
from qwen_train.data.rules import CODE, INSTRUCTION, Facts, broken
from qwen_train.data.scores import Scores

RUN = 1 << 14
"""Kept documents whose arrays are in memory together."""
BATCH = 64
"""Documents whose signatures are made at once."""
SHOWN = 600
"""Characters that are kept of a dropped document."""
RAW = 2000
"""Bytes that are kept of a bad line."""


class Cleaner:
    """What a process needs to clean shards."""

    def __init__(self, config: DataConfig, work: Path) -> None:
        """`work` holds the test items and the quality model, where they are asked for."""
        self.config, self.work = config, work
        self.scores = Scores(config, work)
        self.items = TestItems(work, everywhere=config.decontaminate.all_documents) if config.decontaminate else None

    def shard(self, number: int, places: Sequence[Place]) -> dict[str, Any]:
        """Clean a shard and write it; returns its counts. One that is done is not done again."""
        done = self.work / f"{number:06d}.json"
        if done.is_file():
            return dict(json.loads(done.read_text(encoding="utf-8")))
        runs = Runs(self.work, number, self.config)
        lines, bad, documents, characters, kept_characters = [], 0, 0, 0, 0
        with new_lines(self.work / f"{number:06d}.jsonl.zst") as out:
            for part, place in enumerate(places):

                def keep(line: int, why: str, raw: bytes, out: Lines = out, part: int = part) -> None:
                    shown = raw[:RAW].decode("utf-8", "backslashreplace")
                    out.write({"part": part, "line": line, "bad": why, "raw": shown})

                tally = Quarantine(keep)
                for document in read(place, self.config.text_field, self.config.code_sources, tally):
                    documents += 1
                    characters += len(document.text)
                    row, facts = self.judge(document)
                    out.write({"part": part, **row})
                    if "fate" not in row:
                        kept_characters += len(facts.text)
                        runs.add(part, document.line, facts)
                if tally.broken is not None:
                    out.write({"part": part, "line": tally.lines, "bad": tally.broken, "raw": ""})
                lines.append(tally.lines)
                bad += tally.bad + (tally.broken is not None)
        runs.flush()
        counts = {"lines": lines, "bad": bad, "documents": documents, "characters": characters}
        counts |= {"kept": runs.kept, "kept_characters": kept_characters, "runs": runs.number}
        write_atomic(done, json.dumps(counts) + "\n")
        return counts

    def judge(self, document: Document) -> tuple[dict[str, Any], Facts]:
        """The row of a document: with its text if it stays, else with its fate, why, and how it begins."""
        row: dict[str, Any] = {"line": document.line, "source": document.source, "kind": document.kind}
        if document.id is not None:
            row["id"] = document.id
        text = html.plain_text(document)
        row["language"] = CODE if document.kind == CODE else language(text)
        facts = Facts(text, row["language"])
        if dropped := self._dropped(facts, document):
            fate, why = dropped
            return row | {
                "fate": fate,
                "why": why,
                "characters": len(text),
                "begins": (text or document.text)[:SHOWN],
            }, facts
        return row | {"text": text}, facts

    def _dropped(self, facts: Facts, document: Document) -> tuple[str, list[str]] | None:
        """(Fate, why), None if the document stays."""
        kind = document.kind
        if not facts.text.strip():
            return "html" if html.is_page(document) else "empty", []
        if kind != CODE and self.config.languages and facts.language not in self.config.languages:
            return "language", [facts.language]
        if rules := broken(facts, kind, self.config.rules):
            return f"rule: {rules[0].partition(':')[0]}", rules
        if kind != INSTRUCTION and (score := self.scores.dropped(facts.text)):
            return score
        if self.items and (item := self.items.first(facts.words, instruction=kind == INSTRUCTION)):
            return "test item", [item]
        return None


class Runs:
    """The arrays of a shard's kept documents.

    places (N, 2): part and line; keys (N,): of exact comparison, sorted, with the document's number in the run;
    lengths (N,); signatures (N, P); bands (bands, M): keys, sorted in each band, with numbers.
    """

    def __init__(self, work: Path, shard: int, config: DataConfig) -> None:
        self.work, self.shard, self.near = work, shard, config.near
        self.number = self.kept = 0
        self._places: list[tuple[int, int, int]] = []
        self._keys: list[bytes] = []
        self._sets: list[Any] = []
        self._signatures: list[Any] = []

    def add(self, part: int, line: int, facts: Facts) -> None:
        """Take in a document that stays."""
        self._places.append((part, line, len(facts.text)))
        self._keys.append(key(facts.text))
        if self.near:
            found = minhash.shingles(facts.words, self.near.shingle)
            alone = np.frombuffer(self._keys[-1][:8], dtype=np.uint64)  # without words it is like no other
            self._sets.append(found if len(found) else alone)
            if len(self._sets) == BATCH:
                self._sign()
        self.kept += 1
        if len(self._places) == RUN:
            self.flush()

    def _sign(self) -> None:
        if self.near:
            self._signatures.append(minhash.signatures(self._sets, self.near.permutations))
            self._sets = []

    def flush(self) -> None:
        """Write what is in memory as a run."""
        if not self._places:
            return
        stem = self.work / f"{self.shard:06d}.{self.number}"
        save_array(Path(f"{stem}.places.npy"), np.array(self._places, dtype=np.int64))
        halves = np.frombuffer(b"".join(self._keys), dtype=np.uint64).reshape(-1, 2)
        save_array(Path(f"{stem}.keys.npy"), _sorted(halves[:, 0], halves[:, 1]))
        if self.near:
            self._sign()
            made = np.concatenate(self._signatures)
            save_array(Path(f"{stem}.signatures.npy"), made)
            bands = minhash.band_keys(made, self.near.bands)
            save_array(Path(f"{stem}.bands.npy"), np.stack([_sorted(keys, np.zeros_like(keys)) for keys in bands]))
        self._places, self._keys, self._signatures = [], [], []
        self.number += 1


ENTRY = np.dtype([("key", np.uint64), ("check", np.uint64), ("number", np.int64)])


def _sorted(keys: Any, checks: Any) -> Any:
    entries: Any = np.zeros(len(keys), dtype=ENTRY)
    entries["key"], entries["check"], entries["number"] = keys, checks, np.arange(len(keys))
    return entries[np.argsort(keys, kind="stable")]
