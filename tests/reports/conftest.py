"""A run folder made by hand: three tasks, hostile model text, every kind of footnote."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.records import COLUMNS, FORMAT, JSON_COLUMNS, Run, SampleRecord
from harness.summary import summarise

HOSTILE = (
    "\n<script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\n"
    "</pre></details><h1>owned</h1> {{ 7*7 }} &amp; NUL \x00 ESC \x1b[31m bidi \u202eabc\u202c "
    "\u2066x\u2069 BOM \ufeff " + "long" * 2000
)


def spec_of(task: str, **changes: Any) -> dict[str, Any]:
    spec = {
        "version": 1, "protocol": "chat", "shots": 0, "metric": "accuracy", "title": task, "data": "abc123",
        "decoding": {"max_tokens": 512, "temperature": 0.0}, "report": None, "limit": 40, "filter": {}, "items": None,
    }  # fmt: skip
    return {**spec, **changes}


SPEC: dict[str, Any] = {
    "format": FORMAT,
    "seed": 0,
    "model": {
        "name": "qwen2.5-coder-0.5b-instruct", "fingerprint": "1d9614638d18024d", "backend": "native",
        "dtype": "float32", "device": "cpu", "quantisation": "Q4_K_M",
    },
    "tasks": {
        "humaneval-chat": spec_of(
            "humaneval-chat", title="HumanEval, chat", metric="pass@1", items=164,
            report={"table": "table_5", "column": "HumanEval 0-shot"},
        ),
        "gsm8k-chat": spec_of(
            "gsm8k-chat", title="GSM8K, chat", items=1319, report={"table": "table_5", "column": "GSM8K 0-shot"},
        ),
        "mmlu": spec_of(
            "mmlu", title="MMLU", protocol="base", shots=5, items=14042, decoding=None, limit=None,
            report={"table": "table_2", "column": "MMLU"}, filter={"subject": ["astronomy", "anatomy"]},
        ),
    },
}  # fmt: skip

ENVIRONMENT: dict[str, Any] = {
    "started": "2025-01-01T10:00:00Z",
    "finished": "2025-01-01T10:08:20Z",
    "seconds": 500.25,
    "machine": {"cpu": "Example CPU", "cores": 2, "memory": {"total_gb": 8.0}},
    "packages": {f"package-{i}": f"1.{i}" for i in range(30)},
    "sandbox": {"tier": "namespaces", "detail": "bubblewrap"},
    "seconds_by_stage": {"load": 12.5, "prefill": 100.0},
    "tokens": {"prefilled": 123456, "generated": 9876},
}


def records_of(task: str) -> list[SampleRecord]:
    """40 samples; 12 right, 8 not extracted of gsm8k; 3 time-outs of humaneval; mmlu in 15 groups."""
    made = []
    for i in range(40):
        correct = i % 10 in (0, 3, 6)
        outcome = "correct" if correct else "wrong"
        if task == "gsm8k-chat" and i % 5 == 4:
            outcome = "unextracted"
        if task == "humaneval-chat" and i in (1, 2, 4):
            outcome = "timeout"
        scored = task == "mmlu"
        made.append(
            SampleRecord(
                task=task,
                id=f"{task}/{i}",
                position=i,
                group=f"subject {i % 15}" if scored else None,
                prompt=f"Question {i} of {task}?\n" + ("x = 1\n" * 30),
                response="" if scored else f"Answer {i}" + HOSTILE,
                answer=None if outcome == "unextracted" else f"{i}<b>",
                gold=f"{i}",
                correct=correct,
                outcome=outcome,
                finish=None if scored else "eos",
                token_logprobs=None if scored else (-0.1, -0.25),
                choice_logprobs={"A": -0.5, "B": -1.25, "C": -3.0, "D": -4.0} if scored else None,
                detail={"stderr": "<i>boom</i>\x00"} if task == "humaneval-chat" else {},
                seconds=1.5,
            )
        )
    return made


def measured_records() -> list[SampleRecord]:
    """40 samples in groups of 4, 6, 10 and 20, with measures of each kind; one of them over every other sample."""
    groups = [name for name, size in zip("abcd", (4, 6, 10, 20), strict=True) for _ in range(size)]
    return [
        replace(
            record,
            task="tools",
            group=group,
            correct=i % 4 == 0,
            scores={
                "rouge": i / 39,
                "loss": math.log(7),
                **({"false positives": float(i % 10 in (0, 4))} if i % 2 == 0 else {}),
            },
        )
        for i, (group, record) in enumerate(zip(groups, records_of("tools"), strict=True))
    ]


def write_run(
    path: Path,
    spec: dict[str, Any],
    environment: dict[str, Any] | None,
    records: Callable[[str], list[SampleRecord]] = records_of,
) -> Run:
    """A finished run folder; rows go in backwards, since a run's rows come in the order of verdicts."""
    path.mkdir()
    database = sqlite3.connect(path / "samples.sqlite")
    columns = ", ".join(f'"{name}" {kind}' for name, kind in COLUMNS.items())
    database.execute(f"CREATE TABLE samples ({columns})")
    results = {}
    for task in spec["tasks"]:
        for record in reversed(records(task)):
            row = [getattr(record, name) for name in COLUMNS]
            row = [
                json.dumps(value) if name in JSON_COLUMNS and value is not None else value
                for name, value in zip(COLUMNS, row, strict=True)
            ]
            database.execute(f"INSERT INTO samples VALUES ({', '.join('?' * len(row))})", row)
        its = spec["tasks"][task]
        further = {name: its[name] for name in ("measures", "mean", "sets") if name in its}
        results[task] = summarise(records(task), its["metric"], **further)
    database.commit()
    database.close()
    (path / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    (path / "results.json").write_text(json.dumps({"spec": spec, "tasks": results}), encoding="utf-8")
    if environment is not None:
        (path / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    return Run(path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "demo", SPEC, ENVIRONMENT)


@pytest.fixture
def measured_run(tmp_path: Path) -> Run:
    """One task with a mean over groups, sets, and measures of each kind."""
    task = spec_of(
        "tools",
        items=40,
        mean="groups",
        measures={"rouge": "mean", "false positives": "share", "loss": "perplexity"},
        sets={"hard": ["a", "b", "c"], "easy": ["d"], "absent": ["z"]},
    )
    return write_run(
        tmp_path / "measured", {**SPEC, "tasks": {"tools": task}}, ENVIRONMENT, lambda _: measured_records()
    )


@pytest.fixture
def bare_run(tmp_path: Path) -> Run:
    """As little as a run may have: no environment, a task that is not ours, a spec of few keys."""
    spec = {
        "format": FORMAT,
        "tasks": {"mine $x$": {"metric": "accuracy", "report": {"table": "table_2", "column": "X"}}},
    }
    return write_run(tmp_path / "bare", spec, None)
