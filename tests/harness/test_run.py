"""Runs end to end on a tiny random model: the same numbers whatever the batch, the backend, or the interruption."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from harness import evaluate
from harness.backends import set_threads
from harness.encoding import Encoding
from harness.evaluation import Progress, Settings, execute, prepare
from harness.ranks import ALONE, Ranks
from harness.records import Run, RunError, folder_name
from harness.token_backend import TokenBackend
from qwen_model.checkpoint import load_tokenizer
from qwen_model.scoring import Continuation, Scored
from tasks.api import TaskError
from tests.conftest import make_checkpoint

SUMS = str(Path(__file__).parent / "scripted.py") + ":Sums"
FAILS = str(Path(__file__).parent / "scripted.py") + ":Fails"


def rows(run: Run, task: str = "sums") -> list[dict]:
    return [asdict(record) | {"seconds": 0} for record in run.records(task)]


def assert_same(mine: list[dict], theirs: list[dict]) -> None:
    """Equal in everything; log-probabilities up to the rounding of another batch."""
    for one, other in zip(mine, theirs, strict=True):
        for name in one:
            if name == "asked":
                assert [entry["request"] for entry in one[name]] == [entry["request"] for entry in other[name]]
            elif name in ("choice_logprobs", "token_logprobs") and one[name] is not None:
                assert one[name] == pytest.approx(other[name], abs=1e-4)
            else:
                assert one[name] == other[name]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    return evaluate([SUMS], str(tiny), out=tmp_path_factory.mktemp("runs") / "whole")


def test_results_and_samples_agree(whole):
    entry = whole.results["sums"]
    frame = whole.samples("sums")
    assert entry.n == len(frame) == 40
    assert entry.metrics["accuracy"].value == frame["correct"].mean()
    assert entry.outcomes == frame["outcome"].value_counts().to_dict()
    assert list(frame["id"]) == [f"sums/{i}" for i in range(40)]
    assert frame["choice_logprobs"].notna().sum() == 20


def test_in_a_notebook_where_a_loop_runs_already(tiny, tmp_path, whole):
    async def cell() -> Run:
        return evaluate([SUMS], str(tiny), limit=4, out=tmp_path / "run")

    ids = {row["id"] for row in rows(asyncio.run(cell()))}
    assert len(ids) == 4 and ids <= {row["id"] for row in rows(whole)}


def test_a_finished_run_is_read_without_a_trace(whole):
    before = {path.name for path in whole.path.iterdir()}
    whole.samples("sums")
    assert {path.name for path in whole.path.iterdir()} == before
    assert not [name for name in before if name.endswith(("-wal", "-shm"))]


def test_showing_a_finished_run_leaves_it_as_it_was(tiny, tmp_path):
    run = evaluate([SUMS], str(tiny), limit=3, out=tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    again = evaluate([SUMS], str(tiny), limit=3, out=tmp_path / "run")
    again.samples("sums")
    assert {path.name: path.read_bytes() for path in run.path.iterdir()}.keys() == before.keys()
    # bytes 18 and 19 of SQLite's file format: 1 is a rollback journal, 2 is WAL
    assert (run.path / "samples.sqlite").read_bytes()[18:20] == before["samples.sqlite"][18:20] == b"\x01\x01"


def test_folders_of_any_name_are_read(tiny, tmp_path):
    for name in ("try#2", "what?mode=rw", "50%25 off"):
        assert len(rows(evaluate([SUMS], str(tiny), limit=2, out=tmp_path / name))) == 2


def test_samples_that_cannot_be_opened_are_not_to_be_deleted(tiny, tmp_path):
    run = evaluate([SUMS], str(tiny), limit=2, out=tmp_path / "run")
    (run.path / "samples.sqlite").unlink()
    (run.path / "samples.sqlite").mkdir()
    with pytest.raises(RunError, match=r"samples\.sqlite: cannot be read \(") as caught:
        run.samples("sums")
    assert "delete" not in str(caught.value)


def test_nothing_before_a_text_is_the_begin_token(tiny):
    encoding = Encoding(load_tokenizer(tiny), 64)
    [alone] = encoding.continuations(encoding.prompt(""), ["a b"], None)
    assert alone == encoding.pair("", "a b")[0] and alone.context == (2,)


def test_no_token_to_score_is_certain_where_whole_sequences_are_read():
    class Reads:
        async def read(self, ids):
            return [Scored(-1.0, greedy=False)] * (len(ids) - 1)

    items = [Continuation((1, 2, 3), ()), Continuation((1,), (2, 3))]
    found = asyncio.run(TokenBackend._scored(Reads(), items))
    assert found == [Scored(0.0, greedy=True), Scored(-2.0, greedy=False)]


def test_hf_backend_gives_the_same(tiny, whole, tmp_path):
    other = evaluate([SUMS], str(tiny), out=tmp_path / "hf", backend="hf")
    assert_same(rows(other), rows(whole))


@pytest.mark.parametrize(
    ("said", "local_size", "left_alone"),
    [(None, 1, False), (None, 2, False), ("1", 1, True), ("3", 1, True), ("3", 2, True), ("1", 2, False)],
)
def test_threads_are_all_processors_or_what_the_user_has_set(monkeypatch, said, local_size, left_alone):
    """torchrun sets 1 for several ranks by itself."""
    alone = Ranks(ALONE | {"WORLD_SIZE": str(local_size), "LOCAL_WORLD_SIZE": str(local_size)})
    monkeypatch.setattr("harness.backends.ranks", lambda: alone)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        set_threads()
        assert torch.get_num_threads() == (7 if left_alone else max(1, len(os.sched_getaffinity(0)) // local_size))
    finally:
        torch.set_num_threads(before)


def test_a_limit_is_a_part_of_the_whole(tiny, whole, tmp_path):
    ids = {}
    for limit in (5, 12):
        part = evaluate([SUMS], str(tiny), limit=limit, out=tmp_path / str(limit))
        ids[limit] = {row["id"] for row in rows(part)}
        assert len(ids[limit]) == limit
        by_id = {row["id"]: row for row in rows(whole)}
        for row in rows(part):
            assert row["response"] == by_id[row["id"]]["response"]
    assert ids[5] < ids[12]


def test_a_filter_keeps_its_samples(tiny, tmp_path):
    run = evaluate([SUMS], str(tiny), filter={"parity": "1"}, out=tmp_path / "odd")
    assert {row["group"] for row in rows(run)} == {"b"}


def test_an_interrupted_run_ends_like_an_unbroken_one(tiny, whole, tmp_path):
    class Stop(Progress):
        left = 7

        def judged(self, task):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    prepared = prepare(Settings(tasks=(SUMS,), model=str(tiny)))
    with pytest.raises(KeyboardInterrupt):
        execute(prepared, tmp_path / "run", Stop())
    assert not (tmp_path / "run" / "results.json").exists()
    assert 7 <= len(Run(tmp_path / "run").samples("sums")) < 40
    again = execute(prepared, tmp_path / "run", Progress())
    assert (again.path / "results.json").read_bytes() == (whole.path / "results.json").read_bytes()
    assert_same(rows(again), rows(whole))


FORKING = """
import os, random, signal, sys, time
from pathlib import Path
from harness.evaluation import Progress, Settings, execute, prepare
from harness.records import Run
import harness.engine, harness.sandbox, qwen_model.decoder, torch
task, model, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
torch.set_num_threads(1)

