"""One run over several processes: the same numbers as of one, one line where a rank dies, resumed by any number."""

from __future__ import annotations

import subprocess

import pytest

from harness import evaluate
from harness.evaluation import Settings, prepare
from harness.ranks import ALONE, Ranks, share
from harness.records import Run
from tasks.api import TaskError
from tests.commands import ROOT
from tests.harness.test_run import SUMS, assert_same, rows
from tests.processes import torchrun

DIES = SUMS.replace(":Sums", ":Dies")


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("harness: ")]


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 5, 8, 23])
def test_shares_are_the_whole(size, count):
    parts = [share(range(count), rank, size) for rank in range(size)]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_ranks_give_the_numbers_of_one_process(tiny, tmp_path):
    whole = evaluate([SUMS], str(tiny), out=tmp_path / "whole")
    done = torchrun(2, "harness", "run", "--task", SUMS, "--model", tiny, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1 and done.stderr.count("sums 40/40") == 1
    assert (tmp_path / "run" / "results.json").read_bytes() == (whole.path / "results.json").read_bytes()
    assert_same(rows(Run(tmp_path / "run")), rows(whole))
    told = Run(tmp_path / "run").environment
    assert told["ranks"] == 2
    assert {name: told["tokens"][name] for name in ("prompt", "generated")} == {
        name: whole.environment["tokens"][name] for name in ("prompt", "generated")
    }


@pytest.mark.slow
def test_a_rank_that_dies_stops_all_and_any_number_goes_on(tiny, tmp_path):
    arguments = ("run", "--task", DIES, "--model", tiny, "--out", tmp_path / "run")
    done = torchrun(2, "harness", *arguments, HARNESS_TEST_DIES="1:4")
    assert done.returncode != 0 and len(said(done)) == 1, done.stderr
    assert "the same command continues" in said(done)[0]
    assert f"{ROOT}/harness/" not in done.stderr  # no traceback of ours
    kept = len(Run(tmp_path / "run").samples("dies"))
    assert 0 < kept < 40 and not (tmp_path / "run" / "results.json").exists()
    # killed again, as rank 0 of 3
    done = torchrun(3, "harness", *arguments, HARNESS_TEST_DIES="0:2")
    assert done.returncode != 0 and len(said(done)) == 1, done.stderr
    assert len(Run(tmp_path / "run").samples("dies")) >= kept
    done = torchrun(3, "harness", *arguments)
    assert done.returncode == 0, done.stderr
    whole = evaluate([DIES], str(tiny), out=tmp_path / "whole")
    assert (tmp_path / "run" / "results.json").read_bytes() == (whole.path / "results.json").read_bytes()
    assert_same(rows(Run(tmp_path / "run"), "dies"), rows(whole, "dies"))


@pytest.mark.slow
def test_a_mistake_is_said_once(tiny, tmp_path):
    done = torchrun(2, "harness", "run", "--task", "gsm9k", "--model", tiny, "--out", tmp_path / "run")
    assert done.returncode != 0 and len(said(done)) == 1, done.stderr
    assert "did you mean gsm8k" in said(done)[0]


@pytest.mark.parametrize("backend", ["vllm", "openai"])
def test_backends_that_spread_by_themselves_are_refused(tiny, monkeypatch, backend):
    pair = Ranks({**ALONE, "WORLD_SIZE": "2"})
    monkeypatch.setattr(pair, "one_first", Ranks(ALONE).one_first)
    for module in ("evaluation", "settings"):
        monkeypatch.setattr(f"harness.{module}.ranks", lambda: pair)
    with pytest.raises(TaskError, match="start it without torchrun"):
        prepare(Settings(tasks=(SUMS,), model=str(tiny), backend=backend))
