"""Table 3's figures once more, by transformers and ten plain lines for each switch, on a few documents of a sweep.

    python -m tests.parity.dense --results reproduction                # the sweeps that `make reproduce` made
    python -m tests.parity.dense --sweep runs/table3 --texts FOLDER     # of `harness ablate --task long-ppl`

Dense: one forward pass over the whole text, all logits, every score of T x T; nothing of ours but the tokenizer and the
folders. Prints the largest difference of each cell; exit code 1 where one is 0.001 nats a token or more.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas
import torch
from rich.console import Console
from rich.progress import track

from qwen_model.checkpoint import find_checkpoint, load_tokenizer

ROUNDING = 1e-3
"""Nats a token, and relative to a perplexity: what a table of two digits behind the point does not show."""

ROWS = 512
"""Queries whose scores are in memory at once."""


def dynamic_ntk(model: Any, length: int, trained: int, *, on: bool) -> None:
    """The released code's alpha on transformers' rotary module."""
    alpha = max(2 ** math.ceil(math.log2(length / trained) + 1) - 1, 1) if on else 1
    size = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    base = model.config.rope_parameters["rope_theta"] * alpha ** (size / (size - 2))
    model.model.rotary_emb.inv_freq = 1 / base ** (torch.arange(0, size, 2).float() / size)


def switch_attention(model: Any, length: int, trained: int, *, logn: bool, windows: list[int | None]) -> None:
    """Queries behind T times log_T(position), and a mask for each layer, by an attention of our own."""
    from transformers import AttentionInterface

    place = torch.arange(length)
    scale = torch.ones(length)
    if logn:
        scale = ((place + 1).float().log() / math.log(trained)).clamp(min=1)

    def attention(module, query, key, value, attention_mask, **kwargs):
        window = windows[module.layer_idx] or length
        groups = module.num_key_value_groups
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        query, rows = query * scale[:, None], []
        for some in place.split(ROWS):  # all T x T scores of a long text do not fit into memory
            distance = some[:, None] - place[None, :]
            scores = query[:, :, some] @ key.transpose(2, 3) / math.sqrt(module.head_dim)
            scores.masked_fill_((distance < 0) | (distance >= window), -math.inf)
            rows.append(scores.softmax(-1) @ value)
        return torch.cat(rows, 2).transpose(1, 2), None

    AttentionInterface.register("plain", attention)
    model.set_attn_implementation("plain")


def windows_of(word: str, layers: int, trained: int) -> list[int | None]:
    """A window for each layer. The report publishes none: these are docs/long-context.md's."""
    half, quarter = round(0.5 * layers), round(0.25 * layers)
    if word == "report":  # T in the lower half, 4 T in the next quarter, none above
        above = round(0.75 * layers)
        return [trained] * half + [4 * trained] * (above - half) + [None] * (layers - above)
    if word == "reversed":
        return [None] * quarter + [4 * trained] * (half - quarter) + [trained] * (layers - half)
    return [None if word == "none" else int(word)] * layers


@torch.inference_mode()
def dense_nll(model: Any, ids: list[int], trained: int, switches: Mapping[str, str]) -> float:
    """Mean loss of all tokens but the first, nats; `switches` as in sweep.json."""
    length, layers = len(ids), model.config.num_hidden_layers
    dynamic_ntk(model, length, trained, on=switches["dynamic_ntk"] != "off")
    windows = windows_of(switches["window"], layers, trained)
    switch_attention(model, length, trained, logn=switches["logn"] == "on", windows=windows)
    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -float(logprobs[:-1].gather(-1, torch.tensor(ids[1:])[:, None]).mean())