def child(folder):
    pid = os.fork()
    if not pid:
        execute(prepare(Settings(tasks=(task,), model=model)), folder, Progress())
        os._exit(0)
    return pid
"""
"""A process that has loaded everything and forks runs."""
KILLER = """
def judged(folder):
    return sum(1 for _ in Run(folder).records("sums")) if (folder / "spec.json").exists() else 0

seen = 0
for wanted in (1, 5, 12):
    pid = child(out)
    while seen < wanted:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the run has ended too soon"
        seen = judged(out)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert seen <= judged(out) < 40
    seen = judged(out)
assert os.waitpid(child(out), 0)[1] == 0
"""


def test_kill_9_loses_nothing_that_was_judged(tiny, whole, tmp_path):
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", FORKING + KILLER, SUMS, str(tiny), str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (out / "results.json").read_bytes() == (whole.path / "results.json").read_bytes()


def test_another_run_does_not_enter_the_folder(tiny, whole):
    with pytest.raises(RunError, match=r"seed \(1234 there, 7 now\)"):
        evaluate([SUMS], str(tiny), seed=7, out=whole.path)


def test_another_model_of_the_same_name_is_noticed(tmp_path):
    for seed in (0, 1):
        make_checkpoint(tmp_path / str(seed) / "model", seed=seed)
    evaluate([SUMS], str(tmp_path / "0" / "model"), limit=3, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"model\.fingerprint"):
        evaluate([SUMS], str(tmp_path / "1" / "model"), limit=3, out=tmp_path / "run")


def test_two_processes_do_not_share_a_folder(tiny, whole):
    from harness.store import open_store

    with open_store(whole.path, whole.spec), pytest.raises(RunError, match="another process"):
        evaluate([SUMS], str(tiny), out=whole.path)


def test_a_folder_of_another_version_is_refused(tiny, tmp_path):
    evaluate([SUMS], str(tiny), limit=2, out=tmp_path / "run")
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    (tmp_path / "run" / "spec.json").write_text(json.dumps(spec | {"format": 0}))
    with pytest.raises(RunError, match="format 0, this version reads 2"):
        evaluate([SUMS], str(tiny), limit=2, out=tmp_path / "run")


def test_damaged_files_of_a_run_are_named(tiny, tmp_path):
    run = evaluate([SUMS], str(tiny), limit=2, out=tmp_path / "run")
    (run.path / "results.json").write_text("{")
    with pytest.raises(RunError, match=r"results\.json: not JSON"):
        _ = run.results
    for other in ("[]", "{}", '{"tasks": {"sums": {"n": 2}}}'):
        (run.path / "results.json").write_text(other)
        with pytest.raises(RunError, match=r"results\.json: no numbers of a run"):
            _ = run.results
    for file in run.path.glob("samples.sqlite*"):
        file.write_bytes(b"no database" * 1000)
    with pytest.raises(RunError, match="not a database"):
        run.samples("sums")
    with pytest.raises(RunError, match="not a database"):
        evaluate([SUMS], str(tiny), limit=2, out=run.path)


def test_a_folder_of_other_files_is_left_alone(tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"holds other files, such as thesis\.tex; give another --out"):
        evaluate([SUMS], str(tiny), limit=2, out=tmp_path)
    (tmp_path / "spec.json").write_text('{"corpus": []}')
    with pytest.raises(RunError, match=r"not a run folder \(its spec\.json is something else's\)"):
        evaluate([SUMS], str(tiny), limit=2, out=tmp_path)


def test_a_mistake_in_a_task_ends_the_run_with_its_own_error(tiny, tmp_path):
    with pytest.raises(RuntimeError, match="the author's mistake"):
        evaluate([FAILS], str(tiny), out=tmp_path / "run")


def test_the_spec_tells_settings_apart(tiny):
    base = Settings(tasks=(SUMS,), model=str(tiny))
    specs = [prepare(base)] + [
        prepare(replace(base, **change))
        for change in (
            {"seed": 1},
            {"dtype": "bfloat16"},
            {"backend": "hf"},
            {"limit": 3},
            {"filters": {"parity": ("0",)}},
        )
    ]
    assert len({prepared.default_folder for prepared in specs}) == len(specs)


def test_a_class_that_keeps_another_tasks_name_is_refused(tiny, tmp_path):
    (tmp_path / "mine.py").write_text("from tests.harness.scripted import Sums\nclass Mine(Sums):\n    pass\n")
    with pytest.raises(TaskError, match="--task: sums is named twice; name it once, or give"):
        prepare(Settings(tasks=(SUMS, f"{tmp_path / 'mine.py'}:Mine"), model=str(tiny)))


def test_a_slash_makes_no_folder():
    assert folder_name("tiny", "1a2b") == "tiny-1a2b"
    assert folder_name("ablate", "lm-eval/piqa", "Qwen/Qwen2", "1a2b") == "ablate-lm-eval--piqa-Qwen--Qwen2-1a2b"


GUESSES = SUMS.replace(":Sums", ":Guesses")


def test_several_answers_to_each_problem(tiny, tmp_path):
    run = evaluate([GUESSES], str(tiny), limit=4, draws=10, temperature=1.5, out=tmp_path / "run")
    records = list(run.records("guesses"))
    assert len(records) == 40 and len({record.response for record in records}) > 4
    assert {record.id.rpartition("#")[2] for record in records} == {str(number) for number in range(10)}
    result = run.results["guesses"]
    assert result.n == 4 and list(result.metrics) == ["pass@1", "pass@10"]
    assert run.spec["tasks"]["guesses"]["decoding"]["temperature"] == 1.5


@pytest.mark.parametrize(
    ("task", "settings", "said"),
    [
        (GUESSES, {"draws": 5}, "--samples: greedy answers are all the same; give --temperature"),
        (GUESSES, {"draws": 0}, "--samples: 0"),
        (GUESSES, {"temperature": -1.0}, "--temperature: -1.0"),
        (GUESSES, {"top_p": 0.0}, "--top-p: 0.0"),
        (SUMS, {"draws": 2, "temperature": 1.0}, "--samples: task sums is not measured by pass@k"),
        (SUMS.replace(":Sums", ":Likely"), {"top_p": 0.5}, "task likely has no decoding to change; leave them out"),
    ],
)
def test_senseless_sampling_is_refused(tiny, task, settings, said):
    with pytest.raises(TaskError) as caught:
        prepare(Settings(tasks=(task,), model=str(tiny), **settings))
    assert said in str(caught.value)
