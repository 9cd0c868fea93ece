"""report.json: what became of the documents, added up over the shards."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.corpus import NAMED
from qwen_train.data.config import DataConfig
from qwen_train.data.mix import SAMPLES, STAYS
from qwen_train.data.rules import RULES
from qwen_train.data.scores import FACTS

ORDER = (
    *("html", "empty", "language", *(f"rule: {rule.name}" for rule in RULES)),
    *("quality", "perplexity", "test item", "exact copy", "near copy", STAYS),
)
"""Fates in the order in which they are decided."""


def summary(
    config: DataConfig,
    corpus: Sequence[Path],
    work: Path,
    counts: Sequence[Mapping[str, Any]],
    shards: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """`counts` are of cleaning, `shards` of mixing (`mix.Stats`): one of each for every shard."""
    fates, characters = _added(shards, "fates"), _added(shards, "characters")
    sources: dict[str, Counter[str]] = {}
    samples: dict[str, list[Any]] = {}
    for shard in shards:
        for name, found in shard["sources"].items():
            sources.setdefault(name, Counter()).update(found)
        for fate, entries in shard["samples"].items():
            samples.setdefault(fate, []).extend(entries)
    quality = work / FACTS
    return {
        "config": config.model_dump(mode="json"),
        "corpus": list(map(str, corpus)),
        "documents": sum(count["documents"] for count in counts),
        "characters": sum(count["characters"] for count in counts),
        "fates": [
            {"fate": fate, "documents": fates[fate], "characters": characters[fate]} for fate in ORDER if fates[fate]
        ],
        "rules": dict(_added(shards, "fired").most_common()),
        "written": {
            "documents": sum(source["written"] for source in sources.values()),
            "characters": sum(source["characters"] for source in sources.values()),
        },
        "sources": {name: dict(found) for name, found in sorted(sources.items())},
        "unknown_sources": sorted({*config.repeat, *config.code_sources} - sources.keys()),
        "languages": dict(_added(shards, "languages").most_common()),
        "lengths": dict(sorted(_added(shards, "lengths").items(), key=lambda pair: int(pair[0]))),
        "masked": dict(sorted(_added(shards, "masked").items())),
        "bad": {
            "lines": sum(count["bad"] for count in counts),
            "named": [line for shard in shards for line in shard["bad"]][:NAMED],
        },
        "quality": json.loads(quality.read_text(encoding="utf-8")) if quality.is_file() else None,
        "samples": {
            fate: [sample for *_, sample in heapq.nlargest(SAMPLES, samples[fate], key=lambda entry: entry[0])]
            for fate in ORDER
            if fate in samples
        },
    }


def _added(shards: Iterable[Mapping[str, Any]], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for shard in shards:
        total.update(shard[name])
    return total