def compare(sweep: Path, texts: Path, model: str | None = None, number: int = 5) -> pandas.DataFrame:
    """The sweep's documents.csv, the first `number` of its documents, with a column `dense`.

    `model` is the checkpoint where it is no longer where sweep.json says.
    """
    from transformers import AutoModelForCausalLM

    facts = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))
    checkpoint = find_checkpoint(model or facts["model"][0])
    tokenizer = load_tokenizer(checkpoint)
    network = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    rows = pandas.read_csv(sweep / "documents.csv", dtype={"document": str}, keep_default_na=False)
    found = rows[rows["document"].isin(list(rows["document"].unique())[:number])].copy()
    ids = {name: tokenizer.encode(text) for name, text in _texts(texts) if name in set(found["document"])}
    cells = {cell["name"]: cell for cell in facts["cells"]}
    dense = []
    for row in track(list(found.itertuples()), "texts", console=Console(stderr=True)):
        cell = cells[row.cell]
        dense.append(dense_nll(network, ids[row.document][: row.length], cell["train_length"], cell["switches"]))
    found["dense"] = dense
    return found


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Documents by name, read here once more: a folder of .txt files or a .jsonl file."""
    if path.is_dir():
        yield from ((file.stem, file.read_text(encoding="utf-8")) for file in path.glob("*.txt"))
    else:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if line.strip():
                row = json.loads(line)
                yield str(row.get("id", number)), row["text"]


def summary(found: pandas.DataFrame) -> pandas.DataFrame:
    """A row per cell and length: both perplexities over the documents, and the largest difference of a document."""
    found = found.assign(nats=(found["nll"] - found["dense"]).abs())
    by = found.groupby(["cell", "length"], sort=False)
    table = by.agg(documents=("nll", "size"), ours=("nll", "mean"), dense=("dense", "mean"), nats=("nats", "max"))
    return table.assign(ours=table["ours"].map(math.exp), dense=table["dense"].map(math.exp)).reset_index()


def reproduced(results: Path) -> Iterator[tuple[Path, Path, str]]:
    """The finished sweeps of `make reproduce`: folder, documents, model."""
    for done in sorted(results.glob("*/*/table3.done.json")):
        sweep = done.with_name("table3")
        words = shlex.split(_command(results, sweep.parent.name))
        yield sweep, Path(words[words.index("--documents") + 1]), words[words.index("--model") + 1]


def _command(results: Path, line: str) -> str:
    from harness.claims.family import NANO, read_family
    from harness.claims.plan import Plan

    family = read_family(NANO)
    plan = Plan(family, results, None)
    job = plan.job("table3", next(one for one in family.lines if one.name == line))
    assert not isinstance(job, str), job
    return shlex.join(job.command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="folder of `make reproduce`")
    parser.add_argument("--sweep", type=Path, help="folder of one sweep, with --texts")
    parser.add_argument("--texts", type=Path, help="the sweep's documents")
    parser.add_argument("--number", type=int, default=5, help="documents to compute again")
    asked = parser.parse_args()
    if (asked.results is None) == (asked.sweep is None) or (asked.sweep is None) != (asked.texts is None):
        parser.error("give --results, or --sweep with --texts")
    sweeps = [(asked.sweep, asked.texts, None)] if asked.sweep else list(reproduced(asked.results))
    if not sweeps:
        parser.error(f"{asked.results}: no finished table3; `make reproduce ONLY=table3` makes it")
    for sweep, texts, _ in sweeps:
        if not (sweep / "documents.csv").is_file():
            parser.error(f"{sweep}: no finished sweep; `harness ablate --task long-ppl --out {sweep}` makes it")
        if not texts.exists():
            parser.error(f"{texts}: no such file or folder; name the documents that the sweep read")
    worst = 0.0
    for sweep, texts, model in sweeps:
        table = summary(compare(sweep, texts, model, asked.number))
        print(f"{sweep}\n{table.to_string(index=False, float_format='{:.5g}'.format)}", flush=True)
        worst = max(worst, table["nats"].max())
    print(f"largest difference: {worst:.1e} nats a token")
    sys.exit(int(worst >= ROUNDING))


if __name__ == "__main__":
    main()
