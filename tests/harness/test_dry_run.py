"""What `--dry-run` says a run will read, against what the run then reads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from harness import dry_run
from harness.dry_run import COLUMNS, estimate
from harness.evaluation import Progress, Settings, execute, prepare
from qwen_model.prefill import Reader

SCRIPTED = str(Path(__file__).parent / "scripted.py")


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in range(3):
        (folder / f"{name}.txt").write_text(f"{name}: the quick brown fox jumps over the lazy dog. " * 60)
    return folder


@pytest.fixture
def unmeasured(monkeypatch):
    """The speed, which test_cli.py's dry run measures, is taken for 100 tokens a second read and 10 written."""
    monkeypatch.setattr(dry_run, "_measure", lambda model: (Reader(model), 100.0, 10.0))


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
def test_a_run_reads_what_was_said_before(tiny, texts, unmeasured, tmp_path, task, options):
    if task == "long-ppl":
        options = {**options, "documents": texts}
    prepared = prepare(Settings(tasks=(task,), model=str(tiny), **options))
    columns, (row,) = estimate(prepared)
    said = dict(zip(COLUMNS, row, strict=True))
    tokens = execute(prepared, tmp_path / "run", Progress()).environment["tokens"]
    read, most = (int(said[name].removeprefix("at most ").replace(",", "")) for name in COLUMNS[3:5])
    assert columns == COLUMNS and said["time"].endswith(f" {(read / 100 + most / 10) / 60:.1f} min")
    assert int(said["prompt tokens"].replace(",", "")) == pytest.approx(tokens["prompt"], rel=0.2)
    assert read == pytest.approx(tokens["computed"], rel=0.2)
    assert most >= tokens["generated"]


def test_long_ppl_counts_its_lengths_not_its_documents(tiny, texts, unmeasured):
    prepared = prepare(Settings(tasks=("long-ppl",), model=str(tiny), documents=texts, lengths=(64, 128)))
    row = dict(zip(COLUMNS, estimate(prepared)[1][0], strict=True))
    assert row["prompt tokens"] == f"{3 * (64 + 128)}" and row["generated tokens"] == "at most 0"


def test_code_is_not_run(tiny, monkeypatch):
    """A conversation with an interpreter is counted up to the model's first reply."""
    from harness.data import Data
    from harness.dry_run import Counter
    from harness.encoding import Encoding
    from harness.registry import task_class
    from qwen_model.checkpoint import load_tokenizer

    task = task_class("code-interpreter")()
    samples = task.samples(Data(None))[:5]
    monkeypatch.setattr("harness.sandbox.room.subprocess.Popen", lambda *_, **__: pytest.fail("a sandbox was opened"))
    counter = Counter(Encoding(load_tokenizer(tiny), 2048))
    asyncio.run(counter.count(task, samples))
    assert len(counter.prompts) == 5
