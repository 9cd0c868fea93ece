"""A number is a function of model, task and seed: not of batch, budget, order, limit, shards, sharing, full memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.engine import Engine
from harness.evaluation import Progress, Settings, execute, prepare
from harness.judged import Judged
from harness.ranks import share
from harness.records import Run
from harness.registry import task_class
from qwen_model import ModelError, load_model
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_model.prefill import Reader
from tests.harness.test_run import FORKING, SUMS, assert_same, rows

LIKELY = SUMS.replace(":Sums", ":Likely")


@pytest.fixture(scope="module")
def bench(tiny):
    """Judges samples under any circumstances, and what it judges under usual ones."""
    checkpoint = find_checkpoint(str(tiny))
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    tasks = [task_class(SUMS)(), task_class(LIKELY)()]
    samples = [(task, sample) for task in tasks for sample in task.samples(None)]

    def judge(jobs, *, batch_tokens=512, slots=64, model=model) -> dict[str, Judged]:
        how = {"batch_tokens": batch_tokens, "slots": slots, "runners": 1, "seed": 1234, "unsafe": False}
        engine, found = Engine(model, tokenizer, **how), {}
        asyncio.run(engine.run(jobs, lambda judged: found.update({(judged.task.name, judged.sample.id): judged})))
        return found

    return judge, samples, judge(samples), model


def assert_equal(mine: dict, whole: dict) -> None:
    """Texts, verdicts and requests equal; log-probabilities of float32 within 1e-5, large sums within a millionth."""
    for key, judged in mine.items():
        other = whole[key]
        assert (judged.response, judged.finish, judged.verdict.outcome) == (
            other.response,
            other.finish,
            other.verdict.outcome,
        )
        for one, two in zip(judged.asked, other.asked, strict=True):
            assert one.keys() == two.keys()
            for name in one:
                if name in ("scores", "logprob", "logprobs"):
                    assert one[name] == pytest.approx(two[name], abs=1e-5, rel=1e-6)
                else:
                    assert one[name] == two[name]


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch_tokens=st.sampled_from([1, 7, 40, 100, 512, 8192]),
    slots=st.integers(1, 64),
    chosen=st.lists(st.integers(0, 79), min_size=1, max_size=30, unique=True),
)
@example(batch_tokens=1, slots=1, chosen=[*range(39, -1, -1)])
def test_batch_budget_order_and_limit(bench, batch_tokens, slots, chosen):
    judge, samples, whole, _ = bench
    found = judge([samples[place] for place in chosen], batch_tokens=batch_tokens, slots=slots)
    assert len(found) == len(chosen)
    assert_equal(found, whole)


@pytest.mark.parametrize("size", [2, 3])
def test_shards(bench, size):
    judge, samples, whole, _ = bench
    found = {}
    for rank in range(size):
        found |= judge(share(samples, rank, size))
    assert found.keys() == whole.keys()
    assert_equal(found, whole)


def test_shared_prefixes_or_none(bench, monkeypatch):
    judge, samples, whole, _ = bench
    read = []
    forward = Reader._forward

    def counted(self, tokens, *how):
        read.append(len(tokens))
        return forward(self, tokens, *how)

    monkeypatch.setattr(Reader, "_forward", counted)
    assert_equal(judge(samples), whole)
    shared, read = sum(read), []
    monkeypatch.setattr(Reader, "plan", lambda self, sequences, limits: [(place, 0) for place in range(len(sequences))])
    assert_equal(judge(samples), whole)
    assert sum(read) > 1.5 * shared


class Full:
    """A model on a machine that holds so many tokens a pass and so many rows, and says so as torch does."""

    def __init__(self, model, tokens: int, rows: int, error: Exception) -> None:
        self._model, self._tokens, self._rows, self._error = model, tokens, rows, error
        self.refused = 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, input_ids, **kwargs):
        if input_ids.shape[1] > self._tokens or input_ids.shape[0] > self._rows:
            self.refused += 1
            raise self._error
        return self._model(input_ids, **kwargs)


GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
MAIN = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes.")


@pytest.mark.parametrize("error", [GPU, MAIN])
def test_full_memory_halves_and_carries_on(bench, error):
    judge, samples, whole, model = bench
    full = Full(model, tokens=70, rows=9, error=error)
    found = judge(samples, model=full)
    assert 3 <= full.refused <= 40
    assert found.keys() == whole.keys()
    assert_equal(found, whole)


def test_memory_that_holds_nothing_is_one_line(bench):
    judge, samples, _, model = bench
    with pytest.raises(ModelError, match="out of memory on the GPU"):
        judge(samples, model=Full(model, tokens=2, rows=0, error=GPU))


def test_other_errors_are_not_taken_for_it(bench):
    judge, samples, _, model = bench

    class Broken(Full):
        def __call__(self, input_ids, **kwargs):
            raise RuntimeError("the size of tensor a must match")

    with pytest.raises(RuntimeError, match="the size of tensor"):
        judge(samples[:3], model=Broken(model, 1, 1, GPU))


KILLER = """
begin = time.monotonic()
assert os.waitpid(child(out / "whole"), 0)[1] == 0
unbroken = time.monotonic() - begin
draw, killed = random.Random(7), 0
while killed < int(sys.argv[4]):
    folder = out / f"run{killed // 5}"  # five kills on each
    pid = child(folder)
    time.sleep(draw.uniform(0, unbroken))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    killed += 1
    if killed % 5 == 0:
        assert os.waitpid(child(folder), 0)[1] == 0
"""


@pytest.mark.slow
def test_kill_9_at_20_random_moments(tiny, tmp_path):
    """Forked from a process that has loaded everything, so that the moments fall into the work."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING + KILLER, SUMS, str(tiny), str(tmp_path), "20"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    whole = Run(tmp_path / "whole")
    for number in range(4):
        run = Run(tmp_path / f"run{number}")
        assert (run.path / "results.json").read_bytes() == (whole.path / "results.json").read_bytes()
        assert_same(rows(run), rows(whole))


def test_a_disk_that_fills_again_and_again(tiny, tmp_path, monkeypatch):
    """Each time a little more fits; the end equals an unbroken run's."""
    import sqlite3

    from harness.records import RunError

    prepared = prepare(Settings(tasks=(SUMS,), model=str(tiny)))
    whole = execute(prepared, tmp_path / "whole", Progress())
    connect, said, kept = sqlite3.connect, [], []
    for pages in (2, 3, 4, 5, 6, 10_000):

        def small(path, *, pages=pages, **options):
            database = connect(path, **options)
            database.execute(f"PRAGMA max_page_count = {pages}")
            return database

        with monkeypatch.context() as patch:
            patch.setattr("harness.store.sqlite3.connect", small)
            try:
                run = execute(prepared, tmp_path / "run", Progress())
            except RunError as error:
                said.append(str(error))
        if (tmp_path / "run" / "spec.json").exists():
            kept.append(len(Run(tmp_path / "run").samples("sums")))
    assert len(said) >= 3
    assert kept == sorted(kept) and kept[-1] == 40 and any(0 < count < 40 for count in kept)
    assert all("full" in line and "\n" not in line for line in said)
    assert (run.path / "results.json").read_bytes() == (whole.path / "results.json").read_bytes()
    assert_same(rows(run), rows(whole))
