"""`harness contamination`: which test items of tasks stand in a training corpus, file by file on several processes."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.contamination import SHORTEST, Evidence, Found, Index, scan, tokens
from harness.corpus import NAMED, Key, Part, Tally, documents, parts
from harness.data import Data
from harness.records import write_atomic
from harness.registry import task_class
from harness.workers import cores, workers
from qwen_model.progress import Meter
from tasks.api import Sample, TaskError

CLEAN, OVERLAP, CONTAMINATED, TOO_SHORT = "clean", "overlap", "contaminated", "too short"
LABEL = 3
"""A field of fewer tokens is no text to look for (a category, a function's name), unless it is asked for."""
ALONE_BYTES = 32 << 20
"""A smaller corpus is read by this process, without showing progress: others take longer to start."""
LONGEST = 2000
"""Characters of one matched text that are kept."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One test item and what is looked for."""

    task: str
    id: str
    group: str | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What the corpus holds of one item."""

    task: str
    id: str
    group: str | None
    flag: str
    """`contaminated`, `overlap`, `clean` or `too short`."""
    share: float
    """Of the item's distinct grams, those found."""
    found: int
    grams: int
    tokens: int
    documents: int
    """Documents with at least one of its grams."""
    file: str | None
    """Where the longest run of its grams is: the file, below the corpus folder; the line or row; the document's id."""
    line: int | None
    document: str | None
    matched: str
    """That run as it stands there."""


@dataclass
class Corpus:
    """What was read."""

    files: int = 0
    bytes: int = 0
    documents: int = 0
    characters: int = 0
    bad: int = 0
    """Lines, rows or files without text that can be read."""
    named: list[str] = field(default_factory=list)
    """The first NAMED bad ones of each file's parts."""


def items(tasks: Sequence[str], data_dir: Path | None, wanted: Sequence[str]) -> list[Item]:
    """The items of tasks; `wanted` names the fields that are looked for, none for all. Raises TaskError."""
    data = Data(data_dir)
    found = []
    for name in tasks:
        task = task_class(name)()
        for sample in task.samples(data):
            text = _text(name, sample, wanted)
            found.append(Item(task=task.name, id=sample.id, group=sample.group, text=text))
    return found


def _text(task: str, sample: Sample, wanted: Sequence[str]) -> str:
    """The fields asked for; else all text fields in their order but for labels, and a gold answer that is a text."""
    if missing := [name for name in wanted if name not in sample.fields and name != "gold"]:
        known = ", ".join([*sample.fields, "gold"])
        raise TaskError(f"--fields: {missing[0]!r} is no field of {task}'s sample {sample.id}; it has {known}")
    values = {name: _joined(value) for name, value in sample.fields.items()} | {"gold": sample.gold}
    if wanted:
        return "\n".join(values[name] for name in wanted)
    least = {name: SHORTEST if name == "gold" else LABEL for name in values}
    kept = [value for name, value in values.items() if value != sample.group and len(tokens(value)) >= least[name]]
    return "\n".join(dict.fromkeys(kept))


def _joined(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "\n".join(_joined(entry) for entry in value)
    return ""


def search(
    items: Sequence[Item], corpus: Path, *, name: str, n: int, share: float, processes: int | None = None
) -> tuple[list[Overlap], Corpus]:
    """Look for the items in a corpus whose documents have their text in the field `name`.

    An item is contaminated from this share of its grams on. The result does not depend on the number of processes.
    Raises TaskError where nothing could be read.
    """
    todo = parts(corpus)
    index = Index([item.text for item in items], n)
    total = Corpus(files=len({part.path for part in todo}), bytes=sum(part.end - part.start for part in todo))
    found: dict[int, Found] = {}
    root = corpus if corpus.is_dir() else corpus.parent
    lines: dict[Path, int] = {}
    shown = Meter("scanning", total.bytes) if total.bytes > ALONE_BYTES else nullcontext()
    wanted = processes or (cores() if total.bytes > ALONE_BYTES else 1)
    with workers(wanted, _prepare, index, name) as over, shown as meter:
        for part, (tally, hits) in zip(todo, over(_scan, todo), strict=True):
            file, before = str(part.path.relative_to(root)), lines.get(part.path, 0)
            lines[part.path] = before + tally.lines
            _count(total, tally, file, before)
            for item, hit in hits.items():
                key: Key = hit.evidence.document
                place = (file, key.number + before, key.id)
                hit.evidence = Evidence(hit.evidence.tokens, place, hit.evidence.text)
                found.setdefault(item, Found()).add(hit)
            if meter:
                meter.finish_part(part.end - part.start)
    if not total.documents:
        what = f": {total.named[0]}" if total.named else ""
        raise TaskError(f"--corpus {corpus}: holds no document{what}; name the field of its text with --field")
    return [_overlap(item, number, index, found.get(number), share) for number, item in enumerate(items)], total


def _overlap(item: Item, number: int, index: Index, found: Found | None, share: float) -> Overlap:
    grams = index.counts[number]
    found = found or Found()
    part = len(found.grams) / grams if grams else 0.0
    flag = TOO_SHORT if not grams else CONTAMINATED if part >= share else OVERLAP if found.grams else CLEAN
    file, line, document = found.evidence.document or (None, None, None)
    text = found.evidence.text
    return Overlap(
        task=item.task,
        id=item.id,
        group=item.group,
        flag=flag,
        share=round(part, 6),
        found=len(found.grams),
        grams=grams,
        tokens=index.lengths[number],
        documents=found.documents,
        file=file,
        line=line,
        document=document,
        matched=text if len(text) <= LONGEST else text[:LONGEST] + " […]",
    )


def _count(total: Corpus, tally: Tally, file: str, before: int) -> None:
    total.documents += tally.documents
    total.characters += tally.characters
    total.bad += tally.bad + (tally.broken is not None)
    total.named += [f"{file}:{before + line}: {why}" for line, why in tally.named]
    if tally.bad > NAMED:
        total.named.append(f"{file}: {tally.bad - NAMED} more after line {before + tally.named[-1][0]}")
    if tally.broken is not None:
        total.named.append(f"{file}: {tally.broken}; read up to line {before + tally.lines}")


_SEARCHED: list[tuple[Index, str]] = []
"""What this process looks for."""


def _prepare(index: Index, name: str) -> None:
    _SEARCHED[:] = [(index, name)]


def _scan(part: Part) -> tuple[Tally, dict[int, Found]]:
    index, name = _SEARCHED[0]
    tally = Tally()
    return tally, scan(index, documents(part, name, index.n, tally))


def summary(overlaps: Sequence[Overlap]) -> list[dict[str, Any]]:
    """Counts by task: items, too short, with any overlap, contaminated; shares of the items long enough."""
    rows = []
    for task in dict.fromkeys(overlap.task for overlap in overlaps):
        flags = [overlap.flag for overlap in overlaps if overlap.task == task]
        short, bad = flags.count(TOO_SHORT), flags.count(CONTAMINATED)
        some = bad + flags.count(OVERLAP)
        long = len(flags) - short
        rows.append(
            {
                "task": task,
                "items": len(flags),
                "too_short": short,
                "overlap": some,
                "overlap_share": some / long if long else 0.0,
                "contaminated": bad,
                "contaminated_share": bad / long if long else 0.0,
            }
        )
    return rows


def write(folder: Path, overlaps: Sequence[Overlap], corpus: Corpus, asked: dict[str, Any]) -> None:
    """items.csv and items.jsonl (all items, those with most of their grams found first), and contamination.json."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(overlaps, key=lambda overlap: (-overlap.share, overlap.task, overlap.id))
    with (folder / "items.csv").open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, fieldnames=[entry.name for entry in fields(Overlap)])
        writer.writeheader()
        writer.writerows(asdict(overlap) for overlap in ordered)
    # escaped, so that a lone surrogate of a document can be written
    write_atomic(folder / "items.jsonl", "".join(json.dumps(asdict(overlap)) + "\n" for overlap in ordered))
    whole = {**asked, "shortest": SHORTEST, "tasks": summary(overlaps), "corpus": asdict(corpus)}
    write_atomic(folder / "contamination.json", json.dumps(whole, indent=1) + "\n")
