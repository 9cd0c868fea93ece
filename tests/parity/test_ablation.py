"""Table 3's cells on a real model, computed once more by transformers and ten plain lines for each switch.

Dense: one forward pass over the whole text, all logits, a T x T mask; nothing of ours but the tokenizer and the folder.
"""

from __future__ import annotations

import json
import math

import pandas
import pytest
import torch
from typer.testing import CliRunner

from harness.cli import app
from qwen_model.catalogue import available
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from tests.harness.test_long_ppl import SHARED

NAME, TRAINED, LENGTHS = "smollm2-135m-instruct", 64, (100, 300)
ROWS = "none,ntk,logn,window,ntk+logn,ntk+logn+window"


def dynamic_ntk(model, length):
    """The released code's alpha on transformers' rotary module."""
    alpha = max(2 ** math.ceil(math.log2(length / TRAINED) + 1) - 1, 1)
    size = model.config.hidden_size // model.config.num_attention_heads
    base = model.config.rope_parameters["rope_theta"] * alpha ** (size / (size - 2))
    model.model.rotary_emb.inv_freq = 1 / base ** (torch.arange(0, size, 2).float() / size)


def switch_attention(model, length, *, logn, windows):
    """Queries behind T times log_T(position), and a mask for each layer, by an attention of our own."""
    from transformers import AttentionInterface

    place = torch.arange(length)
    scale = torch.ones(length)
    if logn:
        scale = ((place + 1).float().log() / math.log(TRAINED)).clamp(min=1)

    def attention(module, query, key, value, attention_mask, **kwargs):
        distance = place[:, None] - place[None, :]
        window = windows[module.layer_idx] or length
        groups = module.num_key_value_groups
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = (query * scale[:, None]) @ key.transpose(2, 3) / math.sqrt(module.head_dim)
        hidden = (distance < 0) | (distance >= window)
        read = scores.masked_fill(hidden, -math.inf).softmax(-1) @ value
        return read.transpose(1, 2), None

    AttentionInterface.register("plain", attention)
    model.set_attn_implementation("plain")


def dense_nll(model, ids, *, ntk, logn, window):
    length, layers = len(ids), model.config.num_hidden_layers
    # ours to choose, for the report publishes none: T below, 4 T in the next quarter, none above (docs/long-context.md)
    low, middle = round(0.5 * layers), round(0.75 * layers)
    windows = [TRAINED if at < low else 4 * TRAINED if at < middle else None for at in range(layers)]
    dynamic_ntk(model, length if ntk else 1)
    switch_attention(model, length, logn=logn, windows=windows if window else [None] * layers)
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -float(logprobs[:-1].gather(-1, torch.tensor(ids[1:])[:, None]).mean())


@pytest.mark.slow
def test_cells_equal_a_plain_dense_script(tmp_path):
    from transformers import AutoModelForCausalLM

    if available(NAME) is None:
        pytest.skip(f"{NAME} is not in the cache; `make demo MODEL={NAME}` fetches it")
    source = SHARED / "llm_foundry_arxiv.jsonl"
    if not source.is_file():
        pytest.skip(f"the real data is not beside this checkout: {source}")
    texts = [json.loads(line)["text"][:2000] for line in source.read_text(encoding="utf-8").splitlines()[:1]]
    (tmp_path / "papers.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = CliRunner().invoke(
        app,
        [
            "ablate", "--task", "long-ppl", "--model", NAME, "--rows", ROWS, "--lengths", ",".join(map(str, LENGTHS)),
            "--documents", str(tmp_path / "papers.jsonl"), "--train-length", str(TRAINED), "--out", str(tmp_path / "s"),
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    checkpoint = find_checkpoint(NAME)
    tokenizer = load_tokenizer(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    documents = {str(number): tokenizer.encode(text) for number, text in enumerate(texts, start=1)}
    cells = pandas.read_csv(tmp_path / "s" / "documents.csv", dtype={"document": str}, keep_default_na=False)
    assert len(cells) == 6 * 2
    differences = {}
    for row in cells.itertuples():
        switches = {name: name in row.cell.split("+") for name in ("ntk", "logn", "window")}
        expected = dense_nll(model, documents[row.document][: row.length], **switches)
        differences[row.cell, row.length] = abs(row.nll - expected)
    print(f"largest difference: {max(differences.values()):.1e} nats")
    assert {place: found for place, found in differences.items() if found >= 1e-3} == {}
    # the switches do something here: the check compares six things, not one
    longest = cells[cells["length"] == LENGTHS[-1]].groupby("cell")["nll"].mean()
    assert longest.nunique() == 6
