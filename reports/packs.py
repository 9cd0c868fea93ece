"""A run's samples packed into a page: read when somebody looks at them, not when the page opens.

A page opened from disk may load nothing, so the samples are inside it: per task one index (what the list and its
filters need) and chunks of whole samples, each JSON, compressed by zlib and in base64, in elements that a browser does
not run. MMLU whole, 14,042 samples with their five shots, is a few MB. Every text passes `visible` on its way in.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from harness.records import SampleRecord
from reports import causes

if TYPE_CHECKING:
    import pandas

CHUNK = 200
"""Samples that are unpacked together."""
LONGEST = 20_000
"""Characters of one text on the page; the middle of a longer one is left out. `samples.sqlite` has all of it."""
GLANCE = 80
"""Characters of an answer in the list."""
PICTURES = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
"""Types of picture by the first bytes in base64."""


@dataclass(frozen=True)
class Pack:
    """One element of the page."""

    id: str
    data: str


@dataclass(frozen=True)
class Packed:
    """A task's samples: what the page's script must know at once, the elements, and the frame of their causes."""

    head: Mapping[str, Any]
    packs: tuple[Pack, ...]
    samples: pandas.DataFrame
    lengths: pandas.Series
    """The part by prompt length that each sample is in."""


def pack(key: str, records: Iterator[SampleRecord], run: str, task: str, visible: Callable[[str], str]) -> Packed:
    """The samples of a task under a key that no other task on the page has. Equal records give equal bytes."""
    packs: list[Pack] = []
    rows: list[tuple[str, str | None, str, str, int]] = []
    glances: list[tuple[str | None, str | None]] = []
    while chunk := list(islice(records, CHUNK)):
        rows += map(causes.row, chunk)
        glances += [(_glance(record.answer), _glance(record.gold)) for record in chunk]
        packs.append(Pack(f"{key}-{len(packs)}", _packed([_whole(record) for record in chunk], visible)))
    samples = causes.frame(rows)
    lengths = causes.lengths(samples)
    names = {
        "group": list(dict.fromkeys(samples["group"].dropna())),
        "cause": list(causes.counts(samples).columns),
        "outcome": sorted(set(samples["outcome"])),
        "length": [str(part) for part in lengths.cat.categories],
    }
    columns = {
        "id": samples["id"].tolist(),
        **{
            name: [-1 if value is None or value != value else places.index(value) for value in values]
            for name, places, values in (
                *((name, names[name], samples[name].tolist()) for name in ("group", "cause", "outcome")),
                ("length", names["length"], lengths.astype(str).tolist()),
            )
        },
        "answer": [answer for answer, _ in glances],
        "gold": [gold for _, gold in glances],
    }
    head = {"key": key, "run": run, "task": task, "n": len(samples), "chunk": CHUNK, **names}
    index = Pack(f"{key}-index", _packed(columns, visible))
    return Packed(_seen(head, visible), (index, *packs), samples, lengths)


def _whole(record: SampleRecord) -> dict[str, Any]:
    """What is shown of one sample when it is opened."""
    detail = {name: value for name, value in record.detail.items() if name != "images"}
    shown = {
        "prompt": shortened(record.prompt),
        "response": shortened(record.response),
        "answer": None if record.answer is None else shortened(record.answer),
        "gold": shortened(record.gold),
        "finish": record.finish,
        "logprobs": record.choice_logprobs,
        "detail": shortened(json.dumps(detail, indent=2, ensure_ascii=False, sort_keys=True)) if detail else None,
        "pictures": pictures(record.detail),
    }
    return {name: value for name, value in shown.items() if value not in (None, [], {})}


def pictures(detail: Mapping[str, Any]) -> list[str]:
    """The pictures that a code interpreter drew, as data addresses. Model-written code made them: nothing else passes,
    and the type is that of their first bytes."""
    found = []
    for text in detail.get("images", []):
        if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text):
            kind = next((kind for begin, kind in PICTURES.items() if text.startswith(begin)), None)
            found += [f"data:{kind};base64,{text}"] if kind else []
    return found


def shortened(text: str) -> str:
    """Both ends of a text that is too long for a page."""
    if len(text) <= LONGEST:
        return text
    left_out = len(text) - LONGEST
    return f"{text[: LONGEST // 2]}\n[… {left_out:,} characters left out …]\n{text[-LONGEST // 2 :]}"


def _glance(text: str | None) -> str | None:
    if text is None or len(text) <= GLANCE:
        return text
    return text[:GLANCE] + "…"


def _packed(value: Any, visible: Callable[[str], str]) -> str:
    text = json.dumps(_seen(value, visible), ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode())).decode()


def _seen(value: Any, visible: Callable[[str], str]) -> Any:
    """The same with every string made visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(name): _seen(its, visible) for name, its in value.items()}
    if isinstance(value, list | tuple):
        return [_seen(its, visible) for its in value]
    return value
