"""Finished run folders made by hand, through the store and the summary that real runs use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.records import FORMAT, Run, SampleRecord
from harness.store import open_store
from harness.summary import summarise


def record(task: str, id: str, position: int = 0, **changes: Any) -> SampleRecord:
    """A sample, right unless said otherwise."""
    fields = {
        "group": None, "prompt": f"Question {id}?", "response": "It is 4.", "answer": "4", "gold": "4", "correct": True,
        "outcome": "correct" if changes.get("correct", True) else "wrong", "finish": "eos", "choice_logprobs": None,
        "token_logprobs": (-0.5, -0.25), "scores": {}, "asked": (), "detail": {}, "seconds": 1.0,
    } | changes  # fmt: skip
    return SampleRecord(task=task, id=id, position=position, **fields)


def make_run(path: Path, tasks: dict[str, list[SampleRecord]], **specs: dict[str, Any]) -> Run:
    """A run of these records; `specs` are changes of the tasks' specs, their names with _ for -."""
    entries = {
        task: {
            "version": 1, "title": task, "protocol": "base", "shots": 0, "metric": "accuracy", "decoding": None,
            "report": None, "data": "abc", "items": len(records), "limit": None, "filter": {}, "prompts": "def",
        }
        | specs.get(task.replace("-", "_"), {})
        for task, records in tasks.items()
    }  # fmt: skip
    model = {"name": path.name, "fingerprint": "f" * 16, "quantisation": None, "backend": "native", "dtype": "float32"}
    spec = {"format": FORMAT, "engine": "0", "model": model | {"device": "cpu"}, "tasks": entries, "seed": 1}
    with open_store(path, spec) as store:
        for records in tasks.values():
            for one in records:
                store.add(one)
        results = {
            task: summarise(
                records, entries[task]["metric"], entries[task].get("draws", 1),
                **{name: entries[task][name] for name in ("measures", "mean", "sets") if name in entries[task]},
            )
            for task, records in tasks.items()
        }  # fmt: skip
        store.finish({"spec": spec, "tasks": results}, {"finished": "2026-01-01T00:00:00Z"})
    return Run(path)
