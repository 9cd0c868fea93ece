"""Runs end to end on a tiny random model: the same numbers whatever the batch, the backend, or the interruption."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness import evaluate
from harness.encoding import Encoding
from harness.engine import Engine
from harness.evaluation import Progress, Settings, execute, prepare
from harness.records import Run, RunError
from harness.registry import task_class
from harness.token_backend import TokenBackend
from qwen_model import load_model
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
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


@pytest.mark.parametrize(("batch_tokens", "slots"), [(1, 1), (40, 3), (4096, 64)])
def test_batching_changes_nothing(tiny, whole, batch_tokens, slots):
    checkpoint = find_checkpoint(str(tiny))
    task = task_class(SUMS)()
    engine = Engine(
        load_model(checkpoint),
        load_tokenizer(checkpoint),
        batch_tokens=batch_tokens,
        slots=slots,
        runners=1,
        seed=1234,
        unsafe=False,
    )
    judged = {}
    asyncio.run(
        engine.run([(task, s) for s in reversed(task.samples(None))], lambda j: judged.update({j.sample.id: j}))
    )
    for row in rows(whole):
        mine = judged[row["id"]]
        assert (mine.response, mine.verdict.answer) == (row["response"], row["answer"])
        if row["choice_logprobs"]:
            assert mine.verdict.choice_logprobs == pytest.approx(row["choice_logprobs"], abs=1e-4)


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


def test_kill_9_loses_nothing_that_was_judged(tiny, whole, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-c", "import sys; from harness.cli import main; main()", "run"]
    command += ["--task", SUMS, "--model", str(tiny), "--out", str(out)]
    seen = 0
    for wanted in (1, 5, 12):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and seen < wanted:
            seen = len(Run(out).samples("sums")) if (out / "spec.json").exists() else 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = len(Run(out).samples("sums"))
        assert after >= seen
        seen = after
    subprocess.run(command, check=True, capture_output=True)
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


def test_a_full_disk_keeps_what_was_judged(tiny, tmp_path, monkeypatch):
    """A database that may not grow further is what a full disk is to SQLite."""
    import sqlite3

    connect = sqlite3.connect

    def small(path, **options):
        database = connect(path, **options)
        database.execute("PRAGMA max_page_count = 4")
        return database

    prepared = prepare(Settings(tasks=(SUMS,), model=str(tiny)))
    monkeypatch.setattr("harness.store.sqlite3.connect", small)
    with pytest.raises(RunError, match="full"):
        execute(prepared, tmp_path / "run", Progress())
    monkeypatch.undo()
    kept = len(Run(tmp_path / "run").samples("sums"))
    assert 0 < kept < 40
    assert len(execute(prepared, tmp_path / "run", Progress()).samples("sums")) == 40


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
    ],
)
def test_senseless_sampling_is_refused(tiny, task, settings, said):
    with pytest.raises(TaskError) as caught:
        prepare(Settings(tasks=(task,), model=str(tiny), **settings))
    assert said in str(caught.value)
