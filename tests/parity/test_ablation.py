"""Table 3's cells on a real model, and on a tiny one of nano's trained length, against a plain dense computation."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pandas
import pytest

from qwen_model.catalogue import available
from tests.commands import ROOT
from tests.conftest import make_checkpoint
from tests.harness.sweeps import ablate
from tests.harness.test_long_ppl import SHARED
from tests.parity.dense import ROUNDING, compare, summary

NAME = "smollm2-135m-instruct"


@pytest.mark.slow
def test_cells_equal_a_plain_dense_script(tmp_path):
    if available(NAME) is None:
        pytest.skip(f"{NAME} is not in the cache; `make demo MODEL={NAME}` fetches it")
    source = SHARED / "llm_foundry_arxiv.jsonl"
    if not source.is_file():
        pytest.skip(f"the real data is not beside this checkout: {source}")
    texts = [json.loads(line)["text"][:2000] for line in source.read_text(encoding="utf-8").splitlines()[:1]]
    (tmp_path / "papers.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    ablate(
        "--task", "long-ppl", "--model", NAME, "--rows", "none,ntk,logn,window,ntk+logn,ntk+logn+window",
        "--lengths", "100,300", "--documents", tmp_path / "papers.jsonl", "--train-length", 64, "--out", tmp_path / "s",
    )  # fmt: skip
    found = compare(tmp_path / "s", tmp_path / "papers.jsonl")
    assert len(found) == 6 * 2
    print(summary(found).to_string())
    assert summary(found)["nats"].max() < ROUNDING
    # the switches do something here: the check compares six things, not one
    assert found[found["length"] == 300].groupby("cell")["nll"].mean().nunique() == 6


@pytest.mark.slow
def test_table_3_of_a_model_trained_at_256_equals_a_dense_computation_on_5_documents(tmp_path):
    """All rows that `make reproduce` computes, up to four times the trained length; and the command says so."""
    model = make_checkpoint(tmp_path / "model", max_position_embeddings=256, num_hidden_layers=4)
    rng = random.Random(3)
    words = ["".join(rng.choices("etaoinshr", k=5)) for _ in range(200)]
    (tmp_path / "texts").mkdir()
    for number in range(5):
        (tmp_path / "texts" / f"{number}.txt").write_text(" ".join(rng.choices(words, k=700)))
    ablate(
        "--task", "long-ppl", "--model", model, "--lengths", "256,512,1024", "--documents", tmp_path / "texts",
        "--rows", "none,ntk,ntk+logn,ntk+logn+window,logn,window,ntk+logn+window=reversed", "--out", tmp_path / "s",
    )  # fmt: skip
    folders = ["--sweep", str(tmp_path / "s"), "--texts", str(tmp_path / "texts")]
    command = [sys.executable, "-m", "tests.parity.dense", *folders]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    table = [line.split() for line in done.stdout.splitlines() if line.split()[2:3] == ["5"]]
    assert len(table) == 7 * 3
    file = tmp_path / "s" / "documents.csv"
    found = pandas.read_csv(file)
    assert found[found["length"] == 1024].groupby("cell")["nll"].mean().nunique() == 7  # the switches do something
    # a figure that is wrong is found
    header, first, *more = file.read_text().splitlines()
    file.write_text("\n".join([header, first.rsplit(",", 1)[0] + ",1.0", *more]) + "\n")
    done = subprocess.run([*command, "--number", "1"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1, done.stdout + done.stderr
