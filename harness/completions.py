"""A file of completions: one JSON object per line with a sample's `id` and the `text` that some model wrote."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.data import json_object
from harness.summary import DRAW_MARK
from tasks.api import Sample, TaskError

FORM = 'each line is {"id": "...", "text": "..."}'


@dataclass(frozen=True)
class Completions:
    """The lines of a file, and its SHA-256."""

    path: Path
    lines: tuple[tuple[int, str, str], ...]
    """(line number, id, text)."""
    sha256: str


def read_completions(path: Path) -> Completions:
    """Raises TaskError that names the line and the field."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise TaskError(f"{path}: {error.strerror}; name a .jsonl file in which {FORM}") from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: no UTF-8 text ({error}); name a .jsonl file in which {FORM}") from None
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = json_object(line, f"{path}:{number}", FORM)
        for field in ("id", "text"):
            if field not in row:
                raise TaskError(f"{path}:{number}: field {field!r} is missing; {FORM}")
            if not isinstance(row[field], str):
                raise TaskError(f"{path}:{number}: field {field!r} is {type(row[field]).__name__}, not text; {FORM}")
        # tasks look for lines as models write them
        lines.append((number, row["id"], row["text"].replace("\r\n", "\n")))
    if not lines:
        raise TaskError(f"{path}: holds no completions; {FORM}")
    return Completions(path, tuple(lines), hashlib.sha256(content).hexdigest())


def assign(
    completions: Completions, everything: Iterable[Sample], chosen: Sequence[Sample], *, partial: bool
) -> list[tuple[Sample, str]]:
    """The chosen samples with their texts, in the data set's order; a sample with several texts comes as often.

    Then ids end in DRAW_MARK and a number, as in a run with several answers. Lines of samples that are not chosen are
    passed over. Raises TaskError for an id that is no sample's and, unless `partial`, for a chosen sample that has no
    text.
    """
    path, known = completions.path, {sample.id for sample in everything}
    for number, id_, _ in completions.lines:
        if id_ not in known:
            some = ", ".join(sorted(known)[:3])
            raise TaskError(f"{path}:{number}: id {id_!r} is no sample of the task, whose ids are such as {some}")
    counts = Counter(id_ for _, id_, _ in completions.lines)
    missing = [sample.id for sample in chosen if sample.id not in counts]
    if missing and (not partial or len(missing) == len(chosen)):
        remedy = "complete the file" + ("" if partial else ", select with --limit or --filter, or give --partial")
        raise TaskError(
            f"{path}: no line for {len(missing):,} of {len(chosen):,} samples, the first one {missing[0]}; {remedy}"
        )
    texts: dict[str, list[str]] = {}
    for _, id_, text in completions.lines:
        texts.setdefault(id_, []).append(text)
    several = max(counts[sample.id] for sample in chosen) > 1
    return [
        (replace(sample, id=f"{sample.id}{DRAW_MARK}{number}") if several else sample, text)
        for sample in chosen
        for number, text in enumerate(texts.get(sample.id, []))
    ]
