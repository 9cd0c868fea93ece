"""`long-ppl` end to end: against plain dense computations, on both backends, under context extensions."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import evaluate
from harness.long_context import parse, windows
from harness.records import RunError
from qwen_model import LongContext, WindowSchedule, load_model
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_model.download import DownloadError
from tasks.api import TaskError
from tests.conftest import make_checkpoint
from tests.qwen_model import oracle

LENGTHS = (64, 600, 1100)
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "bench" / "longtext"


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Three texts of words, one of them too short."""
    folder, rng = tmp_path_factory.mktemp("documents"), random.Random(0)
    words = Path(__file__).read_text().split()
    for name, count in (("one", 900), ("two", 700), ("short", 20)):
        (folder / f"{name}.txt").write_text(" ".join(rng.choices(words, k=count)))
    return folder


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A checkpoint that was trained at 256 tokens."""
    return make_checkpoint(tmp_path_factory.mktemp("narrow"), max_position_embeddings=256)


def by_transformers(folder, documents, length):
    """Mean loss of each document, as a plain script with transformers computes it."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    found = {}
    for name, text in documents.items():
        ids = tokenizer(text, return_tensors="pt").input_ids[:, :length]
        with torch.inference_mode():
            found[name] = float(model(input_ids=ids, labels=ids).loss)
    return found


def losses(run):
    return {(record.group, record.id.split("/")[1]): record.scores["perplexity"] for record in run.records("long-ppl")}


@pytest.mark.parametrize("backend", ["native", "hf"])
def test_as_a_plain_script_with_transformers(tiny, documents, tmp_path, backend):
    run = evaluate(["long-ppl"], str(tiny), documents=documents, lengths=LENGTHS, backend=backend, out=tmp_path / "run")
    found, texts = losses(run), {name: (documents / f"{name}.txt").read_text() for name in ("one", "two")}
    assert len(found) == 6
    for length in LENGTHS:
        expected = by_transformers(tiny, texts, length)
        assert {name: found[str(length), name] for name in texts} == pytest.approx(expected, abs=1e-4)
        perplexity = run.results["long-ppl"].groups[str(length)].value
        assert perplexity == pytest.approx(math.exp(sum(expected.values()) / 2), rel=1e-4)


def test_the_short_document_is_named_and_kept_in_the_spec(tiny, documents, tmp_path):
    run = evaluate(["long-ppl"], str(tiny), documents=documents, lengths=(64, 1100), out=tmp_path / "run")
    (line,) = run.spec["tasks"]["long-ppl"]["left_out"]
    assert line.startswith("short left out: ") and line.endswith(" of 1,100 tokens")


@pytest.mark.parametrize(
    "text",
    ["dynamic_ntk=exact", "dynamic_ntk=released,logn=on", "window=90", "dynamic_ntk=exact,logn=on,window=report"],
)
def test_context_extensions_against_the_plain_computation(narrow, documents, tmp_path, text):
    run = evaluate(
        ["long-ppl"], str(narrow), documents=documents, lengths=(200, 700), long_context=parse(text), out=tmp_path / "r"
    )
    settings, model = parse(text), load_model(str(narrow))
    with model.long_context(settings):
        windows = model.windows
    tokenizer = load_tokenizer(find_checkpoint(str(narrow)))
    for (group, name), found in losses(run).items():
        ids = tokenizer.encode((documents / f"{name}.txt").read_text())[: int(group)]
        logits = oracle.logits(
            model,
            ids,
            ntk_length=None if settings.dynamic_ntk == "off" else len(ids),
            logn=settings.logn,
            windows=windows,
        )
        expected = -logits[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None]).mean()
        assert found == pytest.approx(float(expected), abs=1e-4)


def test_a_stride_judges_the_whole_document(tiny, tmp_path):
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    documents, text = tmp_path / "documents.jsonl", Path(__file__).read_text()[:900]
    documents.write_text(json.dumps({"id": "one", "text": text}))
    run = evaluate(["long-ppl"], str(tiny), documents=documents, lengths=(64,), stride=24, out=tmp_path / "run")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tiny / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype="float32").eval()
    ids = tokenizer(text).input_ids
    total, end = 0.0, 0
    with torch.inference_mode():
        while end < len(ids):
            before, end = end, min(end + 24, len(ids)) if end else 64
            window = torch.tensor(ids[end - 64 : end])
            logprobs = model(window[None]).logits[0, :-1].log_softmax(-1).gather(-1, window[1:, None])[:, 0]
            total -= float(logprobs[-(end - max(before, 1)) :].sum())
    assert losses(run)["64", "one"] == pytest.approx(total / (len(ids) - 1), abs=1e-4)


