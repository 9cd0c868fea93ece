"""`harness ablate`: cells, shared computation, tables, resuming, mistakes; against a plain dense computation."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time

import pytest
import torch

from harness.ablation import cells, units
from harness.evaluation import Settings
from harness.long_context import parse
from harness.records import Run
from harness.sandbox import SandboxUnavailable
from qwen_model import LongContext, WindowSchedule, load_model
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from tests.harness.sweeps import LENGTHS, SUMS, TABLE_3, TRAINED, ablate, config, frame
from tests.qwen_model import oracle

# Numbers


def test_every_cell_is_the_plain_computation(sweep, narrow, documents):
    _, out = sweep
    model, tokenizer = load_model(str(narrow)), load_tokenizer(find_checkpoint(str(narrow)))
    windows = WindowSchedule.report().windows(3, TRAINED)
    found = frame(out / "documents.csv")
    assert len(found) == 4 * 4 * 3
    for row in found.itertuples():
        ids = tokenizer.encode((documents / f"{row.document}.txt").read_text())[: row.length]
        logits = oracle.logits(
            model,
            ids,
            ntk_length=len(ids) if "ntk" in row.cell else None,
            logn="logn" in row.cell,
            windows=windows if "window" in row.cell else None,
        )
        expected = -logits[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None]).mean()
        assert row.nll == pytest.approx(float(expected), abs=1e-4)


def test_cells_are_means_of_documents_with_intervals(sweep):
    _, out = sweep
    found, single = frame(out / "cells.csv"), frame(out / "documents.csv")
    expected = "cell,dynamic_ntk,logn,window,length,documents,nll,perplexity,low,high,seconds,peak_mb"
    assert list(found.columns) == expected.split(",")
    assert list(found["cell"].unique()) == TABLE_3.split(",")
    means = single.groupby(["cell", "length"])["nll"].mean()
    for row in found.itertuples():
        assert row.nll == pytest.approx(means[row.cell, row.length], abs=1e-12)
        assert row.perplexity == pytest.approx(torch.tensor(row.nll, dtype=torch.double).exp().item())
        assert row.low <= row.perplexity <= row.high and row.documents == 3
        assert row.seconds > 0 and row.peak_mb > 50
    row = found[(found["cell"] == "ntk+logn+window") & (found["length"] == 700)].iloc[0]
    assert (row["dynamic_ntk"], row["logn"], row["window"]) == ("exact", "on", "report")


def test_differences_are_paired(sweep):
    _, out = sweep
    single = frame(out / "documents.csv").pivot_table(index=["length", "document"], columns="cell", values="nll")
    for row in frame(out / "differences.csv").itertuples():
        its = (single[row.cell] - single["none"])[row.length]
        assert row.base == "none" and row.n == 3
        assert row.difference == pytest.approx(its.mean(), abs=1e-12)
        assert its.min() - 1e-9 <= row.low <= row.high <= its.max() + 1e-9


def test_positions_make_up_the_loss(sweep):
    _, out = sweep
    positions, found = frame(out / "positions.csv"), frame(out / "cells.csv").set_index(["cell", "length"])["nll"]
    for (cell, length), part in positions.groupby(["cell", "length"]):
        starts = list(part["position"])
        sizes = [min(end, length) - max(start, 1) for start, end in zip(starts, [*starts[1:], length], strict=True)]
        assert sum(sizes) == length - 1
        mean = sum(size * loss for size, loss in zip(sizes, part["nll"], strict=True)) / (length - 1)
        assert mean == pytest.approx(found[cell, length], abs=1e-5)


# Shared computation


def test_what_no_switch_reaches_is_computed_once(sweep):
    _, out = sweep
    runs = json.loads((out / "sweep.json").read_text())["runs"]
    assert len(runs) == 4
    filled = [(place["cell"], place["length"]) for run in runs for place in run["fills"]]
    assert sorted(filled) == sorted((cell, length) for cell in TABLE_3.split(",") for length in LENGTHS)
    at_96 = {run["folder"] for run in runs for place in run["fills"] if place["length"] == 96}
    assert len(at_96) == 1
    tokens = [Run(out / run["folder"]).environment["tokens"]["computed"] for run in runs]
    # one reading of 700 tokens in pieces of 512 holds all lengths; under NTK 200, 300 and 700 have bases of their own
    assert tokens[0] <= 3 * 1024 and tokens[1] <= 3 * (512 + 512 + 1024)


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("dynamic_ntk=released,logn=on", 100, LongContext()),
        ("dynamic_ntk=released,logn=on", 101, LongContext(dynamic_ntk="exact", logn=True)),
        ("dynamic_ntk=exact", 101, LongContext(dynamic_ntk="exact")),
        ("window=60", 60, LongContext()),
        ("window=60", 61, parse("window=60")),  # a window acts below the trained length, too
        ("window=report", 100, LongContext()),
        ("window=report,window_alpha=on", 101, parse("window=report")),
        ("logn=on,train_length=50", 60, LongContext(logn=True, train_length=50)),
        ("logn=on,train_length=50", 50, LongContext()),
    ],
)
def test_what_a_setting_comes_down_to(text, length, expected):
    assert units.effective(parse(text), config(), length) == expected


def test_a_model_is_left_as_it_is_where_no_switch_is_named():
    assert units.effective(None, config(), 1000) is None


def test_released_and_exact_are_one_reading(narrow, documents):
    found = cells.cells([str(narrow)], ["long-ppl"], [], ["dynamic_ntk=off,released,exact"])
    planned = units.plan(found, Settings(tasks=(), model="", documents=documents, lengths=(64, 300)))
    assert [len(unit.places) for unit in planned.units] == [4, 2]


# What can be swept


def test_a_grid_of_several_words_and_the_trained_length(narrow, documents, tmp_path):
    done = ablate(
        "--task", "long-ppl", "--model", narrow, "--grid", "dynamic_ntk=off,exact", "logn=off,on", "--lengths", "100",
        "--train-length", "64", "--documents", documents, "--out", tmp_path / "s", "--limit", 2,
        "--base", "dynamic_ntk=off logn=on",
    )  # fmt: skip
    found = frame(tmp_path / "s" / "cells.csv")
    assert list(found["cell"]) == [f"dynamic_ntk={n} logn={s}" for n in ("off", "exact") for s in ("off", "on")]
    assert found["nll"].nunique() == 4 and set(found["documents"]) == {2} and set(found["train_length"]) == {64}
    assert "less that of dynamic_ntk=off logn=on" in done.output


def test_any_task_and_setting(narrow, tmp_path):
    done = ablate(
        "--task", SUMS, "--model", narrow, "--grid", "logn=off,on", "dtype=float32,bfloat16", "--limit", 12,
        "--out", tmp_path / "s",
    )  # fmt: skip
    found = frame(tmp_path / "s" / "cells.csv")
    assert list(found["cell"]) == [f"logn={s} dtype={d}" for s in ("off", "on") for d in ("float32", "bfloat16")]
    assert set(found["n"]) == {12} and set(found["metric"]) == {"accuracy"} and set(found["kind"]) == {"share"}
    # prompts are shorter than the trained length: LogN changes nothing, to the last digit
    texts = {}
    for run in json.loads((tmp_path / "s" / "sweep.json").read_text())["runs"]:
        rows = Run(tmp_path / "s" / run["folder"]).samples("sums")
        texts[run["fills"][0]["cell"]] = list(zip(rows["id"], rows["response"], rows["choice_logprobs"], strict=True))
    assert texts["logn=off dtype=float32"] == texts["logn=on dtype=float32"]
    differences = frame(tmp_path / "s" / "differences.csv")
    assert differences[differences["cell"] == "logn=on dtype=float32"].iloc[0]["difference"] == 0
    assert "cells.png" in done.output and "documents.csv" not in {path.name for path in (tmp_path / "s").iterdir()}


def test_several_models_and_tasks(narrow, tiny, tmp_path):
    guesses = SUMS.replace(":Sums", ":Guesses")
    ablate(
        "--task", f"{SUMS},{guesses}", "--model", f"{narrow},{tiny}", "--limit", 4, "--out", tmp_path / "s",
        "--base", f"{narrow} {SUMS}",
    )  # fmt: skip
    found = frame(tmp_path / "s" / "cells.csv")
    assert list(zip(found["model"], found["metric"], strict=True)) == [
        (str(model), metric) for model in (narrow, tiny) for metric in ("accuracy", "pass@1")
    ]


def test_a_perplexity_of_a_task_without_lengths(narrow, tmp_path):
    surprises = SUMS.replace(":Sums", ":Surprises")
    done = ablate("--task", surprises, "--model", narrow, "--grid", "dtype=float32,bfloat16", "--out", tmp_path / "s")
    single, found = frame(tmp_path / "s" / "documents.csv"), frame(tmp_path / "s" / "cells.csv").set_index("cell")
    assert list(single["document"]) == [*range(1, 40)] * 2
    for cell, part in single.groupby("cell"):
        assert found.loc[cell, "n"] == 39
        assert found.loc[cell, "value"] == pytest.approx(math.exp(part["nll"].mean()))
    assert "loss" in done.output


# Interruptions and failures


def test_kill_9_and_the_same_command_again(narrow, documents, sweep, tmp_path):
    command = [
        sys.executable, "-c", "from harness.cli import main; main()", "ablate", "--task", "long-ppl", "--model", narrow,
        "--rows", TABLE_3, "--lengths", ",".join(map(str, LENGTHS)), "--documents", documents, "--out", tmp_path / "s",
    ]  # fmt: skip
    for seen in (1, 2):
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list((tmp_path / "s").glob("runs/*/spec.json"))) < seen:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "s" / "cells.csv").exists()
    ablate(*map(str, command[4:]))
    _, whole = sweep
    for name in ("documents.csv", "positions.csv", "differences.csv"):
        assert (tmp_path / "s" / name).read_bytes() == (whole / name).read_bytes()
    spent = ["seconds", "peak_mb"]
    ours, theirs = (frame(folder / "cells.csv").drop(columns=spent) for folder in (tmp_path / "s", whole))
    assert ours.equals(theirs)
    for folder in (whole / "runs").iterdir():
        assert (tmp_path / "s" / "runs" / folder.name / "results.json").read_bytes() == (
            folder / "results.json"
        ).read_bytes()


def test_a_finished_sweep_is_shown_without_a_model(sweep, narrow, documents, monkeypatch):
    _, out = sweep
    before = (out / "cells.csv").read_bytes()
    monkeypatch.setattr("harness.ablation.sweep.load_backend", lambda prepared: pytest.fail("loaded"))
    ablate(
        "--task", "long-ppl", "--model", narrow, "--rows", TABLE_3, "--lengths", ",".join(map(str, LENGTHS)),
        "--documents", documents, "--out", out,
    )  # fmt: skip
    assert (out / "cells.csv").read_bytes() == before


def test_a_cell_that_fails_is_named_and_the_rest_goes_on(narrow, documents, tmp_path, monkeypatch):
    from harness.ablation import sweep as module

    execute = module.execute

    def fails(prepared, path, progress):
        laid = prepared.settings.long_context
        if laid.logn:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 PB")
        return execute(prepared, path, progress)

    monkeypatch.setattr(module, "execute", fails)
    done = ablate(
        "--task", "long-ppl", "--model", narrow, "--rows", "none,ntk+logn,ntk", "--lengths", "64,300",
        "--documents", documents, "--out", tmp_path / "s", code=1,
    )  # fmt: skip
    assert "failed: ntk+logn: [enforce fail]" in done.output
    found = frame(tmp_path / "s" / "cells.csv")
    assert [(row.cell, row.length) for row in found.itertuples()] == [
        ("none", 64), ("none", 300), ("ntk+logn", 64), ("ntk", 64), ("ntk", 300),
    ]  # fmt: skip
    assert "can&#39;t allocate memory" in (tmp_path / "s" / "ablation.html").read_text()


def test_a_cell_whose_code_nothing_isolates_fails_alone(narrow, tmp_path, monkeypatch):
    from harness.ablation import sweep as module

    execute = module.execute

    def fails(prepared, path, progress):
        if prepared.settings.long_context.logn:
            raise SandboxUnavailable("no isolation here")
        return execute(prepared, path, progress)

    monkeypatch.setattr(module, "execute", fails)
    done = ablate(
        "--task", SUMS, "--model", narrow, "--grid", "logn=off,on", "--limit", 2, "--out", tmp_path / "s", code=1
    )
    assert "failed: logn=on: no isolation here" in done.output
    assert list(frame(tmp_path / "s" / "cells.csv")["cell"]) == ["logn=off"]


def test_a_mistake_in_code_is_not_a_failed_cell(narrow, tmp_path):
    fails = SUMS.replace(":Sums", ":Fails")
    with pytest.raises(RuntimeError, match="the author's mistake"):
        ablate("--task", fails, "--model", narrow, "--grid", "logn=off,on", "--out", tmp_path / "s")


def test_a_model_that_cannot_be_had_fails_its_cells_alone(narrow, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    done = ablate("--task", SUMS, "--model", f"{narrow},{empty}", "--limit", 2, "--out", tmp_path / "s", code=1)
    assert f"failed: {empty}: " in done.output
    assert list(frame(tmp_path / "s" / "cells.csv")["cell"]) == [str(narrow)]
