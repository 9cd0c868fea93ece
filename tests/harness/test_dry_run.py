"""What `--dry-run` says a run will read, against what the run then reads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from harness.dry_run import COLUMNS, estimate
from harness.evaluation import Progress, Settings, execute, prepare

SCRIPTED = str(Path(__file__).parent / "scripted.py")


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in range(3):
        (folder / f"{name}.txt").write_text(f"{name}: the quick brown fox jumps over the lazy dog. " * 60)
    return folder


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("long-ppl", {"lengths": (64, 700)}),
        ("long-ppl", {"lengths": (300,), "stride": 100}),
        (f"{SCRIPTED}:Guesses", {}),
        (f"{SCRIPTED}:Tools", {}),
        (f"{SCRIPTED}:Likely", {}),
    ],
)
def test_a_run_reads_what_was_said_before(tiny, texts, tmp_path, task, options):
    if task == "long-ppl":
        options = {**options, "documents": texts}
    prepared = prepare(Settings(tasks=(task,), model=str(tiny), **options))
    columns, (row,) = estimate(prepared)
    said = dict(zip(COLUMNS, row, strict=True))
    tokens = execute(prepared, tmp_path / "run", Progress()).environment["tokens"]
    assert columns == COLUMNS and "min" in said["time"]
    assert int(said["prompt tokens"].replace(",", "")) == pytest.approx(tokens["prompt"], rel=0.2)
    assert int(said["after sharing"].replace(",", "")) == pytest.approx(tokens["computed"], rel=0.2)
    assert int(said["generated tokens"].removeprefix("at most ").replace(",", "")) >= tokens["generated"]


def test_long_ppl_counts_its_lengths_not_its_documents(tiny, texts):
    prepared = prepare(Settings(tasks=("long-ppl",), model=str(tiny), documents=texts, lengths=(64, 128)))
    row = dict(zip(COLUMNS, estimate(prepared)[1][0], strict=True))
    assert row["prompt tokens"] == f"{3 * (64 + 128)}" and row["generated tokens"] == "at most 0"


def test_code_is_not_run(tiny):
    """A conversation with an interpreter is counted up to the model's first reply."""
    from harness.data import Data
    from harness.dry_run import Counter
    from harness.encoding import Encoding
    from harness.registry import task_class
    from qwen_model.checkpoint import load_tokenizer

    task = task_class("code-interpreter")()
    samples = task.samples(Data(None))[:5]
    counter = Counter(Encoding(load_tokenizer(tiny), 2048))
    asyncio.run(counter.count(task, samples))
    assert len(counter.prompts) == 5