def test_a_resumed_run_ends_like_an_unbroken_one(tiny, documents, tmp_path):
    import sqlite3

    whole = evaluate(["long-ppl"], str(tiny), documents=documents, lengths=LENGTHS, out=tmp_path / "run")
    results = (whole.path / "results.json").read_bytes()
    with sqlite3.connect(whole.path / "samples.sqlite") as database:
        database.execute("DELETE FROM samples WHERE id LIKE '%/600' OR id LIKE '%one/1100'")
    (whole.path / "results.json").unlink()
    again = evaluate(["long-ppl"], str(tiny), documents=documents, lengths=LENGTHS, out=tmp_path / "run")
    assert (again.path / "results.json").read_bytes() == results


def test_lengths_of_one_text_cost_one_reading(tiny, documents, tmp_path):
    read = {}
    for name, settings in (("off", None), ("exact", LongContext(dynamic_ntk="exact", train_length=100))):
        run = evaluate(
            ["long-ppl"], str(tiny), documents=documents, lengths=LENGTHS, long_context=settings, out=tmp_path / name
        )
        read[name] = run.environment["tokens"]["computed"]
    assert read["off"] <= 2 * 1536
    assert read["exact"] > read["off"]  # each length has a rotary base of its own


def test_the_extension_is_part_of_the_spec(tiny, documents, tmp_path):
    options = {"documents": documents, "lengths": (64,), "out": tmp_path / "run"}
    plain = evaluate(["long-ppl"], str(tiny), **options)
    assert "long_context" not in plain.spec["model"]
    with pytest.raises(RunError, match=r"model\.long_context"):
        evaluate(["long-ppl"], str(tiny), long_context=LongContext(logn=True), **options)
    model = load_model(str(tiny))
    with model.long_context(LongContext(logn=True)), pytest.raises(RunError, match=r"model\.long_context"):
        evaluate(["long-ppl"], model, **options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dynamic_ntk=released,logn=on", LongContext(dynamic_ntk="released", logn=True)),
        ("window=report,window_alpha=on", LongContext(window=WindowSchedule.report(), window_alpha=True)),
        ("window=300,train_length=100", LongContext(window=WindowSchedule(bands=((1, 300),)), train_length=100)),
        ("window=none, logn=off", LongContext()),
    ],
)
def test_settings_as_text(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ntk=exact", "'ntk=exact' is not KEY=VALUE with dynamic_ntk"),
        ("logn", "'logn' is not KEY=VALUE"),
        ("logn=yes", "logn is 'yes'; give on or off"),
        ("logn=on,logn=off", "logn is named twice"),
        ("window=0", "window is '0'"),
        ("window=wide", "window is 'wide'; give none, report, reversed, maintainers"),
        ("dynamic_ntk=on", "dynamic_ntk: 'on' is not one of off, released, exact"),
        ("train_length=1", "train_length: 1 is no trained length"),
    ],
)
def test_bad_settings_are_one_line(text, message):
    with pytest.raises(TaskError, match=message):
        parse(text)


def test_bands_of_more_layers_than_there_are_fit_no_model():
    maintainers = parse("window=maintainers")
    assert windows(maintainers, 9, 2048, "--long-context")[-1] == 8192
    with pytest.raises(TaskError, match="--grid: window: its bands are of 9 layers or more, and the model has 8"):
        windows(maintainers, 8, 2048, "--grid")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lengths", "64,x"], "--lengths: 'x' is no number"),
        (["--long-context", "logn=on", "--backend", "hf"], "--long-context: the hf backend has none"),
        (["--lengths", "64", "--stride", "64"], "--stride: 64 is not from 1 to 63"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tiny, documents, arguments, message):
    command = [sys.executable, "-c", "from harness.cli import main; main()", "run", "--task", "long-ppl"]
    command += ["--model", str(tiny), "--documents", str(documents), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_memory_that_is_not_there_is_one_line(tiny, documents, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.rolling.free_memory", lambda device: 1000)
    with pytest.raises(TaskError, match=r"a text of 1,100 tokens takes .* GB of keys .* for tasks that take it"):
        evaluate(["long-ppl"], str(tiny), documents=documents, lengths=(1100,), out=tmp_path / "run")


@pytest.mark.slow
def test_smollm2_as_a_plain_script_with_transformers(tmp_path):
    try:
        checkpoint = find_checkpoint("smollm2-135m-instruct")
    except DownloadError as error:
        pytest.skip(f"the model cannot be had here: {error}")
    source = SHARED / "qasper_arxiv_papers.jsonl"
    if not source.is_file():
        pytest.skip(f"the real data is not beside this checkout: {source}")
    lines = source.read_text(encoding="utf-8").splitlines()[:3]
    (tmp_path / "papers.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = [json.loads(line) for line in lines]
    run = evaluate(
        ["long-ppl"],
        "smollm2-135m-instruct",
        documents=tmp_path / "papers.jsonl",
        lengths=(512, 1024),
        out=tmp_path / "run",
    )
    found = losses(run)
    assert found
    for length in (512, 1024):
        names = {name for group, name in found if group == str(length)}
        texts = {str(row["id"]): row["text"] for row in rows if str(row["id"]) in names}
        expected = by_transformers(checkpoint.folder, texts, length)
        assert {name: found[str(length), name] for name in names} == pytest.approx(expected, abs=1e-4)
